"""The driver for our own mount: a daemon in the foreground of a process of its own.

    with fuse(stack, engine="direct") as driver:
        driver.mkdir("d")

A daemon must end by itself when its mount goes, and may not have logged an error by then; whatever
happens, neither the process nor the mount outlives the block.
"""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol, final

from unionfs.linux import mount
from unionfs.linux.answers import answers
from unionfs.testing.driver import Driver
from unionfs.testing.mounted import Mounted
from unionfs.testing.stack import Stack

__all__ = ["Daemon", "Launch", "Running", "fuse", "run_python"]

PATIENCE_S: Final = 20.0
"""How long a daemon may take to mount, or to end, on a machine with much else to do."""

POLL_S: Final = 0.002


class Running(Protocol):
    """What is asked of a process; `subprocess.Popen` has it."""

    pid: int

    def poll(self) -> int | None: ...
    def kill(self) -> None: ...


Launch = Callable[[Sequence[str], Path], Running]
"""Start ``unionfs ARGUMENTS`` with its output in a file."""


def run_python(arguments: Sequence[str], log: Path) -> Running:
    """Start the command as users do: a fresh interpreter."""
    command = [sys.executable, "-m", "unionfs", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, cwd="/", env=environment)


@final
class Daemon:
    """One mount of *stack* and the process that serves it."""

    def __init__(self, stack: Stack, *, engine: str = "auto", more: str = "", launch: Launch = run_python) -> None:
        self.mountpoint = stack.mountpoint
        self.log = stack.mountpoint.with_name(f"{stack.mountpoint.name}.log")
        options = ",".join(part for part in (stack.options(), f"engine={engine}", more) if part)
        self.process = launch([str(stack.mountpoint), "-f", "-o", options], self.log)

    def wait_until_mounted(self) -> None:
        """Wait for the first answer.

        Raises:
            RuntimeError: the daemon ended, or did not mount in time; its output is in the message.
        """
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and time.monotonic() < deadline:
            if self.is_mounted():
                place = str(self.mountpoint)
                if answers([place], deadline - time.monotonic())[place] == 0:
                    return
                break
            time.sleep(POLL_S)
        raise RuntimeError(f"not mounted: {self.output()}")

    def is_mounted(self) -> bool:
        return any(m.mountpoint == str(self.mountpoint) and m.type.startswith("fuse") for m in mount.mounts())

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        """Unmount, and see the daemon end.

        Raises:
            RuntimeError: the mount was in use, the daemon stayed, or it had logged an error.
        """
        complaints = []
        deadline = time.monotonic() + PATIENCE_S
        try:
            self._unmount(deadline)
        except OSError as exc:
            complaints.append(f"umount: {exc.strerror}")
            self._detach()
        while self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if self.process.poll() is None:
            complaints.append("the daemon did not end")
            self.end()
        if any(word in self.output() for word in ("ERROR", "CRITICAL", "Traceback")):
            complaints.append(self.output())
        if complaints:
            raise RuntimeError("; ".join(complaints))

    def _unmount(self, deadline: float) -> None:
        """Wait for others, who may be looking at every mount of the machine just now (df, ``unionfs mounts``)."""
        while True:
            try:
                mount.umount(str(self.mountpoint))
            except OSError as exc:
                if exc.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)
            else:
                return

    def end(self) -> None:
        """Kill the daemon and take its mount out of the tree, whatever state both are in."""
        self.kill()
        self._detach()

    def kill(self) -> None:
        """Kill the daemon as a crash would; the mount stays and answers ENOTCONN."""
        with suppress(ProcessLookupError):
            self.process.kill()
        while self.process.poll() is None:
            time.sleep(POLL_S)

    def _detach(self) -> None:
        """With force, which aborts the connection: a request that waits for an answer would hold the mount."""
        for found in mount.mounts():
            if found.mountpoint == str(self.mountpoint) and found.type.startswith("fuse"):
                with suppress(OSError):
                    mount.umount(found.mountpoint, mount.MNT_FORCE | mount.MNT_DETACH)


@contextmanager
def fuse(stack: Stack, *, engine: str = "auto", more: str = "", launch: Launch = run_python) -> Iterator[Driver]:
    """Mount *stack* with our daemon. *more* are further mount options."""
    daemon = Daemon(stack, engine=engine, more=more, launch=launch)
    driver = Mounted(stack.mountpoint)
    try:
        daemon.wait_until_mounted()
        yield driver
        driver.close_all()
        daemon.stop()
    except BaseException:
        driver.close_all()
        daemon.end()
        raise
