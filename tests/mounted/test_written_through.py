"""What ``sync`` and ``dirsync`` promise, asked of the disk itself.

The image of an ext4 that is mounted is copied as it is, as if the power had gone, and the copy is mounted.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engines import ENGINES
from tests.zygote import Zygote
from unionfs.testing import disk
from unionfs.testing.driver import Driver
from unionfs.testing.served import fuse
from unionfs.testing.stack import Stack

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.overlayfs]


@contextmanager
def ext4(image: Path, top: Path) -> Iterator[Path]:
    top.mkdir()
    subprocess.run(["mount", "-o", "loop", image, top], check=True)
    try:
        yield top
    finally:
        subprocess.run(["umount", top], check=True)


@contextmanager
def served(tmp_path: Path, zygote: Zygote, engine: str, more: str) -> Iterator[Driver]:
    """A union whose upper layer is on an ext4 that is written through before the test begins."""
    with (tmp_path / "image").open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-qF", tmp_path / "image"], check=True)
    with ext4(tmp_path / "image", tmp_path / "disk") as top:
        stack = laid(top, tmp_path)
        with fuse(stack, engine=engine, more=more, launch=zygote.launch) as driver:
            os.sync()
            yield driver


def laid(top: Path, base: Path) -> Stack:
    lower = disk.write({"low": "low", "d": {"a": "1", "b": "2"}, "e": {}}, base / "lower")
    for place in (top / "upper", top / "work", base / "mnt"):
        place.mkdir()
    return Stack(lower=(lower,), upper=top / "upper", work=top / "work", mountpoint=base / "mnt")


@contextmanager
def after_a_power_cut(tmp_path: Path) -> Iterator[Path]:
    """Show the upper layer as it would be found."""
    shutil.copyfile(tmp_path / "image", tmp_path / "image2")
    with ext4(tmp_path / "image2", tmp_path / "disk2") as top:
        yield top / "upper"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("option", ["dirsync", "sync"])
def test_a_change_of_a_directory_is_on_the_disk_when_it_is_answered(
    engine: str, option: str, tmp_path: Path, zygote: Zygote
) -> None:
    with served(tmp_path, zygote, engine, option) as driver:
        driver.mkdir("d/new")
        driver.symlink("d/new/s", "target")
        driver.create("d/new/f")
        driver.link("d/new/f", "d/f2")
        driver.unlink("d/a")
        driver.rmdir("e")
        driver.rename("d/b", "d/new/b")
        driver.mknod("p", 0o010600)
        shown = sorted(os.listdir(tmp_path / "mnt")), sorted(os.listdir(tmp_path / "mnt/d"))
        with after_a_power_cut(tmp_path) as upper:
            assert sorted(os.listdir(upper / "d/new")) == ["b", "f", "s"]
            assert {"f2", "new"} <= set(os.listdir(upper / "d"))
            for gone in ("d/a", "d/b", "e"):
                assert (upper / gone).is_char_device()
            assert (upper / "p").is_fifo()
    assert shown == (["d", "low", "p"], ["f2", "new"])


@pytest.mark.parametrize("engine", ENGINES)
def test_with_sync_every_write_is_on_the_disk(engine: str, tmp_path: Path, zygote: Zygote) -> None:
    data = os.urandom(5000)
    with served(tmp_path, zygote, engine, "sync") as driver:
        driver.write("low", data)
        driver.create("new", data)
        with after_a_power_cut(tmp_path) as upper:
            assert (upper / "low").read_bytes() == (upper / "new").read_bytes() == data
