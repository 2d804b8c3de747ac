"""How a time is taken: a fresh stack, a mount, a child that works in it, an unmount.

The work runs in a forked child, so that a contender that hangs costs a timeout and not the run, and so that neither
descriptors nor the interpreter's state leak from one measurement into the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import daemons
from benchmarks.results import Sample
from benchmarks.rows import Job, Row
from benchmarks.stacks import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.contenders import Contender

__all__ = ["Failed", "in_child", "interleaved", "measured", "settled"]

WORK_TIMEOUT_S = 120


class Failed(Exception):
    """The work did not end well: what it said, in one line."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Whose turn it is to do what."""

    round: int
    row: Row
    contender: Contender


def interleaved(rows: Sequence[Row], contenders: Sequence[Contender], rounds: int) -> Iterator[Turn]:
    """Yield every measurement: contenders next to each other, and another one first in each round."""
    for number in range(rounds):
        for row in rows:
            for place in range(len(contenders)):
                yield Turn(number, row, contenders[(place + number) % len(contenders)])


def measured(row: Row, contender: Contender, base: Path, scale: float = 1.0) -> Sample:
    """Do a row's work once, on layers of its own; raise `Failed` if that does not work out."""
    stack = Stack(Path(tempfile.mkdtemp(dir=base), "stack"), scale)
    try:
        row.layers(stack)
        settled(base)
        used, start = Job().cpu_seconds(), time.perf_counter_ns()
        try:
            root = contender.mount(stack, row.options, read_only=row.read_only)
            mounted_ns = time.perf_counter_ns() - start
            if row.work is None:
                mounting = Job(helpers=daemons.serving(stack.mountpoint))
                return Sample(mounted_ns, 1, mounting.cpu_seconds() - used)
            return in_mount(row, stack, root)
        finally:
            contender.unmount(stack)
    except (OSError, subprocess.SubprocessError) as error:
        raise Failed(str(error)) from error
    finally:
        stack.remove()


def in_mount(row: Row, stack: Stack, root: Path) -> Sample:
    """Warm up and work in a child."""

    def work(job: Job) -> None:
        row.warm(job)
        assert row.work is not None
        row.work(job)

    return in_child(work, root, Job(stack.scale, daemons.serving(stack.mountpoint)))


def settled(base: Path) -> None:
    """Write out what making the layers left behind, so that it is not paid for while something is timed."""
    subprocess.run(["sync", "-f", str(base)], check=True)


def in_child(work: Callable[[Job], None], root: Path, job: Job) -> Sample:
    """Run *work* on *job* in a child, with *root* as its current directory."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        answer_and_exit(work, root, job, writer)
    os.close(writer)
    try:
        answer = json.loads(answer_within(reader, WORK_TIMEOUT_S) or '{"failed": "no answer in time"}')
    finally:
        os.close(reader)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if "failed" in answer:
        raise Failed(answer["failed"])
    return Sample(**answer)


def answer_and_exit(work: Callable[[Job], None], root: Path, job: Job, writer: int) -> None:
    """Be the child: the one place where any exception must become a line."""
    try:
        os.chdir(root)
        work(job)
        answer: dict[str, object] = Sample(job.elapsed_ns, job.operations, job.cpu_s)._asdict()
    except BaseException as error:  # noqa: BLE001 - nothing may escape into the parent's copy of the stack
        answer = {"failed": f"{type(error).__name__}: {error}"}
    os.write(writer, json.dumps(answer).encode())
    os._exit(0)


def answer_within(reader: int, seconds: float) -> bytes:
    """Read a pipe up to its end; return nothing if that takes too long."""
    deadline = time.monotonic() + seconds
    parts: list[bytes] = []
    while select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(reader, 65536)
        if not part:
            return b"".join(parts)
        parts.append(part)
    return b""
