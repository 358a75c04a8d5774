"""This module is about what the scheduler is free to decide about data, and what is held fixed for study."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Fusion(StrEnum):
    """Where intermediate tensors go."""

    AUTO = "auto"
    """Each stays on chip or goes through DRAM, whichever is better."""
    ON = "on"
    """All stay on chip."""
    OFF = "off"
    """All go through DRAM, and an operator starts when the one before has ended: layer by layer."""


class Prefetch(StrEnum):
    """It is what may be loaded into a core while its array works."""

    ON = "on"
    """Everything."""
    SECOND = "second"
    """All but the first operand of a product; and nothing across the borders of fused stacks: as in the letter."""
    OFF = "off"
    """Nothing: loads and products of one core take turns."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The freedom of the scheduler."""

    fusion: Fusion
    prefetch: Prefetch
    sharing: bool
    """One load may serve several clusters on a core, and several cores where a bus can multicast."""


POLICIES: Mapping[str, Policy] = {
    "free": Policy(fusion=Fusion.AUTO, prefetch=Prefetch.ON, sharing=True),
    "letter": Policy(fusion=Fusion.ON, prefetch=Prefetch.SECOND, sharing=True),
    "layer_by_layer": Policy(fusion=Fusion.OFF, prefetch=Prefetch.ON, sharing=True),
}
"""It is ordered by name; `letter` stands for the runs behind Fig 5 of Geens & Verhelst, arXiv 2506.02523."""
