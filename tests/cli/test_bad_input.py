"""Bad input gets one line that names the cause and the cure: no traceback, and nothing left mounted."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounting import Stack
from unionfs.linux.mount import mount, umount

pytestmark = [pytest.mark.root, pytest.mark.fuse]


@pytest.fixture
def other_filesystem(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "other"
    place.mkdir()
    mount("tmpfs", str(place), "tmpfs", 0, "size=1m")
    yield place
    umount(str(place))


Words = Callable[[Stack], list[object]]


def layers(stack: Stack, **changes: object) -> list[object]:
    """Return good arguments, but for *changes*; None leaves one out."""
    values = {"lower": stack.base, "upper": stack.upper, "work": stack.work, **changes}
    return [word for name, value in values.items() if value is not None for word in (f"--{name}", value)]


CASES: dict[str, tuple[Words, str, str]] = {
    "a missing layer": (lambda s: [*layers(s, lower=s.directory / "none"), s.merged], "does not exist", "lowerdir"),
    "a layer that is a file": (lambda s: [*layers(s, lower=s.top / "top"), s.merged], "not a directory", "lowerdir"),
    "a missing upper": (lambda s: [*layers(s, upper=s.directory / "none"), s.merged], "does not exist", "upperdir"),
    "no work": (lambda s: [*layers(s, work=None), s.merged], "workdir is missing", "name both"),
    "no layer": (lambda s: [*layers(s, lower=None), s.merged], "at least one lower layer", "try:"),
    "upper inside a lower": (lambda s: [*layers(s, upper=s.base / "directory"), s.merged], "inside", "upperdir"),
    "work inside upper": (lambda s: [*layers(s, work=made(s.upper / "w")), s.merged], "inside", "workdir"),
    "a mountpoint inside a layer": (lambda s: [*layers(s), s.base / "directory"], "inside the layer", "try:"),
    "a missing mountpoint": (lambda s: [*layers(s), s.merged / "none"], "no such directory", "try: mkdir"),
    "a mountpoint that is a file": (lambda s: [*layers(s), made_file(s.directory / "f")], "not a directory", "f:"),
    "no mountpoint": (layers, "mountpoint is missing", "--help"),
    "an unknown option": (lambda s: [*layers(s), "-o", "metacpy=on", s.merged], "unknown option", "try: metacopy"),
    "a malformed option": (lambda s: [*layers(s), "-o", "index=5", s.merged], "index: '5'", "on nor off"),
    "a contradiction": (
        lambda s: [*layers(s), "-o", "metacopy=on,redirect_dir=off", s.merged],
        "metacopy=on needs redirect_dir=on",
        "because",
    ),
}


def made(path: Path) -> Path:
    path.mkdir()
    return path


def made_file(path: Path) -> Path:
    path.touch()
    return path


def expect_one_line(stack: Stack, done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode in {1, 2}
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("unionfs: error: ")
    for word in words:
        assert word in done.stderr
    assert not stack.is_mounted()


@pytest.mark.parametrize(("words", "cause", "cure"), CASES.values(), ids=CASES.keys())
def test_one_line(dirs: Stack, words: Words, cause: str, cure: str) -> None:
    expect_one_line(dirs, dirs.run("mount", *words(dirs)), cause, cure)


def test_work_on_another_file_system(dirs: Stack, other_filesystem: Path) -> None:
    done = dirs.run("mount", *layers(dirs, work=other_filesystem), dirs.merged)
    expect_one_line(dirs, done, "another filesystem", "workdir")


def test_an_upper_that_cannot_be_written(dirs: Stack, other_filesystem: Path) -> None:
    for name in ("upper", "work"):
        (other_filesystem / name).mkdir()
    subprocess.run(["mount", "-o", "remount,ro", other_filesystem], check=True)
    changes = {name: other_filesystem / name for name in ("upper", "work")}
    expect_one_line(dirs, dirs.run("mount", *layers(dirs, **changes), dirs.merged), "read-only", "upperdir")


def test_no_dev_fuse(dirs: Stack) -> None:
    """In a mount namespace of its own, where an empty file stands in its place."""
    for engine in ("direct", "pyfuse3"):
        inner = dirs.command("mount", *layers(dirs), "--engine", engine, dirs.merged)
        hide = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /dev && exec "$@"', str(dirs.top)]
        done = subprocess.run(
            [*hide, *inner],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        expect_one_line(dirs, done, "/dev/fuse", "try: modprobe fuse")


def test_an_unknown_command(dirs: Stack) -> None:
    expect_one_line(dirs, dirs.run("mout"), "there is no command 'mout'", "try: unionfs --help")


def test_unmounting_what_is_not_mounted(dirs: Stack) -> None:
    expect_one_line(dirs, dirs.run("umount", dirs.merged), "no unionfs is mounted there", "try: unionfs mounts")


def test_unmounting_what_is_not_ours(dirs: Stack, other_filesystem: Path) -> None:
    expect_one_line(dirs, dirs.run("umount", other_filesystem), "no unionfs is mounted there")
    assert os.path.ismount(other_filesystem)
