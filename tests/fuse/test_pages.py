"""Listings with attributes that are given again to the next reader: not a moment longer than they are true."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from tests.fuse.lives import ROOT, Mount
from unionfs.core.config import AccessTimes
from unionfs.core.mountoptions import MountOptions
from unionfs.fuse import journal, wire
from unionfs.fuse.listing import KEPT
from unionfs.fuse.protocol import Opcode
from unionfs.fuse.requests import Requests

pytestmark = pytest.mark.root

WHOLE = wire.READ.pack(0, 0, 32 << 10)
LOOKING = {
    *(Opcode.LOOKUP, Opcode.GETATTR, Opcode.STATX, Opcode.RELEASE, Opcode.LSEEK, Opcode.READDIR, Opcode.READDIRPLUS),
    *(Opcode.GETXATTR, Opcode.LISTXATTR, Opcode.STATFS, Opcode.DESTROY),
    *(Opcode.OPENDIR, Opcode.RELEASEDIR),
}
"""What changes nothing that a listing tells."""
SET_MODE = 1
"""FATTR_MODE."""
REQUESTS = sorted(Opcode[name.upper()] for name in vars(Requests) if name.upper() in Opcode.__members__)


class Reader:
    """A mount, and how often its union was asked for the names of a listing."""

    def __init__(self, mount: Mount) -> None:
        self.mount = mount
        self.asked = 0
        union, lookup_all = mount.union, mount.union.lookup_all

        def counted(parent: int, names: Sequence[bytes]) -> object:
            self.asked += 1
            return lookup_all(parent, names)

        vars(union)["lookup_all"] = counted

    def list(self, nodeid: int) -> bytes:
        return bytes(self.mount.ask(Opcode.READDIRPLUS, nodeid, WHOLE))

    def is_asked(self, nodeid: int) -> bool:
        """List *nodeid* and tell whether the union had to be asked."""
        before = self.asked
        self.list(nodeid)
        return self.asked > before


@pytest.fixture(params=[{}])
def mount(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Mount]:
    made = Mount(tmp_path, **request.param)
    for top in (made.lower / "d", made.lower / "other", made.upper / "upper"):
        top.mkdir()
        for name in ("a", "b"):
            (top / name).write_text(name)
    made.serve()
    yield made
    made.close()


@pytest.fixture
def reader(mount: Mount) -> Reader:
    return Reader(mount)


def test_the_next_reader_is_given_the_same_and_it_is_counted(reader: Reader) -> None:
    mount = reader.mount
    d = mount.id(b"d")
    first = reader.list(d)
    assert b"a" in first
    assert not reader.is_asked(d)
    assert reader.list(d) == first
    for name in (b"a", b"b"):
        node = mount.union.child(d, name)
        assert node is not None
        assert node.lookups == 3
        assert journal.read(mount.kept[b"journal"]).known[node.nodeid].lookups == 3
        mount.ask(Opcode.BATCH_FORGET, 0, wire.BATCH_FORGET.pack(1) + wire.FORGET_ONE.pack(node.nodeid, 3))
        assert mount.union.child(d, name) is None


def test_another_directory_size_or_offset_is_another_page(reader: Reader) -> None:
    mount = reader.mount
    d, other = mount.id(b"d"), mount.id(b"other")
    whole = reader.list(d)
    assert reader.list(other) != whole
    half = bytes(mount.ask(Opcode.READDIRPLUS, d, wire.READ.pack(0, 0, len(whole) - 1)))
    assert len(half) < len(whole)
    assert mount.ask(Opcode.READDIRPLUS, d, wire.READ.pack(0, 0, len(whole))) == whole
    assert len(mount.ask(Opcode.READDIRPLUS, d, wire.READ.pack(0, 2, 32 << 10))) < len(whole)


@pytest.mark.parametrize("opcode", REQUESTS, ids=lambda opcode: opcode.name.lower())
def test_nothing_is_given_again_when_something_may_have_changed(reader: Reader, opcode: Opcode) -> None:
    mount = reader.mount
    d, other = mount.id(b"d"), mount.id(b"other")
    reader.list(d)
    with suppress(Exception):  # whatever comes of it
        mount.ask(opcode, other, bytes(100))
    assert reader.is_asked(d) is (opcode not in LOOKING)


def test_a_change_shows_at_once(reader: Reader) -> None:
    mount = reader.mount
    d = mount.id(b"d")
    a = mount.id(b"a", d)
    before = reader.list(d)
    mount.ask(Opcode.SETATTR, a, wire.SETATTR.pack(SET_MODE, 0, 0, 0, 0, 0, 0, 0, 0, 0o700, 0, 0))
    after = reader.list(d)
    assert after != before
    assert reader.list(d) == after


def test_nothing_is_kept_while_a_file_is_lent(reader: Reader) -> None:
    """The kernel changes it, and says nothing."""
    mount = reader.mount
    d = mount.id(b"d")
    lent = mount.requests._modes.lent
    lent[ROOT] = cast("Any", None)
    reader.list(d)
    assert reader.is_asked(d)
    lent.clear()
    reader.list(d)
    assert not reader.is_asked(d)


@pytest.mark.parametrize(
    "mount",
    [
        {"options": MountOptions(attr_timeout=1)},
        {"options": MountOptions(entry_timeout=1)},
        {"times": AccessTimes.STRICTATIME},
    ],
    indirect=True,
    ids=["attributes", "names", "strictatime"],
)
def test_nothing_is_kept_where_even_the_kernel_may_not_believe_it_for_ever(reader: Reader) -> None:
    d = reader.mount.id(b"d")
    reader.list(d)
    assert reader.is_asked(d)


@pytest.mark.parametrize(
    ("mount", "name", "is_noted"),
    [
        ({"times": AccessTimes.RELATIME}, b"upper", True),
        ({"times": AccessTimes.RELATIME}, b"other", False),
        ({"times": AccessTimes.NOATIME}, b"upper", False),
    ],
    indirect=["mount"],
    ids=["upper", "lower", "noatime"],
)
def test_reading_a_directory_whose_reading_is_noted_changes_what_is_told_of_it(
    reader: Reader, name: bytes, *, is_noted: bool
) -> None:
    mount = reader.mount
    d = mount.id(b"d")
    reader.list(d)
    reader.list(mount.id(name))
    assert reader.is_asked(d) is is_noted


def listed(page: bytes) -> dict[bytes, tuple[int, int]]:
    """What a page says of each name: the node's id, and for how many seconds its attributes hold."""
    found, at = {}, 0
    while at < len(page):
        nodeid, _, _, valid, *_, length, _ = wire.DIRENTPLUS.unpack_from(page, at)
        start = at + wire.DIRENTPLUS.size
        found[page[start : start + length]] = nodeid, valid
        at = start + (length + 7 & ~7)
    return found


def test_a_name_that_has_gone_is_left_out_and_one_that_is_damaged_is_a_mere_name(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    d = reader.mount.id(b"d")
    monkeypatch.setitem(vars(reader.mount.union), "lookup_all", lambda _parent, _names: [None, OSError(errno.EIO, "")])
    names = listed(reader.list(d))
    assert {name: nodeid for name, (nodeid, _) in names.items()} in (
        {b".": 0, b"..": 0, b"a": 0},
        {b".": 0, b"..": 0, b"b": 0},
    )


def test_attributes_that_may_change_unseen_do_not_hold(reader: Reader) -> None:
    mount = reader.mount
    d, a = mount.id(b"d"), mount.id(b"a", mount.id(b"d"))
    mount.requests._modes.changing[a] = 1
    held = listed(reader.list(d))
    assert held[b"a"][1] == 0 < held[b"b"][1]


def test_attributes_of_a_lower_hard_link_do_not_hold(reader: Reader) -> None:
    """The first change gives it another number, and the answer to that cannot say so."""
    mount = reader.mount
    (mount.lower / "d" / "c").hardlink_to(mount.lower / "d" / "a")
    held = listed(reader.list(mount.id(b"d")))
    assert held[b"a"][1] == held[b"c"][1] == 0 < held[b"b"][1]


def test_all_names_of_a_hard_link_are_noted(reader: Reader) -> None:
    """A successor that knew one of them alone would change that one, and leave the others as they were."""
    mount = reader.mount
    (mount.upper / "upper" / "c").hardlink_to(mount.upper / "upper" / "a")
    upper = mount.id(b"upper")
    reader.list(upper)
    node = mount.union.child(upper, b"a")
    assert node is not None
    known = journal.read(mount.kept[b"journal"]).known[node.nodeid]
    assert set(known.names) == {(upper, b"a"), (upper, b"c")}
    assert known.lookups == node.lookups == 2


def test_only_some_are_kept(reader: Reader) -> None:
    mount = reader.mount
    d = mount.id(b"d")
    for size in range(KEPT + 1):
        mount.ask(Opcode.READDIRPLUS, d, wire.READ.pack(0, 0, 8192 + size))
    before = reader.asked
    mount.ask(Opcode.READDIRPLUS, d, wire.READ.pack(0, 0, 8192 + KEPT))
    assert reader.asked == before
    mount.ask(Opcode.READDIRPLUS, d, wire.READ.pack(0, 0, 8192))
    assert reader.asked > before


def test_a_number_that_changes_while_nobody_asks_is_told(reader: Reader) -> None:
    """A copy-up in another thread may break a hard link, and whoever waited for it may have been killed."""
    mount = reader.mount
    d = mount.id(b"d")
    reader.list(d)
    mount.requests._renumbered(mount.union.node(mount.id(b"a", d)))
    assert reader.is_asked(d)
