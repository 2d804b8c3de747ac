"""A read-only mount: no request to open or close, and everything reads as it should."""

import errno
import json
import mmap
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounting import Stack

pytestmark = pytest.mark.fuse


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    result = Stack(tmp_path, engine="direct")
    (result.base / "small").write_bytes(b"content")
    (result.base / "large").write_bytes(os.urandom(3_000_001))
    for number in range(500):
        (result.base / "directory" / f"{number}").touch()
    done = result.run("mount", "--lower", result.top, "--lower", result.base, "--engine", "direct", result.merged)
    assert (done.returncode, done.stderr) == (0, "")
    yield result
    result.end()
    assert not re.search("ERROR|WARNING", result.logged())


def requests(stack: Stack) -> dict[str, int]:
    shown = json.loads(stack.run("mounts", "--stats", "--json", stack.merged).stdout)
    counts: dict[str, int] = shown[0]["stats"]["requests"]
    return counts


def read(path: Path) -> bytes:
    """Read without the questions that Python's own file objects ask."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 1 << 23)
    finally:
        os.close(fd)


def costs_no_request(stack: Stack, action: Callable[[], object]) -> bool:
    """Tell whether *action*, done before, can be done without a request; the kernel may drop its caches once."""
    for _ in range(3):
        action()
        before = requests(stack)
        action()
        if requests(stack) == before:
            return True
    return False


def test_a_warm_open_read_and_close_costs_no_request(stack: Stack) -> None:
    assert read(stack / "small") == b"content"
    assert costs_no_request(stack, lambda: read(stack / "small"))
    assert not costs_no_request(stack, lambda: os.statvfs(stack.merged))


def test_a_warm_listing_costs_no_request(stack: Stack) -> None:
    expected = {str(number) for number in range(500)}
    assert set(os.listdir(stack / "directory")) == expected
    assert costs_no_request(stack, lambda: os.listdir(stack / "directory"))


def test_large_files_read_and_map_as_they_are(stack: Stack) -> None:
    content = (stack.base / "large").read_bytes()
    assert (stack / "large").read_bytes() == content
    with (stack / "large").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        assert mapping[:] == content


def test_holes_are_found(stack: Stack) -> None:
    with (stack.base / "sparse").open("wb") as file:
        file.truncate(1 << 20)
        os.pwrite(file.fileno(), b"x", 1 << 19)
    fd = os.open(stack / "sparse", os.O_RDONLY)
    assert os.lseek(fd, 0, os.SEEK_DATA) == 1 << 19
    os.close(fd)


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_CREAT])
def test_nothing_opens_for_writing(stack: Stack, flags: int) -> None:
    with pytest.raises(OSError, match="Read-only") as caught:
        os.open(stack / "small", flags)
    assert caught.value.errno == errno.EROFS


def test_more_files_than_are_kept_open(stack: Stack) -> None:
    many = stack.base / "many"
    many.mkdir()
    for number in range(4200):
        (many / str(number)).write_text(str(number))
    for number in (*range(4200), *range(10)):
        assert read(stack / "many" / str(number)) == str(number).encode()
