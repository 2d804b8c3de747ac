"""A stack for each test, on each engine; and a store with images, and the program run on it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import Command, Told
from tests.mounting import Stack
from tests.oci.conftest import BASE, CHANGE
from tests.oci.making import image_of
from unionfs.cli.main import main
from unionfs.oci.images import Images


@pytest.fixture(params=["direct", "pyfuse3"])
def stack(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Return directories to mount with the engine that is this test's turn."""
    result = Stack(tmp_path, engine=request.param)
    yield result
    result.end()


@pytest.fixture
def dirs(tmp_path: Path) -> Iterator[Stack]:
    """Return directories to mount where the engine makes no difference."""
    result = Stack(tmp_path)
    yield result
    result.end()


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Images:
    monkeypatch.setenv("UNIONFS_ROOT", str(tmp_path / "store"))
    return Images()


@pytest.fixture
def unionfs(images: Images, capfdbinary: pytest.CaptureFixture[bytes]) -> Command:
    def run(*argv: str | Path) -> Told:
        capfdbinary.readouterr()
        status = main(list(map(str, argv)))
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        told = Told(out.decode("latin-1"))
        told.status, told.errors = status, err.decode()
        return told

    return run


@pytest.fixture
def app(images: Images) -> str:
    """Two images, one above the other; returns the upper one's id."""
    image_of(images, [BASE], "base:1")
    return image_of(images, [BASE, CHANGE], "app:1").id
