"""Owners and modes that are not those on disk: maps, squashing, and the attributes of ``xattr_permissions``.

The arithmetic and the encoding without a disk first; then as root and, in a child process, as an ordinary user.
"""

import errno
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.conftest import Stacks
from tests.core.stacks import Stack, Tree, build, symlink
from unionfs.core import ondisk
from unionfs.core.acl import narrowed
from unionfs.core.config import IdMap, Squash
from unionfs.core.ondisk import Override, decode_override, encode_override
from unionfs.core.owners import OVERFLOW_ID, to_shown, to_stored
from unionfs.core.request import Caller, Changes
from unionfs.errors import BadMark
from unionfs.linux import xattr

CONTAINERS, SECURITY = "user.containers.override_stat", "security.fuseoverlayfs.override_stat"

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
"""CAP_NET_BIND_SERVICE, as setcap writes it."""

# the attribute

GOLDEN = [
    (b"0:0:0755:dir", Override(0, 0, stat.S_IFDIR | 0o755)),
    (b"1000:100:4755:file", Override(1000, 100, stat.S_IFREG | 0o4755)),
    (b"0:5:0620:char-136-1", Override(0, 5, stat.S_IFCHR | 0o620, os.makedev(136, 1))),
    (b"0:6:0660:block-8-0", Override(0, 6, stat.S_IFBLK | 0o660, os.makedev(8, 0))),
    (b"1:2:0600:pipe", Override(1, 2, stat.S_IFIFO | 0o600)),
    (b"1:2:0777:socket", Override(1, 2, stat.S_IFSOCK | 0o777)),
    (b"1:2:0777:symlink", Override(1, 2, stat.S_IFLNK | 0o777)),
]


@pytest.mark.parametrize(("text", "value"), GOLDEN)
def test_written_and_read_as_containers_storage_does(text: bytes, value: Override) -> None:
    assert encode_override(value) == text
    assert decode_override(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"0:0:755", Override(0, 0, 0o755)),
        (b"0:0:100644", Override(0, 0, 0o644)),
        (b"0:0:600:char1:3", Override(0, 0, stat.S_IFCHR | 0o600, os.makedev(1, 3))),
        (b"0:0:600:block8:0", Override(0, 0, stat.S_IFBLK | 0o600, os.makedev(8, 0))),
        (b"0:0:600:char-1-3-what-comes-later", Override(0, 0, stat.S_IFCHR | 0o600, os.makedev(1, 3))),
    ],
)
def test_what_others_write_is_read(text: bytes, value: Override) -> None:
    assert decode_override(text) == value


@pytest.mark.parametrize(
    "text",
    [b"", b"0", b"0:0", b"0:0:", b":0:755", b"-1:0:755", b"0:0:888", b"0:0:755:", b"0:0:755:door", b"0:0:755:char",
     b"0:0:755:char-1", b"4294967295:0:755", b"0:99999999999:755", b"0:0:755:file:x", b"0:0:755\0", b" 0:0:755"],
)  # fmt: skip
def test_what_nobody_writes_is_refused(text: bytes) -> None:
    with pytest.raises(BadMark):
        decode_override(text)


@given(st.binary(max_size=40))
def test_any_bytes_are_an_override_or_refused(value: bytes) -> None:
    try:
        decoded = decode_override(value)
    except BadMark:
        return
    assert max(decoded.uid, decoded.gid) < ondisk.NO_ID


KINDS = st.sampled_from([stat.S_IFREG, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFLNK])
IDS = st.integers(0, 2**32 - 2)


@given(IDS, IDS, KINDS, st.integers(0, 0o7777))
def test_an_override_is_read_as_it_was_written(uid: int, gid: int, kind: int, bits: int) -> None:
    value = Override(uid, gid, kind | bits)
    assert decode_override(encode_override(value)) == value


# maps

PODMAN = (IdMap(1000, 0, 1), IdMap(100000, 1, 65536))


@pytest.mark.parametrize(("stored", "shown"), [(1000, 0), (100000, 1), (165535, 65536)])
def test_a_map_goes_both_ways(stored: int, shown: int) -> None:
    assert to_shown(PODMAN, stored) == shown
    assert to_stored(PODMAN, shown) == stored


@pytest.mark.parametrize("stored", [0, 999, 1001, 99999, 165536])
def test_an_owner_outside_of_the_map_is_nobody(stored: int) -> None:
    assert to_shown(PODMAN, stored) == OVERFLOW_ID


@pytest.mark.parametrize("shown", [65537, 100000, 2**32 - 2])
def test_nothing_is_given_to_somebody_outside_of_the_map(shown: int) -> None:
    with pytest.raises(OSError, match=r".") as caught:
        to_stored(PODMAN, shown)
    assert caught.value.errno == errno.EOVERFLOW


@given(st.integers(0, 70000))
def test_what_is_stored_is_shown_again(number: int) -> None:
    try:
        stored = to_stored(PODMAN, number)
    except OSError:
        assert number > 65536
    else:
        assert to_shown(PODMAN, stored) == number
    assert to_stored((), number) == to_shown((), number) == number


def test_a_mask_gives_the_group_nothing_once_the_acl_is_hidden() -> None:
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *entry) for entry in ((1, 7, -1 & 0xFFFFFFFF), (2, 7, 5), (4, 1, 0), (16, 7, 0), (32, 0, 0))
    )
    assert narrowed(acl, 0o100770) == 0o100710
    assert narrowed(None, 0o100770) == 0o100770


# as root: maps and squashing

MAP = {"uidmapping": (IdMap(100000, 0, 1000),), "gidmapping": (IdMap(200000, 0, 1000),)}
ROOT = Caller(0, 0, 0o022)


def owned(uid: int, gid: int, mode: int = 0o644) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(b"data")
        os.chown(path, uid, gid)
        path.chmod(mode)

    return make


def owner(s: Stack, path: str) -> tuple[int, int]:
    found = s.stat(path)
    return found.st_uid, found.st_gid


def on_disk(s: Stack, path: str) -> tuple[int, int]:
    found = (s.upper / path).lstat()
    return found.st_uid, found.st_gid


@pytest.mark.root
def test_mapped_owners_are_shown_made_changed_and_copied_up(stack: Stacks) -> None:
    s = stack({"f": owned(100005, 200006, 0o4755), "d": {}, "gone": "", "other": owned(7, 8)}, **MAP)
    assert owner(s, "f") == (5, 6)
    assert owner(s, "other") == owner(s, "d") == (OVERFLOW_ID, OVERFLOW_ID)
    s.setattr("f", mode=0o4711)
    assert (owner(s, "f"), on_disk(s, "f")) == ((5, 6), (100005, 200006))
    assert stat.S_IMODE(s.stat("f").st_mode) == 0o4711
    s.setattr("f", uid=9, gid=10)
    assert (owner(s, "f"), on_disk(s, "f")) == ((9, 10), (100009, 200010))
    s.unlink("gone")
    for name in ("new", "gone"):
        s.create(name, caller=Caller(3, 4, 0o022))
        assert (owner(s, name), on_disk(s, name)) == ((3, 4), (100003, 200004))
    s.mkdir("newdir", 0o2755, ROOT)
    s.symlink("link", "x", ROOT)
    s.mknod("fifo", stat.S_IFIFO | 0o600, caller=ROOT)
    assert [owner(s, name) for name in ("newdir", "link", "fifo")] == [(0, 0)] * 3
    node, found, fh = s.union.tmpfile(1, 0o600, os.O_RDWR, Caller(3, 4))
    s.seen(node)
    s.opened(fh)
    assert (found.st_uid, found.st_gid) == (3, 4)


@pytest.mark.root
@pytest.mark.parametrize("option", ["uidmapping", "gidmapping"])
def test_ids_outside_of_the_map_overflow(stack: Stacks, option: str) -> None:
    s = stack({"f": owned(7, 8), "mapped": owned(100001, 200001), "d": {"x": ""}}, **{option: MAP[option]})
    changes = {"uid": 5000} if option == "uidmapping" else {"gid": 5000}
    acts: list[Callable[[], object]] = [
        lambda: s.setattr("f", mode=0o600),
        lambda: s.write("f", b"x"),
        lambda: s.create("d/new"),
        lambda: s.create("new", caller=Caller(5000, 5000)),
        lambda: s.mkdir("new", caller=Caller(5000, 5000)),
        lambda: s.setattr("mapped", **changes),
    ]
    for act in acts:
        with pytest.raises(OSError, match=r".") as caught:
            act()
        assert caught.value.errno == errno.EOVERFLOW
    assert os.listdir(s.work / "work") == []
    assert "f" not in s.upper_names()
    assert "new" not in s.upper_names()


@pytest.mark.root
def test_a_map_that_has_nobody_gives_him_nothing_of_those_outside_of_it(stack: Stacks) -> None:
    whole = (IdMap(100000, 0, 65536),)
    s = stack({"f": owned(7, 8), "nobodys": owned(165534, 165534)}, uidmapping=whole, gidmapping=whole)
    assert owner(s, "f") == owner(s, "nobodys") == (OVERFLOW_ID, OVERFLOW_ID)
    s.setattr("nobodys", mode=0o600)
    assert on_disk(s, "nobodys") == (165534, 165534)
    with pytest.raises(OSError, match="too large"):
        s.setattr("f", mode=0o600)


@pytest.mark.root
@pytest.mark.parametrize("squash", [Squash(0, 0), Squash(uid=77), Squash(gid=88)])
def test_a_squashed_owner_is_the_same_everywhere_and_stays(stack: Stacks, squash: Squash) -> None:
    s = stack({"f": owned(5, 6), "d": {"g": owned(7, 8)}}, squash=squash)
    s.create("new", caller=Caller(12, 13))
    shown = (squash.uid if squash.uid is not None else 5, squash.gid if squash.gid is not None else 6)
    assert owner(s, "f") == shown
    if squash.uid is not None:
        assert owner(s, "d/g")[0] == owner(s, "new")[0] == squash.uid
        s.setattr("f", uid=squash.uid)
        with pytest.raises(PermissionError):
            s.setattr("f", uid=squash.uid + 1)
    else:
        assert owner(s, "new")[0] == on_disk(s, "new")[0] == 12
    assert owner(s, "f") == shown


@pytest.mark.root
def test_acls_are_hidden_where_their_ids_would_be_wrong(stack: Stacks) -> None:
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *entry)
        for entry in ((1, 6, 2**32 - 1), (2, 7, 100005), (4, 0, 2**32 - 1), (16, 7, 2**32 - 1), (32, 0, 2**32 - 1))
    )

    def make(path: Path) -> None:
        path.write_bytes(b"x")
        os.chown(path, 100001, 200001)
        os.setxattr(path, xattr.ACCESS_ACL, acl)

    s = stack({"f": make}, **MAP)
    assert xattr.ACCESS_ACL.encode() not in s.union.listxattr(s.id("f"))
    assert stat.S_IMODE(s.stat("f").st_mode) == 0o600
    s.write("f", b"y")
    assert stat.S_IMODE(s.stat("f").st_mode) == 0o600
    assert xattr.ACCESS_ACL not in os.listxattr(s.upper / "f")


# as root: attributes


@pytest.mark.root
@pytest.mark.parametrize(("option", "name"), [(1, SECURITY), (2, CONTAINERS)])
def test_what_is_asked_for_is_kept_in_the_attribute(stack: Stacks, option: int, name: str) -> None:
    s = stack({"f": owned(5, 6, 0o4755), "gone": ""}, xattr_permissions=option)
    assert os.getxattr(s.upper, name).endswith(b":dir")
    s.unlink("gone")
    s.create("gone", mode=0o6750, caller=Caller(3, 4))
    s.mkdir("d", 0o1777, Caller(7, 8))
    s.setattr("f", gid=9)
    s.setattr("d", mode=0)
    looks = {path: (owner(s, path), stat.S_IMODE(s.stat(path).st_mode)) for path in ("f", "gone", "d")}
    assert looks == {"f": ((5, 9), 0o755), "gone": ((3, 4), 0o6750), "d": ((7, 8), 0)}
    kept = {path: os.getxattr(s.upper / path, name) for path in looks}
    assert kept == {"f": b"5:9:0755:file", "gone": b"3:4:6750:file", "d": b"7:8:0000:dir"}
    for path in looks:
        real = (s.upper / path).stat()
        assert (real.st_uid, real.st_gid, real.st_mode & 0o7000) == (0, 0, 0)
    s.remount()
    assert {path: (owner(s, path), stat.S_IMODE(s.stat(path).st_mode)) for path in looks} == looks


@pytest.mark.root
@pytest.mark.parametrize("option", [1, 2])
def test_the_attribute_can_be_neither_seen_nor_forged(stack: Stacks, option: int) -> None:
    s = stack({"f": "x"}, xattr_permissions=option)
    s.create("mine", caller=Caller(3, 4))
    node = s.id("mine")
    for name in (CONTAINERS, SECURITY, "user.fuseoverlayfs.override_stat", "user.containers.override_security.x"):
        with pytest.raises(OSError, match=r"."):
            s.union.setxattr(node, name.encode(), b"0:0:4755:file")
        with pytest.raises(OSError, match=r"."):
            s.union.removexattr(node, name.encode())
        with pytest.raises(OSError, match=r"."):
            s.union.getxattr(node, name.encode())
    assert not [name for name in s.union.listxattr(node) if b"override" in name]
    assert owner(s, "mine") == (3, 4)


def overridden(text: bytes, tree: "Tree | str" = "", name: str = CONTAINERS) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        build({path.name: tree}, path.parent)
        os.setxattr(path, name, text)

    return make


@pytest.mark.root
@pytest.mark.parametrize(
    ("name", "options", "is_believed"),
    [
        (SECURITY, {}, True),
        (CONTAINERS, {}, False),
        (CONTAINERS, {"xattr_permissions": 2}, True),
        ("user.fuseoverlayfs.override_stat", {}, False),
        ("user.fuseoverlayfs.override_stat", {"xattr_permissions": 2}, True),
    ],
)
def test_a_union_of_root_believes_what_root_wrote_or_was_told_to(
    stack: Stacks, name: str, options: dict[str, int], is_believed: bool
) -> None:
    def layer(path: Path) -> None:
        overridden(b"0:0:0755:dir", {"sh": overridden(b"0:0:4755:file", "x", name)}, name)(path)
        os.chown(path / "sh", 1234, 1234)

    s = stack(layer, **options)
    looks = (owner(s, "sh"), stat.S_IMODE(s.stat("sh").st_mode))
    assert looks == (((0, 0), 0o4755) if is_believed else ((1234, 1234), 0o644))


@pytest.mark.root
@pytest.mark.parametrize("metacopy", [False, True])
def test_types_are_shown_and_listed_as_the_attribute_says(stack: Stacks, metacopy: bool) -> None:
    tree: Tree = {
        "null": overridden(b"0:0:0666:char-1-3"),
        "sda": overridden(b"0:6:0660:block-8-0"),
        "pipe": overridden(b"1:2:0600:pipe"),
        "sock": overridden(b"1:2:0777:socket"),
        "zero": overridden(b"0:0:0666:char-1-5", "data that no device has"),
        "plain": overridden(b"1:2:0640:file", "data"),
        "bare": "bare",
        "link": symlink("plain"),
    }
    s = stack(overridden(b"0:0:0755:dir", tree), xattr_permissions=2, metacopy=metacopy)
    kinds = {"null": stat.S_IFCHR, "sda": stat.S_IFBLK, "pipe": stat.S_IFIFO, "sock": stat.S_IFSOCK}
    kinds |= {"zero": stat.S_IFCHR, "plain": stat.S_IFREG, "bare": stat.S_IFREG, "link": stat.S_IFLNK}
    for _ in range(2):  # from the lower layer, then from their copies
        assert {name: stat.S_IFMT(s.stat(name).st_mode) for name in kinds} == kinds
        fh = s.union.opendir(1)
        listed = {os.fsdecode(entry.name): entry.type << 12 for entry in s.union.readdir(fh, 0)[2:]}
        s.union.releasedir(fh)
        assert listed == kinds
        assert s.stat("null").st_rdev == os.makedev(1, 3)
        assert s.stat("sda").st_rdev == os.makedev(8, 0)
        for name in kinds:
            if name != "link":
                s.setattr(name, gid=44)
                assert owner(s, name)[1] == 44
    assert stat.S_ISREG((s.upper / "null").lstat().st_mode)
    assert os.getxattr(s.upper / "null", CONTAINERS) == b"0:44:0666:char-1-3"


@pytest.mark.root
@pytest.mark.parametrize("option", [1, 2])
def test_no_mode_is_given_to_what_a_symlink_points_to(stack: Stacks, tmp_path: Path, option: int) -> None:
    """chmod(2) follows a symlink: one that was made or copied up gave its own 0777 to a file outside of the layers."""
    outside = tmp_path / "outside"
    outside.write_text("x")
    outside.chmod(0o600)
    s = stack({"low": symlink(str(outside))}, xattr_permissions=option)
    s.symlink("new", str(outside))
    s.setattr("low", uid=7, gid=7)
    for name in ("new", "low"):
        with pytest.raises(OSError, match=r".") as caught:
            s.setattr(name, mode=0o666)
        assert caught.value.errno == errno.EOPNOTSUPP
    assert stat.S_IMODE(outside.stat().st_mode) == 0o600


@pytest.mark.root
@pytest.mark.parametrize("text", [b"junk", b"0:0:755:dir", b"0:0:777:symlink"])
def test_an_attribute_that_cannot_be_is_an_error_and_not_the_real_mode(stack: Stacks, text: bytes) -> None:
    s = stack({}, upper={"f": overridden(text, "x"), "g": "y"}, xattr_permissions=2)
    with pytest.raises(BadMark):
        s.stat("f")
    assert s.names() == ["f", "g"]
    assert s.read("g") == b"y"


@pytest.mark.root
def test_set_id_bits_are_dropped_where_they_are_kept(stack: Stacks) -> None:
    s = stack({}, xattr_permissions=2)
    for act in ("chown", "write", "truncate"):
        fh = s.create(act, mode=0o6755)
        s.union.setxattr(s.id(act), b"security.capability", CAPABILITY)
        if act == "chown":
            s.setattr(act, uid=5)
        elif act == "write":
            s.union.write(fh, b"x", 0, kill_priv=True)
        else:
            s.union.setattr(s.id(act), Changes(size=0, kill_priv=True), fh)
        assert stat.S_IMODE(s.stat(act).st_mode) == 0o755
        assert s.union.listxattr(s.id(act)) == []
    s.mkdir("d", 0o2755)
    s.setattr("d", uid=5)
    assert stat.S_IMODE(s.stat("d").st_mode) == 0o2755


@pytest.mark.root
def test_a_set_group_id_directory_hands_down_the_group_that_it_shows(stack: Stacks) -> None:
    s = stack({"low": {}}, xattr_permissions=2)
    s.mkdir("d", 0o755, ROOT)
    s.setattr("d", gid=77, mode=0o2775)
    s.create("d/f", caller=Caller(3, 4))
    s.mkdir("d/sub", caller=Caller(3, 4))
    assert owner(s, "d/f") == owner(s, "d/sub") == (3, 77)
    assert s.stat("d/sub").st_mode & stat.S_ISGID


@pytest.mark.root
def test_files_without_a_name_keep_theirs_too(stack: Stacks) -> None:
    s = stack({"f": owned(5, 6, 0o4755)}, xattr_permissions=2)
    node = s.id("f")
    fh = s.open("f")
    s.unlink("f")
    found = s.union.setattr(node, Changes(gid=9))[1]
    assert (found.st_uid, found.st_gid, found.st_nlink, stat.S_IMODE(found.st_mode)) == (5, 9, 0, 0o755)
    assert s.content(fh) == b"data"
    node_2, found, fh = s.union.tmpfile(1, 0o4700, os.O_RDWR, Caller(3, 4))
    s.seen(node_2)
    s.opened(fh)
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (3, 0o4700)
    s.seen(s.union.link(node_2.nodeid, 1, b"named")[0])
    assert owner(s, "named") == (3, 4)


@pytest.mark.root
def test_what_is_of_security_is_kept_under_another_name(stack: Stacks) -> None:
    """So that the owner of the upper layer, who may set none himself, can keep his users'."""
    value = CAPABILITY

    def make(path: Path) -> None:
        path.write_bytes(b"x")
        os.setxattr(path, "security.capability", value)

    s = stack({"f": make, "g": make}, xattr_permissions=2)
    name, kept = b"security.capability", "user.containers.override_security.capability"
    assert s.union.getxattr(s.id("f"), name) == value
    assert s.union.listxattr(s.id("f")) == [name]
    s.union.removexattr(s.id("g"), name)
    assert s.union.listxattr(s.id("g")) == []
    s.setattr("f", mtime_ns=1)
    s.create("new")
    s.union.setxattr(s.id("new"), name, value)
    for path in ("f", "new"):
        assert {CONTAINERS, kept} == {name for name in os.listxattr(s.upper / path) if "overlay." not in name}
        assert s.union.getxattr(s.id(path), name) == value
        assert s.union.listxattr(s.id(path)) == [name]
    s.union.removexattr(s.id("new"), name)
    assert s.union.listxattr(s.id("new")) == []
    s.setattr("f", uid=5)
    assert s.union.listxattr(s.id("f")) == []
    with pytest.raises(OSError, match=r"."):
        s.union.setxattr(s.id("new"), kept.encode(), value)


@pytest.mark.root
def test_a_capability_that_the_upper_layer_has_itself_is_neither_shown_nor_touched(stack: Stacks) -> None:
    """Nobody has set it through a union of the kind; an ordinary user, whose upper it is, could not remove it."""

    def make(path: Path) -> None:
        path.write_bytes(b"x")
        os.setxattr(path, "security.capability", CAPABILITY)

    s = stack({}, upper={"f": make}, xattr_permissions=2)
    name, kept = b"security.capability", "user.containers.override_security.capability"
    assert s.union.listxattr(s.id("f")) == []
    with pytest.raises(OSError, match="No data"):
        s.union.getxattr(s.id("f"), name)
    s.union.setxattr(s.id("f"), name, CAPABILITY[:-1] + b"\1")
    assert s.union.getxattr(s.id("f"), name) == CAPABILITY[:-1] + b"\1"
    s.setattr("f", gid=5)
    assert s.union.listxattr(s.id("f")) == []
    assert kept not in os.listxattr(s.upper / "f")
    assert os.getxattr(s.upper / "f", name) == CAPABILITY


@pytest.mark.root
def test_maps_apply_to_what_the_attribute_says(stack: Stacks) -> None:
    s = stack({}, upper={"f": overridden(b"100005:200006:0600:file", "x")}, xattr_permissions=2, **MAP)
    assert owner(s, "f") == (5, 6)
    s.setattr("f", uid=9)
    assert os.getxattr(s.upper / "f", CONTAINERS) == b"100009:200006:0600:file"


def test_a_union_that_needs_none_of_it_has_none(stack: Stacks) -> None:
    s = stack({"f": "x"})
    assert [layer.owners for layer in s.union._state.layers] == [None, None]
    s.union.setxattr(s.id("f"), CONTAINERS.encode(), b"0:0:4755:file")
    assert s.union.getxattr(s.id("f"), CONTAINERS.encode()) == b"0:0:4755:file"
    assert s.stat("f").st_uid == os.geteuid()
