"""Layers of random objects with random marks: whatever they say, nothing but an errno comes of it, and promises hold.

`tests.core.test_hostile` has the attacks that somebody thought of; these are those that nobody did.
"""

import contextlib
import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.core.stacks import PREFIX, Stack
from tests.core.test_hostile import try_everything
from tests.profile import LONG
from unionfs.testing import disk

pytestmark = pytest.mark.root

ROUNDS = 1000 if LONG else 25

NAMES = ("a", "b", "c", ".wh.a", ".wh.b", ".wh..wh..opq")
PATHS = (b"/a", b"/b/a", b"/a/b/c", b"/c/c", b"a", b"b", b"../a", b"/a/../b", b"/", b"")
MARKS: dict[str, tuple[bytes, ...]] = {
    "opaque": (b"y", b"x", b"y", b"", b"z"),
    "redirect": PATHS,
    "metacopy": (b"", b"", b"\0\4\0\0", b"junk"),
    "nlink": (b"U+1", b"L-1", b"U-5", b"x"),
    "origin": (b"", b"\0\xfb\x1d\0\1" + bytes(24), b"junk"),
    "protattr": (b"i", b"a", b"q"),
    "impure": (b"y",),
    "whiteout": (b"y", b""),
    "upper": (b"junk",),
}
OWNERS = (b"0:0:4755", b"5:6:644:char-1-3", b"0:0:755:dir", b"x", b"1:1:600:pipe", b"7:7:644:file")
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"index": True},
    {"metacopy": True},
    {"index": True, "metacopy": True},
    {"userxattr": True},
    {"xattr_permissions": 1, "metacopy": True},
    {"xattr_permissions": 2, "index": True},
)


class Layer:
    """What makes one random layer, as `Stack` wants it."""

    def __init__(self, choose: random.Random) -> None:
        self._choose = choose
        self._files: list[Path] = []

    def __call__(self, path: Path, depth: int = 3) -> None:
        path.mkdir()
        for name in NAMES:
            if self._choose.random() < 0.55:
                self._make(path / name, depth)

    def _make(self, path: Path, depth: int) -> None:
        kinds = ("directory",) * (9 if depth else 0) + ("file",) * 5 + ("whiteout", "link", "symlink", "fifo", "device")
        match self._choose.choice(kinds):
            case "directory":
                self(path, depth - 1)
            case "file":
                path.write_bytes(b"x" * self._choose.choice((0, 0, 10, 5000)))
                self._files.append(path)
            case "link" if self._files:
                os.link(self._choose.choice(self._files), path)
            case "symlink":
                path.symlink_to(self._choose.choice(("a", "..", "../..", "/etc", "b/c")))
            case "fifo":
                os.mkfifo(path)
            case "device":
                os.mknod(path, 0o020600, os.makedev(1, 3))
            case _:
                os.mknod(path, 0o020000, 0)
        self._mark(path)

    def _mark(self, path: Path) -> None:
        marks = {PREFIX + mark: values for mark, values in MARKS.items()}
        for name, values in {**marks, "user.containers.override_stat": OWNERS}.items():
            if self._choose.random() < 0.2:
                with contextlib.suppress(OSError):  # a user's attribute on what takes none
                    os.setxattr(path, name, self._choose.choice(values), follow_symlinks=False)


@pytest.mark.parametrize("seed", range(4))
def test_random_layers_give_errors_and_no_more(seed: int) -> None:
    choose = random.Random(seed)
    for _ in range(ROUNDS):
        options = dict(choose.choice(OPTIONS))
        with disk.in_memory() as base:
            lowers = tuple(Layer(choose) for _ in range(choose.randrange(1, 4)))
            stack = Stack(base, lowers, Layer(choose), options)
            for _ in range(2):
                try_everything(stack)
                stack.forget_all()
                stack.remount()
            stack.check_promises()
