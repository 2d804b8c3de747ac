"""Open files: what a reader sees after a copy-up, a rename, a removal; what a writer may do."""

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.core.conftest import Stacks
from tests.core.stacks import ME, PAST, Stack, symlink
from unionfs.core.files import KEPT
from unionfs.core.request import NOW, Caller, Changes

# readers


def test_a_reader_sees_what_is_written_after_a_copy_up(stack: Stacks) -> None:
    s = stack({"f": "old data"})
    early, late = s.open("f"), s.open("f")
    s.write("f", b"NEW")
    assert s.content(early) == s.content(late) == b"NEW data"
    assert s.union.file(early).writable_layer
    s.write("f", b"again")
    assert s.content(early) == b"againata"


def test_everybody_hears_of_the_copy_up_before_descriptors_change(stack: Stacks) -> None:
    s = stack({"f": "old"})
    fh = s.open("f")
    told: list[tuple[int, int]] = []
    before = s.union.file(fh).fd
    s.union.on_copy_up(lambda node: told.append((node.nodeid, s.union.file(fh).fd)))
    s.write("f", b"NEW")
    assert told == [(s.id("f"), before)]


@pytest.mark.parametrize("change", ["chmod", "xattr", "link", "rename"])
def test_a_copy_up_by_any_change_moves_the_readers(stack: Stacks, change: str) -> None:
    s = stack({"f": "data"})
    fh = s.open("f")
    if change == "chmod":
        s.setattr("f", mode=0o600)
    elif change == "xattr":
        s.union.setxattr(s.id("f"), b"user.k", b"v")
    elif change == "link":
        s.link("f", "g")
    else:
        s.rename("f", "g")
    s.write("f" if change in {"chmod", "xattr"} else "g", b"NEW!")
    assert s.content(fh) == b"NEW!"


def test_truncation_is_seen_by_readers_and_copies_no_data(stack: Stacks) -> None:
    s = stack({"f": "x" * 1000})
    fh = s.open("f")
    writer = s.open("f", os.O_WRONLY | os.O_TRUNC)
    assert s.content(fh) == b""
    assert s.union.stats()["copied_bytes"] == 0
    s.union.write(writer, b"new", 0)
    assert s.content(fh) == b"new"


def test_truncation_by_a_reader_is_a_change(stack: Stacks) -> None:
    s = stack({"f": "data"})
    fh = s.open("f", os.O_RDONLY | os.O_TRUNC)
    assert s.content(fh) == b""
    assert s.stat("f").st_size == 0
    with pytest.raises(OSError, match="Bad file"):
        s.union.write(fh, b"x", 0)


@pytest.mark.parametrize("size", [0, 2, 4, 100])
def test_truncate_keeps_what_is_left(stack: Stacks, size: int) -> None:
    s = stack({"f": "data"})
    assert s.setattr("f", size=size).st_size == size
    assert s.read("f") == b"data".ljust(size, b"\0")[:size]


# files without a name


@pytest.mark.parametrize("layer", ["lower", "upper"])
def test_an_open_file_lives_on_without_its_name(stack: Stacks, layer: str) -> None:
    s = stack({"f": "data"} if layer == "lower" else {}, upper={} if layer == "lower" else {"f": "data"})
    node = s.id("f")
    fh = s.open("f")
    s.unlink("f")
    assert s.content(fh) == b"data"
    assert s.union.getattr(node, fh)[1].st_nlink == s.union.getattr(node)[1].st_nlink == 0
    again = s.opened(s.union.open(node, os.O_RDWR))
    s.union.write(again, b"DA", 0)
    assert s.content(fh) == b"DAta"
    st = s.union.setattr(node, Changes(size=3, mode=0o600, mtime_ns=5), again)[1]
    assert (st.st_size, stat.S_IMODE(st.st_mode), st.st_mtime_ns, st.st_nlink) == (3, 0o600, 5, 0)
    s.union.setxattr(node, b"user.k", b"v")
    assert s.union.getxattr(node, b"user.k") == b"v"
    other = s.opened(s.union.open(node, os.O_RDWR))
    s.union.write(other, b"12", 1)
    assert s.content(fh) == s.content(again) == b"D12"
    s.create("f", b"another")
    assert s.content(fh) == b"D12"
    assert s.id("f") != node


def test_a_lower_file_without_a_name_and_not_open_is_not_written(stack: Stacks) -> None:
    s = stack({"f": "data"})
    node = s.id("f")
    s.unlink("f")
    with pytest.raises(OSError, match=r".") as caught:
        s.union.open(node, os.O_RDWR)
    assert caught.value.errno in {errno.ESTALE, errno.ENOENT}
    assert s.union.getattr(node)[1].st_nlink == 0


def test_a_metacopy_file_without_a_name_never_leads_into_a_lower_layer(stack: Stacks) -> None:
    s = stack({"f": "data"}, metacopy=True)
    s.setattr("f", mode=0o640)
    node = s.id("f")
    fh = s.open("f")
    s.unlink("f")
    st = s.union.setattr(node, Changes(mode=0o600))[1]
    assert (stat.S_IMODE(st.st_mode), st.st_nlink) == (0o600, 0)
    writer = s.opened(s.union.open(node, os.O_WRONLY))
    s.union.write(writer, b"NEW!", 0)
    assert s.content(fh) == b"NEW!"


def test_a_nameless_file_gets_a_name_by_a_link(stack: Stacks) -> None:
    s = stack({"taken": "low", "gone": ""})
    s.unlink("gone")
    node, st, fh = s.union.tmpfile(1, 0o640, os.O_RDWR, ME)
    s.seen(node)
    s.opened(fh)
    assert st.st_nlink == 0
    s.union.write(fh, b"data", 0)
    with pytest.raises(FileExistsError):
        s.union.link(node.nodeid, 1, b"taken")
    for name in (b"new", b"gone"):
        s.seen(s.union.link(node.nodeid, 1, name)[0])
    assert s.read("new") == s.read("gone") == b"data"
    assert s.stat("new").st_nlink == 2
    s.remount()
    assert s.id("new") == s.id("gone")


@pytest.mark.root
@pytest.mark.parametrize("mode", [0o2755, 0o4755, 0o6755, 0o1640])
def test_a_nameless_file_of_somebody_else_has_the_mode_asked_for(stack: Stacks, mode: int) -> None:
    """Giving it to him takes the set-id bits away, as every chown does."""
    s = stack({})
    node, st, fh = s.union.tmpfile(1, mode, os.O_RDWR, Caller(7, 8))
    s.seen(node)
    s.opened(fh)
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (mode, 7, 8)


def test_a_nameless_file_may_be_the_first_thing_in_a_lower_directory(stack: Stacks) -> None:
    s = stack({"d": {"x": ""}})
    node, _, fh = s.union.tmpfile(s.id("d"), 0o600, os.O_RDWR, ME)
    s.seen(node)
    s.opened(fh)
    assert s.names("d") == ["x"]
    assert s.upper_names("d") == []


# writers


def test_a_reader_may_not_write(stack: Stacks) -> None:
    s = stack({"f": "data"})
    fh = s.open("f")
    for call in (lambda: s.union.write(fh, b"x", 0), lambda: s.union.fallocate(fh, 0, 0, 100)):
        with pytest.raises(OSError, match="Bad file"):
            call()
    s.write("f", b"copied up")
    with pytest.raises(OSError, match="Bad file"):
        s.union.write(fh, b"x", 0)


@pytest.mark.parametrize("call", ["read", "write", "fsync", "lseek"])
def test_a_handle_that_is_not_open_is_refused(stack: Stacks, call: str) -> None:
    s = stack({"f": "data"})
    fh = s.open("f", os.O_RDWR)
    s.close(fh)
    arguments = {"read": (1, 0), "write": (b"x", 0), "fsync": (False,), "lseek": (0, os.SEEK_DATA)}[call]
    with pytest.raises(OSError, match=r".") as caught:
        getattr(s.union, call)(fh, *arguments)
    assert caught.value.errno == errno.EBADF
    s.union.release(fh)


def test_a_file_that_is_just_made_can_be_read_by_its_maker(stack: Stacks) -> None:
    s = stack({})
    fh = s.create("f", b"data")
    assert s.content(fh) == b"data"
    assert s.union.file(fh).writable_layer


@pytest.mark.parametrize(("mode", "left"), [(0o6755, 0o755), (0o4711, 0o711), (0o2745, 0o2745), (0o2755, 0o755)])
def test_a_write_by_an_ordinary_user_drops_set_id_bits(stack: Stacks, mode: int, left: int) -> None:
    for act in ("write", "truncate", "fallocate"):
        s = stack({"f": "data"})
        s.setattr("f", mode=mode)
        fh = s.open("f", os.O_RDWR)
        if act == "write":
            s.union.write(fh, b"x", 0, kill_priv=True)
        elif act == "truncate":
            s.union.setattr(s.id("f"), Changes(size=1, kill_priv=True), fh)
        else:
            s.union.drop_set_id(fh)
            s.union.fallocate(fh, 0, 0, 10)
        assert stat.S_IMODE(s.stat("f").st_mode) == left


def set_id(path: Path) -> None:
    path.touch()
    path.chmod(0o6755)


def test_no_set_id_bits_are_taken_from_a_lower_file(stack: Stacks) -> None:
    s = stack({"f": set_id})
    with pytest.raises(OSError, match="Bad file descriptor"):
        s.union.drop_set_id(s.open("f"))
    assert stat.S_IMODE(s.stat("f").st_mode) == 0o6755


def test_fallocate_lseek_and_copy_file_range_reach_the_file(stack: Stacks) -> None:
    s = stack({"f": "0123456789", "g": ""})
    fh, into = s.open("f"), s.open("g", os.O_RDWR)
    assert s.union.copy_file_range(fh, 2, into, 0, 4) == 4
    assert s.content(into) == b"2345"
    s.union.fallocate(into, 0, 0, 10)
    assert s.stat("g").st_size == 10
    s.union.setattr(s.id("g"), Changes(size=1 << 20), into)
    assert s.union.lseek(into, 0, os.SEEK_DATA) == 0
    assert s.union.lseek(into, 0, os.SEEK_HOLE) <= 1 << 20
    with pytest.raises(OSError, match="Invalid"):
        s.union.copy_file_range(fh, 0, into, 0, 1, 1)


def test_times_can_be_set_to_now_and_to_any_time_alone(stack: Stacks) -> None:
    s = stack({"f": "data"})
    st = s.setattr("f", mtime_ns=1_500_000_000_000_000_001)
    assert st.st_mtime_ns == 1_500_000_000_000_000_001
    assert st.st_atime_ns == s.setattr("f", mtime_ns=7).st_atime_ns
    assert s.setattr("f", mtime_ns=NOW).st_mtime_ns > 1_500_000_000_000_000_001


def test_sync_is_asked_only_of_what_was_written(stack: Stacks) -> None:
    s = stack({"f": "data", "d": {}})
    reader, directory = s.open("f"), s.union.opendir(s.id("d"))
    assert s.union.fsync(reader, False) is None
    assert s.union.fsyncdir(directory, False) is None
    s.write("f", b"x")
    s.create("d/new")
    for job in (s.union.fsync(reader, True), s.union.fsyncdir(directory, False), s.union.syncfs()):
        assert job is not None
        job.complete()
    s.union.releasedir(directory)


def test_nothing_is_synced_where_that_was_asked_for(stack: Stacks) -> None:
    s = stack({"f": "data"}, volatile=True)
    fh = s.open("f", os.O_RDWR)
    assert s.union.fsync(fh, False) is None
    assert s.union.syncfs() is None


def test_reading_a_lower_file_leaves_its_access_time_alone(stack: Stacks) -> None:
    s = stack({"f": "data"})
    lower = s.lowers[0] / "f"
    os.utime(lower, ns=(PAST, PAST))  # an access would be noted now: the last one is not after the last change
    assert s.content(s.open("f")) == b"data"
    s.write("f", b"D")
    assert lower.stat().st_atime_ns == PAST


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def reopened(s: Stack, path: str) -> int:
    """Open a file for reading whose data the caller may have."""
    return s.opened(s.union.open(s.id(path), os.O_RDONLY, again=True))


def test_a_lower_file_that_was_opened_before_is_opened_when_it_is_read(stack: Stacks) -> None:
    s = stack({"f": "lower"})
    s.read("f")
    before = descriptors()
    fh = reopened(s, "f")
    assert descriptors() == before
    assert s.content(fh) == b"lower"
    assert descriptors() == before + 1
    s.close(fh)
    s.close(reopened(s, "f"))
    assert descriptors() == before


def test_an_upper_file_that_was_opened_before_is_opened_at_once(stack: Stacks) -> None:
    s = stack({"f": "lower"})
    s.write("f", b"UPPER")
    fh = reopened(s, "f")
    s.unlink("f")
    assert s.content(fh) == b"UPPER"


def test_the_data_of_a_metacopy_file_that_was_opened_before_are_found_below(stack: Stacks) -> None:
    s = stack({"f": "lower"}, metacopy=True)
    s.setattr("f", mode=0o600)
    assert s.content(reopened(s, "f")) == b"lower"


@pytest.mark.parametrize("change", ["write", "unlink", "rename", "unlink and write"])
def test_whoever_has_not_read_yet_reads_what_is_there_then(stack: Stacks, change: str) -> None:
    s = stack({"d": {"f": "lower"}})
    s.read("d/f")
    nodeid, fh = s.id("d/f"), reopened(s, "d/f")
    if change == "write":
        s.write("d/f", b"UPPER")
    elif change == "rename":
        s.rename("d", "e")
    else:
        s.unlink("d/f")
    if change == "unlink and write":
        s.union.write(s.opened(s.union.open(nodeid, os.O_RDWR)), b"UP", 0)
    assert s.content(fh) == {"write": b"UPPER", "unlink and write": b"UPwer"}.get(change, b"lower")
    s.close(fh)


# found, removed, then opened


def test_a_file_that_was_found_can_be_opened_after_it_was_replaced(stack: Stacks) -> None:
    s = stack({"low": "low"}, upper={"f": "old", "g": "new", "s": symlink("here"), "t": symlink("there")})
    found = {name: s.id(name) for name in ("f", "s", "low")}
    s.rename("g", "f")
    s.rename("t", "s")
    s.unlink("low")
    for name, content in (("f", b"old"), ("low", b"low")):
        fh = s.opened(s.union.open(found[name], os.O_RDONLY))
        assert s.content(fh) == content
        assert s.union.getattr(found[name])[1].st_nlink == 0
    assert s.union.readlink(found["s"]) == b"here"
    assert s.read("f") == b"new"
    assert s.union.readlink(s.id("s")) == b"there"


def test_a_file_that_was_found_can_be_opened_after_somebody_else_closed_it(stack: Stacks) -> None:
    s = stack({}, upper={"f": "old", "g": "new"})
    found, other = s.id("f"), s.union.open(s.id("f"), os.O_RDONLY)
    s.rename("g", "f")
    s.union.release(other)
    assert s.content(s.opened(s.union.open(found, os.O_RDONLY))) == b"old"


def test_only_what_was_replaced_last_is_held_on_to(stack: Stacks) -> None:
    names = [f"f{number}" for number in range(KEPT + 1)]
    s = stack({}, upper={**dict.fromkeys(names, "data"), **{f"new-{name}": "new" for name in names}})
    found = [s.id(name) for name in names]
    for name in names:
        s.rename(f"new-{name}", name)
    with pytest.raises(OSError, match="Stale"):
        s.union.open(found[0], os.O_RDONLY)
    assert s.content(s.opened(s.union.open(found[1], os.O_RDONLY))) == b"data"
