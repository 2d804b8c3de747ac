"""From a name to its node: what the kernel asks first, before anything else.

`lookup.search` says what a name is on disk; here it becomes a node with an inode number, or is
recognised as one the kernel knows already: under this name, or as another hard link of the file.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from typing import Final

from unionfs.core import attrs, inos, ondisk
from unionfs.core.index import origin_mark, origin_stat
from unionfs.core.layer import Place
from unionfs.core.lookup import Found, search
from unionfs.core.nodes import Dir, File, Node
from unionfs.core.protection import harden
from unionfs.core.state import State

__all__ = [
    "Entry",
    "adopt",
    "adopt_file",
    "is_visible",
    "lookup",
    "lookup_all",
    "nameless",
    "number_at",
    "peek",
    "peek_if_there",
]

NAME_MAX: Final = 255
_S_IFMT: Final = 0o170000
_SIMPLE: Final = frozenset({stat.S_IFREG, stat.S_IFLNK})

Entry = tuple[Node, os.stat_result]
"""A node, and what a stat of it shows but for the number, which is the node's."""


def lookup(state: State, parent: Dir, name: bytes) -> Entry | None:
    """Return the node and the attributes of *name*, and count one lookup; None if the union shows no such name."""
    place = _only_place(state, parent)
    return _lookup(state, parent, name) if place is None else _lookup_in(place, state, parent, name)


def lookup_all(state: State, parent: Dir, names: Sequence[bytes]) -> list[Entry | OSError | None]:
    """Return for each of *names*, which are a listing of *parent*, what `lookup` returns or raises."""
    found: list[Entry | OSError | None] = []
    place, descriptors = _only_place(state, parent), state.descriptors
    for name in names:
        if len(descriptors.opened) > descriptors.limit:
            descriptors.trim()
        try:
            found.append(_lookup(state, parent, name) if place is None else _lookup_in(place, state, parent, name))
        except OSError as exc:
            found.append(exc)
    return found


def _only_place(state: State, parent: Dir) -> Place | None:
    """Return the place that alone says what the files in *parent* are: their own attributes, and no mark of ours."""
    place, rules = parent.places[0], state.rules
    if len(parent.places) > 1 or parent.final is not None or rules.metacopy or rules.data_layers:
        return None
    says_more = place.xwhiteouts or place.impure or place.layer.owners is not None
    return None if says_more else place


def _lookup_in(place: Place, state: State, parent: Dir, name: bytes) -> Entry | None:
    """Do what `_lookup` does, in half of the time, for most of what is in the only place of *parent*."""
    if name in parent.children or len(name) > NAME_MAX:
        return _lookup(state, parent, name)
    st = place.find(name)
    if st is None:
        return None
    if st.st_mode & _S_IFMT not in _SIMPLE or st.st_nlink > 1 or name.startswith(ondisk.WHITEOUT_PREFIX):
        return _lookup(state, parent, name)
    node = File(parent, name, inos.number(place.layer.fsid, st.st_ino), place, name)
    state.nodes.add(node)
    node.lookups += 1
    return node, st


def _lookup(state: State, parent: Dir, name: bytes) -> Entry | None:
    node = parent.children.get(name)
    if node is not None:
        try:
            st = attrs.stat_of(node)
        except FileNotFoundError:  # removed beneath the union
            del parent.children[name]
        else:
            node.lookups += 1
            return node, st
    found = _search(state, parent, name)
    if found is None:
        return None
    node = _node(state, parent, name, found)
    try:
        if isinstance(node, File) and node.indexed_links is not None:
            st = attrs.stat_of(node)  # what was found may be an older, lower name of it
        else:
            st = _shown(node, found.st)
    except OSError:
        state.nodes.drop_if_unused(node)
        raise
    node.lookups += 1
    return node, st


def _search(state: State, parent: Dir, name: bytes) -> Found | None:
    if len(name) > NAME_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    if parent.final is not None or name.startswith(ondisk.WHITEOUT_PREFIX):
        return None
    return search(parent.places, name, state.rules)


def _shown(node: Node, st: os.stat_result) -> os.stat_result:
    """Return what a stat of a node just found shows, without asking the disk again."""
    return attrs.directory_stat(node, st) if isinstance(node, Dir) else attrs.file_stat(node, st)


def _node(state: State, parent: Dir, name: bytes, found: Found) -> Node:
    """Return the node of what was found: a known one if it is a further name of it, else a new one."""
    if found.place is None:
        ino = directory_number(found.dirs, found.st)
        top = found.dirs[0].layer
        if len(found.dirs) > 1 and top.writable and state.nodes.shows(ino):
            ino = inos.number(top.fsid, found.st.st_ino)  # a second one with the same redirect, made by somebody else
        node = Dir(parent, name, ino, tuple(found.dirs))
        state.nodes.add(node)
        if found.dirs[0].protected and found.dirs[0].layer.writable and not state.config.read_only:
            with contextlib.suppress(OSError):  # a user without the right to set flags
                harden(found.dirs[0], b"")
        return node
    place, st = found.place, found.st
    ino, own = file_number(state, parent, name, found), inos.number(place.layer.fsid, st.st_ino)
    has_links = st.st_nlink > 1 and (place.layer.writable or state.config.index)
    known = _known(state, (ino, own), place, st) if has_links else None
    if known is not None:
        state.nodes.add_name(known, parent, name)
        if known.indexed_links is None:
            known.place, known.real = place, found.real
        elif not place.layer.writable:
            known.has_lower_names = True
        return known
    if ino != own and state.nodes.shows(ino):
        ino = own  # a copy of a copy, attributes and all, made by somebody else
    file = File(parent, name, ino, place, found.real)
    file.data = found.data
    if has_links:
        _attach_index(state, file, found)
        state.nodes.remember_links(file)  # what fails above must not be found by its number: it is in no table yet
    state.nodes.add(file)
    return file


def _known(state: State, numbers: tuple[int, int], place: Place, st: os.stat_result) -> File | None:
    """Return the node of the file with attributes *st* in *place*, if another name of it was seen.

    One that shows the same number may be another file, which just claims to come from the same.
    """
    for number in numbers:
        known = state.nodes.linked(number)
        if known is None:
            continue
        if not (place.layer.writable and known.is_upper):
            return known
        real = known.final or known.place.find(known.real)
        if real is not None and real.st_ino == st.st_ino:
            return known
    return None


def _attach_index(state: State, file: File, found: Found) -> None:
    """Let a file whose other hard link was copied up be that copy."""
    index = state.upper.index if state.upper is not None else None
    if index is None or found.place is None:
        return
    entry = index.entry_for(found.origin or b"") if file.is_upper else index.find(found.place, found.real)
    if entry is None:
        return
    index.require_type(entry, found.st)
    if not file.is_upper:
        index.attach(file, entry, found.st.st_nlink)
        file.has_lower_names = True
        if index.lacks_data(entry):
            file.data = found.data or (found.place, found.real)
        return
    origin = origin_stat(state, found.origin or b"")
    index.attach(file, entry, origin[1].st_nlink if origin else 0)


def directory_number(places: Sequence[Place], top: os.stat_result) -> int:
    """Return a directory's inode number: that of its topmost lower directory, so a copy-up keeps it."""
    first = places[0]
    if first.layer.writable and len(places) > 1:
        return inos.number(places[1].layer.fsid, os.fstat(places[1].fd()).st_ino)
    return inos.number(first.layer.fsid, top.st_ino)


def file_number(state: State, parent: Dir, name: bytes, found: Found) -> int:
    """Return the inode number of the file *name* in *parent*: that of the lower file it was copied from, or its own.

    Without the privilege to open files by their handles only one that still has its lower name is recognised.
    """
    own = inos.number(found.place.layer.fsid if found.place is not None else 0, found.st.st_ino)
    if found.origin:
        opened = origin_stat(state, found.origin)
        if opened is not None:
            fakes = found.place is not None and found.place.layer.owners is not None  # devices by regular files
            is_like = fakes or stat.S_IFMT(opened[1].st_mode) == stat.S_IFMT(found.st.st_mode)
            return inos.number(opened[0], opened[1].st_ino) if is_like else own
        for place in parent.lowers:
            st = place.find(name)
            if st is not None:
                if origin_mark(place, name) == found.origin:
                    return inos.number(place.layer.fsid, st.st_ino)
                break
    return own


def adopt(state: State, parent: Dir, name: bytes, place: Place) -> Entry:
    """Make the node of what was just created as *name* in *place*, and count one lookup."""
    st = place.lstat(name)
    if not stat.S_ISDIR(st.st_mode):
        return adopt_file(state, parent, name, place, st)
    node = Dir(parent, name, inos.number(place.layer.fsid, st.st_ino), (place.child(name),))
    state.nodes.add(node)
    node.lookups = 1
    return node, _shown(node, st)


def adopt_file(state: State, parent: Dir, name: bytes, place: Place, st: os.stat_result) -> tuple[File, os.stat_result]:
    """Make the node of a file that was just created, and count one lookup."""
    node = File(parent, name, inos.number(place.layer.fsid, st.st_ino), place, name)
    node.is_hardened = True
    state.nodes.add(node)
    node.lookups = 1
    return node, st if place.layer.owners is None else attrs.file_stat(node, st)


def nameless(state: State, parent: Dir, place: Place, st: os.stat_result) -> File:
    """Make the node of a file that has no name yet (O_TMPFILE), and count one lookup."""
    node = File(parent, b"", inos.number(place.layer.fsid, st.st_ino), place, b"")
    node.final = st
    state.nodes.add(node)
    del parent.children[b""]
    node.lookups = 1
    return node


def peek(state: State, parent: Dir, name: bytes) -> Node:
    """Return the node of *name* without counting a lookup.

    Raises:
        FileNotFoundError: the union shows no such name.
    """
    node = peek_if_there(state, parent, name)
    if node is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return node


def peek_if_there(state: State, parent: Dir, name: bytes) -> Node | None:
    """Do what `peek` does, where an absent name is no error: None."""
    node = parent.children.get(name)
    if node is not None:
        return node
    found = _search(state, parent, name)
    return None if found is None else _node(state, parent, name, found)


def number_at(state: State, parent: Dir, name: bytes) -> int | None:
    """Return the inode number of *name* without making a node; None if the union shows no such name."""
    found = _search(state, parent, name)
    if found is None:
        return None
    if found.place is None:
        return directory_number(found.dirs, found.st)
    return file_number(state, parent, name, found)


def is_visible(state: State, parent: Dir, name: bytes) -> bool:
    """Tell whether the union shows *name*; costs no node."""
    return name in parent.children or _search(state, parent, name) is not None
