"""A volatile mount writes nothing through; that something could not be written back is known when it ends."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engines import ENGINES
from tests.mounting import Stack
from unionfs.linux import mount
from unionfs.testing import disk

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.overlayfs]


@contextmanager
def failing_disk() -> Iterator[tuple[Path, Path]]:
    """An ext4 on a disk that is there only in part, as a file on a filesystem that can be filled; the two tops."""
    with disk.in_memory(size="20m") as small:
        image, top = small / "image", small / "disk"
        top.mkdir()
        with image.open("wb") as file:
            file.truncate(64 << 20)
        subprocess.run(["mkfs.ext4", "-qF", "-O", "^has_journal", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, top], check=True)
        try:
            yield small, top
        finally:
            subprocess.run(["umount", top], check=True)


def fail_to_write_back(small: Path, path: Path) -> None:
    """Have the disk take nothing of what *path* got, and nobody hear of it."""
    path.write_bytes(b"")
    os.sync()
    with (small / "fill").open("wb", buffering=0) as file:
        while True:
            try:
                file.write(b"x" * (1 << 20))
            except OSError:
                break
    path.write_bytes(os.urandom(4 << 20))
    os.sync()  # says nothing of errors
    (small / "fill").unlink()


@pytest.mark.parametrize(
    ("engine", "takes_over"), [*((engine, False) for engine in ENGINES), ("direct", True)], ids=str
)
def test_an_upper_that_was_not_written_back_is_not_mounted_again(
    tmp_path: Path, engine: str, *, takes_over: bool
) -> None:
    with failing_disk() as (small, top):
        for name in ("upper", "work"):
            (top / name).mkdir()
        stack = Stack(tmp_path, engine=engine)
        words = ("--lower", stack.base, "--upper", top / "upper", "--work", top / "work", stack.merged)
        assert stack.run("mount", "-o", f"volatile,engine={engine}", *words).returncode == 0
        try:
            (stack.merged / "f").write_text("f")
            fail_to_write_back(small, stack.merged / "g")
            if takes_over:
                os.kill(stack.server().pid, signal.SIGKILL)
            assert (stack.merged / "f").read_text() == "f"
            stack.unmount()
            assert (top / "work/work/incompat/volatile").is_dir()
            again = stack.run("mount", "-o", f"volatile,engine={engine}", *words)
            assert again.returncode == 1
            assert "was mounted volatile and not unmounted cleanly" in again.stderr
            layers = f"lowerdir={stack.base},upperdir={top / 'upper'},workdir={top / 'work'},volatile"
            with pytest.raises(OSError, match="Invalid argument"):
                mount.mount("overlay", str(stack.merged), "overlay", 0, layers)
        finally:
            stack.end()
