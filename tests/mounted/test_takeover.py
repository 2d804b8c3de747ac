"""Another process takes a mount over from one that was killed, and whoever uses it does not notice."""

import fcntl
import itertools
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.mounting import PATIENCE_S, Stack, eventually

pytestmark = pytest.mark.fuse

FLOCK = "hhqqi4x"
OFD_GETLK, OFD_SETLK = 36, 37
SIZE = 300_000


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """Return a stack of the only engine that can take a mount over, with a bit more in it."""
    for above in (tmp_path, tmp_path.parent):
        above.chmod(0o755)
    result = Stack(tmp_path, engine="direct")
    (result.base / "big").write_bytes(os.urandom(SIZE))
    (result.base / "directory" / "f").write_text("below\n")
    result.mount()
    yield result
    result.end()


def replace_server(stack: Stack) -> None:
    """Kill the process that serves, and wait until another one does."""
    before = stack.server()
    os.kill(before.pid, signal.SIGKILL)
    eventually(lambda: stack.server().restarts == before.restarts + 1)


def replace_by_restart(stack: Stack) -> None:
    before = stack.server()
    done = stack.run("restart", "--json", stack.merged)
    assert (done.returncode, done.stderr) == (0, "")
    after = stack.server()
    assert json.loads(done.stdout) == [
        {"mountpoint": str(stack.merged), "pid": after.pid, "restarts": before.restarts + 1}
    ]
    assert after.pid != before.pid


@pytest.fixture
def replace(stack: Stack) -> Callable[[], None]:
    """Return what lets another process serve, by either way in turn."""
    ways = itertools.cycle([replace_server, replace_by_restart])
    return lambda: next(ways)(stack)


def test_open_files_go_on(stack: Stack, replace: Callable[[], None]) -> None:
    below, written = os.urandom(1000), os.urandom(1000)
    (stack / "mine").write_bytes(below)
    with ExitStack() as opened:
        big = opened.enter_context((stack / "big").open("rb", buffering=0))
        mine = opened.enter_context((stack / "mine").open("r+b", buffering=0))
        log = opened.enter_context((stack / "log").open("ab", buffering=0))
        log.write(b"one\n")
        head = big.read(1000)
        replace()
        assert head + big.read() == (stack.base / "big").read_bytes()
        assert mine.read() == below
        mine.seek(500)
        mine.write(written)
        log.write(b"two\n")
        replace()
        mine.seek(0)
        assert mine.read() == below[:500] + written
        assert (stack / "log").read_bytes() == b"one\ntwo\n"
        assert os.fstat(mine.fileno()).st_ino == (stack / "mine").stat().st_ino
    assert (stack.upper / "mine").read_bytes() == below[:500] + written


def test_files_without_a_name_go_on(stack: Stack, replace: Callable[[], None]) -> None:
    with ExitStack() as opened:
        lower = opened.enter_context((stack / "big").open("rb", buffering=0))
        (stack / "upper").write_bytes(b"upper")
        upper = opened.enter_context((stack / "upper").open("r+b", buffering=0))
        (stack / "target").write_bytes(b"replaced")
        replaced = opened.enter_context((stack / "target").open("rb", buffering=0))
        nameless = os.open(stack.merged, os.O_TMPFILE | os.O_RDWR, 0o600)
        opened.callback(os.close, nameless)
        os.write(nameless, b"nameless")
        (stack / "big").unlink()
        (stack / "upper").unlink()
        (stack / "top").rename(stack / "target")
        again = opened.enter_context(open(f"/proc/self/fd/{upper.fileno()}", "rb", buffering=0))
        replace()
        assert lower.read() == (stack.base / "big").read_bytes()
        assert upper.read() == again.read() == b"upper"
        assert replaced.read() == b"replaced"
        assert os.pread(nameless, 100, 0) == b"nameless"
        assert [os.fstat(file.fileno()).st_nlink for file in (lower, upper, replaced)] == [0, 0, 0]
        upper.write(b" and more")
        os.link(f"/proc/self/fd/{nameless}", stack / "named", src_dir_fd=nameless, follow_symlinks=True)
        replace()
        assert os.pread(upper.fileno(), 100, 0) == b"upper and more"
    assert sorted(os.listdir(stack.merged)) == ["base", "directory", "named", "target"]
    assert (stack / "named").read_bytes() == b"nameless"


def test_a_reader_sees_what_is_written_after(stack: Stack, replace: Callable[[], None]) -> None:
    with (
        (stack / "big").open("rb", buffering=0) as reader,
        mmap.mmap(reader.fileno(), SIZE, prot=mmap.PROT_READ) as mapped,
    ):
        assert mapped[:10] == reader.read(10)
        replace()
        with (stack / "big").open("r+b", buffering=0) as writer:
            writer.write(b"0123456789")
            replace()
            assert mapped[:10] == os.pread(reader.fileno(), 10, 0) == b"0123456789"
            assert mapped[SIZE - 10 :] == (stack.base / "big").read_bytes()[-10:]


def test_mappings_go_on(stack: Stack, replace: Callable[[], None]) -> None:
    (stack / "mine").write_bytes(bytes(SIZE))
    with (stack / "mine").open("r+b") as file, mmap.mmap(file.fileno(), SIZE) as mapped:
        mapped[:3] = b"old"
        replace()
        mapped[-3:] = b"new"
        mapped.flush()
    content = (stack / "mine").read_bytes()
    assert (content[:3], content[-3:]) == (b"old", b"new")


def test_locks_are_kept(stack: Stack, replace: Callable[[], None]) -> None:
    for name in ("flock", "posix", "ofd"):
        (stack / name).touch()
    with (
        (stack / "flock").open("r+") as flocked,
        (stack / "posix").open("r+") as posix,
        (stack / "ofd").open("r+") as ofd,
    ):
        fcntl.flock(flocked, fcntl.LOCK_EX)
        fcntl.lockf(posix, fcntl.LOCK_EX)
        whole = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(ofd, OFD_SETLK, whole)
        replace()
        with (stack / "flock").open("r+") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with (stack / "ofd").open("r+") as other:
            assert struct.unpack(FLOCK, fcntl.fcntl(other, OFD_GETLK, whole))[0] == fcntl.F_WRLCK
        ask = f"import fcntl; fcntl.lockf(open({str(stack / 'posix')!r}, 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        refused = subprocess.run([sys.executable, "-c", ask], check=False, capture_output=True, text=True)
        assert "BlockingIOError" in refused.stderr
        fcntl.flock(flocked, fcntl.LOCK_UN)
        with (stack / "flock").open("r+") as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_listing_goes_on_where_it_was(stack: Stack, replace: Callable[[], None]) -> None:
    names = {f"{'x' * 100}{number}" for number in range(2000)}
    for name in names:
        (stack.base / "directory" / name).touch()  # unseen so far
    with os.scandir(stack / "directory") as entries:
        first = [next(entries).name for _ in range(300)]
        os.unlink(stack / "directory" / first[0])
        replace()
        rest = [entry.name for entry in entries]
    assert len(first + rest) == len(names) + 1
    assert set(first + rest) == names | {"f"}
    assert set(os.listdir(stack / "directory")) == (names | {"f"}) - {first[0]}


def test_a_directory_is_worked_in(stack: Stack, replace: Callable[[], None]) -> None:
    (stack / "gone").mkdir()
    here = os.open(stack / "directory", os.O_PATH)
    gone = os.open(stack / "gone", os.O_RDONLY)
    try:
        (stack / "gone").rmdir()
        (stack / "directory").rename(stack / "moved")
        replace()
        assert os.stat("f", dir_fd=here).st_ino == (stack / "moved" / "f").stat().st_ino
        os.mkdir("new", dir_fd=here)
        assert os.fstat(gone).st_nlink == 0
        with pytest.raises(FileNotFoundError):
            os.mkdir("new", dir_fd=gone)
        replace()
        assert os.listdir(here if os.listdir not in os.supports_fd else stack / "moved") == ["f", "new"]
    finally:
        os.close(here)
        os.close(gone)
    assert (stack / "moved" / "new").is_dir()


def test_hard_links_stay_one_file(stack: Stack, replace: Callable[[], None]) -> None:
    (stack / "a").write_text("a")
    os.link(stack / "a", stack / "b")
    with (stack / "a").open("r+") as file:
        replace()
        (stack / "a").unlink()
        file.write("changed")
        file.flush()
        replace()
        assert (stack / "b").read_text() == "changed"
        assert os.fstat(file.fileno()).st_ino == (stack / "b").stat().st_ino
        assert os.fstat(file.fileno()).st_nlink == 1


def test_a_request_that_waits_is_answered(stack: Stack) -> None:
    """Those that the stopped process has not read, and the one that it has."""
    pid = stack.server().pid
    os.kill(pid, signal.SIGSTOP)
    asking = [subprocess.Popen([sys.executable, "-c", f"import os; os.mkdir({str(stack / name)!r})"]) for name in "abc"]
    time.sleep(0.2)
    os.kill(pid, signal.SIGKILL)
    assert [each.wait(PATIENCE_S) for each in asking] == [0, 0, 0]
    assert {"a", "b", "c"} <= set(os.listdir(stack.upper))


def test_a_union_that_cannot_change_goes_on(tmp_path: Path) -> None:
    """Nobody tells the server of opens there: the kernel opens files by itself."""
    stack = Stack(tmp_path, engine="direct")
    (stack.base / "big").write_bytes(os.urandom(SIZE))
    done = stack.run("mount", "--lower", stack.top, "--lower", stack.base, stack.merged)
    assert (done.returncode, done.stderr) == (0, "")
    try:
        with (stack / "big").open("rb", buffering=0) as file, os.scandir(stack.merged) as entries:
            head, first = file.read(10), next(entries).name
            replace_server(stack)
            assert head + file.read() == (stack.base / "big").read_bytes()
            assert sorted([first, *(entry.name for entry in entries)]) == ["base", "big", "directory", "top"]
            replace_by_restart(stack)
            assert (stack / "top").read_text() == "top\n"
    finally:
        stack.end()
