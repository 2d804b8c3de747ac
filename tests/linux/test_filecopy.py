"""Copying data: every byte, every hole, whatever the kernel refuses to do for us."""

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unionfs.linux import filecopy

MIB = 1 << 20


def copy(source: int, target: int, size: int) -> int:
    return filecopy.copy_data(source, target, size, (os.fstat(source).st_dev, os.fstat(target).st_dev))


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[int, int]]:
    fds = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC) for name in ("source", "target")]
    yield fds[0], fds[1]
    for fd in fds:
        os.close(fd)


def fill(fd: int, pieces: dict[int, bytes], size: int) -> None:
    os.ftruncate(fd, 0)
    os.ftruncate(fd, size)
    for offset, data in pieces.items():
        os.pwrite(fd, data[: max(0, size - offset)], offset)


def content(fd: int) -> bytes:
    return os.pread(fd, 64 * MIB, 0)


PIECES = st.dictionaries(st.integers(0, 40).map(lambda page: page * 4096), st.binary(min_size=1, max_size=9000))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PIECES, st.integers(0, 200_000), st.integers(0, 250_000), st.sampled_from(["all", "no clone", "by hand"]))
def test_the_target_reads_like_the_source(
    files: tuple[int, int], monkeypatch: pytest.MonkeyPatch, pieces: dict[int, bytes], size: int, cut: int, way: str
) -> None:
    source, target = files
    fill(source, pieces, size)
    os.ftruncate(target, 0)
    wanted = min(size, cut)
    with monkeypatch.context() as patch:
        if way != "all":
            patch.setattr(fcntl, "ioctl", refused(errno.EOPNOTSUPP))
        if way == "by hand":
            patch.setattr(os, "copy_file_range", refused(errno.EXDEV))
        copy(source, target, wanted)
    assert content(target) == content(source)[:wanted]


def refused(code: int) -> object:
    def call(*_args: object) -> None:
        raise OSError(code, os.strerror(code))

    return call


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_an_error_is_not_taken_for_a_refusal(
    files: tuple[int, int], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    source, target = files
    fill(source, {0: b"x" * 10}, 10)
    monkeypatch.setattr(os, "copy_file_range", refused(code))
    with pytest.raises(OSError, match=r".") as caught:
        copy(source, target, 10)
    assert caught.value.errno == code


def test_holes_are_skipped_and_kept(files: tuple[int, int]) -> None:
    source, target = files
    fill(source, {0: b"a" * 4096, 8 * MIB: b"b" * 4096}, 16 * MIB)
    ranges = list(filecopy.data_ranges(source, 16 * MIB))
    assert ranges[0][0] == 0
    assert ranges[-1][0] <= 8 * MIB < ranges[-1][1] <= 16 * MIB
    assert sum(end - start for start, end in ranges) < MIB
    copy(source, target, 16 * MIB)
    assert os.fstat(target).st_size == 16 * MIB
    assert os.fstat(target).st_blocks * 512 < MIB


def test_a_file_of_nothing_but_a_hole(files: tuple[int, int]) -> None:
    source, target = files
    os.ftruncate(source, 3 * MIB)
    assert list(filecopy.data_ranges(source, 3 * MIB)) == []
    assert copy(source, target, 3 * MIB) == 0
    assert os.fstat(target).st_size == 3 * MIB


def test_a_filesystem_that_does_not_know_its_holes(files: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    source, _ = files
    fill(source, {0: b"abc"}, 3)
    monkeypatch.setattr(os, "lseek", refused(errno.EINVAL))
    assert list(filecopy.data_ranges(source, 3)) == [(0, 3)]


def test_a_source_that_shrinks_meanwhile_ends_the_copy(files: tuple[int, int]) -> None:
    source, target = files
    fill(source, {0: b"abc"}, 3)
    copy(source, target, 3 * MIB)
    assert content(target)[:3] == b"abc"
