"""A volatile mount writes nothing through, but says so when something that it was given could not be written back."""

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import mounting
from tests.engines import ENGINES
from tests.zygote import Zygote
from unionfs.linux import mount
from unionfs.testing import disk
from unionfs.testing.served import fuse
from unionfs.testing.stack import Stack, unmount

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


@contextmanager
def mounted(stack: Stack, backend: str, zygote: Zygote) -> Iterator[None]:
    if backend == "kernel":
        mount.mount("overlay", str(stack.mountpoint), "overlay", 0, f"{stack.options()},volatile")
        try:
            yield
        finally:
            unmount(stack.mountpoint)
    else:
        with fuse(stack, engine=backend, more="volatile", launch=zygote.launch):
            yield


def sync(path: Path) -> str:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]
    finally:
        os.close(fd)
    return "ok"


def stack_on(top: Path, base: Path, name: str = "1") -> Stack:
    for each in (top / name / "upper", top / name / "work", base / "mnt"):
        each.mkdir(parents=True, exist_ok=True)
    lower = disk.write({"f": "x", "g": "y", "d": {}}, base / "lower" / name)
    return Stack(lower=(lower,), upper=top / name / "upper", work=top / name / "work", mountpoint=base / "mnt")


@pytest.mark.parametrize("backend", ["kernel", *ENGINES])
def test_every_sync_after_a_failure_says_so(backend: str, zygote: Zygote) -> None:
    """Also of what has nothing to do with it. Neither these layers nor others of that filesystem are mounted then."""
    with failing_disk() as (small, top), disk.in_memory() as base:
        stack = stack_on(top, base)
        merged = stack.mountpoint
        with mounted(stack, backend, zygote):
            (merged / "g").write_text("changed")
            assert [sync(merged / name) for name in ("f", "g", "d")] == ["ok"] * 3
            fail_to_write_back(small, merged / "f")
            codes = [sync(merged / name) for name in ("g", "d", "f", "g")]
            assert set(codes) in [{"EIO"}, {"ENOSPC"}]
            assert (merged / "g").read_text() == "changed"
        assert (top / "1/work/work/incompat/volatile").is_dir()
        other = stack_on(top, base, "2")
        for _ in range(2):
            with pytest.raises((OSError, RuntimeError), match="Input/output error"), mounted(other, backend, zygote):
                pass
        assert backend == "kernel" or os.listdir(top / "2/work/work") == []
        assert subprocess.run(["sync", "-f", top], check=False, stderr=subprocess.DEVNULL).returncode == 1
        with mounted(other, backend, zygote):
            assert sync(merged / "g") == "ok"


def test_who_takes_the_mount_over_knows_of_it(tmp_path: Path) -> None:
    with failing_disk() as (small, top):
        for name in ("upper", "work"):
            (top / name).mkdir()
        stack = mounting.Stack(tmp_path, engine="direct")
        layers = ("--lower", stack.base, "--upper", top / "upper", "--work", top / "work")
        assert stack.run("mount", *layers, "-o", "volatile,engine=direct", stack.merged).returncode == 0
        try:
            (stack.merged / "f").write_text("f")
            fail_to_write_back(small, stack.merged / "g")
            os.kill(stack.server().pid, signal.SIGKILL)
            assert sync(stack.merged / "f") in {"EIO", "ENOSPC"}
            stack.unmount()
            assert (top / "work/work/incompat/volatile").is_dir()
        finally:
            stack.end()
