"""Many: processes, names, layers; and too little: space."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.engines import ENGINES, backends
from tests.profile import LONG
from unionfs.testing import disk
from unionfs.testing.driver import attempt
from unionfs.testing.literal import Symlink, Tree
from unionfs.testing.mounted import Mounted
from unionfs.testing.snapshot import differences, snapshot, without_directory_links
from unionfs.testing.stack import Backend, kernel, lay

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.overlayfs]

STRESS = """
import os, random, sys, time
choose, root = random.Random(int(sys.argv[1])), sys.argv[2]
end, left = time.monotonic() + float(sys.argv[3]), int(sys.argv[4])
def name():
    return os.path.join(root, *(choose.choice("abcd") for _ in range(choose.randrange(1, 4))))
def write(path):
    with open(path, "ab") as file:
        file.write(b"x" * choose.randrange(9000))
def read(path):
    with open(path, "rb") as file:
        file.read()
ACTS = [os.mkdir, os.unlink, os.rmdir, write, write, read, os.listdir, os.lstat,
        lambda p: os.rename(p, name()), lambda p: os.link(p, name()), lambda p: os.symlink("a", p),
        lambda p: os.chmod(p, 0o700), lambda p: os.truncate(p, 100), lambda p: os.setxattr(p, "user.k", b"v")]
while time.monotonic() < end and left:
    left -= 1
    try:
        choose.choice(ACTS)(name())
    except OSError as exc:
        assert exc.errno in {1, 2, 17, 18, 20, 21, 22, 26, 39, 40, 61, 95, 116}, exc
"""


READ = """
import os, sys, time
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    with open(sys.argv[1]) as file:
        assert file.read() in {"old", "new"}
    assert os.readlink(sys.argv[1] + ".link") == "to"
"""


@pytest.fixture(scope="module")
def served() -> Iterator[dict[str, Backend]]:
    with backends() as found:
        yield found


def let_loose(roots: list[str], seconds: float, operations: int = -1) -> None:
    """Run one process in each of *roots*, until the time is over or the *operations* are done; -1: no end of those."""
    command = [sys.executable, "-c", STRESS]
    workers = [
        subprocess.Popen([*command, str(n), root, str(seconds), str(operations)], stderr=subprocess.PIPE, text=True)
        for n, root in enumerate(roots)
    ]
    complaints = [worker.communicate(timeout=seconds + 60)[1] for worker in workers]
    assert complaints == [""] * len(roots)


@pytest.mark.parametrize("engine", ENGINES)
def test_eight_processes_in_one_tree(engine: str, served: dict[str, Backend]) -> None:
    lower: Tree = {a: {b: dict.fromkeys("abcd", "data") for b in "abcd"} for a in "abc"}
    seconds = 300 if LONG else 3
    with disk.in_memory() as base:
        stack = lay(base, [lower])
        with served[engine](stack) as driver:
            let_loose([str(stack.mountpoint)] * 8, seconds)
            before = snapshot(driver)
        assert stack.work is not None
        assert os.listdir(stack.work / "work") == []
        with kernel(stack) as driver:
            after = snapshot(driver)
        # pyfuse3 numbers the names of a broken hard link by node
        lines = [line for line in differences(before, after) if engine != "pyfuse3" or ": same_as: " not in line]
        assert lines == []
        with served[engine](stack) as driver:
            paths = [stack.mountpoint / name for name in os.listdir(stack.mountpoint)]
            subprocess.run(["rm", "-rf", *paths], check=True)  # after minutes too deep for shutil.rmtree
            assert driver.listdir("") == []


@pytest.mark.parametrize("engine", ENGINES)
def test_eight_processes_leave_what_they_leave_on_a_plain_directory(engine: str, served: dict[str, Backend]) -> None:
    tree: Tree = {a: {b: dict.fromkeys("abcd", "data") for b in "abcd"} for a in "abc"}
    lower: Tree = {f"w{n}": tree for n in range(8)}
    operations = 20_000 if LONG else 500
    with disk.in_memory() as base:
        stack, plain = lay(base, [lower]), disk.write(lower, base / "plain")
        with served[engine](stack) as driver:
            let_loose([str(stack.mountpoint / name) for name in lower], 600, operations)
        let_loose([str(plain / name) for name in lower], 600, operations)
        with served[engine](stack) as driver:
            trees = [without_directory_links(snapshot(each)) for each in (driver, Mounted(plain))]
            lines = differences(*trees, names=("mount", "plain"))
        assert lines == []


@pytest.mark.parametrize("engine", ENGINES)
def test_a_file_that_is_replaced_again_and_again_is_always_there(engine: str, served: dict[str, Backend]) -> None:
    seconds = 60 if LONG else 1.5
    with disk.in_memory() as base:
        stack = lay(base, [{"f": "old", "f.link": Symlink("to")}])
        with served[engine](stack):
            path, fresh = stack.mountpoint / "f", stack.mountpoint / "fresh"
            command = [sys.executable, "-c", READ, str(path), str(seconds)]
            readers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
            while any(reader.poll() is None for reader in readers):
                fresh.write_text("new")
                fresh.rename(path)
                fresh.symlink_to("to")
                fresh.rename(f"{path}.link")
            assert [reader.communicate()[1] for reader in readers] == [""] * 3


@pytest.mark.parametrize("engine", ENGINES)
def test_rm_of_a_large_directory_finishes(engine: str, served: dict[str, Backend]) -> None:
    count = 10_000
    with disk.in_memory() as base:
        stack = lay(base, [{"big": {f"low{n}": "" for n in range(count // 2)}}])
        with served[engine](stack) as driver:
            for n in range(count // 2):
                (stack.mountpoint / f"big/up{n}").touch()
            names = os.listdir(stack.mountpoint / "big")
            assert len(names) == len(set(names)) == count
            subprocess.run(["rm", "-rf", str(stack.mountpoint / "big")], check=True, timeout=120)
            assert driver.listdir("") == []


@pytest.mark.parametrize("engine", ENGINES)
def test_500_layers(engine: str, served: dict[str, Backend]) -> None:
    with disk.in_memory() as base:
        stack = lay(base, [{f"f{n}": str(n), "d": {f"g{n}": str(n)}} for n in range(499)])
        with served[engine](stack) as driver:
            assert len(driver.listdir("d")) == 499
            assert driver.read("d/g498") == b"498"
            driver.rename("d", "e")
            assert driver.read("e/g0") == b"0"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("op", [("write", "big", b"x"), ("rename", "d/big", "moved")])
def test_a_full_upper_layer(engine: str, op: tuple[object, ...], served: dict[str, Backend]) -> None:
    big = b"b" * 400_000
    with disk.in_memory("1M") as small, disk.in_memory() as base:
        lower = disk.write({"big": big, "d": {"big": big}, "little": "x"}, base / "lower")
        stack = lay(small, [{}])
        (small / "filler").write_bytes(b"f" * 800_000)
        stack = type(stack)(lower=(lower,), upper=stack.upper, work=stack.work, mountpoint=stack.mountpoint)
        with served[engine](stack) as driver:
            before = without_directory_links(snapshot(driver))
            assert attempt(driver, op).errno == "ENOSPC"
            after = without_directory_links(snapshot(driver))
            lines = [line for line in differences(before, after) if "mtime" not in line]
            assert lines == []
            (small / "filler").unlink()
            assert attempt(driver, op).errno == "ok"
