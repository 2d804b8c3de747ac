"""The demo shows what it promises, and leaves nothing behind when it does not."""

import subprocess
from pathlib import Path

import pytest

from unionfs.cli import demo
from unionfs.cli.demo import layers
from unionfs.cli.demo.typist import MOUNT, PROGRAM, Typist
from unionfs.errors import UnionFSError

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.debian, pytest.mark.slow]


def test_the_demo_shows_a_union_at_work() -> None:
    done = subprocess.run([*PROGRAM, "demo"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Hello, world!" in done.stdout
    assert "a whiteout: deletes the one of tools" in done.stdout
    assert "The three layers are what they were" in done.stdout
    assert "What came back is what went in" in done.stdout
    assert "pull --verbose" in done.stdout


def test_a_demo_that_fails_unmounts_and_removes_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[Path] = []

    def fail(typed: Typist) -> None:
        places.append(typed.here)
        assert (typed.here / MOUNT).is_mount()
        raise UnionFSError("planted")

    monkeypatch.setattr(layers, "look_inside", fail)
    with pytest.raises(UnionFSError, match="planted"):
        demo.demo()
    assert not places[0].exists()
