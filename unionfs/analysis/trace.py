"""Find the layer that a file comes from, and what lies hidden below it.

Each layer is asked for the path and for everything on the way to it, from the top. What a layer says is
SHOWN, MERGED (a directory that contributes to the one that is shown), HIDDEN (an older version, with
what shadows it) or DELETES. A path is traced as it is spelled: symlinks on the way are the caller's.

The rules are core/lookup's; here every layer is asked, also those below the one that decides.
"""

import enum
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from unionfs.oci.entry import Entry, Kind

__all__ = ["Asked", "Line", "Verdict", "trace"]


class Verdict(enum.Enum):
    """What a layer's answer means for the union."""

    SHOWN = "shown"
    MERGED = "merged"
    HIDDEN = "hidden"
    DELETES = "deletes"
    OPAQUE = "opaque"
    """The layer has nothing there, but hides everything below by an opaque directory above it."""


class Asked(Protocol):
    """A layer that can be asked for one path."""

    def find(self, path: bytes) -> Entry | None:
        """Return the layer's own entry at *path*, whiteouts too; None where it has none."""


class Line(NamedTuple):
    """One layer's answer."""

    layer: int
    """Its place in the sequence that was asked."""
    verdict: Verdict
    entry: Entry | None
    path: bytes
    """Where the answer stands: the path, or what is above it."""
    shadow: int | None = None
    """The layer that hides this one."""
    why: str = ""
    """How it does that."""


def trace(layers: Sequence[Asked], path: bytes) -> Iterator[Line]:
    """Ask *layers*, bottom first, for the clean *path*; the answers come from the top down.

    Layers that say nothing about it are left out.
    """
    parts = path.split(b"/") if path else []
    above = [b"/".join(parts[:count]) for count in range(1, len(parts))]
    shadow: tuple[int, str] | None = None
    shown: Entry | None = None
    for number in range(len(layers) - 1, -1, -1):
        layer = layers[number]
        entry = layer.find(path)
        barrier = _barrier(layer, above)
        if entry is not None:
            yield _line(number, entry, path, shown, shadow)
            if entry.kind is not Kind.WHITEOUT and shadow is None and shown is None:
                shown = entry
        elif barrier is not None and shadow is None:
            place, verdict, _ = barrier
            yield Line(number, verdict, layer.find(place), place)
        if shadow is None:
            shadow = _shadow(number, entry, barrier)


def _line(number: int, entry: Entry, path: bytes, shown: Entry | None, shadow: tuple[int, str] | None) -> Line:
    if shadow is not None:
        return Line(number, Verdict.HIDDEN, entry, path, *shadow)
    if entry.kind is Kind.WHITEOUT:
        return Line(number, Verdict.DELETES, entry, path)
    return Line(number, Verdict.SHOWN if shown is None else Verdict.MERGED, entry, path)


def _barrier(layer: Asked, above: Sequence[bytes]) -> tuple[bytes, Verdict, str] | None:
    """Return the first thing on the way to a path that hides everything below, if the layer has one."""
    for place in above:
        entry = layer.find(place)
        if entry is None:
            return None
        if entry.kind is Kind.WHITEOUT:
            return place, Verdict.DELETES, "deletes a directory above it"
        if entry.kind is not Kind.DIR:
            return place, Verdict.DELETES, "has a file in place of a directory above it"
        if entry.opaque:
            return place, Verdict.OPAQUE, "has an opaque directory above it"
    return None


def _shadow(number: int, entry: Entry | None, barrier: tuple[bytes, Verdict, str] | None) -> tuple[int, str] | None:
    """Return why nothing below a layer is seen, if so."""
    if entry is not None and entry.kind is Kind.WHITEOUT:
        return number, "deletes it"
    if entry is not None and entry.kind is not Kind.DIR:
        return number, "replaces it"
    if entry is not None and entry.opaque:
        return number, "has an opaque directory there"
    return (number, barrier[2]) if barrier is not None else None
