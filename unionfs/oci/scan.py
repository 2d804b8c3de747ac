"""Read a directory as a layer: whatever form its marks are in, entries come out.

`found` walks and reads; `interpret` decides, from values alone, what a file on disk means. Every
dialect is understood: char 0:0 and attribute whiteouts, ``.wh.`` files, opaque marks of the kernel and
of fuse-overlayfs, owners kept in ``override_stat``. What an entry cannot say (redirects, metacopy) is in
`Marks`, for whoever has the layers below to resolve it.
"""

import os
from collections.abc import Iterator
from typing import NamedTuple

from msgspec.structs import replace

from unionfs.core.ondisk import (
    FOREIGN_OPAQUE,
    META_PREFIX,
    OPAQUE,
    OPAQUE_FILE,
    OVERRIDES,
    TRUSTED,
    USER,
    WHITEOUT_PREFIX,
    XattrSet,
    decode_override,
    is_whiteout,
)
from unionfs.errors import BadMark
from unionfs.linux import at, xattr
from unionfs.oci.entry import ROOT, Entry, Kind
from unionfs.oci.form import KEPT_PREFIX

__all__ = ["ANY_MARKS", "Found", "Marks", "found", "interpret", "scan"]

ANY_MARKS = (TRUSTED, USER)
"""Both flavours, for a directory of unknown origin."""


class Found(NamedTuple):
    """A file as it is on disk."""

    path: bytes
    stat: os.stat_result
    xattrs: dict[str, bytes]
    link: bytes
    """Where a symlink points."""
    names: tuple[bytes, ...] = ()
    """What a directory holds, sorted."""


class Marks(NamedTuple):
    """What a union has noted about a file, beyond what an `Entry` says."""

    redirect: bytes | None = None
    """Where the layers below keep what is merged here."""
    metacopy: bool = False
    """The content is still in the layers below."""


def found(root: int) -> Iterator[Found]:
    """Yield every file below *root*, a descriptor, and the root itself: sorted, parents first.

    Any depth costs one descriptor. The tree may change meanwhile: what vanishes is left out.

    Raises:
        OSError: a directory was moved away while it was being read.
    """
    fd = os.dup(root)
    try:
        file = _found(fd, b".", ROOT)._replace(names=_names(fd))
        yield file
        trail = [(_key(fd), ROOT, iter(file.names))]
        while trail:
            _, path, names = trail[-1]
            name = next(names, None)
            if name is None:
                trail.pop()
                fd = _up(fd, trail[-1][0]) if trail else fd
                continue
            try:
                file = _found(fd, name, path + b"/" + name if path else name)
                if (file.stat.st_mode & 0o170000) == 0o040000:
                    fd = _swap(fd, at.open_directory(fd, name))
                    file = file._replace(names=_names(fd))
                    trail.append((_key(fd), file.path, iter(file.names)))
            except FileNotFoundError:
                continue
            yield file
    finally:
        os.close(fd)


def _names(fd: int) -> tuple[bytes, ...]:
    return tuple(sorted(map(os.fsencode, os.listdir(fd))))


def _key(fd: int) -> tuple[int, int]:
    st = os.fstat(fd)
    return st.st_dev, st.st_ino


def _swap(old: int, new: int) -> int:
    os.close(old)
    return new


def _up(fd: int, expected: tuple[int, int]) -> int:
    above = at.open_directory(fd, b"..")
    if _key(above) != expected:
        os.close(above)
        raise OSError("a directory was moved away while it was being read")
    return _swap(fd, above)


def _found(fd: int, name: bytes, path: bytes) -> Found:
    st = at.lstat(fd, name)
    target = at.proc_path(fd, name)
    attributes = {key: value for key in xattr.names(target) if (value := xattr.get(target, key)) is not None}
    link = os.readlink(name, dir_fd=fd) if (st.st_mode & 0o170000) == 0o120000 else b""
    return Found(path, st, attributes, link)


def interpret(file: Found, flavours: tuple[XattrSet, ...] = ANY_MARKS) -> tuple[Entry, Marks]:
    """Return what *file* means in a layer. A ``.wh.`` file is a whiteout at the name that it hides.

    Raises:
        BadMark: an owner kept in an attribute is none.
    """
    st, raw = file.stat, file.xattrs
    name = file.path.rpartition(b"/")[2]
    marks = Marks(
        redirect=next((raw[f.redirect] for f in flavours if f.redirect in raw), None),
        metacopy=any(f.metacopy in raw for f in flavours),
    )
    if name.startswith(WHITEOUT_PREFIX) and not name.startswith(META_PREFIX):
        hidden = file.path[: len(file.path) - len(name)] + name[len(WHITEOUT_PREFIX) :]
        return Entry(path=hidden, kind=Kind.WHITEOUT, mode=0), Marks()
    if is_whiteout(st) or (not st.st_size and any(f.whiteout in raw for f in flavours)):
        return Entry(path=file.path, kind=Kind.WHITEOUT, mode=0), Marks()
    kind = Entry.kind_of(st.st_mode)
    entry = Entry(
        path=file.path,
        kind=kind,
        mode=st.st_mode & 0o7777,
        uid=st.st_uid,
        gid=st.st_gid,
        mtime_ns=st.st_mtime_ns,
        size=st.st_size if kind is Kind.FILE else 0,
        link=file.link,
        rdev=st.st_rdev,
        xattrs=shown_xattrs(raw, flavours),
        opaque=kind is Kind.DIR and (any(raw.get(f.opaque) == OPAQUE for f in flavours) or FOREIGN_OPAQUE in raw),
    )
    return _overridden(entry, raw), marks


def _overridden(entry: Entry, raw: dict[str, bytes]) -> Entry:
    """Believe what a user's union kept in place of owner, mode and type."""
    name = next((name for name in OVERRIDES if name in raw), None)
    if name is None:
        return entry
    kept = decode_override(raw[name])
    kind = Entry.kind_of(kept.mode) if kept.mode & 0o170000 else entry.kind
    if (kind is Kind.DIR) is not (entry.kind is Kind.DIR):
        raise BadMark(f"{name} makes a {kind.value} of a {entry.kind.value}")
    size = entry.size if kind is Kind.FILE else 0
    mode = kept.mode & 0o7777
    return replace(entry, uid=kept.uid, gid=kept.gid, mode=mode, kind=kind, rdev=kept.rdev, size=size)


def shown_xattrs(raw: dict[str, bytes], flavours: tuple[XattrSet, ...]) -> tuple[tuple[str, bytes], ...]:
    """Return the attributes that users of the union see, sorted."""
    shown: dict[str, bytes] = {}
    for name, value in raw.items():
        if name in OVERRIDES or any(f.is_private(name) for f in flavours):
            continue
        for flavour in flavours:
            name = flavour.shown(name)  # noqa: PLW2901 - one of them knows it
        shown[name.removeprefix(KEPT_PREFIX)] = value
    return tuple(sorted(shown.items()))


def scan(root: int, flavours: tuple[XattrSet, ...] = ANY_MARKS) -> Iterator[tuple[Entry, Marks]]:
    """Yield the layer in the directory *root*, a descriptor: sorted, parents first, hard links recognised.

    ``.wh..wh.`` files are left out; the one that makes its directory opaque does so in the
    directory's entry.
    """
    names: dict[tuple[int, int], bytes] = {}
    for file in found(root):
        name = file.path.rpartition(b"/")[2]
        if name.startswith(META_PREFIX):
            continue
        entry, marks = interpret(file, flavours)
        if entry.kind is Kind.DIR:
            if OPAQUE_FILE in file.names:
                entry = replace(entry, opaque=True)
        elif file.stat.st_nlink > 1 and entry.kind is not Kind.WHITEOUT:
            first = names.setdefault((file.stat.st_dev, file.stat.st_ino), entry.path)
            if first != entry.path:
                entry = replace(entry, kind=Kind.HARDLINK, link=first)
        yield entry, marks
