"""Read a tar archive as a stream of members, strictly.

The stdlib's tarfile is the oracle of the tests, not the reader: it ends silently at a damaged header in
the middle of an archive, lets a pax record claim gigabytes of memory, and takes four times as long for
a small file. In memory at a time: one chunk of the source and one header's records.

Global pax headers are skipped: they carry a comment in practice, and a "path" in one would name every
file alike.
"""

from collections.abc import Iterator
from typing import Final

from unionfs.oci.digest import CHUNK, Reader
from unionfs.oci.tarheader import (
    BLOCK,
    MAX_SPECIAL,
    Member,
    check_header,
    checked_extents,
    number,
    old_sparse_map,
    parse_member,
    pax_records,
    pax_sparse_map,
    refuse,
)

__all__ = ["TarReader"]

_ZEROS: Final = bytes(BLOCK)


class TarReader:
    """Iterate over the members; between two of them, `content` yields the current one's bytes."""

    def __init__(self, source: Reader) -> None:
        self._source = source
        self._buffer = b""
        self._at = 0
        self._left = 0
        self._member: Member | None = None
        self._taken = 0
        self.ended = False
        """True once the end-of-archive mark was seen; without it, the archive may be cut short."""

    def __iter__(self) -> Iterator[Member]:
        said: dict[str, bytes] = {}
        while (header := self._next_header()) is not None:
            kind = header[156:157]
            if kind in {b"x", b"g", b"L", b"K", b"X", b"N"}:
                self._announced(kind, self._special(number(header[124:136])), said)
                continue
            self._member = member = self._with_holes(parse_member(header, said), header, said)
            said = {}
            self._left, padding = member.stored, -member.stored % BLOCK
            yield member
            self._skip(self._left + padding)
        if said:
            refuse("it ends after a header that announces another")

    def content(self) -> Iterator[tuple[int, bytes]]:
        """Yield the current member's content as (offset, bytes), in chunks."""
        if self._member is None:
            return
        for start, length in self._member.extents or ((0, self._left),):
            at, end = start, start + length
            while at < end:
                chunk = self._some(end - at)
                self._left -= len(chunk)
                yield at, chunk
                at += len(chunk)

    @property
    def position(self) -> int:
        """Where in the source the next byte is: right after a member came out, where its content begins."""
        return self._taken - len(self._buffer) + self._at

    def drain(self) -> None:
        """Read what follows the end mark, so that the whole stream was seen by whoever digests it."""
        self._buffer, self._at = b"", 0
        while self._source.read(CHUNK):
            pass

    def _fill(self) -> bool:
        """Have at least one byte in the buffer; False at the end of the source."""
        if self._at >= len(self._buffer):
            self._buffer, self._at = self._source.read(CHUNK), 0
            self._taken += len(self._buffer)
        return bool(self._buffer)

    def _some(self, most: int) -> bytes:
        """Return between 1 and *most* bytes."""
        if not self._fill():
            refuse("it is cut short")
        chunk = self._buffer[self._at : self._at + most]
        self._at += len(chunk)
        return chunk

    def _exactly(self, size: int) -> bytes:
        chunk = self._some(size) if size else b""
        while len(chunk) < size:
            chunk += self._some(size - len(chunk))
        return chunk

    def _skip(self, size: int) -> None:
        while size:
            size -= len(self._some(size))

    def _next_header(self) -> bytes | None:
        """Return the next header, checked; None at the end of the archive."""
        if not self._fill():
            return None
        header = self._exactly(BLOCK)
        if header == _ZEROS:
            self.ended = True
            return None
        check_header(header)
        return header

    def _special(self, size: int) -> bytes:
        if not 0 <= size <= MAX_SPECIAL:
            refuse(f"a header of {size} bytes")
        content = self._exactly(size)
        self._skip(-size % BLOCK)
        return content

    @staticmethod
    def _announced(kind: bytes, content: bytes, said: dict[str, bytes]) -> None:
        """Add to *said* what a header says about the member after it."""
        if kind == b"L":
            said["path"] = content.split(b"\0", 1)[0]
        elif kind == b"K":
            said["linkpath"] = content.split(b"\0", 1)[0]
        elif kind == b"x":
            said.update(pax_records(content))
        elif kind != b"g":
            refuse(f"a header of obsolete type {kind.decode()}")

    def _with_holes(self, member: Member, header: bytes, said: dict[str, bytes]) -> Member:
        if header[156:157] == b"S":
            return self._old_sparse(member, header)
        if "GNU.sparse.map" not in said and "GNU.sparse.major" not in said:
            return member
        if "GNU.sparse.map" in said:
            fields = said["GNU.sparse.map"].split(b",")
        else:
            fields, used = self._sparse_map(member.stored)
            member = member._replace(stored=member.stored - used)
        text = said.get("GNU.sparse.realsize") or said.get("GNU.sparse.size") or b"?"
        ((size, _),) = pax_sparse_map([text, b"0"])
        return member._replace(
            path=said.get("GNU.sparse.name", member.path),
            size=size,
            extents=checked_extents(pax_sparse_map(fields), size, member.stored),
        )

    def _old_sparse(self, member: Member, header: bytes) -> Member:
        extents = list(old_sparse_map(header[386:482]))
        size, more = number(header[483:495]), header[482]
        while more:
            block = self._exactly(BLOCK)
            extents += old_sparse_map(block[:504])
            more = block[504]
            if len(extents) * 24 > MAX_SPECIAL:
                refuse(f"{member.path!r} has too many holes")
        return member._replace(size=size, extents=checked_extents(extents, size, member.stored))

    def _sparse_map(self, stored: int) -> tuple[list[bytes], int]:
        """Read the map of format 1.0, which stands before the content; also returns its size in bytes."""
        text, wanted = b"", 1
        while text.count(b"\n") < wanted:
            if len(text) + BLOCK > min(stored, MAX_SPECIAL):
                refuse("a malformed sparse map")
            text += self._exactly(BLOCK)
            count, newline, _ = text.partition(b"\n")
            if newline:
                ((extents, _),) = pax_sparse_map([count, b"0"])
                wanted = 2 * min(extents, MAX_SPECIAL) + 1
        return text.split(b"\n")[1:wanted], len(text)
