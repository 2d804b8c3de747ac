"""Every way to the data of a file shows the same bytes, over copy-ups and remounts: see `fsx`."""

import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.engines import ENGINES, backends
from tests.mounted.fsx import Exerciser, contents
from tests.profile import LONG
from unionfs.testing import disk
from unionfs.testing.literal import File, Tree
from unionfs.testing.stack import Backend, Features, Stack, kernel, lay

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.overlayfs]

OPERATIONS = 100_000 if LONG else 2_000
WITHOUT = {"direct": frozenset[str](), "pyfuse3": frozenset({"punch", "allocate", "zero"})}
"""The library has no handler for fallocate (`tests.engines.PYFUSE3_LACKS`)."""


@pytest.fixture(scope="module")
def served() -> Iterator[dict[str, Backend]]:
    with backends() as found:
        yield found


def layers(seed: int) -> tuple[Tree, Tree]:
    """Return a lower layer and an upper one: empty, small and large files, and one with holes."""
    choose = random.Random(seed)
    lower = {f"low{n}": File(choose.randbytes(size)) for n, size in enumerate((0, 1, 5000, 131_072, 180_000))}
    sparse = File(b"head", holes={100_000: b"tail"}, size=150_000)
    return {**lower, "sparse": sparse}, {
        f"up{n}": File(choose.randbytes(size)) for n, size in enumerate((0, 4096, 150_000))
    }


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("metacopy", [False, True], ids=["plain", "metacopy"])
def test_every_way_to_the_data_shows_the_same(engine: str, metacopy: bool, served: dict[str, Backend]) -> None:
    lower, upper = layers(1)
    with disk.in_memory() as base, ExitStack() as mounted:
        stack = lay(base, [lower], upper=upper, features=Features(metacopy=metacopy))
        exercise(stack, served[engine], mounted, WITHOUT[engine])


def test_every_way_to_the_data_shows_the_same_over_ext4(served: dict[str, Backend]) -> None:
    """There a range can be zeroed, and direct access is the disk's own."""
    lower, upper = layers(2)
    with disk.on_disk() as base, ExitStack() as mounted:
        exercise(lay(base, [lower], upper=upper), served["direct"], mounted, frozenset())


def exercise(stack: Stack, backend: Backend, mounted: ExitStack, without: frozenset[str]) -> None:
    root: Path = stack.mountpoint

    def remount() -> None:
        mounted.close()
        mounted.enter_context(backend(stack))

    mounted.enter_context(backend(stack))
    exerciser = Exerciser(root, contents(root), seed=random.randrange(1 << 30) if LONG else 7, remount=remount)
    try:
        exerciser.run(OPERATIONS, without)
        ended = contents(root)
    finally:
        exerciser.close()
        mounted.close()
    with kernel(stack):
        assert contents(root) == ended
