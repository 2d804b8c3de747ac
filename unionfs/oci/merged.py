"""The merged view of a stack of layers, from their entries alone: no mount, no privilege, no file opened.

The rules are the union's (core/lookup), in the form that building from the bottom up gives them: each
layer is laid over what is there; a whiteout takes a name away, a directory on a directory merges, an
opaque one does not, anything else replaces.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from msgspec.structs import replace

from unionfs.errors import NoSuchPath
from unionfs.oci.entry import ROOT, Entry, Kind

__all__ = ["Merged", "Shown"]

MAX_LINKS: Final = 40


class Shown:
    """What the view shows at one path."""

    __slots__ = ("children", "entry", "layer", "source")

    def __init__(self, entry: Entry, layer: int, source: bytes) -> None:
        self.entry = entry
        """Never a whiteout; a file of several names is a FILE under each."""
        self.layer = layer
        """The layer it comes from; 0 is the bottom."""
        self.source = source
        """The path of its content in that layer; differs from the entry's for further names."""
        self.children: dict[bytes, Shown] | None = {} if entry.kind is Kind.DIR else None


class _Firsts:
    """The files of one layer that further names share; the table is made when the first is met."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries
        self._table: dict[bytes, Entry] = {}

    def of(self, link: Entry) -> Entry:
        if not self._table:
            self._table = {entry.path: entry for entry in self._entries}
        return self._table[link.link]


class Merged:
    """Layers, bottom first, laid over each other.

    *raw* leaves whiteouts and opaque marks in, to look at one layer as it is.
    """

    def __init__(self, layers: Iterable[Sequence[Entry]], *, raw: bool = False) -> None:
        self._raw = raw
        self.root = Shown(Entry(path=ROOT, kind=Kind.DIR, mode=0o755), 0, ROOT)
        for number, entries in enumerate(layers):
            self._lay(number, entries)

    def _lay(self, number: int, entries: Sequence[Entry]) -> None:
        above, there, firsts = ROOT, self.root, _Firsts(entries)
        for entry in entries:
            if not entry.path:
                self._directory(self.root, entry, number)
                continue
            parent, _, name = entry.path.rpartition(b"/")
            if parent != above:
                found = self.at(parent)
                if found is None or found.children is None:
                    continue  # no layer of ours holds a file whose directory it lacks
                above, there = parent, found
            children = there.children if there.children is not None else {}
            old = children.get(name)
            if entry.kind is Kind.WHITEOUT and not self._raw:
                children.pop(name, None)
            elif entry.kind is Kind.DIR and old is not None and old.children is not None:
                self._directory(old, entry, number)
            elif entry.kind is Kind.HARDLINK:
                children[name] = Shown(replace(firsts.of(entry), path=entry.path), number, entry.link)
            else:
                children[name] = Shown(self._unmarked(entry), number, entry.path)

    def _directory(self, old: Shown, entry: Entry, number: int) -> None:
        if entry.opaque:
            old.children = {}
        old.entry, old.layer, old.source = self._unmarked(entry), number, entry.path

    def _unmarked(self, entry: Entry) -> Entry:
        return replace(entry, opaque=False) if entry.opaque and not self._raw else entry

    def at(self, path: bytes) -> Shown | None:
        """Return what is at *path*, which is clean; no symlink is followed."""
        node: Shown | None = self.root
        for part in path.split(b"/") if path else ():
            node = node.children.get(part) if node is not None and node.children is not None else None
        return node

    def find(self, path: bytes) -> Entry | None:
        """Return the entry at *path*, or None; see `at`."""
        shown = self.at(path)
        return shown.entry if shown else None

    def resolve(self, path: bytes, *, follow: bool = True) -> Shown:
        """Return what a process with this root would find at *path*; *follow* is about its last component.

        Raises:
            NoSuchPath: nothing is there, or symlinks lead in circles.
        """
        trail = [self.root]
        ahead = [part for part in reversed(path.split(b"/")) if part not in {b"", b"."}]
        followed = 0
        while ahead:
            name = ahead.pop()
            if name == b"..":
                trail = trail[:-1] or trail
                continue
            node = (trail[-1].children or {}).get(name)
            if node is None:
                raise NoSuchPath(path)
            if node.entry.kind is Kind.SYMLINK and (ahead or follow):
                followed += 1
                if followed > MAX_LINKS:
                    raise NoSuchPath(path, "symlinks lead in circles")
                trail = trail[:1] if node.entry.link.startswith(b"/") else trail
                ahead += [part for part in reversed(node.entry.link.split(b"/")) if part not in {b"", b"."}]
            else:
                trail.append(node)
        return trail[-1]

    def walk(self, top: Shown | None = None) -> Iterator[Shown]:
        """Yield *top* (the root) and everything below it, sorted, parents first."""
        stack = [top or self.root]
        while stack:
            node = stack.pop()
            yield node
            if node.children:
                stack += [child for _, child in sorted(node.children.items(), reverse=True)]

    def flattened(self) -> Sequence[Entry]:
        """Return the view as one layer: hard links where files share content, no marks."""
        names: dict[tuple[int, bytes], bytes] = {}
        entries = []
        for node in self.walk():
            entry = node.entry
            first = names.setdefault((node.layer, node.source), entry.path)
            if entry.kind is not Kind.DIR and first != entry.path:
                entry = replace(entry, kind=Kind.HARDLINK, link=first)
            entries.append(entry)
        return entries
