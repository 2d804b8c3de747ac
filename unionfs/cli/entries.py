"""How a file of an image looks: one line as ls(1) has it, or an object with stable keys."""

import base64
import os
import stat
from datetime import UTC, datetime
from typing import Any

from unionfs.oci.entry import Entry, Kind
from unionfs.oci.merged import Shown

__all__ = ["long_row", "shown_path", "values", "when_ns"]


def shown_path(path: bytes) -> str:
    """Return a path as a process in the image would write it."""
    return "/" + os.fsdecode(path)


def when_ns(ns: int) -> str:
    """Return a time to the nanosecond, in UTC.

    >>> when_ns(1_500_000_000_123_456_789)
    '2017-07-14T02:40:00.123456789Z'
    """
    seconds, rest = divmod(ns, 10**9)
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
    except (OverflowError, ValueError, OSError):
        return f"@{seconds}.{rest:09d}"


def long_row(entry: Entry, name: str) -> list[Any]:
    """Return the columns of ``ls -l``."""
    what = name
    if entry.kind is Kind.SYMLINK:
        what += f" -> {os.fsdecode(entry.link)}"
    size = f"{os.major(entry.rdev)}, {os.minor(entry.rdev)}" if entry.kind in {Kind.CHAR, Kind.BLOCK} else entry.size
    mode = "whiteout" if entry.kind is Kind.WHITEOUT else stat.filemode(entry.st_mode)
    return [mode, entry.uid, entry.gid, size, when_ns(entry.mtime_ns)[:16].replace("T", " "), what]


def values(entry: Entry, layer: int | None = None) -> dict[str, Any]:
    """Return what ``--json`` prints of a file."""
    return {
        "Path": shown_path(entry.path),
        "Type": entry.kind.value,
        "Mode": f"{entry.mode:04o}",
        "Uid": entry.uid,
        "Gid": entry.gid,
        "Size": entry.size,
        "ModTime": when_ns(entry.mtime_ns),
        "Target": os.fsdecode(entry.link) or None,
        "Device": f"{os.major(entry.rdev)}:{os.minor(entry.rdev)}" if entry.rdev else None,
        "Xattrs": {name: base64.b64encode(value).decode() for name, value in entry.xattrs},
        "Opaque": entry.opaque,
        "Digest": f"sha256:{entry.digest.hex()}" if entry.digest else None,
        "Layer": layer,
    }


def values_of(shown: Shown) -> dict[str, Any]:
    """Return what ``--json`` prints of a file in a merged view."""
    return values(shown.entry, shown.layer)
