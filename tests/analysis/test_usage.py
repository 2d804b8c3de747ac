"""Wasted bytes and duplicates, computed by hand and by the code."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.analysis.layers import OPAQUE, WHITEOUT, Literal, layer
from unionfs.analysis.treemap import Box, squarify
from unionfs.analysis.usage import duplicates, usage
from unionfs.oci.entry import Entry, Kind
from unionfs.oci.merged import Merged

ONE, TWO = b"x" * 100, b"y" * 50


def account(*stack: Literal) -> tuple[int, int, int]:
    """Return total, needed and touched bytes; the stack is written bottom first."""
    result = usage([layer(tree) for tree in stack])
    return result.total, result.needed, result.touched


def test_one_layer_wastes_nothing() -> None:
    assert account({"a": ONE}) == (100, 100, 0)
    assert usage([layer({"a": ONE})]).efficiency == 1.0
    assert usage([]).efficiency == 1.0


def test_overwritten_and_deleted_bytes_are_wasted() -> None:
    assert account({"a": ONE, "b": TWO}, {"a": TWO, "b": WHITEOUT}) == (200, 50, 0)
    found = usage([layer({"a": ONE, "b": TWO}), layer({"a": TWO, "b": WHITEOUT})])
    assert found.wasted == 150
    assert found.efficiency == 0.25
    assert [(o.path, o.wasted, o.versions, o.deleted) for o in found.offenders] == [
        (b"a", 100, 2, False),
        (b"b", 50, 1, True),
    ]
    assert [row.wasted for row in found.layers] == [150, 0]


def test_whole_directories_are_deleted() -> None:
    assert account({"d": {"a": ONE}}, {"d": WHITEOUT}) == (100, 0, 0)
    assert account({"d": {"a": ONE}}, {"d": {OPAQUE: b"", "b": TWO}}) == (150, 50, 0)
    assert account({"d": {"a": ONE}}, {"d": TWO}) == (150, 50, 0)


def test_a_file_that_was_only_touched_is_told() -> None:
    assert account({"a": ONE}, {"a": ONE}) == (200, 100, 100)


def test_hard_links_count_once() -> None:
    link = Entry(path=b"", kind=Kind.HARDLINK, link=b"a", size=100)
    assert account({"a": ONE, "b": link}) == (100, 100, 0)
    assert account({"a": ONE, "b": link}, {"a": WHITEOUT}) == (100, 100, 0)


def test_duplicates_are_found_across_layers_and_images() -> None:
    found = duplicates([("one", layer({"a": ONE, "b": TWO})), ("two", layer({"c": ONE, "d": b""}))])
    assert [(d.wasted, d.places) for d in found] == [(100, (("one", b"a"), ("two", b"c")))]
    same = layer({"a": ONE})
    assert duplicates([("shared", same), ("shared", same)]) == []


TREES = st.recursive(
    st.sampled_from([b"1", b"22", b"333", WHITEOUT]),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
LAYERS = st.lists(st.dictionaries(st.sampled_from("abc"), TREES, max_size=3), min_size=1, max_size=4)


@pytest.mark.property
@given(LAYERS)
def test_what_is_needed_is_what_is_shown(stack: list[Literal]) -> None:
    layers = [layer(tree) for tree in stack]
    shown = [node for node in Merged(layers).walk() if node.entry.kind is Kind.FILE]
    found = usage(layers)
    assert found.needed == sum(node.entry.size for node in shown)
    assert found.wasted == sum(o.wasted for o in found.offenders) == sum(row.wasted for row in found.layers)


@pytest.mark.property
@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=40))
def test_a_treemap_keeps_areas_and_stays_inside(sizes: list[int]) -> None:
    sizes = sorted(sizes, reverse=True)
    boxes = squarify(sizes, Box(0, 0, 300, 200))
    scale = 300 * 200 / sum(sizes)
    assert len(boxes) == len(sizes)
    for size, box in zip(sizes, boxes, strict=True):
        assert box.width * box.height == pytest.approx(size * scale, rel=1e-6)
        assert -1e-6 <= box.x <= box.x + box.width <= 300 + 1e-6
        assert -1e-6 <= box.y <= box.y + box.height <= 200 + 1e-6
