"""Which set-id bits a change of the data leaves, by whoever makes it: as under the kernel's overlayfs."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from stat import S_IMODE

import pytest

from tests.engines import backends
from unionfs.linux import fileops
from unionfs.testing import disk
from unionfs.testing.literal import File, Tree
from unionfs.testing.mounted import acting_as
from unionfs.testing.stack import Backend, Features, kernel, lay

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.overlayfs]

MODES = (0o6666, 0o6777, 0o4666, 0o2666, 0o2676)
WHO = {"root": (0, ()), "a member of the group": (7, (5,)), "another": (7, ())}


def opened(flags: int, act: Callable[[int], object]) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        fd = os.open(path, flags)
        try:
            act(fd)
        finally:
            os.close(fd)

    return run


def copy_into(fd: int) -> None:
    source = os.open(os.path.dirname(os.readlink(f"/proc/self/fd/{fd}")) + "/source", os.O_RDONLY)
    try:
        os.copy_file_range(source, fd, 10, 0, 0)
    finally:
        os.close(source)


def zero_a_range_of_tmpfs(fd: int) -> None:
    with pytest.raises(OSError, match="not supported"):
        fileops.fallocate(fd, 0x11, 0, 4096)


ACTS: dict[str, Callable[[Path], None]] = {
    "write": opened(os.O_RDWR, lambda fd: os.pwrite(fd, b"x", 0)),
    "append": opened(os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, b"x")),
    "truncate": lambda path: os.truncate(path, 3),
    "ftruncate": opened(os.O_RDWR, lambda fd: os.ftruncate(fd, 2)),
    "open with O_TRUNC": opened(os.O_WRONLY | os.O_TRUNC, lambda fd: None),
    "fallocate": opened(os.O_RDWR, lambda fd: fileops.fallocate(fd, 0, 0, 9000)),
    "punch a hole": opened(os.O_RDWR, lambda fd: fileops.fallocate(fd, 3, 0, 4096)),
    "fallocate that fails": opened(os.O_RDWR, zero_a_range_of_tmpfs),
    "copy_file_range": opened(os.O_WRONLY, copy_into),
    "chgrp": lambda path: os.chown(path, -1, 7),
    "chown to the owner": lambda path: os.chown(path, 7, -1),
}


@pytest.fixture(scope="module")
def direct() -> Iterator[Backend]:
    with backends() as found:
        yield found["direct"]


def left_by(backend: Backend, base: Path, act: Callable[[Path], None]) -> dict[tuple[str, int, str], int]:
    """Let everybody do *act*, to a lower file of each mode and to an upper one, and return the modes after it."""
    names = {f"{who}-{mode:o}": File(b"data" * 500, mode=mode, uid=7, gid=5) for who in WHO for mode in MODES}
    tree: Tree = {**names, "source": "0123456789"}
    left = {}
    with backend(lay(base, [tree], features=Features())) as driver:
        root = base / "mnt"
        for where in ("lower", "upper"):
            for who, (uid, groups) in WHO.items():
                for mode in MODES:
                    path = root / f"{who}-{mode:o}"
                    driver.chmod(path.name, mode) if where == "upper" else driver.lstat(path.name)
                    with acting_as(uid, uid, groups):
                        act(path)
                    left[who, mode, where] = S_IMODE(path.stat().st_mode)
    return left


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
def test_the_same_bits_are_left(act: Callable[[Path], None], direct: Backend) -> None:
    seen = []
    for backend in (direct, kernel):
        with disk.in_memory() as base:
            seen.append(left_by(backend, base, act))
    assert seen[0] == seen[1]
