"""Locks between processes, and between threads of one: one flock(2) for each name.

The kernel releases a lock when its holder dies, so a crash never leaves one behind and no lock file
has to be cleaned up by anybody. Only that a file is locked means something; what its holder may have
written into it is for whoever finds it locked.
"""

import fcntl
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Final, Self

__all__ = ["Lock", "is_free", "lock_descriptor", "lock_range"]

_FLOCK: Final = struct.Struct("hhqqi4x")
"""struct flock, where off_t has 64 bits."""


class Lock:
    """A lock that is held while the ``with`` block runs.

    Every `Lock` opens the file anew, so two threads of one process exclude each other too. The
    descriptor survives fork: a lock taken before daemonizing is held until the daemon ends.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self.path = path
        self._mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._fd = -1

    def acquire(self, *, wait: bool = True) -> bool:
        """Take the lock; False when *wait* is false and somebody else has it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, self._mode | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(fd)
            return False
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return True

    def release(self) -> None:
        """Give the lock up. None the worse if it is not held."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def lock_descriptor(fd: int, *, shared: bool = False) -> bool:
    """Take the lock of an open file or directory, for as long as it is open; False if somebody else has it."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_free(fd: int) -> bool:
    """Tell whether nobody else has the exclusive lock of an open file or directory that we have no lock of."""
    if not lock_descriptor(fd, shared=True):
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True


def lock_range(fd: int, start: int, length: int, *, shared: bool = False) -> bool:
    """Take a lock on bytes of an open file (fcntl(2), F_OFD_SETLK), for as long as it is open; 0: to the end.

    Returns False if another open file has one, or a process, that excludes it.
    """
    kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))
    except BlockingIOError:
        return False
    return True
