"""The tiles of one operator, before they are numbered and given a cluster."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from operator import itemgetter

from stream_mla.hardware.work import Gemm, VectorWork
from stream_mla.mapping.tiling.grid import Grid, Interval, key_pieces, pieces
from stream_mla.mapping.tiling.seen_pieces import seen_splits, widened
from stream_mla.mapping.tiling.tile_work import Box, gemm_work, vector_work
from stream_mla.workload.key_mask import KeyMask
from stream_mla.workload.operator_graph import (
    CONTRACTIONS,
    COUNTERS,
    PART,
    Kind,
    Operand,
    Operator,
    OperatorGraph,
    gemm_indices,
)
from stream_mla.workload.split_k import dealt_to_splits, k_splits_of


@dataclass(frozen=True)
class _Choice:
    """A piece of an index: its name in tiles that it cuts, and the intervals that it puts into their boxes."""

    label: str
    values: tuple[Interval, ...]


def _index_choices(
    graph: OperatorGraph, operator: Operator, sizes: Mapping[str, int], parts: int
) -> dict[tuple[str, ...], list[_Choice]]:
    """For each index of an operator, its pieces; keys bring their counters, and stand under all three names.

    Rows that are in parts stand together, last, and bring the counter of the parts.
    """
    choices: dict[tuple[str, ...], list[_Choice]] = {}
    k_splits = k_splits_of(graph, operator)
    rows = gemm_indices(operator).k if k_splits > 1 and operator.kind in CONTRACTIONS else ()

    def label(index: str, piece: Interval) -> str:
        return "" if piece == (0, graph.extents[index]) else f"{index}={piece[0]}:{piece[1]}"

    for index in operator.indices:
        extent = graph.extents[index]
        if index in rows or (rows and index == PART):
            continue
        if index == PART:
            choices[index,] = [_Choice("", ((0, k_splits),))]
        elif index == "k":
            tile_graph = key_pieces(extent, parts, sizes.get("k", extent))
            choices["k", "t", "s"] = [
                _Choice(label("k", piece), (piece, (t, t + 1), (part, part + 1)))
                for t, (piece, part) in enumerate(tile_graph)
            ]
        elif index in COUNTERS:
            if "k" not in operator.indices:
                choices[index,] = [_Choice("", ((0, parts),))]
        elif index == "w":
            choices[index,] = [_Choice("", ((0, 2),))]
        else:
            cut_index = pieces(extent, sizes.get(index, extent))
            choices[index,] = [_Choice(label(index, piece), (piece,)) for piece in cut_index]
    if rows:
        cut_rows = product(*(pieces(graph.extents[index], sizes.get(index, graph.extents[index])) for index in rows))
        in_order = [dict(zip(rows, piece, strict=True)) for piece in cut_rows]
        choices[*rows, PART] = [
            _Choice(",".join(filter(None, (label(index, box[index]) for index in rows))), tuple(box.values()))
            for box in dealt_to_splits(in_order, k_splits)
        ]
    return choices


class _SeenKeys:
    """It is what a mask leaves of the boxes of an operator."""

    def __init__(
        self, graph: OperatorGraph, mask: KeyMask, indices: Sequence[str], splits: int, merged_size: int | None
    ) -> None:
        self.mask, self.splits, self.merged_size = mask, splits, merged_size
        self.queries, self.keys = graph.extents["q"], graph.extents["k"]
        self.places = [indices.index(i) if i in indices else -1 for i in ("q", "k", "s")]
        self.known: dict[Interval, Interval] = {}
        """It holds, for a piece of the queries: the keys that it attends to; of a merge, their splits."""

    def of(self, values: tuple[Interval, ...]) -> tuple[Interval, ...] | None:
        """Return a box, of a merge with those splits only that have keys; None where a mask hides all of it."""
        queries, keys, split = self.places
        piece = values[queries]
        if piece not in self.known:
            self.known[piece] = self.mask.seen(*piece) if keys >= 0 else self._splits(piece)
        first, end = self.known[piece]
        if keys < 0:
            return (*values[:split], (first, end), *values[split + 1 :])
        return values if values[keys][0] < end and first < values[keys][1] else None

    def _splits(self, piece: Interval) -> Interval:
        """Return the splits of the keys that a merge over a piece of the queries has."""
        return seen_splits(
            self.mask, widened(piece, self.merged_size or self.queries, self.queries), self.keys, self.splits
        )


class Boxes:
    """The boxes of an operator's tiles: all combinations of the pieces of its indices, but those wholly masked."""

    def __init__(
        self,
        graph: OperatorGraph,
        operator: Operator,
        sizes: Mapping[str, int],
        splits: int,
        merged_size: int | None = None,
    ) -> None:
        """`sizes`: index -> largest size of a piece; `splits`: of the keys; `merged_size`: of the pieces of the queries
        that what is merged is cut into, where that is masked.
        """
        choices = _index_choices(graph, operator, sizes, splits)
        self.operator = operator
        self.indices = tuple(index for names in choices for index in names)
        self.labels: list[str] = []
        self.values: list[tuple[Interval, ...]] = []
        """It holds, for each tile: an interval of each of `indices`."""
        mask = operator.mask
        seen = None if mask is None else _SeenKeys(graph, mask, self.indices, splits, merged_size)
        for combination in product(*choices.values()):
            values = tuple([interval for choice in combination for interval in choice.values])
            if seen is not None and (values := seen.of(values)) is None:
                continue
            where = ",".join([choice.label for choice in combination if choice.label])
            self.labels.append(f"{operator.name}[{where}]" if where else operator.name)
            self.values.append(values)

    def column(self, index: str) -> set[Interval]:
        """Return the pieces of an index."""
        place = self.indices.index(index)
        return {values[place] for values in self.values}

    def pick(self, indices: Sequence[str]) -> "_Pick":
        """Return what picks the intervals of some indices from those of a tile."""
        places = [self.indices.index(index) for index in indices]
        if len(places) == 1:
            return lambda values, place=places[0]: (values[place],)
        return itemgetter(*places)


_Pick = Callable[[tuple[Interval, ...]], tuple[Interval, ...]]


@dataclass(slots=True)
class TileDraft:
    """A tile before its number and its cluster are known."""

    name: str
    operator: str
    kind: Kind
    box: Box
    chain: int
    step: int
    last: bool
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    work: Gemm | VectorWork
    phase: int


class _Touched:
    """The blocks that operands cover over a box; many tiles touch the same."""

    def __init__(self, boxes: Boxes, operands: Iterable[Operand], grids: Mapping[str, Grid]) -> None:
        self.parts = [
            (boxes.pick(operand.indices), operand.offsets, grids[operand.tensor], dict[object, tuple[int, ...]]())
            for operand in operands
        ]

    def blocks(self, values: tuple[Interval, ...]) -> tuple[int, ...]:
        """Return the blocks of all operands, one after the other, each once."""
        found: list[tuple[int, ...]] = []
        for pick, offsets, grid, known in self.parts:
            intervals = pick(values)
            blocks = known.get(intervals)
            if blocks is None:
                where = [(low + by, high + by) for (low, high), by in zip(intervals, offsets, strict=True)]
                blocks = known[intervals] = grid.overlapping(tuple(where))
            found.append(blocks)
        if len(found) == 1:
            return found[0]
        return tuple(dict.fromkeys([block for blocks in found for block in blocks]))


def operator_tiles(
    graph: OperatorGraph, boxes: Boxes, grids: Mapping[str, Grid], *, chain0: int, phase: int
) -> list[TileDraft]:
    """Make the tiles of one operator; chains are numbered from `chain0`."""
    operator, indices = boxes.operator, boxes.indices
    chains: dict[tuple[int, ...], list[TileDraft]] = {}
    read, written = _Touched(boxes, operator.reads, grids), _Touched(boxes, operator.outputs, grids)
    works: dict[tuple[object, ...], Gemm | VectorWork] = {}
    keys = indices.index("k") if "k" in indices else -1
    of_queries = boxes.pick(("s", "q") if operator.mask else ("s",)) if keys >= 0 else None
    starts = {of_queries(values): values[keys][0] for values in reversed(boxes.values)} if of_queries else {}
    """It holds, for each split of the keys, and with a mask of each piece of the queries too: where its first chunk
    starts."""
    for name, values in zip(boxes.labels, boxes.values, strict=True):
        writes = written.blocks(values)
        chain = chains.setdefault(writes, [])
        box = dict(zip(indices, values, strict=True))
        later = of_queries is not None and values[keys][0] != starts[of_queries(values)]
        shape = (*[high - low for low, high in values], later, bool(chain))
        work = works.get(shape)
        if work is None:
            contracts = operator.kind in CONTRACTIONS
            work = works[shape] = (
                gemm_work(graph, operator, box, len(chain))
                if contracts
                else vector_work(graph, operator, box, rescales=later)
            )
        chain.append(
            TileDraft(
                name,
                operator.name,
                operator.kind,
                box,
                chain[0].chain if chain else chain0 + len(chains) - 1,
                len(chain),
                False,
                read.blocks(values),
                writes,
                work,
                phase,
            )
        )
    for chain in chains.values():
        chain[-1].last = True
    return [draft for chain in chains.values() for draft in chain]
