"""Daemons in milliseconds: a process that has imported everything once and forks.

A start of Python and its imports costs more than a mount. Tests that mount hundreds of times ask the
zygote, which speaks JSON, one line a question: ``["start", ARGUMENTS, LOG]`` answers a pid,
``["poll", PID]`` the exit status or null. What they get is the command itself, ``unionfs.cli.main.main``.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, final

from unionfs.testing.served import Running

__all__ = ["Zygote"]


@final
class Forked:
    """One forked daemon, as `unionfs.testing.served.Running` wants it."""

    def __init__(self, zygote: "Zygote", pid: int) -> None:
        self._zygote = zygote
        self._status: int | None = None
        self.pid = pid

    def poll(self) -> int | None:
        if self._status is None:
            self._status = self._zygote.ask("poll", self.pid)
        return self._status

    def kill(self) -> None:
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)


@final
class Zygote:
    """The asking side; `close` it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
            text=True,
        )

    def ask(self, *question: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def launch(self, arguments: Sequence[str], log: Path) -> Running:
        return Forked(self, self.ask("start", list(arguments), str(log)))

    def close(self) -> None:
        self._process.communicate(timeout=20)


def serve() -> None:
    """Answer questions until there are no more."""
    import unionfs.cli.main
    import unionfs.cli.overlay
    import unionfs.fuse.direct
    import unionfs.fuse.pyfuse3_engine
    import unionfs.fuse.session

    for line in sys.stdin:
        match json.loads(line):
            case ["start", arguments, log]:
                pid = os.fork()
                if not pid:
                    _become(unionfs.cli.main.main, arguments, log)
                print(pid, flush=True)
            case ["poll", pid]:
                done, status = os.waitpid(pid, os.WNOHANG)
                print(json.dumps(os.waitstatus_to_exitcode(status) if done else None), flush=True)


def _become(main: Any, arguments: list[str], log: str) -> None:
    """Be the command: its own output, nothing of the zygote's."""
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    sys.argv = ["unionfs", *arguments]
    status = 1
    with suppress(BaseException):
        try:
            status = int(main() or 0)
        except SystemExit as exc:
            status = exc.code if isinstance(exc.code, int) else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    serve()
