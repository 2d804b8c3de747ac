"""A layer's archive becomes a directory that overlay filesystems stack; the tests read like layer.md."""

import errno
import gzip
import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.oci.archives import (
    Layers,
    archive_of,
    device,
    directory,
    fifo,
    file,
    hard_link,
    names,
    opened,
    packed,
    scanned,
    symlink,
    unpacked,
)
from unionfs.core.ondisk import USER
from unionfs.errors import ImageError
from unionfs.oci.digest import Digest, DigestMismatch
from unionfs.oci.entry import Entry, Kind
from unionfs.oci.form import UserForm, form_here
from unionfs.oci.scan import scan
from unionfs.oci.unpack import Limits, unpack

LOWER = (
    Entry(path=b"", kind=Kind.DIR, mode=0o755),
    Entry(path=b"d", kind=Kind.DIR, mode=0o2751, uid=7, gid=8, mtime_ns=123456789),
    Entry(path=b"d/f", kind=Kind.FILE, mode=0o640, uid=7, gid=8, mtime_ns=5, size=5),
    Entry(path=b"lib", kind=Kind.SYMLINK, link=b"usr/lib"),
    Entry(path=b"usr", kind=Kind.DIR, mode=0o700),
    Entry(path=b"usr/lib", kind=Kind.DIR, mode=0o711),
)


@pytest.fixture
def lower(tmp_path: Path) -> Layers:
    below = tmp_path / "below"
    (below / "d").mkdir(parents=True)
    (below / "d/f").write_bytes(b"below")
    return Layers((below, LOWER))


def layer(tmp_path: Path, lower: Layers | None, *members: Any) -> dict[str, str]:
    """Return what is on disk after unpacking, which must be what the index says."""
    result = unpacked(archive_of(*members), tmp_path / "layer", lower)
    on_disk = names(scanned(tmp_path / "layer"))
    assert names(result.entries) == on_disk
    return on_disk


def test_a_whiteout_hides_what_is_below(tmp_path: Path, lower: Layers) -> None:
    assert layer(tmp_path, lower, file("d/.wh.f")) == {"d": "dir", "d/f": "whiteout"}
    st = os.lstat(tmp_path / "layer/d/f")
    assert stat.S_ISCHR(st.st_mode)
    assert st.st_rdev == 0


@pytest.mark.parametrize(
    "members", [(file(".wh.d"), directory("d"), file("d/new")), (directory("d"), file("d/new"), file(".wh.d"))]
)
def test_a_whiteout_and_a_directory_make_an_opaque_directory(tmp_path: Path, lower: Layers, members: Any) -> None:
    assert layer(tmp_path, lower, *members) == {"d": "DIR", "d/new": "file"}


@pytest.mark.parametrize("members", [(file(".wh.x"), file("x")), (file("x"), file(".wh.x"))])
def test_a_whiteout_never_hides_its_own_layer(tmp_path: Path, lower: Layers, members: Any) -> None:
    assert layer(tmp_path, lower, *members) == {"x": "file"}


@pytest.mark.parametrize("last", [True, False])
def test_an_opaque_mark_works_wherever_it_stands(tmp_path: Path, lower: Layers, last: bool) -> None:
    mark, rest = [file("d/.wh..wh..opq")], [directory("d"), file("d/new")]
    assert layer(tmp_path, lower, *(rest + mark if last else mark + rest)) == {"d": "DIR", "d/new": "file"}


def test_whiteouts_in_an_opaque_directory_are_needless(tmp_path: Path, lower: Layers) -> None:
    members = [file("d/.wh.f"), file("d/.wh..wh..opq"), file("d/.wh.g")]
    assert layer(tmp_path, lower, *members) == {"d": "DIR"}


def test_a_whiteout_below_a_whiteout_is_ignored(tmp_path: Path, lower: Layers) -> None:
    assert layer(tmp_path, lower, file(".wh.d"), file("d/.wh.f")) == {"d": "whiteout"}


def test_a_whiteout_in_a_directory_that_is_nowhere_makes_none(tmp_path: Path, lower: Layers) -> None:
    assert layer(tmp_path, lower, file("nowhere/.wh.f"), file("nowhere/.wh..wh..opq")) == {}


def test_the_bottom_layer_hides_nothing(tmp_path: Path) -> None:
    assert layer(tmp_path, None, file(".wh.x"), directory("d"), file("d/.wh..wh..opq")) == {"d": "dir"}


def test_the_book_keeping_of_aufs_is_skipped(tmp_path: Path, lower: Layers) -> None:
    members = [directory(".wh..wh.plnk"), file(".wh..wh.plnk/1.2"), file(".wh..wh.aufs")]
    assert layer(tmp_path, lower, *members) == {}


def test_a_kernel_whiteout_in_an_archive_is_a_whiteout(tmp_path: Path, lower: Layers) -> None:
    assert layer(tmp_path, lower, device("d/f", 0, 0)) == {"d": "dir", "d/f": "whiteout"}


def test_a_parent_nobody_mentions_is_as_it_is_below(tmp_path: Path, lower: Layers) -> None:
    unpacked(archive_of(file("d/new")), tmp_path / "layer", lower)
    (entry,) = (e for e in scanned(tmp_path / "layer") if e.path == b"d")
    assert (entry.mode, entry.uid, entry.gid, entry.mtime_ns) == (0o2751, 7, 8, 123456789)


def test_a_parent_that_is_a_symlink_below_is_followed(tmp_path: Path, lower: Layers) -> None:
    assert layer(tmp_path, lower, file("lib/new")) == {"usr": "dir", "usr/lib": "dir", "usr/lib/new": "file"}


def test_a_directory_entry_replaces_a_symlink_below(tmp_path: Path, lower: Layers) -> None:
    assert layer(tmp_path, lower, directory("lib"), file("lib/new")) == {"lib": "dir", "lib/new": "file"}


def test_a_parent_that_is_a_symlink_of_this_layer_is_followed(tmp_path: Path) -> None:
    members = [directory("real"), symlink("a", "/real"), symlink("b", "../../a"), file("b/f", b"1")]
    assert layer(tmp_path, None, *members) == {"real": "dir", "real/f": "file", "a": "symlink", "b": "symlink"}


def test_a_hard_link_to_a_file_below_copies_it_up(tmp_path: Path, lower: Layers) -> None:
    assert layer(tmp_path, lower, hard_link("x", "d/f")) == {"d": "dir", "d/f": "file", "x": "hardlink"}
    assert (tmp_path / "layer/x").read_bytes() == b"below"
    assert os.lstat(tmp_path / "layer/x").st_ino == os.lstat(tmp_path / "layer/d/f").st_ino


def test_a_hard_link_to_what_this_layer_deletes_is_refused(tmp_path: Path, lower: Layers) -> None:
    with pytest.raises(ImageError, match="no file of the image"):
        layer(tmp_path, lower, file("d/.wh.f"), hard_link("x", "d/f"))


def test_later_entries_replace_earlier_ones(tmp_path: Path) -> None:
    members = [
        directory("a", mode=0o700), file("a/kept"), directory("a", mode=0o711),
        directory("b"), file("b/lost"), file("b", b"now a file"),
        file("c", b"now a directory"), directory("c"), file("c/x"),
        file("d", b"1"), file("d", b"22"),
        symlink("e", "nowhere"), file("e", b"no longer a symlink"),
    ]  # fmt: skip
    found = layer(tmp_path, None, *members)
    assert found == {
        "a": "dir", "a/kept": "file", "b": "file", "c": "dir", "c/x": "file", "d": "file", "e": "file",
    }  # fmt: skip
    assert os.stat(tmp_path / "layer/d").st_size == 2


def test_directories_keep_their_times(tmp_path: Path) -> None:
    unpacked(
        archive_of(directory("d", mtime=1000), file("d/f", mtime=2000), directory(".", mtime=500)), tmp_path / "layer"
    )
    assert {e.path: e.mtime_ns // 10**9 for e in scanned(tmp_path / "layer")} == {b"": 500, b"d": 1000, b"d/f": 2000}


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, zstandard.compress, lambda raw: gzip.compress(raw[:700]) + gzip.compress(raw[700:])]
)
def test_every_compression_is_recognised(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    archive = archive_of(file("f", b"x" * 1000))
    result = unpacked(pack(archive), tmp_path / "layer")
    assert result.diff_id == Digest.of(archive)
    assert (tmp_path / "layer/f").read_bytes() == b"x" * 1000


def everything() -> bytes:
    """Return a layer that holds whatever a layer can hold."""
    records = {"mtime": "1700000000.123456789", "SCHILY.xattr.user.note": "v\udcff"}
    capability = "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    return archive_of(
        directory("bin", mode=0o1777, uid=3, gid=4, mtime=77),
        file("bin/ping", b"x" * 100, mode=0o755, pax_headers={"SCHILY.xattr.security.capability": capability}),
        file("bin/su", b"y", mode=0o6711, uid=0, gid=5),
        file("f", b"content", mode=0o604, uid=1000, gid=1001, pax_headers=records),
        hard_link("g", "f"),
        symlink("l", "../no/where", uid=9, gid=9, mtime=5),
        device("null", 1, 3),
        device("sda", 8, 0, tarfile.BLKTYPE),
        fifo("pipe"),
        file("unreadable", b"z", mode=0),
        file("name\udcff", b""),
    )


@pytest.mark.root
def test_everything_survives_as_root(tmp_path: Path) -> None:
    result = unpacked(everything(), tmp_path / "a")
    assert result.notes == ()
    again = packed(tmp_path / "a")
    unpacked(again, tmp_path / "b")
    assert scanned(tmp_path / "a") == scanned(tmp_path / "b")
    assert packed(tmp_path / "b") == again
    by_path = {e.path: e for e in scanned(tmp_path / "b")}
    assert by_path[b"bin/su"].mode == 0o6711
    assert os.getxattr(tmp_path / "b/bin/ping", "security.capability").startswith(b"\1\0\0\2")
    assert (by_path[b"f"].mtime_ns, by_path[b"f"].xattrs) == (1700000000123456789, (("user.note", b"v\xff"),))
    assert (by_path[b"null"].rdev, by_path[b"sda"].kind) == (os.makedev(1, 3), Kind.BLOCK)
    assert (by_path[b"l"].uid, by_path[b"l"].mtime_ns) == (9, 5 * 10**9)


@pytest.mark.xattrs
def test_everything_survives_as_a_user(tmp_path: Path) -> None:
    """The same layer, with everything that needs root kept in attributes; only a symlink's owner is lost."""
    result = unpacked(everything(), tmp_path / "a", form=UserForm())
    by_path = {e.path: e for e in result.entries}
    with opened(tmp_path / "a") as fd:
        seen = {e.path: e for e, _ in scan(fd, (USER,))}
    for path, entry in by_path.items():
        if path and entry.kind is not Kind.SYMLINK:
            assert seen[path].uid == entry.uid
            assert (seen[path].kind, seen[path].mode, seen[path].rdev) == (entry.kind, entry.mode, entry.rdev)
            assert (seen[path].xattrs, seen[path].mtime_ns) == (entry.xattrs, entry.mtime_ns)
    st = os.lstat(tmp_path / "a/null")
    assert (stat.S_ISREG(st.st_mode), st.st_mode & 0o600, st.st_uid) == (True, 0o600, os.geteuid())


def test_marks_of_other_unions_are_left_out(tmp_path: Path) -> None:
    records = {f"SCHILY.xattr.{name}": "y" for name in ("user.fuseoverlayfs.opaque", "user.containers.override_stat")}
    result = unpacked(archive_of((directory("d", pax_headers=records)[0], b"")), tmp_path / "a")
    assert len(result.notes) == 2
    assert not [e for e in scanned(tmp_path / "a") if e.opaque or e.xattrs]


@pytest.mark.root
def test_marks_of_a_nested_union_are_content(tmp_path: Path) -> None:
    records = {"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.trusted.overlay.redirect": "/../.."}
    unpacked(archive_of(directory("d", pax_headers=records)), tmp_path / "a")
    (entry,) = (e for e in scanned(tmp_path / "a") if e.path == b"d")
    assert not entry.opaque
    assert dict(entry.xattrs) == {"trusted.overlay.opaque": b"y", "trusted.overlay.redirect": b"/../.."}
    assert b"SCHILY.xattr.trusted.overlay.opaque=y" in packed(tmp_path / "a")


def test_a_layer_that_is_not_the_promised_one_is_refused(tmp_path: Path) -> None:
    archive = archive_of(file("f"))
    tmp_path.joinpath("a").mkdir()
    with opened(tmp_path / "a") as fd, pytest.raises(DigestMismatch):
        unpack(io.BytesIO(archive), fd, form_here(fd), lower=None, expected=Digest.of(b""), limits=Limits())


def test_packing_is_reproducible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, order in (("a", ["x", "y", "z"]), ("b", ["z", "x", "y"])):
        (tmp_path / name / "d").mkdir(parents=True)
        for at, inner in enumerate(order):
            (tmp_path / name / "d" / inner).write_bytes(inner.encode())
            os.utime(tmp_path / name / "d" / inner, (at, 10**9 + at))
        os.utime(tmp_path / name / "d", (1, 1))
        os.utime(tmp_path / name, (1, 1))
    assert packed(tmp_path / "a") != packed(tmp_path / "b")
    assert packed(tmp_path / "a", newest_ns=10**15) == packed(tmp_path / "b", newest_ns=10**15)


def test_an_archive_has_whiteouts_first_and_nothing_of_the_host(tmp_path: Path, lower: Layers) -> None:
    unpacked(
        archive_of(file("d/a"), file("d/.wh.f"), file(".wh.z"), directory("e"), file("e/.wh..wh..opq")),
        tmp_path / "l",
        lower,
    )
    with tarfile.open(fileobj=io.BytesIO(packed(tmp_path / "l"))) as tar:
        members = tar.getmembers()
    wanted = [".", ".wh.z", "d", "d/.wh.f", "d/a", "e", "e/.wh..wh..opq"]
    assert [m.name for m in members] == wanted
    assert {(m.uname, m.gname) for m in members} == {("", "")}


@pytest.mark.parametrize("failing", ["write", "chmod", "utime", "mkdir"])
def test_a_full_disk_is_reported_with_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    name = {"chmod": "fchmod"}.get(failing, failing)
    (tmp_path / "layer").mkdir()
    with opened(tmp_path / "layer") as fd:
        form = form_here(fd)
        monkeypatch.setattr(os, name, full)
        with pytest.raises(OSError, match="No space left"):
            unpack(
                io.BytesIO(archive_of(directory("d"), file("d/f", b"x"))),
                fd, form, lower=None, expected=None, limits=Limits(),
            )  # fmt: skip
