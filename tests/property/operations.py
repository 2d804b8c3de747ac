"""Strategies for operations, on names that mostly exist.

An operation is drawn with `Place` holes instead of paths, because which paths exist is only known when it
is about to run; `settle` fills them.
"""

import os
import stat
from collections.abc import Sequence
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.property.literals import NAMES
from unionfs.linux import fileops
from unionfs.testing.driver import Op
from unionfs.testing.literal import ACL_ACCESS, ACL_DEFAULT, PAST, acl, capability

__all__ = ["LABELS", "handle_operations", "operations", "settle"]

LABELS = ("h", "k")
NOREPLACE, WHITEOUT = 1, 4


class Place(NamedTuple):
    """The *number*-th path that exists now, or the name *below* it."""

    number: int
    below: str


def settle(op: Sequence[Any], paths: Sequence[str]) -> Op:
    """Replace each `Place` by a path, *paths* being those that exist, the root among them.

    The root itself is not for renaming or removing: it is a mountpoint on one side and not on the
    other; and the kernel forgets its flags at the next mount.
    """
    below = [path for path in paths if path] or ["none"]
    existing = below if op[0] in {"rename", "unlink", "rmdir", "link", "setflags"} else paths
    return tuple(_path(part, paths if part.below else existing) if isinstance(part, Place) else part for part in op)


def _path(place: Place, paths: Sequence[str]) -> str:
    base = paths[place.number % len(paths)]
    return "/".join(part for part in (base, place.below) if part)


OLD = st.builds(Place, st.integers(0, 40), st.just(""))
NEW = st.builds(Place, st.integers(0, 40), st.sampled_from(NAMES))
ANY = st.one_of(OLD, OLD, NEW)
MODES = st.sampled_from([0o644, 0o600, 0o4755, 0o2755, 0o1777, 0o666, 0])
DATA = st.sampled_from([b"", b"x", b"hello", b"z" * 5000])
OFFSETS = st.sampled_from([0, 1, 4096, 100_000])
IDS = st.sampled_from([-1, 0, 7, 1000])
XATTRS = st.sampled_from(["user.k", "user.n", "trusted.t", "trusted.overlay.opaque", "user.overlay.x"])
ABLE = st.sampled_from([capability(), capability(1 << 21)])
CHATTR = st.sampled_from([0, fileops.FS_APPEND, fileops.FS_IMMUTABLE, fileops.FS_NOATIME])
DEVICES = st.sampled_from([0, os.makedev(1, 3)])
XATTR_FLAGS = st.sampled_from([0, 0, os.XATTR_CREATE, os.XATTR_REPLACE])
FLAGS = st.sampled_from([
    os.O_RDONLY, os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_TRUNC, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_CREAT,
    os.O_WRONLY | os.O_CREAT | os.O_EXCL, os.O_RDONLY | os.O_NOFOLLOW,
])  # fmt: skip
ACLS = st.sampled_from([
    acl("u::rwx,u:7:r-x,g::r-x,m::r-x,o::---"), acl("u::rw-,g::r--,o::r--"), acl("u::rwx,g::rwx,m::rwx,o::r-x"),
])  # fmt: skip


def _op(name: str, *parts: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(st.just(name), *parts)


def operations() -> st.SearchStrategy[tuple[Any, ...]]:
    """Draw an operation on names; renames and deletions, where unions go wrong, come more often."""
    rename = _op("rename", OLD, ANY, st.sampled_from([0, 0, 0, 0, 1, 2, 2, 3, WHITEOUT, NOREPLACE | WHITEOUT]))
    remove = st.one_of(_op("unlink", OLD), _op("rmdir", OLD))
    return st.one_of(
        rename,
        rename,
        rename,
        remove,
        remove,
        _op("rmtree", OLD),
        _op("mkdir", NEW, MODES),
        _op("mkdir", NEW, MODES),
        _op("create", NEW, DATA, MODES, st.sampled_from([0, os.O_EXCL, os.O_TRUNC])),
        _op("mknod", NEW, st.sampled_from([stat.S_IFIFO | 0o644, stat.S_IFSOCK | 0o600, stat.S_IFREG | 0o640])),
        _op("mknod", NEW, st.sampled_from([stat.S_IFCHR | 0o640, stat.S_IFBLK | 0o600]), DEVICES),
        _op("symlink", NEW, st.sampled_from(["a", "../b", "none", "b/c"])),
        _op("link", OLD, ANY),
        _op("write", OLD, DATA, OFFSETS, st.sampled_from([0, os.O_APPEND, os.O_TRUNC])),
        _op("truncate", OLD, st.sampled_from([0, 3, 9000])),
        _op("chmod", OLD, MODES),
        _op("chown", OLD, st.sampled_from([0, 7, 1000]), IDS),  # FUSE is not told of one that names neither
        _op("utime", OLD, st.just(PAST), st.sampled_from([PAST, PAST + 5])),
        _op("setxattr", OLD, XATTRS, st.sampled_from([b"", b"1", b"y"]), XATTR_FLAGS),
        _op("chown", OLD, st.just(-1), st.sampled_from([5, 7, 1000])),
        _op("touch", OLD),
        _op("setxattr", OLD, st.just("security.capability"), ABLE),
        _op("setxattr", OLD, st.sampled_from([ACL_ACCESS, ACL_DEFAULT]), ACLS),
        _op("removexattr", OLD, st.one_of(XATTRS, st.sampled_from([ACL_ACCESS, ACL_DEFAULT]))),
        _op("open", st.sampled_from(LABELS), ANY, FLAGS),
        _op("tmpfile", st.sampled_from(LABELS), OLD, st.just(os.O_RDWR), MODES),
        _op("setflags", OLD, CHATTR),
        _op("lstat", ANY),
        st.one_of(
            _op("readlink", OLD),
            _op("getflags", OLD),
            _op("listxattr", OLD),
            _op("getxattr", OLD, XATTRS),
            _op("read", OLD),
        ),
    )


def handle_operations() -> st.SearchStrategy[tuple[Any, ...]]:
    """Draw an operation on a file that may be open."""
    label = st.sampled_from(LABELS)
    return st.one_of(
        _op("pwrite", label, DATA, OFFSETS),
        _op("pwrite", label, DATA, OFFSETS),
        _op("pread", label, st.just(6000), OFFSETS),
        _op("ftruncate", label, st.sampled_from([0, 2, 7000])),
        _op("fchmod", label, MODES),
        _op("fstat", label),
        _op("close", label),
        _op("link_open", label, NEW),
        _op("lseek", label, OFFSETS, st.sampled_from([os.SEEK_DATA, os.SEEK_HOLE])),
        _op("flock", label, st.booleans()),
        _op("ofd_lock", label, st.booleans(), OFFSETS, st.sampled_from([0, 1, 5000])),
        _op("fallocate", label, st.sampled_from([0, 1, 3, 2, 0x10, 0x11]), OFFSETS, st.sampled_from([1, 5000])),
        _op("copy_range", label, label, st.tuples(OFFSETS, OFFSETS), st.sampled_from([1, 4096])),
    )
