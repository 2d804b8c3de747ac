"""What a successor has to know of a server that was killed, written down while it served.

The kernel speaks of inodes and open files by our numbers, and nothing on disk says what they meant. So each
change of their meaning is appended to memory that outlives the process: a memfd of which the supervisor has a
descriptor. A record costs less than a microsecond: it is packed, copied into the map, and counts from the moment
at which the map's first word, written by one machine instruction, says that it is there. A torn record never
counts.

A request that changes names is written down before and after: `Journal.begin` and `Journal.end`. What was
recorded between the two counts only with the latter. So at any moment there is at most one request of which a
successor does not know whether it was carried out, and he knows which (``takeover.py`` finds out).

Records of numbers that mean nothing any more are waste. When there is more of that than of anything else,
a new memfd is begun with what is left; the supervisor has the old one until then.
"""

import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from struct import Struct
from typing import Final, NamedTuple, final

from unionfs.core.awaited import Known
from unionfs.core.nodes import PRIVATE
from unionfs.core.restore import FIELDS, Gone, Opening

__all__ = ["FORM", "Begun", "Journal", "Opened", "Past", "read"]

FORM: Final = (1).to_bytes(8, "little")
"""The version of the records; a successor that knows another one cannot take over."""

_TAIL: Final = Struct("Q")
"""Native, so that it is stored by one instruction."""
_START: Final = 16
_FIRST_SIZE: Final = 1 << 20
_SLACK: Final = 50_000
"""Records that may be waste before it is worth while to look."""

_REMEMBERED: Final = 64
"""Requests done; only the last one before each death can come again."""

# Each begins with its kind, a small number, the length of the text at its end, and a number.
_NAMED: Final = Struct("=BBHIQQ")  # lookups to add; node id, parent's
_GIVEN: Final = Struct("=BBHIQQ")  # node id, lookups to add
_FORGOT: Final = Struct("=BBHIQQ")  # node id, lookups to take back
_UNNAMED: Final = Struct("=BBHIQQ")  # node id, parent's
_GONE: Final = Struct(f"=BBHIQQII{len(FIELDS)}q")  # lookups; node id, ino, layer, links left, attributes
_OPENED: Final = Struct("=BBHIQQQiI")  # lent to root, flags; handle, node id, unique, backing id, mode
_RELEASED: Final = Struct("=BBHIQ")  # handle
_BEGUN: Final = Struct("=BBHIQQQQQ")  # opcode, length of the first text; unique, node id, the other's, two inos
_ENDED: Final = Struct("=BBHI")  # 1 if it was done, 0 if it failed
_NUMBERS: Final = Struct("=BBHIQQ")  # next handle, next node id

_LAYOUTS: Final = (_ENDED, _NAMED, _GIVEN, _FORGOT, _UNNAMED, _GONE, _OPENED, _RELEASED, _BEGUN, _ENDED, _NUMBERS)
NAMED, GIVEN, FORGOT, UNNAMED, GONE, OPENED, RELEASED, BEGUN, ENDED, NUMBERS = range(1, len(_LAYOUTS))


class Opened(NamedTuple):
    """An open file, and the mode in which the kernel reads and writes it."""

    opening: Opening
    mode: int
    """OpenReply flags."""
    backing: int
    to_root: bool
    unique: int = 0
    """The request that opened it; 0 if that was long ago."""


class Begun(NamedTuple):
    """A request that changes names."""

    unique: int
    opcode: int
    parent: int
    name: bytes
    other: int = 0
    """The directory a rename leads to; the node that is linked."""
    other_name: bytes = b""
    inos: tuple[int, int] = (0, 0)
    """The inode number of what is linked or renamed, and in an exchange that of the other."""


@final
class Journal:
    """The writing side. Belongs to whoever holds the server's lock."""

    def __init__(self, records: Iterable[bytes] = ()) -> None:
        """Begin a journal with *records*."""
        self.fd = os.memfd_create("unionfs-journal", os.MFD_CLOEXEC)
        self._size = _FIRST_SIZE
        os.ftruncate(self.fd, self._size)
        self._map = mmap.mmap(self.fd, self._size)
        self._map[8:_START] = FORM
        self._tail = _START
        _TAIL.pack_into(self._map, 0, _START)
        self._records = 0
        """Those written since it was begun."""
        for record in records:
            self._append(record)
        self._records = 0

    def _append(self, record: bytes) -> None:
        start = self._tail
        end = start + len(record)
        if end > self._size:
            self._grow()
        self._map[start:end] = record
        self._tail = end
        self._records += 1
        _TAIL.pack_into(self._map, 0, end)

    def _grow(self) -> None:
        self._size *= 2
        self._map.resize(self._size)

    def is_wasteful(self, live: int) -> bool:
        """Tell whether to rewrite it, which would leave *live* records."""
        return self._records > 3 * live + _SLACK

    def close(self) -> None:
        self._map.close()
        os.close(self.fd)

    # Nodes.

    def named(self, nodeid: int, parent: int, name: bytes, count: int) -> None:
        """The kernel was told *count* times that this is the node of *name*."""
        self._append(named(nodeid, parent, name, count))

    def given(self, nodeid: int) -> None:
        """It was told once more of a node."""
        self._append(lookups(nodeid, 1))

    def forgot(self, nodeid: int, count: int) -> None:
        self._append(_FORGOT.pack(FORGOT, 0, 0, 0, nodeid, count))

    def unnamed(self, nodeid: int, parent: int, name: bytes) -> None:
        """The node has lost one of its names."""
        self._append(_UNNAMED.pack(UNNAMED, 0, len(name), 0, nodeid, parent) + name)

    def gone(self, node: Gone) -> None:
        """It has lost the last one."""
        self._append(gone(node))

    # Open files.

    def opened(self, file: Opened) -> None:
        self._append(opened(file))

    def released(self, handle: int) -> None:
        self._append(_RELEASED.pack(RELEASED, 0, 0, 0, handle))

    # Requests that change names.

    def begin(self, request: Begun) -> None:
        self._append(begun(request))

    def end(self, *, done: bool) -> None:
        self._append(ended(done=done))


def begun(request: Begun) -> bytes:
    unique, opcode, parent, name, other, other_name, inos = request
    length = len(name)
    head = _BEGUN.pack(BEGUN, opcode, length + len(other_name), length, unique, parent, other, *inos)
    return head + name + other_name


def ended(*, done: bool) -> bytes:
    return _ENDED.pack(ENDED, done, 0, 0)


def named(nodeid: int, parent: int, name: bytes, count: int) -> bytes:
    return _NAMED.pack(NAMED, 0, len(name), count, nodeid, parent) + name


def lookups(nodeid: int, count: int) -> bytes:
    return _GIVEN.pack(GIVEN, 0, 0, 0, nodeid, count)


def gone(node: Gone) -> bytes:
    nodeid, ino, layer, links_left, count, st = node
    return _GONE.pack(GONE, 0, 0, max(count, 0), nodeid, ino, layer, links_left, *st)


def opened(file: Opened) -> bytes:
    (handle, nodeid, flags), mode, backing, to_root, unique = file
    return _OPENED.pack(OPENED, to_root, 0, flags, handle, nodeid, unique, backing, mode)


def numbers(next_handle: int, next_id: int) -> bytes:
    return _NUMBERS.pack(NUMBERS, 0, 0, 0, next_handle, next_id)


@dataclass(slots=True)
class Past:
    """What a journal says was known."""

    known: dict[int, Known] = field(default_factory=dict)
    gone: dict[int, Gone] = field(default_factory=dict)
    files: dict[int, Opened] = field(default_factory=dict)
    last_handle: int = 0
    next_id: int = 0
    recent: dict[int, Begun] = field(default_factory=dict)
    """The last requests that changed names and were done, by number."""
    unsure: Begun | None = None
    """The last one, if it is not known whether it was done."""

    def apply(self, kind: int, fields: tuple[int, ...], text: bytes) -> None:
        if kind == NAMED:
            self.named(fields[4], (fields[5], text), fields[3])
        elif kind == GIVEN:
            self._count(fields[4], fields[5])
        elif kind == FORGOT:
            self._count(fields[4], -fields[5])
        elif kind == UNNAMED:
            self.unnamed(fields[4], (fields[5], text))
        elif kind == GONE:
            self.known.pop(fields[4], None)
            count, nodeid, ino, layer, links_left, *st = fields[3:]
            self.gone[nodeid] = Gone(nodeid, ino, layer, links_left, count, tuple(st))
        elif kind == OPENED:
            to_root, _, flags, handle, nodeid, unique, backing, mode = fields[1:]
            self.files[handle] = Opened(Opening(handle, nodeid, flags), mode, backing, bool(to_root), unique)
            self.last_handle = max(self.last_handle, handle)
        elif kind == RELEASED:
            self.files.pop(fields[4], None)
        else:
            self.last_handle, self.next_id = fields[4:]

    def remember(self, done: Begun) -> None:
        """Note that a request was done, in case that it comes again."""
        self.recent[done.unique] = done
        if len(self.recent) > _REMEMBERED:
            del self.recent[next(iter(self.recent))]

    def named(self, nodeid: int, name: tuple[int, bytes], count: int) -> None:
        """Note that a node has a name, and that the kernel was told *count* times more of it."""
        lost = self.gone.pop(nodeid, None)
        known = self.known.get(nodeid)
        if known is None:
            known = self.known[nodeid] = Known(nodeid, lookups=lost.lookups if lost is not None else 0)
        known.names.pop(name, None)
        known.names[name] = None
        known.lookups += count
        if nodeid >= PRIVATE:
            self.next_id = max(self.next_id, nodeid + 1)

    def unnamed(self, nodeid: int, name: tuple[int, bytes]) -> None:
        known = self.known.get(nodeid)
        if known is not None:
            known.names.pop(name, None)

    def _count(self, nodeid: int, change: int) -> None:
        known = self.known.get(nodeid)
        if known is not None:
            known.lookups += change
            if known.lookups <= 0 and change < 0:
                del self.known[nodeid]
        elif (lost := self.gone.get(nodeid)) is not None:
            self.gone[nodeid] = lost._replace(lookups=lost.lookups + change)


def read(fd: int) -> Past:
    """Return what the journal of *fd* says.

    Raises:
        ValueError: it is not one of this version.
    """
    past = Past()
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as data:
        (tail,) = _TAIL.unpack_from(data)
        if data[8:_START] != FORM:
            raise ValueError("the notes of the last server are in another form")
        at, waiting = _START, list[tuple[int, tuple[int, ...], bytes]]()
        while at < tail:
            kind = data[at]
            layout = _LAYOUTS[kind]
            fields = layout.unpack_from(data, at)
            at += layout.size + fields[2]
            text = data[at - fields[2] : at]
            if kind == BEGUN:
                past.unsure = _begun(fields, text)
            elif kind == ENDED:
                for each in waiting:
                    past.apply(*each)
                waiting.clear()
                if past.unsure is not None and fields[1]:
                    past.remember(past.unsure)
                past.unsure = None
            elif past.unsure is not None:
                waiting.append((kind, fields, text))
            else:
                past.apply(kind, fields, text)
    return past


def _begun(fields: tuple[int, ...], text: bytes) -> Begun:
    _, opcode, _, length, unique, parent, other, *inos = fields
    return Begun(unique, opcode, parent, text[:length], other, text[length:], (inos[0], inos[1]))
