"""A server that is killed at a chosen step: before one of the system calls of an operation, or around a note of it.

`install` is called by each interpreter of a mount (by way of a ``sitecustomize`` in its path) and guards every door
to the kernel that the server has, and each record of its journal. `Killer` says, over a few bytes of shared memory, in
which process the how manieth passage is the last.
"""

import ctypes
import importlib
import mmap
import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, final

__all__ = ["Killer", "install"]

_VARIABLE: Final = "UNIONFS_TESTS_KILLER"
_ORDER: Final = struct.Struct("qqq")  # the process, passages left, and those of the next process or -1
_ANY_SUCCESSOR: Final = -1

_CHANGING: Final = (
    *("mkdir", "mknod", "symlink", "link", "rename", "unlink", "rmdir", "chmod", "fchmod", "chown", "fchown", "utime"),
    *("truncate", "ftruncate", "copy_file_range", "pwrite", "open", "write", "writev"),
)


@final
class Killer:
    """The side of the test."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "killer"
        self._file.write_bytes(_ORDER.pack(0, 0, -1))
        (directory / "sitecustomize.py").write_text("from tests.mounted.killing import install\ninstall()\n")
        self.environment = {_VARIABLE: str(self._file)}
        with self._file.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    def kill(self, pid: int, passages: int, then: int = -1) -> None:
        """Have the process killed after so many passages, and the one that takes over after *then*."""
        _ORDER.pack_into(self._map, 0, 0, 0, -1)
        _ORDER.pack_into(self._map, 0, pid, passages, then)

    def has_killed(self) -> bool:
        """Return whether there were so many passages; nobody is killed from now on."""
        pid, left, _ = _ORDER.unpack_from(self._map)
        _ORDER.pack_into(self._map, 0, 0, 0, -1)
        return bool(pid) and left < 0


@final
class _Guard:
    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._successor = os.getpid() if b"fuse.successor" in Path("/proc/self/cmdline").read_bytes() else 0

    def pass_(self) -> None:
        pid, left, then = _ORDER.unpack_from(self._map)
        ours = os.getpid()
        if pid == ours or (pid == _ANY_SUCCESSOR and ours == self._successor):
            _ORDER.pack_into(self._map, 0, ours, left - 1, then)
            if left <= 0:
                if then >= 0:
                    _ORDER.pack_into(self._map, 0, _ANY_SUCCESSOR, then, -1)
                os.kill(ours, signal.SIGKILL)

    def around(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.pass_()
            return real(*args, **options)

        return call

    def on_both_sides(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.pass_()
            answer = real(*args, **options)
            self.pass_()
            return answer

        return call


class _Libc:
    def __init__(self, real: ctypes.CDLL, guard: _Guard) -> None:
        self._real = real
        self._guard = guard

    def __getattr__(self, name: str) -> Callable[..., int]:
        return self._guard.around(getattr(self._real, name))


def install() -> None:
    """Guard the doors of this interpreter, if it belongs to a mount of such a test."""
    path = os.environ.get(_VARIABLE)
    if not path:
        return
    guard = _Guard(path)
    xattr, journal, fcntl = map(importlib.import_module, ("xattr", "unionfs.fuse.journal", "fcntl"))
    for name in ("at", "fileops", "handles"):
        module = importlib.import_module(f"unionfs.linux.{name}")
        vars(module)["_libc"] = _Libc(vars(module)["_libc"], guard)
    for module, names in ((os, _CHANGING), (xattr, ("setxattr", "removexattr")), (fcntl, ("ioctl",))):
        for name in names:
            setattr(module, name, guard.around(getattr(module, name)))
    for name in ("note", "end"):
        setattr(journal.Journal, name, guard.on_both_sides(getattr(journal.Journal, name)))
