"""Calls on an open file that Python has no name for: fallocate(2) with its modes, FS_IOC_*, syncfs(2)."""

import ctypes
import fcntl
import os
import struct
from typing import Final

__all__ = [
    "FS_APPEND",
    "FS_IMMUTABLE",
    "FS_NOATIME",
    "FS_SYNC",
    "appends",
    "fallocate",
    "get_flags",
    "set_flags",
    "syncfs",
]

_FS_IOC_GETFLAGS: Final = 0x80086601
_FS_IOC_SETFLAGS: Final = 0x40086602
"""The file flags of chattr(1). Source: Linux include/uapi/linux/fs.h. The argument is an int."""

FS_SYNC: Final = 0x8
FS_IMMUTABLE: Final = 0x10
FS_APPEND: Final = 0x20
FS_NOATIME: Final = 0x80

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def appends(fd: int) -> bool:
    """Tell whether what is written to the open file goes to its end, whatever the offset is (O_APPEND)."""
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2); *mode* is FALLOC_FL_* (0 allocates)."""
    if _libc.fallocate(fd, mode, offset, length) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def get_flags(fd: int) -> int:
    """Return the FS_*_FL flags (append-only, immutable ...)."""
    answer = bytearray(8)
    fcntl.ioctl(fd, _FS_IOC_GETFLAGS, answer)
    return int(struct.unpack_from("<i", answer)[0])


def set_flags(fd: int, flags: int) -> None:
    fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("<q", flags))


def syncfs(fd: int) -> None:
    """Write the whole filesystem of *fd* through."""
    if _libc.syncfs(fd) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
