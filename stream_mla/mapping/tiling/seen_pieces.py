"""Which pieces of the queries and of the keys are a tile: those of which a query attends to a key.

Counts and sums over all of them, without making them: exact ones for one way to cut, which bounds need, and estimates
for many ways at once, which plans are chosen by.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from stream_mla.mapping.tiling.grid import Interval, key_pieces, part_edges
from stream_mla.workload.key_mask import KeyMask, Positions

Reals = NDArray[np.float64] | Positions

PieceKind = tuple[int, int, bool]
"""Queries and keys of a tile, and whether its keys are the first of their split that its queries attend to."""

SAMPLES = 256
"""Pieces of the queries that are looked at, evenly spaced: means over so many are within 1 % for every kind of mask."""


class SeenPieces:
    """The tiles of a masked operator, as far as queries and keys tell them apart."""

    def __init__(self, mask: KeyMask, queries: int, query_size: int, keys: int, splits: int, key_size: int) -> None:
        """Cut `queries` and `keys`, the latter into `splits` first, into pieces of these sizes."""
        chunks = key_pieces(keys, splits, key_size)
        self._cut = query_size, keys, splits, key_size
        lows = np.arange(0, queries, query_size)
        self.query_lengths: Positions = np.minimum(lows + query_size, queries) - lows
        self._key_ends = np.array([high for (_, high), _ in chunks])
        self._key_starts = np.array([low for (low, _), _ in chunks])
        self._split = np.array([split for _, split in chunks])
        self._first: Positions = np.searchsorted(self._key_ends, mask.starts(lows), side="right")
        """It holds, for each piece of the queries: its first chunk of keys."""
        self._last: Positions = np.searchsorted(self._key_ends, mask.ends(lows + self.query_lengths - 1), side="left")

    @property
    def chunks(self) -> Positions:
        """It holds, for each piece of the queries: the chunks of keys that it attends to."""
        return self._last - self._first + 1

    @property
    def splits(self) -> Positions:
        """It holds, for each piece of the queries: the splits of the keys that it attends to."""
        return self._split[self._last] - self._split[self._first] + 1

    @property
    def area(self) -> int:
        """The pairs of a query and a key that are in a tile."""
        return int((self.query_lengths * self._keys).sum())

    @property
    def most_keys(self) -> int:
        """The most keys that are in the tiles of one piece of the queries."""
        return int(self._keys.max())

    @property
    def _keys(self) -> Positions:
        return self._key_ends[self._last] - self._key_starts[self._first]

    def keys_over(self, starts: Positions) -> int:
        """Return the keys that stretches of the queries attend to, chunk by chunk, over all stretches.

        A stretch begins at each of `starts`, where a piece begins too.
        """
        first, last = self._over(starts, np.append(starts[1:], self.query_lengths.sum()))
        return int((self._key_ends[last] - self._key_starts[first]).sum())

    def splits_over(self, lows: Positions, highs: Positions) -> Positions:
        """Return the splits of the keys that queries attend to, for each [low, high), widened to whole pieces."""
        first, last = self._over(lows, highs)
        return self._split[last] - self._split[first] + 1

    def nests_with(self, other: "SeenPieces") -> bool:
        """Whether the tiles of one lie in those of the other: the keys are cut alike, the queries of one further."""
        (own, *keys), (others, *others_keys) = self._cut, other._cut
        return keys == others_keys and (own % others == 0 or others % own == 0)

    def _over(self, lows: Positions, highs: Positions) -> tuple[Positions, Positions]:
        """Return the first and the last chunk that each [low, high) of the queries, widened to pieces, attends to."""
        size = int(self.query_lengths[0])
        return self._first[lows // size], self._last[(highs - 1) // size]

    def kinds(self) -> Mapping[PieceKind, int]:
        """Return the kinds of tiles, and how many there are of each."""
        lengths = self._key_ends - self._key_starts
        begins = np.concatenate([[True], self._split[1:] != self._split[:-1]])
        found: Counter[PieceKind] = Counter()
        for length in np.unique(lengths):
            alike = lengths == length
            all_before, begin_before = (np.concatenate([[0], np.cumsum(each)]) for each in (alike, alike & begins))
            total = all_before[self._last + 1] - all_before[self._first]
            firsts = begin_before[self._last + 1] - begin_before[self._first]
            firsts = firsts + (alike & ~begins)[self._first]
            for queries in np.unique(self.query_lengths):
                of = self.query_lengths == queries
                found[int(queries), int(length), True] += int(firsts[of].sum())
                found[int(queries), int(length), False] += int((total - firsts)[of].sum())
        return +found


@lru_cache(maxsize=512)
def seen_pieces(mask: KeyMask, queries: int, query_size: int, keys: int, splits: int, key_size: int) -> SeenPieces:
    """Return the tiles of a masked operator; plans of a graph ask for the same ones again and again."""
    return SeenPieces(mask, queries, query_size, keys, splits, key_size)


def seen_splits(mask: KeyMask, piece: Interval, keys: int, splits: int) -> Interval:
    """Return the splits of the keys, of `keys` in all, that a piece of the queries attends to."""
    first, end = mask.seen(*piece)
    numbers = [
        split for split, (low, high) in enumerate(pairwise(part_edges(keys, splits))) if low < end and first < high
    ]
    return numbers[0], numbers[-1] + 1


def widened(piece: Interval, size: int, extent: int) -> Interval:
    """Return the pieces of a size that a piece reaches into, as one."""
    low, high = piece
    return low // size * size, min(-(-high // size) * size, extent)


@dataclass(frozen=True, kw_only=True)
class SeenKeys:
    """It is what the pieces of the queries attend to; entry i of each array belongs to candidate i."""

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
    mask: KeyMask | None, queries: int, keys: int, query_sizes: Positions, splits: Positions, chunks: Positions
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
