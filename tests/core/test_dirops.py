"""Making and removing names: what the union shows afterwards, and what the upper layer says on disk."""

import errno
import os
import socket
import stat
import time

import pytest

from tests.core.conftest import Stacks
from tests.core.stacks import ME, WHITEOUT, marked, opaque, symlink
from unionfs.core.request import NOW, Caller, Changes

LOWER = {"f": "low", "d": {"g": "low"}, "s": symlink("f")}


def test_what_is_made_in_an_empty_place_leaves_no_marks(stack: Stacks) -> None:
    s = stack(LOWER)
    s.mkdir("new")
    s.create("new/file", b"data")
    s.symlink("new/link", "target")
    s.mknod("new/fifo", stat.S_IFIFO | 0o644)
    s.mknod("new/socket", stat.S_IFSOCK | 0o644)
    s.mknod("new/plain", stat.S_IFREG | 0o600)
    assert s.names("new") == s.upper_names("new") == ["fifo", "file", "link", "plain", "socket"]
    assert s.mark("new", "opaque") is None
    assert s.union.readlink(s.id("new/link")) == b"target"
    assert s.read("new/file") == b"data"
    assert stat.S_ISSOCK(s.stat("new/socket").st_mode)


@pytest.mark.parametrize("name", ["f", "d", "s"])
def test_a_name_that_is_shown_cannot_be_made(stack: Stacks, name: str) -> None:
    s = stack(LOWER)
    s.exists("d/g")
    for make in (s.mkdir, s.create, lambda path: s.symlink(path, "x"), lambda path: s.mknod(path, stat.S_IFIFO)):
        with pytest.raises(FileExistsError):
            make(name)
    with pytest.raises(FileExistsError):
        s.link("f", name)
    assert s.upper_names() == []


def test_removing_a_lower_file_leaves_a_whiteout_and_an_upper_one_none(stack: Stacks) -> None:
    s = stack(LOWER)
    s.create("mine")
    for name in ("f", "s", "mine"):
        s.unlink(name)
        assert not s.exists(name)
    assert s.names() == ["d"]
    assert s.upper_names() == ["f", "s"]
    assert s.is_whiteout("f")
    assert s.is_whiteout("s")


def test_removing_an_upper_file_over_a_lower_one_leaves_a_whiteout(stack: Stacks) -> None:
    s = stack(LOWER, upper={"f": "up"})
    s.unlink("f")
    assert s.is_whiteout("f")
    assert not s.exists("f")


@pytest.mark.parametrize("hiding", [WHITEOUT, "file", opaque({})])
def test_no_whiteout_where_the_layers_below_show_nothing(stack: Stacks, hiding: object) -> None:
    s = stack({"d": hiding}, {"d": {"f": "deep"}}, upper={"d": {"f": "up"}})
    s.unlink("d/f")
    assert s.upper_names("d") == []


def test_no_whiteout_over_a_whiteout_in_the_middle(stack: Stacks) -> None:
    s = stack({"f": WHITEOUT}, {"f": "deep"}, upper={"f": "up"})
    s.unlink("f")
    assert s.upper_names() == []
    assert not s.exists("f")


def test_a_whiteout_made_by_another_name_is_not_shared_with_its_removal(stack: Stacks) -> None:
    s = stack({"a": "1", "b": "2", "c": "3"})
    s.unlink("a")
    s.unlink("b")
    s.create("a", b"new")
    assert s.is_whiteout("b")
    s.unlink("c")
    assert s.names() == ["a"]
    s.remount()
    assert s.names() == ["a"]


def test_a_file_over_a_whiteout_is_new(stack: Stacks) -> None:
    s = stack(LOWER)
    s.unlink("f")
    s.create("f", b"new", 0o640)
    assert s.read("f") == b"new"
    assert stat.S_IMODE(s.stat("f").st_mode) == 0o640
    s.unlink("f")
    assert s.is_whiteout("f")


def test_a_directory_over_a_whiteout_is_opaque_and_stays_so(stack: Stacks) -> None:
    s = stack(LOWER)
    s.unlink("d/g")
    s.rmdir("d")
    s.mkdir("d")
    s.mkdir("d/e")
    assert s.names("d") == ["e"]
    assert s.mark("d", "opaque") == b"y"
    assert s.mark("d/e", "opaque") is None
    s.remount()
    assert s.names("d") == ["e"]


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG, stat.S_IFLNK])
def test_anything_over_a_whiteout_replaces_it(stack: Stacks, kind: int) -> None:
    s = stack({"f": "x"})
    s.unlink("f")
    s.symlink("f", "t") if kind == stat.S_IFLNK else s.mknod("f", kind | 0o644)
    assert stat.S_IFMT(s.stat("f").st_mode) == kind
    assert s.upper_names() == ["f"]


def test_a_whiteout_file_of_an_image_tool_is_a_place_to_create(stack: Stacks) -> None:
    s = stack({"f": "x", "d": {"g": ""}}, upper={".wh.f": "", ".wh.d": ""})
    assert s.names() == []
    s.create("f", b"new")
    s.mkdir("d")
    assert s.read("f") == b"new"
    assert s.names("d") == []
    s.unlink("f")
    s.rmdir("d")
    assert s.names() == []
    s.remount()
    assert s.names() == []


def test_names_of_marks_cannot_be_made(stack: Stacks) -> None:
    s = stack({"f": "x", ".wh.gone": "", "gone": "y"})
    for make in (s.mkdir, s.create, lambda path: s.link("f", path), lambda path: s.rename("f", path)):
        with pytest.raises(OSError, match="Invalid argument"):
            make(".wh.f")
    assert not s.exists(".wh.gone")
    assert s.names() == ["f", "gone"]


def test_the_whiteout_device_itself_is_refused(stack: Stacks) -> None:
    s = stack({})
    with pytest.raises(PermissionError):
        s.mknod("w", stat.S_IFCHR | 0o666, 0)
    assert s.upper_names() == []


@pytest.mark.parametrize("length", [256, 4096])
def test_a_name_that_no_layer_can_hold_is_refused(stack: Stacks, length: int) -> None:
    s = stack({"f": "x"})
    name = "n" * length
    for act in (s.id, s.mkdir, s.create, s.unlink, s.rmdir, lambda n: s.rename("f", n), lambda n: s.link("f", n)):
        with pytest.raises(OSError, match="too long") as caught:
            act(name)
        assert caught.value.errno == errno.ENAMETOOLONG


def test_a_name_of_255_bytes_can_be_removed_and_made_again(stack: Stacks) -> None:
    name = "é" * 127 + "x"
    s = stack({name: "low"})
    assert len(os.fsencode(name)) == 255
    s.unlink(name)
    s.mkdir(name)
    s.rmdir(name)
    assert s.names() == []


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"new\nline", b" ", b"\\", b":", b"#0"])
def test_any_bytes_are_a_name(stack: Stacks, raw: bytes) -> None:
    name = os.fsdecode(raw)
    s = stack({name: "low"})
    assert s.names() == [name]
    s.write(name, b"UP")
    assert s.read(name) == b"UPw"
    s.rename(name, name + "2")
    s.unlink(name + "2")
    s.mkdir(name)
    s.remount()
    assert s.names() == [name]


# removing directories


def test_rmdir_asks_what_the_union_shows(stack: Stacks) -> None:
    s = stack({"d": {"a": "", "b": ""}})
    s.unlink("d/a")
    with pytest.raises(OSError, match="not empty"):
        s.rmdir("d")
    s.unlink("d/b")
    s.rmdir("d")
    assert s.is_whiteout("d")
    assert not s.exists("d")


def test_rmdir_of_a_directory_with_whiteouts_only_in_lower_layers(stack: Stacks) -> None:
    s = stack({"d": {"a": WHITEOUT, ".wh.b": ""}}, {"d": {"a": "", "b": ""}})
    s.rmdir("d")
    assert s.is_whiteout("d")


def test_rmdir_of_an_upper_directory_removes_its_whiteouts(stack: Stacks) -> None:
    s = stack({}, upper={"d": {"stale": WHITEOUT}})
    s.rmdir("d")
    assert s.upper_names() == []


@pytest.mark.parametrize(("path", "code"), [("f", errno.ENOTDIR), ("s", errno.ENOTDIR), ("none", errno.ENOENT)])
def test_rmdir_refuses_what_is_no_directory(stack: Stacks, path: str, code: int) -> None:
    s = stack(LOWER)
    with pytest.raises(OSError, match=r".") as caught:
        s.rmdir(path)
    assert caught.value.errno == code


def test_unlink_refuses_a_directory(stack: Stacks) -> None:
    s = stack(LOWER)
    with pytest.raises(IsADirectoryError):
        s.unlink("d")
    assert s.names() == ["d", "f", "s"]


def test_nothing_can_be_made_in_a_directory_that_is_gone(stack: Stacks) -> None:
    s = stack({"d": {}})
    gone = s.id("d")
    s.rmdir("d")
    for call in (
        lambda: s.union.mkdir(gone, b"x", 0o755, ME),
        lambda: s.union.create(gone, b"x", 0o644, os.O_RDWR, ME),
        lambda: s.union.symlink(gone, b"x", b"y", ME),
        lambda: s.union.tmpfile(gone, 0o600, os.O_RDWR, ME),
        lambda: s.union.lookup(gone, b"x"),
    ):
        with pytest.raises(FileNotFoundError):
            call()
    assert s.union.getattr(gone)[1].st_nlink == 0
    fh = s.union.opendir(gone)
    assert len(s.union.readdir(fh, 0)) == 2
    s.union.releasedir(fh)


def test_a_change_of_what_is_gone_has_the_time_that_files_have(stack: Stacks) -> None:
    s = stack({"d": {}})
    gone = s.id("d")
    s.rmdir("d")
    for number in range(5):
        before = time.clock_gettime_ns(time.CLOCK_REALTIME) - 10**9
        changed = s.union.setattr(gone, Changes(mode=0o700, mtime_ns=NOW))[1]
        s.create(f"later-{number}")
        assert before < changed.st_mtime_ns == changed.st_ctime_ns <= s.stat(f"later-{number}").st_ctime_ns


# owner, mode, ACL


def test_the_umask_is_applied_to_new_objects_wherever_they_are_made(stack: Stacks) -> None:
    s = stack({"over": "x", "overdir": {}})
    s.unlink("over")
    s.rmdir("overdir")
    me = ME._replace(umask=0o027)
    for name in ("free", "over"):
        s.create(name, mode=0o666, caller=me)
        assert stat.S_IMODE(s.stat(name).st_mode) == 0o640
    for name in ("freedir", "overdir"):
        s.mkdir(name, 0o777, me)
        assert stat.S_IMODE(s.stat(name).st_mode) == 0o750


@pytest.mark.root
@pytest.mark.parametrize("over_whiteout", [False, True])
def test_new_objects_belong_to_the_caller(stack: Stacks, over_whiteout: bool) -> None:
    names = ["f", "d", "s", "p"]
    s = stack(dict.fromkeys(names, "low") if over_whiteout else {})
    for name in names if over_whiteout else ():
        s.unlink(name)
    caller = Caller(1234, 4321, 0)
    s.create("f", caller=caller, mode=0o6755)
    s.mkdir("d", caller=caller)
    s.symlink("s", "t", caller=caller)
    s.mknod("p", stat.S_IFIFO | 0o600, caller=caller)
    assert [(st.st_uid, st.st_gid) for st in map(s.stat, names)] == [(1234, 4321)] * 4
    assert stat.S_IMODE(s.stat("f").st_mode) == 0o6755


@pytest.mark.root
@pytest.mark.parametrize("over_whiteout", [False, True])
def test_a_set_group_id_directory_hands_down_its_group(stack: Stacks, over_whiteout: bool) -> None:
    s = stack({"g": {"f": "", "d": {}, "s": symlink("x")} if over_whiteout else {}})
    if over_whiteout:
        s.unlink("g/f")
        s.unlink("g/s")
        s.rmdir("g/d")
    s.setattr("g", gid=77, mode=0o2775)
    caller = Caller(1234, 4321, 0)
    s.create("g/f", caller=caller)
    s.mkdir("g/d", caller=caller)
    s.symlink("g/s", "t", caller=caller)
    assert [s.stat(f"g/{name}").st_gid for name in "fds"] == [77, 77, 77]
    assert s.stat("g/d").st_mode & stat.S_ISGID
    assert not s.stat("g/f").st_mode & stat.S_ISGID


@pytest.mark.root
def test_mode_bits_stay_where_the_creation_is_for_another_user(stack: Stacks) -> None:
    s = stack({})
    s.mkdir("d", 0o1777, Caller(5, 5, 0))
    assert stat.S_IMODE(s.stat("d").st_mode) == 0o1777


# links


def test_a_link_is_one_more_name_of_one_file(stack: Stacks) -> None:
    s = stack({"f": "low", "d": {}})
    s.link("f", "d/g")
    assert s.id("f") == s.id("d/g")
    s.write("d/g", b"NEW")
    assert s.read("f") == b"NEW"
    assert s.stat("f").st_nlink == s.stat("d/g").st_nlink == 2
    s.unlink("f")
    assert s.stat("d/g").st_nlink == 1
    assert s.read("d/g") == b"NEW"


def test_a_link_over_a_whiteout_replaces_it(stack: Stacks) -> None:
    s = stack({"f": "low", "gone": "x"})
    s.unlink("gone")
    s.link("f", "gone")
    assert s.read("gone") == b"low"
    s.remount()
    assert s.id("f") == s.id("gone")


def test_a_directory_takes_no_further_name(stack: Stacks) -> None:
    s = stack({"d": {}})
    with pytest.raises(PermissionError):
        s.link("d", "e")


def test_the_names_of_a_link_are_removed_in_any_order(stack: Stacks) -> None:
    s = stack({}, upper={"a": "x"})
    for name in ("b", "c"):
        s.link("a", name)
    for name, left in (("b", 2), ("a", 1), ("c", 0)):
        node = s.id(name)
        s.unlink(name)
        assert s.union.getattr(node)[1].st_nlink == left
    assert s.names() == []


def test_a_link_to_a_copied_up_file_keeps_its_number(stack: Stacks) -> None:
    s = stack({"f": "low", "d": {}})
    before = s.node("f").ino
    s.link("f", "d/g")
    s.unlink("f")
    s.remount()
    assert s.node("d/g").ino == before


def test_a_file_whose_other_names_were_never_seen_still_has_them(stack: Stacks) -> None:
    s = stack({}, upper={"a": "x"})
    os.link(s.upper / "a", s.upper / "b")
    node = s.id("a")
    s.unlink("a")
    assert s.union.getattr(node)[1].st_nlink == 1


# without an upper layer


def test_every_change_is_refused_without_an_upper_layer(stack: Stacks) -> None:
    s = stack(LOWER, upper=None)
    for call in (
        lambda: s.mkdir("x"), lambda: s.create("x"), lambda: s.symlink("x", "y"), lambda: s.mknod("x", stat.S_IFIFO),
        lambda: s.link("f", "x"), lambda: s.unlink("f"), lambda: s.rmdir("d"), lambda: s.rename("f", "x"),
        lambda: s.setattr("f", mode=0o600), lambda: s.open("f", os.O_RDWR), lambda: s.open("f", os.O_TRUNC),
        lambda: s.union.setxattr(s.id("f"), b"user.x", b"1"), lambda: s.union.removexattr(s.id("f"), b"user.x"),
        lambda: s.union.tmpfile(1, 0o600, os.O_RDWR, ME), lambda: s.union.setflags(s.id("f"), 0),
    ):  # fmt: skip
        with pytest.raises(OSError, match="Read-only") as caught:
            call()
        assert caught.value.errno == errno.EROFS
    assert s.read("f") == b"low"


def test_a_union_that_is_read_only_leaves_its_upper_layer_alone(stack: Stacks) -> None:
    s = stack(LOWER, upper={"u": "up"}, read_only=True)
    assert s.read("u") == b"up"
    with pytest.raises(OSError, match="Read-only"):
        s.unlink("u")
    assert s.upper_names() == ["u"]


def test_a_socket_file_can_be_removed(stack: Stacks) -> None:
    def listening(path: os.PathLike[str]) -> None:
        with socket.socket(socket.AF_UNIX) as unix:
            here = os.open(os.path.dirname(path), os.O_RDONLY)
            unix.bind(f"/proc/self/fd/{here}/sock")
            os.close(here)

    s = stack({"sock": listening})
    assert stat.S_ISSOCK(s.stat("sock").st_mode)
    s.unlink("sock")
    assert s.is_whiteout("sock")


def test_removal_through_marks_of_redirected_directories(stack: Stacks) -> None:
    s = stack({"old": {"f": "low"}}, upper={"new": marked({}, redirect=b"old"), "old": WHITEOUT})
    assert s.read("new/f") == b"low"
    s.unlink("new/f")
    assert s.is_whiteout("new/f")
    s.rmdir("new")
    assert s.names() == []
    s.remount()
    assert s.names() == []
