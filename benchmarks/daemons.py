"""The processes behind a mount: finding them, weighing them, and being rid of both.

A benchmark that hangs must not leave the machine with a dead mount, so unmounting has a ladder: umount, then
umount -l, then SIGKILL to the processes that served the mountpoint, found by their command line.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["cpu_seconds", "resident_bytes", "scratch_file", "serving", "unmount"]

UNMOUNT_TIMEOUT_S = 20
EXIT_TIMEOUT_S = 10


def scratch_file() -> IO[bytes]:
    """Return a file for what a program says: a pipe would be held open by a daemon."""
    return tempfile.TemporaryFile()


def serving(mountpoint: Path) -> list[int]:
    """Return the processes with the mountpoint on their command line, other than this one and its children's."""
    wanted = os.fsencode(mountpoint)
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if wanted in Path(entry.path, "cmdline").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def resident_bytes(pids: Sequence[int]) -> int:
    """Return the resident memory of some processes, what they share counted once."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the time that the threads of some processes have run, to the nanosecond; those that ended do not count."""
    total_ns = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for thread in os.scandir(f"/proc/{pid}/task"):
                total_ns += int(Path(thread.path, "schedstat").read_text().split()[0])
    return total_ns / 1e9


def unmount(mountpoint: Path) -> None:
    """Unmount, by force if need be, and wait for the daemon to end: its exit would disturb what is measured next."""
    pids = serving(mountpoint)
    if not umount(mountpoint):
        umount(mountpoint, "-l")
    deadline = time.monotonic() + EXIT_TIMEOUT_S
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.005)
    for pid in filter(is_alive, pids):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def umount(mountpoint: Path, *flags: str) -> bool:
    command = ["umount", *flags, str(mountpoint)]
    try:
        return subprocess.run(command, timeout=UNMOUNT_TIMEOUT_S, capture_output=True, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
