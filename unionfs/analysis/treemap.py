"""Lay rectangles out so that areas are sizes and shapes are near squares.

Source: Bruls, Huizing, van Wijk, "Squarified Treemaps", 2000.
"""

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Box", "squarify"]


class Box(NamedTuple):
    """A rectangle, in the units of the one it was cut from."""

    x: float
    y: float
    width: float
    height: float

    def inset(self, by: float, top: float) -> "Box":
        """Return the rectangle without a border and a title; empty where nothing is left."""
        width, height = max(0.0, self.width - 2 * by), max(0.0, self.height - by - top)
        return Box(self.x + by, self.y + top, width, height)


def squarify(sizes: Sequence[float], box: Box) -> list[Box]:
    """Cut *box* into one rectangle for each size, in order; sizes are positive and descend.

    >>> squarify([3, 1], Box(0, 0, 4, 1))
    [Box(x=0.0, y=0.0, width=3.0, height=1.0), Box(x=3.0, y=0.0, width=1.0, height=1.0)]
    """
    scale = box.width * box.height / sum(sizes) if sizes else 0.0
    areas = [size * scale for size in sizes]
    boxes: list[Box] = []
    free = Box(float(box.x), float(box.y), float(box.width), float(box.height))
    while areas:
        side = min(free.width, free.height)
        if side <= 0:
            return boxes + [Box(free.x, free.y, 0.0, 0.0)] * len(areas)
        count = _best_row(areas, side)
        row, areas = areas[:count], areas[count:]
        cut, free = _cut(row, free)
        boxes += cut
    return boxes


def _best_row(areas: Sequence[float], side: float) -> int:
    """Return how many of the first areas make the squarest row along *side*."""
    total, best = areas[0], _worst(areas[0], areas[0], areas[0], side)
    for count, area in enumerate(areas[1:], start=1):
        ratio = _worst(areas[0], area, total + area, side)
        if ratio > best:
            return count
        total, best = total + area, ratio
    return len(areas)


def _worst(largest: float, smallest: float, total: float, side: float) -> float:
    """Return the worst ratio of sides in a row of these areas."""
    if not smallest:
        return float("inf")
    return max(side * side * largest / (total * total), total * total / (side * side * smallest))


def _cut(row: Sequence[float], free: Box) -> tuple[list[Box], Box]:
    """Put a row along the shorter side; return its boxes and what is left."""
    total, boxes = sum(row), []
    if free.width >= free.height:
        depth, y = total / free.height, free.y
        for area in row:
            boxes.append(Box(free.x, y, depth, area / depth if depth else 0.0))
            y += boxes[-1].height
        return boxes, Box(free.x + depth, free.y, max(0.0, free.width - depth), free.height)
    depth, x = total / free.width, free.x
    for area in row:
        boxes.append(Box(x, free.y, area / depth if depth else 0.0, depth))
        x += boxes[-1].width
    return boxes, Box(free.x, free.y + depth, free.width, max(0.0, free.height - depth))
