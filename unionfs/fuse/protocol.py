"""The numbers of the FUSE protocol: opcodes, notifications, flags, and what is negotiated.

Rule 1: every number that the kernel and we agree on is here, its layouts are in ``wire.py``.
Rule 2: nothing here touches a descriptor.

Versions 7.31 (Linux 5.4) to 7.45 are spoken. Newer kernels fall back to what we answer; the
differences between the versions that concern us are few and all of them show in a negotiated flag or
in the opcode itself, so that no handler asks for the version.

Source: Linux include/uapi/linux/fuse.h, protocol 7.45.
"""

import enum
from typing import Final, NamedTuple

__all__ = [
    "MAJOR",
    "MINOR",
    "OLDEST_MINOR",
    "UNIQUE_RESEND",
    "Attribute",
    "Feature",
    "Negotiated",
    "Notify",
    "Opcode",
    "OpenReply",
    "negotiate",
]

MAJOR: Final = 7
MINOR: Final = 45
"""The newest minor version of which every request is known here."""
OLDEST_MINOR: Final = 31
"""Linux 5.4; older kernels lack MAX_PAGES and cached symlinks and directories."""

UNIQUE_RESEND: Final = 1 << 63
"""Set in a request's number when it comes a second time, after `Notify.RESEND`."""


class Opcode(enum.IntEnum):
    """What a request asks for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


UNANSWERED: Final = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT, Opcode.NOTIFY_REPLY})
"""Requests to which no reply may be written."""


class Notify(enum.IntEnum):
    """A message that nobody asked for, from us to the kernel."""

    INVAL_INODE = 2
    INVAL_ENTRY = 3
    STORE = 4
    DELETE = 6
    RESEND = 7


class Feature(enum.IntFlag):
    """What INIT negotiates. Bits from 32 on travel in the second word, and need INIT_EXT."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    ATOMIC_O_TRUNC = 1 << 3
    EXPORT_SUPPORT = 1 << 4
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    FLOCK_LOCKS = 1 << 10
    HAS_IOCTL_DIR = 1 << 11
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    HANDLE_KILLPRIV = 1 << 19
    POSIX_ACL = 1 << 20
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    EXPLICIT_INVAL_DATA = 1 << 25
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    DIRECT_IO_ALLOW_MMAP = 1 << 36
    PASSTHROUGH = 1 << 37
    NO_EXPORT_SUPPORT = 1 << 38
    HAS_RESEND = 1 << 39
    ALLOW_IDMAP = 1 << 40


class OpenReply(enum.IntFlag):
    """How the kernel treats one open file or directory."""

    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    NONSEEKABLE = 1 << 2
    CACHE_DIR = 1 << 3
    STREAM = 1 << 4
    NOFLUSH = 1 << 5
    PARALLEL_DIRECT_WRITES = 1 << 6
    PASSTHROUGH = 1 << 7


class Attribute:
    """Which fields of a SETATTR count.

    Plain numbers, because ten are tested in each SETATTR: a test of an IntFlag makes another one, which takes 1 us.
    """

    MODE: Final = 1 << 0
    UID: Final = 1 << 1
    GID: Final = 1 << 2
    SIZE: Final = 1 << 3
    ATIME: Final = 1 << 4
    MTIME: Final = 1 << 5
    FH: Final = 1 << 6
    ATIME_NOW: Final = 1 << 7
    MTIME_NOW: Final = 1 << 8
    LOCKOWNER: Final = 1 << 9
    CTIME: Final = 1 << 10
    KILL_SUIDGID: Final = 1 << 11


GETATTR_FH: Final = 1 << 0
WRITE_KILL_SUIDGID: Final = 1 << 2
OPEN_KILL_SUIDGID: Final = 1 << 0
FSYNC_FDATASYNC: Final = 1 << 0
SETXATTR_ACL_KILL_SGID: Final = 1 << 0

MAX_WRITE: Final = 1 << 20
"""Bytes of data in one request; the kernel's own limit is 256 pages."""
MAX_BACKGROUND: Final = 64
"""Read-ahead and releases that may wait at once; the kernel's default of 12 is for disks of old."""


class Negotiated(NamedTuple):
    """What both sides agreed on."""

    minor: int
    features: Feature
    max_readahead: int
    """Bytes."""


def negotiate(minor: int, offered: int, max_readahead: int, wanted: Feature) -> Negotiated:
    """Agree with a kernel of version 7.*minor* that offers *offered*.

    >>> negotiate(31, Feature.MAX_PAGES, 4096, Feature.MAX_PAGES | Feature.PASSTHROUGH).features
    <Feature.MAX_PAGES: 4194304>
    """
    if not offered & Feature.INIT_EXT:
        offered &= 0xFFFFFFFF
    return Negotiated(min(minor, MINOR), wanted & offered, max_readahead)
