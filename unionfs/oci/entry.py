"""One file of a layer, as a value.

Tars are read into entries, directories are scanned into entries, and all analysis is about entries.

Rule 1: a path is relative to the layer's root, clean (no empty, ``.`` or ``..`` component), and bytes.
Rule 2: nothing here touches a file or an archive.
"""

import enum
import stat
from typing import Final

from msgspec import Struct

__all__ = ["ROOT", "Entry", "Kind", "parent_of"]

ROOT: Final = b""
"""The path of a layer's root directory."""


class Kind(enum.Enum):
    """What a file is; WHITEOUT and HARDLINK are what layers add to what directories hold."""

    FILE = "file"
    DIR = "dir"
    SYMLINK = "symlink"
    CHAR = "char"
    BLOCK = "block"
    FIFO = "fifo"
    SOCKET = "socket"
    HARDLINK = "hardlink"
    """Another name for the file at ``link``."""
    WHITEOUT = "whiteout"
    """The name is deleted from the layers below."""


_TYPE_BITS: Final = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIR: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.CHAR: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.HARDLINK: stat.S_IFREG,
    Kind.WHITEOUT: stat.S_IFCHR,
}
_KINDS: Final = {bits: kind for kind, bits in _TYPE_BITS.items() if kind not in {Kind.HARDLINK, Kind.WHITEOUT}}


class Entry(Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """A name in a layer. Times in nanoseconds, sizes in bytes."""

    path: bytes
    kind: Kind
    mode: int = 0o644
    """Permission bits with set-id and sticky, without the type."""
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    """Of a file's content; 0 for everything else."""
    link: bytes = b""
    """Where a symlink points, or the path a hard link shares its file with."""
    rdev: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()
    """Sorted by name, as users see them: without any union's own marks."""
    opaque: bool = False
    """A directory that hides everything below it."""
    digest: bytes = b""
    """sha256 of a file's content, 32 bytes; empty where nobody read it."""

    @property
    def name(self) -> bytes:
        """The last component."""
        return self.path.rpartition(b"/")[2]

    @property
    def st_mode(self) -> int:
        """Mode with the type bits, as stat(2) has it."""
        return _TYPE_BITS[self.kind] | self.mode

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return self.kind is Kind.DIR

    @staticmethod
    def kind_of(st_mode: int) -> Kind:
        """Return the kind of a file with that mode."""
        return _KINDS[stat.S_IFMT(st_mode)]


def parent_of(path: bytes) -> bytes:
    """Return the path of the directory that holds *path*; the root's own is the root."""
    return path.rpartition(b"/")[0]
