"""A daemon that is killed amid copy-ups and renames: afterwards every file is old or new, never half."""

import os
import random
import threading
import time
from pathlib import Path

import pytest

from tests.engines import ENGINES
from unionfs.testing import disk
from unionfs.testing.literal import Tree
from unionfs.testing.mounted import Mounted
from unionfs.testing.served import Daemon
from unionfs.testing.snapshot import snapshot
from unionfs.testing.stack import in_process, kernel, lay

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.overlayfs]

OLD, NEW = b"o" * 70_000, b"n" * 70_000
FILES = 60


def change_until_it_dies(root: Path, seed: int) -> None:
    """Replace and move files until the mount answers no more."""
    choose = random.Random(seed)
    try:
        while True:
            name = root / f"d{choose.randrange(3)}" / f"f{choose.randrange(FILES)}"
            if not name.exists():
                continue
            match choose.randrange(3):
                case 0:
                    name.chmod(0o600)
                case 1:
                    name.rename(root / f"d{choose.randrange(3)}" / f"f{choose.randrange(FILES)}")
                case _:
                    (root / f"t{seed}").write_bytes(NEW)
                    (root / f"t{seed}").rename(name)
    except OSError:
        return  # the daemon is gone, or another worker took the name


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("delay_ms", [5, 40, 150])
def test_a_killed_daemon_leaves_whole_files(engine: str, delay_ms: int) -> None:
    lower: Tree = {f"d{n}": {f"f{k}": OLD for k in range(FILES)} for n in range(3)}
    with disk.in_memory() as base:
        stack = lay(base, [lower])
        daemon = Daemon(stack, engine=engine)
        try:
            daemon.wait_until_mounted()
            workers = [threading.Thread(target=change_until_it_dies, args=(stack.mountpoint, n)) for n in range(4)]
            for worker in workers:
                worker.start()
            time.sleep(delay_ms / 1000)
        finally:
            daemon.end()
        for worker in workers:
            worker.join(timeout=20)
        assert stack.work is not None
        for backend in (in_process, kernel):  # ours first: it clears the work directory
            with backend(stack) as driver:
                seen = snapshot(driver)
                contents = {each.content for path, each in seen.items() if path.startswith("d") and "/" in path}
                assert contents <= {OLD, NEW}
                assert os.listdir(stack.work / "work") == []


@pytest.mark.parametrize("engine", ENGINES)
def test_a_mount_after_a_crash_takes_the_layers_over(engine: str) -> None:
    with disk.in_memory() as base:
        stack = lay(base, [{"f": "old"}])
        first = Daemon(stack, engine=engine)
        try:
            first.wait_until_mounted()
            Mounted(stack.mountpoint).write("f", b"new")
        finally:
            first.end()
        second = Daemon(stack, engine=engine)
        try:
            second.wait_until_mounted()
            assert Mounted(stack.mountpoint).read("f") == b"new"
            second.stop()
        finally:
            second.end()
