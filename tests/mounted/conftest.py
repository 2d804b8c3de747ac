"""A stack for each test, on each engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounting import Stack
from tests.zygote import Zygote


@pytest.fixture(params=["direct", "pyfuse3"])
def stack(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Return directories, open to all users, to mount with the engine that is this test's turn."""
    for above in (tmp_path, tmp_path.parent):
        above.chmod(0o755)
    result = Stack(tmp_path, engine=request.param)
    yield result
    result.end()


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """Return what starts daemons for the tests of one module."""
    found = Zygote()
    yield found
    found.close()
