"""What one member of a layer's archive means for the layer's directory: decisions, and no file touched.

`Planner` remembers the tree that the archive has made so far, so every question a hostile or careless
archive raises is answered from values:

1. a path is cleaned; ``..`` and NUL are refused; a leading ``/`` means the layer's root, as in a chroot;
2. a parent that is a symlink is followed inside the layer and the layers below it, again as in a
   chroot: the path that comes out has no symlink in it, so applying it needs to follow none;
3. a parent that the archive does not mention is made with the attributes it has below;
4. a directory on a directory takes its attributes and keeps its content; anything else on anything
   replaces it;
5. a whiteout hides what is below and never what this layer brings: where both are, the directory is
   opaque, the file just is; whiteouts that could hide nothing are dropped;
6. a hard link's target is looked for in this layer, then below: then it is copied up first, because
   two names of one file must lie in one layer.

Source: OCI image-spec layer.md; containerd archive/tar.go for 2 and 3.
"""

import enum
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from msgspec.structs import replace

from unionfs.core.ondisk import META_PREFIX, OPAQUE_FILE, WHITEOUT_PREFIX
from unionfs.errors import ImageError
from unionfs.oci.described import MAX_PATH, described, implied
from unionfs.oci.entry import ROOT, Entry, Kind
from unionfs.oci.tarheader import Member

__all__ = ["Below", "Planner", "Step", "Verb", "clean"]

MAX_NAME: Final = 255
MAX_LINKS: Final = 40
"""Symlinks followed on the way to one file, as in the kernel."""


class Verb(enum.Enum):
    """What is to be done with a path."""

    DIR = "make the directory, or give the one that is there these attributes"
    FILE = "write the member's content"
    SYMLINK = "make a symlink"
    NODE = "make a device or fifo"
    HARDLINK = "give the file another name"
    COPY = "copy the file up from the layers below"
    WHITEOUT = "hide the name"
    OPAQUE = "hide everything below the directory"
    REMOVE = "remove what is there"


class Step(NamedTuple):
    """One thing to do; the path has no symlink in it, and its parent is there."""

    verb: Verb
    path: bytes
    entry: Entry


class Below(Protocol):
    """The merged view of the layers below."""

    def find(self, path: bytes) -> Entry | None:
        """Return what is shown at *path*, which is clean; no symlink is followed.

        A file of several names is a FILE under each of them.
        """


class _Node:
    """A file that the archive has made."""

    __slots__ = ("children", "entry", "names")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.names: deque[bytes] | None = None
        """Of a file with several: all that it has had; some may have been replaced since, one has not."""
        self.children: dict[bytes, _Node] | None = {} if entry.kind is Kind.DIR else None


class _Place(NamedTuple):
    """A directory on the way: its node (None: only below), path, and whether the layers below show through."""

    node: _Node | None
    path: bytes
    see_through: bool


def clean(path: bytes) -> tuple[bytes, ...]:
    """Return the components of *path*; none for the root.

    >>> clean(b"/a//./b/")
    (b'a', b'b')
    """
    parts = tuple(part for part in path.split(b"/") if part not in {b"", b"."})
    if b".." in parts:
        raise ImageError(f"path {path!r} leads out of the layer")
    name = parts[-1] if parts else b""
    mark = len(name) if name.startswith(WHITEOUT_PREFIX) else 0  # what it is about may be as long as names can be
    too_long = any(len(part.removeprefix(WHITEOUT_PREFIX)) > MAX_NAME for part in parts)
    if b"\0" in path or len(path) - mark > MAX_PATH or too_long:
        raise ImageError(f"path {path[:80]!r} of {len(path)} bytes is not one that a file can have")
    return parts


class Planner:
    """Turn members into steps, one archive long."""

    def __init__(self, below: Below | None) -> None:
        """*below* is None for the bottom layer."""
        self._below = below
        self._root = _Node(Entry(path=ROOT, kind=Kind.DIR, mode=0o755))
        self._described = False
        self.steps: list[Step] = []
        """What is to be done, in order; the caller takes it away."""
        self.notes: list[str] = []
        """What is left out of the archive, for people."""

    def plan(self, member: Member) -> None:
        """Add the steps for one member.

        Raises:
            ImageError: no sound layer has such a member.
        """
        parts = clean(member.path)
        if any(part.startswith(META_PREFIX) for part in parts[:-1]):
            return  # aufs' own book-keeping
        if not parts:
            self._set_root(member)
        elif parts[-1].startswith(WHITEOUT_PREFIX):
            self._mark(parts)
        elif member.kind is Kind.CHAR and member.major == member.minor == 0:
            self._whiteout(parts)  # a tar made of an upper directory as it is
        elif member.kind is Kind.HARDLINK:
            self._hard_link(parts, member)
        else:
            self._make(parts, member)

    def end(self) -> None:
        """Add the steps for what the archive left unsaid: its root is as it is below.

        A stack shows the root of its top layer, so every layer must have the right one.
        """
        if not self._described:
            below = self._find_below(ROOT) or self._root.entry
            self._root.entry = replace(below, opaque=self._root.entry.opaque)
            self._do(Verb.DIR, self._root.entry)

    def entries(self) -> Iterator[Entry]:
        """Yield the finished layer, parents before children, sorted."""
        names: dict[int, bytes] = {}
        stack = [(ROOT, self._root)]
        while stack:
            path, node = stack.pop()
            yield self._finished(node, path, names.setdefault(id(node), path))
            children = sorted((node.children or {}).items(), reverse=True)
            stack += [(path + b"/" + name if path else name, child) for name, child in children]

    @staticmethod
    def _finished(node: _Node, path: bytes, first: bytes) -> Entry:
        entry = node.entry
        if first != path:
            return replace(entry, path=path, kind=Kind.HARDLINK, link=first)
        return replace(entry, path=path) if entry.path != path else entry

    def completed(self, path: bytes, entry: Entry) -> None:
        """Note what is known of a file only after its content went by."""
        node = self._at(path)
        assert node is not None  # noqa: S101 - it was just made
        node.entry = replace(entry, opaque=node.entry.opaque)

    def _at(self, path: bytes) -> _Node | None:
        node: _Node | None = self._root
        for part in path.split(b"/"):
            node = node.children.get(part) if node and node.children else None
        return node

    def _set_root(self, member: Member) -> None:
        if member.kind is not Kind.DIR:
            raise ImageError(f"the layer's root is a {member.kind.value}, not a directory")
        self._described = True
        self._root.entry = replace(described(member, ROOT, self.notes), opaque=self._root.entry.opaque)
        self._do(Verb.DIR, self._root.entry)

    def _do(self, verb: Verb, entry: Entry) -> None:
        self.steps.append(Step(verb, entry.path, entry))

    def _make(self, parts: Sequence[bytes], member: Member) -> None:
        place = self._enter(parts[:-1], member)
        entry = described(member, _join(place.path, parts[-1]), self.notes)
        self._place(place, parts[-1], entry)

    def _place(self, place: _Place, name: bytes, entry: Entry) -> None:
        """Put *entry* where it belongs, clearing the way."""
        if name.startswith(WHITEOUT_PREFIX):
            raise ImageError(f"{entry.path!r}: no file of an image can be called that")
        children = _children(place)
        there = children.get(name)
        if entry.kind is Kind.DIR:
            if there and there.children is not None:
                there.entry = replace(entry, opaque=there.entry.opaque)
                self._do(Verb.DIR, there.entry)
                return
            replaces_whiteout = there is not None and there.entry.kind is Kind.WHITEOUT
            entry = replace(entry, opaque=True) if replaces_whiteout else entry
        if there:
            self.steps.append(Step(Verb.REMOVE, entry.path, there.entry))
        children[name] = _Node(entry)
        self._do(_VERBS[entry.kind], entry)
        if entry.opaque:
            self._do(Verb.OPAQUE, entry)

    def _mark(self, parts: Sequence[bytes]) -> None:
        name = parts[-1][len(WHITEOUT_PREFIX) :]
        if parts[-1] == OPAQUE_FILE:
            self._opaque(parts[:-1])
        elif parts[-1].startswith(META_PREFIX):
            return
        elif name in {b"", b".", b".."}:
            raise ImageError(f"whiteout {b'/'.join(parts)!r} hides no name")
        else:
            self._whiteout((*parts[:-1], name))

    def _whiteout(self, parts: Sequence[bytes]) -> None:
        place = self._look(parts[:-1])
        if place is None or not place.see_through or self._below is None:
            return  # nothing there that it could hide
        there = place.node.children.get(parts[-1]) if place.node and place.node.children else None
        if there is None:
            place = self._enter(parts[:-1], None)
            path = _join(place.path, parts[-1])
            node = _Node(Entry(path=path, kind=Kind.WHITEOUT, mode=0))
            _children(place)[parts[-1]] = node
            self._do(Verb.WHITEOUT, node.entry)
        elif there.children is not None:
            self._make_opaque(there)

    def _opaque(self, parts: Sequence[bytes]) -> None:
        place = self._look(parts)
        if place is None or self._below is None:
            return
        node = self._enter(parts, None).node
        if node is not None:
            self._make_opaque(node)

    def _make_opaque(self, node: _Node) -> None:
        if node.entry.opaque:
            return
        node.entry = replace(node.entry, opaque=True)
        self._do(Verb.OPAQUE, node.entry)
        children = node.children or {}
        for name in [name for name, child in children.items() if child.entry.kind is Kind.WHITEOUT]:
            self._do(Verb.REMOVE, children.pop(name).entry)

    def _hard_link(self, parts: Sequence[bytes], member: Member) -> None:
        wanted = clean(member.link)
        if not wanted:
            raise ImageError(f"hard link {member.path!r} to the root")
        target = self._target(wanted, member)
        place = self._enter(parts[:-1], member)
        path = _join(place.path, parts[-1])
        there = _children(place).get(parts[-1])
        if there is target:
            return
        if there and _lies_in(target, there):
            raise ImageError(f"hard link {member.path!r} would replace the directory its file lies in")
        names = target.names = target.names or deque([target.entry.path])
        while self._at(names[0]) is not target:
            names.popleft()
        if there:
            self.steps.append(Step(Verb.REMOVE, path, there.entry))
        _children(place)[parts[-1]] = target
        names.append(path)
        self.steps.append(Step(Verb.HARDLINK, path, replace(target.entry, path=names[0])))

    def _target(self, wanted: Sequence[bytes], member: Member) -> _Node:
        """Return the file that a hard link means, copied up if it lies below."""
        place = self._look(wanted[:-1])
        node = place.node.children.get(wanted[-1]) if place and place.node and place.node.children else None
        if place and node is None and place.see_through:
            found = self._find_below(_join(place.path, wanted[-1]))
            if found and found.kind is not Kind.DIR:
                place = self._enter(wanted[:-1], member)
                node = _Node(found)
                _children(place)[wanted[-1]] = node
                self._do(Verb.COPY, node.entry)
        if node is None or node.entry.kind in {Kind.DIR, Kind.WHITEOUT}:
            raise ImageError(f"hard link {member.path!r} to {member.link!r}, which is no file of the image")
        return node

    def _find_below(self, path: bytes) -> Entry | None:
        return self._below.find(path) if self._below else None

    def _look(self, parts: Sequence[bytes]) -> _Place | None:
        """Return the directory *parts* leads to, without making anything; None if there is none."""
        return self._walk(parts, make=False, member=None)

    def _enter(self, parts: Sequence[bytes], member: Member | None) -> _Place:
        """Return the directory *parts* leads to, with every directory on the way made."""
        place = self._walk(parts, make=True, member=member)
        assert place is not None  # noqa: S101 - only looking finds nothing
        return place

    def _walk(self, parts: Sequence[bytes], *, make: bool, member: Member | None) -> _Place | None:
        trail = [_Place(self._root, ROOT, self._below is not None and not self._root.entry.opaque)]
        ahead = list(reversed(parts))
        followed = 0
        while ahead:
            name = ahead.pop()
            if name == b"..":
                trail = trail[:-1] or trail
                continue
            found = self._next(trail[-1], name, member if make else None, make=make)
            if found is None:
                return None
            if isinstance(found, bytes):
                followed += 1
                if followed > MAX_LINKS or len(ahead) > MAX_PATH:
                    raise ImageError(f"too many symlinks on the way to {b'/'.join(parts)!r}")
                trail = trail[:1] if found.startswith(b"/") else trail
                ahead += [part for part in reversed(found.split(b"/")) if part not in {b"", b"."}]
            else:
                trail.append(found)
        return trail[-1]

    def _next(self, place: _Place, name: bytes, member: Member | None, *, make: bool) -> _Place | bytes | None:
        """Take one step: a directory, the target of a symlink, or None where only looking finds nothing."""
        path = _join(place.path, name)
        node = place.node.children.get(name) if place.node and place.node.children else None
        if node is None:
            found = self._find_below(path) if place.see_through else None
            if found and found.kind is Kind.SYMLINK:
                return found.link
            see_through = found is not None and found.is_dir
            if not make:
                return _Place(None, path, see_through) if see_through else None
            below = found if found and see_through else implied(path, member)
            self._place(place, name, replace(below, opaque=False))
            return _Place(_children(place)[name], path, see_through)
        if node.entry.kind is Kind.SYMLINK:
            return node.entry.link
        if node.children is None:
            if not make:
                return None
            if node.entry.kind is not Kind.WHITEOUT:
                raise ImageError(f"{path!r} is a {node.entry.kind.value}, and the archive puts files under it")
            self._place(place, name, implied(path, member))
            node = _children(place)[name]
        return _Place(node, path, place.see_through and not node.entry.opaque)


_VERBS: Final = {
    Kind.DIR: Verb.DIR,
    Kind.FILE: Verb.FILE,
    Kind.SYMLINK: Verb.SYMLINK,
    Kind.CHAR: Verb.NODE,
    Kind.BLOCK: Verb.NODE,
    Kind.FIFO: Verb.NODE,
}


def _lies_in(target: _Node, top: _Node) -> bool:
    """Tell whether a file has a name below *top*, which is about to go: each node is looked at once in its life."""
    stack = list((top.children or {}).values())
    while stack:
        node = stack.pop()
        if node is target:
            return True
        stack += (node.children or {}).values()
    return False


def _children(place: _Place) -> "dict[bytes, _Node]":
    assert place.node is not None  # noqa: S101 - what is not there was made just before
    assert place.node.children is not None  # noqa: S101 - `_walk` ends in directories
    return place.node.children


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name
