"""Mounts of the union's own: which directories are in one, with which attributes, and where there are none."""

import errno
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from unionfs.core import accesstimes
from unionfs.core.config import AccessTimes, Config
from unionfs.core.union import Union
from unionfs.linux import at, mount, ownmount
from unionfs.testing import disk

pytestmark = pytest.mark.root

RDONLY, NOATIME, NODIRATIME, RELATIME = 0x1, 0x400, 0x800, 0x1000
MS_BIND = 0x1000
FLAGS = RDONLY | NOATIME | NODIRATIME | RELATIME


def laid(base: Path, *lower: Path, times: AccessTimes, nodiratime: bool = False, read_only: bool = False) -> Config:
    upper, work = base / "upper", base / "work"
    for place in (upper, work, *lower):
        place.mkdir(parents=True, exist_ok=True)
    return Config(lower=lower, upper=upper, work=work, access_times=times, nodiratime=nodiratime, read_only=read_only)


def flags_of(config: Config) -> list[int]:
    """Return what the mounts say through which each directory is reached: upper, lowers, work."""
    with Union(config) as union:
        return [os.fstatvfs(fd).f_flag & FLAGS for fd in union.descriptors()]


@pytest.mark.parametrize(
    ("times", "flags"),
    [(AccessTimes.RELATIME, RELATIME), (AccessTimes.NOATIME, NOATIME), (AccessTimes.STRICTATIME, 0)],
)
def test_the_upper_layer_is_reached_as_asked_and_lower_ones_leave_no_trace(
    times: AccessTimes, flags: int, tmp_path: Path
) -> None:
    with disk.in_memory() as memory:
        lower = (tmp_path / "a", memory / "b", tmp_path / "deep" / "c", memory)
        config = laid(tmp_path, *lower, times=times)
        assert flags_of(config) == [flags, *[RDONLY | NOATIME] * 4, flags]
        config = laid(tmp_path, *lower, times=times, nodiratime=True)
        assert flags_of(config) == [flags | NODIRATIME, *[RDONLY | NOATIME] * 4, flags | NODIRATIME]


def test_nothing_is_noted_in_the_upper_layer_of_a_union_that_cannot_change(tmp_path: Path) -> None:
    config = laid(tmp_path, tmp_path / "a", times=AccessTimes.STRICTATIME, read_only=True)
    assert flags_of(config) == [NOATIME, RDONLY | NOATIME, NOATIME]


def test_a_union_that_is_not_mounted_uses_the_mounts_that_are_there(tmp_path: Path) -> None:
    config = laid(tmp_path, tmp_path / "a", times=AccessTimes.LAYERS)
    there = {os.statvfs(path).f_flag & FLAGS for path in (tmp_path, tmp_path / "a")}
    assert set(flags_of(config)) == there
    with Union(config) as union:
        assert {at.mount_number(fd) for fd in union.descriptors()} == {_number(tmp_path)}


def _number(path: Path) -> int:
    fd = os.open(path, os.O_PATH)
    try:
        return at.mount_number(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS])
def test_where_we_may_not_mount_the_union_is_opened_all_the_same(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(directory: int, attributes: int) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(ownmount, "copied", refused)
    with Union(laid(tmp_path, tmp_path / "a", times=AccessTimes.NOATIME)) as union:
        assert {at.mount_number(fd) for fd in union.descriptors()} == {_number(tmp_path)}
        assert union.noting.elsewhere


def test_a_layer_that_is_renamed_meanwhile_is_the_one_that_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = laid(tmp_path, tmp_path / "a", tmp_path / "b", times=AccessTimes.NOATIME)
    (tmp_path / "a" / "opened").touch()
    real = ownmount.copied

    def swapped(directory: int, attributes: int) -> int:
        if (tmp_path / "a" / "opened").exists():
            (tmp_path / "a").rename(tmp_path / "elsewhere")
            (tmp_path / "a").mkdir()
        return real(directory, attributes)

    monkeypatch.setattr(ownmount, "copied", swapped)
    with Union(config) as union:
        assert union.lookup(1, b"opened")


def test_a_mount_that_covers_the_layers_meanwhile_is_not_copied_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may show the same directories, but with flags of its own."""
    config = laid(tmp_path, tmp_path / "a", tmp_path / "b", times=AccessTimes.NOATIME)
    before = os.statvfs(tmp_path).f_flag & FLAGS

    real = accesstimes._replace

    def covered(fds: Sequence[int], number: int, attributes: int) -> None:
        if _number(tmp_path) == number:
            mount.mount(str(tmp_path), str(tmp_path), "", MS_BIND, "")
        real(fds, number, attributes)

    monkeypatch.setattr(accesstimes, "_replace", covered)
    try:
        assert flags_of(config) == [before] * 4
    finally:
        mount.umount(str(tmp_path))


def test_reading_is_due_after_a_change_and_once_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = laid(tmp_path, tmp_path / "a", times=AccessTimes.RELATIME)
    file, now = tmp_path / "upper" / "f", time.time_ns()
    file.touch()
    with Union(config) as union:
        handle = union.open(union.lookup(1, b"f")[0].nodeid, os.O_RDONLY)
        due = []
        for accessed, later_s in ((now - 10**12, 0), (now + 10**12, 0), (now + 10**12, 86_400), (now + 10**12, 90_000)):
            os.utime(file, ns=(accessed, now - 2 * 10**12))
            monkeypatch.setattr(time, "time_ns", lambda later=later_s: now + later * 10**9)
            due.append(union.is_reading_noted(handle))
        assert due == [True, False, False, True]


def test_no_descriptor_is_left_whatever_becomes_of_the_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(os.listdir("/proc/self/fd"))
    config = laid(tmp_path, tmp_path / "a", tmp_path / "b", times=AccessTimes.RELATIME)
    flags_of(config)
    monkeypatch.setattr(at, "open_below", lambda tree, names: None)
    flags_of(config)
    with pytest.raises(OSError, match="Bad file descriptor"):
        ownmount.copied(-1, 0)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_copy_has_not_what_is_mounted_below(tmp_path: Path) -> None:
    with disk.in_memory() as memory:
        above = os.open(memory.parent, os.O_PATH)
        (memory / "file").touch()
        try:
            tree = ownmount.copied(above, ownmount.NOATIME)
        finally:
            os.close(above)
        try:
            assert at.find(tree, os.fsencode(memory.name))
            assert at.find(tree, os.fsencode(memory.name) + b"/file") is None
        finally:
            os.close(tree)


def test_what_is_mounted_in_a_layer_later_stays_out_of_it(tmp_path: Path) -> None:
    """Also where mounts are shared, as systemd makes them: what is mounted in one then appears in every copy."""
    with disk.in_memory() as memory:
        subprocess.run(["mount", "--make-shared", memory], check=True)
        (memory / "a" / "inside").mkdir(parents=True)
        (memory / "a" / "inside" / "file").touch()
        with Union(laid(tmp_path, memory / "a", times=AccessTimes.RELATIME)) as union:
            mount.mount("tmpfs", str(memory / "a" / "inside"), "tmpfs", 0, "")
            try:
                inside = at.open_directory(union.descriptors()[1], b"inside")
                assert os.listdir(inside) == ["file"]
                os.close(inside)
            finally:
                mount.umount(str(memory / "a" / "inside"))
