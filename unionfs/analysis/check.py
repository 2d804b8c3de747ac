"""What is wrong with the marks of an upper layer, or of any layer.

`examine` decides from values: what the directory holds, and what the layers below show, where they are
known. Each finding names its repair, so that whoever repairs decides nothing. What depends on the layers
below (a redirect to nothing, a whiteout that hides nothing) is looked for only where they are given.

Source for the kinds: kmxz/overlayfs-tools fsck.c, which knows the first three.
"""

import enum
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from unionfs.core.ondisk import (
    FOREIGN_OPAQUE,
    META_PREFIX,
    OPAQUE,
    OPAQUE_FILE,
    TRUSTED,
    USER,
    WHITEOUT_PREFIX,
    XattrSet,
    check_redirect,
)
from unionfs.errors import BadMark
from unionfs.oci.entry import Entry, Kind, parent_of
from unionfs.oci.merged import Merged, Shown
from unionfs.oci.scan import Found, interpret

__all__ = ["Finding", "Repair", "examine"]


class Repair(enum.Enum):
    """What makes a finding go away."""

    REMOVE = "remove the file"
    REMOVE_MARK = "remove the attribute"
    MAKE_WHITEOUT = "make it a whiteout of the kernel's form"
    MAKE_OPAQUE = "mark the directory in the kernel's form"
    NONE = "nothing: its content is lost"
    KEEP = "nothing: look at it, and rename or remove it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong."""

    kind: str
    """"redirect", "whiteout", "dialect", "leftover" or "metacopy"."""
    path: bytes
    what: str
    repair: Repair
    mark: str = ""
    """The attribute that a repair removes."""


def examine(files: Iterable[Found], own: XattrSet, lower: Merged | None) -> Iterator[Finding]:
    """Yield what is wrong with a layer whose marks should be of the flavour *own*.

    *files* come sorted, parents first; *lower* is what is below, None if nobody knows.
    """
    other = USER if own is TRUSTED else TRUSTED
    places: dict[bytes, Shown | None] = {}
    opaque: set[bytes] = set()
    for file in files:
        entry, marks = interpret(file)
        name = file.path.rpartition(b"/")[2]
        if name.startswith(WHITEOUT_PREFIX):
            yield from _old_names(file, name)
            continue
        yield from _dialect(file, entry, own, other)
        above = parent_of(file.path)
        below = lower.root if lower and not file.path else _below(places.get(above), name)
        if entry.kind is Kind.WHITEOUT:
            yield from _whiteout(entry, known=lower is not None, needed=below is not None, in_opaque=above in opaque)
        elif entry.kind is Kind.DIR:
            below, found = _redirected(file, marks.redirect, lower, places.get(above), below)
            yield from found
            if entry.opaque:
                opaque.add(file.path)
            places[file.path] = None if entry.opaque else below
        elif (
            marks.metacopy
            and lower is not None
            and (below is None or below.entry.kind is not Kind.FILE)
            and not marks.redirect
        ):
            yield Finding(
                kind="metacopy", path=file.path, what="its content is below, where there is none", repair=Repair.NONE
            )


def _below(place: Shown | None, name: bytes) -> Shown | None:
    return (place.children or {}).get(name) if place is not None else None


def _old_names(file: Found, name: bytes) -> Iterator[Finding]:
    """Tell what a name of aufs is; a mark is an empty file, and anything else is somebody's."""
    is_mark = not stat.S_ISDIR(file.stat.st_mode) and not file.stat.st_size
    if not is_mark and (name == OPAQUE_FILE or not name.startswith(META_PREFIX)):
        what = "called like a whiteout, but it holds something; an image cannot have it"
        yield Finding(kind="dialect", path=file.path, what=what, repair=Repair.KEEP)
        return
    if name == OPAQUE_FILE:
        what, repair = "an opaque mark that the kernel does not know", Repair.MAKE_OPAQUE
    elif name.startswith(META_PREFIX):
        what, repair = "left over from aufs", Repair.REMOVE
    else:
        what, repair = "a whiteout that the kernel does not know", Repair.MAKE_WHITEOUT
    kind = "leftover" if repair is Repair.REMOVE else "dialect"
    yield Finding(kind=kind, path=file.path, what=what, repair=repair)


def _dialect(file: Found, entry: Entry, own: XattrSet, other: XattrSet) -> Iterator[Finding]:
    for mark in (other.opaque, FOREIGN_OPAQUE):
        if file.xattrs.get(mark) == OPAQUE:
            is_dir = entry.kind is Kind.DIR
            yield Finding(
                kind="dialect",
                path=file.path,
                what=f"marked by {mark}, which a union of {own.prefix}* does not read",
                repair=Repair.MAKE_OPAQUE if is_dir else Repair.REMOVE_MARK,
                mark=mark,
            )
    if own.opaque in file.xattrs and entry.kind is not Kind.DIR:
        yield Finding(
            kind="dialect",
            path=file.path,
            what="an opaque mark on no directory",
            repair=Repair.REMOVE_MARK,
            mark=own.opaque,
        )


def _whiteout(entry: Entry, *, known: bool, needed: bool, in_opaque: bool) -> Iterator[Finding]:
    if in_opaque:
        what = "a whiteout in an opaque directory, where nothing is to be hidden"
    elif known and not needed:
        what = "a whiteout that hides nothing"
    else:
        return
    yield Finding(kind="whiteout", path=entry.path, what=what, repair=Repair.REMOVE)


def _redirected(
    file: Found, redirect: bytes | None, lower: Merged | None, above: Shown | None, below: Shown | None
) -> tuple[Shown | None, list[Finding]]:
    """Follow a redirect; return what the directory merges with, and what is wrong."""
    if redirect is None:
        return below, []
    mark = next(flavour.redirect for flavour in (TRUSTED, USER) if flavour.redirect in file.xattrs)
    try:
        check_redirect(redirect)
    except BadMark:
        what = f"redirected to {os.fsdecode(redirect)!r}, which is no path of a union"
        return None, [Finding(kind="redirect", path=file.path, what=what, repair=Repair.REMOVE_MARK, mark=mark)]
    if lower is None:
        return None, []
    found = lower.at(redirect[1:]) if redirect.startswith(b"/") else _below(above, redirect)
    if found is not None and found.children is not None:
        return found, []
    what = f"redirected to {os.fsdecode(redirect)!r}, where nothing is"
    return None, [Finding(kind="redirect", path=file.path, what=what, repair=Repair.REMOVE_MARK, mark=mark)]
