"""A server dies when it has carried out a request and not answered it: the next one is sent it again, by its number.

What `tests.mounted.test_kill_points` does with processes and mounts, here in one process: a server is abandoned as it
is, and the next one has what a supervisor would have kept. So every request can be asked again, and again.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from unionfs.core.config import Config
from unionfs.core.mountoptions import MountOptions
from unionfs.core.request import Changes
from unionfs.core.union import Union
from unionfs.fuse import journal, takeover, wire
from unionfs.fuse.journal import Journal
from unionfs.fuse.notes import Notes
from unionfs.fuse.noting import NotingRequests
from unionfs.fuse.passthrough import Cached
from unionfs.fuse.protocol import UNIQUE_RESEND, Feature, Opcode
from unionfs.fuse.supervisor import Link
from unionfs.linux import fileops

pytestmark = pytest.mark.root

ROOT = 1
OPEN = wire.OPEN.pack(os.O_RDWR, 0)
CREATE = wire.CREATE.pack(os.O_RDWR, 0o644, 0, 0)


class Killed(BaseException):
    """The server dies here."""


class Mount:
    """Servers of one mount, one after the other; also what they take for the link to their supervisor."""

    def __init__(self, base: Path) -> None:
        self.lower, self.upper = base / "lower", base / "upper"
        for path in (self.lower, self.upper, base / "work"):
            path.mkdir()
        self._config = Config(lower=(self.lower,), upper=self.upper, work=base / "work", metacopy=True)
        self._before = descriptors()
        self._device = os.open("/dev/null", os.O_WRONLY)
        self._abandoned: list[tuple[Union, NotingRequests]] = []
        self.unique = 0
        """The number of the last request."""
        self.kept: dict[bytes, int] = {}

    def serve(self) -> None:
        self._begin(Union(self._config), None)

    def die(self) -> None:
        """Let the next server take over."""
        self._abandoned.append((self.union, self._requests))
        given = [os.dup(fd) for fd in self.union.descriptors()]
        self._begin(Union(self._config, given=given), journal.read(self.kept[b"journal"]))

    def _begin(self, union: Union, past: journal.Past | None) -> None:
        self.union, modes = union, Cached(union, self._device)
        self._requests = NotingRequests(union, modes, MountOptions(), Feature.SETXATTR_EXT)
        kept = {key: os.dup(fd) for key, fd in self.kept.items() if key != b"journal"}
        if past is not None:
            takeover.restore(union, modes, past, kept)
        self._requests.note_in(Notes(union, cast("Link", self), past, kept))

    def keep(self, *kept: tuple[bytes, int]) -> None:
        for key, fd in kept:
            if key in self.kept:
                self.drop(key)
            self.kept[key] = os.dup(fd)

    def drop(self, key: bytes) -> None:
        os.close(self.kept.pop(key))

    def ask(self, opcode: Opcode, nodeid: int, body: bytes, again: int = 0) -> Any:
        """Ask something; *again* is the number of a request that is sent again."""
        if not again:
            self.unique += 2
        unique = again | UNIQUE_RESEND if again else self.unique
        head = (0, int(opcode), unique, nodeid, 0, 0, 1, 0, 0)
        return self._requests.table[int(opcode)](nodeid, memoryview(body), head)

    def twice(self, opcode: Opcode, nodeid: int, body: bytes) -> Any:
        """Ask something of a server that dies before it answers, and of the next; return what that one says."""
        self.ask(opcode, nodeid, body)
        self.die()
        return self.ask(opcode, nodeid, body, again=self.unique)

    def id(self, name: bytes, parent: int = ROOT) -> int:
        return node_of(self.ask(Opcode.LOOKUP, parent, name + b"\0"))

    def open(self, nodeid: int, flags: int = os.O_RDWR) -> int:
        return handle_of(self.ask(Opcode.OPEN, nodeid, wire.OPEN.pack(flags, 0)))

    def read(self, nodeid: int, handle: int) -> bytes:
        return bytes(self.ask(Opcode.READ, nodeid, wire.READ.pack(handle, 0, 100)))

    def close(self) -> None:
        """Close also what the dead have left open, as their end would have."""
        for union, requests in (*self._abandoned, (self.union, self._requests)):
            requests.notes.journal.close()
            with suppress(OSError):
                union.close()
        for fd in descriptors() - self._before:
            with suppress(OSError):  # it was that of the listing
                os.close(fd)


def descriptors() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}


def node_of(answer: bytes) -> int:
    return int(wire.OFFSET.unpack_from(answer)[0])


def handle_of(answer: bytes, at: int = 0) -> int:
    return int(wire.OPENED.unpack_from(answer, at)[0])


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    made = Mount(tmp_path)
    (made.lower / "f").write_text("lower")
    (made.lower / "g").write_text("other")
    made.serve()
    yield made
    made.close()


MAKING = {
    "mkdir": (Opcode.MKDIR, wire.MKDIR.pack(0o755, 0) + b"new\0"),
    "mknod": (Opcode.MKNOD, wire.MKNOD.pack(stat.S_IFREG | 0o644, 0, 0) + b"new\0"),
    "symlink": (Opcode.SYMLINK, b"new\0target\0"),
    "create": (Opcode.CREATE, CREATE + b"new\0"),
}


@pytest.mark.parametrize("name", MAKING)
def test_what_is_made_again_is_one_thing_that_is_known_once(mount: Mount, name: str) -> None:
    opcode, body = MAKING[name]
    answer = mount.twice(opcode, ROOT, body)
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
@pytest.mark.parametrize("first_died_before_it_began", [False, True])
def test_what_was_done_is_not_done_again(mount: Mount, name: str, first_died_before_it_began: bool) -> None:
    """Each time it ends well; after the last server, too, only one of them had carried it out."""
    if name == "removexattr":
        os.setxattr(mount.lower / "f", "user.a", b"1")
    f, g = mount.id(b"f"), mount.id(b"g")
    opcode, nodeid, body = ONCE[name]
    nodeid, body = nodeid or f, wire.LINK.pack(f) + body if name == "link" else body
    if first_died_before_it_began:
        mount.unique += 2
        mount.die()
        answers = [mount.ask(opcode, nodeid, body, again=mount.unique)]
    else:
        answers = [mount.ask(opcode, nodeid, body)]
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


def test_whoever_opens_it_after_its_end_is_kept_too(mount: Mount) -> None:
    f = mount.id(b"f")
    first = mount.open(f, os.O_RDONLY)
    mount.ask(Opcode.UNLINK, ROOT, b"f\0")
    second = mount.open(f, os.O_RDONLY)
    mount.ask(Opcode.RELEASE, f, wire.RELEASE.pack(first, os.O_RDONLY, 0))
    mount.die()
    assert mount.read(f, second) == b"lower"


# the journal


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
    assert (anew.known, anew.files, anew.last_handle) == (known.known, known.files, known.last_handle)
