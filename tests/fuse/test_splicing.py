"""A pipe stands for the device: what is sent is a whole reply or nothing."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from unionfs.fuse import wire
from unionfs.fuse.splicing import SMALLEST, Span, Splicer

CONTENT = bytes(range(256)) * 1024
UNIQUE = 7


@pytest.fixture
def device() -> Iterator[tuple[int, int]]:
    """Return the end that is read and the end that stands for the device."""
    ends = os.pipe()
    os.set_blocking(ends[0], False)
    yield ends
    for fd in ends:
        os.close(fd)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("offset", "size"), [(0, SMALLEST), (1, SMALLEST + 1), (4096, 50_000), (len(CONTENT) - 40_000, 60_000)]
)
def test_a_reply_is_its_header_and_what_the_file_has(
    device: tuple[int, int], file: int, offset: int, size: int
) -> None:
    splicer = Splicer(device[1])
    assert splicer.send(UNIQUE, Span(file, offset, size))
    expected = CONTENT[offset : offset + size]
    assert os.read(device[0], 1 << 20) == wire.reply(UNIQUE, expected)
    splicer.close()


@pytest.mark.parametrize(
    ("offset", "size"), [(0, SMALLEST - 1), (len(CONTENT) - 1, SMALLEST), (len(CONTENT) + 9, SMALLEST)]
)
def test_what_is_too_small_is_left_to_others(device: tuple[int, int], file: int, offset: int, size: int) -> None:
    splicer = Splicer(device[1])
    assert not splicer.send(UNIQUE, Span(file, offset, size))
    with pytest.raises(BlockingIOError):
        os.read(device[0], 1)
    splicer.close()


def test_a_file_that_cannot_be_spliced_leaves_the_pipe_empty(
    device: tuple[int, int], tmp_path: Path, file: int
) -> None:
    write_only = os.open(tmp_path / "file", os.O_WRONLY)
    splicer = Splicer(device[1])
    assert not splicer.send(UNIQUE, Span(write_only, 0, SMALLEST))
    assert splicer.send(UNIQUE, Span(file, 0, SMALLEST))
    assert os.read(device[0], 1 << 20) == wire.reply(UNIQUE, CONTENT[:SMALLEST])
    os.close(write_only)
    splicer.close()


def test_a_device_that_takes_nothing_leaves_the_pipe_empty(device: tuple[int, int], file: int) -> None:
    splicer = Splicer(device[0])  # not open for writing
    for _ in range(2):
        with pytest.raises(OSError, match="Bad file descriptor"):
            splicer.send(UNIQUE, Span(file, 0, SMALLEST))
    splicer.close()
