"""A server dies when it has carried out a request and not answered it: the next one is sent it again, by its number.

What `tests.mounted.test_kill_points` does with processes and mounts, here in one process: a server is abandoned as it
is, and the next one has what a supervisor would have kept. So every request can be asked again, and again.
"""

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.fuse.lives import ROOT, Mount, handle_of, node_of
from unionfs.core.layer import Place
from unionfs.core.request import Changes
from unionfs.core.upper import Upper
from unionfs.fuse import journal, takeover, wire
from unionfs.fuse.journal import Journal
from unionfs.fuse.passthrough import Cached
from unionfs.fuse.protocol import Attribute, Opcode
from unionfs.fuse.supervisor import Link
from unionfs.linux import at, fileops

pytestmark = pytest.mark.root

OPEN = wire.OPEN.pack(os.O_RDWR, 0)
CREATE = wire.CREATE.pack(os.O_RDWR, 0o644, 0, 0)


class Killed(BaseException):
    """The server dies here."""


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    made = Mount(tmp_path)
    (made.lower / "f").write_text("lower")
    (made.lower / "g").write_text("other")
    made.serve()
    yield made
    made.close()


@pytest.fixture
def die_amid(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what asks something of a server that dies when it was done and not yet noted."""

    def die(_journal: Journal, _outcome: int) -> None:
        raise Killed

    def ask(opcode: Opcode, nodeid: int, body: bytes) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(Journal, "end", die)
            with pytest.raises((FileExistsError, Killed)):
                mount.ask(opcode, nodeid, body)
        mount.die()

    return ask


@pytest.fixture(params=["before", "amid", "after"])
def first(request: pytest.FixtureRequest, mount: Mount, die_amid: Callable[..., None]) -> Callable[..., None]:
    """Return what asks something of a server that dies before it begins, amid it, or after it has noted it."""

    def ask(opcode: Opcode, nodeid: int, body: bytes) -> None:
        match request.param:
            case "before":
                mount.unique += 2
                mount.die()
            case "amid":
                die_amid(opcode, nodeid, body)
            case _:
                mount.ask(opcode, nodeid, body)
                mount.die()

    return ask


MAKING = {
    "mkdir": (Opcode.MKDIR, wire.MKDIR.pack(0o755, 0) + b"new\0"),
    "mknod": (Opcode.MKNOD, wire.MKNOD.pack(stat.S_IFREG | 0o644, 0, 0) + b"new\0"),
    "symlink": (Opcode.SYMLINK, b"new\0target\0"),
    "create": (Opcode.CREATE, CREATE + b"new\0"),
}


@pytest.mark.parametrize("name", MAKING)
def test_what_is_made_again_is_one_thing_that_is_known_once(
    mount: Mount, name: str, first: Callable[..., None]
) -> None:
    opcode, body = MAKING[name]
    first(opcode, ROOT, body)
    answer = mount.ask(opcode, ROOT, body, again=mount.unique)
    assert sorted(os.listdir(mount.upper)) == ["new"]
    assert mount.union.stats()["open_files"] == (1 if name == "create" else 0)
    if name == "create":
        mount.ask(Opcode.RELEASE, node_of(answer), wire.RELEASE.pack(handle_of(answer, wire.ENTRY.size), os.O_RDWR, 0))
    mount.ask(Opcode.FORGET, node_of(answer), wire.FORGET.pack(1))
    assert mount.union.stats()["nodes"] == 1


ONCE = {
    "unlink": (Opcode.UNLINK, ROOT, b"f\0"),
    "rename": (Opcode.RENAME2, ROOT, wire.RENAME2.pack(ROOT, 0) + b"f\0new\0"),
    "exchange": (Opcode.RENAME2, ROOT, wire.RENAME2.pack(ROOT, 2) + b"f\0g\0"),
    "link": (Opcode.LINK, ROOT, b"new\0"),
    "setxattr": (Opcode.SETXATTR, 0, wire.SETXATTR_EXT.pack(1, os.XATTR_CREATE, 0) + b"user.a\0" + b"1"),
    "removexattr": (Opcode.REMOVEXATTR, 0, b"user.a\0"),
}


@pytest.mark.parametrize("name", ONCE)
def test_what_was_done_is_not_done_again(mount: Mount, name: str, first: Callable[..., None]) -> None:
    """Each time it ends well; after the last server, too, only one of them had carried it out."""
    if name == "removexattr":
        os.setxattr(mount.lower / "f", "user.a", b"1")
    f, g = mount.id(b"f"), mount.id(b"g")
    opcode, nodeid, body = ONCE[name]
    nodeid, body = nodeid or f, wire.LINK.pack(f) + body if name == "link" else body
    first(opcode, nodeid, body)
    answers = [mount.ask(opcode, nodeid, body, again=mount.unique)]
    mount.die()
    answers.append(mount.ask(opcode, nodeid, body, again=mount.unique))
    assert all(isinstance(answer, bytes) for answer in answers)
    names = {
        entry.name for entry in mount.union.readdir(mount.union.opendir(ROOT), 0) if entry.name not in {b".", b".."}
    }
    match name:
        case "unlink":
            assert names == {b"g"}
        case "rename":
            assert (names, mount.id(b"new")) == ({b"new", b"g"}, f)
        case "exchange":
            assert (mount.id(b"f"), mount.id(b"g")) == (g, f)
        case "link":
            assert (mount.id(b"new"), os.stat(mount.upper / "f").st_nlink) == (f, 2)
        case _:
            assert mount.union.has_attribute(f, b"user.a") is (name == "setxattr")


# what was begun, and nobody noted how it went


def test_an_attribute_that_could_not_be_made_was_not_made_by_us(mount: Mount, die_amid: Callable[..., None]) -> None:
    """The journal would not tell, if it were begun: the attribute is there afterwards."""
    os.setxattr(mount.lower / "f", "user.a", b"0")
    opcode, _, body = ONCE["setxattr"]
    f = mount.id(b"f")
    die_amid(opcode, f, body)
    with pytest.raises(FileExistsError):
        mount.ask(opcode, f, body, again=mount.unique)


def test_a_rename_onto_another_name_of_the_same_file_is_none(mount: Mount, die_amid: Callable[..., None]) -> None:
    f = mount.id(b"f")
    mount.ask(Opcode.LINK, ROOT, wire.LINK.pack(f) + b"new\0")
    body = wire.RENAME2.pack(ROOT, 0) + b"f\0new\0"
    die_amid(Opcode.RENAME2, ROOT, body)
    assert mount.ask(Opcode.RENAME2, ROOT, body, again=mount.unique) == b""
    assert (mount.id(b"f"), mount.id(b"new")) == (f, f)


def test_what_was_replaced_and_had_no_time_to_become_a_whiteout_is_one(
    mount: Mount, die_amid: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system without RENAME_WHITEOUT the two are exchanged first."""
    rename, replace, deaths = at.rename, Upper.replace_by_whiteout, iter([Killed()])

    def rename_without(olddir: int, old: bytes, newdir: int, new: bytes, flags: int = 0) -> None:
        if flags & at.RENAME_WHITEOUT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        rename(olddir, old, newdir, new, flags)

    def die_first(upper: Upper, place: Place, name: bytes) -> None:
        for death in deaths:
            raise death
        replace(upper, place, name)

    f = mount.id(b"f")
    mount.union.setxattr(mount.id(b"g"), b"user.k", b"v")
    monkeypatch.setattr(at, "rename", rename_without)
    monkeypatch.setattr(Upper, "replace_by_whiteout", die_first)
    body = wire.RENAME2.pack(ROOT, 0) + b"f\0g\0"
    die_amid(Opcode.RENAME2, ROOT, body)
    assert mount.ask(Opcode.RENAME2, ROOT, body, again=mount.unique) == b""
    assert mount.id(b"g") == f
    assert mount.read(f, mount.open(f)) == b"lower"
    assert not mount.union.shows(ROOT, b"f")
    assert (mount.upper / "f").is_char_device()


def test_a_lower_file_that_lost_its_name_is_still_not_written(mount: Mount, die_amid: Callable[..., None]) -> None:
    f = mount.id(b"f")
    mount.open(f, os.O_RDONLY)
    die_amid(Opcode.UNLINK, ROOT, b"f\0")
    assert mount.ask(Opcode.UNLINK, ROOT, b"f\0", again=mount.unique) == b""
    writer = mount.open(f)
    mount.ask(Opcode.WRITE, f, wire.WRITE.pack(writer, 0, 2, 0) + b"UP")
    assert mount.read(f, writer) == b"UPwer"
    assert (mount.lower / "f").read_text() == "lower"


# open files


@pytest.mark.logs("open file 1 of node .* is lost")
def test_an_open_file_that_is_lost_is_lost_once(mount: Mount, caplog: pytest.LogCaptureFixture) -> None:
    mount.ask(Opcode.CREATE, ROOT, CREATE + b"new\0")
    (mount.upper / "new").unlink()
    mount.die()
    mount.die()
    assert len([record for record in caplog.records if "is lost" in record.getMessage()]) == 1


def test_an_open_file_of_which_nobody_heard_is_closed(mount: Mount) -> None:
    handle = handle_of(mount.twice(Opcode.OPEN, mount.id(b"f"), OPEN))
    assert mount.union.stats()["open_files"] == 1
    assert mount.union.has_file(handle)


def test_a_file_without_a_name_of_which_nobody_heard_is_forgotten(mount: Mount) -> None:
    answer = mount.twice(Opcode.TMPFILE, ROOT, CREATE + b"\0")
    assert mount.union.stats()["open_files"] == 1
    assert mount.union.stats()["nodes"] == 2
    mount.die()
    assert mount.read(node_of(answer), handle_of(answer, wire.ENTRY.size)) == b""


def test_a_file_is_closed_once(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[int] = []
    monkeypatch.setattr(Cached, "released", lambda _modes, nodeid, _flags: released.append(nodeid))
    f = mount.id(b"f")
    handle = mount.open(f)
    assert mount.twice(Opcode.RELEASE, f, wire.RELEASE.pack(handle, os.O_RDWR, 0)) == b""
    assert mount.union.stats()["open_files"] == 0
    assert released == [f]


def test_an_append_is_made_once(mount: Mount) -> None:
    """Also to a file that takes nothing else (chattr +a): whatever the offset is, it goes to the end."""
    f = mount.id(b"f")
    mount.union.setxattr(f, b"user.k", b"v")
    mount.union.setattr(f, Changes(size=5))
    with (mount.upper / "f").open() as file:
        fileops.set_flags(file.fileno(), fileops.FS_APPEND)
        try:
            handle = mount.open(f, os.O_WRONLY | os.O_APPEND)
            body = wire.WRITE.pack(handle, 5, 5, 0) + b" more"
            assert wire.WRITTEN.unpack(mount.twice(Opcode.WRITE, f, body)) == (5,)
        finally:
            fileops.set_flags(file.fileno(), 0)
    assert (mount.upper / "f").read_text() == "lower more"


# open files without a name


def test_a_file_that_is_replaced_is_kept(mount: Mount) -> None:
    f = mount.id(b"f")
    reader = mount.open(f, os.O_RDONLY)
    mount.id(b"g")
    mount.ask(Opcode.RENAME2, ROOT, wire.RENAME2.pack(ROOT, 0) + b"g\0f\0")
    mount.die()
    assert mount.read(f, reader) == b"lower"


def test_the_data_of_a_removed_metacopy_file_are_kept_where_they_are_now(mount: Mount) -> None:
    f = mount.id(b"f")
    mount.union.setxattr(f, b"user.k", b"v")
    reader = mount.open(f, os.O_RDONLY)
    mount.ask(Opcode.UNLINK, ROOT, b"f\0")
    mount.die()
    writer = mount.open(f)
    mount.ask(Opcode.WRITE, f, wire.WRITE.pack(writer, 0, 2, 0) + b"UP")
    assert mount.read(f, reader) == b"UPwer"
    assert (mount.lower / "f").read_text() == "lower"


def test_a_change_that_only_an_open_file_shows_is_kept(mount: Mount) -> None:
    """Nobody opens the copy that it takes: the reader of before has it instead of the lower file."""
    f = mount.id(b"f")
    reader = mount.open(f, os.O_RDONLY)
    mount.ask(Opcode.UNLINK, ROOT, b"f\0")
    mount.ask(Opcode.SETATTR, f, wire.SETATTR.pack(Attribute.MODE, reader, 0, 0, 0, 0, 0, 0, 0, 0o600, 0, 0))
    mount.die()
    assert stat.S_IMODE(mount.union.getattr(f)[1].st_mode) == 0o600
    assert mount.read(f, reader) == b"lower"
    assert (mount.lower / "f").stat().st_mode & 0o777 == 0o644


def test_whoever_opens_it_after_its_end_is_kept_too(mount: Mount) -> None:
    f = mount.id(b"f")
    first = mount.open(f, os.O_RDONLY)
    mount.ask(Opcode.UNLINK, ROOT, b"f\0")
    second = mount.open(f, os.O_RDONLY)
    mount.ask(Opcode.RELEASE, f, wire.RELEASE.pack(first, os.O_RDONLY, 0))
    mount.die()
    assert mount.read(f, second) == b"lower"


# around the journal


def test_listings_that_the_kernel_has_are_dropped(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last server may have had something to say of one."""
    dropped: list[int] = []
    monkeypatch.setattr(Cached, "drop_listing", lambda _modes, nodeid: dropped.append(nodeid))
    mount.id(b"f")
    mount.die()
    assert dropped == [ROOT]


def test_a_door_that_somebody_left_is_replaced(mount: Mount, tmp_path: Path) -> None:
    door = tmp_path / "door"
    door.touch()
    takeover._open_door(cast("Link", mount), str(door))
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(door))


@pytest.mark.parametrize("how", ["forget", "release"])
def test_a_journal_that_is_mostly_waste_is_begun_anew(mount: Mount, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(journal, "_SLACK", 0)
    mount.die()
    f = mount.id(b"f")
    before = os.fstat(mount.kept[b"journal"]).st_ino
    handles = [mount.open(f, os.O_RDONLY) for _ in range(20)]
    for _ in range(20):
        mount.id(b"f")
    known = journal.read(mount.kept[b"journal"])
    if how == "forget":
        mount.ask(Opcode.BATCH_FORGET, 0, wire.BATCH_FORGET.pack(1) + wire.FORGET_ONE.pack(f, 20))
        known.known[f].lookups -= 20
    else:
        mount.ask(Opcode.RELEASE, f, wire.RELEASE.pack(handles[0], os.O_RDONLY, 0))
        del known.files[handles[0]]
    assert os.fstat(mount.kept[b"journal"]).st_ino != before
    anew = journal.read(mount.kept[b"journal"])
    assert noted(anew) == noted(known)


def test_lookups_that_are_taken_back_are_noted(mount: Mount) -> None:
    f = mount.id(b"f")
    assert mount.id(b"f") == f
    mount.ask(Opcode.FORGET, f, wire.FORGET.pack(1))
    assert journal.read(mount.kept[b"journal"]).known[f].lookups == 1
    mount.ask(Opcode.FORGET, f, wire.FORGET.pack(1))
    assert f not in journal.read(mount.kept[b"journal"]).known


def noted(past: journal.Past) -> tuple[object, ...]:
    nodes = [(each.nodeid, each.names, each.lookups) for each in past.known.values()]
    return sorted(nodes, key=repr), past.files, past.last_handle
