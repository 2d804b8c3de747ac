"""Hostile archives: each is refused, or contained; nothing is ever written outside, or changed there.

The layer is unpacked beside a directory with a file in it; afterwards that directory must be as it was,
with its times, and nothing else may have appeared above the layer.
"""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import stat
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from msgspec.structs import replace

from tests.oci.archives import (
    Layers,
    Made,
    archive_of,
    device,
    directory,
    fifo,
    file,
    hard_link,
    info_of,
    names,
    scanned,
    symlink,
    unpacked,
)
from unionfs.errors import ConfigError, ImageError
from unionfs.linux.remove import remove
from unionfs.oci.form import UserForm
from unionfs.oci.plan import Planner
from unionfs.oci.tarstream import TarReader
from unionfs.oci.unpack import LIMIT_VARIABLE, Limits, read_index

UP = "../outside/secret"
XATTR = "SCHILY.xattr."
MARKS = {f"{XATTR}user.{name}.override_stat": "0:0:0104755" for name in ("containers", "fuseoverlayfs")}
OPAQUE_MARKS = {f"{XATTR}{space}.overlay.opaque": "y" for space in ("trusted", "user")}


def file_like(made: Made, **records: str) -> Made:
    """Return a member with pax records of its own."""
    made[0].pax_headers = records
    return made


REFUSED: dict[str, tuple[list[Made], str]] = {
    "a path upwards": ([file(UP, b"x")], "leads out"),
    "a path upwards from below": ([directory("a"), file("a/../../outside/secret", b"x")], "leads out"),
    "a path of dots alone": ([directory("..", mode=0o777)], "leads out"),
    "a hard link upwards": ([hard_link("a", UP)], "leads out"),
    "a hard link to an absolute file": ([hard_link("a", "/etc/passwd")], "no file of the image"),
    "a hard link through a symlink": ([symlink("l", "../outside"), hard_link("a", "l/secret")], "no file of the image"),
    "a hard link to a directory": ([directory("d"), hard_link("a", "d")], "no file of the image"),
    "a hard link to the root": ([hard_link("a", ".")], "to the root"),
    "a hard link that replaces its own parent": ([directory("d"), file("d/f"), hard_link("d", "d/f")], "lies in"),
    "a root that is a symlink": ([symlink(".", "../outside"), file("secret", b"x")], "root is a symlink"),
    "a root that is a file": ([file(".", b"x")], "root is a file"),
    "a file under a file": ([file("f"), file("f/g")], "puts files under it"),
    "a file under a device": ([fifo("p"), file("p/g")], "puts files under it"),
    "a whiteout of nothing": ([file(".wh.")], "hides no name"),
    "a whiteout of the directory itself": ([directory("d"), file("d/.wh..")], "hides no name"),
    "a whiteout of the parent": ([directory("d"), file("d/.wh...")], "hides no name"),
    "a directory called like a whiteout": ([directory("d"), file(".wh.d/f")], "can be called that"),
    "a loop of symlinks": ([symlink("a", "b"), symlink("b", "a"), file("a/f")], "too many symlinks"),
    "a symlink to itself": ([symlink("a", "a"), file("a/f")], "too many symlinks"),
    "a symlink to nothing": ([symlink("a", "")], "points nowhere"),
    "a NUL in a path": ([file("a", pax_headers={"path": "a\0b"})], "not one that a file can have"),
    "a path without end": ([file("d/" * 3000 + "f")], "not one that a file can have"),
    "a name without end": ([file("n" * 256)], "not one that a file can have"),
    "a user that cannot be": ([file("f", uid=2**32 - 1)], "no user or group"),
    "a negative group": ([file("f", pax_headers={"gid": "-1"})], "no user or group"),
    "a device that cannot be": ([device("d", 5000, 1)], "no kernel has"),
    "a hard link to a whiteout": ([file(".wh.x"), hard_link("h", ".wh.x")], "no file of the image"),
    "a hard link to a NUL": ([file("f"), file_like(hard_link("h", "f"), linkpath="f\0x")], "not one that a file can"),
    "a symlink to a NUL": ([file_like(symlink("l", "f"), linkpath="f\0x")], "points nowhere"),
    "a file through a symlink to a whiteout": ([symlink("l", ".wh.x"), file("l/f")], "can be called that"),
    "a GNU long name upwards": ([file("../" * 60 + "outside/secret", b"x")], "leads out"),
    "a time beyond all": ([file("f", pax_headers={"mtime": "9" * 15})], "which no file can have"),
    "a time before all": ([file("f", pax_headers={"mtime": "-" + "9" * 15})], "which no file can have"),
    "an attribute of a NUL": ([file("f", pax_headers={f"{XATTR}user.a\0": "x"})], "which no file can have"),
    "an attribute without a name": ([file("f", pax_headers={XATTR: "x"})], "which no file can have"),
    "an attribute of a long name": ([file("f", pax_headers={f"{XATTR}user.{'a' * 255}": "x"})], "which no file can"),
    "an attribute without end": ([file("f", pax_headers={f"{XATTR}user.a": "x" * 65537})], "which no file can have"),
    "an attribute of no kind": ([file("f", pax_headers={f"{XATTR}foo.bar": "x"})], "cannot keep foo.bar"),
    "a capability that is none": (
        [file("f", pax_headers={f"{XATTR}security.capability": "x"})],
        "cannot keep security.capability",
    ),
    "an unknown type": ([(info_of("f", b"V"), b"")], "unknown type"),
}

CONTAINED: dict[str, tuple[list[Made], dict[str, str]]] = {
    "an absolute path": ([file("/outside/secret", b"x")], {"outside": "dir", "outside/secret": "file"}),
    "an absolute symlink, and a file through it": (
        [symlink("a", "/outside"), file("a/secret", b"x")],
        {"a": "symlink", "outside": "dir", "outside/secret": "file"},
    ),
    "a symlink upwards, and a file through it": (
        [symlink("a", "../../outside"), file("a/secret", b"x")],
        {"a": "symlink", "outside": "dir", "outside/secret": "file"},
    ),
    "a symlink upwards, and a directory on it": (
        [symlink("a", "../outside"), directory("a", mode=0o777)],
        {"a": "dir"},
    ),
    "a symlink upwards, and a file on it": ([symlink("a", UP), file("a", b"x")], {"a": "file"}),
    "a symlink upwards, and a hard link on it": (
        [file("f", b"x"), symlink("a", UP), hard_link("a", "f")],
        {"a": "file", "f": "hardlink"},
    ),
    "a hard link to a symlink upwards": (
        [symlink("a", UP), hard_link("b", "a")],
        {"a": "symlink", "b": "hardlink"},
    ),
    "a hard link to a symlink upwards, written to": (
        [symlink("a", UP), hard_link("b", "a"), file("b", b"x")],
        {"a": "symlink", "b": "file"},
    ),
    "a whiteout through a symlink upwards": (
        [symlink("a", "../outside"), file("a/.wh.secret")],
        {"a": "symlink"},
    ),
    "an opaque mark through a symlink upwards": (
        [symlink("a", "../outside"), file("a/.wh..wh..opq")],
        {"a": "symlink"},
    ),
    "a whiteout of an absent name": ([file(".wh.absent")], {}),
    "an opaque root": ([file(".wh..wh..opq"), file("f")], {"f": "file"}),
    "a chain of symlinks that climbs": (
        [symlink("a", ".."), symlink("b", "a/.."), symlink("c", "b/../outside"), file("c/secret", b"x")],
        {"a": "symlink", "b": "symlink", "c": "symlink", "outside": "dir", "outside/secret": "file"},
    ),
    "a hard link to itself": ([file("f", b"x"), hard_link("f", "f")], {"f": "file"}),
    "a hard link whose first name is replaced": (
        [file("a", b"x"), hard_link("b", "a"), symlink("a", UP), hard_link("c", "b"), file("b", b"y")],
        {"a": "symlink", "b": "file", "c": "file"},
    ),
    "an opaque mark and a directory, twice": (
        [directory("d"), file("d/.wh..wh..opq"), directory("d"), file("d/.wh..wh..opq"), file("d/x")],
        {"d": "dir", "d/x": "file"},
    ),
    "a hard link called like a whiteout": ([file("f"), hard_link(".wh.f", "f")], {"f": "file"}),
    "a name of no encoding": ([file("\udcff\udcfe")], {"\udcff\udcfe": "file"}),
    "a directory of a size": ([(info_of("d/", size=5), b"hello")], {"d": "dir"}),
    "marks of unions": (
        [file("f", pax_headers=MARKS), directory("d", pax_headers=OPAQUE_MARKS)],
        {"f": "file", "d": "dir"},
    ),
    "every entry twice": ([file("f"), file("f"), directory("d"), directory("d"), fifo("p"), fifo("p")],
                          {"f": "file", "d": "dir", "p": "fifo"}),
    "a directory emptied by a file, and filled again": (
        [directory("d"), symlink("d/l", "/outside"), file("d"), directory("d"), file("d/l/x")],
        {"d": "dir", "d/l": "dir", "d/l/x": "file"},
    ),
}  # fmt: skip


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"untouched")
    return tmp_path / "outside"


def state(top: Path) -> dict[str, tuple[int, ...]]:
    """Return all that a breakout could change, above and beside the layer."""
    watched = [top.parent, top, *top.iterdir(), *(top / "outside").iterdir()]
    result: dict[str, tuple[int, ...]] = {}
    for path in watched:
        st = path.lstat()
        result[str(path)] = (st.st_ino, st.st_mode, st.st_uid, st.st_nlink, st.st_mtime_ns, st.st_ctime_ns)
    result.pop(str(top / "layer"), None)
    return result


def attack(archive: bytes, outside: Path) -> dict[str, str]:
    """Unpack, and fail if anything outside has changed, or the index differs; returns what the layer holds."""
    top = outside.parent
    (top / "layer").mkdir()
    before = state(top)
    (top / "layer").rmdir()
    try:
        made = unpacked(archive, top / "layer")
        found = scanned(top / "layer")
        assert [replace(entry, digest=b"") for entry in made.entries] == found
        return names(found)
    finally:
        after = state(top)
        before[str(top)] = after[str(top)]  # the layer itself came and went here
        escaped = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        assert not escaped, "escaped from the layer"
        assert (outside / "secret").read_bytes() == b"untouched"


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, outside: Path) -> None:
    members, message = REFUSED[name]
    with pytest.raises(ImageError, match=message):
        attack(archive_of(*members), outside)


@pytest.mark.parametrize("name", CONTAINED)
def test_contained(name: str, outside: Path) -> None:
    members, expected = CONTAINED[name]
    assert attack(archive_of(*members), outside) == expected


@pytest.mark.parametrize(
    "made", [device("d", 1, 3), device("d", 8, 0, tarfile.BLKTYPE), fifo("d")], ids=["char", "block", "fifo"]
)
def test_devices_without_privilege_are_no_devices(outside: Path, made: Made) -> None:
    """Whoever unpacks: the form that an ordinary user writes asks for no privilege, and the view shows the device."""
    result = unpacked(archive_of(made), outside.parent / "layer", form=UserForm())
    st = (outside.parent / "layer/d").lstat()
    assert (stat.S_IFMT(st.st_mode), st.st_size, st.st_rdev) == (stat.S_IFREG, 0, 0)
    assert [entry.kind.value for entry in result.entries[1:]] == [
        {tarfile.CHRTYPE: "char", tarfile.BLKTYPE: "block", tarfile.FIFOTYPE: "fifo"}[made[0].type]
    ]


@pytest.mark.root
def test_devices_with_privilege_are_devices(outside: Path) -> None:
    assert attack(archive_of(device("null", 1, 3)), outside) == {"null": "char"}
    assert (outside.parent / "layer/null").lstat().st_rdev == os.makedev(1, 3)


def test_a_very_deep_tree_is_unpacked_and_removed(outside: Path) -> None:
    deep = "/".join("d" * 2000)
    found = attack(archive_of(file(deep[:3990] + "/f", b"x")), outside)
    assert len(found) == 1996
    fd = os.open(outside.parent, os.O_RDONLY)
    try:
        remove(fd, b"layer")
    finally:
        os.close(fd)
    assert sorted(p.name for p in outside.parent.iterdir()) == ["outside"]


@pytest.mark.slow
def test_a_hundred_thousand_entries(outside: Path) -> None:
    def header_of(number: int) -> bytes:
        header = bytearray(template)
        header[2:8] = b"%06d" % number
        header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 256)
        return bytes(header)

    template = info_of("d/000000").tobuf(tarfile.USTAR_FORMAT)
    archive = b"".join(map(header_of, range(100_000))) + bytes(1024)
    result = unpacked(archive, outside.parent / "layer")
    assert len(result.entries) == 100_002
    assert len(os.listdir(outside.parent / "layer/d")) == 100_000


def test_entries_that_replace_each_other_do_not_cost_more_each_time(outside: Path) -> None:
    once = [directory("d"), *(file(f"d/{number}") for number in range(50)), file("d")]

    def seconds(times: int) -> float:
        start = time.process_time()
        unpacked(archive_of(*once * times), outside.parent / f"layer{times}")
        return time.process_time() - start

    seconds(1)
    assert seconds(40) < 40 * max(seconds(4), 0.004)


LINKS: dict[str, Callable[[int], list[Made]]] = {
    "to one file": lambda number: [hard_link(f"l{number}", "f")],
    "each to the one before, which goes": lambda number: [
        hard_link(f"l{number}", f"l{number - 1}" if number else "f"), file(f"l{number - 1}" if number else "f"),
    ],
    "in place of directories": lambda number: [directory(f"l{number}"), hard_link(f"l{number}", "f")],
}  # fmt: skip


@pytest.mark.parametrize("kind", LINKS)
def test_hard_links_do_not_cost_more_each_time(kind: str) -> None:
    def seconds(times: int) -> float:
        members = [file("f"), *(member for number in range(times) for member in LINKS[kind](number))]
        reader = TarReader(io.BytesIO(archive_of(*members, form=tarfile.GNU_FORMAT)))
        start, planner = time.process_time(), Planner(None)
        for member in reader:
            planner.plan(member)
            planner.steps.clear()
        return time.process_time() - start

    few, many = (min(seconds(times) for _ in range(3)) for times in (1000, 8000))
    assert many < 16 * max(few, 0.004), "eight times as many take eight times as long, and not 64"


class TestBombs:
    """Archives that ask for more than they are."""

    def test_the_limit_is_the_users(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(LIMIT_VARIABLE, "3M")
        assert Limits.from_environment() == Limits(size=3 << 20)
        monkeypatch.setenv(LIMIT_VARIABLE, "much")
        with pytest.raises(ConfigError, match="much"):
            Limits.from_environment()

    def test_more_bytes_than_allowed(self, outside: Path) -> None:
        archive = archive_of(file("f", bytes(4 << 20)))
        with pytest.raises(ImageError, match="MiB"):
            unpacked(gzip.compress(archive), outside.parent / "layer", limits=Limits(size=1 << 20))

    def test_more_entries_than_allowed(self, outside: Path) -> None:
        with pytest.raises(ImageError, match="more than 10 entries"):
            unpacked(archive_of(file("a/" * 20 + "f")), outside.parent / "layer", limits=Limits(entries=10))

    def test_a_ratio_that_no_layer_has(self, outside: Path) -> None:
        archive = archive_of(file("f", b"x" * (32 << 20)))
        with pytest.raises(ImageError, match="compression bomb"):
            unpacked(gzip.compress(archive), outside.parent / "layer", limits=Limits(ratio_from=1 << 20))

    def test_zeros_are_no_bomb_and_fill_no_disk(self, outside: Path) -> None:
        """A database that was made at its full size, say: what we commit, we must unpack."""
        content = bytes(16 << 20) + b"x" + bytes(16 << 20)
        made = unpacked(
            gzip.compress(archive_of(file("f", content))),
            outside.parent / "layer",
            limits=Limits(ratio_from=1 << 20),
        )
        found = outside.parent / "layer/f"
        assert found.stat().st_blocks * 512 < 2 << 20
        assert found.read_bytes() == content
        assert made.entries[1].digest == hashlib.sha256(content).digest()

    def test_more_names_than_memory_should_hold(self, outside: Path) -> None:
        made = [symlink(f"{number}/{'n' * 200}", "t" * 200) for number in range(10)]
        with pytest.raises(ImageError, match="names and attributes"):
            unpacked(archive_of(*made), outside.parent / "layer", limits=Limits(names=3000))

    def test_what_is_copied_up_counts(self, outside: Path) -> None:
        """A layer of nothing but hard links can fill the disk with the files below it."""
        below = [file(f"f{number}", bytes(10_000)) for number in range(20)]
        lower = Layers((outside.parent / "lower", unpacked(archive_of(*below), outside.parent / "lower").entries))
        links = [hard_link(f"l{number}", f"f{number}") for number in range(20)]
        with pytest.raises(ImageError, match="more than"):
            unpacked(archive_of(*links), outside.parent / "layer", lower, Limits(size=100_000))

    def test_holes_count(self, outside: Path) -> None:
        records = {"GNU.sparse.map": "0,1", "GNU.sparse.realsize": str(1 << 50)}
        with pytest.raises(ImageError, match="more than"):
            unpacked(archive_of(file("f", b"x", pax_headers=records)), outside.parent / "layer")

    def test_the_end_is_read_too(self, outside: Path) -> None:
        archive = gzip.compress(archive_of(file("f")) + b"x" * (64 << 20))
        with pytest.raises(ImageError, match="compression bomb"):
            unpacked(archive, outside.parent / "layer", limits=Limits(ratio_from=1 << 20))


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("damage", ["cut", "flipped", "garbage after"])
def test_damaged_streams_are_refused(kind: str, damage: str, outside: Path) -> None:
    sound = PACKERS[kind](archive_of(file("f", os.urandom(5000))))
    half = len(sound) // 2
    damaged = {
        "cut": sound[:half],
        "flipped": sound[:half] + bytes([sound[half] ^ 0xFF]) + sound[half + 1 :],
        "garbage after": sound + b"garbage",
    }[damage]
    try:
        unpacked(damaged, outside.parent / "layer")
    except ImageError as error:
        assert "truncated or corrupt" in str(error) or "tar archive" in str(error) or "cut short" in str(error)  # noqa: PT017  or none
    else:
        assert damage == "garbage after"
        assert kind in {"bzip2", "xz"}


@pytest.mark.parametrize("kind", PACKERS)
def test_no_damage_to_a_stream_is_a_bug(kind: str) -> None:
    """Each byte changed in turn: whatever library reads it, what it raises is called by its name."""
    sound = PACKERS[kind](archive_of(file("f", b"some words " * 50)))
    refused = 0
    for at in range(len(sound)):
        damaged = sound[:at] + bytes([sound[at] ^ 0x5A]) + sound[at + 1 :]
        try:
            read_index(io.BytesIO(damaged), None, Limits())
        except ImageError:
            refused += 1
    assert refused > len(sound) // 2


def test_a_plain_archive_that_is_cut_short_is_refused(outside: Path) -> None:
    sound = archive_of(file("a", b"x" * 600), file("b"))
    for end in (100, 512, 600, 1200, 1536, 1700, 2048):
        with pytest.raises(ImageError, match="cut short"):
            unpacked(sound[:end], outside.parent / f"layer{end}")


def test_nothing_is_read_from_an_archive_that_is_no_archive(outside: Path) -> None:
    with pytest.raises(ImageError):
        attack(io.BytesIO(os.urandom(4096)).read(), outside)
