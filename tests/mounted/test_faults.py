"""Layers that fail, on real filesystems: whoever asks gets the errno, the tree is unchanged, a later retry works."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engines import ENGINES, backends
from unionfs.linux import fileops, mount
from unionfs.testing import disk
from unionfs.testing.driver import Driver, Op, attempt
from unionfs.testing.literal import HardLink, Tree
from unionfs.testing.snapshot import differences, snapshot, without_directory_links
from unionfs.testing.stack import Backend, Features, Stack, kernel, lay

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.overlayfs]

LOWER: Tree = {"f": b"data" * 1000, "d": {"g": "x", "sub": {"h": ""}}, "e": {}, "link": "y"}

CHANGES: list[Op] = [
    ("write", "f", b"new"),
    ("truncate", "f", 3),
    ("chmod", "d/g", 0o600),
    ("setxattr", "f", "user.k", b"v"),
    ("rename", "d", "moved"),
    ("rename", "d/g", "f"),
    ("unlink", "f"),
    ("rmdir", "e"),
    ("mkdir", "new"),
    ("create", "e/new", b"x"),
    ("symlink", "s", "f"),
    ("link", "f", "f2"),
    ("mknod", "p", 0o010644),
]


@pytest.fixture(scope="module")
def served() -> Iterator[dict[str, Backend]]:
    with backends() as found:
        yield {**found, "kernel": kernel}


@contextmanager
def ext4(where: Path, megabytes: int, *options: str) -> Iterator[Path]:
    """Mount an ext4 made with *options* of mkfs; its image is ``where/image``."""
    image, top = where / "image", where / "disk"
    top.mkdir()
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run(["mkfs.ext4", "-qF", *options, image], check=True)
    subprocess.run(["mount", "-o", "loop,resuid=1234,resgid=1234", image, top], check=True)
    try:
        yield top
    finally:
        subprocess.run(["umount", top], check=True)


def over(upper: Path, lower: Path, mountpoint: Path) -> Stack:
    for place in (upper / "upper", upper / "work", mountpoint):
        place.mkdir()
    return Stack(lower=(lower,), upper=upper / "upper", work=upper / "work", mountpoint=mountpoint)


def check_refused(driver: Driver, ops: list[Op], code: str) -> None:
    """Every one of *ops* fails with *code* and changes nothing."""
    before = without_directory_links(snapshot(driver))
    for op in ops:
        assert attempt(driver, op).errno == code, op
    assert differences(before, without_directory_links(snapshot(driver))) == []


@pytest.mark.parametrize("backend", ["kernel", *ENGINES])
def test_the_blocks_that_a_filesystem_reserves_are_not_for_users_of_a_mount(
    backend: str, tmp_path: Path, served: dict[str, Backend]
) -> None:
    """Root may use them, and go past quotas, but not because he has mounted something. Half is reserved here."""
    with ext4(tmp_path, 32, "-m", "50") as top:
        lower = disk.write({"low": b"x" * (1 << 20)}, tmp_path / "lower")
        stack = over(top, lower, tmp_path / "mnt")
        with served[backend](stack) as driver:
            driver.create("fill")
            at = 0
            while (outcome := attempt(driver, ("write", "fill", b"f" * (1 << 20), at))).errno == "ok":
                at += int(str(outcome.value))
                assert at < 32 << 20
            assert outcome.errno == "ENOSPC"
            assert attempt(driver, ("write", "low", b"y")).errno == "ENOSPC"
            found = os.statvfs(top)
            assert found.f_bfree * found.f_frsize > 10 << 20, "the reserved blocks were used"
            driver.unlink("fill")
            assert attempt(driver, ("write", "low", b"y")).errno == "ok"


@pytest.mark.parametrize("engine", ENGINES)
def test_an_upper_that_becomes_read_only(engine: str, served: dict[str, Backend]) -> None:
    with disk.in_memory() as small, disk.in_memory() as base:
        lower = disk.write(LOWER, base / "lower")
        stack = over(small, lower, base / "mnt")
        with served[engine](stack) as driver:
            mount.mount("", str(small), "", mount.MS_REMOUNT | mount.flag_bits(["ro"]), "")
            check_refused(driver, CHANGES, "EROFS")
            mount.mount("", str(small), "", mount.MS_REMOUNT, "")
            assert [attempt(driver, op).errno for op in CHANGES[:2]] == ["ok", "ok"]
            assert attempt(driver, ("rename", "d", "moved")).errno == "ok"


@pytest.mark.parametrize("engine", ENGINES)
def test_an_upper_that_nobody_may_change(engine: str, served: dict[str, Backend]) -> None:
    """Its root is immutable: EPERM for whoever changes it, while files in it are copied up, with all their marks."""
    lower: Tree = {**LOWER, "one": "linked", "two": HardLink("one")}
    with disk.on_disk() as base:
        stack = lay(base, [lower], upper={"own": {"a": ""}}, features=Features(index=True))
        with served[engine](stack) as driver, immutable(stack.upper):
            numbers = driver.numbers("")
            refused: list[Op] = [("mkdir", "new"), ("create", "new"), ("unlink", "f"), ("rename", "own", "n")]
            check_refused(driver, refused, "EPERM")
            assert attempt(driver, ("create", "own/b", b"x")).errno == "ok"
            assert attempt(driver, ("write", "f", b"copied up")).errno == "ok"
            assert attempt(driver, ("write", "one", b"LINK")).errno == "ok"
            assert attempt(driver, ("write", "two", b"MORE")).errno == "ok"
            assert driver.read("one") == b"MOREed"
        with served[engine](stack) as driver:
            assert driver.numbers("") == numbers == {name: driver.inode(name) for name in numbers}
        with kernel(stack) as driver:
            assert driver.read("f").startswith(b"copied up")
            assert driver.read("two") == driver.read("one") == b"MOREed"


@contextmanager
def immutable(directory: Path | None) -> Iterator[None]:
    assert directory is not None
    fd = os.open(directory, os.O_RDONLY)
    fileops.set_flags(fd, fileops.get_flags(fd) | fileops.FS_IMMUTABLE)
    try:
        yield
    finally:
        fileops.set_flags(fd, fileops.get_flags(fd) & ~fileops.FS_IMMUTABLE)
        os.close(fd)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_lower_layer_on_a_disk_that_cannot_be_read(engine: str, tmp_path: Path, served: dict[str, Backend]) -> None:
    """The end of the disk is gone, and with it the end of a file, until it comes back."""
    data = os.urandom(20 << 20)
    with ext4(tmp_path, 32, "-b", "1024") as top, disk.in_memory() as base:
        lower = disk.write({"f": data, "g": "x"}, top / "lower")
        subprocess.run(["umount", top], check=True)
        # with nothing in the page cache; and should somebody sync, nothing makes the image longer again
        subprocess.run(["mount", "-o", "loop,ro", tmp_path / "image", top], check=True)
        with without_its_end(tmp_path / "image", 16 << 20):
            stack = over(base, lower, base / "mnt")
            with served[engine](stack) as driver:
                for op in (("write", "f", b"new"), ("chmod", "f", 0o600), ("link", "f", "f2"), ("rename", "f", "f3")):
                    assert attempt(driver, op).errno == "EIO", op
                assert attempt(driver, ("read", "f")).errno == "EIO"
                assert sorted(driver.listdir("")) == [("f", "f"), ("g", "f")]
                assert os.listdir(base / "upper") == os.listdir(base / "work/work") == []
                assert attempt(driver, ("write", "g", b"new")).errno == "ok"
        with served[engine](stack) as driver:
            assert attempt(driver, ("write", "f", b"new")).errno == "ok"
            assert driver.read("f") == b"new" + data[3:]


@contextmanager
def without_its_end(image: Path, size: int) -> Iterator[None]:
    """Cut the image off at *size*, and put the rest back in the end."""
    with image.open("r+b") as file:
        file.seek(size)
        rest = file.read()
        file.truncate(size)
        try:
            yield
        finally:
            file.seek(size)
            file.write(rest)


@pytest.mark.parametrize("backend", ["kernel", *ENGINES])
def test_a_quota_that_is_used_up(backend: str, tmp_path: Path, served: dict[str, Backend]) -> None:
    """Of btrfs, for ext4 has quotas only where the kernel was built with them."""
    image, top = tmp_path / "image", tmp_path / "disk"
    top.mkdir()
    with image.open("wb") as file:
        file.truncate(300 << 20)
    subprocess.run(["mkfs.btrfs", "-q", image], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["mount", "-o", "loop", image, top], check=True)
    try:
        for words in ("quota enable .", "quota rescan -w .", "subvolume create s", "qgroup limit 4M s"):
            subprocess.run(["btrfs", *words.split()], check=True, stdout=subprocess.DEVNULL, cwd=top)
        lower = disk.write({"big": os.urandom(8 << 20), "d": {"big": os.urandom(8 << 20)}}, tmp_path / "lower")
        stack = over(top / "s", lower, tmp_path / "mnt")
        with served[backend](stack) as driver:
            ops: list[Op] = [
                ("write", "big", b"x"),
                ("chmod", "d/big", 0o600),
                ("rename", "big", "b"),
                ("link", "big", "b"),
            ]
            check_refused(driver, ops, "EDQUOT")
            subprocess.run(["btrfs", "qgroup", "limit", "none", top / "s"], check=True)
            assert [attempt(driver, op).errno for op in ops[:3]] == ["ok"] * 3
    finally:
        subprocess.run(["umount", top], check=True)
