"""Mounts of our own: copies of a mount that are in no list and have other attributes than the original.

A directory opened in a copy keeps it for as long as it is open. Nothing is renamed or linked between two mounts, of
one file system or not, so what belongs together is opened in one copy. What is mounted below is not in it.

Source: open_tree(2) and mount_setattr(2), Linux 5.12; include/uapi/linux/mount.h.
"""

import ctypes
import os
import struct
from typing import Final

__all__ = ["NOATIME", "NODIRATIME", "RDONLY", "RELATIME", "STRICTATIME", "copied"]

RDONLY: Final = 0x01
RELATIME: Final = 0x00
NOATIME: Final = 0x10
STRICTATIME: Final = 0x20
NODIRATIME: Final = 0x80
"""MOUNT_ATTR_*"""

_TIMES: Final = 0x70 | NODIRATIME
"""What says which access times change; always said anew."""

_OPEN_TREE: Final = 428
_MOUNT_SETATTR: Final = 442
_CLONE: Final = 1
_AT_EMPTY_PATH: Final = 0x1000
_MS_PRIVATE: Final = 1 << 18

_libc: Final = ctypes.CDLL(None, use_errno=True)


def copied(directory: int, attributes: int) -> int:
    """Copy the mount of *directory* from there on; return a descriptor of the same directory in the copy.

    It is a mere place. Once it is closed, nothing more can be said of the copy, but what was opened in it stays good.

    Raises:
        OSError: EPERM, EINVAL: we may not mount here, or not change what was mounted for us; ENOSYS.
    """
    tree = _checked(_libc.syscall(_OPEN_TREE, directory, b"", _CLONE | _AT_EMPTY_PATH | os.O_CLOEXEC))
    wanted = struct.pack("=QQQQ", attributes, _TIMES, _MS_PRIVATE, 0)
    try:
        _checked(_libc.syscall(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, wanted, ctypes.c_size_t(len(wanted))))
    except OSError:
        os.close(tree)
        raise
    return tree


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
