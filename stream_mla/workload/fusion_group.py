"""Fusion groups: which operators belong together, and the part that each of them plays.

The lowering gives every operator of an attention layer the layer's group and a role in it. The planner tiles the core
of a group (scores, softmax, attend) alike, keeps it on one core, and tiles its neighbours so that they fit. Operators
without a group are planned one by one. Nothing outside the lowering asks for the name of an operator or a tensor.
"""

from dataclasses import dataclass
from enum import StrEnum


class GroupRole(StrEnum):
    """The part that an operator plays in its fusion group."""

    SCORES = "scores"
    """It multiplies queries and keys."""
    SCORE_ADDEND = "score addend"
    """It makes what is added to the scores, as the product of the rotary parts of queries and keys."""
    SOFTMAX = "softmax"
    """It turns scores into numerators and statistics."""
    ATTEND = "attend"
    """It multiplies numerators and values, and leaves one context for each split of the keys."""
    MERGE = "merge"
    """It merges the contexts of the splits."""
    KEYS = "keys"
    """It expands cached rows to keys, which may be done chunk by chunk just before they are used."""
    VALUES = "values"
    """It expands cached rows to values, likewise."""
    COMPOSITE = "composite"
    """It makes a product of weights that never leaves the chip."""
    COMPOSITE_USER = "composite user"
    """It multiplies by that product; both are cut alike."""
    NEIGHBOUR = "neighbour"
    """It feeds the core or uses its result, and is tiled by itself. Any number of operators may have this role."""


CORE = frozenset({GroupRole.SCORES, GroupRole.SCORE_ADDEND, GroupRole.SOFTMAX, GroupRole.ATTEND})
"""The roles of operators that are cut alike and run one after the other on one core."""


@dataclass(frozen=True, kw_only=True)
class FusionGroup:
    """One fusion group, as a graph lists it under its name."""

    heads: tuple[str, ...] = ()
    """The indices that number the heads of attention, the outer one first; empty where the group has no heads."""
