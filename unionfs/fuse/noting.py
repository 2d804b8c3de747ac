"""The handlers of a mount that may be taken over: what a successor must know is written down as it happens.

Each of these does what its namesake in ``requests.py`` does, and notes it (``notes.py``, ``journal.py``).

A request that came before may come again: the server died when it had carried it out, or half of it, and
before it was answered. Its number says so. What matters is that the second time does no harm:

* What makes a name is undone, if it was done, and done again: the new thing is empty, and nobody has heard of it,
  as the kernel keeps the directory locked until it has our answer. A link is not: it may be the only name.
* What removes or moves a name is not done again if it was done.
* An open file that nobody got a handle for is closed, and opened again.
* An attribute that must be new, or be there to be removed, is not made or removed again if it was.
* Of data that go to the end of a file, what is there already is left out.
* To look, to read, to write at an offset, to set attributes, to allocate: they may be done twice.
"""

import os
from collections.abc import Callable
from typing import Final

from unionfs.core.nodes import Dir, File
from unionfs.fuse import wire
from unionfs.fuse.journal import DONE, FAILED, OPENED, pack_opened
from unionfs.fuse.notes import Notes
from unionfs.fuse.protocol import UNIQUE_RESEND, Opcode
from unionfs.fuse.requests import Answer, Head, Requests
from unionfs.linux.at import RENAME_EXCHANGE

__all__ = ["MAKING", "ONE_NODE", "NotingRequests"]

_DONE: Final = b""

_Handler = Callable[[int, memoryview, Head], Answer]


class NotingRequests(Requests):
    """The handlers of a mount that is written to, and may be taken over."""

    notes: Notes

    def note_in(self, notes: Notes) -> None:
        super().note_in(notes)
        self.notes = notes

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
        return self._change(super().link, body, head, (nodeid, name), (old, b""), self._union.node(old).ino)

    def create(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        name = wire.name(body[wire.CREATE.size :])
        return self._make(super().create, nodeid, body, head, name)

    def tmpfile(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        if head[2] & UNIQUE_RESEND:
            self._close_unheard(head, forget=True)
        return super().tmpfile(nodeid, body, head)

    def _make(self, handler: _Handler, nodeid: int, body: memoryview, head: Head, name: bytes) -> Answer:
        if head[2] & UNIQUE_RESEND and self.notes.recent.pop(head[2] & ~UNIQUE_RESEND, None) is not None:
            self._unmake(nodeid, name, head)
        return self._change(handler, body, head, (nodeid, name))

    def _unmake(self, parent: int, name: bytes, head: Head) -> None:
        """Undo what was done for a request of which nobody has heard that it was done."""
        self._close_unheard(head, forget=False)
        node, above = self._union.child(parent, name), self._union.node(parent)
        if node is None or not isinstance(above, Dir):
            return
        nodeid = node.nodeid
        self._union.discard(parent, name)
        self.notes.moved(node, (above, name))
        self._forget([(nodeid, 1)])

    def _close_unheard(self, head: Head, *, forget: bool) -> None:
        handle = self.notes.unheard.pop(head[2] & ~UNIQUE_RESEND, None)
        if handle is not None and self._union.has_file(handle):
            opened = self._union.file(handle)
            nodeid = opened.node.nodeid
            self._release(nodeid, handle, opened.flags)
            if forget:
                self._forget([(nodeid, 1)])

    def _change(
        self,
        handler: _Handler,
        body: memoryview,
        head: Head,
        source: tuple[int, bytes],
        target: tuple[int, bytes] = (0, b""),
        ino: int = 0,
    ) -> Answer:
        """Do what may not be done twice, of what is called *source*."""
        noted = self.notes.journal
        noted.begin(head[2] & ~UNIQUE_RESEND, head[1], source, target, (ino, 0))
        outcome = FAILED
        try:
            answer = handler(source[0], body, head)
            outcome = DONE
        finally:
            noted.end(outcome)
        return answer

    # What removes or moves one.

    def unlink(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        return self._remove(super().unlink, nodeid, body, head)

    def rmdir(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        return self._remove(super().rmdir, nodeid, body, head)

    def _remove(self, handler: _Handler, nodeid: int, body: memoryview, head: Head) -> Answer:
        unique = head[2]
        if unique & UNIQUE_RESEND:
            if self._was_done(head):
                return _DONE
            unique &= ~UNIQUE_RESEND
        name, notes = wire.name(body), self.notes
        node = self._union.child(nodeid, name)
        if node is None:
            return self._change(handler, body, head, (nodeid, name))
        moves = False
        if isinstance(node, File) and node.opens:
            notes.keep_open(node)
            moves = node.data is not None
        noted = notes.journal
        noted.begin(unique, head[1], (nodeid, name), (node.nodeid, b""))
        outcome = FAILED
        try:
            answer = handler(nodeid, body, head)
            if moves and isinstance(node, File):  # its open files lead to a copy now
                notes.keep_open(node)
            notes.removed(node)
            outcome = DONE
        finally:
            noted.end(outcome)
        return answer

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
        handler: _Handler,
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
        (source, goal), (old, new) = parents, names
        node, other = union.child(source, old), union.child(goal, new)
        ends = (union.node(source), old), (union.node(goal), new)
        if isinstance(other, File) and not exchange:
            notes.keep_open(other)
        inos = (node.ino if node else 0, other.ino if exchange and other else 0)
        noted = notes.journal
        noted.begin(head[2] & ~UNIQUE_RESEND, head[1], (source, old), (goal, new), inos)
        outcome = FAILED
        try:
            answer = handler(source, body, head)
            if other is not None:
                notes.moved(other, *(ends if exchange else ends[1:]))
            if node is not None:
                notes.moved(node, *ends)
            outcome = DONE
        finally:
            noted.end(outcome)
        return answer

    def _was_done(self, head: Head) -> bool:
        """Tell whether this is a request that was carried out by a server that died before it could say so."""
        unique = head[2]
        return bool(unique & UNIQUE_RESEND) and self.notes.recent.pop(unique & ~UNIQUE_RESEND, None) is not None

    # Open files.

    def open(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        if head[2] & UNIQUE_RESEND:
            self._close_unheard(head, forget=False)
        return super().open(nodeid, body, head)

    def _opened(self, fh: int, head: Head) -> bytes:
        file = self._union.file(fh)
        mode, backing = self._modes.opened(file, head[4])
        node, unique = file.node, head[2] & ~UNIQUE_RESEND
        to_root = backing and self._modes.lent[node.nodeid].to_root
        record = pack_opened(OPENED, to_root, 0, file.flags, fh, node.nodeid, unique, backing, mode)
        self.notes.opened(fh, record)
        if node.final is not None:
            self.notes.nameless(node)
        return wire.OPENED.pack(fh, mode, backing)

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

    def _once(self, handler: _Handler, nodeid: int, body: memoryview, head: Head, name: bytes) -> Answer:
        """Make an attribute that must not be there, or remove one that must be."""
        makes = head[1] == Opcode.SETXATTR
        is_possible = self._union.has_attribute(nodeid, name) is not makes
        if self._was_done(head):
            return _DONE
        if not is_possible:
            return handler(nodeid, body, head)  # which says why not
        return self._change(handler, body, head, (nodeid, name))

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
