"""The directories that a row stands on, and the trees that fill them.

The ordinary tree is shaped like a small image: a base with nearly everything, a layer above it that replaces a tenth
and adds a tenth, and one above that which deletes a little. So most directories are in one layer and some are merged,
as in real images; a tree with every directory in every layer would measure merging alone.
"""

from __future__ import annotations

import os
import random
import stat
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.rows import names

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Stack", "image", "make_files", "make_tree", "nothing"]

FILES_PER_DIRECTORY = 10
SIZES = (0, 200, 1_000, 3_000, 4_096, 9_000, 20_000, 65_000, 200_000, 700_000)
"""Bytes; drawn with the weights below: as in a Debian root, half of the files are below 3 KB, and the mean is 20 KB."""

WEIGHTS = (5, 20, 25, 18, 12, 8, 5, 3, 3, 1)


@dataclass(slots=True)
class Stack:
    """Lower layers, an upper, a workdir and a mountpoint below one directory."""

    top: Path
    scale: float = 1.0
    lowers: list[Path] = field(default_factory=list)
    """Top layer first, as in lowerdir=."""

    upper: Path = field(init=False)
    work: Path = field(init=False)
    mountpoint: Path = field(init=False)

    def __post_init__(self) -> None:
        self.top.mkdir(parents=True)
        self.upper, self.work, self.mountpoint = (self.top / name for name in ("upper", "work", "merged"))
        for directory in (self.upper, self.work, self.mountpoint):
            directory.mkdir()

    def count(self, full: int) -> int:
        """Scale a number of things, down to one at least."""
        return max(1, round(full * self.scale))

    def add_lower(self) -> Path:
        """Make a new layer above the lowers that are there."""
        lower = self.top / f"l{len(self.lowers)}"
        lower.mkdir()
        self.lowers.insert(0, lower)
        return lower

    def remove(self) -> None:
        """Remove what is there; what a mount that could not be undone still holds goes with the filesystem.

        By rm, which goes down 1,000 directories without recursion.
        """
        subprocess.run(["rm", "-rf", "--one-file-system", str(self.top)], check=False, capture_output=True)


def nothing(stack: Stack) -> None:
    """Make one empty lower layer."""
    stack.add_lower()


def make_files(directory: Path, count: int, size: int = 4_096, prefix: str = "f") -> None:
    """Make *count* files of *size* bytes in one directory."""
    directory.mkdir(parents=True, exist_ok=True)
    content = os.urandom(size)
    place = os.open(directory, os.O_PATH)
    for name in names(count, prefix):
        fd = os.open(name, os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=place)
        os.write(fd, content)
        os.close(fd)
    os.close(place)


def make_big_file(path: Path, size: int) -> None:
    """Make one file of *size* bytes of data that is no hole and does not compress."""
    chunk = os.urandom(1 << 20)
    with path.open("wb", buffering=0) as file:
        while size > 0:
            size -= file.write(chunk[:size])


def tree_paths(files: int) -> list[str]:
    """Return the files of a tree, `FILES_PER_DIRECTORY` each in directories two levels deep."""
    parents = max(1, files // FILES_PER_DIRECTORY // 10)
    return [
        f"d{number // FILES_PER_DIRECTORY % parents:03d}/s{number // FILES_PER_DIRECTORY:04d}/f{number:07d}"
        for number in range(files)
    ]


def make_tree(top: Path, files: int, seed: int = 1) -> None:
    """Make *files* files of mixed sizes and contents below *top*; the same seed makes the same tree."""
    rng = random.Random(seed)
    content = rng.randbytes(max(SIZES))
    for path, size in zip(tree_paths(files), rng.choices(SIZES, WEIGHTS, k=files), strict=True):
        put(top / path, (path.encode() + content)[:size])


def put(path: Path, content: bytes) -> None:
    """Write one file, with the directories it needs."""
    try:
        path.write_bytes(content)
    except FileNotFoundError:
        path.parent.mkdir(parents=True)
        path.write_bytes(content)


def image(stack: Stack) -> None:
    """Make the ordinary tree: 2,400 files in a base, 10 % replaced and 10 % added above it, 1 % deleted above that."""
    files = stack.count(2_400)
    paths = tree_paths(files)
    base, update, deletion = stack.add_lower(), stack.add_lower(), stack.add_lower()
    make_tree(base, files)
    for path in paths[: files // 10]:
        put(update / path, b"replaced")
        put(update / f"{path}.new", b"added")
    for path in paths[files // 10 : files // 10 + files // 100]:
        (deletion / path).parent.mkdir(parents=True, exist_ok=True)
        os.mknod(deletion / path, stat.S_IFCHR, os.makedev(0, 0))
