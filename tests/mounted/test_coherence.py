"""Whoever had seen a lower file or directory before its first change sees the change.

A mapping does not under the kernel's overlayfs: it is of the lower file, for ever. The test shows that the
kernel fails and the union passes. Watches and descriptors, which old kernels failed too, are right under both.
"""

import ctypes
import mmap
import os
import select
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mounting import Stack
from unionfs.linux import mount

pytestmark = [pytest.mark.root, pytest.mark.fuse]

IN_MODIFY = 2
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def kernel(stack: Stack) -> Iterator[Path]:
    """The kernel's overlayfs over the same lower layers, with directories of its own."""
    for name in ("upper", "work", "merged"):
        (stack.directory / "kernel" / name).mkdir(parents=True)
    base = stack.directory / "kernel"
    options = f"lowerdir={stack.top}:{stack.base},upperdir={base}/upper,workdir={base}/work"
    mount.mount("overlay", str(base / "merged"), "overlay", 0, options)
    try:
        yield base / "merged"
    finally:
        mount.umount(str(base / "merged"), mount.MNT_DETACH)
        shutil.rmtree(base)


def change(path: Path) -> None:
    with path.open("r+b", buffering=0) as file:
        file.write(b"NEW")


def sees_in_a_mapping(path: Path) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as view:
        assert view[:4] == b"base"
        change(path)
        return view[:3] == b"NEW"


def hears_by_a_watch(path: Path) -> bool:
    fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        assert _libc.inotify_add_watch(fd, os.fsencode(path), IN_MODIFY) >= 0
        change(path)
        if not select.select([fd], [], [], 1)[0]:
            return False
        _, mask = struct.unpack_from("iI", os.read(fd, 4096))
        return bool(mask & IN_MODIFY)
    finally:
        os.close(fd)


def reads_by_an_old_descriptor(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        assert os.pread(fd, 4, 0) == b"base"
        change(path)
        return os.pread(fd, 3, 0) == b"NEW"
    finally:
        os.close(fd)


def test_a_mapping_shows_a_first_change_that_the_kernel_hides(stack: Stack) -> None:
    stack.mount()
    assert sees_in_a_mapping(stack / "base")
    with kernel(stack) as merged:
        assert not sees_in_a_mapping(merged / "base")


@pytest.mark.parametrize("sees", [hears_by_a_watch, reads_by_an_old_descriptor])
def test_watches_and_descriptors_go_on_under_both(stack: Stack, sees: Callable[[Path], bool]) -> None:
    stack.mount()
    assert sees(stack / "base")
    with kernel(stack) as merged:
        assert sees(merged / "base")
    assert (stack.base / "base").read_text() == "base\n"


def test_a_directory_that_becomes_a_merged_one_stops_counting_links(stack: Stack) -> None:
    """Though nobody changes the directory itself: it is copied up for what is in it, two floors down."""
    deep = stack.base / "directory/sub"
    (deep / "sub").mkdir(parents=True)
    (deep / "file").touch()
    names = ("directory", "directory/sub", "directory/sub/sub")

    def links(root: Path) -> list[int]:
        return [(root / name).stat().st_nlink for name in names]

    stack.mount()
    before = links(stack.merged)
    (stack / "directory/sub/file").chmod(0o600)
    found = links(stack.merged)
    with kernel(stack) as merged:
        assert links(merged) == before == [3, 3, 2]
        (merged / "directory/sub/file").chmod(0o600)
        assert links(merged) == found == [1, 1, 2]
