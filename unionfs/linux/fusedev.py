"""/dev/fuse beyond read and write: lending the kernel a file to pass requests through to, and pipes to it.

Source: Linux include/uapi/linux/fuse.h (FUSE_DEV_IOC_*), fs/fuse/backing.c; capget(2); fcntl(2).
"""

import ctypes
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

__all__ = ["backing_close", "backing_open", "widen_pipe", "without_fsetid"]

BACKING_OPEN: Final = 0x4010E501
"""_IOW(229, 1, struct fuse_backing_map)"""
BACKING_CLOSE: Final = 0x4004E502
"""_IOW(229, 2, uint32_t)"""

PIPE_BYTES: Final = 1 << 20
"""What an unprivileged pipe may have at most, by default (/proc/sys/fs/pipe-max-size)."""

_MAP: Final = struct.Struct("=iIQ")
_ID: Final = struct.Struct("=i")
_CAP_FSETID: Final = 1 << 4
_CAP_VERSION_3: Final = 0x20080522

_libc: Final = ctypes.CDLL(None, use_errno=True)


def backing_open(device: int, fd: int) -> int:
    """Lend the file open as *fd* to the mount behind *device*; returns the number to name it by.

    The kernel acts on the file with the credentials that this thread has now.

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN in the initial user namespace, or without passthrough
            negotiated; ELOOP if the file's own file system is stacked; EOPNOTSUPP, ENOTTY, EINVAL
            where the kernel or the file system knows nothing of this.
    """
    return int(fcntl.ioctl(device, BACKING_OPEN, bytearray(_MAP.pack(fd, 0, 0))))


def backing_close(device: int, backing: int) -> None:
    """Take the number back. Files that are open through it are not disturbed."""
    fcntl.ioctl(device, BACKING_CLOSE, _ID.pack(backing))


def widen_pipe(fd: int) -> int:
    """Make a pipe as wide as is allowed; returns how many bytes it takes."""
    with suppress(PermissionError):  # the user has many wide pipes already
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return int(fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ))


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))


class _Capabilities:
    """The capability sets of the calling thread, kept in the buffers that the system calls use."""

    def __init__(self) -> None:
        self._header = _Header(_CAP_VERSION_3, 0)
        self._sets = (_Sets * 2)()
        self._call("capget")

    def effective(self, bits: int) -> None:
        """Make the low word of the effective set *bits*."""
        self._sets[0].effective = bits
        self._call("capset")

    @property
    def low(self) -> int:
        return int(self._sets[0].effective)

    def _call(self, name: str) -> None:
        if getattr(_libc, name)(ctypes.byref(self._header), self._sets):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


@contextmanager
def without_fsetid() -> Iterator[None]:
    """The calling thread without CAP_FSETID, for the length of the block.

    A file lent within is written to as if by somebody without that capability, so that each write
    takes the set-user-id bit off the file as it must for an ordinary user.
    """
    mine = _Capabilities()
    before = mine.low
    mine.effective(before & ~_CAP_FSETID)
    try:
        yield
    finally:
        mine.effective(before)
