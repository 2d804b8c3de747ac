"""The handlers of a mount that may be taken over: what a successor must know is written down as it happens.

Each of these does what its namesake in ``requests.py`` does, and notes it. The notes are records in the journal
(``journal.py``), and descriptors that the supervisor keeps: of open files that lose their last name, because
nothing on disk leads to them any more.

A request that came before may come again: the server died when it had carried it out, or half of it, and
before it was answered. Its number says so. What matters is that the second time does no harm:

* What makes a name is undone, if it was done, and done again: the new thing is empty, and nobody has heard of it,
  as the kernel keeps the directory locked until it has our answer. A link is not: it may be the only name.
* What removes or moves a name is not done again if it was done.
* An open file that nobody got a handle for is closed, and opened again.
* To look, to read, to write at an offset, to set attributes, to allocate: they may be done twice.
"""

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from unionfs.core import restore
from unionfs.core.nodes import Dir, File, Node
from unionfs.core.restore import Opening
from unionfs.fuse import journal, wire
from unionfs.fuse.frozen import FrozenRequests
from unionfs.fuse.journal import Begun, Journal, Opened, Past
from unionfs.fuse.protocol import UNIQUE_RESEND, Opcode
from unionfs.fuse.requests import Answer, Head, Requests
from unionfs.linux.at import RENAME_EXCHANGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from unionfs.core.union import Entry, Union
    from unionfs.fuse.supervisor import Link

__all__ = ["Notes", "NotingFrozen", "NotingRequests", "key_of"]

_DONE: Final = b""


def key_of(handle: int) -> bytes:
    """Return the key under which the supervisor keeps an open file."""
    return b"file %d" % handle


@final
class Notes:
    """The journal of one mount, and what the supervisor keeps besides."""

    def __init__(self, union: "Union", link: "Link", past: Past | None, kept: "Mapping[bytes, int]") -> None:
        """Begin to note. *past* is what was noted before we took over, and is in the tables of *union* by now.

        *kept* is what the supervisor had then.
        """
        self._union = union
        self._link = link
        self._files = dict(past.files) if past is not None else {}
        """The open files, as they were noted."""
        self._kept = {handle for handle in self._files if key_of(handle) in kept}
        """Handles of files that the supervisor keeps."""
        self.recent = past.recent if past is not None else {}
        """Requests of before that may come again, by number, and were done."""
        self.unsure = past.unsure if past is not None else None
        """One of before of which it is not known, and is to be found out when it comes again."""
        self.unheard = {file.unique: handle for handle, file in self._files.items() if file.unique}
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
            yield from (journal.begun(request), journal.ended(done=True))
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
        for file in self._files.values():
            yield journal.opened(file)

    def tidy(self) -> None:
        """Begin a new journal if most of the old one is waste."""
        if self.journal.is_wasteful(self._union.stats()["nodes"] + len(self._files)):
            old, self.journal = self.journal, Journal(self._records())
            self._link.keep((b"journal", self.journal.fd))
            old.close()

    # Nodes.

    def entry(self, node: Node) -> None:
        """The kernel is told of *node* once more."""
        if node.final is not None:
            self.journal.gone(restore.gone(node))
        elif node.lookups == 1 or (isinstance(node, File) and node.links is not None):
            self.journal.named(node.nodeid, node.parent.nodeid, node.name, 1)
        else:
            self.journal.given(node.nodeid)

    def moved(self, node: Node | None, *names: tuple[Dir, bytes]) -> None:
        """*node* may have lost or got some of *names*."""
        if node is None or node.lookups <= 0:
            return
        if node.final is not None:
            self.journal.gone(restore.gone(node))
            return
        for above, name in names:
            if above.children.get(name) is node:
                self.journal.named(node.nodeid, above.nodeid, name, 0)
            else:
                self.journal.unnamed(node.nodeid, above.nodeid, name)

    # Open files.

    def opened(self, file: Opened) -> None:
        self._files[file.opening.handle] = file
        self.journal.opened(file)

    def released(self, handle: int) -> None:
        self._files.pop(handle, None)
        self.journal.released(handle)
        if handle in self._kept:
            self._kept.discard(handle)
            self._link.drop(key_of(handle))

    def keep_open(self, node: Node | None) -> None:
        """Have the supervisor keep the open files of *node*, which is about to lose a name, or has none."""
        if isinstance(node, File) and node.opens:
            opened = [file for file in node.opens if file.handle]  # 0: of `files.keep`, nobody's
            self._link.keep(*((key_of(file.handle), file.fd) for file in opened))
            self._kept.update(file.handle for file in opened)

    def copied(self, node: File) -> None:
        """The open files of *node*, which has no name, lead to a copy now."""
        self.keep_open(node)
        self.journal.gone(restore.gone(node))


class _Noting(Requests):
    """What is noted of every mount: the nodes that the kernel knows."""

    notes: Notes

    def note_in(self, notes: Notes) -> None:
        """Begin to note; before the first request."""
        self.notes = notes
        self._union.on_nameless_copy(notes.copied)

    def _entry(self, found: "Entry") -> bytes:
        self.notes.entry(found[0])
        return super()._entry(found)

    def batch_forget(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        super().batch_forget(nodeid, body, head)
        self.notes.tidy()
        return None

    def _forget(self, nodeid: int, count: int) -> None:
        self.notes.journal.forgot(nodeid, count)
        super()._forget(nodeid, count)


class NotingFrozen(_Noting, FrozenRequests):
    """For a union that cannot change."""


class NotingRequests(_Noting):
    """For all others."""

    # What makes a name.

    def mknod(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        name = wire.name(body[wire.MKNOD.size :])
        return self._make(super().mknod, nodeid, body, head, name)

    def mkdir(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        name = wire.name(body[wire.MKDIR.size :])
        return self._make(super().mkdir, nodeid, body, head, name)

    def symlink(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        return self._make(super().symlink, nodeid, body, head, wire.names(body)[0])

    def link(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        (old,), name = wire.LINK.unpack_from(body), wire.name(body[wire.LINK.size :])
        if self._was_done(head):  # undone, a file that has no other name could not be linked again
            return self._entry(self._union.lookup(nodeid, name))
        begun = Begun(head[2] & ~UNIQUE_RESEND, head[1], nodeid, name, old, b"", (self._union.node(old).ino, 0))
        return self._change(begun, super().link, body, head)

    def create(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        name = wire.name(body[wire.CREATE.size :])
        return self._make(self._create, nodeid, body, head, name)

    def _create(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        return self._note_opened(super().create(nodeid, body, head), body, head)

    def tmpfile(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        if head[2] & UNIQUE_RESEND:
            self._close_unheard(head, forget=True)
        return self._note_opened(super().tmpfile(nodeid, body, head), body, head)

    def _note_opened(self, answer: Answer, body: memoryview, head: Head) -> Answer:
        if isinstance(answer, bytes):
            (nodeid,) = wire.OFFSET.unpack_from(answer)
            self._opened(answer, wire.ENTRY.size, nodeid, body, head)
        return answer

    def _make(
        self, handler: Callable[[int, memoryview, Head], Answer], nodeid: int, body: memoryview, head: Head, name: bytes
    ) -> Answer:
        if head[2] & UNIQUE_RESEND and self.notes.recent.pop(head[2] & ~UNIQUE_RESEND, None) is not None:
            self._unmake(nodeid, name, head)
        return self._change(Begun(head[2] & ~UNIQUE_RESEND, head[1], nodeid, name), handler, body, head)

    def _unmake(self, parent: int, name: bytes, head: Head) -> None:
        """Undo what was done for a request of which nobody has heard that it was done."""
        self._close_unheard(head, forget=False)
        node, above = self._union.child(parent, name), self._union.node(parent)
        if node is None or not isinstance(above, Dir):
            return
        nodeid = node.nodeid
        self._union.discard(parent, name)
        self.notes.moved(node, (above, name))
        self._forget(nodeid, 1)

    def _close_unheard(self, head: Head, *, forget: bool) -> None:
        handle = self.notes.unheard.pop(head[2] & ~UNIQUE_RESEND, None)
        if handle is not None and self._union.has_file(handle):
            opened = self._union.file(handle)
            nodeid = opened.node.nodeid
            self._release(nodeid, handle, opened.flags)
            if forget:
                self._forget(nodeid, 1)

    def _change(
        self, begun: Begun, handler: Callable[[int, memoryview, Head], Answer], body: memoryview, head: Head
    ) -> Answer:
        self.notes.journal.begin(begun)
        done = False
        try:
            answer = handler(begun.parent, body, head)
            done = True
        finally:
            self.notes.journal.end(done=done)
        return answer

    # What removes or moves one.

    def unlink(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        return self._remove(super().unlink, nodeid, body, head)

    def rmdir(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        return self._remove(super().rmdir, nodeid, body, head)

    def _remove(
        self, handler: Callable[[int, memoryview, Head], Answer], nodeid: int, body: memoryview, head: Head
    ) -> Answer:
        if self._was_done(head):
            return _DONE
        name, notes = wire.name(body), self.notes
        node, above = self._union.child(nodeid, name), self._union.node(nodeid)
        notes.keep_open(node)
        has_data_below = isinstance(node, File) and node.data is not None

        def remove(parent: int, rest: memoryview, head: Head) -> Answer:
            answer = handler(parent, rest, head)
            if has_data_below:  # its open files lead to a copy now
                notes.keep_open(node)
            if isinstance(above, Dir):
                notes.moved(node, (above, name))
            return answer

        return self._change(Begun(head[2] & ~UNIQUE_RESEND, head[1], nodeid, name), remove, body, head)

    def rename(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        (target,) = wire.RENAME.unpack_from(body)
        names = wire.names(body[wire.RENAME.size :])
        return self._move(super().rename, (nodeid, target), names, body, head)

    def rename2(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        target, flags = wire.RENAME2.unpack_from(body)
        names = wire.names(body[wire.RENAME2.size :])
        return self._move(super().rename2, (nodeid, target), names, body, head, exchange=bool(flags & RENAME_EXCHANGE))

    def _move(
        self,
        handler: Callable[[int, memoryview, Head], Answer],
        parents: tuple[int, int],
        names: tuple[bytes, bytes],
        body: memoryview,
        head: Head,
        *,
        exchange: bool = False,
    ) -> Answer:
        if self._was_done(head):
            return _DONE
        notes, union = self.notes, self._union
        nodes = [union.child(parent, name) for parent, name in zip(parents, names, strict=True)]
        above = [union.node(parent) for parent in parents]
        inos = (nodes[0].ino if nodes[0] else 0, nodes[1].ino if exchange and nodes[1] else 0)
        if not exchange:
            notes.keep_open(nodes[1])

        def move(parent: int, rest: memoryview, head: Head) -> Answer:
            answer = handler(parent, rest, head)
            ends = [(each, name) for each, name in zip(above, names, strict=True) if isinstance(each, Dir)]
            for node in nodes:
                notes.moved(node, *ends)
            return answer

        unique = head[2] & ~UNIQUE_RESEND
        return self._change(Begun(unique, head[1], parents[0], names[0], parents[1], names[1], inos), move, body, head)

    def _was_done(self, head: Head) -> bool:
        """Tell whether this is a request that was carried out by a server that died before it could say so."""
        unique = head[2]
        return bool(unique & UNIQUE_RESEND) and self.notes.recent.pop(unique & ~UNIQUE_RESEND, None) is not None

    # Open files.

    def open(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        if head[2] & UNIQUE_RESEND:
            self._close_unheard(head, forget=False)
        answer = super().open(nodeid, body, head)
        if isinstance(answer, bytes):
            self._opened(answer, 0, nodeid, body, head)
        return answer

    def _opened(self, answer: bytes, at: int, nodeid: int, body: memoryview, head: Head) -> None:
        handle, mode, backing = wire.OPENED.unpack_from(answer, at)
        (flags,) = wire.FLAGS.unpack_from(body)
        lent = self._modes.lent.get(nodeid)
        to_root = lent is not None and lent.to_root
        unique = head[2] & ~UNIQUE_RESEND
        self.notes.opened(Opened(Opening(handle, nodeid, flags), mode, backing, to_root, unique))
        node = self._union.node(nodeid)
        if node.final is not None:  # no name leads to it
            self.notes.keep_open(node)

    def release(self, nodeid: int, body: memoryview, _head: Head) -> Answer:
        handle, flags, _ = wire.RELEASE.unpack_from(body)
        if self._union.has_file(handle):  # else it was closed by a server that died before it could say so
            self._release(nodeid, handle, flags)
        return _DONE

    def _release(self, nodeid: int, handle: int, flags: int) -> None:
        self.notes.released(handle)
        self._modes.released(nodeid, flags)
        self._union.release(handle)
        self.notes.tidy()

    # Attributes that may be made or removed only once.

    def setxattr(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        name, _, flags, _ = wire.setxattr(body, self._setxattr)
        if not flags & os.XATTR_CREATE:
            return super().setxattr(nodeid, body, head)
        return self._once(super().setxattr, nodeid, body, head, name)

    def removexattr(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        return self._once(super().removexattr, nodeid, body, head, wire.name(body))

    def _once(
        self, handler: Callable[[int, memoryview, Head], Answer], nodeid: int, body: memoryview, head: Head, name: bytes
    ) -> Answer:
        """Make an attribute that must not be there, or remove one that must be."""
        makes = head[1] == Opcode.SETXATTR
        is_possible = self._has(nodeid, name) is not makes
        if self._was_done(head) or (not is_possible and self._is_unsure(head)):
            return _DONE
        if not is_possible:
            return handler(nodeid, body, head)  # which says why not
        return self._change(Begun(head[2] & ~UNIQUE_RESEND, head[1], nodeid, name), handler, body, head)

    def _has(self, nodeid: int, name: bytes) -> bool:
        try:
            self._union.getxattr(nodeid, name)
        except OSError as exc:
            return exc.errno != errno.ENODATA
        return True

    def _is_unsure(self, head: Head) -> bool:
        """Tell whether this is the request that the last server had begun; it had found it possible then."""
        begun = self.notes.unsure
        return begun is not None and head[2] == begun.unique | UNIQUE_RESEND

    # Data that go to the end of the file, wherever that is by now.

    def write(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        if head[2] & UNIQUE_RESEND:
            fh, offset, _, data = wire.write_data(body)
            written = self._union.appended(fh, offset, len(data))
            if written:
                self._union.write(fh, data[written:], offset + written)
                return wire.WRITTEN.pack(len(data))
        return super().write(nodeid, body, head)


MAKING: Final = frozenset({Opcode.MKNOD, Opcode.MKDIR, Opcode.SYMLINK, Opcode.LINK, Opcode.CREATE})
"""Requests that make a name."""

ONE_NODE: Final = frozenset({Opcode.SETXATTR, Opcode.REMOVEXATTR})
"""Requests that change no name."""
