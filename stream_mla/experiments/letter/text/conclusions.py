"""This module is about what the letter concludes from its curves, asked of the published curves and of ours alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stream_mla.experiments.letter.figures.counted import AS_DRAWN, PLATFORMS
from stream_mla.experiments.letter.rows import Row, curves
from stream_mla.experiments.letter.setup import CONTEXTS, LETTER_SERIES

LEVEL = 0.03
"""Two curves of Fig 5 are level where they differ by no more than this, the accuracy asked of each."""

Line = tuple[Sequence[float], Sequence[float]]


def lines(rows: Sequence[Row], variant: str) -> dict[str, Line]:
    """Return x and y of each series of one variant."""
    return {curve.series: line for curve, line in curves(rows).items() if curve.variant == variant}


def at(line: Line, x: float) -> float:
    """Read a curve at x, straight between its points."""
    return float(np.interp(x, *line))


@dataclass(frozen=True, kw_only=True)
class AtPlatform:
    """Fig 5 read at one platform's compute over bandwidth."""

    platform: str
    x: float
    throughput: Mapping[str, float]

    @property
    def best(self) -> str:
        """The series of highest throughput."""
        return max(self.throughput, key=lambda series: self.throughput[series])

    @property
    def rc_over_ru(self) -> float:
        """Return the ratio of the two schemes of MLA."""
        return self.throughput["mla_rc"] / self.throughput["mla_ru"]


def at_platforms(rows: Sequence[Row], variant: str, reading: str) -> list[AtPlatform]:
    """Read Fig 5 at the four platforms of Fig 4, with their corners as drawn or in MACs."""
    found: list[AtPlatform] = []
    for platform in PLATFORMS:
        x = platform.operations_per_byte if reading == AS_DRAWN else platform.macs_per_byte
        throughput = {series: at(line, x) for series, line in lines(rows, variant).items() if series in LETTER_SERIES}
        found.append(AtPlatform(platform=platform.name, x=x, throughput=throughput))
    return found


def crossing(first: Line, second: Sequence[float], slack: float = 0.0) -> float | None:
    """Return the least x from which the first curve stays at or above the second; None if it ends below.

    `second` has a value for each x of the first, as far as it goes; both are straight between points. `slack` is the
    share by which the first may stay below.
    """
    x, ahead = first[0], [mine - other * (1 - slack) for mine, other in zip(first[1], second, strict=False)]
    if ahead[-1] < 0:
        return None
    last = max((number for number, value in enumerate(ahead) if value < 0), default=-1)
    if last < 0:
        return x[0]
    before, after = ahead[last], ahead[last + 1]
    return x[last] + (x[last + 1] - x[last]) * -before / (after - before)


def throughput_crossings(rows: Sequence[Row], variant: str) -> tuple[float | None, float | None]:
    """Return where mla_rc is level with mla_ru, and where it passes mha_scaled for good."""
    found = lines(rows, variant)
    scaled = crossing(found["mla_rc"], found["mha_scaled"][1]) if "mha_scaled" in found else None
    return crossing(found["mla_rc"], found["mla_ru"][1], LEVEL), scaled


def energy_crossing(rows: Sequence[Row], variant: str, other: str = "mla_ru") -> float | None:
    """Return the on-chip efficiency in TOPS/W from which mla_rc takes less energy than another series.

    Energy is straight over the energy per operation, the reciprocal of x, so that is where it is read.
    """
    found = lines(rows, variant)
    (x, ours), (_, theirs) = found["mla_rc"], found[other]
    operation_pj = [1 / value for value in reversed(x)]
    least = crossing((operation_pj, ours[::-1]), theirs[::-1])
    if least is None:
        return 0.0  # less at any efficiency drawn
    return None if least == operation_pj[0] else 1 / least


def by_context(rows: Sequence[Row]) -> Mapping[str, Sequence[Row]]:
    """Return the rows of each context of Figs 5 and 6 that the rows have."""
    kept = {f"L{context}": [row for row in rows if row.variant == f"L{context}"] for context in CONTEXTS}
    return {variant: some for variant, some in kept.items() if some}
