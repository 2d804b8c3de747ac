"""Layers made by somebody who wants out, on real mounts: nothing outside is touched, nothing hangs, nothing dies.

The attacks are in `tests.mounted.attacks`, one directory each; `tests.mounted.visitor` reads, changes and removes
whatever the mount shows of them. A watch on the directory outside tells whether anybody even opened what is there.
"""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engines import ENGINES
from tests.mounted.attacks import ATTACKS, BELOW, hostile
from tests.profile import LONG
from tests.zygote import Zygote
from unionfs.testing import disk
from unionfs.testing.literal import Dir, Tree
from unionfs.testing.served import Daemon
from unionfs.testing.stack import Features, Stack, lay

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.overlayfs]

PATIENCE_S = 60
"""How long a visit may take; it takes two seconds."""

OUTSIDE = "nobody may read this"
EVERYTHING = Features(index=True, metacopy=True)

IN_ALL_EVENTS = 0xFFF
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def untouched(outside: Path) -> Iterator[None]:
    """Fail if anybody opens, reads, changes, makes or removes anything in *outside* meanwhile."""
    watch = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        for place in (outside, outside / "dir"):
            assert _libc.inotify_add_watch(watch, os.fsencode(place), IN_ALL_EVENTS) >= 0
        yield
        with pytest.raises(BlockingIOError):
            os.read(watch, 4096)
    finally:
        os.close(watch)


def picture(layer: Path) -> dict[bytes, tuple[int, ...]]:
    """Return what would be different if anything in *layer* had been changed."""
    found: dict[bytes, tuple[int, ...]] = {}
    for place, directories, files in os.walk(os.fsencode(layer)):
        for name in (b".", *directories, *files):
            st = os.lstat(os.path.join(place, name))
            found[os.path.join(place, name)] = (st.st_ino, st.st_nlink, st.st_ctime_ns)
    return found


@contextmanager
def mounted(stack: Stack, zygote: Zygote, engine: str, more: str = "") -> Iterator[None]:
    """Mount; the daemon must live to the end, and have logged no error."""
    daemon = Daemon(stack, engine=engine, more=more, launch=zygote.launch)
    try:
        daemon.wait_until_mounted()
        yield
        daemon.stop()
    finally:
        daemon.end()


def visit(stack: Stack, trail: Path) -> None:
    """Let somebody try everything."""
    command = [sys.executable, "-m", "tests.mounted.visitor", str(stack.mountpoint), str(trail)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    steps = trail.read_text()
    assert (done.returncode, done.stderr) == (0, ""), steps[-200:]
    assert OUTSIDE.encode() not in trail.with_name(f"{trail.name}.read").read_bytes()
    assert json.loads(done.stdout)["done"] > 100


def lay_hostile(base: Path, position: str, features: Features) -> tuple[Stack, Path]:
    outside = disk.write({"secret": OUTSIDE, "dir": {"secret": OUTSIDE}}, base / "outside")
    evil, good = hostile(str(outside)), dict.fromkeys(ATTACKS, BELOW)
    layers: dict[str, tuple[list[Tree | Dir], Dir | None]] = {
        "top": ([evil, good], None),
        "middle": ([{name: {} for name in good}, evil, good], None),
        "alone": ([evil], None),
        "upper": ([good, good], evil),
    }
    lower, upper = layers[position]
    return lay(base, lower, upper=upper, features=features), outside


CASES = [
    ("direct", "top", Features(), ""),
    ("direct", "middle", EVERYTHING, ""),
    ("direct", "alone", EVERYTHING, ""),
    ("direct", "upper", EVERYTHING, "xattr_permissions=2"),
    ("direct", "upper", Features(userxattr=True), ""),
    ("pyfuse3", "top", EVERYTHING, "xattr_permissions=1"),
]
"""Where the hostile layer is, and what the union is told to believe."""

if LONG:
    CASES += [
        (engine, position, features, f"xattr_permissions={kept}")
        for engine in ENGINES
        for position in ("top", "middle", "alone", "upper")
        for features in (Features(), EVERYTHING, Features(userxattr=True))
        for kept in (0, 1, 2)
    ]


@pytest.mark.parametrize(
    ("engine", "position", "features", "more"), CASES, ids=[" ".join(map(str, case)) for case in CASES]
)
def test_nothing_in_a_layer_leads_out_of_it(
    engine: str, position: str, features: Features, more: str, zygote: Zygote
) -> None:
    with disk.in_memory() as base:
        stack, outside = lay_hostile(base, position, features)
        lowers = [picture(path) for path in stack.lower]
        with mounted(stack, zygote, engine, more), untouched(outside):
            visit(stack, base / "trail")
        assert [picture(path) for path in stack.lower] == lowers
