"""A graph of tiles as data: how it is to be cut, and its blocks and tiles."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

from stream_mla.hardware.work import Gemm, VectorWork
from stream_mla.mapping.tiling.grid import Interval
from stream_mla.mapping.tiling.seen_pieces import SeenPieces, seen_pieces
from stream_mla.mapping.tiling.tile_order import successors
from stream_mla.mapping.tiling.tile_work import Box
from stream_mla.workload.operator_graph import COUNTERS, Kind, Operator, OperatorGraph
from stream_mla.workload.split_k import spread_cut


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How to cut a graph and where its tensors live."""

    sizes: Mapping[str, Mapping[str, int]]
    """Operator -> index -> largest size of a piece; an index that is missing is not cut."""
    spilled: frozenset[str]
    """Activations that are written to DRAM and read back; the others stay on chip."""
    shared: frozenset[str]
    """Tensors of which a core loads a block once for all its clusters; of the others, each cluster loads its own."""
    local: frozenset[str]
    """Tensors that never leave the core that makes them."""
    eager: frozenset[str] = frozenset()
    """Operators whose chains start before all their inputs are there: their unfinished sums are small."""
    single_buffered: frozenset[str] = frozenset()
    """Tensors whose loads may not overlap with a tile on the array of the core they go to."""
    phases: Mapping[str, int] = field(default_factory=dict[str, int])
    """Operator -> phase: nothing of a phase starts before all tiles of the earlier ones have ended; 0 if missing."""
    inline: frozenset[str] = frozenset()
    """Local tensors made just before they are used; what makes and what uses them follow without a break."""
    together: frozenset[str] = frozenset()
    """Tensors of which a core loads a block once for all its users: these run there, one group after the other."""
    k_splits: Mapping[str, int] = field(default_factory=dict[str, int])
    """Contraction -> splits of its reduced indices (split-K), which may lie on different cores; no more than there are
    pieces of these indices; 1 if missing."""
    kv_splits: Mapping[str, int] = field(default_factory=dict[str, int])
    """Fusion group -> splits of its keys (split-KV), which may lie on different cores; 1 if missing."""

    def kv_splits_of(self, operator: Operator) -> int:
        """Return the splits of the keys that an operator works on, or merges."""
        return 1 if operator.group is None else self.kv_splits.get(operator.group, 1)


@dataclass(frozen=True, kw_only=True)
class Block:
    """One cell of a tensor's grid."""

    name: str
    tensor: str
    box: tuple[Interval, ...]
    bits: int
    """As stored in DRAM and moved."""
    held_bits: int
    """In the memory of the core that makes it: wider than `bits` while sums are unfinished."""
    born_in_dram: bool
    via_dram: bool
    """Consumers read it from DRAM (weights, inputs, cache, spilled activations)."""
    stored: bool
    """It must be written to DRAM."""
    shared: bool
    single_buffered: bool = False
    """Its loads do not overlap with tiles on the array of the core they go to."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One operator over a box of its indices."""

    name: str
    operator: str
    kind: Kind
    box: Box = field(hash=False)
    chain: int
    step: int
    last: bool
    """Whether it completes the blocks it writes."""
    reads: tuple[int, ...]
    """Blocks read, besides its own unfinished ones."""
    writes: tuple[int, ...]
    group: int
    work: Gemm | VectorWork
    phase: int = 0
    """0, 1, ...: it starts when all tiles of smaller phases have ended, and so do loads that none of these needs."""


@dataclass(frozen=True, kw_only=True)
class TileGraph:
    """A cut graph. Tiles stand in an order in which a single core could run them, consumers close to producers."""

    graph: OperatorGraph
    tiling: Tiling
    tiles: tuple[Tile, ...]
    blocks: tuple[Block, ...]
    shapes: Mapping[str, tuple[int, ...]]
    """Tensor shapes with the counters at their true size."""
    predecessors: tuple[tuple[int, ...], ...]
    """It holds, for each tile: makers of what it reads, and the step before it in its chain."""
    maker: tuple[int, ...]
    """It holds, for each block: the tile that completes it, or -1 for those born in DRAM, and for those that a mask
    hides as a
    whole, which nobody makes or reads."""
    users: tuple[tuple[int, ...], ...]
    """It holds, for each block: the tiles that read it."""

    @cached_property
    def successors(self) -> tuple[tuple[int, ...], ...]:
        """It holds, for each tile: the tiles that wait for it, in their order."""
        return successors(self.predecessors)


def tile_count(graph: OperatorGraph, tiling: Tiling) -> int:
    """Return how many tiles `tile` would make, without making them."""
    graph = spread_cut(graph, tiling.k_splits, tiling.sizes)
    count = 0
    for operator in graph.operators:
        sizes = tiling.sizes.get(operator.name, {})
        seen = operator_seen(graph, operator, tiling)
        pieces_of = (
            -(-graph.extents[index] // sizes.get(index, graph.extents[index]))
            for index in operator.indices
            if index not in (*COUNTERS, "w") and (seen is None or index not in ("q", "k"))
        )
        count += prod(pieces_of) * (1 if seen is None else int(seen.chunks.sum()))
    return count


def operator_seen(graph: OperatorGraph, operator: Operator, tiling: Tiling) -> SeenPieces | None:
    """Return the tiles that a mask leaves of an operator over queries and keys; None where it has none."""
    if operator.mask is None or "k" not in operator.indices:
        return None
    sizes, queries, keys = tiling.sizes.get(operator.name, {}), graph.extents["q"], graph.extents["k"]
    splits = tiling.kv_splits_of(operator)
    return seen_pieces(operator.mask, queries, sizes.get("q", queries), keys, splits, sizes.get("k", keys))
