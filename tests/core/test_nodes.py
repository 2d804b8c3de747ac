"""What the union remembers: as much as the kernel does, and no descriptor more than it may."""

import errno
import os

import pytest

from tests.core.conftest import Stacks
from tests.core.stacks import Stack, Tree
from unionfs.core.layer import FEW_CLOSED
from unionfs.core.nodes import Dir
from unionfs.linux import at
from unionfs.names import ROOT_ID


def nodes(s: Stack) -> int:
    return s.union.stats()["nodes"]


def test_a_node_is_forgotten_with_its_last_lookup(stack: Stacks) -> None:
    s = stack({"f": "x"})
    first, second = s.id("f"), s.id("f")
    assert first == second
    s.union.forget(first, 1)
    assert s.union.getattr(first)
    s.union.forget(first, 1)
    with pytest.raises(OSError, match=r".") as caught:
        s.union.getattr(first)
    assert caught.value.errno == errno.ESTALE
    s.lookups = {}


def test_a_directory_stays_as_long_as_something_below_it_is_known(stack: Stacks) -> None:
    s = stack({"a": {"b": {"f": "x"}}})
    a, b, f = s.id("a"), s.id("a/b"), s.id("a/b/f")
    for nodeid in (a, b):
        s.union.forget(nodeid, s.lookups.pop(nodeid))
    assert nodes(s) == 4
    assert s.read("a/b/f") == b"x"
    for nodeid in (a, b):
        s.union.forget(nodeid, s.lookups.pop(nodeid))
    s.union.forget(f, s.lookups.pop(f))
    assert nodes(s) == 1


def test_an_open_file_is_kept_until_it_is_closed(stack: Stacks) -> None:
    s = stack({"d": {"f": "x"}})
    fh = s.open("d/f")
    for nodeid, count in s.lookups.items():
        s.union.forget(nodeid, count)
    s.lookups = {}
    assert s.content(fh) == b"x"
    s.close(fh)
    assert nodes(s) == 1


def test_forgetting_more_than_was_told_and_what_was_never_known_does_no_harm(stack: Stacks) -> None:
    s = stack({"f": "x"})
    s.union.forget(s.id("f"), 99)
    s.union.forget(12345, 1)
    s.union.forget(ROOT_ID, 5)
    s.lookups = {}
    assert s.read("f") == b"x"


def test_looking_for_what_is_not_there_leaves_nothing(stack: Stacks) -> None:
    s = stack({"f": "x", "d": {}})
    for _ in range(10):
        assert not s.exists("none")
        assert not s.exists("d/none")
    assert nodes(s) == 2


def test_the_dots_are_looked_up_as_the_directories_they_are(stack: Stacks) -> None:
    s = stack({"a": {"b": {}}})
    b = s.id("a/b")
    assert s.seen(s.union.lookup(b, b".")[0]) == b
    assert s.seen(s.union.lookup(b, b"..")[0]) == s.id("a")
    assert s.seen(s.union.lookup(ROOT_ID, b"..")[0]) == ROOT_ID


def test_a_file_is_no_place_to_look_in(stack: Stacks) -> None:
    s = stack({"f": "x", "d": {}})
    with pytest.raises(NotADirectoryError):
        s.union.lookup(s.id("f"), b"x")
    with pytest.raises(IsADirectoryError):
        s.union.open(s.id("d"), os.O_RDONLY)


def test_removed_and_replaced_files_are_forgotten_too(stack: Stacks) -> None:
    s = stack({"f": "1", "g": "2", "d": {}, "e": {}})
    for path in ("f", "g", "d", "e"):
        s.id(path)
    s.rename("f", "g")
    s.rename("d", "e")
    s.unlink("g")
    s.rmdir("e")
    s.forget_all()
    assert nodes(s) == 1


def test_a_removed_file_never_lends_its_node_to_a_new_one(stack: Stacks) -> None:
    s = stack({})
    seen = set()
    for _ in range(20):
        s.create("f")
        seen.add(s.id("f"))
        s.unlink("f")
    assert len(seen) == 20


def test_hard_links_are_one_node_however_they_are_found(stack: Stacks) -> None:
    s = stack({}, upper={"a": "x", "d": {}})
    os.link(s.upper / "a", s.upper / "d" / "b")
    assert s.id("a") == s.id("d/b")
    node = s.id("a")
    s.union.forget(node, s.lookups.pop(node))
    assert s.id("d/b") == s.id("a")


# descriptors


def descriptors(s: Stack) -> int:
    return s.union.stats()["descriptors"]


def test_descriptors_are_closed_when_there_are_too_many_and_opened_again(stack: Stacks) -> None:
    tree: Tree = {f"d{index}": {"e": {"f": f"{index}"}} for index in range(60)}
    s = stack(tree, {f"d{index}": {"e": {"g": ""}} for index in range(60)})
    s.union._state.descriptors.limit = 8
    for _ in range(2):
        for index in range(60):
            assert s.read(f"d{index}/e/f") == b"%d" % index
            assert s.names(f"d{index}/e") == ["f", "g"]
            assert descriptors(s) < 16
    for index in range(0, 60, 3):
        s.write(f"d{index}/e/f", b"N")
        s.rename(f"d{index}/e", f"d{index + 1}/moved")
    for index in range(0, 60, 3):
        assert s.read(f"d{index + 1}/moved/f")[:1] == b"N"
        s.rename(f"d{index + 1}", f"d{index}/d")
        assert s.names(f"d{index}/d/moved") == ["f", "g"]


def test_every_request_works_when_no_descriptor_may_be_kept(stack: Stacks) -> None:
    s = stack({"a": {"b": {"c": {"f": "x", "g": "y"}}}, "z": {}})
    s.union._state.descriptors.limit = 0
    s.write("a/b/c/f", b"N")
    s.rename("a/b", "z/b")
    s.mkdir("z/b/c/new")
    s.link("z/b/c/f", "z/l")
    s.unlink("z/b/c/g")
    s.symlink("a/s", "t")
    assert s.names("z/b/c") == ["f", "new"]
    assert s.read("z/l") == b"N"
    assert s.names("a") == ["s"]


@pytest.mark.parametrize("in_one_call", [True, False])
def test_a_deep_walk_keeps_only_its_end_open_where_there_are_too_many(
    stack: Stacks, in_one_call: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not in_one_call:
        monkeypatch.setattr(at, "open_below", lambda _dirfd, _names: None)
    tree: Tree = {"f": "deep"}
    for _ in range(100):
        tree = {"d": tree}
    s = stack(tree)
    path = "/".join(["d"] * 100)
    node = s.id(f"{path}/f")
    s.union._state.descriptors.limit = 4
    for _ in range(40):
        s.union._state.descriptors.trim()
    assert s.union.read(s.opened(s.union.open(node, os.O_RDONLY)), 9, 0) == b"deep"
    assert descriptors(s) <= 8


@pytest.mark.parametrize(("depth", "opened"), [(FEW_CLOSED, FEW_CLOSED), (FEW_CLOSED + 1, 1)])
def test_many_closed_directories_are_passed_by_and_a_few_are_opened(stack: Stacks, depth: int, opened: int) -> None:
    tree: Tree = {"f": "deep"}
    for _ in range(depth):
        tree = {"d": tree}
    s = stack(tree)
    node = s.id("/".join(["d"] * depth) + "/f")
    while descriptors(s):
        s.union._state.descriptors.trim()
    s.opened(s.union.open(node, os.O_RDONLY))
    assert descriptors(s) == opened


def test_listing_and_walking_a_big_tree_leaves_no_descriptor_behind(stack: Stacks) -> None:
    s = stack({f"d{index}": {"x": ""} for index in range(40)})
    for index in range(40):
        s.names(f"d{index}")
    s.forget_all()
    assert descriptors(s) == 0


# depth and breadth


def test_a_path_longer_than_any_system_call_takes(stack: Stacks) -> None:
    s = stack({"f": "low"})
    name, depth = "n" * 250, 40
    for level in range(depth):
        s.mkdir("/".join([name] * (level + 1)))
    deep = "/".join([name] * depth)
    s.rename("f", f"{deep}/f")
    assert s.read(f"{deep}/f") == b"low"
    s.remount()
    assert s.read(f"{deep}/f") == b"low"
    s.unlink(f"{deep}/f")
    for level in reversed(range(depth)):
        s.rmdir("/".join([name] * (level + 1)))
    assert s.names() == []


def test_five_hundred_layers(stack: Stacks) -> None:
    trees: list[Tree] = [{f"own{i}": "", "shared": {f"f{i}": f"{i}"}, "top": f"{i}"} for i in range(500)]
    s = stack(*trees)
    assert len(s.names()) == 502
    assert len(s.names("shared")) == 500
    assert s.read("top") == b"0"
    assert s.read("shared/f499") == b"499"
    s.write("shared/f499", b"new")
    s.rename("shared", "moved")
    assert len(s.names("moved")) == 500
    s.remount()
    assert s.read("moved/f499") == b"new"


def test_what_is_forgotten_gives_its_memory_back(stack: Stacks) -> None:
    s = stack({"d": {f"f{number}": "" for number in range(2000)}})
    directory = s.node("d")
    assert isinstance(directory, Dir)
    table, children = s.union._nodes._by_id, directory.children
    for number in range(2000):
        s.id(f"d/f{number}")
    full = table.__sizeof__() + children.__sizeof__()
    for number in range(1, 2000):
        nodeid = s.id(f"d/f{number}")
        s.union.forget(nodeid, s.lookups.pop(nodeid))
    assert table.__sizeof__() + children.__sizeof__() < full / 4
    assert s.id("d/f0") == table[s.id("d/f0")].nodeid
    assert list(children) == [b"f0"]
