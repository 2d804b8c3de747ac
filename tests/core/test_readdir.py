"""Listings: which names, in one piece whatever happens meanwhile, with the inode numbers that a stat shows."""

import os
import stat
from pathlib import Path

import pytest

from tests.core.conftest import Stacks
from tests.core.stacks import WHITEOUT, Stack, fifo, marked, opaque, symlink
from unionfs.core.request import DirEntry


def listing(s: Stack, path: str = "") -> list[DirEntry]:
    fh = s.union.opendir(s.id(path))
    try:
        return s.union.readdir(fh, 0)
    finally:
        s.union.releasedir(fh)


def test_the_dots_come_first_with_the_numbers_of_the_directories(stack: Stacks) -> None:
    s = stack({"a": {"b": {}}})
    dots = listing(s, "a/b")
    assert [entry.name for entry in dots] == [b".", b".."]
    assert [entry.ino for entry in dots] == [s.node("a/b").ino, s.node("a").ino]
    root = listing(s)[:2]
    assert root[0].ino == root[1].ino


def test_each_name_once_and_as_the_top_layer_has_it(stack: Stacks) -> None:
    s = stack({"a": "file", "b": {}, "c": symlink("x")}, {"a": {}, "b": "file", "c": "", "d": fifo}, upper={"b": {}})
    kinds = {entry.name: entry.type for entry in listing(s)[2:]}
    assert kinds == {
        b"a": stat.S_IFREG >> 12,
        b"b": stat.S_IFDIR >> 12,
        b"c": stat.S_IFLNK >> 12,
        b"d": stat.S_IFIFO >> 12,
    }


def test_whiteouts_are_never_listed(stack: Stacks) -> None:
    middle = {"d": {"a": WHITEOUT, ".wh.b": "", ".wh..wh.plnk": {}, ".wh..wh.aufs": ""}}
    s = stack(middle, {"d": {"a": "", "b": "", "c": ""}}, upper={"alone": {"w": WHITEOUT, ".wh.v": ""}})
    assert s.names("d") == ["c"]
    assert s.names("alone") == []
    assert s.names() == ["alone", "d"]


def test_an_attribute_whiteout_is_not_listed(stack: Stacks) -> None:
    gone = marked("", whiteout=b"y")
    s = stack({"d": marked({"a": gone, "empty": ""}, opaque=b"x")}, {"d": {"a": "", "b": ""}})
    assert s.names("d") == ["b", "empty"]


def test_a_wh_file_hides_names_of_the_layers_below_only(stack: Stacks) -> None:
    s = stack({".wh.f": "", "f": "new", ".wh.g": ""}, {"f": "old", "g": "old"})
    assert s.names() == ["f"]


def test_an_opaque_directory_ends_the_list(stack: Stacks) -> None:
    s = stack({"d": opaque({"m": ""})}, {"d": {"hidden": ""}}, upper={"d": {"u": ""}})
    assert s.names("d") == ["m", "u"]
    s = stack({"d": {".wh..wh..opq": "", "m": ""}}, {"d": {"hidden": ""}})
    assert s.names("d") == ["m"]


@pytest.mark.parametrize("changed", [False, True])
def test_the_numbers_are_those_of_a_stat(stack: Stacks, changed: bool) -> None:
    low = {"f": "1", "g": "2", "d": {"x": "3", "sub": {}}, "s": symlink("f"), "p": fifo}
    s = stack(low, {"d": {"y": "", "sub": {}}, "low": {}}, upper={"u": "", "d": {}})
    if changed:
        s.write("f", b"N")
        s.write("d/x", b"N")
        s.rename("g", "d/g")
        s.link("f", "h")
        s.rename("d", "e")
    fresh = {path: listing(s, path) for path in ("", "e" if changed else "d")}
    for path, entries in fresh.items():
        numbers = {os.fsdecode(entry.name): entry.ino for entry in entries[2:]}
        assert numbers == {name: s.node(f"{path}/{name}".lstrip("/")).ino for name in numbers}
        again = {os.fsdecode(entry.name): entry.ino for entry in listing(s, path)[2:]}
        assert again == numbers
    s.remount()
    for path, entries in fresh.items():
        assert sorted(listing(s, path)[2:]) == sorted(entries[2:])


def test_a_listing_is_fixed_until_it_is_rewound(stack: Stacks) -> None:
    s = stack({f"n{index}": "" for index in range(50)})
    fh = s.union.opendir(1)
    first = s.union.readdir(fh, 0)
    for index in range(0, 50, 2):
        s.unlink(f"n{index}")
    s.create("late")
    for offset in (1, 10, len(first)):
        assert s.union.readdir(fh, offset) is first
    again = [entry.name for entry in s.union.readdir(fh, 0)]
    assert len(again) == 2 + 25 + 1
    assert b"late" in again
    s.union.releasedir(fh)


def test_a_tree_of_many_names_can_be_removed_while_it_is_listed(stack: Stacks) -> None:
    def many(path: Path) -> None:
        path.mkdir()
        for index in range(1000):
            (path / f"{index}").touch()

    s = stack({"d": many})
    fh = s.union.opendir(s.id("d"))
    nodeid = s.id("d")
    at = 0
    while at < len(entries := s.union.readdir(fh, at)):
        for entry in entries[at : at + 100]:
            if entry.name not in {b".", b".."}:
                s.union.unlink(nodeid, entry.name)
        at += 100
    s.union.releasedir(fh)
    s.rmdir("d")
    assert s.names() == []


def test_a_directory_removed_while_it_is_open_lists_its_dots(stack: Stacks) -> None:
    s = stack({"d": {"x": ""}})
    fh = s.union.opendir(s.id("d"))
    s.unlink("d/x")
    s.rmdir("d")
    assert [entry.name for entry in s.union.readdir(fh, 0)] == [b".", b".."]
    s.union.releasedir(fh)


def test_listing_needs_an_open_directory(stack: Stacks) -> None:
    s = stack({"f": "x"})
    with pytest.raises(NotADirectoryError):
        s.union.opendir(s.id("f"))
    with pytest.raises(OSError, match="Bad file descriptor"):
        s.union.readdir(99, 0)


def test_a_directory_that_merges_through_a_redirect(stack: Stacks) -> None:
    s = stack({"old": {"a": "", "b": ""}}, upper={"new": marked({"c": "", "b": WHITEOUT}, redirect=b"old")})
    assert s.names("new") == ["a", "c"]


def test_what_aufs_left_in_a_layer_deletes_nothing(stack: Stacks) -> None:
    s = stack({"d": {".wh..wh.f": ""}}, {"d": {".wh.f": "", "f": "x"}}, {"d": {"f": "y", "g": ""}})
    assert s.names("d") == ["f", "g"]
