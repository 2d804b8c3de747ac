"""What differs, and in which respect."""

import pytest
from msgspec.structs import replace

from tests.analysis.layers import Literal, layer
from unionfs.analysis.difference import difference
from unionfs.oci.entry import Entry, Kind


def never(_old: Entry, _new: Entry) -> bool:
    raise AssertionError("content was read though the digests are known")


def changes(old: Literal, new: Literal, *ignore: str) -> list[str]:
    before, after = ({entry.path: entry for entry in layer(tree)} for tree in (old, new))
    return [
        f"{change.kind} {change.path.decode()} {' '.join(change.respects)}".rstrip()
        for change in difference(before, after, never, ignore)
    ]


def test_added_changed_deleted() -> None:
    old: Literal = {"a": b"1", "b": b"1", "d": {"x": b""}}
    new: Literal = {"b": b"2", "c": b"1", "d": {"x": b""}}
    assert changes(old, new) == ["D a", "C b content", "A c"]


def test_equal_trees_do_not_differ() -> None:
    assert changes({"a": b"1", "l": "to"}, {"a": b"1", "l": "to"}) == []


BASE = Entry(path=b"", kind=Kind.FILE, mode=0o644, uid=1, gid=2, mtime_ns=3, size=1, digest=b"1" * 32)


@pytest.mark.parametrize(
    ("change", "respects"),
    [
        ({"mode": 0o600}, "mode"),
        ({"uid": 5}, "owner"),
        ({"gid": 5}, "owner"),
        ({"mtime_ns": 4}, "mtime"),
        ({"xattrs": (("user.a", b""),)}, "xattrs"),
        ({"digest": b"2" * 32}, "content"),
        ({"size": 2}, "content"),
        ({"kind": Kind.FIFO}, "type"),
        ({"mode": 0o600, "mtime_ns": 9}, "mode mtime"),
    ],
)
def test_each_respect_has_its_name(change: dict[str, object], respects: str) -> None:
    assert changes({"f": BASE}, {"f": replace(BASE, **change)}) == [f"C f {respects}"]
    assert changes({"f": BASE}, {"f": replace(BASE, **change)}, *respects.split()) == []


def test_targets_and_devices_are_content() -> None:
    assert changes({"l": "a"}, {"l": "b"}) == ["C l content"]
    one, other = (Entry(path=b"", kind=Kind.CHAR, rdev=n) for n in (1, 2))
    assert changes({"n": one}, {"n": other}) == ["C n content"]


def test_content_is_read_only_where_digests_are_missing() -> None:
    unknown = replace(BASE, digest=b"")
    asked: list[bytes] = []

    def same(old: Entry, _new: Entry) -> bool:
        asked.append(old.path)
        return True

    assert list(difference({b"f": unknown}, {b"f": BASE}, same)) == []
    assert len(asked) == 1
