"""The flags of chattr(1), over tmpfs and ext4."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.engines import backends
from unionfs.linux import fileops
from unionfs.testing import disk
from unionfs.testing.driver import attempt
from unionfs.testing.stack import Backend, Stack, kernel, lay

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.overlayfs]

FORBIDDEN = [("write", "f", b"x"), ("unlink", "f"), ("chmod", "f", 0o600), ("rename", "f", "g"), ("link", "f", "g")]

Ground = Callable[[], AbstractContextManager[Path]]


@pytest.fixture(scope="module")
def direct() -> Iterator[Backend]:
    with backends() as found:
        yield found["direct"]


@pytest.fixture(params=[disk.in_memory, disk.on_ext4], ids=["tmpfs", "ext4"])
def base(request: pytest.FixtureRequest) -> Iterator[Path]:
    ground: Ground = request.param
    with ground() as path:
        yield path


def test_flags_are_enforced_and_last(base: Path, direct: Backend) -> None:
    stack = lay(base, [{"f": "data"}])
    for flag in (fileops.FS_IMMUTABLE, fileops.FS_APPEND):
        with direct(stack) as driver:
            assert attempt(driver, ("setflags", "f", flag)).errno == "ok"
        for backend in (direct, kernel):
            with backend(stack) as driver:
                assert attempt(driver, ("getflags", "f")).value == flag
                assert [attempt(driver, op).errno for op in FORBIDDEN] == ["EPERM"] * len(FORBIDDEN)
                appended = attempt(driver, ("write", "f", b"x", 0, os.O_APPEND)).errno
                assert appended == ("ok" if flag == fileops.FS_APPEND else "EPERM")
        lift(direct, stack)


def lift(backend: Backend, stack: Stack) -> None:
    with backend(stack) as driver:
        assert attempt(driver, ("setflags", "f", 0)).errno == "ok"
        assert attempt(driver, ("chmod", "f", 0o644)).errno == "ok"


def test_a_union_whose_root_is_immutable_is_mounted_again(base: Path, direct: Backend) -> None:
    stack = lay(base, [{"f": "data"}])
    with direct(stack) as driver:
        assert attempt(driver, ("setflags", "", fileops.FS_IMMUTABLE)).errno == "ok"
    with direct(stack) as driver:
        assert attempt(driver, ("create", "g")).errno == "EPERM"
        assert attempt(driver, ("setflags", "", 0)).errno == "ok"
        assert attempt(driver, ("create", "g")).errno == "ok"
