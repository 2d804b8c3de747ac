"""Listings: the names of a merged directory, fixed when it is opened or rewound.

The first layer to mention a name decides what it is; a whiteout decides that it is not there. A
listing is a snapshot, so names that nobody touches are seen once, whatever is removed meanwhile.

The inode numbers in a listing are those that a stat shows. For most names that is the number in the
real directory; only a directory that is in several layers, and the files of a directory that holds
copied-up ones, must be looked at.

Source: Linux fs/overlayfs/readdir.c.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final, final

from unionfs.core import find, inos, ondisk
from unionfs.core.layer import Place
from unionfs.core.lookup import search
from unionfs.core.nodes import Dir
from unionfs.core.state import State
from unionfs.errors import FSError
from unionfs.linux import at

if TYPE_CHECKING:
    from unionfs.core.request import DirEntry

__all__ = ["Listed", "OpenDirectory", "asked_for", "has_names", "merged", "snapshot"]

_DIRECTORY: Final = stat.S_IFDIR >> 12
_FILE: Final = stat.S_IFREG >> 12
_SYMLINK: Final = stat.S_IFLNK >> 12


@final
class OpenDirectory:
    """One open directory and the listing it is being read from."""

    __slots__ = ("entries", "node")

    def __init__(self, node: Dir) -> None:
        self.node = node
        self.entries: list[DirEntry] | None = None
        """None until it is first read."""


Listed = tuple[bytes, int, int]
"""What a `DirEntry` has, without its names: a tenth of the time of a long listing."""


def asked_for(state: State, node: Dir) -> list[Listed]:
    """Return the listing of *node* to a user; in the upper layer this is noted as the options say."""
    place = node.places[0]
    if not state.noting.directories or not place.layer.writable or node.is_gone:
        return snapshot(state, node)
    fd = place.fd()
    at.set_noticed(fd, noticed=True)
    try:
        return snapshot(state, node)
    finally:
        at.set_noticed(fd, noticed=False)


def snapshot(state: State, node: Dir) -> list[Listed]:
    """Return the listing of *node*: ``.`` and ``..``, then the names, in order of first sight."""
    dots = [(b".", node.ino, _DIRECTORY), (b"..", node.parent.ino, _DIRECTORY)]
    if node.is_gone:
        return dots
    return [*dots, *merged(state, node)]


def merged(state: State, node: Dir) -> Iterable[Listed]:
    """Return the visible names of *node*."""
    place = node.places[0]
    if len(node.places) > 1 or place.impure:
        return _merged(state, node)
    fsid = place.layer.fsid
    if not fsid:
        return ((name, real, kind) for name, real, kind in _entries(place) if kind is not None)
    return ((name, inos.number(fsid, real), kind) for name, real, kind in _entries(place) if kind is not None)


def _merged(state: State, node: Dir) -> Iterator[Listed]:
    decided: dict[bytes, tuple[Place, int, int | None]] = {}
    again: dict[bytes, None] = {}
    for place in node.places:
        _decide(place, decided, again)
    for name, (place, real, kind) in decided.items():
        if kind is not None:
            ambiguous = name in again or (place.impure and place.layer.writable)
            ino = (ambiguous and _number(state, node, name)) or inos.number(place.layer.fsid, real)
            yield name, ino, kind


def _decide(place: Place, decided: dict[bytes, tuple[Place, int, int | None]], again: dict[bytes, None]) -> None:
    """Let one layer say what it knows of the names that no layer above has decided.

    Names of directories that a layer above has as a directory too are added to *again*.
    """
    deleted: list[bytes] = []
    seen: set[bytes] = set()
    for name, real, kind in _entries(place):
        seen.add(name)
        if kind is None and name.startswith(ondisk.WHITEOUT_PREFIX):
            deleted.append(name[len(ondisk.WHITEOUT_PREFIX) :])
            continue
        known = decided.get(name)
        if known is None:
            decided[name] = (place, real, kind)
        elif kind == _DIRECTORY and known[2] == _DIRECTORY:
            again[name] = None
    place.learned(seen)
    for name in deleted:  # after the layer's own entries, which they do not hide
        decided.setdefault(name, (place, 0, None))


def _entries(place: Place) -> Iterator[tuple[bytes, int, int | None]]:
    """Yield name, real inode number and type of all that is in *place*; the type of a whiteout is None."""
    is_plain = not place.xwhiteouts and place.layer.owners is None
    for entry in place.scan():
        text = entry.name
        name = text.encode() if text.isascii() else os.fsencode(text)
        if text.startswith(".wh."):
            if not name.startswith(ondisk.META_PREFIX):
                yield name, 0, None
        elif entry.is_file(follow_symlinks=False):
            yield name, entry.inode(), _FILE if is_plain else _kind_of_file(place, name)
        elif entry.is_dir(follow_symlinks=False):
            yield name, entry.inode(), _DIRECTORY
        elif entry.is_symlink():
            yield name, entry.inode(), _SYMLINK
        else:
            st = place.find(name)
            if st is not None:
                yield name, st.st_ino, None if ondisk.is_whiteout(st) else st.st_mode >> 12


def _kind_of_file(place: Place, name: bytes) -> int | None:
    """Return what a regular file stands for: nothing (None), itself, or what only an attribute says."""
    if place.xwhiteouts and _is_whiteout(place, name):
        return None
    owners = place.layer.owners
    return _FILE if owners is None else owners.kind(place.target(name)) >> 12


def _is_whiteout(place: Place, name: bytes) -> bool:
    st = place.find(name)
    return st is not None and place.is_whiteout(name, st)


def _number(state: State, node: Dir, name: bytes) -> int:
    """Return the inode number that a stat of *name* would show; 0 if none can be shown."""
    known = node.children.get(name)
    if known is not None:
        return known.ino
    try:
        found = search(node.places, name, state.rules)
    except FSError:  # the name is there; a lookup of it will say what is wrong
        return 0
    if found is None:
        return 0
    if found.place is None:
        number = find.directory_number(found.dirs, found.st)
        for place in found.dirs:
            place.close()
        return number
    return find.file_number(state, node, name, found)


def has_names(state: State, node: Dir) -> bool:
    """Tell whether the union shows anything in *node*."""
    if len(node.places) == 1 and node.places[0].names is not None:
        return any(search(node.places, name, state.rules) for name in node.places[0].names)
    return any(True for _ in merged(state, node))
