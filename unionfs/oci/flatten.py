"""Make an upper layer mean the same without redirects and metacopy, as archives and other tools need it.

A renamed directory in an upper is a redirect: its content is still in the layers below, at another place.
Spelled out, it is an opaque directory that holds everything. A metacopy file has its attributes in the
upper and its content below; spelled out, it is a file. Nothing else changes.

Here are only decisions: each entry comes out with where its content is to be read.
"""

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from msgspec.structs import replace

from unionfs.errors import BadMark
from unionfs.oci.entry import ROOT, Entry, Kind, parent_of
from unionfs.oci.merged import Merged, Shown
from unionfs.oci.scan import Marks

__all__ = ["Spelled", "flatten"]


class Spelled(NamedTuple):
    """An entry and where its content is: the upper itself, or a file of the layers below."""

    entry: Entry
    below: Shown | None = None


class _Directory(NamedTuple):
    """What an upper directory is merged with, and whether that has to be spelled out."""

    below: Shown | None
    moved: bool


def flatten(upper: Iterable[tuple[Entry, Marks]], lower: Merged) -> list[Spelled]:
    """Spell out the upper layer *upper* (as `scan` yields it) over *lower*.

    Raises:
        BadMark: a redirect or a metacopy file leads to nothing.
    """
    children: dict[bytes, list[tuple[Entry, Marks]]] = {}
    root: tuple[Entry, Marks] | None = None
    for entry, marks in upper:
        if entry.path == ROOT:
            root = (entry, marks)
        else:
            children.setdefault(parent_of(entry.path), []).append((entry, marks))
    spelled: list[Spelled] = [Spelled(root[0])] if root else []
    opaque = root is not None and root[0].opaque
    stack = [(ROOT, _Directory(None if opaque else lower.root, moved=False))]
    while stack:
        path, context = stack.pop()
        named = set()
        for entry, marks in children.get(path, ()):
            named.add(entry.name)
            counterpart = (context.below.children or {}).get(entry.name) if context.below else None
            if entry.kind is Kind.DIR:
                inner = _inside(entry, marks, context, counterpart, lower)
                hides = entry.opaque or (inner.moved and not context.moved)
                spelled.append(Spelled(replace(entry, opaque=hides and not context.moved)))
                stack.append((entry.path, inner))
            elif entry.kind is Kind.WHITEOUT:
                spelled += [] if context.moved else [Spelled(entry)]
            else:
                spelled.append(_file(entry, marks, context, counterpart, lower))
        if context.moved and context.below is not None:
            for name, shown in sorted((context.below.children or {}).items()):
                if name not in named:
                    spelled += _subtree(shown, path + b"/" + name)
    return _linked(sorted(spelled, key=lambda item: item.entry.path.split(b"/")))


def _inside(entry: Entry, marks: Marks, context: _Directory, counterpart: Shown | None, lower: Merged) -> _Directory:
    if marks.redirect is not None and not entry.opaque:
        return _Directory(_redirected(entry, marks.redirect, context, lower), moved=True)
    is_merged = not entry.opaque and counterpart is not None and counterpart.children is not None
    return _Directory(counterpart if is_merged else None, context.moved)


def _redirected(entry: Entry, redirect: bytes, context: _Directory, lower: Merged) -> Shown:
    if redirect.startswith(b"/"):
        found = lower.at(redirect[1:])
    else:
        found = (context.below.children or {}).get(redirect) if context.below else None
    if found is None:
        raise BadMark(f"{os.fsdecode(entry.path)!r} is redirected to {os.fsdecode(redirect)!r}, where nothing is")
    return found


def _file(entry: Entry, marks: Marks, context: _Directory, counterpart: Shown | None, lower: Merged) -> Spelled:
    if not marks.metacopy:
        return Spelled(entry)
    if marks.redirect is not None:
        counterpart = _redirected(entry, marks.redirect, context, lower)
    if counterpart is None or counterpart.entry.kind is not Kind.FILE:
        raise BadMark(f"{os.fsdecode(entry.path)!r} has its content below, where there is none")
    return Spelled(replace(entry, size=counterpart.entry.size, digest=counterpart.entry.digest), counterpart)


def _subtree(top: Shown, path: bytes) -> Iterator[Spelled]:
    """Yield a file of the layers below, and everything in it, at another place."""
    stack = [(top, path)]
    while stack:
        shown, at = stack.pop()
        yield Spelled(replace(shown.entry, path=at, opaque=False), shown)
        stack += [(child, at + b"/" + name) for name, child in (shown.children or {}).items()]


def _linked(spelled: list[Spelled]) -> list[Spelled]:
    """Keep together what is one file below."""
    names: dict[tuple[int, bytes], bytes] = {}
    result = []
    for item in spelled:
        if item.below is not None and item.entry.kind is not Kind.DIR:
            first = names.setdefault((item.below.layer, item.below.source), item.entry.path)
            if first != item.entry.path:
                result.append(Spelled(replace(item.entry, kind=Kind.HARDLINK, link=first)))
                continue
        result.append(item)
    return result
