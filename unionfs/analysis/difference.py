"""What differs between two trees, and in which respect.

Trees are entries by path. A file is A (added), D (deleted) or C (changed), and a change names its
respects: type, content, mode, owner, mtime, xattrs, target, device. A directory's mtime follows every
change in it, so it counts only where it is all that changed *and* nobody asked to ignore it.
"""

from collections.abc import Callable, Container, Iterator, Mapping
from typing import Final, NamedTuple

from unionfs.oci.entry import Entry, Kind

__all__ = ["RESPECTS", "Change", "difference"]

RESPECTS: Final = ("type", "content", "mode", "owner", "mtime", "xattrs")

SameContent = Callable[[Entry, Entry], bool]
"""Compares two files of equal size whose digests are not both known."""


class Change(NamedTuple):
    """One path that is not the same."""

    kind: str
    """"A", "C" or "D"."""
    path: bytes
    respects: tuple[str, ...]
    """Of a change: in which respects, in the order of RESPECTS."""
    old: Entry | None
    new: Entry | None


def difference(
    old: Mapping[bytes, Entry], new: Mapping[bytes, Entry], same: SameContent, ignore: Container[str] = ()
) -> Iterator[Change]:
    """Yield the changes that lead from *old* to *new*, sorted by path; *ignore* names respects.

    What is below a directory that was added or deleted is listed too.
    """
    for path in sorted(old.keys() | new.keys(), key=lambda path: path.split(b"/")):
        before, after = old.get(path), new.get(path)
        if before is None:
            yield Change("A", path, (), None, after)
        elif after is None:
            yield Change("D", path, (), before, None)
        elif respects := tuple(r for r in _respects(before, after, same, ignore)):
            yield Change("C", path, respects, before, after)


def _respects(old: Entry, new: Entry, same: SameContent, ignore: Container[str]) -> Iterator[str]:
    checks: dict[str, Callable[[], bool]] = {
        "type": lambda: old.kind is not new.kind,
        "content": lambda: not _same_content(old, new, same),
        "mode": lambda: old.mode != new.mode,
        "owner": lambda: (old.uid, old.gid) != (new.uid, new.gid),
        "mtime": lambda: old.mtime_ns != new.mtime_ns,
        "xattrs": lambda: old.xattrs != new.xattrs,
    }
    for respect in RESPECTS:
        if respect not in ignore and checks[respect]():
            yield respect


def _same_content(old: Entry, new: Entry, same: SameContent) -> bool:
    if old.kind is not new.kind:
        return True  # the type says it
    if old.kind is not Kind.FILE:
        return (old.link, old.rdev, old.opaque) == (new.link, new.rdev, new.opaque)
    if old.size != new.size:
        return False
    if old.digest and new.digest:
        return old.digest == new.digest
    return old.size == 0 or same(old, new)
