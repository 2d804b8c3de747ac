"""A capability that is done without: gone while the block runs, in new threads too, and back after it."""

import threading
from pathlib import Path

import pytest

from unionfs.linux import capabilities
from unionfs.linux.ids import parse_capabilities

pytestmark = pytest.mark.root


def held() -> int:
    return parse_capabilities(Path("/proc/thread-self/status").read_text(encoding="utf-8"))


def test_it_is_gone_within_and_back_afterwards() -> None:
    before, inside = held(), []
    with capabilities.without(capabilities.FSETID):
        inside.append(held())
        thread = threading.Thread(target=lambda: inside.append(held()))
        thread.start()
        thread.join()
    assert before >> capabilities.FSETID & 1
    assert inside == [before & ~(1 << capabilities.FSETID)] * 2
    assert held() == before


def test_one_that_was_not_held_is_not_gained() -> None:
    with capabilities.without(capabilities.FSETID):
        lacking = held()
        with capabilities.without(capabilities.FSETID):
            assert held() == lacking
        assert held() == lacking
