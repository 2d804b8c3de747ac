"""Copy what a file is made of, piece by piece; which pieces, and in which order, is the caller's rule."""

import errno
import fcntl
import os
from collections.abc import Iterator
from typing import Final

__all__ = ["copy_data", "data_ranges"]

FICLONE: Final = 0x40049409
"""ioctl: share the source's extents. Source: Linux include/uapi/linux/fs.h, _IOW(0x94, 9, int)."""

CHUNK: Final = 1 << 20
"""Bytes per call; bounds how long one call keeps a signal waiting."""

_NO_CLONE: Final = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM})
_NEVER_CLONES: Final = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.ENOTTY, errno.ENOSYS})
"""EINVAL and EPERM may be about this one file (its size, its flags)."""

_NO_COPY_RANGE: Final = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


def data_ranges(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield ``(start, end)`` of each stretch of data, skipping holes. Offsets in bytes."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # only a hole is left
                return
            if exc.errno != errno.EINVAL:
                raise
            yield end, size  # a filesystem that does not know its holes
            return
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        yield start, end


def copy_data(source: int, target: int, size: int, devices: tuple[int, int], *, has_holes: bool = True) -> int:
    """Make *target*, which is empty, read like the first *size* bytes of *source*; holes stay holes.

    Shares extents where the filesystem can; *devices* are the st_dev of source and target. Returns the
    bytes that were really copied.
    """
    if not size:
        return 0
    if _clone(source, target, devices):
        os.ftruncate(target, size)
        return 0
    copied = 0
    for start, end in data_ranges(source, size) if has_holes else ((0, size),):
        copied += _copy_range(source, target, start, end)
    if copied < size:
        os.ftruncate(target, size)  # a hole at the end has no data to write
    return copied


_cannot_clone: Final[set[tuple[int, int]]] = set()
"""Pairs of filesystems (st_dev of source and target) that do not share extents: asked once, not for each file."""


def _clone(source: int, target: int, pair: tuple[int, int]) -> bool:
    if pair in _cannot_clone:
        return False
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError as exc:
        if exc.errno not in _NO_CLONE:
            raise
        if exc.errno in _NEVER_CLONES:
            _cannot_clone.add(pair)
        return False
    return True


def _copy_range(source: int, target: int, start: int, end: int) -> int:
    at = start
    while at < end:
        try:
            done = os.copy_file_range(source, target, min(CHUNK, end - at), at, at)
        except OSError as exc:
            if exc.errno not in _NO_COPY_RANGE:
                raise
            done = _copy_by_hand(source, target, at, end)
        if done == 0:  # the file shrank under us
            break
        at += done
    return at - start


def _copy_by_hand(source: int, target: int, at: int, end: int) -> int:
    """Copy one chunk through memory; return its bytes, 0 at the end of *source*."""
    chunk = os.pread(source, min(CHUNK, end - at), at)
    written = 0
    while written < len(chunk):
        written += os.pwrite(target, chunk[written:], at + written)
    return written
