"""What doctor says of this machine, and of a directory that cannot be an upper layer."""

import json
import os
from pathlib import Path

import pytest

from tests.mounting import Stack
from unionfs.cli.doctor import Verdict, examine

pytestmark = [pytest.mark.root, pytest.mark.fuse]


def test_a_machine_that_can_mount_passes(dirs: Stack) -> None:
    done = dirs.run("doctor", dirs.upper)
    assert done.returncode == 0, done.stdout
    assert "/dev/fuse: it can be opened" in done.stdout
    assert os.listdir(dirs.upper) == []


def test_every_finding_that_is_not_good_says_what_to_do(tmp_path: Path) -> None:
    findings = list(examine(tmp_path))
    assert len(findings) >= 9
    assert all(found.cure for found in findings if found.verdict is Verdict.FAILED)


def test_an_upper_without_extended_attributes_fails(dirs: Stack) -> None:
    done = dirs.run("doctor", "--json", "/proc")
    assert done.returncode == 1
    failed = [found["name"] for found in json.loads(done.stdout) if found["verdict"] == "failed"]
    assert failed == ["upper"]
