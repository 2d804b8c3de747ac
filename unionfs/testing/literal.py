"""Directory trees written down as values: what a test says a layer contains.

    {"etc": {"hosts": "127.0.0.1", "old": WHITEOUT}, "bin": Symlink("usr/bin")}

A plain ``str`` is a regular file, a plain ``dict`` a directory; anything more particular is one of
the classes below. Nothing here touches a disk: `disk.write` does.

Every object is as old as `PAST` unless it says otherwise, so that a tree read back later tells what
was touched since (see `snapshot`).
"""

import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

__all__ = [
    "ACL_ACCESS",
    "ACL_DEFAULT",
    "PAST",
    "WHITEOUT",
    "XWHITEOUT",
    "Attrs",
    "Dir",
    "File",
    "HardLink",
    "Special",
    "Symlink",
    "Tree",
    "TreeNode",
    "acl",
    "capability",
    "fifo",
    "opaque",
    "redirected",
    "socket_file",
    "xwhiteouts",
]

PAST: Final = 1_000_000_000_123_456_789
"""Nanoseconds since 1970: in 2001, with a fraction that a copy rounding to microseconds would lose."""

ACL_ACCESS: Final = "system.posix_acl_access"
ACL_DEFAULT: Final = "system.posix_acl_default"


@dataclass(frozen=True, kw_only=True)
class Attrs:
    """What every object has. *mode* None is 0o755 for a directory, 0o777 for a symlink, else 0o644."""

    mode: int | None = None
    uid: int = 0
    gid: int = 0
    mtime_ns: int = PAST
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class File(Attrs):
    """A regular file. *holes* maps offsets to data written there; *size* sets the length at the end."""

    data: bytes = b""
    size: int | None = None
    holes: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Dir(Attrs):
    """A directory."""

    entries: "Tree" = field(default_factory=dict)


@dataclass(frozen=True)
class Symlink(Attrs):
    """A symbolic link."""

    target: str


@dataclass(frozen=True)
class Special(Attrs):
    """A device, fifo or socket; *kind* is one of the ``S_IF`` bits."""

    kind: int
    rdev: int = 0


@dataclass(frozen=True)
class HardLink:
    """One more name for the file at *to*, a path from the root of the same literal."""

    to: str


TreeNode: TypeAlias = "str | bytes | Tree | File | Dir | Symlink | Special | HardLink"
Tree: TypeAlias = Mapping[str, TreeNode]

WHITEOUT: Final = Special(stat.S_IFCHR, 0, mode=0)
"""The kernel's mark of a deleted name: a character device 0:0."""

XWHITEOUT: Final = File(xattrs={"trusted.overlay.whiteout": b"y"})
"""The other mark: an empty file with an attribute; valid in a directory made by `xwhiteouts`."""


def opaque(entries: Tree) -> Dir:
    """A directory that hides what lies below it."""
    return Dir(entries, xattrs={"trusted.overlay.opaque": b"y"})


def xwhiteouts(entries: Tree) -> Dir:
    """A merging directory in which `XWHITEOUT` files count as whiteouts."""
    return Dir(entries, xattrs={"trusted.overlay.opaque": b"x"})


def redirected(entries: Tree, to: str) -> Dir:
    """A directory whose lower part lies at *to*: a sibling's name, or a path from the root."""
    return Dir(entries, xattrs={"trusted.overlay.redirect": to.encode()})


def fifo(mode: int = 0o644) -> Special:
    """A named pipe."""
    return Special(stat.S_IFIFO, mode=mode)


def socket_file(mode: int = 0o755) -> Special:
    """A socket's name."""
    return Special(stat.S_IFSOCK, mode=mode)


_ACL_TAGS: Final = {"u::": 0x01, "u": 0x02, "g::": 0x04, "g": 0x08, "m": 0x10, "o": 0x20}
_NO_ID: Final = 0xFFFFFFFF


def acl(text: str) -> bytes:
    """Encode ``u::rwx,u:1000:rw-,g::r-x,m::rwx,o::---`` as the value of a ``system.posix_acl_*``.

    Source: struct posix_acl_xattr_entry in Linux include/uapi/linux/posix_acl_xattr.h.

    >>> acl("u::rw-,o::r--").hex(" ", 4)
    '02000000 01000600 ffffffff 20000400 ffffffff'
    """
    entries = []
    for part in text.split(","):
        tag, who, bits = part.split(":")
        code = _ACL_TAGS["u::" if tag == "u" and not who else "g::" if tag == "g" and not who else tag]
        mode = sum(4 >> "rwx".index(bit) for bit in bits if bit != "-")
        entries.append((code, mode, int(who) if who else _NO_ID))
    entries.sort(key=lambda entry: (entry[0], entry[2]))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def capability(bits: int = 1 << 10) -> bytes:
    """Encode a ``security.capability``: permitted and effective *bits*, CAP_NET_BIND_SERVICE by default."""
    return struct.pack("<IIIII", 0x02000001, bits, 0, 0, 0)
