"""Which access times change when somebody reads through the union: beside the kernel's overlayfs, option by option."""

import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engines import ENGINES
from tests.mounting import Stack as Supervised
from tests.zygote import Zygote
from unionfs.linux import mount
from unionfs.testing import disk
from unionfs.testing.literal import Symlink, Tree
from unionfs.testing.served import fuse
from unionfs.testing.stack import Stack, kernel, lay, unmount

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.overlayfs]

OPTIONS = ("relatime", "noatime", "nodiratime", "strictatime", "strictatime,nodiratime")

LONG_AGO_NS = 10**18
STATES = ("due", "not-due")
"""To relatime: the time of access is before that of the last change, or after it."""


def entries(where: str) -> Tree:
    files: Tree = {f"{where}-{kind}-{state}": "x" * 5000 for kind in ("read", "mapped") for state in STATES}
    links: Tree = {f"{where}-link-{state}": Symlink("target") for state in STATES}
    directories: Tree = {f"{which}-dir-{state}": {where: "x"} for which in (where, "both") for state in STATES}
    return {**files, **links, **directories}


def laid(base: Path, *, read_only: bool = False) -> Stack:
    stack = lay(base, [entries("lower")], upper=entries("upper"), read_only=read_only)
    for layer in filter(None, (stack.upper, *stack.lower)):
        for path in [layer, *layer.iterdir()]:
            is_due = not path.name.endswith("not-due")
            times = (LONG_AGO_NS if is_due else time.time_ns() + 10**12, LONG_AGO_NS)
            os.utime(path, ns=times, follow_symlinks=False)
    return stack


def read(path: Path) -> None:
    """Have the access time of *path* noted, in the way that its name says."""
    kind = path.name.split("-")[1] if "-" in path.name else "dir"
    if kind == "link":
        assert path.readlink() == Path("target")
    elif kind == "dir":
        assert os.listdir(path)
    else:
        with path.open("rb") as file:
            if kind == "read":
                assert len(file.read()) == 5000
            else:
                with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
                    assert mapping[0] == ord("x")


def noted(stack: Stack, path: Path, act: Callable[[Path], None] = read) -> str:
    """Return where a new access time was seen after *act*: in the union, the upper layer, the lower one."""
    name = path.relative_to(stack.mountpoint)
    places = {"union": path, "upper": (stack.upper or stack.mountpoint) / name, "lower": stack.lower[0] / name}

    def times() -> dict[str, int]:
        return {place: os.lstat(at).st_atime_ns for place, at in places.items() if os.path.lexists(at)}

    before = times()
    time.sleep(0.012)  # file times are as coarse as the kernel's clock tick
    act(path)
    return " ".join(place for place, at in times().items() if at != before[place])


def all_noted(stack: Stack) -> dict[str, tuple[str, str]]:
    """Read everything twice."""
    found = {}
    for name in [".", *sorted(name for name in os.listdir(stack.mountpoint) if name.endswith(STATES))]:
        path = stack.mountpoint / name
        found[name] = (noted(stack, path), noted(stack, path))
    return found


@contextmanager
def mounted(stack: Stack, engine: str, options: str, zygote: Zygote) -> Iterator[None]:
    if engine != "kernel":
        with fuse(stack, engine=engine, more=options, launch=zygote.launch):
            yield
        return
    flags = mount.flag_bits(options.split(","))
    mount.mount("overlay", str(stack.mountpoint), "overlay", flags, stack.options())
    try:
        yield
    finally:
        unmount(stack.mountpoint)


@pytest.mark.parametrize("options", OPTIONS)
def test_as_under_the_kernels_overlayfs(options: str, zygote: Zygote) -> None:
    found = {}
    for engine in ("kernel", *ENGINES):
        with disk.in_memory() as base:
            theirs = (
                "noatime" if "strict" in options else "strictatime"
            )  # of the layers' own mount, which must not count
            mount.mount("", str(base), "", mount.MS_REMOUNT | mount.flag_bits([theirs]), "")
            stack = laid(base)
            with mounted(stack, engine, options, zygote):
                found[engine] = all_noted(stack)
    assert found["direct"] == found["kernel"]
    assert found["pyfuse3"] == found["kernel"]
    assert all("lower" not in where for times in found["kernel"].values() for where in times)
    assert ("noatime" in options) != any(where for times in found["kernel"].values() for where in times)


@pytest.mark.parametrize("engine", ENGINES)
def test_in_a_union_that_cannot_change_nothing_is_noted(engine: str, zygote: Zygote) -> None:
    with disk.in_memory() as base:
        stack = laid(base, read_only=True)
        with fuse(stack, engine=engine, more="strictatime", launch=zygote.launch):
            assert {where for times in all_noted(stack).values() for where in times} == {""}


@pytest.mark.parametrize("engine", ENGINES)
def test_neither_is_an_upper_layer_that_is_mounted_read_only(engine: str, zygote: Zygote) -> None:
    with disk.in_memory() as base:
        stack = laid(base)
        with fuse(stack, engine=engine, more="ro,strictatime", launch=zygote.launch):
            assert {where for times in all_noted(stack).values() for where in times} == {""}


def read_unnoticed(path: Path) -> None:
    with open(os.open(path, os.O_RDONLY | os.O_NOATIME), "rb") as file:
        assert len(file.read()) == 5000


def write_and_read(path: Path) -> None:
    path.write_bytes(b"x" * 5000)
    read(path)


@pytest.mark.parametrize("options", ["relatime", "strictatime", "noatime"])
@pytest.mark.parametrize("act", [read_unnoticed, write_and_read])
def test_who_wants_to_read_unnoticed_and_who_reads_what_he_wrote(
    act: Callable[[Path], None], options: str, zygote: Zygote
) -> None:
    """What was just written is in a cache, from which it could be read without anybody noting it."""
    found = {}
    for engine in ("kernel", *ENGINES):
        with disk.in_memory() as base:
            stack = laid(base)
            with mounted(stack, engine, options, zygote):
                paths = [stack.mountpoint / f"upper-read-{state}" for state in STATES]
                found[engine] = [noted(stack, path, act) for path in (*paths, *paths)]
    assert found["direct"] == found["kernel"]
    assert found["pyfuse3"] == found["kernel"]


@pytest.mark.parametrize("engine", ENGINES)
def test_what_else_is_mounted_in_a_layer_is_not_seen_and_changes_nothing(engine: str, zygote: Zygote) -> None:
    """As under the kernel's overlayfs: a mount of our own has not what is mounted in the original."""
    with disk.in_memory() as base:
        stack = laid(base)
        assert stack.upper is not None
        for layer in (stack.upper, stack.lower[0]):
            (layer / layer.name).mkdir()
            mount.mount("tmpfs", str(layer / layer.name), "tmpfs", 0, "")
            (layer / layer.name / "inside").touch()
        try:
            with kernel(stack) as driver:
                assert driver.listdir("upper") == driver.listdir("l0") == []
            with fuse(stack, engine=engine, more="noatime", launch=zygote.launch) as driver:
                assert driver.listdir("upper") == driver.listdir("l0") == []
                assert {where for where in all_noted(stack).values() if where != ("", "")} == set()
        finally:
            for layer in (stack.upper, stack.lower[0]):
                mount.umount(str(layer / layer.name))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_layers_are_reached_when_nothing_else_leads_to_them_any_more(engine: str, zygote: Zygote) -> None:
    """As under the kernel's overlayfs, which has mounts of its own as well."""
    found = {}
    for each in ("kernel", engine):
        with disk.in_memory() as outer:
            inner = outer / "inner"
            inner.mkdir()
            mount.mount("tmpfs", str(inner), "tmpfs", 0, "")
            stack = laid(inner)
            stack = replace(stack, mountpoint=outer / "mnt")
            stack.mountpoint.mkdir()
            with mounted(stack, each, "", zygote):
                mount.umount(str(inner))
                (stack.mountpoint / "lower-read-due").rename(stack.mountpoint / "both-dir-due/moved")
                (stack.mountpoint / "upper-dir-due/more").write_text("more")
                found[each] = sorted(path.name for path in stack.mountpoint.rglob("*"))
    assert found[engine] == found["kernel"]
    assert "moved" in found["kernel"]


@pytest.mark.parametrize(("options", "where"), [("noatime", ""), ("strictatime", "union upper")])
def test_a_process_that_takes_the_mount_over_goes_on_with_it(options: str, where: str, tmp_path: Path) -> None:
    """It is told the options, and given descriptors of the layers that are in mounts of the first one's own."""
    stack = laid(tmp_path / "layers")
    supervised = Supervised(tmp_path, engine="direct")
    layers = f"lowerdir={stack.lower[0]},upperdir={stack.upper},workdir={stack.work}"
    done = supervised.run("-o", f"{layers},supervise,{options}", stack.mountpoint, program="overlay")
    assert (done.returncode, done.stderr) == (0, "")
    try:
        assert supervised.run("restart", stack.mountpoint).returncode == 0
        for name in ("upper-read-due", "upper-link-due", "upper-dir-due"):
            assert noted(stack, stack.mountpoint / name) == where
        assert noted(stack, stack.mountpoint / "lower-link-due") == ""
        (stack.mountpoint / "lower-read-due").rename(stack.mountpoint / "both-dir-due/moved")
    finally:
        assert supervised.run("umount", stack.mountpoint).returncode == 0
