"""Nodes that the kernel still knows and this process has not seen yet: it took over from one that died.

What that one knew of a node is its number, its names and how often the kernel was told of it. The rest is
on disk, and is looked for only when somebody needs the node: because a request names it, or because a
lookup comes upon one of its names, or upon another name of the same file. So taking over takes as long
for a million nodes as reading their list does.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from unionfs.core.nodes import Dir, Node

__all__ = ["Awaited", "Known"]


@final
class Known:
    """What is known of one node."""

    __slots__ = ("lookups", "names", "nodeid")

    def __init__(self, nodeid: int, names: dict[tuple[int, bytes], None] | None = None, lookups: int = 0) -> None:
        self.nodeid = nodeid
        self.names = {} if names is None else names
        """Its names, each in the directory with that node id; the one used last is the last."""
        self.lookups = lookups


@final
class Awaited:
    """The nodes that were not found again yet."""

    __slots__ = ("_by_id", "_by_name", "_seek", "_sought", "_table")

    def __init__(self, known: dict[int, Known], table: dict[int, "Node"], seek: "Callable[[Dir, bytes], Node]") -> None:
        """Await what is *known*, by number. *table* is where nodes are once `claim` was asked; *seek* finds a name."""
        self._by_id = known
        self._by_name = {name: each for each in known.values() for name in each.names}
        self._table = table
        self._seek = seek
        self._sought: set[int] = set()
        """Those that are being looked for just now."""

    def __contains__(self, nodeid: int) -> bool:
        return nodeid in self._by_id

    def __iter__(self) -> Iterator[Known]:
        return iter(self._by_id.values())

    def add(self, known: Known) -> None:
        self._by_id[known.nodeid] = known
        self._by_name.update(dict.fromkeys(known.names, known))

    def claim(self, parent: int, name: bytes) -> Known | None:
        """Return the node that has this name, and await it no more; None if the name means nothing to us."""
        known = self._by_name.get((parent, name))
        if known is not None:
            self._drop(known)
        return known

    def _drop(self, known: Known) -> None:
        del self._by_id[known.nodeid]
        for name in known.names:
            if self._by_name.get(name) is known:
                del self._by_name[name]

    def has_name(self, parent: int, name: bytes) -> bool:
        return (parent, name) in self._by_name

    def lose(self, parent: int, name: bytes) -> Known | None:
        """Take a name away; return the node if it was its last, which is awaited no more then."""
        known = self._by_name.pop((parent, name), None)
        if known is None:
            return None
        del known.names[parent, name]
        if known.names:
            return None
        del self._by_id[known.nodeid]
        return known

    def rename(self, old: tuple[int, bytes], new: tuple[int, bytes]) -> None:
        """Let what was called *old* be called *new*, which nothing is."""
        known = self._by_name.pop(old, None)
        if known is not None:
            del known.names[old]
            known.names[new] = None
            self._by_name[new] = known

    def exchange(self, one: tuple[int, bytes], other: tuple[int, bytes]) -> None:
        aside = (0, b"")
        self.rename(one, aside)
        self.rename(other, one)
        self.rename(aside, other)

    def forget(self, nodeid: int, count: int) -> None:
        """Take back *count* lookups of a node that may be awaited."""
        known = self._by_id.get(nodeid)
        if known is not None:
            known.lookups -= count
            if known.lookups <= 0:
                self._drop(known)

    def find_other(self, nodeid: int) -> "Node | None":
        """Return the node *nodeid*, upon another name of which somebody came; None if it is not awaited."""
        if nodeid in self._sought or nodeid not in self._by_id:
            return None
        return self.find(nodeid)

    def find_named(self, parent: int, name: bytes) -> "Node | None":
        """Return the node with this name; None if it is not awaited, or not there."""
        known = self._by_name.get((parent, name))
        return self.find(known.nodeid) if known is not None else None

    def find(self, nodeid: int) -> "Node | None":
        """Look for the node *nodeid*, and for the directories above it; None if it is not there any more.

        Raises:
            OSError: its layer cannot be read.
        """
        chain: list[Known] = []
        at = nodeid
        while (known := self._by_id.get(at)) is not None:
            chain.append(known)
            if not known.names or len(chain) > len(self._by_id):
                break
            at = next(reversed(known.names))[0]
        for known in reversed(chain):
            if known.nodeid in self._by_id and known.nodeid not in self._sought:
                self._find_one(known)
        return self._table.get(nodeid)

    def _find_one(self, known: Known) -> None:
        self._sought.add(known.nodeid)
        try:
            for parent, name in reversed(list(known.names)):
                above = self._table.get(parent) or self.find_other(parent)
                children = getattr(above, "children", None)
                if above is None or children is None:
                    continue
                try:
                    if self._seek(above, name).nodeid == known.nodeid:  # type: ignore[arg-type]  # only a Dir has children
                        return
                except FileNotFoundError:
                    continue
        finally:
            self._sought.discard(known.nodeid)
