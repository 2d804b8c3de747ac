"""Descriptors of the directories below one root, by path: every step is one name, none follows a symlink.

The kernel's RESOLVE_BENEATH would do for a single file; whoever works through a whole tree asks for the
same directories again and again, and a dictionary answers that in a tenth of a system call.
"""

import os
from typing import Final

from unionfs.linux import at

__all__ = ["Directories"]

MAX_OPEN: Final = 256
"""Descriptors kept open."""


class Directories:
    """Directories below *root*, a descriptor that stays the caller's."""

    def __init__(self, root: int) -> None:
        self.root = root
        self._open: dict[bytes, int] = {}

    def fd(self, path: bytes) -> int:
        """Return a descriptor of the directory at *path* (clean, relative, ``b""`` is the root).

        It is good until the next call.

        Raises:
            NotADirectoryError: a component is something else, or a symlink.
        """
        if not path:
            return self.root
        fd = self._open.get(path)
        if fd is not None:
            return fd
        if len(self._open) >= MAX_OPEN:
            self.close()
        known, rest = path, []
        while known and known not in self._open:
            known, _, name = known.rpartition(b"/")
            rest.append(name)
        base = fd = self._open[known] if known else self.root
        for name in reversed(rest):
            inner = at.open_directory(fd, name)
            if fd != base:
                os.close(fd)
            fd = inner
        self._open[path] = fd
        return fd

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """Return where *path* is: its directory's descriptor and its name, ``.`` for the root."""
        above, _, name = path.rpartition(b"/")
        return self.fd(above), name or b"."

    def open(self, path: bytes) -> int:
        """Open a file for reading; the last component is not followed either."""
        return at.open_file(*self.parent(path), os.O_RDONLY)

    def close(self) -> None:
        """Forget every descriptor; they are opened again as they are asked for."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
