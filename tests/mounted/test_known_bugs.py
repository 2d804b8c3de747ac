"""Bugs that union filesystems are known for and that show on a mount only; `tests.test_pitfalls` has the whole list."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.engines import ENGINES, backends
from unionfs.testing import disk
from unionfs.testing.driver import attempt
from unionfs.testing.literal import HardLink, Symlink, Tree
from unionfs.testing.snapshot import differences, snapshot
from unionfs.testing.stack import Backend, Features, Stack, kernel, lay

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.overlayfs]


@pytest.fixture(scope="module")
def served() -> Iterator[dict[str, Backend]]:
    with backends() as found:
        yield {**found, "kernel": kernel}


@pytest.mark.parametrize("backend", ["kernel", *ENGINES])
def test_a_program_that_runs_is_busy_and_one_that_is_written_does_not_run(
    backend: str, served: dict[str, Backend]
) -> None:
    with disk.in_memory() as base:
        stack = lay(base, [{"bin": {}}])
        shutil.copy2("/bin/sleep", stack.lower[0] / "bin/sleep")
        with served[backend](stack) as driver:
            program = stack.mountpoint / "bin/sleep"
            running = subprocess.Popen([program, "60"])
            try:
                assert attempt(driver, ("write", "bin/sleep", b"x")).errno == "ETXTBSY"
                assert attempt(driver, ("truncate", "bin/sleep", 0)).errno == "ETXTBSY"
                assert attempt(driver, ("chmod", "bin/sleep", 0o700)).errno == "ok"  # which copies it up
                assert attempt(driver, ("write", "bin/sleep", b"x")).errno == "ETXTBSY"
            finally:
                running.kill()
                running.wait()
            driver.open("writer", "bin/sleep", os.O_RDWR)
            with pytest.raises(OSError, match="Text file busy"):
                subprocess.run([program, "0"], check=True)
            driver.close("writer")
            subprocess.run([program, "0"], check=True)


@pytest.mark.parametrize("engine", ENGINES)
def test_offsets_and_sizes_have_64_bits(engine: str, served: dict[str, Backend]) -> None:
    size = (5 << 30) + 3
    with disk.in_memory() as base:
        stack = lay(base, [{"f": "start"}])
        with (stack.lower[0] / "f").open("r+b") as file:
            file.seek(size - 3)
            file.write(b"end")
        with served[engine](stack) as driver:
            driver.write("f", b"above", 1 << 32)
            driver.open("f", "f", os.O_RDWR)
            assert [driver.pread("f", 5, at) for at in (0, 1 << 32, size - 3)] == [b"start", b"above", b"end"]
            driver.pwrite("f", b"more", size)
            assert driver.lstat("f").st_size == size + 4
            assert driver.lstat("f").st_blocks * 512 < 1 << 30, "its holes were filled"


@pytest.mark.parametrize("engine", ENGINES)
def test_numbers_stay_whatever_happens_to_a_file(engine: str, served: dict[str, Backend]) -> None:
    tree: Tree = {"f": "1", "d": {"g": "2"}, "s": Symlink("f"), "h": "3", "h2": HardLink("h")}
    with disk.in_memory() as base:
        stack = lay(base, [tree, {"d": {"deep": ""}}], features=Features(index=True))
        with served[engine](stack) as driver:
            before = {name: driver.inode(name) for name in ("f", "d", "d/g", "s", "h", "h2")}
            assert before["h"] == before["h2"]
            assert len(set(before.values())) == len(before) - 1
            for name in ("f", "d", "d/g", "s"):
                driver.chown(name, 7, 7)
            driver.write("h", b"x")
            driver.link("f", "f2")
            driver.rename("d", "moved")
            driver.rename("s", "moved/s")
        moved = {"f": "f", "f2": "f", "moved": "d", "moved/g": "d/g", "moved/s": "s", "h": "h", "h2": "h2"}
        for _ in range(2):
            with served[engine](stack) as driver:
                assert {name: driver.inode(name) for name in moved} == {new: before[old] for new, old in moved.items()}
                assert driver.numbers("moved")["g"] == before["d/g"]
                assert len({driver.lstat(name).st_dev for name in moved}) == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_the_space_is_that_of_the_upper_layer(engine: str, served: dict[str, Backend]) -> None:
    with disk.in_memory("3M") as small, disk.in_memory() as base:
        (small / "upper").mkdir()
        (small / "work").mkdir()
        lower = disk.write({}, base / "lower")
        (base / "mnt").mkdir()
        stack = Stack(lower=(lower,), upper=small / "upper", work=small / "work", mountpoint=base / "mnt")
        with served[engine](stack):
            shown, real = os.statvfs(stack.mountpoint), os.statvfs(small)
        for name in ("f_blocks", "f_bavail", "f_files", "f_frsize", "f_namemax"):
            assert getattr(shown, name) == getattr(real, name), name
        with served[engine](replace(stack, upper=None, work=None)):
            assert os.statvfs(stack.mountpoint).f_blocks == os.statvfs(base).f_blocks


@pytest.mark.parametrize("engine", ENGINES)
def test_layers_may_lie_on_a_fuse_mount(engine: str, served: dict[str, Backend]) -> None:
    """One of ours, which has no file handles and keeps our marks under other names: as lower and as upper layer."""
    tree: Tree = {"f": "low", "d": {"g": "low"}, "gone": "x", "s": Symlink("f")}
    with disk.in_memory() as outer, disk.in_memory() as base:
        below = lay(outer, [{"lower": tree, "upper": {}, "work": {}}])
        (base / "mnt").mkdir()
        inside = below.mountpoint
        stack = Stack(lower=(inside / "lower",), upper=inside / "upper", work=inside / "work", mountpoint=base / "mnt")
        plain = lay(base / "plain", [tree])
        with served[engine](below):
            trees = []
            for backend, each in ((served[engine], stack), (kernel, plain)):
                with backend(each) as driver:
                    driver.write("f", b"new")
                    driver.unlink("gone")
                    driver.rename("d", "moved")
                    driver.create("moved/new", b"x")
                    driver.setxattr("s", "trusted.k", b"v")
                with backend(each) as driver:
                    trees.append(snapshot(driver))
        assert differences(trees[0], trees[1]) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_an_upper_of_other_layers_is_refused_with_an_index(engine: str, served: dict[str, Backend]) -> None:
    with disk.in_memory() as base:
        stack = lay(base, [{"f": "1"}], features=Features(index=True))
        with served[engine](stack) as driver:
            driver.write("f", b"x")
        other = replace(stack, lower=(disk.write({"f": "2"}, base / "other"),))
        with pytest.raises(RuntimeError, match="Stale file handle: upperdir was used over another lower layer"):
            served[engine](other).__enter__()
