"""Locks hold over the first change of a file, and between processes, by each engine as under the kernel's overlayfs.

flock(2), the locks of processes (fcntl(2), F_SETLK) and those of open files (F_OFD_SETLK); who holds one is this
process, who wants one another.
"""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engines import ENGINES, backends
from unionfs.linux import flock
from unionfs.testing import disk
from unionfs.testing.literal import HardLink, Tree
from unionfs.testing.stack import Backend, Features, kernel, lay

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.overlayfs]

LOWER: Tree = {"d": {"f": "0123456789", "g": HardLink("d/f")}}

ASK = """
import fcntl, os, sys
from unionfs.linux import flock
path, kind, shared, start, length = sys.argv[1], sys.argv[2], sys.argv[3] == "True", *map(int, sys.argv[4:])
fd = os.open(path, os.O_RDWR)
os.pwrite(fd, b"N", 9)
if kind == "flock":
    got = flock.lock_descriptor(fd, shared=shared)
elif kind == "open file":
    got = flock.lock_range(fd, start, length, shared=shared)
else:
    try:
        fcntl.lockf(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB, length, start)
        got = True
    except BlockingIOError:
        got = False
print(got)
"""
"""Open a file for writing, write, and try to get a lock."""

WAIT = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
print("waiting", flush=True)
fcntl.lockf(fd, fcntl.LOCK_EX)
print(os.pread(fd, 3, 0).decode())
"""

KINDS = ("flock", "process", "open file")


@pytest.fixture(scope="module")
def served() -> Iterator[dict[str, Backend]]:
    with backends() as found:
        yield found


def other_gets(path: Path, kind: str, *, shared: bool = False, start: int = 0, length: int = 0) -> bool:
    """Tell whether another process, which opens the file for writing and writes first, gets a lock."""
    command = [sys.executable, "-c", ASK, str(path), kind, str(shared), str(start), str(length)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()
    assert answer in {"True", "False"}
    return answer == "True"


def take(fd: int, kind: str, *, shared: bool, length: int) -> None:
    if kind == "flock":
        assert flock.lock_descriptor(fd, shared=shared)
    elif kind == "open file":
        assert flock.lock_range(fd, 0, length, shared=shared)
    else:
        fcntl.lockf(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB, length)


def from_a_reader(path: Path, kind: str) -> list[bool]:
    """Lock through a descriptor of the lower file that can only read, as flock allows exclusively."""
    fd = os.open(path, os.O_RDONLY)
    try:
        take(fd, kind, shared=kind != "flock", length=0)
        seen = [other_gets(path, kind), other_gets(path, kind)]
        assert os.pread(fd, 10, 0) == b"012345678N"
    finally:
        os.close(fd)
    return [*seen, other_gets(path, kind)]


def from_a_writer(path: Path, kind: str) -> list[bool]:
    """Lock the first five bytes, or all, of the upper file, exclusively."""
    fd = os.open(path, os.O_RDWR)
    try:
        take(fd, kind, shared=False, length=5)
        seen = [
            other_gets(path, kind),
            other_gets(path, kind, shared=True),
            other_gets(path, kind, start=5, length=1),
            other_gets(path, kind, start=4, length=1),
        ]
    finally:
        os.close(fd)
    return [*seen, other_gets(path, kind)]


def between_kinds(path: Path, kind: str) -> list[bool]:
    """Show that flock is a world of its own, and that processes and open files exclude each other."""
    fd = os.open(path, os.O_RDWR)
    try:
        take(fd, kind, shared=False, length=0)
        return [other_gets(path, other) for other in KINDS]
    finally:
        os.close(fd)


def through_another_name(path: Path, kind: str) -> list[bool]:
    """Lock one hard link, ask for the other."""
    fd = os.open(path, os.O_RDONLY)
    try:
        take(fd, kind, shared=kind != "flock", length=0)
        return [other_gets(path.with_name("g"), kind)]
    finally:
        os.close(fd)


SCENES: dict[Callable[[Path, str], list[bool]], dict[str, str]] = {
    from_a_reader: {"flock": "--+", "process": "--+", "open file": "--+"},
    from_a_writer: {"flock": "----+", "process": "--+-+", "open file": "--+-+"},
    between_kinds: {"flock": "-++", "process": "+--", "open file": "+--"},
    through_another_name: {"flock": "-", "process": "-", "open file": "-"},
}
"""Who gets the lock that he asks for, in turn."""


@pytest.mark.parametrize("engine", ["kernel", *ENGINES])
@pytest.mark.parametrize("scene", SCENES, ids=[scene.__name__ for scene in SCENES])
def test_who_gets_a_lock(engine: str, scene: Callable[[Path, str], list[bool]], served: dict[str, Backend]) -> None:
    backend = kernel if engine == "kernel" else served[engine]
    for kind, expected in SCENES[scene].items():
        with disk.in_memory() as base:
            stack = lay(base, [LOWER], features=Features(index=True))
            with backend(stack):
                got = scene(stack.mountpoint / "d/f", kind)
                assert "".join("-+"[each] for each in got) == expected, kind


@pytest.mark.parametrize("engine", ["kernel", *ENGINES])
def test_who_waits_for_a_lock_gets_it_after_the_copy_up(engine: str, served: dict[str, Backend]) -> None:
    backend = kernel if engine == "kernel" else served[engine]
    with disk.in_memory() as base:
        stack = lay(base, [LOWER])
        with backend(stack):
            path = stack.mountpoint / "d/f"
            fd = os.open(path, os.O_RDONLY)
            fcntl.lockf(fd, fcntl.LOCK_SH)
            other = subprocess.Popen([sys.executable, "-c", WAIT, str(path)], stdout=subprocess.PIPE, text=True)
            assert other.stdout is not None
            assert other.stdout.readline() == "waiting\n"
            with path.open("r+b") as file:
                file.write(b"new")
                assert other.poll() is None
            os.close(fd)
            assert other.communicate(timeout=60)[0] == "new\n"
