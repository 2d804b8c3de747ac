"""Bad input gets one line that names the cause and the cure: no traceback, and nothing left mounted."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounting import PATIENCE_S, Stack
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


@pytest.mark.parametrize("limit", [12, 14, 16, 24])
def test_too_few_descriptors_leave_no_mount_behind(dirs: Stack, limit: int) -> None:
    command = ["prlimit", f"--nofile={limit}:{limit}", *dirs.command("mount", *layers(dirs), dirs.merged)]
    environment = {**os.environ, **dirs.environment}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20, env=environment)
    expect_one_line(dirs, done, f"{limit} open files are too few", "try: ulimit -n")


@pytest.mark.overlayfs
def test_an_index_over_a_layer_without_file_handles(dirs: Stack) -> None:
    layer = made(dirs.directory / "layer")
    mount("overlay", str(layer), "overlay", 0, f"lowerdir={dirs.top}:{dirs.base}")
    try:
        done = dirs.run("mount", *layers(dirs, lower=layer), "-o", "index=on", dirs.merged)
    finally:
        umount(str(layer))
    expect_one_line(dirs, done, f"lowerdir: {layer}: its filesystem has no file handles", "try: index=off")


def test_work_on_another_file_system(dirs: Stack, other_filesystem: Path) -> None:
    done = dirs.run("mount", *layers(dirs, work=other_filesystem), dirs.merged)
    expect_one_line(dirs, done, "another filesystem", "workdir")


def test_work_behind_another_mount(dirs: Stack, other_filesystem: Path) -> None:
    """Of one file system, but rename(2) does not go from mount to mount; the kernel's overlayfs refuses it too."""
    for name in ("upper", "work"):
        (other_filesystem / name).mkdir()
    subprocess.run(["mount", "--bind", other_filesystem / "work", dirs.work], check=True)
    try:
        changes = {"upper": other_filesystem / "upper", "work": dirs.work}
        done = dirs.run("mount", *layers(dirs, **changes), dirs.merged)
        expect_one_line(dirs, done, "through another mount", "workdir")
    finally:
        subprocess.run(["umount", dirs.work], check=True)


def test_an_upper_that_cannot_be_written(dirs: Stack, other_filesystem: Path) -> None:
    for name in ("upper", "work"):
        (other_filesystem / name).mkdir()
    subprocess.run(["mount", "-o", "remount,ro", other_filesystem], check=True)
    changes = {name: other_filesystem / name for name in ("upper", "work")}
    expect_one_line(dirs, dirs.run("mount", *layers(dirs, **changes), dirs.merged), "read-only", "upperdir")


KERNELS: dict[str, tuple[str, str, str, str]] = {
    "the same upper": ("there/u", "there/w", "there/u", "mine"),
    "the same work": ("there/u", "there/w", "mine", "there/w"),
    "ours inside its upper": ("there/u", "there/w", "there/u/in", "mine"),
    "its work inside ours": ("there/u", "there/w/in", "mine", "there/w"),
    "by another name": ("there/u", "there/w", "link/u", "mine"),
    "of a name that is escaped": ("there/u, =\\", "there/w", "there/u, =\\", "mine"),
}
"""Upper and work of a mount of the kernel, then ours."""


def kernel_mount(stack: Stack, upper: Path, work: Path) -> Path:
    """Mount the kernel's overlayfs as a program would that knows how to escape a path."""
    place = made(stack.directory / "kernel")
    escaped = [str(path).replace("\\", "\\\\").replace(",", "\\,") for path in (upper, work)]
    data = f"lowerdir={stack.base},upperdir={escaped[0]},workdir={escaped[1]}"
    mount("overlay", str(place), "overlay", 0, data)
    return place


@pytest.mark.overlayfs
@pytest.mark.parametrize(("upper", "work", "our_upper", "our_work"), KERNELS.values(), ids=KERNELS.keys())
def test_what_a_kernel_mount_writes_in(dirs: Stack, upper: str, work: str, our_upper: str, our_work: str) -> None:
    (dirs.directory / "link").symlink_to("there")
    for name in (upper, work, our_upper, our_work):
        (dirs.directory / name).mkdir(parents=True, exist_ok=True)
    place = kernel_mount(dirs, dirs.directory / upper, dirs.directory / work)
    arguments = layers(dirs, upper=dirs.directory / our_upper, work=dirs.directory / our_work)
    try:
        done = dirs.run("mount", *arguments, dirs.merged)
        expect_one_line(dirs, done, "in use by the kernel's overlay mount", f"try: umount {place},")
    finally:
        umount(str(place))
    assert dirs.run("mount", *arguments, dirs.merged).returncode == 0, "the kernel's mount has gone"


@pytest.mark.overlayfs
def test_a_kernel_mount_beside_ours_is_no_obstacle(dirs: Stack) -> None:
    place = kernel_mount(dirs, made(dirs.directory / "upper2"), made(dirs.directory / "work2"))
    try:
        assert dirs.run("mount", *layers(dirs), dirs.merged).returncode == 0
    finally:
        umount(str(place))


def over_the_upper(stack: Stack, upper: Path) -> list[str]:
    """The arguments of a mount whose lower layer is *upper*, with an index."""
    others = [made(stack.directory / name) for name in ("u2", "w2")]
    return ["--lower", str(upper), "--upper", str(others[0]), "--work", str(others[1]), "-o", "index=on"]


@pytest.mark.overlayfs
def test_a_lower_layer_that_the_kernel_writes_in(dirs: Stack) -> None:
    upper = made(dirs.directory / "there")
    (upper / "inside").mkdir()
    place = kernel_mount(dirs, upper, made(dirs.directory / "theirs"))
    arguments = over_the_upper(dirs, upper)
    try:
        done = dirs.run("mount", *arguments, dirs.merged)
        expect_one_line(dirs, done, f"lowerdir: {upper} is the upperdir of the kernel's overlay mount", "or index=off")
        arguments[1] = str(upper / "inside")
        assert dirs.run("mount", *arguments, dirs.merged).returncode == 0, "nobody has refused what is only inside"
    finally:
        umount(str(place))


def test_a_lower_layer_that_another_union_writes_in(dirs: Stack) -> None:
    dirs.mount()
    arguments, second = over_the_upper(dirs, dirs.upper), made(dirs.directory / "second")
    started = time.monotonic()
    done = dirs.run("mount", *arguments, second)
    assert time.monotonic() - started < PATIENCE_S / 2, "it waited for a mount that stays"
    assert done.returncode == 1
    assert f"lowerdir: {dirs.upper} is the upper layer of another union; try: unmount that one" in done.stderr
    assert not os.path.ismount(second)

    dirs.unmount()
    assert dirs.run("mount", *arguments, dirs.merged).returncode == 0


def test_a_lower_layer_that_another_union_writes_in_where_there_is_no_index(dirs: Stack) -> None:
    dirs.mount()
    second = made(dirs.directory / "second")
    assert dirs.run("mount", *over_the_upper(dirs, dirs.upper)[:-2], second).returncode == 0
    umount(str(second))  # nothing can have failed between


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
