"""Copy-up: a lower file gets an upper copy that looks the same, appears at once, or leaves nothing behind."""

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.core.conftest import Stacks
from tests.core.stacks import PREFIX, Stack, build, fifo, symlink
from unionfs.core import staging
from unionfs.core.jobs import Deferred, Job
from unionfs.core.request import Changes
from unionfs.core.staging import Copy
from unionfs.linux import at

TIME = 1_234_567_890_123_456_789


def with_mode(mode: int, content: bytes = b"data") -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(content)
        path.chmod(mode)

    return make


def with_xattr(**values: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(b"data")
        for name, value in values.items():
            os.setxattr(path, name.replace("__", "."), value)

    return make


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"start")
        file.seek(4 << 20)
        file.write(b"middle")
        file.truncate(8 << 20)


def touch_up(s: Stack, path: str) -> None:
    """Copy up by the smallest change there is: a time set to what it is."""
    s.setattr(path, mtime_ns=s.stat(path).st_mtime_ns)


def same(s: Stack, path: str) -> None:
    """The copy in the upper layer looks like the lower original."""
    low, up = (s.lowers[0] / path).lstat(), (s.upper / path).lstat()
    fields = ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_size", "st_rdev")
    for field in fields[: 4 if stat.S_ISDIR(low.st_mode) else 6]:
        assert getattr(up, field) == getattr(low, field), field


# what a copy is like


@pytest.mark.parametrize("mode", [0o644, 0o000, 0o444, 0o6755, 0o1777])
def test_mode_and_times(stack: Stacks, mode: int) -> None:
    s = stack({"f": with_mode(mode)})
    touch_up(s, "f")
    same(s, "f")
    assert s.read("f") == b"data"


@pytest.mark.parametrize("maker", [symlink("x" * 4000), symlink("../../etc/passwd"), fifo])
def test_what_is_no_regular_file(stack: Stacks, maker: Callable[[Path], None]) -> None:
    s = stack({"f": maker})
    s.rename("f", "g")
    s.rename("g", "f")
    same(s, "f")


@pytest.mark.root
def test_devices(stack: Stacks) -> None:
    s = stack({"null": lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))})
    s.setattr("null", mode=0o600)
    assert (s.upper / "null").lstat().st_rdev == os.makedev(1, 3)


@pytest.mark.root
def test_owner_and_set_id_bits(stack: Stacks) -> None:
    def make(path: Path) -> None:
        path.write_bytes(b"x")
        os.chown(path, 1234, 4321)
        path.chmod(0o6711)

    def make_link(path: Path) -> None:
        path.symlink_to("f")
        os.lchown(path, 5, 6)

    s = stack({"f": make, "l": make_link})
    touch_up(s, "f")
    touch_up(s, "l")
    same(s, "f")
    same(s, "l")


@pytest.mark.root
def test_capabilities_survive(stack: Stacks) -> None:
    value = bytes.fromhex("0100000200040000000000000000000000000000")
    s = stack({"f": with_xattr(security__capability=value)})
    touch_up(s, "f")
    assert s.union.getxattr(s.id("f"), b"security.capability") == value


@pytest.mark.xattrs
def test_attributes_are_copied_but_marks_are_not(stack: Stacks) -> None:
    big = os.urandom(2000)
    marks = {"user.note": b"n", "user.big": big, "user.\udcff": b"bytes", PREFIX + "opaque": b"y"}

    def make(path: Path) -> None:
        path.write_bytes(b"x")
        for name, value in marks.items():
            os.setxattr(path, name, value)

    s = stack({"f": make})
    touch_up(s, "f")
    kept = set(os.listxattr(s.upper / "f"))
    assert {"user.note", "user.big", "user.\udcff"} <= kept
    assert PREFIX + "opaque" not in kept
    assert os.getxattr(s.upper / "f", "user.big") == big


def test_holes_stay_holes(stack: Stacks) -> None:
    s = stack({"f": sparse})
    touch_up(s, "f")
    up = (s.upper / "f").stat()
    assert up.st_size == 8 << 20
    assert up.st_blocks * 512 < 1 << 20
    fh = s.open("f")
    assert s.union.read(fh, 6, 4 << 20) == b"middle"


def test_only_the_part_that_is_left_is_copied(stack: Stacks) -> None:
    s = stack({"f": "0123456789"})
    s.setattr("f", size=3)
    assert s.read("f") == b"012"
    assert s.union.stats()["copied_bytes"] <= 3


def test_parents_get_the_lowers_modes_owners_and_times(stack: Stacks) -> None:
    modes = {"a": 0o2755, "a/b": 0o1700, "a/b/c": 0o555}

    def make(path: Path) -> None:
        build({"b": {"c": {"f": "x"}}}, path)
        for name, mode in modes.items():
            (path.parent / name).chmod(mode)

    s = stack({"a": make})
    s.write("a/b/c/f", b"y")
    for path in modes:
        same(s, path)


def test_a_directory_that_receives_a_copy_keeps_its_times(stack: Stacks) -> None:
    s = stack({"d": {"f": "x"}}, upper={"d": {}})
    os.utime(s.upper / "d", ns=(TIME, TIME))
    touch_up(s, "d/f")
    assert (s.upper / "d").stat().st_mtime_ns == TIME
    assert (s.upper / "d").stat().st_atime_ns == TIME


def test_a_copy_keeps_its_inode_number(stack: Stacks) -> None:
    s = stack({"f": "x", "d": {"g": "y"}})
    before = [s.node(path).ino for path in ("f", "d", "d/g")]
    s.write("f", b"z")
    s.write("d/g", b"z")
    s.rename("d", "e")
    assert [s.node(path).ino for path in ("f", "e", "e/g")] == before
    s.remount()
    assert [s.node(path).ino for path in ("f", "e", "e/g")] == before


@pytest.mark.parametrize("links", [2, 5])
def test_a_lower_hard_link_breaks_without_an_index(stack: Stacks, links: int) -> None:
    names = [f"n{index}" for index in range(links)]

    def make(path: Path) -> None:
        path.write_bytes(b"data")
        for name in names:
            os.link(path, path.with_name(name))

    s = stack({"f": make})
    s.write("n0", b"NEW!")
    assert s.read("n0") == b"NEW!"
    assert s.read("n1") == s.read("f") == b"data"


# failure


def fails(code: int) -> Callable[[Copy], None]:
    def step(_copy: Copy) -> None:
        raise OSError(code, os.strerror(code))

    return step


@pytest.mark.parametrize("failing", range(len(staging.STEPS)), ids=[step.__name__ for step in staging.STEPS])
@pytest.mark.parametrize("change", ["write", "chmod", "rename", "mkdir"])
def test_a_copy_that_fails_at_any_step_leaves_nothing_behind(
    stack: Stacks, monkeypatch: pytest.MonkeyPatch, failing: int, change: str
) -> None:
    s = stack({"d": {"f": "data"}})
    acts: dict[str, Callable[[], object]] = {
        "write": lambda: s.write("d/f", b"NEW!"),
        "chmod": lambda: s.setattr("d/f", mode=0o600),
        "rename": lambda: s.rename("d/f", "g"),
        "mkdir": lambda: s.mkdir("d/new"),
    }
    fh = s.open("d/f")
    with monkeypatch.context() as patch:
        for place in (failing, len(staging.STEPS)):  # before the step, and after the last one
            steps = (*staging.STEPS[:place], fails(errno.ENOSPC), *staging.STEPS[place:])
            patch.setattr(staging, "STEPS", steps)
            with pytest.raises(OSError, match="No space left"):
                acts[change]()
            assert s.upper_names() == []
            assert os.listdir(s.work / "work") == []
            assert s.read("d/f") == s.content(fh) == b"data"
            assert s.names("d") == ["f"]
    acts[change]()
    assert "d" in s.upper_names()


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_publication_that_fails_leaves_the_lower_file_visible(
    stack: Stacks, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    s = stack({"a": {"b": {"f": "data"}}})
    calls = [0]
    real = at.rename

    def rename(*args: object) -> None:
        calls[0] += 1
        if calls[0] == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(*args)  # type: ignore[arg-type]  # whatever the step takes

    with monkeypatch.context() as patch:
        patch.setattr(at, "rename", rename)
        with pytest.raises(OSError, match="Input/output"):
            s.write("a/b/f", b"NEW!")
    assert os.listdir(s.work / "work") == []
    assert s.read("a/b/f") == b"data"
    assert s.names("a/b") == ["f"]
    s.write("a/b/f", b"NEW!")
    assert s.read("a/b/f") == b"NEW!"


def test_the_names_of_the_copies_of_two_files_do_not_collide(stack: Stacks) -> None:
    s = stack({"f": BIG, "g": BIG[::-1]}, defer=True)
    one, two = deferred(s, "f", size=None), deferred(s, "g", size=None)
    for job in (one, two):
        job.complete()
    assert (s.read("f"), s.read("g")) == (BIG, BIG[::-1])


# long copies


def deferred(s: Stack, path: str, size: int | None) -> Job:
    """Ask for a copy-up that is handed out as a job."""
    nodeid = s.id(path)
    with pytest.raises(Deferred) as caught:
        s.union.setattr(nodeid, Changes(size=size)) if size is not None else s.open(path, os.O_RDWR)
    return caught.value.job


BIG = b"0123456789abcdef" * (1 << 16)


def test_a_long_copy_is_a_job_and_two_users_of_it_share_it(stack: Stacks) -> None:
    s = stack({"f": BIG}, defer=True)
    job = deferred(s, "f", None)
    assert deferred(s, "f", None) is job
    assert deferred(s, "f", 5) is job
    with pytest.raises(Deferred) as caught:
        s.rename("f", "g")
    assert caught.value.job is job
    worker = threading.Thread(target=job.run)
    worker.start()
    assert s.read("f") == BIG
    worker.join()
    assert s.upper_names() == []
    job.finish()
    assert job.done
    assert s.union.stats()["copy_ups"] == 1
    s.write("f", b"NEW")
    assert s.union.stats()["copy_ups"] == 1


@pytest.mark.parametrize("metacopy", [False, True])
@pytest.mark.parametrize("size", [300_000, len(BIG) - 1, len(BIG), len(BIG) + 1])
def test_the_time_of_a_file_moves_with_its_size_also_if_the_copy_was_a_job(
    stack: Stacks, size: int, metacopy: bool
) -> None:
    """The copy is cut already when the request is carried out, and not every file system notes that nothing changes."""
    past = 1_000_000_000_123_456_789

    def old(path: Path) -> None:
        path.write_bytes(BIG)
        os.utime(path, ns=(past, past))

    s = stack({"f": old}, defer=True, metacopy=metacopy)
    if metacopy:
        assert s.union.setattr(s.id("f"), Changes(mode=0o600))[1].st_mtime_ns == past
    deferred(s, "f", size).complete()
    assert (s.stat("f").st_mtime_ns == past) is (size >= len(BIG))
    st = s.union.setattr(s.id("f"), Changes(size=size))[1]
    assert st.st_size == size
    assert st.st_mtime_ns > past or size == len(BIG)


def test_a_long_copy_that_fails_is_told_to_whoever_waits_and_can_be_tried_again(stack: Stacks) -> None:
    s = stack({"f": BIG}, defer=True)
    job = deferred(s, "f", None)
    with pytest.raises(OSError, match="No space"):
        job.finish(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert s.upper_names() == os.listdir(s.work / "work") == []
    again = deferred(s, "f", None)
    assert again is not job
    again.complete()
    assert s.read("f") == BIG


def test_a_file_removed_during_its_copy_gets_no_name(stack: Stacks) -> None:
    s = stack({"f": BIG}, defer=True)
    fh = s.open("f")
    job = deferred(s, "f", None)
    job.run()
    s.unlink("f")
    job.finish()
    assert s.is_whiteout("f")
    assert s.names() == []
    assert s.content(fh) == BIG


def test_a_directory_renamed_during_the_copy_of_a_file_in_it(stack: Stacks) -> None:
    s = stack({"d": {"f": BIG}}, defer=True)
    job = deferred(s, "d/f", None)
    job.run()
    s.rename("d", "e")
    job.finish()
    s.write("e/f", b"NEW")
    assert s.read("e/f")[:5] == b"NEW34"
    assert s.names() == ["e"]


def test_small_files_are_copied_at_once_where_nothing_must_reach_the_disk(stack: Stacks) -> None:
    s = stack({"f": "small"}, defer=True, volatile=True)
    s.write("f", b"SM")
    assert s.read("f") == b"SMall"


def test_the_copy_of_a_broken_hard_link_has_no_origin(stack: Stacks) -> None:
    """Else two files, the copy and the names that are left below, would show one number after a remount."""

    def make(path: Path) -> None:
        path.write_bytes(b"data")
        os.link(path, path.with_name("other"))

    s = stack({"f": make, "single": "x"})
    s.write("f", b"N")
    s.write("single", b"N")
    assert s.mark("f", "origin") is None
    assert s.mark("single", "origin")
    s.remount()
    assert s.node("f").ino != s.node("other").ino
