"""Flags of chattr(1) that another union wrote down: a mark becomes the real flag before the first change.

The kernel's overlayfs keeps +i and +a in the ``protattr`` mark alone, and enforces them itself. Here the file system
of the upper layer does, for files that carry the real flags as well (`fileflags`). So what has only the mark gets
them: a directory when it is found, as its marks are read anyway; a file when it is about to be changed.
"""

import os
from typing import Final

from unionfs.core.layer import Place
from unionfs.core.nodes import File
from unionfs.linux import at, fileops, xattr

__all__ = ["harden", "harden_file", "marked"]

_LETTERS: Final = ((b"a", fileops.FS_APPEND), (b"i", fileops.FS_IMMUTABLE))


def marked(mark: bytes) -> int:
    """Return the flags that the letters of a mark stand for.

    >>> marked(b"ai") == fileops.FS_APPEND | fileops.FS_IMMUTABLE
    True
    """
    return sum(flag for letter, flag in _LETTERS if letter in mark)


def harden_file(node: File) -> None:
    """Harden an upper file, once, before it is changed."""
    if not node.is_hardened and not node.is_gone:
        harden(node.place, node.real)
        node.is_hardened = True


def harden(place: Place, name: bytes) -> None:
    """Give *name*, in the upper directory *place*, or *place* itself if it is empty, the flags that its mark names.

    Raises:
        OSError: EPERM, they may not be set; then nothing may be changed either.
    """
    try:
        mark = xattr.get(place.target(name) if name else place.fd(), place.layer.xattrs.protattr)
    except PermissionError:  # a user's own file that he may not read, and so could not have marked
        return
    flags = marked(mark or b"")
    if not flags:
        return
    fd = at.open_file(place.fd(), name, os.O_RDONLY) if name else os.dup(place.fd())
    try:
        real = fileops.get_flags(fd)
        if real & flags != flags:
            fileops.set_flags(fd, real | flags)
    finally:
        os.close(fd)
