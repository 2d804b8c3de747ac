"""A layer, and a real directory in one of them.

A `Place` is how the union names a directory on disk: the place above it and one name. Its
descriptor is opened when it is first needed, below the descriptor of its parent and without following
a symlink, so nothing in a layer can lead outside of it, and a directory at depth
1,000 costs what one at depth 1 costs. Descriptors are a cache: the oldest are closed when there are
too many, and opened again by the same walk.

What a layer's directory says of itself (opaque, redirect, impure, attribute whiteouts) is read with
the descriptor in hand, once.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from unionfs.core import ondisk
from unionfs.linux import at, handles, xattr

if TYPE_CHECKING:
    from unionfs.core.owners import Owners

__all__ = ["Descriptors", "Layer", "Place"]

_CLOSED: Final = -1
_NEVER: Final = -(1 << 60)

FEW_CLOSED: Final = 8
"""With more directories closed above one, those between are not opened; otherwise others will want them as well."""

MISSES_TO_LEARN: Final = 3
"""So many names were asked for in vain before all are read: one listing costs as much as a few misses."""

MAX_NAMES: Final = 4096
"""A directory with more names is asked for each: a set of them would cost more than it saves."""


@final
class Layer:
    """One layer of the stack: a root directory and what its filesystem means to the union."""

    __slots__ = ("fsid", "hardened", "index", "owners", "path", "root", "static_nlink", "uuid", "writable", "xattrs")

    def __init__(self, index: int, path: Path, fsid: int, xattrs: ondisk.XattrSet, *, writable: bool) -> None:
        self.index = index
        """Position in the stack; 0 is the top."""
        self.path = path
        """For messages only; files are reached through `root`."""
        self.fsid = fsid
        """Which of the stack's filesystems it lies on; 0 is that of the top layer."""
        self.xattrs = xattrs
        self.writable = writable
        """True for the upper layer only; the union writes nowhere else."""
        self.uuid = bytes(16)
        self.owners: Owners | None = None
        """How owners and modes are shown, if not as they are."""
        self.hardened: set[handles.FileHandle] = set()
        """What has real flags of chattr that are to go when the union is closed: see `protection`."""
        self.static_nlink = False
        """Every directory shows one link, as merged ones always do."""
        self.root: Place


@final
class Descriptors:
    """The open descriptors of places, oldest first.

    Closing happens in `trim` only, between two requests or two lookups of one: until then a descriptor number
    that was handed out stays good.
    """

    __slots__ = ("limit", "opened")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.opened: dict[Place, None] = {}

    def trim(self) -> None:
        """Close the oldest quarter."""
        for place in list(self.opened)[: max(1, len(self.opened) // 4)]:
            place.close()


@final
class Place:
    """A real directory in one layer. Only its own name and parent are remembered, so it may be moved."""

    __slots__ = (
        "_fd",
        "_marked",
        "_misses",
        "cache",
        "impure",
        "layer",
        "name",
        "names",
        "opaque",
        "parent",
        "protected",
        "redirect",
        "xwhiteouts",
    )

    def __init__(
        self, layer: Layer, parent: "Place | None", name: bytes, cache: Descriptors, fd: int = _CLOSED
    ) -> None:
        self.layer = layer
        self.parent = parent
        """None for the root of a layer, whose descriptor is given to it and stays open."""
        self.name = name
        self.cache = cache
        self._fd = fd
        self._marked = False
        self._misses = 0
        self.names: set[bytes] | None = None
        """Every name that is here, whiteouts too; None as long as that is not known. See `learn`."""
        self.opaque = False
        """Nothing below is to be merged. This and the next four are right once `read_marks` was called."""
        self.xwhiteouts = False
        """Empty files here may be whiteouts, by an attribute."""
        self.impure = False
        """Files here may remember where they were copied from."""
        self.protected = False
        """A union has made it append-only or immutable."""
        self.redirect: bytes | None = None
        """Where the layers below keep what is merged here: a sibling's name or a path from the root."""

    @classmethod
    def at_root(cls, layer: Layer, fd: int, cache: Descriptors) -> "Place":
        """Make the root directory of *layer* out of an open descriptor, which it owns from now on."""
        return cls(layer, None, b"", cache, fd)

    def child(self, name: bytes) -> "Place":
        return Place(self.layer, self, name, self.cache)

    def fd(self) -> int:
        """Return a descriptor of the directory, good until the current request ends."""
        return self._fd if self._fd >= 0 else self._open()

    def _open(self) -> int:
        """Open the directory, and those above it that are closed: from the top down, or past them if they are many."""
        closed = [self]
        while (above := closed[-1].parent) is not None and not above.is_open:
            closed.append(above)
        if above is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        if len(closed) > FEW_CLOSED:
            deep = at.open_below(above.fd(), [place.name for place in reversed(closed)])
            if deep is not None:
                self.adopt(deep)
                return deep
        fd, between = above.fd(), None
        for place in reversed(closed):
            fd = at.open_directory(fd, place.name)
            place.adopt(fd)
            if between is not None and len(self.cache.opened) > self.cache.limit:
                between.close()  # only this walk has used it
            between = place
        return fd

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    def adopt(self, fd: int) -> None:
        """Take over *fd*, a descriptor of this very directory that somebody already has."""
        self._fd = fd
        self.cache.opened[self] = None

    def close(self) -> None:
        if self._fd >= 0 and self.parent is not None:
            os.close(self._fd)
            self._fd = _CLOSED
        self.cache.opened.pop(self, None)

    def lstat(self, name: bytes) -> os.stat_result:
        return at.lstat(self.fd(), name)

    def find(self, name: bytes) -> os.stat_result | None:
        """Return the attributes of *name*, or None; asks the disk only for names that may be there."""
        if self.names is None:
            st = at.find(self._fd if self._fd >= 0 else self._open(), name)
            if st is None:
                self._misses += 1
                if self._misses == MISSES_TO_LEARN:
                    self.learn()
            return st
        return at.find(self.fd(), name) if name in self.names else None

    def learn(self) -> None:
        """Read all the names once, so that those that are not here need not be asked for; not of a big directory."""
        names: set[bytes] = set()
        for entry in self.scan():
            names.add(os.fsencode(entry.name))
            if len(names) > MAX_NAMES:
                return
        self.names = names

    def learned(self, names: set[bytes]) -> None:
        """Take over the names that somebody has just read."""
        if self.names is None and len(names) <= MAX_NAMES and self._misses >= 0:
            self.names = names

    def never_learn(self) -> None:
        """Ask the disk every time: names change without `will_hold` being told."""
        self.names = None
        self._misses = _NEVER

    def will_hold(self, name: bytes) -> None:
        """Note, before it is made, that *name* may be here from now on."""
        if self.names is not None:
            self.names.add(name)
            if len(self.names) > MAX_NAMES:
                self.never_learn()

    def has_lost(self, name: bytes) -> None:
        """Note, after it was removed, that *name* is not here any more."""
        if self.names is not None:
            self.names.discard(name)

    def exact(self, name: bytes, st: os.stat_result) -> os.stat_result:
        """Return what is shown of a file here whose real attributes are *st*; ``.`` is the directory itself.

        Raises:
            OSError: EOVERFLOW, its owner is outside of the map, so a copy cannot have the same.
        """
        owners = self.layer.owners
        if owners is None:
            return st
        return owners.shown(st, self.fd() if name == b"." else self.target(name), is_exact=True)

    def target(self, name: bytes) -> bytes:
        """Spell a file here for the xattr calls."""
        return at.proc_path(self.fd(), name)

    def scan(self) -> Iterator[os.DirEntry[str]]:
        return at.scan(self.fd())

    def read_marks(self) -> None:
        """Learn what the directory says of itself. Costs one listxattr where it says nothing.

        Raises:
            BadRedirect: it has a redirect that no union would have written.
        """
        if self._marked:
            return
        marks, fd = self.layer.xattrs, self.fd()
        names = xattr.names(fd)
        if names:
            value = xattr.get(fd, marks.opaque) if marks.opaque in names else None
            self.opaque = value == ondisk.OPAQUE or ondisk.FOREIGN_OPAQUE in names
            self.xwhiteouts = value == ondisk.XWHITEOUTS
            self.impure = marks.impure in names
            self.protected = marks.protattr in names
            if marks.redirect in names and self.parent is not None:  # the root of a layer is the root of the union
                self.redirect = self._read_redirect(fd)
        if not self.opaque and at.exists(fd, ondisk.OPAQUE_FILE):
            self.opaque = True
        self._marked = True

    def _read_redirect(self, fd: int) -> bytes | None:
        value = xattr.get(fd, self.layer.xattrs.redirect)
        return None if value is None else ondisk.check_redirect(value)

    def mark_fresh(self) -> None:
        """Note that the directory was just made by the union itself: it is empty and carries no marks."""
        self._marked = True
        self.names = set()

    def deletes_below(self, name: bytes) -> bool:
        """Tell whether a ``.wh.`` file here deletes *name* from the layers below."""
        whiteout = ondisk.WHITEOUT_PREFIX + name
        return at.exists(self.fd(), whiteout) if self.names is None else whiteout in self.names

    def is_whiteout(self, name: bytes, st: os.stat_result) -> bool:
        """Tell whether *name*, a file here with attributes *st*, deletes the name from the layers below."""
        if ondisk.is_whiteout(st):
            return True
        if st.st_size or not self.xwhiteouts or (st.st_mode & 0o170000) != 0o100000:
            return False
        return self.layer.xattrs.whiteout in xattr.names(self.target(name))
