"""A stack of directories to mount with the real command, and what tests ask of the mount.

The command is this checkout's, run with the interpreter of the tests. Its daemon writes to a log of
the stack's own, so that a test can say "and nothing was logged".
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unionfs.fuse.state import Record, read_all, started
from unionfs.linux.mount import MNT_DETACH, MNT_FORCE, mounts, umount

__all__ = ["Stack", "eventually"]

PATIENCE_S = 10.0
"""How long anything may take before a test calls it hung."""

ROOT = Path(__file__).parents[1]

Done = subprocess.CompletedProcess[str]


@dataclass
class Stack:
    """Two lower layers, an upper and a work directory, and a place to mount them."""

    directory: Path
    engine: str = "auto"
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("top", "base", "upper", "work", "merged", "runtime"):
            (self.directory / name).mkdir()
        (self.top / "top").write_text("top\n")
        (self.base / "base").write_text("base\n")
        (self.base / "directory").mkdir()
        self.environment["UNIONFS_LOG"] = str(self.log)
        self.environment["XDG_RUNTIME_DIR"] = str(self.directory / "runtime")

    def __truediv__(self, name: str) -> Path:
        """Return a path in the mount."""
        return self.merged / name

    @property
    def top(self) -> Path:
        return self.directory / "top"

    @property
    def base(self) -> Path:
        return self.directory / "base"

    @property
    def upper(self) -> Path:
        return self.directory / "upper"

    @property
    def work(self) -> Path:
        return self.directory / "work"

    @property
    def merged(self) -> Path:
        return self.directory / "merged"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def options(self) -> str:
        """The stack in the ``-o`` form."""
        layers = f"lowerdir={self.top}:{self.base},upperdir={self.upper},workdir={self.work}"
        return f"{layers},engine={self.engine}"

    @property
    def arguments(self) -> list[str]:
        """The stack in the form of ``unionfs mount``."""
        lowers = [word for path in (self.top, self.base) for word in ("--lower", str(path))]
        return [*lowers, "--upper", str(self.upper), "--work", str(self.work), "--engine", self.engine]

    def command(self, *words: object, program: str = "unionfs") -> list[str]:
        """Return the argument list of one of our programs: ``unionfs``, or ``overlay``, which is unionfs-overlay."""
        start = f"from unionfs.cli import programs; programs.{program}()"
        return [sys.executable, "-c", start, *map(str, words)]

    def run(self, *words: object, program: str = "unionfs", cwd: Path | None = None) -> Done:
        """Run one of our programs until it ends, and its stderr with it."""
        return subprocess.run(
            self.command(*words, program=program),
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment},
            cwd=cwd,
        )

    def mount(self, *words: object) -> None:
        """Mount with the command, and fail the test if that fails."""
        done = self.run("mount", *self.arguments, *words, self.merged)
        assert (done.returncode, done.stderr) == (0, "")

    def mount_overlay(self, options: str = "") -> None:
        done = self.run(self.merged, "-o", self.options + options, program="overlay")
        assert (done.returncode, done.stderr) == (0, "")

    def unmount(self) -> None:
        done = self.run("umount", self.merged)
        assert (done.returncode, done.stderr) == (0, "")

    def record(self) -> Mapping[str, Any]:
        """Return what ``unionfs mounts --json`` says of this mount."""
        found = json.loads(self.run("mounts", "--json", self.merged).stdout)
        assert len(found) == 1
        record: Mapping[str, Any] = found[0]
        return record

    def server(self) -> Record:
        """Return the record of this mount once its process lives: another one may just be taking over."""
        found: list[Record] = []

        def is_served() -> bool:
            found[:] = [record for _, record in read_all() if record.mountpoint == str(self.merged)]
            return bool(found) and started(found[-1].pid) == found[-1].started

        eventually(is_served)
        return found[-1]

    @property
    def pid(self) -> int:
        return int(self.record()["pid"])

    def is_mounted(self) -> bool:
        return any(mount.mountpoint == str(self.merged) for mount in mounts())

    def logged(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def end(self) -> None:
        """Leave nothing mounted, whatever the test did."""
        while self.is_mounted():
            umount(str(self.merged), MNT_FORCE | MNT_DETACH)


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something that happens soon by itself; fail the test if it does not."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
