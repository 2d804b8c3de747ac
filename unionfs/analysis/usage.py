"""How much of an image's layers its users never see.

    total      bytes of all files in all layers, hard links once
    needed     bytes of the files that the merged view shows
    wasted     total - needed: overwritten or deleted by a layer above
    efficiency needed / total, 1 for an image without files

dive's score divides, path by path, the smallest version by all versions; the two agree where files are
overwritten by equal ones, and this one never calls a file efficient that nobody can see.

"Only touched" are bytes of a file that a layer holds again with equal content: a chmod or chown copied
them (moby#6119); they are part of wasted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from unionfs.oci.entry import Entry, Kind
from unionfs.oci.merged import Merged

__all__ = ["Duplicate", "LayerUsage", "Offender", "Usage", "duplicates", "usage"]


class Offender(NamedTuple):
    """A path with bytes that nobody sees."""

    path: bytes
    wasted: int
    versions: int
    """In how many layers the path is a file."""
    deleted: bool
    """Whether the merged view has no such file."""


class Duplicate(NamedTuple):
    """Content that is there more than once."""

    digest: bytes
    size: int
    places: tuple[tuple[str, bytes], ...]
    """(layer, path) of each."""

    @property
    def wasted(self) -> int:
        """Bytes of all but one."""
        return self.size * (len(self.places) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerUsage:
    """One layer's part."""

    files: int
    size: int
    wasted: int
    """Bytes of it that layers above hide."""
    touched: int
    """Bytes of it that are below already, with equal content under the same name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The whole account."""

    layers: tuple[LayerUsage, ...]
    """Bottom first."""
    total: int
    needed: int
    touched: int
    offenders: tuple[Offender, ...]
    """The most wasteful first."""

    @property
    def wasted(self) -> int:
        """Bytes that nobody sees."""
        return self.total - self.needed

    @property
    def efficiency(self) -> float:
        """See the module."""
        return self.needed / self.total if self.total else 1.0


def usage(layers: Sequence[Sequence[Entry]]) -> Usage:
    """Account for *layers*, bottom first."""
    merged = Merged(layers)
    seen = {(node.layer, node.source) for node in merged.walk() if node.entry.kind is Kind.FILE}
    rows, waste, versions = [], dict[bytes, int](), dict[bytes, int]()
    below: dict[bytes, bytes] = {}
    needed = touched_all = 0
    for number, entries in enumerate(layers):
        files = [entry for entry in entries if entry.kind is Kind.FILE]
        hidden = [entry for entry in files if (number, entry.path) not in seen]
        touched = sum(entry.size for entry in files if entry.digest and below.get(entry.path) == entry.digest)
        for entry in hidden:
            waste[entry.path] = waste.get(entry.path, 0) + entry.size
        for entry in files:
            versions[entry.path] = versions.get(entry.path, 0) + 1
            below[entry.path] = entry.digest
        size, lost = sum(e.size for e in files), sum(e.size for e in hidden)
        rows.append(LayerUsage(files=len(files), size=size, wasted=lost, touched=touched))
        needed, touched_all = needed + size - lost, touched_all + touched
    offenders = [
        Offender(path, bytes_lost, versions[path], merged.at(path) is None)
        for path, bytes_lost in waste.items()
        if bytes_lost
    ]
    return Usage(
        layers=tuple(rows),
        total=sum(row.size for row in rows),
        needed=needed,
        touched=touched_all,
        offenders=tuple(sorted(offenders, key=lambda offender: (-offender.wasted, offender.path))),
    )


def duplicates(layers: Iterable[tuple[str, Sequence[Entry]]]) -> list[Duplicate]:
    """Return content that several files have, in any of the named layers, the most wasteful first.

    Hard links are one file. Layers of the same name are one layer.
    """
    places: dict[tuple[bytes, int], dict[tuple[str, bytes], None]] = {}
    for name, entries in layers:
        for entry in entries:
            if entry.kind is Kind.FILE and entry.size and entry.digest:
                places.setdefault((entry.digest, entry.size), {})[(name, entry.path)] = None
    found = [Duplicate(digest, size, tuple(where)) for (digest, size), where in places.items() if len(where) > 1]
    return sorted(found, key=lambda duplicate: (-duplicate.wasted, duplicate.digest))
