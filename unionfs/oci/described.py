"""The entry that a member of an archive describes; what no file can be is refused.

The marks of unions that a layer brings along are left out: believed, they would be its way to lie about
owners, modes and what is deleted.
"""

import os
from typing import Final

from unionfs.core.ondisk import OVERRIDES
from unionfs.errors import ImageError
from unionfs.oci.entry import Entry, Kind
from unionfs.oci.form import KEPT_PREFIX
from unionfs.oci.tarheader import Member

__all__ = ["MAX_PATH", "described", "implied"]

MAX_PATH: Final = 4095
"""Bytes of the longest path: what every other tool could have made (PATH_MAX less its NUL)."""

MAX_ID: Final = 2**32 - 2


def described(member: Member, path: bytes, notes: list[str]) -> Entry:
    """Return *member* as the entry at *path*; *notes* is told what is left out.

    Raises:
        ImageError: no file can be like that.
    """
    if not (0 <= member.uid <= MAX_ID and 0 <= member.gid <= MAX_ID):
        raise ImageError(f"{path!r} belongs to {member.uid}:{member.gid}, which no user or group can be")
    if not (0 <= member.major < 1 << 12 and 0 <= member.minor < 1 << 20):
        raise ImageError(f"{path!r} is device {member.major}:{member.minor}, which no kernel has")
    if member.kind is Kind.SYMLINK and (not 0 < len(member.link) <= MAX_PATH or b"\0" in member.link):
        raise ImageError(f"symlink {path!r} points nowhere")
    return Entry(
        path=path,
        kind=member.kind,
        mode=0o777 if member.kind is Kind.SYMLINK else member.mode,
        uid=member.uid,
        gid=member.gid,
        mtime_ns=member.mtime_ns,
        size=member.size,
        link=member.link,
        rdev=os.makedev(member.major, member.minor),
        xattrs=_xattrs(member.xattrs, path, notes) if member.xattrs else (),
    )


def _xattrs(said: dict[str, bytes], path: bytes, notes: list[str]) -> tuple[tuple[str, bytes], ...]:
    marks = {name for name in said if name in OVERRIDES or name.startswith(("user.fuseoverlayfs.", KEPT_PREFIX))}
    notes += [f"{os.fsdecode(path)}: {name} is another union's mark, left out" for name in sorted(marks)]
    return tuple(sorted(item for item in said.items() if item[0] not in marks))


def implied(path: bytes, member: Member | None) -> Entry:
    """Make up a directory that nobody describes; it is as old as the file that needs it."""
    return Entry(path=path, kind=Kind.DIR, mode=0o755, mtime_ns=member.mtime_ns if member else 0)
