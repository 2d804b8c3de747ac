"""Offsets that outlive a listing: nobody misses an untouched name, whatever is removed meanwhile."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuse.plain import PlainUnion
from tests.mounting import Stack
from unionfs.core.request import DirEntry
from unionfs.fuse.listing import KEPT, Listing, Listings

if TYPE_CHECKING:
    from unionfs.core.union import Union

NAMES = st.sets(st.binary(min_size=1, max_size=4).filter(lambda name: name not in {b".", b".."}), max_size=30)


def listing(names: set[bytes]) -> Listing:
    return Listing([DirEntry(name, 1, 8) for name in (b".", b"..", *names)])


@pytest.mark.property
@given(before=NAMES, removed=NAMES, added=NAMES, at=st.integers(0, 40))
def test_the_rest_of_another_listing_is_what_was_not_read_yet(
    before: set[bytes], removed: set[bytes], added: set[bytes], at: int
) -> None:
    first, second = listing(before), listing((before - removed) | added)
    read = first.names[:at]
    offset = first.offsets[min(at, len(first.offsets)) - 1] if at else 0
    rest = [second.names[index] for index in second.after(offset)]
    seen = [*read, *rest]
    assert len(set(seen)) == len(seen)
    assert {b".", b"..", *(before - removed)} <= set(seen)


def test_the_dots_come_first_and_offsets_grow() -> None:
    found = listing({b"a", b"b", b"c", b"\1"})
    assert found.names[:2] == (b".", b"..")
    assert list(found.offsets) == sorted(found.offsets)
    assert found.offsets[0] > 0
    assert max(listing({bytes([byte]) for byte in range(1, 256)}).offsets) < 1 << 63


def test_a_listing_is_kept_until_it_is_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    union = PlainUnion(tmp_path)
    listings = Listings(cast("Union", union))
    first = listings.at(1, 0)
    (tmp_path / "b").touch()
    assert listings.at(1, 1) is first
    listings.end(1)
    assert len(listings.at(1, 1).names) == 4
    assert len(listings.at(1, 0).names) == 4
    assert union.stats()["open files"] == 0
    union.close()


def test_only_some_unfinished_listings_are_kept(tmp_path: Path) -> None:
    union = PlainUnion(tmp_path)
    nodes = []
    for number in range(KEPT + 1):
        (tmp_path / str(number)).mkdir()
        nodes.append(union.lookup(1, str(number).encode())[0].nodeid)
    listings = Listings(cast("Union", union))
    first = [listings.at(nodeid, 0) for nodeid in nodes]
    assert listings.at(nodes[-1], 1) is first[-1]
    assert listings.at(nodes[0], 1) is not first[0]
    union.close()


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    result = Stack(tmp_path, engine="direct")
    for number in range(COUNT):
        (result.base / "directory" / f"a-name-of-some-length-{number}").touch()
    result.mount()
    yield result
    result.end()
    assert not re.search("ERROR|WARNING", result.logged())


COUNT = 3000
"""More names than one getdents(2) of the C library takes."""


@pytest.mark.fuse
@pytest.mark.parametrize("listed_before", [False, True])
def test_a_directory_is_emptied_while_it_is_read(stack: Stack, *, listed_before: bool) -> None:
    """Listed before, the first names come from the kernel's cache, which the first unlink drops."""
    directory = stack / "directory"
    if listed_before:
        assert len(os.listdir(directory)) == COUNT
    with os.scandir(directory) as entries:
        for entry in entries:
            os.unlink(entry.path)
    assert os.listdir(directory) == []
    directory.rmdir()


@pytest.mark.fuse
def test_two_readers_and_a_remover_get_along(stack: Stack) -> None:
    directory = stack / "directory"
    untouched = {f"a-name-of-some-length-{number}" for number in range(0, COUNT, 2)}
    with os.scandir(directory) as first, os.scandir(directory) as second:
        seen = [[next(first).name for _ in range(10)], [next(second).name for _ in range(500)]]
        for number in range(1, COUNT, 2):
            os.unlink(directory / f"a-name-of-some-length-{number}")
        for names, entries in zip(seen, (first, second), strict=True):
            names.extend(entry.name for entry in entries)
            assert len(set(names)) == len(names)
            assert untouched <= set(names)


@pytest.mark.fuse
def test_a_removed_directory_that_somebody_is_in_lists_nothing(stack: Stack) -> None:
    (stack / "gone").mkdir()
    fd = os.open(stack / "gone", os.O_RDONLY)
    (stack / "gone").rmdir()
    with contextlib.suppress(FileNotFoundError):
        assert os.listdir(fd) == []
    os.close(fd)
    shutil.rmtree(stack / "directory")
    assert not (stack / "directory").exists()


@pytest.mark.fuse
def test_a_directory_is_synced(stack: Stack) -> None:
    (stack / "directory" / "new").touch()
    fd = os.open(stack / "directory", os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    assert (stack.upper / "directory" / "new").exists()


@pytest.mark.fuse
def test_a_listing_shows_the_number_of_a_link_that_a_copy_up_broke(stack: Stack) -> None:
    (stack.base / "directory" / "one").write_text("content")
    (stack.base / "directory" / "two").hardlink_to(stack.base / "directory" / "one")
    directory = stack / "directory"

    def listed() -> dict[str, int]:
        with os.scandir(directory) as entries:
            return {entry.name: entry.inode() for entry in entries}

    for _ in range(2):  # the second time from the kernel's cache
        assert listed()["one"] == listed()["two"] == (directory / "two").stat().st_ino
    (directory / "two").chmod(0o600)
    assert listed()["two"] == (directory / "two").stat().st_ino
    assert listed()["one"] == (directory / "one").stat().st_ino
