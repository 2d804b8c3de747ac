"""What a row of the table is: layers to stand on, work to do, and the part of it that is timed.

A row's work runs in a child process whose current directory is the root of what is measured, so that its loops name
files by short relative names and cost little themselves. It times only what it puts under ``with job.timed(n)``:
lists of names, buffers and the like are made before.
"""

from __future__ import annotations

import gc
import resource
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks import daemons

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.stacks import Stack

__all__ = ["Job", "Row", "names"]


def names(count: int, prefix: str = "f") -> list[str]:
    """Return *count* distinct file names."""
    return [f"{prefix}{number:07d}" for number in range(count)]


@dataclass(slots=True)
class Job:
    """One run of a row's work: how much of it there is, and what it took."""

    scale: float = 1.0
    """Share of the full size: tests run every row at a hundredth."""

    helpers: Sequence[int] = ()
    """The processes that serve the mount: their CPU time counts too."""

    elapsed_ns: int = field(default=0, init=False)
    cpu_s: float = field(default=0.0, init=False)
    operations: int = field(default=0, init=False)

    def count(self, full: int) -> int:
        """Scale a number of things, down to one at least."""
        return max(1, round(full * self.scale))

    @contextmanager
    def timed(self, operations: int = 1) -> Iterator[None]:
        """Time the block, which does *operations* like things; several blocks add up."""
        gc.disable()
        used = self.cpu_seconds()
        start = time.perf_counter_ns()
        yield
        self.elapsed_ns += time.perf_counter_ns() - start
        self.cpu_s += self.cpu_seconds() - used
        self.operations += operations
        gc.enable()

    def cpu_seconds(self) -> float:
        """Return the CPU time of all that take part: this process, its children that ended, and the helpers."""
        own = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in own) + daemons.cpu_seconds(self.helpers)


def no_warming(_job: Job) -> None:
    """Leave every cache of the mount as it is: empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    name: str

    layers: Callable[[Stack], None]
    """Fills the directories of the stack before it is mounted."""

    work: Callable[[Job], None] | None
    """What is timed, in a child; None: the mount itself is, which a bare directory has not."""

    warm: Callable[[Job], None] = no_warming
    """Done through the mount, untimed, in the same child before the work."""

    options: tuple[str, ...] = ()
    """Mount options for the unions that know them (``metacopy=on``)."""

    relative_to: str | None = None
    """The row whose kernel figure this row's ratios are taken to; None: its own."""

    read_only: bool = False
    """Mounted without an upper, for which the kernel wants two layers at least."""
