"""The table that people read: medians, ratios to the kernel, their spread, and the means at the foot.

It is Markdown, so that the README can quote it as it was printed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.contenders import BARE, KERNEL
from benchmarks.results import Results, Spread, geometric_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.rows import Row

__all__ = ["duration", "grid", "render", "times"]

UNITS = (("s", 1e9), ("ms", 1e6), ("us", 1e3), ("ns", 1.0))


def digits(value: float) -> str:
    """Write a number with three digits, or all those before the point.

    >>> digits(1.234), digits(12.34), digits(1234.5)
    ('1.23', '12.3', '1234')
    """
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def duration(nanoseconds: float) -> str:
    """Write a time with its unit.

    >>> duration(1_234), duration(56_789_000), duration(12_345_678_900)
    ('1.23 us', '56.8 ms', '12.3 s')
    """
    unit, size = next((unit for unit in UNITS if nanoseconds >= unit[1]), UNITS[-1])
    return f"{digits(nanoseconds / size)} {unit}"


def times(ratio: Spread) -> str:
    """Write a ratio, with half the distance of its quartiles as a share of it.

    >>> times(Spread(1.0, 1.1, 1.2)), times(Spread(10.0, 12.5, 20.0))
    ('x1.10 ±9%', 'x12.5 ±40%')
    """
    return f"x{digits(ratio.median)} ±{50 * (ratio.high - ratio.low) / ratio.median:.0f}%"


def render(results: Results, rows: Sequence[Row], contenders: Sequence[str]) -> str:
    """Draw the whole table: a median time for each, and what it is as a multiple of the kernel's."""
    lines = [["", *contenders]]
    lines += [[row.name, *(cell(results, row, name) for name in contenders)] for row in rows]
    peers = [name for name in contenders if name != BARE]
    lines += [[f"**mean, x {to}**", *(mean(results, rows, name, to) for name in contenders)] for to in peers]
    return "\n".join([grid(lines), "", *notes(results)])


def cell(results: Results, row: Row, contender: str) -> str:
    if contender in results.failures.get(row.name, {}):
        return "failed"
    took = results.time(row.name, contender)
    if took is None:
        return "-"
    ratio = results.ratio(row.name, contender, KERNEL, row.relative_to)
    if ratio is None or (contender == KERNEL and row.relative_to is None):
        return duration(took.median)
    return f"{duration(took.median)} {times(ratio)}"


def mean(results: Results, rows: Sequence[Row], contender: str, to: str) -> str:
    """Return the geometric mean of a contender's median ratios, over the rows that both have.

    The bare directory gets none: it has no copy-up to do, and that alone would decide its mean.
    """
    ratios = [results.ratio(row.name, contender, to) for row in rows]
    found = None if contender == BARE else geometric_mean(ratio.median for ratio in ratios if ratio is not None)
    return "-" if found is None else f"{found:.2f}"


def notes(results: Results) -> list[str]:
    """Return what the table cannot say: who is missing, what failed and why, and the machine."""
    lines = [f"left out: {name}: {why}" for name, why in results.missing.items()]
    for row, failures in results.failures.items():
        lines += [f"failed: {row}: {name}: {why}" for name, why in failures.items()]
    return [*lines, ", ".join(f"{name} {value}" for name, value in results.about.items())]


def grid(lines: Sequence[Sequence[str]]) -> str:
    """Draw a Markdown table; the first line is its head, the first column stands to the left.

    >>> print(grid([["", "a"], ["x", "12"]]))
    |   |  a |
    |---|---:|
    | x | 12 |
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = "|".join(f"{'-' * (width + 1)}{':' if place else '-'}" for place, width in enumerate(widths))
    drawn = [f"| {' | '.join(aligned(line, widths))} |" for line in lines]
    return "\n".join([drawn[0], f"|{rule}|", *drawn[1:]])


def aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    cells = list(zip(line, widths, strict=True))
    return [cells[0][0].ljust(cells[0][1]), *(text.rjust(width) for text, width in cells[1:])]
