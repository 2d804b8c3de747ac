"""How does cost grow: with the layers, with the names of a directory, with the depth and the size of a tree?

Each of the four questions is asked at a few sizes. Layers are made once for a size and only read, so everybody sees
the same ones; each contender gets a fresh mount, and its phases follow one another in it. Times are for one operation
(a name, a component, a file), so that a column that does not grow is a cost that does not grow. Memory is what the
serving processes have more after the phases than before, for each file that was looked at.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import daemons
from benchmarks.bases import base
from benchmarks.command import RESULTS, chosen_contenders, common_options, pin, progress, stoppable
from benchmarks.contenders import BARE, Contender
from benchmarks.measure import Failed, in_child
from benchmarks.results import Results, Sample, machine
from benchmarks.rows import Job, names
from benchmarks.stacks import Stack, make_files
from benchmarks.table import digits, duration, grid
from benchmarks.trees import visit

__all__ = ["QUESTIONS", "Question", "ask", "main"]

Phase = Callable[[Job], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One kind of growth."""

    name: str

    sizes: tuple[int, ...]

    layers: Callable[[Stack, int], None]
    """Makes the layers for one size."""

    phases: Callable[[int], dict[str, Phase]]
    """What is done in one mount at one size, in order."""


PROBES = 1_000
"""Names looked up at each size, so that the number of them does not grow with what is measured."""


def stat_all(paths: Sequence[str], job: Job) -> None:
    exists = os.access
    with job.timed(len(paths)):
        for path in paths:
            exists(path, os.F_OK)


def list_names(top: str, job: Job) -> None:
    with job.timed():
        found = len(os.listdir(top))
    job.operations = found


def walk(top: str, job: Job) -> None:
    with job.timed():
        seen = visit(top)
    job.operations = seen


def merged_layers(stack: Stack, layers: int) -> None:
    """Make layers that all hold the directory: its bottom has the files, each other layer adds one."""
    make_files(stack.add_lower() / "d", PROBES, size=0)
    for number in range(1, layers):
        make_files(stack.add_lower() / "d", 1, size=0, prefix=f"layer{number}-")
    if layers == 1:
        stack.add_lower()


def layer_phases(size: int) -> dict[str, Phase]:
    del size
    return {
        "in the bottom": lambda job: stat_all([f"d/{name}" for name in names(PROBES)], job),
        "absent": lambda job: stat_all([f"d/{name}" for name in names(PROBES, "absent")], job),
        "list": lambda job: list_names("d", job),
    }


def wide_directory(stack: Stack, size: int) -> None:
    make_files(stack.add_lower() / "d", size, size=0)
    stack.add_lower()


def width_phases(size: int) -> dict[str, Phase]:
    spread_out = [f"d/{name}" for name in names(size)[:: max(1, size // PROBES)]]
    return {
        "lookup": lambda job: stat_all(spread_out, job),
        "absent": lambda job: stat_all([f"d/{name}" for name in names(PROBES, "absent")], job),
        "list": lambda job: list_names("d", job),
        "list and stat": lambda job: walk("d", job),
    }


CHAINS = 20


def chain(number: int, size: int) -> str:
    return "/".join([f"c{number}", *["d"] * (size - 1)])


def deep_tree(stack: Stack, size: int) -> None:
    lower = stack.add_lower()
    for number in range(CHAINS):
        end = lower
        for name in chain(number, size).split("/"):
            end = end / name
            end.mkdir()
        make_files(end, 10, size=0)
    stack.add_lower()


def stat_ends(ends: Sequence[str], job: Job) -> None:
    """Look ten names up in each directory, which is open: the way there is not walked again."""
    exists = os.access
    for end in ends:
        place = os.open(end, os.O_PATH)
        with job.timed(10):
            for name in names(10):
                exists(name, os.F_OK, dir_fd=place)
        os.close(place)


def depth_phases(size: int) -> dict[str, Phase]:
    """Go down once for the components, then ask for other names at the end of the way."""
    ends = [chain(number, size) for number in range(CHAINS)]

    def descend(job: Job) -> None:
        stat_all(ends, job)
        job.operations = CHAINS * size

    return {
        "component": descend,
        "lookup at the end": lambda job: stat_ends(ends, job),
        "list at the end": lambda job: list_names(ends[0], job),
    }


def large_tree(stack: Stack, size: int) -> None:
    """Make *size* files, 100 in each directory, 100 of those in each directory above."""
    lower = stack.add_lower()
    for number in range(max(1, size // 100)):
        make_files(lower / f"a{number // 100:04d}" / f"b{number:06d}", min(size, 100), size=0)
    stack.add_lower()


def size_phases(size: int) -> dict[str, Phase]:
    del size
    return {"walk cold": lambda job: walk(".", job), "walk again": lambda job: walk(".", job)}


QUESTIONS: tuple[Question, ...] = (
    Question(name="layers", sizes=(2, 10, 50, 200, 500), layers=merged_layers, phases=layer_phases),
    Question(name="names", sizes=(1_000, 10_000, 100_000, 1_000_000), layers=wide_directory, phases=width_phases),
    Question(name="depth", sizes=(1, 10, 100, 1_000), layers=deep_tree, phases=depth_phases),
    Question(name="files", sizes=(10_000, 100_000, 1_000_000), layers=large_tree, phases=size_phases),
)

MEMORY = "memory for each file"


def ask(question: Question, contenders: Sequence[Contender], place: Path, rounds: int, results: Results) -> None:
    """Put one question at all its sizes; memory is kept as a sample too, in bytes."""
    for size in question.sizes:
        stack = Stack(Path(tempfile.mkdtemp(dir=place), "stack"))
        question.layers(stack, size)
        for number in range(rounds):
            for contender in (*contenders[number:], *contenders[:number]):
                progress(f"{question.name} {size}  {contender.name}")
                try:
                    for row, sample in one_mount(question, size, contender, stack):
                        results.add(row, contender.name, number, sample)
                except (Failed, OSError) as failure:
                    results.fail(label(question, size, MEMORY), contender.name, str(failure))
        stack.remove()
    progress("")


def label(question: Question, size: int, phase: str) -> str:
    return f"{size:,} {question.name}: {phase}"


def one_mount(question: Question, size: int, contender: Contender, stack: Stack) -> Iterator[tuple[str, Sample]]:
    """Go through the phases in one mount, without an upper: nothing is written."""
    root = contender.mount(stack, (), read_only=True)
    try:
        helpers = daemons.serving(stack.mountpoint)
        before = daemons.resident_bytes(helpers)
        seen = 0
        for phase, work in question.phases(size).items():
            sample = in_child(work, root, Job(helpers=helpers))
            yield label(question, size, phase), sample
            seen = max(seen, sample.operations)
        if helpers:
            grown = daemons.resident_bytes(helpers) - before
            yield label(question, size, MEMORY), Sample(grown, seen, 0.0)
    finally:
        contender.unmount(stack)


def render(results: Results, contenders: Sequence[str]) -> str:
    """Draw one line for each size and phase, with the cost of one operation."""
    lines = [["", *contenders]]
    lines += [[row, *(cell(results, row, name) for name in contenders)] for row in results.samples]
    failed = [f"failed: {row}: {name}: {why}" for row, all_ in results.failures.items() for name, why in all_.items()]
    return "\n".join([grid(lines), *failed])


def cell(results: Results, row: str, contender: str) -> str:
    each = results.each(row, contender)
    if each is None:
        return "-"
    return f"{digits(each.median)} B" if row.endswith(MEMORY) else duration(each.median)


def main(argv: Sequence[str] | None = None) -> None:
    """Ask the questions, print the table and write the samples beside it."""
    parser = common_options("growth")
    parser.set_defaults(rounds=1)
    parser.add_argument("--rows", metavar="NAME,...", help="only these of: layers, names, depth, files")
    parser.add_argument("--most", type=int, default=sys.maxsize, help="leave out sizes above this")
    options = parser.parse_args(argv)
    pin(options.pin)
    contenders, missing = chosen_contenders(options.only)
    contenders = [contender for contender in contenders if contender.name != BARE]
    results = Results(
        {**machine(), "base": options.base, "rounds": options.rounds}, missing=missing, by_cpu=options.cpu
    )
    with base(options.base) as place, stoppable():
        for question in QUESTIONS:
            if not options.rows or question.name in options.rows.split(","):
                ask(limited(question, options.most), contenders, place, options.rounds, results)
    print(render(results, [contender.name for contender in contenders]))
    path = options.json or RESULTS / f"growth-{options.base}-{results.about['commit']}.json"
    results.write(path)
    print(f"samples: {path}")


def limited(question: Question, most: int) -> Question:
    """Leave out the sizes above *most*."""
    return replace(question, sizes=tuple(size for size in question.sizes if size <= most))


if __name__ == "__main__":
    main()
