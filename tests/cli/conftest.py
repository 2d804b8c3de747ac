"""A stack for each test, on each engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounting import Stack


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
