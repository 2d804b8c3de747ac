"""The rows about images run at a thousandth of their size, and their table says who was how fast."""

import json
from pathlib import Path

import pytest

from benchmarks.images import OURS, THEIRS, main
from tests.registry.servers import needs


def test_each_does_what_it_can(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for program in ("docker-registry", "skopeo", "umoci"):
        needs(program)
    samples = tmp_path / "samples.json"
    main(
        ["--scale", "0.001", "--rounds", "1", "--base", "here", "--json", str(samples), "--rows", "pull and,push,which"]
    )
    found = json.loads(samples.read_text(encoding="utf-8"))
    assert found["failures"] == {}
    assert {row: set(by) for row, by in found["samples"].items()} == {
        "pull and unpack": {OURS, THEIRS},
        "push": {OURS, THEIRS},
        "which": {OURS},
    }
    assert "| pull and unpack |" in capsys.readouterr().out
