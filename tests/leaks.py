"""What a run of the tests leaves behind: mounts, processes, temporary files.

A run has a directory of its own for everything temporary, and a variable in its environment that every descendant
inherits, daemons too. What is found under the one or with the other when the tests are over was made by them:
other work on the same machine is not mistaken for it.
"""

import contextlib
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

from unionfs.linux.mount import MNT_DETACH, MNT_FORCE, umount

__all__ = ["Run"]

VARIABLE = "UNIONFS_TEST_RUN"
PATIENCE_S = 3.0
"""How long a daemon whose mount is gone may take to exit."""


class Run:
    """One run of the tests; `tempfile` and every child process use its directory from here on."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="unionfs-tests-"))
        self.directory.chmod(0o711)  # tests that become another user must get through to their own directory
        self.temporary = self.directory / "tmp"
        self.temporary.mkdir()
        self.temporary.chmod(0o1777)
        self._outer = os.environ.get("TMPDIR")
        os.environ[VARIABLE] = str(self.directory)
        os.environ["TMPDIR"] = str(self.temporary)
        tempfile.tempdir = None  # read TMPDIR again

    def mounts(self) -> list[str]:
        """Return the mountpoints below the run's directory, the innermost first."""
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        points = (line.split(" ")[4] for line in lines)
        return [point for point in points if point.startswith(f"{self.directory}/")][::-1]

    def processes(self) -> dict[int, str]:
        """Return pid and command line of every living descendant."""
        mark = f"{VARIABLE}={self.directory}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):  # it ended, or is another user's
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found[int(entry.name)] = command.strip()
        return found

    def files(self) -> list[str]:
        return sorted(os.listdir(self.temporary))

    def leaks(self) -> list[str]:
        """Return one line for each thing left behind, after waiting for what is still on its way out."""
        deadline = time.monotonic() + PATIENCE_S
        while (self.mounts() or self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return [
            *(f"still mounted: {point}" for point in self.mounts()),
            *(f"still running: {pid} {command}" for pid, command in self.processes().items()),
            *(f"temporary file left: {self.temporary / name}" for name in self.files()),
        ]

    def close(self, *, keep: bool) -> None:
        """End what is left and remove the directory, unless it should be *kept* for looking at."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for point in self.mounts():
            with contextlib.suppress(OSError):
                umount(point, MNT_FORCE | MNT_DETACH)  # umount(8) would ask a daemon that may not answer
        if self._outer is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = self._outer
        tempfile.tempdir = None
        del os.environ[VARIABLE]
        if not keep and not self.mounts():  # never remove files through a mount
            shutil.rmtree(self.directory, ignore_errors=True)
