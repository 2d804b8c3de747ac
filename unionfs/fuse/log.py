"""The loggers of the daemons: `logging` is imported with the first message, if there is one before the mount serves.

It takes 4 ms to import, a twelfth of the time of a mount, and most mounts have nothing to say.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, final

if TYPE_CHECKING:
    import logging

__all__ = ["begin", "logger", "place", "start"]


def place() -> Path:
    """Return where the log of our daemons is."""
    if path := os.environ.get("UNIONFS_LOG"):
        return Path(path).absolute()
    if os.geteuid() == 0:
        return Path("/var/log/unionfs.log")
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state, "unionfs", "unionfs.log")


def logger(name: str) -> "logging.Logger":
    """Return the logger of that name, or what stands for it until it is used."""
    return cast("logging.Logger", _Later(name))


@final
class _Later:
    """A logger that is looked for each time somebody logs."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, method: str) -> Any:  # noqa: ANN401 - as the logger has it
        import logging

        begin()
        return getattr(logging.getLogger(self._name), method)


_asked: list[tuple[Path | None, bool]] = []
"""What `start` was given, until `begin`."""


def start(path: Path | None, *, debug: bool) -> None:
    """Have the log sent to *path*, or to stderr where it is None."""
    _asked.append((path, debug))


def begin() -> None:
    """Carry out what `start` asked for; for loggers that are not ours."""
    if _asked:
        from unionfs.fuse import logfile

        path, debug = _asked.pop()
        logfile.start_logging(path, debug=debug)
