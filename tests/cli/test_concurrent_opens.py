"""A big copy-up while others work: one copy for all who need it, and nobody else waits for it."""

import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tests.mounting import Stack

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.slow]

SIZE = 192 << 20


@pytest.fixture
def big(stack: Stack) -> Path:
    """Return a file of the lower layer, as the mount shows it, whose copy takes a while."""
    with (stack.base / "big").open("wb") as file:
        for number in range(SIZE >> 20):
            file.write(bytes([number]) * (1 << 20))
    stack.mount("-o", "fsync=strict")
    return stack / "big"


def test_one_copy_for_all_openers_and_no_wait_for_others(stack: Stack, big: Path) -> None:
    written: list[int] = []

    def append(mark: bytes) -> None:
        with big.open("r+b") as file:
            file.seek(mark[0])
            written.append(file.write(mark))

    openers = [threading.Thread(target=append, args=(mark,)) for mark in (b"\x07", b"\x09", b"\x0b")]
    for opener in openers:
        opener.start()
    served = 0
    while all(opener.is_alive() for opener in openers):
        assert not (stack / f"nothing-{served}").exists()
        served += 1
    for opener in openers:
        opener.join()

    assert served > 1, "others waited for the copy"
    assert written == [1, 1, 1]
    copied = (stack.upper / "big").read_bytes()
    assert len(copied) == SIZE
    assert [copied[at] for at in (7, 9, 11)] == [7, 9, 11]
    assert copied[-1] == (SIZE >> 20) - 1
    assert (stack.base / "big").stat().st_size == SIZE
    assert os.listdir(stack.work / "work") == []
    counts = stack.run("mounts", "--stats", stack.merged).stdout
    assert "copy_ups 1," in counts
    assert stack.logged() == ""


def test_a_daemon_that_is_told_to_end_during_a_copy_leaves_the_file_old_or_new(stack: Stack, big: Path) -> None:
    def open_it() -> None:
        with suppress(OSError):  # the mount may go away under it
            big.open("r+b").close()

    pid = stack.pid
    opener = threading.Thread(target=open_it)
    opener.start()
    os.kill(pid, 15)
    opener.join()
    stack.end()
    stack.run("umount", stack.merged)
    stack.mount()
    assert big.stat().st_size == SIZE
    assert big.read_bytes()[-1] == (SIZE >> 20) - 1
    assert os.listdir(stack.work / "work") == []
