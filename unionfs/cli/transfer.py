"""What a pull or a push shows while it goes on: bars on a terminal, lines where asked for.

Everything here goes to stderr, so that stdout holds the result alone. Bars are for a terminal; a log
file or a pipe gets none, and `--verbose` is for both: one line for each attempt and why it went on.
"""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from unionfs.cli.render import printable
from unionfs.oci.digest import Digest
from unionfs.oci.registry.observer import Observer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Watch"]


class Watch(Observer):
    """Show a transfer while the ``with`` block runs."""

    def __init__(self, *, verbose: bool, bars: bool) -> None:
        self._verbose = verbose
        self._progress: Progress | None = _progress() if bars and sys.stderr.isatty() else None
        self._tasks: dict[Digest, TaskID] = {}
        self.outcomes: dict[Digest, str] = {}
        """How each blob came about."""

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def note(self, text: str) -> None:
        if self._verbose:
            self._line(text)

    def warn(self, text: str) -> None:
        self._line(f"unionfs: warning: {text}")

    def begin(self, digest: Digest, size: int) -> None:
        if self._progress:
            self._tasks[digest] = self._progress.add_task(digest.short, total=size, how="waiting")

    def at(self, digest: Digest, offset: int) -> None:
        if self._progress and digest in self._tasks:
            self._progress.update(self._tasks[digest], completed=offset, how="")

    def end(self, digest: Digest, how: str) -> None:
        self.outcomes[digest] = how
        if self._progress and digest in self._tasks:
            task = self._tasks[digest]
            total = next(each.total for each in self._progress.tasks if each.id == task)
            self._progress.update(task, completed=total, how=how)

    def unpacked(self, digest: Digest) -> None:
        if self._progress and digest in self._tasks:
            self._progress.update(self._tasks[digest], how="unpacked")

    def _line(self, text: str) -> None:
        if self._progress:
            self._progress.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
        else:
            print(printable(text), file=sys.stderr, flush=True)


def _progress() -> "Progress":
    """Make the bars; rich is imported where there is a terminal to draw on, and only there."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[how]}"),
        console=Console(stderr=True),
    )
