"""Unions of literal layers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from tests.core.stacks import Maker, Stack, Tree

Stacks: TypeAlias = Callable[..., Stack]
NOTHING: Final[Tree] = {}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stacks]:
    """Make unions: ``stack(top, next, ..., upper={}, **options of Config)``. Their promises are checked in the end."""
    made: list[Stack] = []

    def make(*lowers: "Tree | Maker", upper: "Tree | Maker | None" = NOTHING, **options: object) -> Stack:
        base = tmp_path / f"stack{len(made)}"
        base.mkdir()
        made.append(Stack(base, lowers, upper, options))
        return made[-1]

    yield make
    for each in reversed(made):
        each.check_promises()
