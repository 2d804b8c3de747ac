"""The log of daemons: one file for all of a user's mounts, made by the first line that needs it.

``$UNIONFS_LOG``, else ``/var/log/unionfs.log`` for root and ``unionfs/unionfs.log`` in
``$XDG_STATE_HOME`` (``~/.local/state``) for a user. A daemon that has nothing to report leaves no
file behind; each line is written at once with the pid in front, so that several may share it. At
`LIMIT` bytes the file becomes ``unionfs.log.old``.
"""

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["LIMIT", "LogFile", "place", "start_logging"]

LIMIT: Final = 1 << 20

FORMAT: Final = "%(asctime)s unionfs[%(process)d] %(levelname)s %(name)s: %(message)s"


def place() -> Path:
    """Return where the log of our daemons is."""
    if path := os.environ.get("UNIONFS_LOG"):
        return Path(path).absolute()
    if os.geteuid() == 0:
        return Path("/var/log/unionfs.log")
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state, "unionfs", "unionfs.log")


def start_logging(path: Path | None, *, debug: bool) -> None:
    """Send the log to *path*, or to stderr where it is None."""
    handler = logging.StreamHandler() if path is None else LogFile(path)
    handler.setFormatter(logging.Formatter(FORMAT if path else "unionfs: %(levelname)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("unionfs").setLevel(logging.DEBUG if debug else logging.INFO)


class LogFile(logging.Handler):
    """Appends each record to a file that it opens for that; a log that cannot be written is lost silently."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.write(fd, (self.format(record) + "\n").encode("utf-8", "backslashreplace"))
                if os.fstat(fd).st_size > LIMIT:
                    self._path.replace(f"{self._path}.old")
            finally:
                os.close(fd)
