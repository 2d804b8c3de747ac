"""File handles: a name for a file that survives renames and remounts.

Source: name_to_handle_at(2), open_by_handle_at(2); Linux include/uapi/linux/fs.h for FS_IOC_GETFSUUID.
"""

import ctypes
import errno
import fcntl
import os
import struct
import threading
from typing import Final, NamedTuple

__all__ = ["FileHandle", "filesystem_uuid", "handle_of", "open_handle"]

_MAX_HANDLE: Final = 128
"""MAX_HANDLE_SZ: bytes of the longest handle."""

_FS_IOC_GETFSUUID: Final = 0x80111500
"""_IOR(0x15, 0, struct fsuuid2): a length byte and 16 bytes; since Linux 6.9."""

_AT_EMPTY_PATH: Final = 0x1000

_libc = ctypes.CDLL(None, use_errno=True)


_HEAD: Final = struct.Struct("=Ii")
"""handle_bytes and handle_type of struct file_handle; the handle itself follows."""

_mount_id: Final = ctypes.byref(ctypes.c_int())
"""Where the kernel writes the number of the mount, which nobody reads."""


class _Room(threading.local):
    """A struct file_handle of each thread's own: to make one takes longer than to have it filled."""

    def __init__(self) -> None:
        buffer = ctypes.create_string_buffer(_HEAD.size + _MAX_HANDLE)
        self.place = ctypes.byref(buffer)
        self.view = memoryview(buffer).cast("B")


_room: Final = _Room()


class FileHandle(NamedTuple):
    """One file of a filesystem, as the filesystem itself encodes it."""

    type: int
    data: bytes


def handle_of(dirfd: int, name: bytes = b"") -> FileHandle | None:
    """Return the handle of *name* (of *dirfd* itself if empty), or None if the filesystem has none."""
    view = _room.view
    _HEAD.pack_into(view, 0, _MAX_HANDLE, 0)
    flags = 0 if name else _AT_EMPTY_PATH
    if _libc.name_to_handle_at(dirfd, name, _room.place, _mount_id, flags) < 0:
        code = ctypes.get_errno()
        if code in {errno.EOPNOTSUPP, errno.EOVERFLOW}:
            return None
        raise OSError(code, os.strerror(code), os.fsdecode(name))
    size, kind = _HEAD.unpack_from(view)
    return FileHandle(kind, bytes(view[_HEAD.size : _HEAD.size + size]))


def open_handle(mountfd: int, handle: FileHandle, flags: int = os.O_PATH) -> int | None:
    """Open the file that *handle* names on the filesystem of *mountfd*.

    Returns None if it is gone, if the handle was never one of this filesystem, or if we lack the
    privilege (CAP_DAC_READ_SEARCH).
    """
    if len(handle.data) > _MAX_HANDLE:
        return None
    raw = _HEAD.pack(len(handle.data), handle.type) + handle.data
    fd = _libc.open_by_handle_at(mountfd, raw, flags | os.O_CLOEXEC)
    if fd < 0:
        code = ctypes.get_errno()
        if code in {errno.ESTALE, errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT, errno.ELOOP, errno.ENXIO}:
            return None
        raise OSError(code, os.strerror(code))
    return int(fd)


def filesystem_uuid(fd: int) -> bytes:
    """Return the 16 bytes that name the filesystem of *fd*; zeros where it has no name or hides it."""
    answer = bytearray(17)
    try:
        fcntl.ioctl(fd, _FS_IOC_GETFSUUID, answer)
    except OSError as exc:
        if exc.errno not in {errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF}:
            raise
        return bytes(16)
    return bytes(answer[1:17])
