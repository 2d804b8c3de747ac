"""What a request carries besides the names: who asks, which attributes change, what a listing holds."""

from typing import Final, NamedTuple

__all__ = ["NOW", "Caller", "Changes", "DirEntry"]

NOW: Final = -1
"""As a time in `Changes`: the current time, taken when the change is made."""


class Caller(NamedTuple):
    """On whose behalf a new object is made: it becomes the owner."""

    uid: int
    gid: int
    umask: int = 0
    """Applied by the union, unless the parent directory has a default ACL, which replaces it."""
    pid: int = 0


class Changes(NamedTuple):
    """The attributes a setattr changes; None leaves one alone. Times are nanoseconds since 1970."""

    mode: int | None = None
    """Permission bits (07777)."""
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    """Bytes."""
    atime_ns: int | None = None
    mtime_ns: int | None = None
    kill_priv: bool = False
    """Drop set-user-id, and set-group-id where group-execute is set, because an unprivileged caller truncates."""


class DirEntry(NamedTuple):
    """One name of a listing."""

    name: bytes
    ino: int
    """The number a stat of the name would show."""
    type: int
    """The file type bits of the mode, shifted down: ``mode >> 12``."""
