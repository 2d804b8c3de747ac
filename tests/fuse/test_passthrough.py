"""Which opens are passed through, and that nobody can tell: old readers, mappings, many openers.

The rules and their reasons are in `unionfs.fuse.passthrough`.
"""

import json
import mmap
import os
import random
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounting import Stack

pytestmark = [pytest.mark.root, pytest.mark.fuse]

NOBODY = 65534
PAGE = mmap.PAGESIZE


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    result = Stack(tmp_path, engine="direct")
    (result.base / "low").write_bytes(b"l" * 3 * PAGE)
    result.mount()
    yield result
    result.end()
    assert not re.search("ERROR|WARNING", result.logged())


def requests(stack: Stack) -> dict[str, int]:
    """Return how many requests of each kind the daemon has seen."""
    shown = json.loads(stack.run("mounts", "--stats", "--json", stack.merged).stdout)
    counts: dict[str, int] = shown[0]["stats"]["requests"]
    return counts


def test_an_upper_file_is_read_and_written_without_us(stack: Stack) -> None:
    path = stack / "new"
    path.write_bytes(b"x" * 100_000)
    with path.open("r+b") as file:
        file.seek(50_000)
        file.write(b"y")
    assert path.read_bytes() == b"x" * 50_000 + b"y" + b"x" * 49_999
    assert not requests(stack).keys() & {"read", "write"}


def test_a_small_lower_file_is_read_without_a_read_request(stack: Stack) -> None:
    assert (stack / "low").read_bytes() == b"l" * 3 * PAGE
    assert "read" not in requests(stack)


def test_a_lower_file_whose_pages_are_there_is_not_opened_again(stack: Stack) -> None:
    def descriptors() -> int:
        return len(os.listdir(f"/proc/{pid}/fd"))

    pid = stack.pid
    with (stack / "low").open("rb") as file:
        file.read()
        before = descriptors()
        with (stack / "low").open("rb") as again:
            assert again.read() == b"l" * 3 * PAGE
            assert descriptors() == before


def test_a_large_lower_file_reads_as_it_is_in_any_order(stack: Stack) -> None:
    content = os.urandom(3_000_001)
    (stack.base / "directory" / "large").write_bytes(content)
    with (stack / "directory" / "large").open("rb", buffering=0) as file:
        for at in (2_900_000, 1, 70_000, 0):
            assert os.pread(file.fileno(), 200_000, at) == content[at : at + 200_000]
    assert (stack / "directory" / "large").read_bytes() == content


def test_who_had_a_lower_file_open_sees_what_is_written_later(stack: Stack) -> None:
    path = stack / "low"
    with path.open("rb", buffering=0) as before, path.open("r+b", buffering=0) as writer:
        assert before.read(1) == b"l"
        writer.write(b"new")
        with path.open("rb") as after:
            assert after.read(4) == b"newl"
        assert os.pread(before.fileno(), 4, 0) == b"newl"
        writer.seek(0, os.SEEK_END)
        writer.write(b"end")
        assert os.pread(before.fileno(), 9, 3 * PAGE) == b"end"
    assert (stack.upper / "low").read_bytes() == b"new" + b"l" * (3 * PAGE - 3) + b"end"
    assert (stack.base / "low").read_bytes() == b"l" * 3 * PAGE


def test_a_mapping_made_before_copy_up_shows_what_is_written_later(stack: Stack) -> None:
    path = stack / "low"
    with path.open("rb") as before, mmap.mmap(before.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as mapping:
        assert mapping[PAGE] == ord("l")
        with path.open("r+b", buffering=0) as writer:
            os.pwrite(writer.fileno(), b"n", PAGE)
        assert mapping[PAGE] == ord("n")
        with path.open("r+b", buffering=0) as writer:
            os.pwrite(writer.fileno(), b"N", 2 * PAGE)
        assert mapping[2 * PAGE] == ord("N")


def test_a_mapping_keeps_the_mode_after_its_file_is_closed(stack: Stack) -> None:
    path = stack / "low"
    with path.open("rb") as before:
        mapping = mmap.mmap(before.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)
    with mapping, path.open("r+b", buffering=0) as writer:
        os.pwrite(writer.fileno(), b"n", 0)
        assert mapping[0] == ord("n")


def test_a_writable_mapping_of_an_upper_file_is_seen_by_readers_and_in_its_times(stack: Stack) -> None:
    path = stack / "new"
    path.write_bytes(bytes(PAGE))
    os.utime(path, ns=(0, 0))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        assert path.stat().st_mtime_ns == 0
        mapping[0] = 7
        mapping.flush()
        assert path.read_bytes()[0] == 7
        assert path.stat().st_mtime_ns > 0
    assert (stack.upper / "new").stat().st_mtime_ns == path.stat().st_mtime_ns


def test_the_size_after_an_append_is_right_at_once(stack: Stack) -> None:
    path = stack / "new"
    path.write_bytes(b"12345")
    with path.open("ab", buffering=0) as first, path.open("ab", buffering=0) as second:
        first.write(b"6")
        second.write(b"78")
        first.write(b"9")
        assert path.stat().st_size == 9
    assert path.read_bytes() == b"123456789"


def test_after_the_last_cached_open_the_file_is_passed_through(stack: Stack) -> None:
    path = stack / "low"
    with path.open("rb", buffering=0) as before, path.open("r+b", buffering=0) as writer:
        writer.write(b"1")  # cached: a request
        assert before.read(1) == b"1"
    seen = requests(stack)["write"]
    with path.open("r+b", buffering=0) as writer:
        writer.write(b"2")  # passed through: none
    assert path.read_bytes()[:2] == b"2l"
    assert requests(stack)["write"] == seen == 1


def test_many_openers_of_one_file_agree(stack: Stack) -> None:
    """Readers and writers come and go, so that the inode changes its mode over and over; nobody gets an error."""
    path, errors = stack / "low", list[Exception]()
    size = 3 * PAGE

    def work(seed: int) -> None:
        chance = random.Random(seed)
        try:
            for _ in range(60):
                at, byte = chance.randrange(size), bytes([seed])
                if chance.random() < 0.5:
                    assert len(path.read_bytes()) == size
                    continue
                with path.open("r+b", buffering=0) as file:
                    os.pwrite(file.fileno(), byte, at)
                    assert len(os.pread(file.fileno(), size, 0)) == size
        except (OSError, AssertionError) as exc:
            errors.append(exc)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert path.read_bytes() == (stack.upper / "low").read_bytes()


def test_a_truncated_file_that_is_open_elsewhere_is_empty_there_too(stack: Stack) -> None:
    path = stack / "low"
    with path.open("rb", buffering=0) as before:
        assert before.read(1) == b"l"
        path.write_bytes(b"short")
        assert os.pread(before.fileno(), 100, 0) == b"short"


@pytest.mark.parametrize("set_id_first", [True, False])
@pytest.mark.parametrize("lent_to_root", [True, False])
def test_a_users_write_takes_the_set_id_bit_off(stack: Stack, *, set_id_first: bool, lent_to_root: bool) -> None:
    """Whether the bit was there at open or came while it was open, and whoever opened the file first."""
    path = stack / "program"
    path.write_bytes(b"old")
    path.chmod(0o4777 if set_id_first else 0o777)
    place = os.open(stack.merged, os.O_RDONLY)  # nobody may not walk there from the root
    roots = path.open("r+b") if lent_to_root else None
    users = in_child(lambda: os.open("program", os.O_WRONLY, dir_fd=place), lambda fd: os.write(fd, b"new"))
    next(users)
    path.chmod(0o4777)
    next(users)
    assert path.stat().st_mode & 0o7777 == 0o777
    assert path.read_bytes() == b"new"
    os.close(place)
    if roots is not None:
        roots.close()


def in_child(first: Callable[[], int], second: Callable[[int], object]) -> Iterator[None]:
    """Do two things as nobody, in one process; the caller goes on after each."""
    done_read, done_write = os.pipe()
    go_read, go_write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            result = first()
            os.write(done_write, b".")
            os.read(go_read, 1)
            second(result)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(done_write)
    assert os.read(done_read, 1) == b"."
    yield
    os.write(go_write, b".")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for fd in (done_read, go_read, go_write):
        os.close(fd)
    yield


def test_a_write_by_root_leaves_the_set_id_bit(stack: Stack) -> None:
    path = stack / "program"
    path.write_bytes(b"old")
    path.chmod(0o4755)
    with path.open("r+b") as file:
        file.write(b"new")
    assert path.stat().st_mode & 0o7777 == 0o4755


def test_a_file_capability_goes_with_the_first_write(stack: Stack) -> None:
    path = stack / "program"
    path.write_bytes(b"old")
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(path, "security.capability", capability)
    with path.open("r+b", buffering=0) as file:
        file.write(b"new")
    assert "security.capability" not in os.listxattr(path)


def test_an_unlinked_file_goes_on_in_passthrough(stack: Stack) -> None:
    path = stack / "new"
    with path.open("w+b", buffering=0) as file:
        file.write(b"content")
        path.unlink()
        assert os.pread(file.fileno(), 7, 0) == b"content"
        assert os.fstat(file.fileno()).st_nlink == 0
