"""How far a group of indices may be cut: sizes worth trying, and all combinations of them as arrays.

A **choice** gives the size of a piece for some indices of a group; the others are not cut. A **candidate** is one
combination of a choice from each group, and the search looks at all candidates at once: entry i of every array
belongs to candidate i.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Sizes = dict[str, int]


def piece_sizes(extent: int, multiple: int = 1) -> list[int]:
    """Sizes that cut an extent into about 1, 2, 3, 4, 6, 8, 12, ... nearly equal pieces, down to single elements."""
    sizes = {1}
    pieces = 1
    while pieces <= extent:
        size = -(-extent // pieces)
        sizes.add(min(extent, -(-size // multiple) * multiple) if size >= 4 * multiple else size)
        pieces = pieces + 1 if pieces < 4 else pieces * 3 // 2 if (pieces & (pieces - 1)) == 0 else pieces * 4 // 3
    return sorted(sizes, reverse=True)


def nested_size(whole: int, size: int) -> int:
    """Largest size up to this one of which several fill a whole; this one where the next that do is not half of it."""
    found = next(divisor for divisor in range(min(size, whole), 0, -1) if whole % divisor == 0)
    return found if 2 * found >= size else size


def group_choices(indices: Sequence[str], extents: Mapping[str, int], forced: Mapping[str, int]) -> list[Sizes]:
    """Sizes for a group of indices: outer indices are cut down to 1 before inner ones are cut."""
    choices: list[Sizes] = [{}]
    fixed = {index: forced[index] for index in indices if index in forced}
    free = [index for index in indices if index not in forced and extents[index] > 1]
    for position, index in enumerate(free):
        ones = dict.fromkeys(free[:position], 1)
        step = 16 if position == len(free) - 1 and extents[index] > 64 else 1
        choices += [{**ones, index: size} for size in piece_sizes(extents[index], step) if size < extents[index]]
    return [{**fixed, **choice} for choice in choices]


def piece_elements(indices: Iterable[str], sizes: Mapping[str, int], extents: Mapping[str, int]) -> int:
    """Elements of the largest piece."""
    return math.prod(min(sizes.get(index, extents[index]), extents[index]) for index in indices)


def piece_count(indices: Iterable[str], sizes: Mapping[str, int], extents: Mapping[str, int]) -> int:
    """Pieces that the sizes make."""
    return math.prod(-(-extents[index] // sizes.get(index, extents[index])) for index in indices)


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """How one group of indices is cut, in every candidate."""

    indices: Sequence[str]
    extents: Mapping[str, int]
    choices: Sequence[Sizes]
    picks: Numbers
    """It holds, for each candidate: the position of its choice."""

    def elements(self, indices: Sequence[str] | None = None) -> Numbers:
        """Elements of the largest piece, over the indices of the group or some of them."""
        over = self.indices if indices is None else indices
        return self._of_choices([piece_elements(over, choice, self.extents) for choice in self.choices])

    def pieces(self, indices: Sequence[str] | None = None) -> Numbers:
        """Pieces of the group, or of some of its indices."""
        over = self.indices if indices is None else indices
        return self._of_choices([piece_count(over, choice, self.extents) for choice in self.choices])

    def sizes(self, candidate: int) -> Sizes:
        """Sizes of one candidate."""
        return self.choices[int(self.picks[candidate])]

    def take(self, candidates: Numbers) -> "Cuts":
        """Return the cuts of these candidates only."""
        return replace(self, picks=self.picks[candidates])

    def _of_choices(self, values: list[int]) -> Numbers:
        return np.array(values, dtype=np.int64)[self.picks]


def combine(groups: Iterable[Sequence[str]], extents: Mapping[str, int], forced: Mapping[str, int]) -> list[Cuts]:
    """Return the cuts of each group over all combinations; the choices of the last group vary fastest."""
    pairs = [(indices, group_choices(indices, extents, forced)) for indices in groups]
    grids = np.indices([len(choices) for _, choices in pairs], dtype=np.int64)
    return [
        Cuts(indices=indices, extents=extents, choices=choices, picks=grid.ravel())
        for (indices, choices), grid in zip(pairs, grids, strict=True)
    ]
