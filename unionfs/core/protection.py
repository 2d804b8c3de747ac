"""Flags of chattr(1) in an upper layer: a mark when no union looks, the real flags before the first change.

The kernel's overlayfs keeps +i and +a in the ``protattr`` mark alone, and enforces them itself. Here the file system
of the upper layer does, for files that carry the real flags as well (`fileflags`). So what has only the mark gets
them: a directory when it is found, as its marks are read anyway; a file when it is about to be changed. When the union
is closed they are taken away again: the kernel could neither lift them nor copy up what is in such a directory. What
a daemon that was killed left is enforced all the same.
"""

import contextlib
import os
from typing import Final

from unionfs.core.layer import Layer, Place
from unionfs.core.nodes import Dir, File, Node
from unionfs.linux import at, fileops, handles, xattr

__all__ = ["harden", "harden_file", "is_protected", "marked", "note", "soften"]

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


def is_protected(node: Node) -> bool:
    """Tell whether *node* is append-only or immutable, so that none of its names may go."""
    if isinstance(node, Dir):
        return at.is_protected(node.places[0].fd(), b"")
    if node.is_upper:
        harden_file(node)
    return at.is_protected(node.place.fd(), node.real)


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
        note(place.layer, fd)
    finally:
        os.close(fd)


def note(layer: Layer, fd: int) -> None:
    """Remember that the upper file *fd* has a mark and the real flags."""
    handle = handles.handle_of(fd)
    if handle is not None:
        layer.hardened.add(handle)


def soften(layer: Layer) -> None:
    """Leave only the marks, as the kernel's overlayfs has them. What cannot be found again stays as it is."""
    for handle in layer.hardened:
        with contextlib.suppress(OSError):
            _soften(layer, handle)


def _soften(layer: Layer, handle: handles.FileHandle) -> None:
    fd = handles.open_handle(layer.root.fd(), handle, os.O_RDONLY)
    if fd is None:
        return
    try:
        mark = xattr.get(fd, layer.xattrs.protattr) or b""
        fileops.set_flags(fd, fileops.get_flags(fd) & ~marked(mark))
    finally:
        os.close(fd)
