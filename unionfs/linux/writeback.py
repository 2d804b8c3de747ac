"""Whether a filesystem failed to write something back: a question that only a volatile mount of overlayfs answers.

syncfs(2) would tell as well, but writes everything through first. An overlay mounted ``volatile`` notes how many
failures its upper filesystem has seen, and answers every later fsync with the next one, for good, and writes nothing.
So one is made here, of empty directories, that is in no list of mounts; it costs 2 ms, and a question a microsecond.

Source: Linux fs/overlayfs/super.c, ovl_sync_status(); fsopen(2), fsconfig(2), fsmount(2), Linux 5.11 for its options.
"""

import ctypes
import errno
import os
from typing import Final

from unionfs.linux import at

__all__ = ["FAILURES", "watch"]

FAILURES: Final = frozenset({errno.EIO, errno.ENOSPC})
"""What it says of itself: a bad block, or no block, for what it had taken."""

_FSOPEN: Final = 430
_FSCONFIG: Final = 431
_FSMOUNT: Final = 432
_CLOEXEC: Final = 1
_SET_FLAG: Final = 0
_SET_STRING: Final = 1
_CMD_CREATE: Final = 6
"""Source: Linux include/uapi/linux/mount.h."""

_libc: Final = ctypes.CDLL(None, use_errno=True)


def watch(directory: int) -> int:
    """Return a descriptor whose fsync fails once the filesystem of *directory* has failed to write something back.

    *directory* is empty; what is made in it may be removed afterwards.

    Raises:
        OSError: EPERM, EINVAL, ENODEV: this kernel, or we, cannot mount it over this filesystem. EIO: it has failed
            before, and nobody was told.
    """
    context = _checked(_libc.syscall(_FSOPEN, b"overlay", _CLOEXEC))
    try:
        for name in (b"lowerdir", b"upperdir", b"workdir"):
            os.mkdir(name, 0o700, dir_fd=directory)
            _configure(context, _SET_STRING, name, at.proc_path(directory, name))
        for flag in (b"volatile", b"userxattr"):  # the latter is what root of a user namespace may mount it with
            _configure(context, _SET_FLAG, flag, None)
        _configure(context, _CMD_CREATE, None, None)
        mount = _checked(_libc.syscall(_FSMOUNT, context, _CLOEXEC, 0))
    finally:
        os.close(context)
    try:
        return os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount)
    finally:
        os.close(mount)


def _configure(context: int, command: int, name: bytes | None, value: bytes | None) -> None:
    _checked(_libc.syscall(_FSCONFIG, context, command, name, value, 0))


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
