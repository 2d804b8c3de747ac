"""What lies below the layers: a tmpfs or an ext4 of this run's own, so that nothing else on the disk is measured."""

from __future__ import annotations

import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BASES", "base"]

BASES = ("tmpfs", "ext4", "here")
EXT4_BYTES = 6 << 30
"""A sparse image: what is not written costs nothing."""


@contextmanager
def base(kind: str) -> Iterator[Path]:
    """Mount a fresh filesystem of one kind for the time of the block; ``here`` is a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="unionfs-bench-") as made:
        top = Path(made)
        if kind == "here":
            yield top
            return
        place = top / "base"
        place.mkdir()
        if kind == "tmpfs":
            mount = ["mount", "-t", "tmpfs", "-o", "size=8g,nr_inodes=4m", "tmpfs"]
        else:
            image = top / "image"
            with image.open("wb") as file:
                file.truncate(EXT4_BYTES)
            call("mkfs.ext4", "-q", "-F", "-i", "8192", "-E", "lazy_itable_init=1,lazy_journal_init=1", str(image))
            mount = ["mount", "-o", "loop,noinit_itable", str(image)]
        call(*mount, str(place))
        try:
            yield place
        finally:
            if subprocess.run(["umount", str(place)], check=False, capture_output=True).returncode != 0:
                call("umount", "-l", str(place))


def call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
