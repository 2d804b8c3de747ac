"""Listings of directories, with offsets that outlive the listing.

The kernel keeps a listing in its cache and drops it at the next change; whoever was reading it then asks us
for the rest, by the offset where he stood. We may have that listing no more, or have a newer one, and he may
have removed what he had read so far (rm -rf does). An index into a list would lead him past names that
nobody touched. So names are sorted by a number of their own, which is the offset: whatever the listing, what comes
after an offset is what was not read yet, and no untouched name is missed or shown twice.

That number is what the name, read as one long number, leaves when it is divided by a random one of 61 bits. A process
that takes the mount over is told the divisor, as the kernel still knows offsets; Python's own hash could not be told.
That two of a million names leave the same is about as likely as a meteorite, whoever chose them, and would hide one
of them from one listing.

As no offset needs a handle, directories are neither opened nor closed: OPENDIR is answered ENOSYS, which saves
it and RELEASEDIR, two of five requests for each directory of a cold walk and two of three of a warm one.
A listing is kept while somebody reads it: it begins at offset 0, and ends where there is no more.

The kernel's cache of a listing serves only those who begin when somebody has read it to its end. Several who walk
one tree side by side all ask us, each for every directory. So the last answers, with the attributes of all that is
listed, are kept as well (`Pages`), until anything may have changed.
"""

import os
from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unionfs.core.nodes import Node
    from unionfs.core.readdir import Listed
    from unionfs.core.union import Union

__all__ = ["DIVISOR", "Listing", "Listings", "Page", "Pages"]

KEPT: Final = 64
"""Listings that were begun and not read to their end, and pages; the oldest go first."""

_DOTS: Final = (1, 2)
"""The offsets after ``.`` and ``..``, which come first."""
_FIRST: Final = 3
"""The least that other names have."""


class _Divisor:
    """What makes offsets: one number for all listings of a mount."""

    def __init__(self) -> None:
        self.value = 1 << 60 | int.from_bytes(os.urandom(7), "big")


DIVISOR: Final = _Divisor()


class Listing:
    """The names of a directory in the order of their offsets, in columns: 25 bytes for each besides the name.

    An entry is an index into all four.
    """

    __slots__ = ("inos", "kinds", "names", "offsets")

    def __init__(self, entries: "Sequence[Listed]") -> None:
        divisor, number = DIVISOR.value, int.from_bytes
        named = sorted([(number(name, "big") % divisor + _FIRST, name, ino, kind) for name, ino, kind in entries[2:]])
        dots = [(offset, *entry) for offset, entry in zip(_DOTS, entries, strict=False)]
        offsets, self.names, inos, kinds = zip(*dots, *named, strict=True)
        self.offsets = array("q", offsets)
        """What follows each entry begins there."""
        self.inos = array("Q", inos)
        self.kinds = bytes(kinds)

    def after(self, offset: int) -> range:
        """Return the entries that come after *offset*."""
        return range(bisect_right(self.offsets, offset), len(self.offsets))

    def fitting(self, offset: int, size: int, overhead: int) -> range:
        """Return those of them that fit into *size* bytes: names padded to eight, and *overhead* more for each."""
        rest = self.after(offset)
        for index in rest:
            size -= overhead + (len(self.names[index]) + 7 & ~7)
            if size < 0:
                return range(rest.start, index)
        return rest


class Listings:
    """The listings that are being read, by directory."""

    def __init__(self, union: "Union") -> None:
        self._union = union
        self._kept: dict[int, Listing] = {}
        self.pages = Pages()

    def at(self, nodeid: int, offset: int) -> Listing:
        """Return the listing for a reader who stands at *offset*; 0 takes a new one."""
        listing = self._kept.get(nodeid) if offset else None
        if listing is None:
            listing = self._kept[nodeid] = self._take(nodeid)
            if len(self._kept) > KEPT:
                del self._kept[next(iter(self._kept))]
        return listing

    def _take(self, nodeid: int) -> Listing:
        if self._union.is_listing_noted(nodeid):
            self.pages.clear()  # one of the directory above tells when this one was read
        return Listing(self._union.listing(nodeid))

    def end(self, nodeid: int) -> None:
        """Note that a listing was read to its end."""
        self._kept.pop(nodeid, None)


class Page(NamedTuple):
    """The answer to one READDIRPLUS."""

    answer: bytes
    nodes: "Sequence[Node]"
    """Those that it tells the kernel of: one lookup each."""


class Pages:
    """The last answers to READDIRPLUS, by directory, offset and size; 32 KiB each, as readdir(3) asks for them."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int, int], Page] = {}
        self.get = self._kept.get
        self.clear = self._kept.clear
        """Something may have changed."""

    def keep(self, key: tuple[int, int, int], page: Page) -> None:
        self._kept[key] = page
        if len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
