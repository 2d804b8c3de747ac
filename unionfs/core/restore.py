"""Taking over a union: putting back what its last process had in its tables, as far as the disk does not tell.

Nodes that have a name are awaited (``awaited.py``). Files that have none any more live on only as descriptors,
which somebody kept; of directories that were removed, the attributes are all that is left.
"""

import operator
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple, final

from unionfs.core import attrs, dirops, files, find, readdir
from unionfs.core.awaited import Awaited, Known
from unionfs.core.files import OpenFile
from unionfs.core.layer import Place
from unionfs.core.nodes import Dir, File
from unionfs.linux import at

if TYPE_CHECKING:
    from unionfs.core.state import State

__all__ = ["FIELDS", "Gone", "Opening", "Restoring", "gone"]

FIELDS: Final = (
    *("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_atime_ns", "st_mtime_ns", "st_ctime_ns"),
    *("st_blksize", "st_blocks", "st_rdev"),
)
"""The attributes that are kept of something without a name."""

_fields: Final = operator.attrgetter(*FIELDS)

_NOT_AGAIN: Final = os.O_TRUNC | os.O_CREAT | os.O_EXCL


class Gone(NamedTuple):
    """A node without a name."""

    nodeid: int
    ino: int
    layer: int
    """The layer its file or topmost directory is in."""
    links_left: int
    lookups: int
    st: tuple[int, ...]
    """FIELDS."""


class Opening(NamedTuple):
    """An open file."""

    handle: int
    nodeid: int
    flags: int
    """What the caller asked for."""


def gone(node: File | Dir) -> Gone:
    """Describe *node*, which has no name any more."""
    place = node.place if isinstance(node, File) else node.places[0]
    st = _fields(node.final or attrs.stat_of(node))
    return Gone(node.nodeid, node.ino, place.layer.index, node.links_left, node.lookups, st)


@final
class Restoring:
    """A union that is being taken over. In the order of the methods."""

    def __init__(self, state: "State") -> None:
        self._state = state

    def await_nodes(self, known: dict[int, Known], next_id: int) -> None:
        """Await the nodes that have names; *next_id* is the next number to hand out to one that needs its own."""
        nodes = self._state.nodes
        nodes.await_all(known, lambda parent, name: find.peek(self._state, parent, name))
        nodes.next = max(nodes.next, next_id)

    @property
    def awaited(self) -> Awaited:
        """What is awaited: nothing before `await_nodes`."""
        return self._state.nodes.awaited or Awaited({}, {}, lambda parent, name: find.peek(self._state, parent, name))

    def number_at(self, parent: int, name: bytes) -> int | None:
        """Return the inode number of what is called *name* on disk, whatever the tables say; None for nothing."""
        return find.number_at(self._state, self._state.nodes.directory(parent), name)

    def unmake(self, parent: int, name: bytes) -> None:
        """Remove what a request has made, or half of it; what has contents is something else, and stays."""
        above = self._state.nodes.directory(parent)
        node = find.peek(self._state, above, name)
        if isinstance(node, Dir):
            if not readdir.has_names(self._state, node):
                dirops.rmdir(self._state, above, name)
            return
        st = node.place.lstat(node.real)
        if not stat.S_ISREG(st.st_mode) or not st.st_size or st.st_nlink > 1:
            dirops.unlink(self._state, above, name)

    def gone(self, each: Gone) -> None:
        """Put a node back that has no name."""
        nodes, layer = self._state.nodes, self._state.layers[each.layer]
        root = nodes.root
        node: File | Dir
        if stat.S_ISDIR(each.st[0]):
            node = Dir(root, b"", each.ino, (Place(layer, layer.root, b"", self._state.descriptors),))
        else:
            node = File(root, b"", each.ino, layer.root, b"")
        node.final = attrs.replaced(os.fstat(root.places[0].fd()), **dict(zip(FIELDS, each.st, strict=True)))
        node.links_left, node.lookups = each.links_left, each.lookups
        nodes.restore(node, each.nodeid)

    def opened(self, each: Opening, kept: int | None) -> None:
        """Open a file again under its old handle; *kept* is its own descriptor, where somebody kept that.

        Raises:
            OSError: it cannot be opened.
        """
        table, node = self._state.files, self._state.nodes.file(each.nodeid)
        if kept is not None and node.final is None:
            os.close(kept)  # it did not lose its name after all, and may lead to another file by now
        elif kept is not None:
            writes = each.flags & os.O_ACCMODE != os.O_RDONLY
            table.add(OpenFile(node, kept, each.flags, os.O_RDWR if writes else os.O_RDONLY), each.handle)
            return
        flags = each.flags & ~_NOT_AGAIN
        try:
            handle: int = files.open_file(self._state, node, flags, again=not node.is_gone)
        except PermissionError:
            handle = self._open_though_forbidden(node, flags)
        table.renumber(handle, each.handle)

    def _open_though_forbidden(self, node: File, flags: int) -> int:
        """Open a file whose mode does not let even its owner, as it did not when it was opened first or was made so."""
        st = node.place.lstat(node.real)
        path = at.open_path(node.place.fd(), node.real)
        try:
            os.chmod(at.itself(path), stat.S_IMODE(st.st_mode) | 0o600)
            try:
                return files.open_file(self._state, node, flags, again=False)
            finally:
                os.chmod(at.itself(path), stat.S_IMODE(st.st_mode))
        finally:
            os.close(path)

    def number_handles_from(self, handle: int) -> None:
        """Hand out no handle up to *handle* again."""
        self._state.files.skip(handle)
