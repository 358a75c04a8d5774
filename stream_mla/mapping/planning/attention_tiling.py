"""How scores, softmax and the product with the values are cut: heads, query tokens, keys, and parts of the keys.

Where a scheme expands the cache to keys and values of every head, the expansion may be *inline*: each chunk is
expanded on the core that attends to it, just before, so that keys and values never exist as a whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from stream_mla.mapping.planning.analytical_model import IN_FLIGHT, CandidateSizes, Quantities, Reals, Setting
from stream_mla.mapping.planning.candidate_sizes import Cuts, Numbers, combine
from stream_mla.mapping.planning.operator_tiling import chosen_sizes
from stream_mla.mapping.planning.seen_keys import SeenKeys, seen_keys
from stream_mla.mapping.tiling.tile_work import OPERATIONS_PER_ELEMENT
from stream_mla.workload.operator_graph import Kind, Operator, OperatorGraph, Tensor

EXPANDED = ("keys", "values")
"""Operators, and the tensors they make, that expand the cache."""
STREAMED_SHARE = 0.5
"""Of the memory of a core that does nothing but vector work: what scores and numerators take of it on average."""
LEAST_IN_FLIGHT = 1.5
"""Pieces that each array has there at least: one that is moved or worked on, and half of the next, or else."""


@dataclass(frozen=True, kw_only=True)
class AttentionCut:
    """How scores, softmax and the product with the values are cut."""

    heads: tuple[str, ...]
    """The indices that number heads."""
    sizes: Mapping[str, int]
    """Of the products."""
    softmax: Mapping[str, int]
    parts: int
    """Parts of the keys."""
    kept: frozenset[str]
    """Keys and values, where those of a head stay until all its query tokens are through."""


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """What attention reads, per query row (one token of one head) and per key."""

    heads: tuple[str, ...]
    query: Tensor
    keys: Tensor
    values: Tensor
    depth: int
    """Elements of a query row, and of a key."""
    width: int
    """Elements of a value, and of a row of the context."""
    per_head: bool
    """Heads, or groups of them, have keys and values of their own."""
    row_bits: int
    """Of a cached row that is read beside keys and values: its rotary part, or all of it where it is expanded."""
    stay_bits: int
    """Of such a row, where keys and values are expanded inline: what each piece of the query tokens reads."""
    weight_bits: int
    """Of the weights that expand the rows, where that is inline: of all heads."""
    rank: int
    """Elements of a row that are expanded; 0 where they are not."""

    @property
    def shared_cache(self) -> bool:
        """The values lie in the rows of the keys."""
        return self.keys is self.values

    @property
    def key_bits(self) -> int:
        """Of a key and its value."""
        return self.depth * self.keys.element_bits + (0 if self.shared_cache else self.width * self.values.element_bits)


@dataclass(frozen=True, kw_only=True)
class _Table:
    """The candidates: combinations of heads, query tokens, keys and parts."""

    cuts: Sequence[Cuts]
    """Of heads, query tokens and keys; the chunks of keys may have to be smaller, see `chunk`."""
    parts: Numbers
    requests: int
    """Of the batch, in one tile."""
    request_pieces: int
    heads: Numbers
    """Heads with keys of their own, in a tile."""
    copies: Numbers
    """Of one row of keys in a tile: requests, times heads where those have keys of their own."""
    rows: Numbers
    """Query rows in a tile."""
    chunk: Numbers
    """Keys in a tile."""
    chunks: Numbers
    """Over all parts."""
    blocks: Numbers
    """Pieces of the query rows."""
    part: Numbers
    """Keys of a part."""
    kept: NDArray[np.bool_]
    """Keys and values stay until all query tokens of their heads are through."""
    seen: SeenKeys
    """What the pieces of the query tokens attend to."""

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
        parts = np.where(self.kept, self.parts, self.seen.parts)
        return np.maximum(1, np.rint(self.blocks // self.cuts[1].pieces() * self.visits * parts)).astype(np.int64)


def cut_attention(setting: Setting, operators: Mapping[str, Operator]) -> AttentionCut:
    """Cut scores, softmax and the product with the values alike, and choose the parts of the keys.

    A graph without them has nothing to cut.
    """
    if "softmax" not in operators:
        return AttentionCut(heads=(), sizes={}, softmax={}, parts=1, kept=frozenset())
    graph, machine = setting.graph, setting.machine
    shape = _attention_shape(setting, operators)
    table = _attention_table(setting, shape)
    footprint = _footprint_bits(graph, shape, table)
    tile_cycles, expansion = _tile_cycles(setting, shape, table)
    array = table.tiles / table.groups * (tile_cycles + table.expanded * expansion) * machine.rounds(table.groups)
    # the last query tokens see most keys, and what is not kept has a core for each piece of them
    array = np.maximum(array, np.where(table.kept, 0, table.seen.most_chunks * tile_cycles))
    vector = _vector_cycles(setting, shape, table)
    best = setting.best(
        CandidateSizes(
            traffic_bits=_traffic_bits(setting, shape, table),
            compute_cycles=np.maximum(array, vector) + np.minimum(array, vector) / 4,
            tile_bits=table.copies * table.chunk * shape.key_bits,
            tile_cycles=tile_cycles + expansion,
            tiles=table.tiles * (2 if shape.rank else 1) + (_softmax_pieces(setting, table) - 1) * table.tiles // 3,
            groups=table.groups,
            footprint_bits=footprint,
            fits=(footprint <= setting.budget_bits) & _vector_fits(setting, table),
        )
    )
    chosen = {**chosen_sizes(table.cuts[:2], best), "b": table.requests, "k": int(table.chunk[best])}
    products, softmax = _with_softmax(setting, shape.heads, chosen)
    kept = {tensor.name for tensor in (shape.keys, shape.values) if setting.via_dram(tensor.name) and table.kept[best]}
    return AttentionCut(
        heads=shape.heads, sizes=products, softmax=softmax, parts=int(table.parts[best]), kept=frozenset(kept)
    )


def _with_softmax(
    setting: Setting, heads: Sequence[str], sizes: Mapping[str, int]
) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Return the sizes of the products, and those of softmax: as theirs, or where it has a core of its own finer, to
    stream through it.

    Heads are cut before tokens. A piece that reaches over two tiles of the products would make them share a core: so
    pieces of softmax fill those tiles, which take a few more tokens for that.
    """
    if setting.machine.one_core_does_all:
        return sizes, sizes
    extents, products, finer = setting.graph.extents, dict(sizes), dict(sizes)
    rows = max(1, streamed_bits(setting) // (sizes["k"] * setting.graph.tensors["probs"].element_bits))
    for index in (*heads, "q"):
        whole = finer.get(index, extents[index])
        others = prod(finer.get(other, extents[other]) for other in (*heads, "q", "b") if other != index)
        most = min(whole, max(1, rows // others))
        if index == "q" and (whole == extents["q"] or "q" not in setting.forced):
            pieces = -(-whole // most)
            finer["q"] = -(-whole // pieces)
            products["q"] = min(extents["q"], finer["q"] * pieces)
        else:
            finer[index] = next(size for size in range(most, 0, -1) if whole % size == 0)
    return products, finer


def streamed_bits(setting: Setting) -> int:
    """Bits of the largest piece of scores that streams through a core that has nothing but a vector unit.

    Scores and numerators are held there while one is moved and while the vector unit works on it. All of them, each
    for that time, are to take no more than a share of the memory in the time of the layer (Little's law): the rest is
    for pieces that wait for their turn. At most, each array has `LEAST_IN_FLIGHT` pieces there.
    """
    machine, graph = setting.machine, setting.graph
    width, scores = graph.tensors["probs"].element_bits, graph.tensors["scores"].bits
    softmax = next(operator for operator in graph.operators if operator.kind is Kind.SOFTMAX)
    scores = max(1, scores * graph.pairs(softmax) // (graph.extents["q"] * graph.extents["k"]))
    operations = OPERATIONS_PER_ELEMENT[Kind.SOFTMAX] / width
    layer = max(setting.layer_cycles, scores * operations / machine.vector_operations_per_cycle)
    held_cycles = 1 / machine.vector_port_bits_per_cycle
    held_cycles += operations / machine.vector_operations_per_cycle * machine.vector_cores
    memory = setting.vector_budget_bits * machine.array_cores * IN_FLIGHT
    streams = STREAMED_SHARE * layer * memory / (2 * scores * held_cycles)
    return int(min(streams, memory / machine.array_cores / LEAST_IN_FLIGHT / 2))


def _attention_shape(setting: Setting, operators: Mapping[str, Operator]) -> _Shape:
    graph, scores, attend = setting.graph, operators["scores"], operators["attend"]
    query, keys = (graph.tensors[operand.tensor] for operand in scores.inputs[:2])
    row_bits = stay_bits = weight_bits = rank = 0
    if "keys" in setting.inline:
        cached = operators["keys"].inputs[0]
        row_bits = graph.tensors[cached.tensor].bits // (graph.extents["b"] * graph.extents["k"])
        rank = graph.extents[cached.indices[-1]]
        weight_bits = sum(graph.tensors[operators[name].inputs[1].tensor].bits for name in EXPANDED)
        if "scores_rope" in operators:
            rotary = operators["scores_rope"].inputs[1]
            made = any(operand.tensor == cached.tensor for operator in graph.operators for operand in operator.outputs)
            # what makes the rows cuts them in two; rows that are given stay whole
            stay_bits = (
                graph.extents[rotary.indices[-1]] * graph.tensors[rotary.tensor].element_bits if made else row_bits
            )
    elif "scores_rope" in operators:
        rotary = operators["scores_rope"].inputs[1]
        row_bits = graph.extents[rotary.indices[-1]] * graph.tensors[rotary.tensor].element_bits
    return _Shape(
        heads=("g", "j") if "g" in graph.extents else ("h",),
        query=query,
        keys=keys,
        values=graph.tensors[attend.inputs[1].tensor],
        depth=graph.extents[scores.inputs[0].indices[-1]],
        width=graph.extents[attend.outputs[0].indices[-1]],
        per_head="h" in scores.inputs[1].indices or "g" in scores.inputs[1].indices,
        row_bits=row_bits,
        stay_bits=stay_bits,
        weight_bits=weight_bits,
        rank=rank,
    )


def _attention_table(setting: Setting, shape: _Shape) -> _Table:
    extents, forced = setting.graph.extents, setting.forced
    cuts = combine((shape.heads, ("q",), ("k",)), extents, forced)
    # heads are cut before tokens, as the projections cut them, so that blocks on both sides match
    outer = shape.heads[:1]
    heads_done = outer[0] in forced or cuts[0].elements(outer) == 1
    kept = np.flatnonzero((cuts[1].picks == 0) | heads_done)
    part_choices = _part_choices(setting)
    cuts = [cut.take(np.repeat(kept, 2 * len(part_choices))) for cut in cuts]
    parts = np.tile(np.repeat(np.array(part_choices, dtype=np.int64), 2), len(kept))
    stays = np.tile(np.array([False, True]), len(kept) * len(part_choices))
    several = cuts[1].pieces() > 1
    # what is expanded inline for all queries of a head is there until they are through
    able = np.flatnonzero((stays == several) if shape.rank else ~stays | (several & shape.per_head & setting.sharing))
    cuts, parts, stays = [cut.take(able) for cut in cuts], parts[able], stays[able]
    part = -(-extents["k"] // parts)
    chunk = np.minimum(cuts[2].elements(), part)
    requests = min(forced.get("b", 1), extents["b"])
    heads = cuts[0].elements(outer) if shape.per_head else np.ones_like(parts)
    mask = next(operator.mask for operator in setting.graph.operators if operator.kind is Kind.ATTEND)
    return _Table(
        cuts=cuts,
        parts=parts,
        requests=requests,
        request_pieces=-(-extents["b"] // requests),
        heads=heads,
        copies=requests * heads,
        rows=requests * cuts[0].elements() * cuts[1].elements(),
        chunk=chunk,
        chunks=-(-part // chunk) * parts,
        blocks=-(-extents["b"] // requests) * cuts[0].pieces() * cuts[1].pieces(),
        part=part,
        kept=stays,
        seen=seen_keys(mask, extents["q"], extents["k"], cuts[1].elements(), parts, chunk),
    )


def _part_choices(setting: Setting) -> list[int]:
    """Return numbers of parts worth trying: one part per core, and halves of that."""
    keys = setting.graph.extents["k"]
    if "parts" in setting.forced:
        return [min(setting.forced["parts"], keys)]
    most = min(setting.machine.array_cores, keys)
    return sorted({1, *(-(-most // 2**i) for i in range(8)), most})


def _footprint_bits(graph: OperatorGraph, shape: _Shape, table: _Table) -> Quantities:
    """Bits of the query rows, two chunks of keys and values, three pieces of scores or numerators [rows, keys], and
    the context of the rows twice: as running sums, and finished.

    Where keys and values are expanded inline they are there once, with two chunks of cached rows and the weights
    of the tile's heads. Where they are kept, all that a piece of the query tokens sees are there, with what it reads
    of the rows, and half of the next ones if these are loaded.
    """
    probs_bits = graph.tensors["probs"].element_bits
    state_bits = shape.width * (graph.partial_bits + graph.tensors["context"].element_bits)
    stay = np.minimum(table.part, table.seen.most_keys.astype(np.int64))
    if shape.rank:
        held, rows_held = np.where(table.kept, stay, table.chunk), 2 * table.chunk
    else:
        held = rows_held = np.where(table.kept, stay * 3 // 2, 2 * table.chunk)
    heads = graph.extents[shape.heads[0]]
    return (
        table.rows * (shape.depth * shape.query.element_bits + state_bits)
        + held * table.copies * shape.key_bits
        + rows_held * table.requests * shape.row_bits
        + np.where(table.kept, stay * table.requests * shape.stay_bits, 0)
        + 3 * table.rows * table.chunk * probs_bits
        + table.heads * shape.weight_bits // heads
    )


def _vector_fits(setting: Setting, table: _Table) -> NDArray[np.bool_]:
    """Where softmax runs on a core of its own: whether a row of scores and of numerators fit there."""
    if setting.machine.one_core_does_all:
        return np.ones(len(table.parts), dtype=np.bool_)
    return table.chunk * setting.graph.tensors["probs"].element_bits <= streamed_bits(setting)


def _softmax_pieces(setting: Setting, table: _Table) -> Numbers:
    """Tiles of softmax for each of the products, see `_with_softmax`."""
    if setting.machine.one_core_does_all:
        return np.ones_like(table.parts)
    bits = table.rows * table.chunk * setting.graph.tensors["probs"].element_bits
    return -(-bits // streamed_bits(setting))


def _traffic_bits(setting: Setting, shape: _Shape, table: _Table) -> Reals:
    """Bits of keys and values, if they come from DRAM, and of the rows read beside them, once per piece of the query
    tokens, and of the heads where those share them; of weights that expand, once per core that works on a head; with
    parts, the partial sums of each part's context, written and read.
    """
    graph = setting.graph
    heads = table.cuts[0]
    tensors = {tensor.name: tensor for tensor in (shape.keys, shape.values) if setting.via_dram(tensor.name)}
    key_bits = sum(tensor.bits for tensor in tensors.values())
    rows_bits = graph.extents["b"] * graph.extents["k"] * shape.row_bits
    again = table.reads * (1 if shape.per_head else heads.pieces())
    spread = np.minimum(setting.machine.array_cores, table.request_pieces * table.visits * table.parts)
    tokens = graph.extents["b"] * graph.extents["q"]
    rows = tokens * heads.elements() * heads.pieces()
    merged_bits = np.where(table.parts > 1, 2 * table.seen.parts * rows * shape.width * graph.partial_bits, 0)
    return key_bits * again + rows_bits * (table.reads * heads.pieces()) + shape.weight_bits * spread + merged_bits


def _vector_cycles(setting: Setting, shape: _Shape, table: _Table) -> Reals:
    """Cycles of softmax, over all vector units: its work per score, and that of each chunk on the running sum."""
    graph = setting.graph
    rows = graph.extents["b"] * graph.extents["q"] * prod(graph.extents[index] for index in shape.heads)
    operations = OPERATIONS_PER_ELEMENT[Kind.SOFTMAX] * table.seen.keys + table.seen.chunks * shape.width
    return rows * operations / setting.machine.vector_operations_per_cycle


def _tile_cycles(setting: Setting, shape: _Shape, table: _Table) -> tuple[Reals, Reals]:
    """Cycles of the product with the keys and of that with the values, one after the other; and of expanding both."""
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
