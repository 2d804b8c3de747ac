"""A volatile mount: nothing is written through, and the upper layer of one that did not end well is refused.

The kernel's marker says so to whoever mounts next, the kernel's overlayfs included. That something was not written
back when it should have been is noticed all the same: every sync after it fails, as there. Only the kernel's overlayfs
can tell, so it is asked (linux/writeback.py) where we may mount it. An ordinary user's union learns it at the unmount,
where everything is written through, and leaves the marker then.

Source: Linux Documentation/filesystems/overlayfs.rst, "Volatile mount".
"""

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from unionfs.linux import at, fileops, remove, writeback

if TYPE_CHECKING:
    from unionfs.core.upper import Upper

__all__ = ["Volatile", "was_left"]

_INCOMPAT: Final = b"incompat"
_MARKER: Final = b"incompat/volatile"


def was_left(base: int) -> bool:
    """Tell whether the work directory *base* is that of a volatile mount which did not end well."""
    return at.exists(base, b"work/" + _MARKER)


@final
class Volatile:
    """What a volatile union has: the marker, and an eye on what is not written back from now on."""

    __slots__ = ("_failure", "_upper", "_watch")

    def __init__(self, upper: "Upper", work: Path) -> None:
        """*work* leads to the work directory; nothing is mounted over what is in a mount of our own."""
        self._upper = upper
        self._watch = -1
        self._failure: OSError | None = None
        name = upper.temporary()
        os.mkdir(name, 0o700, dir_fd=upper.work_fd)
        try:
            self._watch = _watched(upper.work_fd, name, work)
        except OSError as exc:
            if exc.errno in writeback.FAILURES:
                self._failure = exc
        finally:
            upper.discard(name)

    def mark(self) -> None:
        os.mkdir(_INCOMPAT, 0o700, dir_fd=self._upper.work_fd)
        os.mkdir(_MARKER, 0o700, dir_fd=self._upper.work_fd)

    def check(self) -> None:
        """Be asked for a sync.

        Raises:
            OSError: EIO, ENOSPC: something was not written back, at any time since the mount.
        """
        if self._failure is not None:
            raise OSError(*self._failure.args)
        if self._watch >= 0:
            os.fsync(self._watch)

    def end(self) -> None:
        """Write everything through, then empty the work directory: the upper is as good as any other now.

        Raises:
            OSError: EIO, ENOSPC: it is not.
        """
        self.check()
        fileops.syncfs(self._upper.work_fd)
        with contextlib.suppress(OSError):  # container engines remove the marker while we are still at this
            remove.empty(self._upper.work_fd)

    def close(self) -> None:
        if self._watch >= 0:
            os.close(self._watch)


def _watched(work_fd: int, name: bytes, work: Path) -> int:
    """Have the filesystem watched over the directory *name*, if the path *work* still leads there."""
    fd = os.open(os.fsencode(work) + b"/work/" + name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return writeback.watch(fd) if os.path.samestat(os.fstat(fd), at.lstat(work_fd, name)) else -1
    finally:
        os.close(fd)
