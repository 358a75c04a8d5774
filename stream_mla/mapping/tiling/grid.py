"""Cutting ranges into pieces, and tensors into the cells of a grid."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from math import prod

Interval = tuple[int, int]


def pieces(extent: int, size: int) -> list[Interval]:
    """Cut [0, extent) into pieces of `size`, the last one smaller where it does not divide."""
    return [(low, min(low + size, extent)) for low in range(0, extent, size)]


def part_edges(extent: int, parts: int) -> list[int]:
    """Return where nearly equal parts of [0, extent) begin, and its end."""
    return [extent * part // parts for part in range(parts + 1)]


def key_pieces(extent: int, parts: int, size: int) -> list[tuple[Interval, int]]:
    """Cut the keys into nearly equal parts and each part into chunks; return (chunk, its part)."""
    return [
        ((low + a, low + b), part)
        for part, (low, high) in enumerate(pairwise(part_edges(extent, parts)))
        for a, b in pieces(high - low, size)
    ]


class Grid:
    """The blocks of one tensor."""

    def __init__(self, shape: tuple[int, ...], cuts: Sequence[set[int]], first: int) -> None:
        self.shape = shape
        self.edges = [sorted({0, size, *axis}) for size, axis in zip(shape, cuts, strict=True)]
        self.first = first
        self.count = prod(len(axis) - 1 for axis in self.edges)

    def cells(self) -> Iterator[tuple[Interval, ...]]:
        """Yield the boxes of all blocks, in the order of their numbers."""
        return product(*(list(pairwise(axis)) for axis in self.edges))

    def labels(self) -> Iterator[str]:
        """Yield where each block lies along the axes that are cut, in the same order."""
        parts = [[f"{low}:{high}" for low, high in pairwise(axis)] if len(axis) > 2 else [""] for axis in self.edges]
        return (",".join(filter(None, where)) for where in product(*parts))

    def overlapping(self, region: tuple[Interval, ...]) -> tuple[int, ...]:
        """Return the numbers of the blocks that a region touches."""
        numbers = [0]
        for (low, high), axis in zip(region, self.edges, strict=True):
            first, cells = bisect_right(axis, low) - 1, len(axis) - 1
            last = bisect_left(axis, high, first)
            if last == first + 1:
                numbers = [number * cells + first for number in numbers]
            else:
                numbers = [number * cells + cell for number in numbers for cell in range(first, last)]
        return tuple([self.first + number for number in numbers])
