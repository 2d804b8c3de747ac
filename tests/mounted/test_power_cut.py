"""A power cut: what the disk would hold at this very moment is mounted, and every copy-up in it is whole.

The upper layer is on an ext4 in an image that lies on a btrfs: a clone of the image there is the disk as it is between
two writes. What ext4 still has in memory is not in it. Somebody else's fsync brings names, but not data, to the disk.
"""

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engines import ENGINES
from tests.zygote import Zygote
from unionfs.linux.filecopy import FICLONE
from unionfs.testing import disk
from unionfs.testing.driver import Driver
from unionfs.testing.served import fuse
from unionfs.testing.stack import Stack

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.overlayfs]

DATA = {f"f{n}": os.urandom(size) for n, size in enumerate((10, 5000, 100_000, 300_000, 700_000, 50_000))}


@pytest.fixture(scope="module")
def outer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A filesystem that can clone an image while it is in use."""
    base = tmp_path_factory.mktemp("outer")
    with (base / "image").open("wb") as file:
        file.truncate(400 << 20)
    subprocess.run(["mkfs.btrfs", "-q", base / "image"], check=True, stdout=subprocess.DEVNULL)
    with mounted(base / "image", base / "disk") as top:
        yield top


@contextmanager
def mounted(image: Path, top: Path, options: str = "loop") -> Iterator[Path]:
    top.mkdir()
    subprocess.run(["mount", "-o", options, image, top], check=True)
    try:
        yield top
    finally:
        subprocess.run(["umount", top], check=True)


@contextmanager
def union(outer: Path, base: Path, zygote: Zygote, engine: str, more: str) -> Iterator[Driver]:
    """A union whose upper layer's name and everything before is on the disk."""
    with (outer / "image").open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-qF", outer / "image"], check=True)
    with mounted(outer / "image", base / "disk", "loop,noauto_da_alloc") as top:
        lower = disk.write({**DATA, "d": {"deep": {"f": b"deep" * 9000}}}, base / "lower")
        for place in (top / "upper", top / "work", base / "mnt"):
            place.mkdir()
        stack = Stack(lower=(lower,), upper=top / "upper", work=top / "work", mountpoint=base / "mnt")
        with fuse(stack, engine=engine, more=more, launch=zygote.launch) as driver:
            os.sync()
            yield driver


@contextmanager
def after_a_power_cut(outer: Path, base: Path) -> Iterator[Path]:
    """Show the upper layer as it would be found."""
    with (outer / "image").open("rb") as source, (outer / "cut").open("wb") as target:
        fcntl.ioctl(target, FICLONE, source.fileno())
    with mounted(outer / "cut", base / "cut") as top:
        yield top / "upper"
    (base / "cut").rmdir()


def commit(base: Path) -> None:
    """Have ext4 write its journal, as any program may at any time."""
    fd = os.open(base / "disk/other", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"x")
    os.fsync(fd)
    os.close(fd)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_a_copy_up_is_whole_or_not_there(engine: str, mode: str, outer: Path, tmp_path: Path, zygote: Zygote) -> None:
    with union(outer, tmp_path, zygote, engine, f"fsync={mode}") as driver:
        for count, name in enumerate(DATA):
            driver.chmod(name, 0o600)
            if mode == "auto":  # strict needs nobody to bring the name to the disk
                commit(tmp_path)
            if count % 2:
                with after_a_power_cut(outer, tmp_path) as upper:
                    assert sorted(os.listdir(upper)) == list(DATA)[: count + 1]
                    assert all((upper / each).read_bytes() == DATA[each] for each in os.listdir(upper))
        driver.utime("d/deep/f", 5, 5)
        commit(tmp_path)
        with after_a_power_cut(outer, tmp_path) as upper:
            assert (upper / "d/deep/f").read_bytes() == b"deep" * 9000


def test_where_nothing_is_synced_the_same_cut_leaves_files_without_their_data(
    outer: Path, tmp_path: Path, zygote: Zygote
) -> None:
    """What volatile mounts risk; it also shows that the test above would notice."""
    with union(outer, tmp_path, zygote, "direct", "fsync=0") as driver:
        for name in DATA:
            driver.chmod(name, 0o600)
        commit(tmp_path)
        with after_a_power_cut(outer, tmp_path) as upper:
            assert sorted(os.listdir(upper)) == list(DATA)
            assert any((upper / name).read_bytes() != data for name, data in DATA.items())
