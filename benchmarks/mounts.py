"""How long from exec of the mount command to a mountpoint that answers?"""

from __future__ import annotations

from benchmarks.command import main
from benchmarks.rows import Row
from benchmarks.stacks import Stack, image

__all__ = ["ROWS"]


def many_layers(stack: Stack) -> None:
    for _ in range(stack.count(100)):
        stack.add_lower()


ROWS: tuple[Row, ...] = (
    Row(name="mount", layers=image, work=None),
    Row(name="mount of 100 layers", layers=many_layers, work=None),
)

if __name__ == "__main__":
    main(ROWS, "mounts")
