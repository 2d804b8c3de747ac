"""What a successor has to know of a server that was killed, written down while it served.

The kernel speaks of inodes and open files by our numbers, and nothing on disk says what they meant. So each
change of their meaning is appended to memory that outlives the process: a memfd of which the supervisor has a
descriptor. A record costs less than a microsecond: it is packed, copied into the map, and counts from the moment
at which the map's first word, written by one machine instruction, says that it is there. A torn record never
counts.

A request that changes names is written down before, and what came of it into the same record after: `Journal.begin`
and `Journal.end`. What was recorded between the two counts only with the latter. So at any moment there is at most
one request of which a successor does not know whether it was carried out, and he knows which (``takeover.py`` finds
out).

Records of numbers that mean nothing any more are waste. When a journal is several times as long as it began,
a new one is begun with what is left; the supervisor has the old one until then.
"""

import mmap
import os
from collections.abc import Iterable
from struct import Struct
from typing import Final, NamedTuple, final

from unionfs.core.awaited import Known
from unionfs.core.nodes import PRIVATE
from unionfs.core.restore import FIELDS, Gone, Opening
from unionfs.fuse.protocol import Opcode

__all__ = ["FORM", "Begun", "Journal", "Opened", "Past", "read"]

FORM: Final = (2).to_bytes(8, "little")
"""The version of the records; a successor that knows another one cannot take over."""

_TAIL: Final = Struct("Q")
"""Native, so that it is stored by one instruction."""
_START: Final = 16
_FIRST_SIZE: Final = 1 << 20
_GROWTH: Final = 4
_SLACK: Final = 4 << 20
"""Bytes that may be waste before it is worth while to look."""

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
_BEGUN: Final = Struct("=BBHBxHQQQQQ")  # outcome; opcode, length of the first text; unique, node ids, two inos
_NUMBERS: Final = Struct("=BBHIQQ")  # next handle, next node id

_LAYOUTS: Final = (_NUMBERS, _NAMED, _GIVEN, _FORGOT, _UNNAMED, _GONE, _OPENED, _RELEASED, _BEGUN)
NUMBERS, NAMED, GIVEN, FORGOT, UNNAMED, GONE, OPENED, RELEASED, BEGUN = range(len(_LAYOUTS))

_OUTCOME: Final = 1
"""Where the outcome stands in a BEGUN."""
UNKNOWN, DONE, FAILED = range(3)

pack_opened = _OPENED.pack
_put_tail, _pack_named, _pack_count, _pack_released, _pack_begun = (
    _TAIL.pack_into,
    _NAMED.pack,
    _GIVEN.pack,
    _RELEASED.pack,
    _BEGUN.pack,
)
_REMOVING: Final = frozenset({Opcode.UNLINK, Opcode.RMDIR})


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
    """The directory a rename leads to; the node that is linked or removed."""
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
        self._tail = self._begun = _START
        _TAIL.pack_into(self._map, 0, _START)
        for record in records:
            self.note(record)
        self._limit = _GROWTH * self._tail + _SLACK

    def note(self, record: bytes) -> None:
        """Append a record, or several: they count all at once."""
        start = self._tail
        self._tail = end = start + len(record)
        while end > self._size:
            self._grow()
        self._map[start:end] = record
        _put_tail(self._map, 0, end)

    def _grow(self) -> None:
        self._size *= 2
        self._map.resize(self._size)

    @property
    def is_wasteful(self) -> bool:
        """Whether to rewrite it."""
        return self._tail > self._limit

    def close(self) -> None:
        self._map.close()
        os.close(self.fd)

    # Requests that change names.

    def begin(
        self,
        unique: int,
        opcode: int,
        source: tuple[int, bytes],
        target: tuple[int, bytes] = (0, b""),
        inos: tuple[int, int] = (0, 0),
    ) -> None:
        """Note a request that is about to be carried out; see `Begun`."""
        self._begun = self._tail
        self.note(begun(unique, opcode, source, target, inos))

    def end(self, outcome: int) -> None:
        """Note what came of it: DONE or FAILED. A name that was removed need not be noted besides."""
        self._map[self._begun + _OUTCOME] = outcome


def begun(
    unique: int,
    opcode: int,
    source: tuple[int, bytes],
    target: tuple[int, bytes] = (0, b""),
    inos: tuple[int, int] = (0, 0),
    outcome: int = UNKNOWN,
) -> bytes:
    (parent, name), (other, other_name), (ino, other_ino) = source, target, inos
    length = len(name)
    total = length + len(other_name)
    head = _pack_begun(BEGUN, outcome, total, opcode, length, unique, parent, other, ino, other_ino)
    return head + name + other_name


def named(nodeid: int, parent: int, name: bytes, count: int) -> bytes:
    """The kernel was told *count* times that this is the node of *name*."""
    return _pack_named(NAMED, 0, len(name), count, nodeid, parent) + name


def unnamed(nodeid: int, parent: int, name: bytes) -> bytes:
    """The node has lost one of its names."""
    return _UNNAMED.pack(UNNAMED, 0, len(name), 0, nodeid, parent) + name


def lookups(nodeid: int, count: int) -> bytes:
    """It was told *count* times more of a node that it knows."""
    return _pack_count(GIVEN, 0, 0, 0, nodeid, count)


def forgot(nodeid: int, count: int) -> bytes:
    return _pack_count(FORGOT, 0, 0, 0, nodeid, count)


def gone(node: Gone) -> bytes:
    """It has lost the last of its names."""
    nodeid, ino, layer, links_left, count, st = node
    return _GONE.pack(GONE, 0, 0, max(count, 0), nodeid, ino, layer, links_left, *st)


def opened(file: Opened) -> bytes:
    (handle, nodeid, flags), mode, backing, to_root, unique = file
    return pack_opened(OPENED, to_root, 0, flags, handle, nodeid, unique, backing, mode)


def released(handle: int) -> bytes:
    return _pack_released(RELEASED, 0, 0, 0, handle)


def numbers(next_handle: int, next_id: int) -> bytes:
    return _NUMBERS.pack(NUMBERS, 0, 0, 0, next_handle, next_id)


@final
class Past:
    """What a journal says was known."""

    def __init__(self) -> None:
        self.known: dict[int, Known] = {}
        self.gone: dict[int, Gone] = {}
        self.files: dict[int, Opened] = {}
        self.last_handle = 0
        self.next_id = 0
        self.recent: dict[int, Begun] = {}
        """The last requests that changed names and were done, by number."""
        self.unsure: Begun | None = None
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
        if done.opcode in _REMOVING:
            self.unnamed(done.other, (done.parent, done.name))
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
        at = _START
        while at < tail:
            kind = data[at]
            layout = _LAYOUTS[kind]
            fields = layout.unpack_from(data, at)
            at += layout.size + fields[2]
            text = data[at - fields[2] : at]
            if kind != BEGUN:
                past.apply(kind, fields, text)
            elif fields[1] == UNKNOWN:  # the last one; what was noted after does not count
                past.unsure = _begun(fields, text)
                break
            elif fields[1] == DONE:
                past.remember(_begun(fields, text))
    return past


def _begun(fields: tuple[int, ...], text: bytes) -> Begun:
    _, _, _, opcode, length, unique, parent, other, ino, other_ino = fields
    return Begun(unique, opcode, parent, text[:length], other, text[length:], (ino, other_ino))
