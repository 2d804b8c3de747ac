"""A descriptor of a directory and one name: the only way the union touches a file.

No function here takes a path, so none can be led astray by a symlink in the middle of one, none is
limited by PATH_MAX, and none costs more in a deep tree than in a shallow one. The last component is
never followed either.
"""

import contextlib
import ctypes
import errno
import fcntl
import itertools
import os
import resource
import struct
from collections.abc import Iterator, Sequence
from typing import Final

__all__ = [
    "AT_EMPTY_PATH",
    "RENAME_EXCHANGE",
    "RENAME_NOREPLACE",
    "RENAME_WHITEOUT",
    "birth_time_ns",
    "descriptor_limit",
    "exists",
    "find",
    "is_protected",
    "itself",
    "link_descriptor",
    "lstat",
    "make_room",
    "mount_number",
    "open_below",
    "open_directory",
    "open_file",
    "open_path",
    "open_unnoticed",
    "proc_path",
    "rename",
    "scan",
    "set_noticed",
    "set_times",
]

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
RENAME_WHITEOUT: Final = 4
"""Flags of renameat2(2). Source: Linux include/uapi/linux/fs.h."""

AT_EMPTY_PATH: Final = 0x1000
_AT_FDCWD: Final = -100
_AT_SYMLINK_FOLLOW: Final = 0x400
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_STATX_BTIME: Final = 0x800
_STATX_MNT_ID: Final = 0x1000
_STATX_ATTR_PROTECTED: Final = 0x30
_STATX_ATTR_IMMUTABLE: Final = 0x10
_BTIME_OFFSET: Final = 80
_MNT_ID_OFFSET: Final = 144
"""Where stx_btime and stx_mnt_id are. Source: struct statx, Linux include/uapi/linux/stat.h."""

_FILE: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_BATCH: Final = 1024
"""Entries of a directory that are read at once: to resume a generator for each would cost more than to read it."""
_PATH_MAX: Final = 4096
_OPENAT2: Final = 437
_BELOW: Final = struct.pack("=QQQ", _DIRECTORY, 0, 0x04 | 0x08)
"""struct open_how: RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH. Source: Linux include/uapi/linux/openat2.h."""

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, *names: bytes) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), *map(os.fsdecode, names))


def lstat(dirfd: int, name: bytes) -> os.stat_result:
    """Return the attributes of *name*.

    Raises:
        FileNotFoundError: there is no such name.
    """
    return os.stat(name, dir_fd=dirfd, follow_symlinks=False)


def find(dirfd: int, name: bytes) -> os.stat_result | None:
    """Return the attributes of *name*, or None if there is no such name."""
    try:
        return os.stat(name, dir_fd=dirfd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def birth_time_ns(dirfd: int, name: bytes) -> int | None:
    """Return when *name* was made (*dirfd* itself if empty), in nanoseconds; None if the filesystem does not say."""
    answered, _ = _statx(dirfd, name, _STATX_BTIME)
    if not answered & _STATX_BTIME:
        return None
    seconds, nanoseconds = struct.unpack_from("<qI", _statx_answer, _BTIME_OFFSET)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def is_protected(dirfd: int, name: bytes) -> bool:
    """Tell whether *name* is append-only or immutable (chattr +a, +i)."""
    return bool(_statx(dirfd, name, 0)[1] & _STATX_ATTR_PROTECTED)


def is_immutable(dirfd: int, name: bytes) -> bool:
    """Tell whether *name* (*dirfd* itself if empty) is immutable (chattr +i)."""
    return bool(_statx(dirfd, name, 0)[1] & _STATX_ATTR_IMMUTABLE)


def mount_number(fd: int) -> int:
    """Return the number that the mount of *fd* has in mountinfo.

    Raises:
        OSError: ENOSYS, the kernel does not say (before Linux 5.8).
    """
    answered, _ = _statx(fd, b"", _STATX_MNT_ID)
    if not answered & _STATX_MNT_ID:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return int(struct.unpack_from("=Q", _statx_answer, _MNT_ID_OFFSET)[0])


_STATX_HEAD: Final = struct.Struct("=I4xQ")
"""The head of ``struct statx``: stx_mask and stx_attributes. Source: Linux include/uapi/linux/stat.h."""

_statx_answer: Final = ctypes.create_string_buffer(256)
_statx_address: Final = ctypes.byref(_statx_answer)


def _statx(dirfd: int, name: bytes, mask: int) -> tuple[int, int]:
    """Fill `_statx_answer` and return its stx_mask and stx_attributes.

    Like all that names a file, for the union's own thread: the answer is shared.
    """
    flags = _AT_SYMLINK_NOFOLLOW | (0 if name else AT_EMPTY_PATH)
    if _libc.statx(dirfd, name, flags, mask, _statx_address) < 0:
        _check(-1, name)
    answered, attributes = _STATX_HEAD.unpack_from(_statx_answer)
    return answered, attributes


def exists(dirfd: int, name: bytes) -> bool:
    """Tell whether *name* is there; a third of the cost of a `find` that finds nothing."""
    return os.access(name, os.F_OK, dir_fd=dirfd, follow_symlinks=False)


def open_directory(dirfd: int, name: bytes) -> int:
    """Open the directory *name* for looking into: for reading if allowed, else as a mere place.

    Its access time is left alone where the kernel lets us.

    Raises:
        NotADirectoryError: *name* is something else, or a symlink.
    """
    try:
        return os.open(name, _DIRECTORY | os.O_NOATIME, dir_fd=dirfd)
    except PermissionError:  # not the owner (no O_NOATIME), or not readable
        try:
            return os.open(name, _DIRECTORY, dir_fd=dirfd)
        except PermissionError:
            return os.open(name, _DIRECTORY | os.O_PATH, dir_fd=dirfd)


def open_below(dirfd: int, names: Sequence[bytes]) -> int | None:
    """Open the directory that *names* lead to, each in the one before, with a call for each 4,000 bytes of them.

    None where that does not work (before Linux 5.6, or not allowed); to go down by `open_directory` will, or says why.
    """
    fd, rest = dirfd, list(names)
    while rest:
        path = rest.pop(0)
        while rest and len(path) + len(rest[0]) < _PATH_MAX - 1:
            path += b"/" + rest.pop(0)
        below = _libc.syscall(_OPENAT2, fd, path, _BELOW, ctypes.c_size_t(len(_BELOW)))
        if fd != dirfd:
            os.close(fd)
        if below < 0:
            return None
        fd = below
    set_noticed(fd, noticed=False)
    return fd


def open_file(dirfd: int, name: bytes, flags: int, mode: int = 0) -> int:
    """Open *name*; a symlink is refused, and a FIFO put in a file's place never blocks."""
    return os.open(name, flags | _FILE, mode, dir_fd=dirfd)


def open_unnoticed(dirfd: int, name: bytes) -> int:
    """Open *name* for reading; its access time is left alone where the kernel lets us."""
    try:
        return os.open(name, os.O_RDONLY | os.O_NOATIME | _FILE, dir_fd=dirfd)
    except PermissionError:  # not the owner
        return os.open(name, os.O_RDONLY | _FILE, dir_fd=dirfd)


def set_noticed(fd: int, *, noticed: bool) -> None:
    """Say whether listing the open directory *fd* is to change its access time, where the kernel lets us."""
    with contextlib.suppress(OSError):  # not the owner, or a mere place
        fcntl.fcntl(fd, fcntl.F_SETFL, 0 if noticed else os.O_NOATIME)


def open_path(dirfd: int, name: bytes) -> int:
    """Hold on to whatever *name* is, even a symlink, without opening it."""
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dirfd)


def proc_path(dirfd: int, name: bytes) -> bytes:
    """Spell *name* as a path, for the calls that have no dirfd form (the xattr family)."""
    return b"/proc/self/fd/%d/%s" % (dirfd, name)


def itself(fd: int) -> bytes:
    """Spell the file behind *fd* as a path to be followed: works for mere places, and whatever its mode is."""
    return b"/proc/self/fd/%d" % fd


def set_times(fd: int, times_ns: tuple[int, int]) -> None:
    """Set the times of access and change of the file behind *fd*: by its name in /proc it takes four times as long."""
    try:
        os.utime(fd, ns=times_ns)
    except OSError as exc:
        if exc.errno != errno.EBADF:  # a mere place
            raise
        os.utime(itself(fd), ns=times_ns)


def scan(dirfd: int) -> Iterator[os.DirEntry[str]]:
    """Return the entries of an open directory, unordered, without ``.`` and ``..``.

    A descriptor that is a mere place is opened again for reading first.
    """
    return itertools.chain.from_iterable(_batches(dirfd))


def _batches(dirfd: int) -> Iterator[list[os.DirEntry[str]]]:
    try:
        with os.scandir(dirfd) as entries:
            while batch := list(itertools.islice(entries, _BATCH)):
                yield batch
    except OSError as exc:
        if exc.errno != errno.EBADF:  # only the first entry can fail with it: so nothing was yielded yet
            raise
        fd = os.open(b"/proc/self/fd/%d" % dirfd, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield from _batches(fd)
        finally:
            os.close(fd)


def rename(olddir: int, old: bytes, newdir: int, new: bytes, flags: int = 0) -> None:
    """renameat2(2); plain rename(2) when *flags* is 0."""
    if not flags:
        os.rename(old, new, src_dir_fd=olddir, dst_dir_fd=newdir)
        return
    _check(_libc.renameat2(olddir, old, newdir, new, flags), old, new)


def link_descriptor(fd: int, newdir: int, new: bytes) -> None:
    """Give the open file *fd* a name, also one that has none any more (O_TMPFILE)."""
    source = b"/proc/self/fd/%d" % fd
    _check(_libc.linkat(_AT_FDCWD, source, newdir, new, _AT_SYMLINK_FOLLOW), new)


def descriptor_limit() -> int:
    """Return how many descriptors this process may hold."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def make_room(count: int) -> None:
    """Give the kernel's table of this process room for *count* descriptors; it never shrinks.

    It grows by doubling, and each time a process with threads waits for a grace period of RCU: 10 to 20 ms
    (measured: half of a cold walk of 2,880 files). So this is called before the first thread is there.
    Source: Linux fs/file.c, expand_fdtable().
    """
    any_file = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        os.close(fcntl.fcntl(any_file, fcntl.F_DUPFD_CLOEXEC, count - 1))
    finally:
        os.close(any_file)
