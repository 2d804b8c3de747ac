"""/dev/fuse beyond read and write: lending the kernel a file to pass requests through to, and what goes with it.

Source: Linux include/uapi/linux/fuse.h (FUSE_DEV_IOC_*), fs/fuse/backing.c; fcntl(2).
"""

import fcntl
import struct
from contextlib import suppress
from typing import Final

__all__ = ["backing_close", "backing_open", "copied_above", "widen_pipe"]

BACKING_OPEN: Final = 0x4010E501
"""_IOW(229, 1, struct fuse_backing_map)"""
BACKING_CLOSE: Final = 0x4004E502
"""_IOW(229, 2, uint32_t)"""

PIPE_BYTES: Final = 1 << 20
"""What an unprivileged pipe may have at most, by default (/proc/sys/fs/pipe-max-size)."""

_MAP: Final = struct.Struct("=iIQ")
_ID: Final = struct.Struct("=i")


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


def copied_above(fd: int, other: int) -> int:
    """Return a copy of *fd* under a number above *other*: who is killed closes it later."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, other + 1)
