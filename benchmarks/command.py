"""The command line that every program here shares, and the run behind it."""

from __future__ import annotations

import argparse
import compileall
import os
import signal
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import unionfs
from benchmarks.bases import BASES, base
from benchmarks.contenders import Contender, all_contenders
from benchmarks.measure import Failed, interleaved, measured
from benchmarks.results import Results, machine
from benchmarks.table import render

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.rows import Row

__all__ = ["RESULTS", "chosen_contenders", "common_options", "main", "pin", "progress", "run_rows", "stoppable"]

RESULTS = Path(__file__).parent / "results"


def main(rows: Sequence[Row], question: str, argv: Sequence[str] | None = None) -> None:
    """Measure *rows*, print the table and write the samples beside it."""
    parser = common_options(question)
    parser.add_argument("--rows", metavar="TEXT,...", help="only rows whose names contain one of these")
    options = parser.parse_args(argv)
    pin(options.pin)
    contenders, missing = chosen_contenders(options.only)
    wanted = [row for row in rows if not options.rows or any(text in row.name for text in options.rows.split(","))]
    about = {"shown": "CPU time" if options.cpu else "elapsed time", "base": options.base, "pinned": options.pin}
    results = Results({**about, "rounds": options.rounds, **machine()}, missing=missing, by_cpu=options.cpu)
    compileall.compile_dir(Path(unionfs.__file__).parent, quiet=2)  # as an installation does
    with base(options.base) as place, stoppable():
        run_rows(results, wanted, contenders, (place, options.rounds, options.scale))
    path = (
        options.json
        or RESULTS / f"{question}-{options.base}{'-pinned' if options.pin else ''}-{results.about['commit']}.json"
    )
    results.write(path)
    print(render(results, wanted, [contender.name for contender in contenders]))
    print(f"samples: {path}")


def common_options(question: str) -> argparse.ArgumentParser:
    """Return the options that all programs have."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{question}")
    parser.add_argument("--rounds", type=int, default=5, help="how often everybody does everything (%(default)s)")
    parser.add_argument("--only", metavar="NAME,...", help="only contenders whose names contain one of these")
    parser.add_argument("--base", choices=BASES, default="tmpfs", help="what lies below the layers (%(default)s)")
    parser.add_argument("--pin", action="store_true", help="everything on one CPU, which shows the cost in CPU time")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full amount of work (%(default)s)")
    parser.add_argument("--cpu", action="store_true", help="show CPU times, which a busy machine harms less")
    parser.add_argument("--json", type=Path, help="where the samples go")
    return parser


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the block: what was measured by then is still shown, and nothing is left mounted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        yield


def pin(wanted: bool) -> None:
    """Keep this process, its children and every daemon it starts on one CPU."""
    if wanted:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def chosen_contenders(only: str | None) -> tuple[list[Contender], dict[str, str]]:
    """Return who competes, and why the others do not."""
    asked = [
        contender
        for contender in all_contenders()
        if not only or any(text in contender.name for text in only.split(","))
    ]
    missing = {contender.name: why for contender in asked if (why := contender.missing())}
    return [contender for contender in asked if contender.name not in missing], missing


def run_rows(
    results: Results, rows: Sequence[Row], contenders: Sequence[Contender], how: tuple[Path, int, float]
) -> None:
    """Take every measurement; a failure is kept and shown, and the run goes on."""
    place, rounds, scale = how
    for turn in interleaved(rows, contenders, rounds):
        row, contender = turn.row, turn.contender
        if not contender.fits(row) or contender.name in results.failures.get(row.name, {}):
            continue
        progress(f"round {turn.round + 1}/{rounds}  {row.name}  {contender.name}")
        try:
            results.add(row.name, contender.name, turn.round, measured(row, contender, place, scale))
        except Failed as failure:
            results.fail(row.name, contender.name, str(failure))
    progress("")


def progress(text: str) -> None:
    """Show on a terminal where the run is; a log gets none of it."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
