"""Laws that need no expected value: they hold for every stack."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.property.literals import NAMES, layers, trees
from unionfs.testing import disk
from unionfs.testing.driver import attempt
from unionfs.testing.literal import Tree
from unionfs.testing.snapshot import Snapshot, differences, snapshot, without_directory_links
from unionfs.testing.stack import in_process, lay

pytestmark = [pytest.mark.property, pytest.mark.root]


def shown(base: Path, name: str, lower: Sequence[Tree]) -> Snapshot:
    (base / name).mkdir()
    with in_process(lay(base / name, lower, read_only=True)) as driver:
        return snapshot(driver)


@given(layers())
def test_a_listing_names_exactly_what_a_lookup_finds(lower: list[Tree]) -> None:
    with disk.in_memory() as base, in_process(lay(base, lower, read_only=True)) as driver:
        listed = {name for name, _ in driver.listdir("")}
        found = {name for name in (*NAMES, "x", "y", "z") if attempt(driver, ("lstat", name)).errno == "ok"}
        assert listed == found


@given(layers(), st.data())
def test_an_empty_layer_anywhere_changes_nothing(lower: list[Tree], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(lower)))
    with disk.in_memory() as base:
        alone, padded = shown(base, "alone", lower), shown(base, "padded", [*lower[:at], {}, *lower[at:]])
    lines = differences(alone, padded)
    # the root's own attributes are those of the topmost layer, and so is its time
    assert [line for line in lines if not line.startswith("/: ")] == []


@given(trees())
def test_a_layer_over_itself_shows_what_it_shows_alone(tree: Tree) -> None:
    with disk.in_memory() as base:
        alone, twice = shown(base, "alone", [tree]), shown(base, "twice", [tree, tree])
    # every directory is merged with itself, and has one link for it
    assert differences(without_directory_links(alone), without_directory_links(twice)) == []


@given(layers())
def test_an_upper_that_changed_nothing_shows_what_the_lower_ones_show(lower: list[Tree]) -> None:
    with disk.in_memory() as base:
        read_only = shown(base, "read-only", lower)
        (base / "writable").mkdir()
        with in_process(lay(base / "writable", lower)) as driver:
            lines = differences(read_only, snapshot(driver))
    assert [line for line in lines if not line.startswith("/: ")] == []
