"""The inodes that the kernel knows: what each number stands for, and how long it must be remembered.

A node is made by the first lookup that finds a file and lives until the kernel has forgotten it
(`NodeTable.forget`) and nothing of the union needs it any more (a directory is needed by its
children). So memory follows the kernel's own cache.

A `File` is in one real directory under one real name, and moves to another when it is copied up or
renamed. A `Dir` is a list of real directories, top layer first. Both know their name in the union.
"""

import errno
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, TypeVar, final

from unionfs.core.layer import Descriptors, Place
from unionfs.names import ROOT_ID, NodeId

if TYPE_CHECKING:
    from unionfs.core.awaited import Awaited, Known
    from unionfs.core.files import OpenFile

__all__ = ["PRIVATE", "Dir", "File", "Node", "NodeTable"]

PRIVATE: Final = 1 << 62
"""Node ids from here on are handed out where the inode number itself is taken."""


_SPARSE: Final = 400
"""Bytes for each entry; a table that grows has 30 to 110."""
_FEW: Final = 64


class Inode:
    """What a `File` and a `Dir` have in common."""

    __slots__ = ("final", "ino", "links_left", "lookups", "name", "nodeid", "parent")

    def __init__(self, parent: "Dir", name: bytes, ino: int) -> None:
        self.nodeid = NodeId(0)
        """The kernel's name for it; 0 until it is in the table."""
        self.ino = ino
        """st_ino: what users see."""
        self.parent = parent
        self.name = name
        """Its name in *parent*; with several hard links, the one used last."""
        self.lookups = 0
        """How often the kernel was told of it, less what it has forgotten."""
        self.final: os.stat_result | None = None
        """Set once it has no name any more: the attributes it had, but for the links."""
        self.links_left = 0
        """How many links it has then: names that the union has not seen."""

    @property
    def is_gone(self) -> bool:
        """True once the last of its names that the union knows was removed."""
        return self.final is not None


@final
class File(Inode):
    """Anything but a directory."""

    __slots__ = (
        "data",
        "has_lower_names",
        "indexed_links",
        "is_hardened",
        "is_linked",
        "links",
        "opens",
        "place",
        "real",
    )

    def __init__(self, parent: "Dir", name: bytes, ino: int, place: Place, real: bytes) -> None:
        super().__init__(parent, name, ino)
        self.place = place
        """The real directory it is in."""
        self.real = real
        """Its name there."""
        self.data: tuple[Place, bytes] | None = None
        """Where its data are, if only its attributes were copied up."""
        self.opens: list[OpenFile] | None = None
        """Its open files; None if there are none."""
        self.is_hardened = False
        """True once no mark of an upper file says more than its real flags do: see `protection`."""
        self.is_linked = False
        """True if the table also finds it by its inode number, because it has several names."""
        self.has_lower_names = False
        """True if it is in the index, and a name of it that was seen may be missing in the upper layer."""
        self.indexed_links: int | None = None
        """How many names the union has for it, upper and lower ones; None if it is not in the index."""
        self.links: dict[tuple[Dir, bytes], None] | None = None
        """All its names that the union has seen; None as long as it is one."""

    @property
    def is_upper(self) -> bool:
        return self.place.layer.writable


@final
class Dir(Inode):
    """A directory: the real directories that are merged in it."""

    __slots__ = ("children", "places")

    def __init__(self, parent: "Dir | None", name: bytes, ino: int, places: tuple[Place, ...]) -> None:
        super().__init__(parent or self, name, ino)
        self.places = places
        """Top layer first; at least one."""
        self.children: dict[bytes, File | Dir] = {}
        """The children the kernel knows, by name."""

    @property
    def upper(self) -> Place | None:
        """The directory's place in the upper layer, or None if it was not copied up."""
        top = self.places[0]
        return top if top.layer.writable else None

    @property
    def lowers(self) -> tuple[Place, ...]:
        """The places below the upper layer."""
        return self.places[1:] if self.places[0].layer.writable else self.places

    @property
    def is_merged(self) -> bool:
        return len(self.places) > 1

    def ancestors(self) -> Iterator["Dir"]:
        """Yield the directory itself and those above it, the root last."""
        node = self
        while True:
            yield node
            if node.parent is node:
                return
            node = node.parent

    def is_within(self, above: "Dir") -> bool:
        """Tell whether *above* is this directory or one of those above it."""
        return any(each is above for each in self.ancestors())


Node = File | Dir
"""An inode of the union."""


@final
class NodeTable:
    """Every node the kernel knows, by node id; hard links also by inode number."""

    __slots__ = ("_by_id", "_descriptors", "_linked", "awaited", "next", "root")

    def __init__(self, root: Dir, descriptors: Descriptors) -> None:
        self._by_id: dict[int, Node] = {}
        self._linked: dict[int, File] = {}
        self._descriptors = descriptors
        self.next = PRIVATE
        """The next id that is no inode number."""
        self.awaited: Awaited | None = None
        """What a process that took over has still to find; None in any other."""
        self.root = root
        root.nodeid = ROOT_ID
        self._by_id[ROOT_ID] = root

    def __len__(self) -> int:
        return len(self._by_id)

    def __getitem__(self, nodeid: int) -> Node:
        """Return the node. Every request begins with this, so it is the moment to close descriptors.

        Raises:
            OSError: ESTALE, no such node is known.
        """
        if len(self._descriptors.opened) > self._descriptors.limit:
            self._descriptors.trim()
        try:
            return self._by_id[nodeid]
        except KeyError:
            node = self.awaited.find(nodeid) if self.awaited is not None else None
            if node is None:
                raise _stale() from None
            return node

    def __iter__(self) -> Iterator[Node]:
        return iter(self._by_id.values())

    def await_all(self, known: "dict[int, Known]", seek: Callable[[Dir, bytes], Node]) -> None:
        """Take over what another process knew: nodes by id, to be found by *seek* when they are needed."""
        from unionfs.core.awaited import Awaited  # noqa: PLC0415 - milliseconds that no other mount need pay

        self.awaited = Awaited(known, self._by_id, seek)

    def restore(self, node: Node, nodeid: int) -> None:
        """Take over a node without a name, which nothing could find again."""
        node.nodeid = NodeId(nodeid)
        self._by_id[nodeid] = node

    def directory(self, nodeid: int) -> Dir:
        """Return the node, which must be a directory that still has a name."""
        node = self[nodeid]
        if not isinstance(node, Dir):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return node

    def file(self, nodeid: int) -> File:
        node = self[nodeid]
        if not isinstance(node, File):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return node

    def add(self, node: Node) -> None:
        """Give *node* an id, and its parent a child."""
        nodeid, awaited = node.ino, self.awaited
        known = awaited.claim(node.parent.nodeid, node.name) if awaited is not None else None
        if known is not None:
            nodeid, node.lookups = known.nodeid, known.lookups
        elif nodeid in self._by_id or not 1 < nodeid < PRIVATE or (awaited is not None and nodeid in awaited):
            nodeid = self.next
            self.next += 1
        node.nodeid = NodeId(nodeid)
        self._by_id[nodeid] = node
        node.parent.children[node.name] = node
        if known is not None and isinstance(node, File) and len(known.names) > 1:
            self._restore_names(node, known)

    def _restore_names(self, node: File, known: "Known") -> None:
        """Note the other names of a file that was found by one of them."""
        found = node.parent, node.name
        for nodeid, name in known.names:
            parent = self._by_id.get(nodeid)
            if parent is None and self.awaited is not None:
                parent = self.awaited.find(nodeid)
            if isinstance(parent, Dir):
                self.add_name(node, parent, name)
        node.parent, node.name = found

    def shows(self, ino: int) -> bool:
        """Tell whether a node that the kernel knows shows the number *ino* to users."""
        node = self._by_id.get(ino)
        return node is not None and node.ino == ino

    def linked(self, ino: int) -> File | None:
        """Return the node of a file that has several names, if one of them was seen; *ino* is the union's number."""
        known = self._linked.get(ino)
        if known is None and self.awaited is not None:
            other = self.awaited.find_other(ino)
            known = other if isinstance(other, File) else None
        return known

    def remember_links(self, node: File) -> None:
        """Note that *node* has, or may get, several names that must all lead to it."""
        node.is_linked = True
        self._linked[node.ino] = node

    def add_name(self, node: File, parent: Dir, name: bytes) -> None:
        """Note that *node* is *name* in *parent* as well."""
        if node.final is not None:  # it was made without a name, or has lost all that were known
            node.final = None
            node.links = {}
        elif node.links is None:
            node.links = {(node.parent, node.name): None}
        node.links[parent, name] = None
        node.parent, node.name = parent, name
        parent.children[name] = node

    def forget(self, nodeid: int, count: int) -> None:
        """Take back *count* lookups; the node is dropped when none are left."""
        node = self._by_id.get(nodeid)
        if node is None:
            if self.awaited is not None:
                self.awaited.forget(nodeid, count)
            return
        node.lookups -= count
        self.drop_if_unused(node)

    def drop_if_unused(self, node: Node) -> None:
        """Drop *node*, and then its parents, as far as nobody needs them.

        The parent of a file without a name may have been dropped before it, and made anew under the same id.
        """
        while node.lookups <= 0 and node is not self.root and self._by_id.get(node.nodeid) is node:
            if node.children if isinstance(node, Dir) else node.opens:
                return
            self._drop(node)
            node = node.parent

    def _drop(self, node: Node) -> None:
        del self._by_id[node.nodeid]
        _give_back(self._by_id)
        if isinstance(node, File):
            for parent, name in node.links or ((node.parent, node.name),):
                if parent.children.get(name) is node:
                    del parent.children[name]
                    _give_back(parent.children)
            if node.is_linked and self._linked.get(node.ino) is node:
                del self._linked[node.ino]
            for parent, _ in node.links or ():
                if parent is not node.parent:
                    self.drop_if_unused(parent)
            return
        if node.parent.children.get(node.name) is node:
            del node.parent.children[node.name]
        for place in node.places:
            place.close()

    def unlink(self, node: Node, parent: Dir, name: bytes, final: os.stat_result, links_left: int) -> None:
        """Note that *name* in *parent* is gone; with its last name the node keeps what it had and has now."""
        if parent.children.get(name) is node:
            del parent.children[name]
        if isinstance(node, File) and node.links is not None:
            node.links.pop((parent, name), None)
            if node.links:
                node.parent, node.name = next(iter(node.links))
                return
        node.final, node.links_left = final, links_left

    def move(self, node: Node, old: tuple[Dir, bytes], new: tuple[Dir, bytes]) -> None:
        """Note that *node* has the name *new* instead of *old*."""
        if old[0].children.get(old[1]) is node:
            del old[0].children[old[1]]
        if isinstance(node, File) and node.links is not None:
            node.links.pop(old, None)
            node.links[new] = None
        node.parent, node.name = new
        new[0].children[new[1]] = node


_Key = TypeVar("_Key", int, bytes)


def _give_back(table: dict[_Key, Node]) -> None:
    """Give back the memory of a table that has become sparse, which a `dict` does by itself only while it grows."""
    if table.__sizeof__() > _SPARSE * (len(table) + _FEW):
        kept = dict(table)
        table.clear()
        table.update(kept)


def _stale() -> OSError:
    return OSError(errno.ESTALE, os.strerror(errno.ESTALE))
