"""The table shows medians of ratios within rounds, failures, and who is missing."""

import json
from pathlib import Path

import pytest

from benchmarks.results import Results, Sample, Spread, geometric_mean, spread
from benchmarks.rows import Row
from benchmarks.stacks import nothing
from benchmarks.table import render

ROWS = tuple(Row(name=name, layers=nothing, work=None) for name in ("create", "read"))


def results(**rows: dict[str, list[int]]) -> Results:
    made = Results({"kernel": "6.18"})
    for row, contenders in rows.items():
        for contender, times in contenders.items():
            for number, elapsed in enumerate(times):
                made.add(row, contender, number, Sample(elapsed, 10, 0.0))
    return made


def test_a_ratio_is_taken_within_a_round() -> None:
    """The second round was three times as slow for everybody: times double, the ratio does not move."""
    made = results(create={"kernel": [100, 300], "ours": [200, 600]})
    assert made.ratio("create", "ours", "kernel") == Spread(2.0, 2.0, 2.0)


def test_a_ratio_needs_the_same_round_of_both() -> None:
    made = results(create={"ours": [200]})
    assert made.ratio("create", "ours", "kernel") is None


def test_a_row_may_be_compared_with_another() -> None:
    made = results(chown={"kernel": [100]}, metacopy={"ours": [50]})
    assert made.ratio("metacopy", "ours", "kernel", "chown") == Spread(0.5, 0.5, 0.5)


def test_spread_of_nothing_is_none() -> None:
    assert spread([]) is None
    assert geometric_mean([]) is None


def test_a_geometric_mean_of_inverse_ratios_is_one() -> None:
    assert geometric_mean([4.0, 0.25]) == pytest.approx(1.0)


def test_the_table_renders() -> None:
    made = results(
        create={"bare": [1_000_000], "kernel": [2_000_000], "ours": [5_000_000]},
        read={"bare": [1_000], "kernel": [2_000]},
    )
    made.fail("read", "ours", "OSError: it broke")
    made.missing["theirs"] = "there is no program theirs"
    assert render(made, ROWS, ["bare", "kernel", "ours"]).splitlines() == [
        "|                    |              bare |  kernel |              ours |",
        "|--------------------|------------------:|--------:|------------------:|",
        "| create             |  1.00 ms x0.50 ±0% | 2.00 ms | 5.00 ms x2.50 ±0% |".replace("|  1.00", "| 1.00"),
        "| read               | 1.00 us x0.50 ±0% | 2.00 us |            failed |",
        "| **mean, x kernel** |                 - |    1.00 |              2.50 |",
        "| **mean, x ours**   |                 - |    0.40 |              1.00 |",
        "",
        "left out: theirs: there is no program theirs",
        "failed: read: ours: OSError: it broke",
        "kernel 6.18",
    ]


def test_samples_are_written_whole(tmp_path: Path) -> None:
    made = results(create={"kernel": [100]})
    made.write(tmp_path / "new" / "r.json")
    written = json.loads((tmp_path / "new" / "r.json").read_text())
    assert written["samples"] == {"create": {"kernel": {"0": [100, 10, 0.0]}}}
    assert written["about"] == {"kernel": "6.18"}
