"""Each growth question makes the layers it asks about, and its phases count what they did."""

from pathlib import Path

import pytest

from benchmarks.contenders import Bare
from benchmarks.growth import QUESTIONS, Question, limited, one_mount, render
from benchmarks.results import Results
from benchmarks.stacks import Stack

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

OPERATIONS = {
    "layers": {"in the bottom": 1_000, "absent": 1_000, "list": 1_009},
    "names": {"lookup": 10, "absent": 1_000, "list": 10, "list and stat": 10},
    "depth": {"component": 200, "lookup at the end": 200, "list at the end": 10},
    "files": {"walk cold": 12, "walk again": 12},
}
"""What is counted at size 10."""


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
@pytest.mark.root
def test_phases_count_what_they_did(question: Question, tmp_path: Path) -> None:
    stack = Stack(tmp_path / "stack")
    question.layers(stack, 10)
    results = Results({})
    counted = {}
    for row, sample in one_mount(question, 10, Bare(), stack):
        counted[row.removeprefix(f"10 {question.name}: ")] = sample.operations
        results.add(row, "bare", 0, sample)
    assert counted == OPERATIONS[question.name]
    assert render(results, ["bare"]).count("\n") == len(counted) + 1


def test_large_sizes_can_be_left_out() -> None:
    assert limited(QUESTIONS[0], 50).sizes == (2, 10, 50)
