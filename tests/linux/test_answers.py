"""Whether mounts answer: those that do, those that cannot, and those that would keep us waiting."""

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from unionfs.linux.answers import answers
from unionfs.linux.mount import MNT_DETACH, flag_bits, mount, umount

pytestmark = [pytest.mark.root, pytest.mark.fuse]


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Return a FUSE mount of which nobody reads the requests, and its device's descriptor."""
    place = tmp_path / "silent"
    place.mkdir()
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    mount("silent", str(place), "fuse", flag_bits(["nosuid"]), f"fd={fd},rootmode=40000,user_id=0,group_id=0")
    yield str(place), fd
    umount(str(place), MNT_DETACH)
    os.close(fd)


def test_only_the_silent_one_is_given_up_after_the_time(silent: tuple[str, int], tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    started = time.monotonic()
    found = answers([silent[0], str(tmp_path), gone], 0.2)
    assert found == {silent[0]: None, str(tmp_path): 0, gone: errno.ENOENT}
    assert time.monotonic() - started < 60


def test_one_that_has_taken_the_request_and_sits_on_it_is_given_up_as_well(silent: tuple[str, int]) -> None:
    """No signal ends who waits for it."""
    place, fd = silent
    os.read(fd, 1 << 20)  # INIT, which is never answered: all others wait for it
    assert answers([place], 0.2) == {place: None}


def test_nobody_asked_is_no_answer() -> None:
    assert answers([], 10.0) == {}
