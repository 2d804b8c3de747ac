"""A process that ends what nothing else can: a test that waits for a FUSE daemon which does not answer.

Such a wait takes no signal but the last one, and not even that once the daemon has the request. So whoever is told
of no new test for too long unmounts by force all that is FUSE below the run's directory, which aborts the connections:
the test gets its errno, and the run goes on.

    python -m tests.watchdog DIRECTORY SECONDS     # a byte on stdin: a test has begun; its end: there are no more
"""

import os
import select
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, final

from unionfs.linux.mount import MNT_FORCE, mounts, umount

__all__ = ["Watchdog"]

GRACE_S: Final = 3.0
"""What a test has beyond its own timeout, which ends it where it can be ended."""


@final
class Watchdog:
    """The side of the run."""

    def __init__(self, directory: Path, timeout_s: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.watchdog", str(directory), str(timeout_s + GRACE_S)],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", "")},  # and nothing by which it would be taken for a leak
            start_new_session=True,
        )

    def see(self) -> None:
        """Tell it that a test begins."""
        assert self._process.stdin is not None
        self._process.stdin.write(b".")
        self._process.stdin.flush()

    def close(self) -> None:
        self._process.communicate()


def watch(directory: str, patience_s: float) -> None:
    while True:
        ready, _, _ = select.select([0], [], [], patience_s)
        if not ready:
            force(directory)
        elif not os.read(0, 1 << 16):
            return


def force(directory: str) -> None:
    for found in mounts():
        if found.mountpoint.startswith(f"{directory}/") and found.type.startswith("fuse"):
            with suppress(OSError):
                umount(found.mountpoint, MNT_FORCE)


if __name__ == "__main__":
    watch(sys.argv[1], float(sys.argv[2]))
