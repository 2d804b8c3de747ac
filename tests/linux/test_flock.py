"""Locks of open directories: looking whether somebody has one leaves none behind."""

import os
from pathlib import Path

from unionfs.linux import flock


def test_who_looks_takes_no_lock(tmp_path: Path) -> None:
    looking, holding = (os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY) for _ in range(2))
    try:
        assert flock.is_free(looking)
        assert flock.lock_descriptor(holding)
        assert not flock.is_free(looking)
    finally:
        os.close(looking)
        os.close(holding)
