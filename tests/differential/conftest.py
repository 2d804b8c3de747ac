"""What the comparisons run on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from unionfs.testing import disk


@pytest.fixture
def base() -> Iterator[Path]:
    """Make an empty directory in memory."""
    with disk.in_memory() as path:
        yield path
