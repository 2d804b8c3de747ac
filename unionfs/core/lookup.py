"""Find a name in the layers.

A directory of the union is a list of real directories, top layer first. A name is looked for in
each of them in turn; the rules that say when to stop:

1. a whiteout ends the search: the name is deleted for everything below;
2. a file ends the search: only directories merge;
3. a file below a directory is hidden, and ends the search;
4. an opaque directory is the last to contribute;
5. a redirect says under which name, or path from the root, the layers below keep the rest;
6. a file whose data were not copied up has them in the first file below that has, or in a data-only layer, where they
   are looked for last, by an absolute redirect of a lower file, and may be missing;
7. otherwise the search goes on to the next layer.

Data-only layers need neither metacopy nor redirects to be followed: to use them is what they are there for. But then
only a file of the lowest other layer may point there. One of the upper layer, which users may have prepared, never may.

A ``.wh.`` file is a whiteout for the layers below its own. It is asked for only once something was
found below, so it costs nothing where a name is in the top layer or nowhere.

Source: Linux fs/overlayfs/namei.c, ovl_lookup() and ovl_lookup_single(), rules in the same order; for data-only
layers ovl_lookup_layers() of 6.16.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from typing import Final, final

from unionfs.core import ondisk
from unionfs.core.layer import Layer, Place
from unionfs.errors import BadMark, BadRedirect, RefusedMark
from unionfs.linux import xattr

__all__ = ["NOWHERE", "Found", "Rules", "is_shown", "search"]

NOWHERE: Final = b""
"""The name of data that are in no data-only layer: no file can have it."""

_S_IFMT: Final = 0o170000
_S_IFDIR: Final = stat.S_IFDIR
_S_IFCHR: Final = stat.S_IFCHR


@final
class Rules:
    """What a search has to know of the stack besides the directory it starts in. Nobody changes it."""

    __slots__ = ("bottom", "data_layers", "follow_redirects", "layers", "metacopy")

    def __init__(
        self,
        layers: tuple[Layer, ...],
        data_layers: tuple[Layer, ...] = (),
        *,
        follow_redirects: bool = True,
        metacopy: bool = False,
    ) -> None:
        self.layers = layers
        """Top first, the upper included; data-only layers are not searched by name."""
        self.data_layers = data_layers
        self.follow_redirects = follow_redirects
        self.metacopy = metacopy
        """Believe metacopy marks in every layer; else only those by which the lowest points to a data-only one."""
        self.bottom = layers[-1].index
        """The index of the lowest layer."""


@final
class Found:
    """What a name is: a directory (`dirs`), or else the file *real* in *place*."""

    __slots__ = ("data", "dirs", "origin", "place", "real", "st")

    def __init__(
        self, st: os.stat_result, dirs: Sequence[Place] = (), place: Place | None = None, real: bytes = b""
    ) -> None:
        self.st = st
        """The attributes of the topmost."""
        self.dirs = dirs
        self.place = place
        self.real = real
        self.data: tuple[Place, bytes] | None = None
        self.origin: bytes | None = None
        """The origin mark of an upper file, undecoded; None if it has none."""


def search(places: Sequence[Place], name: bytes, rules: Rules) -> Found | None:
    """Return what *name* is in the directory merged from *places*; None if the union shows nothing.

    Raises:
        BadRedirect, BadMark: a mark on the way makes no sense.
        RefusedMark: one was to be followed that the union was told not to follow.

    Costs one lstat per place asked and, for each directory that others may lie below, one open and
    one listxattr.
    """
    for at, place in enumerate(places):
        st = place.find(name)
        if st is None:
            continue
        kind = st.st_mode & _S_IFMT
        if kind == _S_IFDIR:
            return _merge(places, at, name, st, rules)
        if at and any(above.deletes_below(name) for above in places[:at]):
            return None
        if (kind == _S_IFCHR and not st.st_rdev) or (place.xwhiteouts and place.is_whiteout(name, st)):
            return None
        if place.layer.index >= rules.bottom and not rules.metacopy and not rules.data_layers:
            return Found(st, (), place, name)
        return _file(place, name, st, iter(places[at + 1 :]), rules)
    return None


def _merge(places: Sequence[Place], at: int, name: bytes, top: os.stat_result, rules: Rules) -> Found | None:
    """Return the directory *name*, whose topmost part, with attributes *top*, is in ``places[at]``."""
    asked = [(above, name) for above in places[:at]]
    queue, real = iter(places[at:]), name
    dirs: list[Place] = []
    refused = False
    while (place := next(queue, None)) is not None:
        st = place.find(real) if dirs else top
        if st is not None:
            if _is_deleted(asked, place, real, st) or st.st_mode & _S_IFMT != _S_IFDIR:
                break
            if refused:
                raise RefusedMark("a redirect; mount with redirect_dir=on or follow to follow it")
            hit = place.child(real)
            dirs.append(hit)
            if place.layer.index >= rules.bottom:
                break
            hit.read_marks()
            if hit.opaque:
                break
            if hit.redirect:
                asked = []  # a ``.wh.`` file above meant another name
                queue, real = _redirected(hit, queue, rules)
                refused = not rules.follow_redirects
                continue
        asked.append((place, real))
    return Found(top, dirs) if dirs else None


def _is_deleted(asked: list[tuple[Place, bytes]], place: Place, real: bytes, st: os.stat_result) -> bool:
    """Tell whether the search ends here: a whiteout, or a ``.wh.`` file in a layer above."""
    if ondisk.is_whiteout(st) or (not st.st_size and place.is_whiteout(real, st)):
        return True
    return any(earlier.deletes_below(above) for earlier, above in asked)


def _redirected(hit: Place, queue: Iterator[Place], rules: Rules) -> tuple[Iterator[Place], bytes]:
    """Return where to go on after *hit*, which has a redirect, and the name to ask for there."""
    redirect = hit.redirect or b""
    if not redirect.startswith(b"/"):
        return queue, redirect
    parts = redirect[1:].split(b"/")
    return _walk_down([layer for layer in rules.layers if layer.index > hit.layer.index], parts), parts[-1]


def _walk_down(layers: Sequence[Layer], parts: list[bytes]) -> Iterator[Place]:
    """Yield, for each of *layers* that has it, the real directory that holds the last of *parts*.

    The layers are walked one by one, because each may have moved an ancestor in turn: then those
    below it are asked for the path that it names. A layer is walked when it is asked for and not before,
    so that redirects in many layers cost no more than as many walks; and of a walk one directory stays open.
    """
    for layer in layers:
        place = layer.root
        goes_on = True
        for left in range(len(parts) - 1, 0, -1):
            child, goes_on_here, parts = _step(place, parts, left, is_lowest=layer is layers[-1])
            goes_on = goes_on and goes_on_here
            if child is None:
                break
            child.fd()
            if place is not layer.root:
                place.close()
            place = child
        else:
            yield place
        if not goes_on:
            break


def _step(place: Place, parts: list[bytes], left: int, *, is_lowest: bool) -> tuple[Place | None, bool, list[bytes]]:
    """Go down the component of *parts* that has *left* others after it.

    Returns where it leads, whether the layers below still count, and the path to ask them for.
    """
    here = len(parts) - left - 1
    st = place.find(parts[here])
    if st is None:
        return None, True, parts
    if st.st_mode & _S_IFMT != _S_IFDIR:
        return None, False, parts  # a whiteout or a file hides the path in everything below
    child = place.child(parts[here])
    if is_lowest:  # nothing is below, so its marks mean nothing
        return child, False, parts
    child.read_marks()
    if child.redirect:
        above = [] if child.redirect.startswith(b"/") else parts[:here]
        parts = [*above, *child.redirect.strip(b"/").split(b"/"), *parts[here + 1 :]]
        if len(parts) > ondisk.PATH_MAX // 2:
            raise BadRedirect("redirects that add up to more than any path has")
    return child, not child.opaque, parts


def _file(place: Place, real: bytes, st: os.stat_result, below: Iterator[Place], rules: Rules) -> Found:
    found = Found(st, (), place, real)
    points_to_data = bool(rules.data_layers) and place.layer.index >= rules.bottom
    if not (rules.metacopy or points_to_data or (place.layer.writable and place.impure)):
        return found
    names = xattr.names(place.target(real))
    if not names:
        return found
    marks = place.layer.xattrs
    if marks.origin in names and place.layer.writable:
        found.origin = xattr.get(place.target(real), marks.origin)
    if marks.metacopy in names and stat.S_ISREG(st.st_mode):
        if rules.metacopy:
            ondisk.decode_metacopy(xattr.get(place.target(real), marks.metacopy) or b"")
            found.data = _find_data(place, real, marks.redirect in names, below, rules)
        elif points_to_data and marks.redirect in names:
            redirect = _redirect_of(place, real)
            found.data = _in_data_layers(redirect, rules) if redirect.startswith(b"/") else None
    return found


def _find_data(
    place: Place, real: bytes, has_redirect: bool, below: Iterator[Place], rules: Rules
) -> tuple[Place, bytes]:
    """Return the file below that has the data of the metacopy file *real*.

    Raises:
        BadMark: there is none, so the file cannot be shown.
    """
    while True:
        redirect = _redirect_of(place, real) if has_redirect else b""
        if redirect and rules.follow_redirects:
            below, real = _data_redirect(place, redirect, below, rules)
        found = _next_file(below, real)
        if found is None:
            if redirect.startswith(b"/") and rules.data_layers and not place.layer.writable:
                return _in_data_layers(redirect, rules)
            raise BadMark("metacopy: the data are in no layer below")
        place = found
        names = xattr.names(place.target(real))
        marks = place.layer.xattrs
        if marks.metacopy not in names:
            return place, real
        has_redirect = marks.redirect in names


def _redirect_of(place: Place, real: bytes) -> bytes:
    return ondisk.check_redirect(xattr.get(place.target(real), place.layer.xattrs.redirect) or b"")


def _data_redirect(
    place: Place, redirect: bytes, below: Iterator[Place], rules: Rules
) -> tuple[Iterator[Place], bytes]:
    if not redirect.startswith(b"/"):
        return below, redirect
    parts = redirect[1:].split(b"/")
    return _walk_down([layer for layer in rules.layers if layer.index > place.layer.index], parts), parts[-1]


def _in_data_layers(redirect: bytes, rules: Rules) -> tuple[Place, bytes]:
    """Return the file that an absolute *redirect* leads to, where marks mean nothing; a name that nobody has, if none.

    So a file whose data are missing can be seen and removed; who opens it is told ENOENT.
    """
    parts = redirect[1:].split(b"/")
    for layer in rules.data_layers:
        for place in _walk_down([layer], parts):
            st = place.find(parts[-1])
            if st is not None and stat.S_ISREG(st.st_mode):
                return place, parts[-1]
    return rules.data_layers[-1].root, NOWHERE


def _next_file(below: Iterator[Place], real: bytes) -> Place | None:
    """Return the next of *below* that has the file *real*; None if something else hides it, or none has."""
    for place in below:
        st = place.find(real)
        if st is not None:
            return place if stat.S_ISREG(st.st_mode) and not place.is_whiteout(real, st) else None
    return None


def is_shown(places: Sequence[Place], name: bytes) -> bool:
    """Tell whether *name* would be seen if *places* were all there is: asks what a whiteout is for."""
    asked: list[tuple[Place, bytes]] = []
    for place in places:
        st = place.find(name)
        if st is not None:
            return not _is_deleted(asked, place, name, st)
        asked.append((place, name))
    return False
