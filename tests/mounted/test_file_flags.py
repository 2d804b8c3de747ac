"""What a file keeps besides its modes and times: flags of chattr(1), and when it was made. Over tmpfs and ext4."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.engines import backends
from unionfs.linux import at, fileops
from unionfs.testing import disk
from unionfs.testing.driver import Driver, attempt
from unionfs.testing.stack import Backend, Stack, kernel, lay

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.overlayfs]

FORBIDDEN = [("write", "f", b"x"), ("unlink", "f"), ("chmod", "f", 0o600), ("rename", "f", "g"), ("link", "f", "g")]

Ground = Callable[[], AbstractContextManager[Path]]


@pytest.fixture(scope="module")
def direct() -> Iterator[Backend]:
    with backends() as found:
        yield found["direct"]


@pytest.fixture(params=[disk.in_memory, disk.on_disk], ids=["tmpfs", "ext4"])
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


def test_flags_that_the_kernel_wrote_down_are_enforced(base: Path, direct: Backend) -> None:
    stack = lay(base, [{"f": "data", "d": {"x": "1", "e": {}}}], upper={"u": "data"})
    with kernel(stack) as driver:
        for name in ("f", "u", "d"):
            assert attempt(driver, ("setflags", name, fileops.FS_IMMUTABLE)).errno == "ok"
    refused = [*FORBIDDEN, ("truncate", "f", 0), ("setxattr", "f", "user.k", b"v"), ("utime", "f", 1, 1)]
    refused += [(op[0], "u", *op[2:]) for op in refused]
    refused += [("create", "d/n"), ("unlink", "d/x"), ("rmdir", "d/e"), ("rename", "d/x", "x"), ("chmod", "d", 0o700)]
    for op in refused:  # each by a union that knows nothing yet
        with direct(stack) as driver:
            assert attempt(driver, op).errno == "EPERM", op
    with direct(stack) as driver:
        assert attempt(driver, ("chmod", "d/x", 0o600)).errno == "ok"
        for name in ("f", "u", "d"):
            assert attempt(driver, ("setflags", name, 0)).errno == "ok"
            assert attempt(driver, ("chmod", name, 0o700)).errno == "ok"
    with kernel(stack) as driver:
        assert [attempt(driver, ("getflags", name)).value for name in ("f", "u", "d")] == [0, 0, 0]


def test_the_kernel_works_with_flags_that_were_set_here(base: Path, direct: Backend) -> None:
    stack = lay(base, [{"d": {"f": "1", "g": "2"}, "h": "3", "k": "4"}])
    with direct(stack) as driver:
        for name in ("d", "h", "k"):
            assert attempt(driver, ("setflags", name, fileops.FS_IMMUTABLE)).errno == "ok"
    with kernel(stack) as driver:
        refused = [("create", "d/n"), ("unlink", "d/f"), ("write", "h", b"N"), ("unlink", "h")]
        assert [attempt(driver, op).errno for op in refused] == ["EPERM"] * 4
        done = [("chmod", "d/f", 0o600), ("write", "d/g", b"N"), ("setflags", "h", 0), ("write", "h", b"N")]
        assert [attempt(driver, op).errno for op in done] == ["ok"] * 4
    with direct(stack) as driver:
        assert [attempt(driver, ("write", name, b"N")).errno for name in ("h", "d/g", "k")] == ["ok", "ok", "EPERM"]
        assert [attempt(driver, op).errno for op in (("unlink", "d/f"), ("unlink", "k"))] == ["EPERM", "EPERM"]
        for name in ("d", "k"):
            assert attempt(driver, ("setflags", name, 0)).errno == "ok"


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


def born(driver: Driver, stack: Stack, name: str) -> int | None:
    driver.lstat(name)
    fd = os.open(stack.mountpoint, os.O_PATH)
    try:
        return at.birth_time_ns(fd, name.encode())
    finally:
        os.close(fd)


def test_birth_times_are_those_of_the_files_that_are_shown(base: Path, direct: Backend) -> None:
    stack = lay(base, [{"f": "data", "d": {}, "s": "small"}], upper={"u": "upper"})
    names = ("f", "d", "s", "u")
    seen = []
    for step in ("before", "after"):
        for backend in (direct, kernel):
            with backend(stack) as driver:
                seen.append([born(driver, stack, name) for name in names])
        if step == "before":
            with direct(stack) as driver:
                driver.chmod("f", 0o600)
    assert None not in seen[0]
    assert seen[0] == seen[1]
    assert seen[2] == seen[3]
    assert [name for name, old, new in zip(names, seen[0], seen[2], strict=True) if old != new] == ["f"]


def test_files_in_an_immutable_directory_are_changed(base: Path, direct: Backend) -> None:
    stack = lay(base, [{"d": {"f": "data", "e": {"g": "data"}}}])
    with direct(stack) as driver:
        assert attempt(driver, ("setflags", "d", fileops.FS_IMMUTABLE)).errno == "ok"
    for backend in (direct, kernel):
        with backend(stack) as driver:
            for op in (("chmod", "d/f", 0o600), ("write", "d/e/g", b"D"), ("create", "d/e/n", b"", 0o644, 0)):
                assert attempt(driver, op).errno == "ok"
            refused = [
                attempt(driver, op).errno for op in (("unlink", "d/f"), ("create", "d/n"), ("rename", "d/e", "e"))
            ]
            assert refused == ["EPERM"] * 3
            assert driver.read("d/e/g") == b"Data"
            assert attempt(driver, ("getflags", "d")).value == fileops.FS_IMMUTABLE


def test_the_kernel_finds_what_is_in_a_directory_that_was_made_immutable_here(base: Path, direct: Backend) -> None:
    stack = lay(base, [{"d": {"e": {"low": ""}}}], upper={"d": {"e": {"up": ""}, "n": {}}})
    with direct(stack) as driver:
        assert attempt(driver, ("setflags", "d/e", fileops.FS_APPEND)).errno == "ok"
        assert attempt(driver, ("setflags", "d", fileops.FS_IMMUTABLE)).errno == "ok"
    for backend in (kernel, direct):
        with backend(stack) as driver:
            assert sorted(driver.listdir("d")) == [("e", "d"), ("n", "d")]
            assert sorted(driver.listdir("d/e")) == [("low", "f"), ("up", "f")]


@pytest.mark.parametrize("engine", ["direct", "kernel"])
def test_flags_are_asked_for_first(base: Path, direct: Backend, engine: str) -> None:
    stack = lay(base, [{"f": "data", "d": {"full": {"x": ""}}, "e": {}}])
    with (kernel if engine == "kernel" else direct)(stack) as driver:
        before = driver.lstat("f").st_ctime_ns
        assert attempt(driver, ("setflags", "f", fileops.FS_APPEND)).errno == "ok"
        assert attempt(driver, ("setflags", "d", fileops.FS_IMMUTABLE)).errno == "ok"
        assert driver.lstat("f").st_ctime_ns > before
        assert attempt(driver, ("touch", "f")).errno == "ok"
        refused = [("utime", "f", 1, 1), ("touch", "d"), ("rmdir", "d/full"), ("rmdir", "d"), ("rename", "e", "d")]
        assert [attempt(driver, op).errno for op in refused] == ["EPERM"] * len(refused)
        assert attempt(driver, ("setflags", "f", 0)).errno == "ok"
        assert attempt(driver, ("setflags", "d", 0)).errno == "ok"


def test_nothing_goes_from_a_directory_that_is_append_only_or_immutable(base: Path, direct: Backend) -> None:
    stack = lay(base, [{"d": {"f": "data", "e": {}}}])
    assert stack.upper is not None
    for flag in (fileops.FS_APPEND, fileops.FS_IMMUTABLE):
        with direct(stack) as driver:
            assert attempt(driver, ("setflags", "d", flag)).errno == "ok"
        for backend in (direct, kernel):
            with backend(stack) as driver:
                going = (("unlink", "d/f"), ("rmdir", "d/e"), ("rename", "d/f", "f"))
                assert [attempt(driver, op).errno for op in going] == ["EPERM"] * 3
    with direct(stack) as driver:
        assert attempt(driver, ("unlink", "d/f")).errno == "EPERM"
        assert attempt(driver, ("setflags", "d", 0)).errno == "ok"
        assert attempt(driver, ("unlink", "d/f")).errno == "ok"
    assert (stack.upper / "d/f").is_char_device()  # a refusal is no reason for the other form of whiteouts
