"""Which keys the queries of a graph attend to, in the numbers of its indices q and k.

Whatever the mask, the keys that some neighbouring queries attend to lie in one piece: from the first key of the first
of them to the last key of the last one. So whether a tile is wholly masked is a question of two ends.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from stream_mla.workload.spec import Mask, Workload

Positions = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class KeyMask:
    """A mask that hides some keys of a graph from some of its queries."""

    mask: Mask
    """It is what it hides; it is causal."""
    first_query: int
    """The position in the sequence of query 0 of the graph."""
    first_key: int
    """The position in the sequence of key 0 of the graph."""

    def starts(self, queries: Positions) -> Positions:
        """Return the first key that each of these queries attends to."""
        return _first_positions(self.mask, queries + self.first_query, self.first_key) - self.first_key

    def ends(self, queries: Positions) -> Positions:
        """Return the key behind the last one that each of these queries attends to."""
        return queries + (self.first_query + 1 - self.first_key)

    def seen(self, low: int, high: int) -> tuple[int, int]:
        """Return the keys [first, end) that the queries [low, high) attend to, each at least by one of them."""
        first, last = np.array([low]), np.array([high - 1])
        return int(self.starts(first)[0]), int(self.ends(last)[0])

    def hides(self, queries: Positions, keys: Positions) -> NDArray[np.bool_]:
        """Return, for each query (rows) and key (columns), whether the query does not attend to the key."""
        return (keys[None, :] < self.starts(queries)[:, None]) | (keys[None, :] >= self.ends(queries)[:, None])

    def pairs(self, queries: int) -> int:
        """Return the pairs of a query and a key that it attends to, over the first `queries` queries."""
        return _pairs(self, queries)


@lru_cache(maxsize=256)
def _pairs(key_mask: KeyMask, queries: int) -> int:
    """Return the sum over queries of the keys that each attends to."""
    numbers = np.arange(queries)
    return int((key_mask.ends(numbers) - key_mask.starts(numbers)).sum())


def _first_positions(mask: Mask, positions: Positions, least: int) -> Positions:
    """Return the first position, but none before `least`, that queries at some positions attend to."""
    first = np.full_like(positions, least)
    if mask.window is not None:
        first = np.maximum(first, positions - (mask.window - 1))
    if mask.chunk is not None:
        first = np.maximum(first, positions // mask.chunk * mask.chunk)
    return first


def first_key(workload: Workload) -> int:
    """Return the position of the first key that any query of a step attends to: no row before it is read."""
    if not workload.mask.causal:
        return 0
    return int(_first_positions(workload.mask, np.array([workload.cached_tokens]), 0)[0])


def key_mask_of(workload: Workload) -> KeyMask | None:
    """Return the mask over the keys from `first_key` on; None where every query attends to all of them."""
    if not workload.mask.causal:
        return None
    first = first_key(workload)
    found = KeyMask(mask=workload.mask, first_query=workload.cached_tokens, first_key=first)
    keys = workload.key_tokens - first
    return found if found.pairs(workload.query_tokens) < workload.query_tokens * keys else None
