"""Rename: the table of what is refused, the marks it leaves, and that every name shows the old state or the new one."""

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.core.conftest import Stacks
from tests.core.stacks import WHITEOUT, Stack, marked, opaque, symlink
from unionfs.core.config import RedirectDir
from unionfs.core.nodes import Dir
from unionfs.core.redirects import path_below, redirect_of
from unionfs.errors import CrossesLayers
from unionfs.linux.at import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT

# what rename(2) refuses

LOWER = {"f": "file", "g": "other", "d": {"x": "1"}, "e": {}, "full": {"y": "2"}, "s": symlink("f")}

REFUSED = [
    ("none", "new", 0, errno.ENOENT),
    ("f", "none/new", 0, errno.ENOENT),
    ("d", "f", 0, errno.ENOTDIR),
    ("d", "s", 0, errno.ENOTDIR),
    ("f", "d", 0, errno.EISDIR),
    ("s", "e", 0, errno.EISDIR),
    ("d", "full", 0, errno.ENOTEMPTY),
    ("e", "full", 0, errno.ENOTEMPTY),
    ("d", "d/inside", 0, errno.EINVAL),
    ("d/x", "d", 0, errno.ENOTEMPTY),
    ("d", "d/x", 0, errno.EINVAL),
    ("f", "g", RENAME_NOREPLACE, errno.EEXIST),
    ("f", "f", RENAME_NOREPLACE, errno.EEXIST),
    ("f", "none", RENAME_EXCHANGE, errno.ENOENT),
    ("none", "f", RENAME_EXCHANGE, errno.ENOENT),
    ("d", "d/x", RENAME_EXCHANGE, errno.EINVAL),
    ("d/x", "d", RENAME_EXCHANGE, errno.EINVAL),
    ("f", "g", RENAME_EXCHANGE | RENAME_NOREPLACE, errno.EINVAL),
    ("f", "g", RENAME_EXCHANGE | RENAME_WHITEOUT, errno.EINVAL),
]


@pytest.mark.parametrize(("old", "new", "flags", "code"), REFUSED)
def test_what_is_refused_changes_nothing(stack: Stacks, old: str, new: str, flags: int, code: int) -> None:
    s = stack(LOWER)
    with pytest.raises(OSError, match=r".") as caught:
        s.rename(old, new, flags)
    assert caught.value.errno == code
    assert s.upper_names() == []


APPEND, IMMUTABLE = 0x20, 0x10


@pytest.mark.root
@pytest.mark.parametrize("remounts", [False, True])
@pytest.mark.parametrize(
    ("protected", "flag", "renamed"),
    [
        ("x", APPEND, ("y", "x", 0)),
        ("x", IMMUTABLE, ("y", "x", RENAME_EXCHANGE)),
        ("x", IMMUTABLE, ("x", "y", RENAME_EXCHANGE)),
        ("d", APPEND, ("d/z", "new", 0)),
        ("d", APPEND, ("y", "d/z", 0)),
        ("d", IMMUTABLE, ("y", "d/new", 0)),
    ],
)
def test_what_flags_of_chattr_forbid_breaks_no_hard_link(
    stack: Stacks, protected: str, flag: int, renamed: tuple[str, str, int], *, remounts: bool
) -> None:
    def linked(path: Path) -> None:
        path.write_text("x")
        path.with_name("y").hardlink_to(path)
        path.with_name("d").mkdir()
        (path.parent / "d" / "z").hardlink_to(path)

    s = stack({"x": linked})
    s.union.setflags(s.id(protected), flag)
    try:
        if remounts:
            s.remount()
        before = {name: s.stat(name).st_nlink for name in ("x", "y", "d/z")}
        with pytest.raises(PermissionError) as caught:
            s.rename(*renamed)
        assert caught.value.errno == errno.EPERM
        assert {name: s.stat(name).st_nlink for name in ("x", "y", "d/z")} == before
        assert sorted(s.upper_names()) == [protected]
    finally:
        s.union.setflags(s.id(protected), 0)


@pytest.mark.root
def test_no_name_in_an_immutable_directory_breaks_no_hard_link(stack: Stacks) -> None:
    def linked(path: Path) -> None:
        path.write_text("x")
        path.with_name("y").hardlink_to(path)

    s = stack({"x": linked, "d": {}})
    s.union.setflags(s.id("d"), IMMUTABLE)
    try:
        with pytest.raises(PermissionError):
            s.seen(s.union.link(s.id("y"), s.id("d"), b"new")[0])
        assert (s.stat("y").st_nlink, s.upper_names()) == (2, ["d"])
    finally:
        s.union.setflags(s.id("d"), 0)


# files


def test_a_lower_file_moves_and_leaves_a_whiteout(stack: Stacks) -> None:
    s = stack({"f": "low", "d": {}})
    s.rename("f", "d/g")
    assert (s.names(), s.names("d")) == (["d"], ["g"])
    assert s.is_whiteout("f")
    assert s.read("d/g") == b"low"
    s.remount()
    assert (s.names(), s.names("d")) == (["d"], ["g"])


def test_an_upper_file_moves_without_a_trace(stack: Stacks) -> None:
    s = stack({}, upper={"f": "up"})
    s.rename("f", "g")
    assert s.upper_names() == ["g"]


def test_a_file_over_a_whiteout(stack: Stacks) -> None:
    s = stack({"f": "low", "gone": "x"})
    s.unlink("gone")
    s.rename("f", "gone")
    assert s.read("gone") == b"low"
    assert s.names() == ["gone"]
    s.unlink("gone")
    assert s.is_whiteout("gone")


def test_a_file_over_a_file(stack: Stacks) -> None:
    s = stack({"f": "one", "g": "two"})
    replaced = s.id("g")
    fh = s.open("g")
    s.rename("f", "g")
    assert s.read("g") == b"one"
    assert s.content(fh) == b"two"
    assert s.union.getattr(replaced)[1].st_nlink == 0
    assert s.names() == ["g"]


def test_a_rename_onto_another_name_of_the_same_file_does_nothing(stack: Stacks) -> None:
    s = stack({}, upper={"f": "x"})
    s.link("f", "g")
    s.rename("f", "g")
    assert s.names() == ["f", "g"]


def test_a_file_keeps_its_node_through_renames(stack: Stacks) -> None:
    s = stack({"f": "low", "d": {}})
    node = s.id("f")
    fh = s.open("f")
    for old, new in (("f", "g"), ("g", "d/h"), ("d/h", "f")):
        s.rename(old, new)
        assert s.id(new) == node
    s.union.write(s.open("f", os.O_WRONLY), b"LOW", 0)
    assert s.content(fh) == b"LOW"
    s.remount()
    assert s.names() == ["d", "f"]


@pytest.mark.parametrize("made_by", ["upper", "lower"])
def test_rename_whiteout_leaves_nothing_to_be_seen(stack: Stacks, made_by: str) -> None:
    s = stack({"f": "x"} if made_by == "lower" else {}, upper={"f": "x"} if made_by == "upper" else {})
    s.rename("f", "g", RENAME_WHITEOUT)
    assert s.names() == ["g"]
    s.remount()
    assert s.names() == ["g"]


@pytest.mark.parametrize(("one", "two"), [("f", "g"), ("f", "d"), ("d", "full"), ("s", "d/x"), ("d/x", "full/y")])
def test_exchange(stack: Stacks, one: str, two: str) -> None:
    s = stack(LOWER)

    def look(path: str) -> object:
        mode = s.stat(path).st_mode
        return s.names(path) if stat.S_ISDIR(mode) else s.read(path) if stat.S_ISREG(mode) else "symlink"

    before, nodes = (look(one), look(two)), (s.id(one), s.id(two))
    for _ in range(2):
        s.rename(one, two, RENAME_EXCHANGE)
        assert (look(two), look(one)) == before
        assert (s.id(two), s.id(one)) == nodes
        before, nodes = before[::-1], nodes[::-1]
    s.rename(one, two, RENAME_EXCHANGE)
    s.remount()
    assert (look(two), look(one)) == before


# directories


def test_a_lower_directory_moves_by_a_redirect(stack: Stacks) -> None:
    s = stack({"d": {"x": "1", "sub": {"y": "2"}}, "e": {}})
    s.id("d/sub/y")
    s.rename("d", "e/moved")
    for _ in range(2):
        assert s.names("e/moved") == ["sub", "x"]
        assert s.read("e/moved/sub/y") == b"2"
        assert s.names() == ["e"]
        s.remount()
    assert s.mark("e/moved", "redirect") == b"/d"
    assert s.is_whiteout("d")


def test_a_redirect_within_one_directory_is_a_name(stack: Stacks) -> None:
    s = stack({"p": {"d": {"x": "1"}}})
    s.rename("p/d", "p/e")
    assert s.mark("p/e", "redirect") == b"d"
    s.rename("p/e", "p/f")
    assert s.mark("p/f", "redirect") == b"d"
    s.rename("p/f", "g")
    assert s.mark("g", "redirect") == b"/p/d"
    s.rename("g", "p/d")
    s.remount()
    assert s.read("p/d/x") == b"1"


def test_directories_move_within_moved_directories(stack: Stacks) -> None:
    s = stack({"a": {"b": {"c": {"x": "1"}}}})
    s.rename("a", "z")
    s.rename("z/b/c", "c")
    s.rename("z/b", "c/b")
    s.mkdir("a")
    for _ in range(2):
        assert s.read("c/x") == b"1"
        assert (s.names("z"), s.names("c"), s.names("c/b"), s.names("a")) == ([], ["b", "x"], [], [])
        s.remount()


def test_directories_exchange_places_with_their_parents_names(stack: Stacks) -> None:
    s = stack({"a": {"b": {"x": "inner"}, "y": "outer"}})
    s.rename("a/b", "t")
    s.rename("a", "t/b")
    s.rename("t", "a")
    for _ in range(2):
        assert s.names("a") == ["b", "x"]
        assert s.names("a/b") == ["y"]
        s.remount()


def test_a_new_directory_under_a_name_of_the_layers_below_is_opaque(stack: Stacks) -> None:
    s = stack({"p": {"d": {"low": "1"}}})
    s.unlink("p/d/low")
    s.rmdir("p/d")
    s.mkdir("mine")
    s.create("mine/new")
    s.rename("mine", "p/d")
    for _ in range(2):
        assert s.names("p/d") == ["new"]
        s.remount()
    assert s.mark("p/d", "opaque") == b"y"


def test_an_upper_directory_over_an_empty_merged_one(stack: Stacks) -> None:
    s = stack({"target": {"a": "", "b": ""}})
    s.unlink("target/a")
    s.unlink("target/b")
    s.mkdir("mine")
    s.create("mine/new", b"n")
    s.rename("mine", "target")
    for _ in range(2):
        assert s.names("target") == ["new"]
        assert s.names() == ["target"]
        s.remount()


def test_a_moved_lower_directory_over_an_empty_merged_one(stack: Stacks) -> None:
    s = stack({"target": {"a": ""}, "d": {"x": "1"}})
    s.unlink("target/a")
    s.rename("d", "target")
    for _ in range(2):
        assert s.names() == ["target"]
        assert s.names("target") == ["x"]
        s.remount()


def test_a_directory_over_a_whiteout(stack: Stacks) -> None:
    s = stack({"d": {"x": "1"}, "gone": {"hidden": ""}, "gonefile": ""})
    s.unlink("gone/hidden")
    s.rmdir("gone")
    s.unlink("gonefile")
    s.rename("d", "gone")
    s.rename("gone", "gonefile")
    for _ in range(2):
        assert s.names() == ["gonefile"]
        assert s.names("gonefile") == ["x"]
        s.remount()


def test_a_directory_that_replaced_a_whiteout_moves_away_again(stack: Stacks) -> None:
    s = stack({"d": {"hidden": ""}})
    s.unlink("d/hidden")
    s.rmdir("d")
    s.mkdir("d")
    s.rename("d", "elsewhere")
    for _ in range(2):
        assert s.names() == ["elsewhere"]
        assert s.names("elsewhere") == []
        s.remount()


def test_through_middle_layers(stack: Stacks) -> None:
    s = stack({"new": marked({"m": ""}, redirect=b"old")}, {"old": {"x": "1"}})
    s.rename("new", "newer")
    for _ in range(2):
        assert s.names("newer") == ["m", "x"]
        assert s.names() == ["newer", "old"]
        s.remount()


def test_without_redirects_a_directory_of_a_lower_layer_stays(stack: Stacks) -> None:
    s = stack({"d": {"x": "1"}, "e": {}, "empty": {}}, redirect_dir=RedirectDir.OFF)
    s.mkdir("mine")
    s.rename("mine", "e/mine")
    for new in ("moved", "e/moved", "empty"):
        with pytest.raises(CrossesLayers) as caught:
            s.rename("d", new)
        assert caught.value.errno == errno.EXDEV
    assert s.read("d/x") == b"1"
    assert "d" not in s.upper_names()


def test_a_redirect_that_would_be_too_long_changes_nothing(stack: Stacks) -> None:
    deep = {"n" * 200: {"m" * 60: {"x": "1"}}}
    s = stack({**deep, "e": {}})
    path = "n" * 200 + "/" + "m" * 60
    with pytest.raises(CrossesLayers):
        s.rename(path, "e/moved")
    assert s.names("e") == []
    assert s.read(f"{path}/x") == b"1"
    s.rename(path, "n" * 200 + "/short")
    assert s.read("n" * 200 + "/short/x") == b"1"


def test_a_cycle_through_an_open_parent_is_refused(stack: Stacks) -> None:
    s = stack({"a": {"b": {"c": {}}}})
    with pytest.raises(OSError, match="Invalid argument"):
        s.rename("a", "a/b/c/d")
    s.rename("a/b", "b")
    s.rename("a", "b/c/a")
    with pytest.raises(OSError, match="Invalid argument"):
        s.rename("b", "b/c/a/b")


def test_an_opaque_directory_in_the_middle_keeps_hiding_after_a_move(stack: Stacks) -> None:
    s = stack({"d": opaque({"m": ""})}, {"d": {"hidden": ""}})
    s.rename("d", "moved")
    for _ in range(2):
        assert s.names("moved") == ["m"]
        s.remount()


def test_what_is_in_a_renamed_directory_can_be_changed(stack: Stacks) -> None:
    s = stack({"d": {"x": "low", "sub": {"y": "low"}}})
    fh = s.open("d/sub/y")
    s.rename("d", "moved")
    s.write("moved/sub/y", b"NEW")
    s.unlink("moved/x")
    assert s.content(fh) == b"NEW"
    s.remount()
    assert s.names("moved") == ["sub"]
    assert s.read("moved/sub/y") == b"NEW"


# which redirect


def directory(s: Stack, path: str) -> Dir:
    node = s.node(path)
    assert isinstance(node, Dir)
    return node


def test_a_redirect_is_relative_within_one_directory_and_absolute_otherwise(stack: Stacks) -> None:
    s = stack({"a": {"b": {"c": {}}}})
    assert redirect_of(directory(s, "a/b"), same_parent=True) == b"b"
    assert redirect_of(directory(s, "a/b"), same_parent=False) == b"/a/b"


def test_a_redirect_that_is_there_is_kept_if_it_still_leads_there(stack: Stacks) -> None:
    upper = {"abs": marked({}, redirect=b"/x/y"), "rel": marked({}, redirect=b"x")}
    s = stack({"x": {"y": {}}}, upper=upper)
    assert redirect_of(directory(s, "abs"), same_parent=False) is None
    assert redirect_of(directory(s, "abs"), same_parent=True) is None
    assert redirect_of(directory(s, "rel"), same_parent=True) is None
    assert redirect_of(directory(s, "rel"), same_parent=False) == b"/x"


def test_where_the_lower_layers_have_it_is_told_by_the_redirects_above(stack: Stacks) -> None:
    upper = {"p": marked({"q": {"r": {}}}, redirect=b"/old/place")}
    s = stack({"old": {"place": {"q": {"r": {}}}}}, upper=upper)
    assert path_below(directory(s, "p/q/r")) == b"/old/place/q/r"
    assert path_below(directory(s, "")) == b"/"


def test_a_redirect_of_just_the_longest_length_is_written(stack: Stacks) -> None:
    name = "n" * 254
    s = stack({name: {"x": "1"}, "e": {}})
    s.rename(name, "e/moved")
    assert s.mark("e/moved", "redirect") == b"/" + b"n" * 254
    s.rename("e/moved", "e/again")
    assert s.names("e/again") == ["x"]


def test_whiteout_marks_where_a_rename_cannot_make_the_device(stack: Stacks) -> None:
    s = stack({"f": "low", "d": {"x": ""}}, upper={"old": WHITEOUT})
    state = s.union._state
    assert state.upper is not None
    state.upper.can_mknod = False
    s.rename("f", "g")
    s.rename("d", "e")
    s.unlink("e/x")
    assert s.names() == ["e", "g"]
    assert s.mark("f", "whiteout") == b"y"
    s.remount()
    assert (s.names(), s.names("e")) == (["e", "g"], [])


@pytest.mark.parametrize("target", ["f", "w"])
def test_a_directory_over_a_whiteout_leaves_nothing_where_it_was(stack: Stacks, target: str) -> None:
    """The two trade places first, for a directory cannot replace a file in one step; then the whiteout goes."""
    s = stack({"f": "x", "w": ""})
    s.unlink(target)
    s.mkdir("mine")
    s.rename("mine", target)
    assert s.upper_names() == [target]
    s.remount()
    assert s.stat(target).st_mode & stat.S_IFDIR


def test_a_rename_to_itself_is_none(stack: Stacks) -> None:
    s = stack({"f": "x", "d": {"g": ""}})
    for path in ("f", "d"):
        s.rename(path, path)
    assert s.upper_names() == []


def test_a_moved_lower_directory_is_listed_with_its_own_number(stack: Stacks) -> None:
    s = stack({"d": {"x": ""}, "e": {}})
    before = s.node("d").ino
    s.rename("d", "e/moved")
    s.remount()
    fh = s.union.opendir(s.id("e"))
    assert {entry.name: entry.ino for entry in s.union.readdir(fh, 0)[2:]} == {b"moved": before}
    s.union.releasedir(fh)


def test_a_moved_symlink_is_listed_with_the_number_it_shows(stack: Stacks) -> None:
    s = stack({"l": symlink("f"), "d": {}}, userxattr=True, upper={"e": {}})  # no mark can say its number on a symlink
    s.rename("l", "e/moved")
    shown = s.node("e/moved").ino
    fh = s.union.opendir(s.id("e"))
    assert {entry.name: entry.ino for entry in s.union.readdir(fh, 0)[2:]} == {b"moved": shown}
    s.union.releasedir(fh)


def test_a_directory_of_attribute_whiteouts_that_becomes_opaque_shows_none_of_them(stack: Stacks) -> None:
    mine = marked({"gone": marked("", whiteout=b"y"), "empty": ""}, opaque=b"x")
    s = stack({"d": ""}, upper={"mine": mine, "d": WHITEOUT})
    s.rename("mine", "d")
    for _ in range(2):
        assert s.names("d") == ["empty"]
        assert not s.exists("d/gone")
        s.remount()
