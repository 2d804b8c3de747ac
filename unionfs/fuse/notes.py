"""What is noted while a mount is served: the journal, and the files that the supervisor keeps besides.

The latter are open files that lose their last name: nothing on disk leads to them any more.
"""

from typing import TYPE_CHECKING, final

from unionfs.core import restore
from unionfs.core.nodes import Dir, File, Node
from unionfs.fuse import journal
from unionfs.fuse.journal import DONE, Journal, Past

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from unionfs.core.union import Union
    from unionfs.fuse.supervisor import Link

__all__ = ["Notes", "key_of"]


def key_of(handle: int) -> bytes:
    """Return the key under which the supervisor keeps an open file."""
    return b"file %d" % handle


def _told(node: Node, parent: int, name: bytes) -> bytes:
    if node.final is not None:
        return journal.gone(restore.gone(node))
    if node.lookups == 1 or (isinstance(node, File) and node.links is not None):
        return journal.named(node.nodeid, parent, name, 1)
    return journal.lookups(node.nodeid, 1)


@final
class Notes:
    """The journal of one mount, and what the supervisor keeps besides."""

    def __init__(self, union: "Union", link: "Link", past: Past | None, kept: "Mapping[bytes, int]") -> None:
        """Begin to note. *past* is what was noted before we took over, and is in the tables of *union* by now.

        *kept* is what the supervisor had then.
        """
        self._union = union
        self._link = link
        files = past.files if past is not None else {}
        self._files = {handle: journal.opened(file) for handle, file in files.items()}
        """The open files, as they were noted."""
        self._kept = {handle for handle in self._files if key_of(handle) in kept}
        """Handles of files that the supervisor keeps."""
        self.recent = past.recent if past is not None else {}
        """Requests of before that may come again, by number, and were done."""
        self.unheard = {file.unique: handle for handle, file in files.items() if file.unique}
        """Handles whose openers may never have heard of them, by the request that asked."""
        self.journal = Journal(self._records())
        link.keep((b"journal", self.journal.fd))
        for key in kept.keys() - set(map(key_of, self._kept)):
            if key.startswith(key_of(0)[:-1]):  # of a file that was closed meanwhile
                link.drop(key)

    def _records(self) -> "Iterator[bytes]":
        """Yield what a new journal begins with: all that is known now."""
        yield journal.numbers(*self._union.next_numbers())
        for request in self.recent.values():
            source, target = (request.parent, request.name), (request.other, request.other_name)
            yield journal.begun(request.unique, request.opcode, source, target, request.inos, DONE)
        for known in self._union.awaited():
            for parent, name in known.names:
                yield journal.named(known.nodeid, parent, name, 0)
            yield journal.lookups(known.nodeid, known.lookups)
        for node in self._union.nodes():
            if node.final is not None:
                yield journal.gone(restore.gone(node))
            elif node.parent is not node:
                names = node.links if isinstance(node, File) and node.links else ((node.parent, node.name),)
                for above, name in names:
                    yield journal.named(node.nodeid, above.nodeid, name, 0)
                yield journal.lookups(node.nodeid, node.lookups)
        yield from self._files.values()

    def tidy(self) -> None:
        """Begin a new journal if most of the old one is waste."""
        if self.journal.is_wasteful:
            old, self.journal = self.journal, Journal(self._records())
            self._link.keep((b"journal", self.journal.fd))
            old.close()

    # Nodes.

    def told(self, node: Node, parent: int, name: bytes) -> None:
        """The kernel is told once more of *node*, as *name* in the directory *parent*."""
        self.journal.note(_told(node, parent, name))

    def told_all(self, parent: int, listed: "Sequence[tuple[bytes, Node]]") -> None:
        """It is told of nodes, each by the name that it has in *parent*; one may be there twice."""
        self.journal.note(b"".join([_told(node, parent, name) for name, node in listed]))

    def told_again(self, nodes: "Sequence[Node]") -> None:
        """It is told once more of *nodes*, by names that are noted."""
        self.journal.note(b"".join([journal.lookups(node.nodeid, 1) for node in nodes]))

    def forgotten(self, forgets: "Sequence[tuple[int, int]]") -> None:
        """It takes back lookups: of which nodes, and how many."""
        self.journal.note(b"".join([journal.forgot(nodeid, count) for nodeid, count in forgets]))

    def removed(self, node: Node) -> None:
        """*node* has lost a name, and so much is noted; was it the last, it may live on, if anybody can ask for it."""
        if node.final is None:
            return
        if isinstance(node, Dir) or (node.opens and any(file.handle for file in node.opens)):
            self.journal.note(journal.gone(restore.gone(node)))

    def moved(self, node: Node, *names: tuple[Node, bytes]) -> None:
        """*node* may have lost or got some of *names*."""
        if node.lookups <= 0:
            return
        for above, name in names:
            if isinstance(above, Dir) and above.children.get(name) is node:
                self.journal.note(journal.named(node.nodeid, above.nodeid, name, 0))
            else:
                self.journal.note(journal.unnamed(node.nodeid, above.nodeid, name))
        self.removed(node)

    # Open files.

    def opened(self, handle: int, record: bytes) -> None:
        """Note an open file; *record* is `journal.opened` of it."""
        self._files[handle] = record
        self.journal.note(record)

    def released(self, handle: int) -> None:
        self._files.pop(handle, None)
        self.journal.note(journal.released(handle))
        if handle in self._kept:
            self._kept.discard(handle)
            self._link.drop(key_of(handle))

    def keep_open(self, node: File) -> None:
        """Have the supervisor keep the open files of *node*, which is about to lose a name, or has none."""
        if node.opens:
            opened = [file for file in node.opens if file.handle]  # 0: of `files.keep`, nobody's
            self._link.keep(*((key_of(file.handle), file.fd) for file in opened))
            self._kept.update(file.handle for file in opened)

    def nameless(self, node: File) -> None:
        """*node*, which has no name, was opened, or its open files lead to a copy now."""
        self.keep_open(node)
        self.journal.note(journal.gone(restore.gone(node)))
