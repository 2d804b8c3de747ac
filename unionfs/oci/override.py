"""Owner, mode and type of a file that an ordinary user cannot give a real one.

The text is what containers/storage and fuse-overlayfs read and write: ``UID:GID:MODE:TYPE``, mode in
octal, device numbers after dashes. Source: containers/storage pkg/idtools, parseOverrideXattr and
FormatContainersOverrideXattrDevice.
"""

import os
import re
import stat
from typing import Final, NamedTuple

from unionfs.errors import BadMark
from unionfs.oci.entry import Kind

__all__ = ["FOREIGN_STATS", "KEPT_PREFIX", "OVERRIDE_STAT", "Override"]

OVERRIDE_STAT: Final = "user.containers.override_stat"
FOREIGN_STATS: Final = ("user.fuseoverlayfs.override_stat", "security.fuseoverlayfs.override_stat")
"""Where other tools keep the same text; read, never written."""

KEPT_PREFIX: Final = "user.containers.override_"
"""Before the name of an attribute that only root may set: how a user keeps it."""

_TYPES: Final = {
    Kind.FILE: "file",
    Kind.DIR: "dir",
    Kind.SYMLINK: "symlink",
    Kind.FIFO: "pipe",
    Kind.SOCKET: "socket",
    Kind.BLOCK: "block",
    Kind.CHAR: "char",
}
_KINDS: Final = {text: kind for kind, text in _TYPES.items()}
_TEXT: Final = re.compile(rb"([0-9]{1,10}):([0-9]{1,10}):([0-7]{1,6})(?::([a-z]+)(?:-?([0-9]+)[-:]([0-9]+))?.*)?")


class Override(NamedTuple):
    """What a file would be if its maker had been root."""

    uid: int
    gid: int
    mode: int
    kind: Kind | None = None
    """None: what the file is anyway."""
    rdev: int = 0

    def encode(self) -> bytes:
        """Return the attribute's value.

        >>> Override(0, 5, 0o644, Kind.CHAR, os.makedev(1, 3)).encode()
        b'0:5:0644:char-1-3'
        """
        kind = f":{_TYPES[self.kind]}" if self.kind else ""
        if self.kind in {Kind.CHAR, Kind.BLOCK}:
            kind += f"-{os.major(self.rdev)}-{os.minor(self.rdev)}"
        return f"{self.uid}:{self.gid}:{self.mode:04o}{kind}".encode()

    @classmethod
    def decode(cls, value: bytes) -> "Override":
        """Read the attribute's value; also fuse-overlayfs 2.0's way of writing devices.

        >>> Override.decode(b"0:0:020644:char1:3") == Override.decode(b"0:0:0644:char-1-3")
        True

        Raises:
            BadMark: it says something else.
        """
        found = _TEXT.fullmatch(value.rstrip(b"\0"))
        if not found or (found[4] and found[4].decode() not in _KINDS):
            raise BadMark(f"override_stat {value!r}")
        uid, gid, mode, kind, major, minor = found.groups()
        return cls(
            uid=int(uid),
            gid=int(gid),
            mode=stat.S_IMODE(int(mode, 8)),
            kind=_KINDS[kind.decode()] if kind else None,
            rdev=os.makedev(int(major), int(minor)) if major else 0,
        )
