"""Who competes: the bare directory, the kernel, the peers and ourselves, each behind one interface.

A contender that this machine cannot run says why, and is left out of the table by name. More peers are given as
``UNIONFS_BENCH_PEERS="NAME=/path/to/fuse-overlayfs,..."``.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from benchmarks import daemons

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.rows import Row
    from benchmarks.stacks import Stack

__all__ = [
    "BARE",
    "KERNEL",
    "PEERS_VARIABLE",
    "Bare",
    "Contender",
    "FuseOverlayfs",
    "Kernel",
    "Unionfs",
    "all_contenders",
]

PEERS_VARIABLE = "UNIONFS_BENCH_PEERS"
BARE = "bare"
KERNEL = "kernel"
MOUNT_TIMEOUT_S = 30


class Contender(Protocol):
    """What the harness asks of whoever competes."""

    @property
    def name(self) -> str:
        """The column it gets."""

    def missing(self) -> str | None:
        """Say why this machine cannot run it, or return None."""

    def fits(self, row: Row) -> bool:
        """Whether the row asks something of it that it has."""

    def mount(self, stack: Stack, options: tuple[str, ...], *, read_only: bool = False) -> Path:
        """Mount, and return the directory to work in when that answers."""

    def unmount(self, stack: Stack) -> None:
        """Unmount, and wait until nothing of the mount runs any more."""


@dataclass(frozen=True, slots=True)
class Bare:
    """No union at all: one directory that holds what the union would show."""

    name: str = BARE

    def missing(self) -> str | None:
        return None

    def fits(self, row: Row) -> bool:
        return not row.options and row.work is not None

    def mount(self, stack: Stack, options: tuple[str, ...], *, read_only: bool = False) -> Path:
        """Return the only layer, or a copy of all layers merged."""
        del options, read_only
        if len(stack.lowers) == 1 and not any(stack.upper.iterdir()):
            return stack.lowers[0]
        for layer in (*reversed(stack.lowers), stack.upper):
            run(["cp", "-a", "--remove-destination", f"{layer}/.", stack.mountpoint])
        run(["find", stack.mountpoint, "-type", "c", "-delete"])
        return stack.mountpoint

    def unmount(self, stack: Stack) -> None:
        """Leave the directory to whoever removes the stack."""


class Mounted(ABC):
    """What all contenders that are mounted by a command have in common."""

    def mount(self, stack: Stack, options: tuple[str, ...], *, read_only: bool = False) -> Path:
        """Run the mount command; a path of the stack's own keeps 500 layers within a page of options."""
        writable = () if read_only else (f"upperdir={stack.upper}", f"workdir={stack.work}")
        lowers = ":".join(os.path.relpath(lower, stack.top) for lower in stack.lowers)
        run(self.command(stack, ",".join((f"lowerdir={lowers}", *writable, *options))), cwd=stack.top)
        os.stat(stack.mountpoint)
        return stack.mountpoint

    @abstractmethod
    def command(self, stack: Stack, options: str) -> list[str]:
        """Return the command that mounts, run in the stack's own directory."""

    def unmount(self, stack: Stack) -> None:
        daemons.unmount(stack.mountpoint)


@dataclass(frozen=True, slots=True)
class Kernel(Mounted):
    """The kernel's own overlayfs: what every ratio is taken to."""

    name: str = KERNEL

    def missing(self) -> str | None:
        if os.geteuid() != 0:
            return "mounting overlayfs needs root"
        if "overlay" not in Path("/proc/filesystems").read_text():
            return "this kernel has no overlayfs loaded"
        return None

    def fits(self, row: Row) -> bool:
        del row
        return True

    def command(self, stack: Stack, options: str) -> list[str]:
        return ["mount", "-t", "overlay", "overlay", "-o", options, str(stack.mountpoint)]


@dataclass(frozen=True, slots=True)
class FuseOverlayfs(Mounted):
    """A program with fuse-overlayfs's command line."""

    name: str = "fuse-overlayfs"
    program: str = "fuse-overlayfs"

    def missing(self) -> str | None:
        return None if shutil.which(self.program) else f"there is no program {self.program}"

    def fits(self, row: Row) -> bool:
        return not row.options

    def command(self, stack: Stack, options: str) -> list[str]:
        return [self.program, "-o", options, str(stack.mountpoint)]


@dataclass(frozen=True, slots=True)
class Unionfs(Mounted):
    """Ourselves, with one engine."""

    engine: str

    @property
    def name(self) -> str:
        return f"unionfs {self.engine}"

    def missing(self) -> str | None:
        module = {"direct": "unionfs.fuse.direct", "pyfuse3": "unionfs.fuse.pyfuse3_engine"}.get(self.engine)
        if module is None or importlib.util.find_spec(module) is None:
            return f"there is no engine {self.engine}"
        return None

    def fits(self, row: Row) -> bool:
        del row
        return True

    def command(self, stack: Stack, options: str) -> list[str]:
        program = [sys.executable, "-m", "unionfs", "unionfs", str(stack.mountpoint)]
        return [*program, "-o", f"{options},engine={self.engine}"]


def run(command: Sequence[str | Path], *, cwd: Path | None = None) -> None:
    """Run a program that says nothing unless it fails; a daemon it leaves behind holds no pipe of ours."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if command[0] == sys.executable:  # a peer may be this program as it is installed elsewhere
        environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    with daemons.scratch_file() as said:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            timeout=MOUNT_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            said.seek(0)
            raise OSError(f"{command[0]} exited {done.returncode}: {said.read().decode(errors='replace').strip()}")


def all_contenders() -> list[Contender]:
    """Return everybody who could compete, the bare directory first and ourselves last."""
    given = [pair.partition("=") for pair in os.environ.get(PEERS_VARIABLE, "").split(",") if pair]
    peers = [FuseOverlayfs(name, program) for name, _, program in given]
    return [Bare(), Kernel(), FuseOverlayfs(), *peers, Unionfs("pyfuse3"), Unionfs("direct")]
