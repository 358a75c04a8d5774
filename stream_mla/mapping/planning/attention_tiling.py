"""Attention tiling: how the core of a fusion group is cut along heads, query tokens and keys, and into splits.

Scores, softmax and the product with the values are cut alike. Where a scheme expands the cache to keys and values of
every head, the expansion may be *inline*: each chunk is expanded on the core that attends to it, just before, so that
keys and values never exist as a whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from stream_mla.mapping.planning.analytical_model import IN_FLIGHT, CandidateSizes, Quantities, Reals, Setting
from stream_mla.mapping.planning.attention_group import AttentionGroup, AttentionShape, attention_shape
from stream_mla.mapping.planning.candidate_sizes import Cuts, Numbers, combine
from stream_mla.mapping.planning.operator_tiling import chosen_sizes
from stream_mla.mapping.tiling.seen_pieces import SeenKeys, seen_keys
from stream_mla.mapping.tiling.tile_work import OPERATIONS_PER_ELEMENT
from stream_mla.workload.operator_graph import Kind, Operator, OperatorGraph
from stream_mla.workload.split_k import KV_SPLITS

STREAMED_SHARE = 0.5
"""Share of the memory of a vector-only core that scores and numerators take of it on average; the rest is for pieces
that wait for their turn."""
LEAST_IN_FLIGHT = 1.5
"""Score pieces that each array has on a vector-only core at least: one that is moved or worked on, and half of the
next, as arrays do not all send at once."""


@dataclass(frozen=True, kw_only=True)
class AttentionCut:
    """How scores, softmax and the product with the values of one fusion group are cut."""

    heads: tuple[str, ...]
    """The indices that number heads."""
    sizes: Mapping[str, int]
    """Index -> size of a piece, of the products."""
    softmax: Mapping[str, int]
    """Index -> size of a piece, of softmax."""
    kv_splits: int
    """Splits of the keys (split-KV), which may lie on different cores."""
    kept: frozenset[str]
    """Keys and values, where those of a head stay until all its query tokens are through."""


NO_CUT = AttentionCut(heads=(), sizes={}, softmax={}, kv_splits=1, kept=frozenset())
"""The cut of operators that belong to no attention group."""


def cut_of(cuts: Mapping[str, AttentionCut], operator: Operator) -> AttentionCut:
    """Return how the group of an operator is cut: `NO_CUT` where it has none."""
    return NO_CUT if operator.group is None else cuts.get(operator.group, NO_CUT)


@dataclass(frozen=True, kw_only=True)
class _Table:
    """The candidates: combinations of heads, query tokens, keys and splits of the keys; one entry for each."""

    cuts: Sequence[Cuts]
    """How heads, query tokens and keys are cut; the chunks of keys may have to be smaller, see `chunk`."""
    splits: Numbers
    """Splits of the keys."""
    requests: int
    """Requests of the batch in one tile."""
    request_pieces: int
    """Pieces into which the batch is cut."""
    heads: Numbers
    """Heads with keys of their own, in a tile."""
    copies: Numbers
    """Rows of keys in a tile, per key: requests, times heads where those have keys of their own."""
    rows: Numbers
    """Query rows in a tile."""
    chunk: Numbers
    """Keys in a tile."""
    chunks: Numbers
    """Chunks of keys over all splits."""
    blocks: Numbers
    """Pieces of the query rows."""
    split_keys: Numbers
    """Keys of a split."""
    kept: NDArray[np.bool_]
    """Whether keys and values stay until all query tokens of their heads are through."""
    seen: SeenKeys
    """It is what the pieces of the query tokens attend to."""

    @property
    def tiles(self) -> Numbers:
        """Tiles of each of the operators."""
        return np.rint(self.blocks * self.seen.chunks).astype(np.int64)

    @property
    def expanded(self) -> Reals:
        """Chunks that are expanded for each tile, where that is inline: each once for a head, or once for a tile."""
        return np.where(self.kept, self.chunks / self.seen.chunks / self.cuts[1].pieces(), 1.0)

    @property
    def reads(self) -> Reals:
        """How often each key of a head comes to a core: once, or for each piece of its query tokens that sees it."""
        mean = self.seen.keys / self.cuts[2].extents["k"]
        return np.where(self.kept, 1.0, self.cuts[1].pieces() * mean)

    @property
    def visits(self) -> Numbers:
        """How often keys and values of a head come to a core: once, or for each piece of its query tokens."""
        return np.where(self.kept, 1, self.cuts[1].pieces())

    @property
    def groups(self) -> Numbers:
        """Groups of tiles that may lie on different cores."""
        splits = np.where(self.kept, self.splits, self.seen.splits)
        return np.maximum(1, np.rint(self.blocks // self.cuts[1].pieces() * self.visits * splits)).astype(np.int64)


def cut_attention(setting: Setting, group: AttentionGroup) -> AttentionCut:
    """Cut scores, softmax and the product with the values alike, and choose the splits of the keys."""
    graph, machine = setting.graph, setting.machine
    shape = attention_shape(graph, group, setting.inline)
    table = _attention_table(setting, shape)
    footprint = _footprint_bits(graph, shape, table)
    tile_cycles, expansion = _tile_cycles(setting, shape, table)
    array = table.tiles / table.groups * (tile_cycles + table.expanded * expansion) * machine.rounds(table.groups)
    # the last query tokens see most keys, and what is not kept has a core for each piece of them
    array = np.maximum(array, np.where(table.kept, 0, table.seen.most_chunks * tile_cycles))
    vector = _vector_cycles(setting, shape, table)
    softmax_pieces = _softmax_pieces(setting, shape, table)
    best = setting.best(
        CandidateSizes(
            traffic_bits=_traffic_bits(setting, shape, table),
            compute_cycles=np.maximum(array, vector) + np.minimum(array, vector) / 4,
            tile_bits=table.copies * table.chunk * shape.key_bits,
            tile_cycles=tile_cycles + expansion,
            tiles=table.tiles * (2 if shape.rank else 1) + (softmax_pieces - 1) * table.tiles // 3,
            groups=table.groups,
            footprint_bits=footprint,
            fits=(footprint <= setting.budget_bits) & _vector_fits(setting, shape, table),
        )
    )
    chosen = {**chosen_sizes(table.cuts[:2], best), "b": table.requests, "k": int(table.chunk[best])}
    products, softmax = _with_softmax(setting, shape, chosen)
    kept = {tensor.name for tensor in (shape.keys, shape.values) if setting.via_dram(tensor.name) and table.kept[best]}
    return AttentionCut(
        heads=shape.heads, sizes=products, softmax=softmax, kv_splits=int(table.splits[best]), kept=frozenset(kept)
    )


def _with_softmax(
    setting: Setting, shape: AttentionShape, sizes: Mapping[str, int]
) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Return the sizes of the products, and those of softmax: as theirs, or where it has a core of its own finer, to
    stream through it.

    Heads are cut before tokens. A piece that reaches over two tiles of the products would make them share a core: so
    pieces of softmax fill those tiles, which take a few more tokens for that.
    """
    if setting.machine.one_core_does_all:
        return sizes, sizes
    extents, products, finer = setting.graph.extents, dict(sizes), dict(sizes)
    rows = max(1, streamed_bits(setting, shape) // (sizes["k"] * shape.probs.element_bits))
    for index in (*shape.heads, "q"):
        whole = finer.get(index, extents[index])
        others = prod(finer.get(other, extents[other]) for other in (*shape.heads, "q", "b") if other != index)
        most = min(whole, max(1, rows // others))
        if index == "q" and (whole == extents["q"] or "q" not in setting.forced):
            pieces = -(-whole // most)
            finer["q"] = -(-whole // pieces)
            products["q"] = min(extents["q"], finer["q"] * pieces)
        else:
            finer[index] = next(size for size in range(most, 0, -1) if whole % size == 0)
    return products, finer


def streamed_bits(setting: Setting, shape: AttentionShape) -> int:
    """Return the bits of the largest piece of scores that streams through a core that has nothing but a vector unit.

    Scores and numerators are held there while one is moved and while the vector unit works on it. All of them, each
    for that time, are to take no more than a share of the memory in the time of the layer (Little's law): the rest is
    for pieces that wait for their turn. At most, each array has `LEAST_IN_FLIGHT` pieces there.
    """
    machine, extents = setting.machine, setting.graph.extents
    width, pairs = shape.probs.element_bits, extents["q"] * extents["k"]
    if shape.mask is not None:
        pairs = shape.mask.pairs(extents["q"])
    scores = max(1, shape.scores.bits * pairs // (extents["q"] * extents["k"]))
    operations = OPERATIONS_PER_ELEMENT[Kind.SOFTMAX] / width
    layer = max(setting.layer_cycles, scores * operations / machine.vector_operations_per_cycle)
    held_cycles = 1 / machine.vector_port_bits_per_cycle
    held_cycles += operations / machine.vector_operations_per_cycle * machine.vector_cores
    memory = setting.vector_budget_bits * machine.array_cores * IN_FLIGHT
    streams = STREAMED_SHARE * layer * memory / (2 * scores * held_cycles)
    return int(min(streams, memory / machine.array_cores / LEAST_IN_FLIGHT / 2))


def _attention_table(setting: Setting, shape: AttentionShape) -> _Table:
    """Return all combinations of sizes that are worth trying."""
    extents, forced = setting.graph.extents, setting.forced
    cuts = combine((shape.heads, ("q",), ("k",)), extents, forced)
    # heads are cut before tokens, as the projections cut them, so that blocks on both sides match
    outer = shape.heads[:1]
    heads_done = outer[0] in forced or cuts[0].elements(outer) == 1
    kept = np.flatnonzero((cuts[1].picks == 0) | heads_done)
    choices = _split_choices(setting)
    cuts = [cut.take(np.repeat(kept, 2 * len(choices))) for cut in cuts]
    splits = np.tile(np.repeat(np.array(choices, dtype=np.int64), 2), len(kept))
    stays = np.tile(np.array([False, True]), len(kept) * len(choices))
    several = cuts[1].pieces() > 1
    # what is expanded inline for all queries of a head is there until they are through
    able = np.flatnonzero((stays == several) if shape.rank else ~stays | (several & shape.per_head & setting.sharing))
    cuts, splits, stays = [cut.take(able) for cut in cuts], splits[able], stays[able]
    split_keys = -(-extents["k"] // splits)
    chunk = np.minimum(cuts[2].elements(), split_keys)
    requests = min(forced.get("b", 1), extents["b"])
    heads = cuts[0].elements(outer) if shape.per_head else np.ones_like(splits)
    return _Table(
        cuts=cuts,
        splits=splits,
        requests=requests,
        request_pieces=-(-extents["b"] // requests),
        heads=heads,
        copies=requests * heads,
        rows=requests * cuts[0].elements() * cuts[1].elements(),
        chunk=chunk,
        chunks=-(-split_keys // chunk) * splits,
        blocks=-(-extents["b"] // requests) * cuts[0].pieces() * cuts[1].pieces(),
        split_keys=split_keys,
        kept=stays,
        seen=seen_keys(shape.mask, extents["q"], extents["k"], cuts[1].elements(), splits, chunk),
    )


def _split_choices(setting: Setting) -> list[int]:
    """Return numbers of splits worth trying: one split per core, and halves of that."""
    keys = setting.graph.extents["k"]
    if KV_SPLITS in setting.forced:
        return [min(setting.forced[KV_SPLITS], keys)]
    most = min(setting.machine.array_cores, keys)
    return sorted({1, *(-(-most // 2**i) for i in range(8)), most})


def _footprint_bits(graph: OperatorGraph, shape: AttentionShape, table: _Table) -> Quantities:
    """Return the bits of the query rows, two chunks of keys and values, three pieces of scores or numerators
    [rows, keys], and the context of the rows twice: as running sums, and finished.

    Where keys and values are expanded inline they are there once, with two chunks of cached rows and the weights
    of the tile's heads. Where they are kept, all that a piece of the query tokens sees are there, with what it reads
    of the rows, and half of the next ones if these are loaded.
    """
    state_bits = shape.width * (graph.partial_bits + shape.context.element_bits)
    seen = np.minimum(table.split_keys, table.seen.most_keys.astype(np.int64))
    if shape.rank:
        resident, resident_rows = np.where(table.kept, seen, table.chunk), 2 * table.chunk
    else:
        resident = resident_rows = np.where(table.kept, seen * 3 // 2, 2 * table.chunk)
    heads = graph.extents[shape.heads[0]]
    return (
        table.rows * (shape.depth * shape.query.element_bits + state_bits)
        + resident * table.copies * shape.key_bits
        + resident_rows * table.requests * shape.row_bits
        + np.where(table.kept, seen * table.requests * shape.resident_row_bits, 0)
        + 3 * table.rows * table.chunk * shape.probs.element_bits
        + table.heads * shape.weight_bits // heads
    )


def _vector_fits(setting: Setting, shape: AttentionShape, table: _Table) -> NDArray[np.bool_]:
    """Return whether a row of scores and of numerators fit where softmax runs on a core of its own."""
    if setting.machine.one_core_does_all:
        return np.ones(len(table.splits), dtype=np.bool_)
    return table.chunk * shape.probs.element_bits <= streamed_bits(setting, shape)


def _softmax_pieces(setting: Setting, shape: AttentionShape, table: _Table) -> Numbers:
    """Return the tiles of softmax for each of the products, see `_with_softmax`."""
    if setting.machine.one_core_does_all:
        return np.ones_like(table.splits)
    bits = table.rows * table.chunk * shape.probs.element_bits
    return -(-bits // streamed_bits(setting, shape))


def _traffic_bits(setting: Setting, shape: AttentionShape, table: _Table) -> Reals:
    """Return the bits read from DRAM, or written there and read.

    They are keys and values, if they come from there, and the rows read beside them, once per piece of the query
    tokens, and of the heads where those share them; weights that expand, once per core that works on a head; and with
    several splits the partial sums of each split's context.
    """
    graph = setting.graph
    heads = table.cuts[0]
    tensors = {tensor.name: tensor for tensor in (shape.keys, shape.values) if setting.via_dram(tensor.name)}
    key_bits = sum(tensor.bits for tensor in tensors.values())
    rows_bits = graph.extents["b"] * graph.extents["k"] * shape.row_bits
    again = table.reads * (1 if shape.per_head else heads.pieces())
    spread = np.minimum(setting.machine.array_cores, table.request_pieces * table.visits * table.splits)
    tokens = graph.extents["b"] * graph.extents["q"]
    rows = tokens * heads.elements() * heads.pieces()
    merged_bits = np.where(table.splits > 1, 2 * table.seen.splits * rows * shape.width * graph.partial_bits, 0)
    return key_bits * again + rows_bits * (table.reads * heads.pieces()) + shape.weight_bits * spread + merged_bits


def _vector_cycles(setting: Setting, shape: AttentionShape, table: _Table) -> Reals:
    """Return the cycles of softmax, over all vector units: its work per score, and each chunk's on the running sum."""
    graph = setting.graph
    rows = graph.extents["b"] * graph.extents["q"] * prod(graph.extents[index] for index in shape.heads)
    operations = OPERATIONS_PER_ELEMENT[Kind.SOFTMAX] * table.seen.keys + table.seen.chunks * shape.width
    return rows * operations / setting.machine.vector_operations_per_cycle


def _tile_cycles(setting: Setting, shape: AttentionShape, table: _Table) -> tuple[Reals, Reals]:
    """Return the cycles of the product with the keys and that with the values together, and those of expanding both."""
    bits = max(shape.query.element_bits, shape.keys.element_bits)
    rows = table.rows // table.copies
    depth, width = (np.full_like(rows, size) for size in (shape.depth, shape.width))
    cycles = setting.machine.tile_cycles
    both = cycles(table.copies, rows, table.chunk, depth, bits) + cycles(table.copies, rows, width, table.chunk, bits)
    if not shape.rank:
        return both, np.zeros(len(rows))
    rank = np.full_like(rows, shape.rank)
    keys = table.requests * table.chunk
    one = np.ones_like(rows)
    expand = (cycles(one, keys, table.heads * size, rank, bits) for size in (shape.depth, shape.width))
    return both, sum(expand, np.zeros(len(rows)))
