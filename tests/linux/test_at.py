"""A directory's descriptor and one name: symlinks are not followed, nothing blocks, errors keep their errno."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from unionfs.linux import at


@pytest.fixture
def here(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "inner").touch()
    (tmp_path / "to-file").symlink_to("file")
    (tmp_path / "to-dir").symlink_to("dir")
    os.mkfifo(tmp_path / "fifo")
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_what_is_not_there_is_none(here: int) -> None:
    assert at.find(here, b"none") is None
    assert not at.exists(here, b"none")
    with pytest.raises(FileNotFoundError):
        at.lstat(here, b"none")


def test_a_name_below_a_file_is_an_error_and_not_none(here: int) -> None:
    with pytest.raises(NotADirectoryError):
        at.find(here, b"file/x")


@pytest.mark.parametrize("name", [b"to-file", b"to-dir"])
def test_symlinks_are_seen_and_not_followed(here: int, name: bytes) -> None:
    found = at.find(here, name)
    assert found is not None
    assert stat.S_ISLNK(found.st_mode)
    assert at.exists(here, name)
    with pytest.raises(OSError, match=r".") as caught:
        at.open_file(here, name, os.O_RDONLY)
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(NotADirectoryError):
        at.open_directory(here, name)


def test_a_dangling_symlink_exists(here: int, tmp_path: Path) -> None:
    (tmp_path / "file").unlink()
    assert at.exists(here, b"to-file")


@pytest.mark.timeout(10)
def test_a_fifo_never_blocks(here: int) -> None:
    os.close(at.open_file(here, b"fifo", os.O_RDONLY))
    with pytest.raises(OSError, match=r".") as caught:
        at.open_file(here, b"fifo", os.O_WRONLY)
    assert caught.value.errno == errno.ENXIO
    with pytest.raises(NotADirectoryError):
        at.open_directory(here, b"fifo")


def test_a_directory_far_below_is_reached_however_long_its_path_is(here: int) -> None:
    names = [b"%d" % number + b"x" * 200 for number in range(50)]
    fd = os.dup(here)
    for name in names:
        os.mkdir(name, dir_fd=fd)
        fd, above = at.open_directory(fd, name), fd
        os.close(above)
    before = len(os.listdir("/proc/self/fd"))
    found = at.open_below(here, names)
    assert found is not None
    assert os.path.samestat(os.fstat(found), os.fstat(fd))
    assert not os.get_inheritable(found)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    assert at.open_below(here, [*names, b"none"]) is None
    assert len(os.listdir("/proc/self/fd")) == before + 1
    os.close(found)
    os.close(fd)


@pytest.mark.parametrize("way", [b"to-dir", b"../.", b"/", b"file", b"fifo", b"none", b"dir/inner"])
def test_no_other_way_leads_far_below(here: int, way: bytes, tmp_path: Path) -> None:
    (tmp_path / "dir" / "back").symlink_to("..")
    assert at.open_below(here, [way, b"dir"]) is None
    assert at.open_below(here, [b"dir", b"back", b"dir"]) is None
    itself = os.fsencode(tmp_path)
    assert at.open_below(here, [b"..", os.path.basename(itself), b"dir"]) is None
    assert at.open_below(here, [itself, b"dir"]) is None


def test_descriptors_are_not_inherited(here: int) -> None:
    for fd in (at.open_file(here, b"file", os.O_RDONLY), at.open_directory(here, b"dir"), at.open_path(here, b"dir")):
        assert not os.get_inheritable(fd)
        os.close(fd)


def test_a_scan_sees_all_but_the_dots(here: int) -> None:
    assert sorted(entry.name for entry in at.scan(here)) == ["dir", "fifo", "file", "to-dir", "to-file"]
    assert sorted(entry.name for entry in at.scan(here)) == ["dir", "fifo", "file", "to-dir", "to-file"]


def test_a_scan_of_a_big_directory_sees_all_of_it(tmp_path: Path) -> None:
    names = {f"f{number}" for number in range(2500)}
    for name in names:
        (tmp_path / name).touch()
    place = os.open(tmp_path, os.O_PATH)
    seen = [entry.name for entry in at.scan(place)]
    os.close(place)
    assert set(seen) == names
    assert len(seen) == len(names)


def test_a_mere_place_can_be_scanned(here: int) -> None:
    place = os.open(b"dir", os.O_PATH | os.O_DIRECTORY, dir_fd=here)
    assert [entry.name for entry in at.scan(place)] == ["inner"]
    os.close(place)


def test_a_place_spelled_as_a_path_is_that_file(here: int) -> None:
    assert os.stat(at.proc_path(here, b"file")).st_ino == at.lstat(here, b"file").st_ino
    assert os.lstat(at.proc_path(here, b"to-file")).st_ino == at.lstat(here, b"to-file").st_ino


@pytest.mark.parametrize(
    ("flags", "new", "code"),
    [
        (0, b"dir", errno.EISDIR),
        (at.RENAME_NOREPLACE, b"fifo", errno.EEXIST),
        (at.RENAME_EXCHANGE, b"none", errno.ENOENT),
        (at.RENAME_NOREPLACE | at.RENAME_EXCHANGE, b"fifo", errno.EINVAL),
    ],
)
def test_rename_keeps_the_errno(here: int, flags: int, new: bytes, code: int) -> None:
    with pytest.raises(OSError, match=r".") as caught:
        at.rename(here, b"file", here, new, flags)
    assert caught.value.errno == code


def test_rename_exchanges(here: int) -> None:
    at.rename(here, b"file", here, b"dir", at.RENAME_EXCHANGE)
    assert stat.S_ISDIR(at.lstat(here, b"file").st_mode)
    assert stat.S_ISREG(at.lstat(here, b"dir").st_mode)


def test_rename_leaves_a_whiteout(here: int) -> None:
    at.rename(here, b"file", here, b"moved", at.RENAME_WHITEOUT)
    left = at.lstat(here, b"file")
    assert stat.S_ISCHR(left.st_mode)
    assert left.st_rdev == 0


def test_a_nameless_file_gets_a_name(here: int, tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"data")
    at.link_descriptor(fd, here, b"named")
    os.close(fd)
    assert (tmp_path / "named").read_bytes() == b"data"
    with pytest.raises(OSError, match=r".") as caught:
        at.link_descriptor(here, here, b"named")
    assert caught.value.errno in {errno.EPERM, errno.EEXIST}
