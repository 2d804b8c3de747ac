"""Let one system call of an operation fail: the first, the second, and so on until the operation gets through.

Every door through which the union reaches the kernel is guarded while an operation runs: the functions of `os`, the
calls by ctypes, ioctl, and the library for extended attributes. Each passage is counted, and one of them fails with a
chosen errno, as a full disk or a bad block would let it fail. fsync is counted and not done, so that a run costs no
disk time.
"""

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
import xattr

from unionfs.linux import at, fileops, handles

__all__ = ["CHANGING", "Faults"]

CHANGING: Final = frozenset(
    [
        "mkdir",
        "mknod",
        "symlink",
        "link",
        "rename",
        "unlink",
        "rmdir",
        "chmod",
        "fchmod",
        "chown",
        "fchown",
        "utime",
        "truncate",
        "ftruncate",
        "copy_file_range",
        "pwrite",
        "fsync",
        "open-create",
        "renameat2",
        "linkat",
        "ioctl-set",
        "setxattr",
        "removexattr",
    ]
)
"""Calls that change something, and so may find the disk full or read-only."""

_READING: Final = ("open", "stat", "fstat", "getxattr", "listxattr", "readlink", "scandir", "lseek", "dup")
_BY_OS: Final = (*(name for name in CHANGING if hasattr(os, name) and not name.endswith("xattr")), *_READING)
_GETTING: Final = frozenset({0x80086601, 0x80111500})
"""ioctls that only ask: FS_IOC_GETFLAGS and FS_IOC_GETFSUUID."""


class Faults:
    """Counts passages; number *failing* (from 0) fails with *code* if it may."""

    def __init__(self, failing: int, code: int, *, only_changes: bool) -> None:
        self._left = failing
        self._code = code
        self._only_changes = only_changes
        self.failed: str | None = None
        """The call that was made to fail; None if there were not so many calls."""

    def _pass(self, call: str) -> None:
        if self.failed is not None or (self._only_changes and call not in CHANGING):
            return
        if self._left == 0:
            self.failed = call
            raise OSError(self._code, os.strerror(self._code))
        self._left -= 1

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Guard the doors while the block runs."""
        with pytest.MonkeyPatch.context() as patch:
            for name in _BY_OS:
                patch.setattr(os, name, self._guarded(name, getattr(os, name)))
            patch.setattr(os, "fsync", lambda _fd: self._pass("fsync"))
            patch.setattr(fcntl, "ioctl", self._ioctl(fcntl.ioctl))
            for name in ("setxattr", "removexattr"):
                patch.setattr(xattr, name, self._guarded(name, getattr(xattr, name)))
            for module in (at, handles, fileops):
                patch.setattr(module, "_libc", _Libc(module._libc, self._pass))
            yield

    def _guarded(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            creates = name == "open" and len(args) > 1 and creates_or_empties(args[1])
            self._pass("open-create" if creates else name)
            return real(*args, **options)

        return call

    def _ioctl(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(fd: int, request: int, *args: Any) -> Any:
            self._pass("ioctl" if request in _GETTING else "ioctl-set")
            return real(fd, request, *args)

        return call


def creates_or_empties(flags: int) -> bool:
    return bool(flags & (os.O_CREAT | os.O_TRUNC)) or flags & os.O_TMPFILE == os.O_TMPFILE


class _Libc:
    """The C library, whose calls return -1 and leave an errno when they are to fail."""

    def __init__(self, real: ctypes.CDLL, passing: Callable[[str], None]) -> None:
        self._real = real
        self._passing = passing

    def __getattr__(self, name: str) -> Callable[..., int]:
        real = getattr(self._real, name)

        def call(*args: Any) -> int:
            try:
                self._passing(name)
            except OSError as exc:
                ctypes.set_errno(exc.errno or errno.EIO)
                return -1
            return int(real(*args))

        return call
