"""How each operator is cut: all candidates at once, each with its footprint and its DRAM traffic in bit.

Pieces that come from DRAM are double-buffered: the next tile's load while this one's are used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_mla.estimate import Candidates, Quantities, Reals, Setting
from stream_mla.graph import COUNTERS, Operator, OperatorGraph, Tensor, gemm_indices
from stream_mla.piece_choices import Cuts, Numbers, Sizes, combine, piece_count, piece_elements, piece_sizes


def cut_contraction(setting: Setting, operator: Operator) -> Sizes:
    """Cut one einsum C[m, n] = A[m, k] B[k, n].

    Footprint: two pieces of A, two of B and two of C, in bits as they are stored; where k is cut, one piece of C as
    wide as partial sums, which stays until its chain ends. Traffic: the bits of A once per piece of n, those of B
    once per piece of m; either only if it is read from DRAM, and once per core if it is small.
    """
    graph, machine = setting.graph, setting.machine
    groups = gemm_indices(operator)
    cuts = combine((groups.batch, groups.m, groups.n, groups.k), graph.extents, setting.forced)
    batch, m, n, k = (cut.elements() for cut in cuts)
    batch_pieces, m_pieces, n_pieces, k_pieces = (cut.pieces() for cut in cuts)
    a, b = (graph.tensors[operand.tensor] for operand in operator.inputs[:2])
    out = graph.tensors[operator.outputs[0].tensor]
    a_bits, b_bits = batch * m * k * a.element_bits, batch * k * n * b.element_bits
    held_bits = np.where(k_pieces > 1, max(out.element_bits, graph.partial_bits), out.element_bits)
    footprint = 2 * (a_bits + b_bits) + batch * m * n * held_bits * np.where(k_pieces > 1, 1, 2)
    clusters = batch_pieces * m_pieces * n_pieces
    # a chain is the last resort: it reads its sums again
    tiles = np.where(k_pieces > 1, clusters * k_pieces * 3 // 2, clusters)
    tile_cycles = machine.tile_cycles(batch, m, n, k, max(a.element_bits, b.element_bits))
    best = setting.best(
        Candidates(
            traffic_bits=setting.loads_bits(a.name, n_pieces, clusters)
            + setting.loads_bits(b.name, m_pieces, clusters),
            compute_cycles=tiles / clusters * tile_cycles * machine.rounds(clusters),
            tile_bits=a_bits + b_bits,
            tile_cycles=tile_cycles,
            tiles=tiles,
            footprint_bits=footprint,
            fits=footprint <= setting.budget_bits,
        )
    )
    return _sizes(cuts, best)


def _sizes(cuts: Sequence[Cuts], candidate: int) -> Sizes:
    return {index: size for cut in cuts for index, size in cut.sizes(candidate).items()}


def cut_composite(setting: Setting, producer: Operator, consumer: Operator) -> tuple[Sizes, Sizes]:
    """Cut a product that stays on chip together with the operator that uses it; return the sizes of both.

    Heads, rank r and latent dimension c are cut alike in both, tokens in the consumer only.

    Footprint: two pieces of both factors [h, r, n] and [h, c, n], two of the consumer's input [tokens, r] if it is
    read from DRAM, one and a half of the composite [h, r, c], in bits as they are stored, and partial sums of
    [tokens, h, c]: a rank that is cut keeps the sums of all tokens, else those of one piece. Traffic: the bits of
    the first factor once per piece of c, those of the second once per piece of r, those of the input once per piece
    of h and c if it is read from DRAM and not small.
    """
    graph, machine = setting.graph, setting.machine
    extents = graph.extents
    rank_index = consumer.inputs[0].indices[-1]
    cuts = combine((("h",), (rank_index,), ("c",), ("b", "q")), extents, setting.forced)
    heads, rank, latent, tokens = (cut.elements() for cut in cuts)
    head_pieces, rank_pieces, latent_pieces, token_pieces = (cut.pieces() for cut in cuts)
    a, b = (graph.tensors[operand.tensor] for operand in producer.inputs)
    source, composite = graph.tensors[consumer.inputs[0].tensor], graph.tensors[producer.outputs[0].tensor]
    depth = extents["n"]
    factor_bits = heads * depth * (rank * a.element_bits + latent * b.element_bits)
    source_bits = tokens * rank * source.element_bits if setting.via_dram(source.name) else np.zeros_like(tokens)
    kept = np.where(rank == extents[rank_index], tokens, extents["b"] * extents["q"])
    footprint = 2 * (factor_bits + source_bits) + 1.5 * heads * rank * latent * composite.element_bits
    footprint = footprint + kept * heads * latent * graph.partial_bits
    traffic = a.bits * latent_pieces + b.bits * rank_pieces
    if setting.via_dram(source.name) and source.bits > setting.small_bits:
        traffic = traffic + source.bits * head_pieces * latent_pieces
    operand_bits = max(a.element_bits, b.element_bits)
    tile_cycles = machine.tile_cycles(heads, rank, latent, np.full_like(heads, depth), operand_bits)
    clusters = head_pieces * latent_pieces
    best = setting.best(
        Candidates(
            traffic_bits=traffic,
            compute_cycles=machine.rounds(clusters) * rank_pieces * tile_cycles,
            tile_bits=factor_bits,
            tile_cycles=tile_cycles,
            tiles=clusters * rank_pieces * (1 + token_pieces),
            footprint_bits=footprint,
            fits=footprint <= setting.budget_bits,
        )
    )
    return _sizes(cuts[:3], best), _sizes(cuts, best)


def cut_vector(setting: Setting, operator: Operator) -> Sizes:
    """Cut a norm or RoPE over heads, tokens and batch, never over its last axis."""
    free = [index for index in ("h", "g", "j", "q", "b") if index in operator.inputs[0].indices[:-1]]
    return outer_cut(setting, operator, free)


def outer_cut(
    setting: Setting,
    operator: Operator,
    order: Sequence[str],
    *,
    least_pieces: int = 1,
    copies: int = 1,
    start: Mapping[str, int] | None = None,
) -> Sizes:
    """Cut a vector operator, one index of `order` down to 1 after the other, until it fits and has enough pieces.

    `start` gives sizes to begin with. Footprint: `copies` pieces of every input and output, in bits as they are
    stored. Where even pieces of one element are too large or too few, those are returned.
    """
    graph, extents = setting.graph, setting.graph.extents
    operands = (*operator.inputs, *operator.outputs)
    sizes: Sizes = {index: size for index, size in {**(start or {}), **setting.forced}.items() if index in order}

    def footprint_bits() -> int:
        whole = [[index for index in operand.indices if index not in COUNTERS] for operand in operands]
        widths = [graph.tensors[operand.tensor].element_bits for operand in operands]
        return copies * sum(piece_elements(i, sizes, extents) * width for i, width in zip(whole, widths, strict=True))

    for index in (i for i in order if i in operator.indices and i not in setting.forced):
        for size in piece_sizes(sizes.get(index, extents[index])):
            sizes[index] = size
            enough = piece_count(order, sizes, extents) >= least_pieces
            if enough and footprint_bits() <= setting.vector_budget_bits:
                return {i: s for i, s in sizes.items() if s < extents[i]}
    return sizes


@dataclass(frozen=True, kw_only=True)
class AttentionCut:
    """How scores, softmax and the product with the values are cut."""

    heads: tuple[str, ...]
    """The indices that number heads."""
    sizes: Mapping[str, int]
    parts: int
    """Parts of the keys."""


@dataclass(frozen=True, kw_only=True)
class _AttentionShape:
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

    @property
    def shared_cache(self) -> bool:
        """The values lie in the rows of the keys."""
        return self.keys is self.values

    @property
    def key_bits(self) -> int:
        """Of a key and its value."""
        return self.depth * self.keys.element_bits + (0 if self.shared_cache else self.width * self.values.element_bits)


@dataclass(frozen=True, kw_only=True)
class _AttentionTable:
    """The candidates: combinations of heads, query tokens, keys and parts."""

    cuts: Sequence[Cuts]
    """Of heads, query tokens and keys; the chunks of keys may have to be smaller, see `chunk`."""
    parts: Numbers
    requests: int
    """Of the batch, in one tile."""
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

    @property
    def tiles(self) -> Numbers:
        """Tiles of each of the operators."""
        return self.blocks * self.chunks


def cut_attention(setting: Setting, operators: Mapping[str, Operator]) -> AttentionCut:
    """Cut scores, softmax and the product with the values alike, and choose the parts of the keys."""
    graph, machine = setting.graph, setting.machine
    shape = _attention_shape(graph, operators["scores"], operators["attend"])
    table = _attention_table(setting, shape)
    footprint = _attention_footprint_bits(graph, shape, table)
    tile_cycles = _attention_tile_cycles(setting, shape, table)
    clusters = table.blocks * table.parts
    best = setting.best(
        Candidates(
            traffic_bits=_attention_traffic_bits(graph, shape, table),
            compute_cycles=table.tiles / clusters * tile_cycles * machine.rounds(clusters),
            tile_bits=table.copies * table.chunk * shape.key_bits,
            tile_cycles=tile_cycles,
            tiles=table.tiles,
            footprint_bits=footprint,
            fits=(footprint <= setting.budget_bits) & _vector_fits(setting, table),
        )
    )
    chosen = {**_sizes(table.cuts[:2], best), "b": table.requests, "k": int(table.chunk[best])}
    return AttentionCut(heads=shape.heads, sizes=chosen, parts=int(table.parts[best]))


def _attention_shape(graph: OperatorGraph, scores: Operator, attend: Operator) -> _AttentionShape:
    query, keys = (graph.tensors[operand.tensor] for operand in scores.inputs[:2])
    return _AttentionShape(
        heads=("g", "j") if "g" in graph.extents else ("h",),
        query=query,
        keys=keys,
        values=graph.tensors[attend.inputs[1].tensor],
        depth=graph.extents[scores.inputs[0].indices[-1]],
        width=graph.extents[attend.outputs[0].indices[-1]],
        per_head="h" in scores.inputs[1].indices or "g" in scores.inputs[1].indices,
    )


def _attention_table(setting: Setting, shape: _AttentionShape) -> _AttentionTable:
    extents, forced = setting.graph.extents, setting.forced
    cuts = combine((shape.heads, ("q",), ("k",)), extents, forced)
    # heads are cut before tokens, as the projections cut them, so that blocks on both sides match
    outer = shape.heads[:1]
    heads_done = outer[0] in forced or cuts[0].elements(outer) == 1
    kept = np.flatnonzero((cuts[1].picks == 0) | heads_done)
    part_choices = _part_choices(setting)
    cuts = [cut.take(np.repeat(kept, len(part_choices))) for cut in cuts]
    parts = np.tile(np.array(part_choices, dtype=np.int64), len(kept))
    part = -(-extents["k"] // parts)
    chunk = np.minimum(cuts[2].elements(), part)
    requests = min(forced.get("b", 1), extents["b"])
    return _AttentionTable(
        cuts=cuts,
        parts=parts,
        requests=requests,
        copies=requests * (cuts[0].elements(outer) if shape.per_head else np.ones_like(parts)),
        rows=requests * cuts[0].elements() * cuts[1].elements(),
        chunk=chunk,
        chunks=-(-part // chunk) * parts,
        blocks=-(-extents["b"] // requests) * cuts[0].pieces() * cuts[1].pieces(),
    )


def _part_choices(setting: Setting) -> list[int]:
    """Return numbers of parts worth trying: one part per core, and halves of that."""
    keys = setting.graph.extents["k"]
    if "parts" in setting.forced:
        return [min(setting.forced["parts"], keys)]
    most = min(setting.machine.array_cores, keys)
    return sorted({1, *(-(-most // 2**i) for i in range(8)), most})


def _attention_footprint_bits(graph: OperatorGraph, shape: _AttentionShape, table: _AttentionTable) -> Quantities:
    """Bits of the query rows, two chunks of keys and values, three pieces of scores or numerators [rows, keys], and
    the context of the rows twice: as running sums, and finished.
    """
    probs_bits = graph.tensors["probs"].element_bits
    state_bits = shape.width * (graph.partial_bits + graph.tensors["context"].element_bits)
    return (
        table.rows * (shape.depth * shape.query.element_bits + state_bits)
        + 2 * table.copies * table.chunk * shape.key_bits
        + 3 * table.rows * table.chunk * probs_bits
    )


def _vector_fits(setting: Setting, table: _AttentionTable) -> NDArray[np.bool_]:
    """Where softmax runs on a core of its own: whether a piece of scores and one of numerators fit there."""
    if setting.machine.one_core_does_all:
        return np.ones(len(table.parts), dtype=np.bool_)
    probs_bits = setting.graph.tensors["probs"].element_bits
    return 2 * table.rows * table.chunk * probs_bits <= setting.vector_budget_bits


def _attention_traffic_bits(graph: OperatorGraph, shape: _AttentionShape, table: _AttentionTable) -> Reals:
    """Bits of keys and values once per piece of the query tokens, and of the heads where those share them; with
    parts, the partial sums of each part's context, written and read.
    """
    heads, queries, _ = table.cuts
    cache_bits = shape.keys.bits + (0 if shape.shared_cache else shape.values.bits)
    again = queries.pieces() * (1 if shape.per_head else heads.pieces())
    tokens = graph.extents["b"] * graph.extents["q"]
    rows = tokens * heads.elements() * heads.pieces()
    merged_bits = np.where(table.parts > 1, 2 * table.parts * rows * shape.width * graph.partial_bits, 0)
    return cache_bits * again.astype(np.float64) + merged_bits


def _attention_tile_cycles(setting: Setting, shape: _AttentionShape, table: _AttentionTable) -> Reals:
    """Cycles of the product with the keys and of that with the values, one after the other."""
    bits = max(shape.query.element_bits, shape.keys.element_bits)
    rows = table.rows // table.copies
    depth, width = (np.full_like(rows, size) for size in (shape.depth, shape.width))
    scores = setting.machine.tile_cycles(table.copies, rows, table.chunk, depth, bits)
    return scores + setting.machine.tile_cycles(table.copies, rows, width, table.chunk, bits)
