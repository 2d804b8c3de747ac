"""The file flags of chattr(1): append-only and immutable files stay so over a copy-up and a remount.

The kernel's overlayfs keeps them in a ``protattr`` mark and enforces them itself. A FUSE server is not
asked for every name that is removed, so here the upper file carries the real flags as well, and its
filesystem enforces them; the mark is written too, for the kernel. A file of a lower layer with such
a flag is not copied up for a change that the flag forbids.

Source: Linux fs/overlayfs/{inode,util,copy_up}.c: ovl_fileattr_set(), ovl_set_protattr(), ovl_copy_fileattr().
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Final

from unionfs.core import copyup
from unionfs.core.index import origin_mark
from unionfs.core.layer import Place
from unionfs.core.lookup import search
from unionfs.core.nodes import Dir, Node
from unionfs.core.protection import marked, note
from unionfs.core.state import State
from unionfs.core.upper import Upper
from unionfs.linux import at, fileops, xattr

__all__ = ["change", "of_node"]

_PROTECTED: Final = fileops.FS_APPEND | fileops.FS_IMMUTABLE


@contextlib.contextmanager
def _descriptor(node: Node) -> Iterator[int]:
    """A descriptor the ioctl may be asked on."""
    if isinstance(node, Dir):
        yield node.places[0].fd()
    elif node.opens:
        yield node.opens[0].fd
    else:
        fd = at.open_file(node.place.fd(), node.real, os.O_RDONLY)
        try:
            yield fd
        finally:
            os.close(fd)


def of_node(state: State, node: Node) -> int:
    """Return the flags (FS_*_FL) of *node*; in a lower layer the mark means nothing."""
    with _descriptor(node) as fd:
        flags = fileops.get_flags(fd)
        is_upper = node.upper is not None if isinstance(node, Dir) else node.is_upper
        mark = (xattr.get(fd, state.layers[0].xattrs.protattr) or b"") if is_upper else b""
    return flags | marked(mark)


def _note_origins(state: State, upper: Upper, node: Dir) -> None:
    """Say where *node* and its directories come from, which no union has copied up: soon nothing more can be written.

    The kernel's overlayfs writes it at the first lookup, and hides the directory if it cannot.
    """
    _note_origin(upper, node.places)
    for name in [os.fsencode(entry.name) for entry in node.places[0].scan() if entry.is_dir(follow_symlinks=False)]:
        found = search(node.places, name, state.rules)
        merged = found.dirs if found is not None else ()
        _note_origin(upper, merged)
        for place in merged:
            place.close()


def _note_origin(upper: Upper, dirs: Sequence[Place]) -> None:
    mark = upper.layer.xattrs.origin
    if len(dirs) > 1 and mark not in xattr.names(dirs[0].fd()):
        xattr.set(dirs[0].fd(), mark, origin_mark(dirs[1], b""))
        if dirs[0].parent is not None:
            upper.set_impure(dirs[0].parent)


def change(state: State, node: Node, flags: int) -> None:
    """Give *node*, copied up first, the flags *flags*.

    The real flags are lifted while the mark is written: nothing may be written to an immutable file.
    """
    upper = state.writable()
    if isinstance(node, Dir):
        copyup.directory(state, node)
        if flags & _PROTECTED:
            _note_origins(state, upper, node)
    else:
        copyup.file(state, node, lifts_flags=True)
    letters = (b"a" if flags & fileops.FS_APPEND else b"") + (b"i" if flags & fileops.FS_IMMUTABLE else b"")
    mark = upper.layer.xattrs.protattr
    with _descriptor(node) as fd:
        fileops.set_flags(fd, flags & ~_PROTECTED)
        if letters:
            xattr.set(fd, mark, letters)
        elif xattr.get(fd, mark) is not None:
            xattr.remove(fd, mark)
        if flags & _PROTECTED:
            fileops.set_flags(fd, flags)
            note(upper.layer, fd)
