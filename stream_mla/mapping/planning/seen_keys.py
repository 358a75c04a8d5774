"""What a mask leaves of attention, for many ways to cut queries and keys at once. Estimates, like all plans."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from stream_mla.mapping.planning.candidate_sizes import Numbers
from stream_mla.workload.key_mask import KeyMask

Reals = NDArray[np.float64] | Numbers

SAMPLES = 256
"""Pieces of the queries that are looked at, evenly spaced: means over so many are within 1 % for every kind of mask."""


@dataclass(frozen=True, kw_only=True)
class SeenKeys:
    """What the pieces of the queries attend to; entry i of each array belongs to candidate i."""

    chunks: Reals
    """Chunks of keys that a piece attends to, on average."""
    most_chunks: Reals
    """The same, of the piece that attends to most of them in one split of the keys."""
    keys: Reals
    """Keys of these chunks, on average."""
    most_keys: Reals
    """The same, of the piece that attends to most of them."""
    splits: Reals
    """Splits of the keys that a piece attends to, on average."""


def seen_keys(
    mask: KeyMask | None, queries: int, keys: int, query_sizes: Numbers, splits: Numbers, chunks: Numbers
) -> SeenKeys:
    """Return what pieces of `query_sizes` of the queries attend to, of keys in `splits`, each in `chunks` of a size."""
    split_keys = -(-keys // splits)
    if mask is None:
        each = -(-split_keys // chunks)
        return SeenKeys(
            chunks=each * splits, most_chunks=each, keys=np.full_like(splits, keys), most_keys=split_keys, splits=splits
        )
    ways, place = np.unique(np.stack([query_sizes, splits, chunks]), axis=1, return_inverse=True)
    found = _masked(mask, queries, keys, tuple(tuple(int(size) for size in way) for way in ways))[:, place.ravel()]
    return SeenKeys(chunks=found[0], most_chunks=found[1], keys=found[2], most_keys=found[3], splits=found[4])


@lru_cache(maxsize=64)
def _masked(mask: KeyMask, queries: int, keys: int, ways: tuple[tuple[int, ...], ...]) -> Reals:
    """Return a row for each field of `SeenKeys`; the plans of a graph ask for the same ones again and again."""
    sizes, splits, chunks = (np.array(way, dtype=np.int64) for way in ways)
    found = np.empty((5, len(sizes)))
    for size in np.unique(sizes):
        these = np.flatnonzero(sizes == size)
        split_keys = (-(-keys // splits[these]))[:, None]
        chunk = np.minimum(chunks[these][:, None], split_keys)
        each = -(-split_keys // chunk)
        pieces = -(-queries // int(size))
        lows = np.unique(np.linspace(0, pieces - 1, min(pieces, SAMPLES)).astype(np.int64)) * int(size)
        first = mask.starts(lows)
        last = mask.ends(np.minimum(lows + int(size), queries) - 1) - 1
        first_chunk, last_chunk = (key // split_keys * each + key % split_keys // chunk for key in (first, last))
        seen = last_chunk - first_chunk + 1
        first_key = first // split_keys * split_keys + first % split_keys // chunk * chunk
        last_key = last // split_keys * split_keys + np.minimum((last % split_keys // chunk + 1) * chunk, split_keys)
        ends = np.minimum(last_key, keys)
        found[:, these] = (
            seen.mean(axis=1),
            np.minimum(seen, each).max(axis=1),
            (ends - first_key).mean(axis=1),
            (ends - first_key).max(axis=1),
            (last // split_keys - first // split_keys + 1).mean(axis=1),
        )
    return found
