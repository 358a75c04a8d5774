"""Operator tiling: how each operator is cut, all candidates at once, each with its footprint and DRAM traffic in bit.

Pieces that come from DRAM are double-buffered: the next tile's load while this one's are used.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from stream_mla.mapping.planning.analytical_model import CandidateSizes, MachineEstimate, Reals, Setting
from stream_mla.mapping.planning.candidate_sizes import (
    Cuts,
    Numbers,
    Sizes,
    combine,
    nested_size,
    piece_count,
    piece_elements,
    piece_sizes,
)
from stream_mla.workload.operator_graph import COUNTERS, GemmIndices, Operand, Operator, gemm_indices
from stream_mla.workload.split_k import k_splits_of

WORTH_SPLITS = 1e-2
"""Share of the layer's DRAM or compute time, whichever is longer, that the splits of one contraction must gain: each
brings sums, and tiles to schedule."""
IDLE = 0.05
"""Share of the cores' time, while a contraction runs, that may be idle before splits are tried where the DRAM binds."""


def cut_contraction(
    setting: Setting,
    operator: Operator,
    max_sizes: Mapping[str, int] | None = None,
    neighbour_sizes: Mapping[str, int] | None = None,
) -> Sizes:
    """Cut one einsum C[m, n] = A[m, k] B[k, n].

    `max_sizes`: index -> upper limit of the tile size. `neighbour_sizes`: index -> tile size used by the producers of
    its operands and the consumers of its result.
    """
    splits = k_splits_of(setting.graph, operator)
    cuts, candidates = _contractions(setting, operator, max_sizes or {}, splits, neighbour_sizes or {})
    return chosen_sizes(cuts, setting.best(candidates))


def worthwhile_k_splits(
    setting: Setting, operator: Operator, max_sizes: Mapping[str, int], neighbour_sizes: Mapping[str, int]
) -> int:
    """Return the splits of a contraction that promise most, or 1: they must gain a share of the layer.

    As many splits are tried as fill the cores together with some number of column pieces. Their price counts sums that
    go out and come back at the DRAM's rate, whatever way they take. Where the DRAM binds the layer, it hides what cores
    save: there, splits are for cores that would idle, as the columns do not give work to all.
    """
    graph, machine = setting.graph, setting.machine
    whole = _contractions(setting, operator, max_sizes, 1, neighbour_sizes)[1]
    chains = int(whole.groups[setting.best(whole)])
    if setting.dram_binds and chains >= (1 - IDLE) * machine.array_cores * int(machine.rounds(np.array(chains))):
        return 1
    sums_bits = graph.operand_bits(operator.outputs[0]) * graph.partial_bits
    sums_bits //= graph.tensors[operator.outputs[0].tensor].element_bits
    found, limit = 1, setting.least_price(whole) - setting.layer_cycles * WORTH_SPLITS
    loaded = sum(graph.tensors[o.tensor].bits for o in operator.inputs[:2] if setting.via_dram(o.tensor))
    if limit <= float(machine.dram_cycles(np.array(loaded))):
        return 1  # no price is less
    for splits in sorted({machine.array_cores // columns for columns in piece_sizes(machine.array_cores)} - {1}):
        price = setting.least_price(_contractions(setting, operator, max_sizes, splits, neighbour_sizes)[1])
        price += float(machine.dram_cycles(np.array(2 * splits * sums_bits)))
        if price < limit:
            found, limit = splits, price
    return found


def _contractions(
    setting: Setting,
    operator: Operator,
    max_sizes: Mapping[str, int],
    splits: int,
    neighbour_sizes: Mapping[str, int],
) -> tuple[list[Cuts], CandidateSizes]:
    """Return the ways to cut a contraction.

    Footprint: two pieces of A, two of B and two of C, in bits as they are stored; where k is cut, one piece of C as
    wide as partial sums, which stays until its chain ends. Traffic: the bits of A once per piece of n, those of B
    once per piece of m; either only if it is read from DRAM, and once per core if it is small; and what is lost where
    a spilled tensor is moved in small blocks. Each split is a chain of its own, and there are at least as many pieces
    of k.
    """
    graph, machine = setting.graph, setting.machine
    a, b = (graph.tensors[operand.tensor] for operand in operator.inputs[:2])
    out = graph.tensors[operator.outputs[0].tensor]
    ways = _all_ways(
        machine,
        gemm_indices(operator),
        tuple((index, graph.extents[index]) for index in operator.indices),
        tuple((index, setting.forced[index]) for index in operator.indices if index in setting.forced),
        max(a.element_bits, b.element_bits),
    )
    if max_sizes:
        ways = ways.where(np.logical_and.reduce([ways.sizes[index] <= size for index, size in max_sizes.items()]))
    if splits > 1 and (many := ways.k_pieces >= splits).any():
        ways = ways.where(many)
    a_bits, b_bits = ways.a_elements * a.element_bits, ways.b_elements * b.element_bits
    chains = np.minimum(splits, ways.k_pieces)
    steps = -(-ways.k_pieces // chains) if splits > 1 else ways.k_pieces
    several = steps > 1
    result_bits = np.where(several, max(out.element_bits, graph.partial_bits), 2 * out.element_bits)
    footprint = 2 * (a_bits + b_bits) + ways.c_elements * result_bits
    tiles = ways.columns * ways.k_pieces
    groups = ways.columns * chains
    return list(ways.cuts), CandidateSizes(
        traffic_bits=setting.loads_bits(a.name, ways.n_pieces, ways.columns)
        + setting.loads_bits(b.name, ways.m_pieces, ways.columns)
        + sum(_lost_bits(setting, operand, ways, neighbour_sizes) for operand in (*operator.inputs, *operator.outputs)),
        compute_cycles=steps * ways.tile_cycles * machine.rounds(groups),
        tile_bits=a_bits + b_bits,
        tile_cycles=ways.tile_cycles,
        # a chain reads its sums again
        tiles=np.where(several, tiles * 3 // 2, tiles),
        groups=groups,
        footprint_bits=footprint,
        fits=footprint <= setting.room_bits(operator),
    )


@dataclass(frozen=True, kw_only=True)
class _Ways:
    """Ways to cut a contraction, with what depends neither on the share of the memories nor on what is spilled."""

    cuts: tuple[Cuts, ...]
    sizes: Mapping[str, Numbers]
    """Index -> size of its largest piece."""
    counts: Mapping[str, Numbers]
    """Index -> number of its pieces."""
    a_elements: Numbers
    b_elements: Numbers
    c_elements: Numbers
    m_pieces: Numbers
    n_pieces: Numbers
    k_pieces: Numbers
    columns: Numbers
    """Pieces of the result."""
    tile_cycles: Reals

    def where(self, kept: NDArray[np.bool_]) -> "_Ways":
        """Return some of the ways."""
        if kept.all():
            return self
        some = np.flatnonzero(kept)
        return _Ways(
            cuts=tuple(cut.take(some) for cut in self.cuts),
            sizes={index: sizes[some] for index, sizes in self.sizes.items()},
            counts={index: counts[some] for index, counts in self.counts.items()},
            a_elements=self.a_elements[some],
            b_elements=self.b_elements[some],
            c_elements=self.c_elements[some],
            m_pieces=self.m_pieces[some],
            n_pieces=self.n_pieces[some],
            k_pieces=self.k_pieces[some],
            columns=self.columns[some],
            tile_cycles=self.tile_cycles[some],
        )


@lru_cache(maxsize=64)
def _all_ways(
    machine: MachineEstimate,
    groups: GemmIndices,
    extents: tuple[tuple[str, int], ...],
    forced: tuple[tuple[str, int], ...],
    operand_bits: int,
) -> _Ways:
    """Return all ways to cut a contraction: the plans of a graph ask for the same ones again and again."""
    cuts = combine((groups.batch, groups.m, groups.n, groups.k), dict(extents), dict(forced))
    batch, m, n, k = (cut.elements() for cut in cuts)
    batch_pieces, m_pieces, n_pieces, k_pieces = (cut.pieces() for cut in cuts)
    return _Ways(
        cuts=tuple(cuts),
        sizes={index: cut.elements((index,)) for cut in cuts for index in cut.indices},
        counts={index: cut.pieces((index,)) for cut in cuts for index in cut.indices},
        a_elements=batch * m * k,
        b_elements=batch * k * n,
        c_elements=batch * m * n,
        m_pieces=m_pieces,
        n_pieces=n_pieces,
        k_pieces=k_pieces,
        columns=batch_pieces * m_pieces * n_pieces,
        tile_cycles=machine.tile_cycles(batch, m, n, k, operand_bits),
    )


def cut_sum(setting: Setting, operator: Operator, added: Mapping[str, int]) -> Sizes:
    """Cut the sum of splits as what it adds up is cut, and on: into as many pieces as that has chains, over all cores.

    So each core adds a share of what all have made.
    """
    splits, out = k_splits_of(setting.graph, operator), operator.outputs[0].indices
    start = {index: size for index, size in added.items() if index in out}
    chains = piece_count(out, start, setting.graph.extents) * splits
    wanted = min(setting.machine.array_cores, chains)
    return outer_cut(setting, operator, out[::-1], least_pieces=wanted, copies=splits, start=start)


def _lost_bits(setting: Setting, operand: Operand, ways: _Ways, neighbour_sizes: Mapping[str, int]) -> Reals | float:
    """Return the bits that the moves of a spilled tensor take beyond its own, to the DRAM and from there.

    Its blocks are as both sides cut them, and each takes whole cycles of a core's port.
    """
    graph, port = setting.graph, setting.machine.port_bits_per_cycle
    if operand.tensor not in setting.spilled:
        return 0.0
    blocks = np.ones(len(ways.columns))
    for index in (index for index in operand.indices if index not in COUNTERS):
        others = piece_count((index,), neighbour_sizes, graph.extents)
        blocks *= np.maximum(ways.counts[index], others) if index in ways.counts else others
    bits = graph.tensors[operand.tensor].bits
    return 2 * (blocks * np.ceil(bits / blocks / port) * port - bits)


def chosen_sizes(cuts: Sequence[Cuts], candidate: int) -> Sizes:
    """Return the sizes of one candidate, over all groups of indices."""
    return {index: size for cut in cuts for index, size in cut.sizes(candidate).items()}


def cut_composite(setting: Setting, producer: Operator, consumer: Operator) -> tuple[Sizes, Sizes]:
    """Cut a product that stays on chip together with the operator that uses it; return the sizes of both.

    The product [h, r, c] = [r, h, n] x [c, h, n] is the second operand of the consumer [tokens, r] x [h, r, c],
    whatever letters the graph has for these. Heads, rank r and latent dimension c are cut alike in both, tokens in
    the consumer only.

    Footprint: two pieces of both factors [h, r, n] and [h, c, n], two of the consumer's input [tokens, r] if it is
    read from DRAM, one and a half of the composite [h, r, c], in bits as they are stored, and partial sums of
    [tokens, h, c]: a rank that is cut keeps the sums of all tokens, else those of one piece. Traffic: the bits of
    the first factor once per piece of c, those of the second once per piece of r, those of the input once per piece
    of h and c if it is read from DRAM and not small.
    """
    graph, machine = setting.graph, setting.machine
    extents, inner, outer = graph.extents, gemm_indices(producer), gemm_indices(consumer)
    cuts = combine((inner.batch, inner.m, inner.n, outer.m), extents, setting.forced)
    heads, rank, latent, tokens = (cut.elements() for cut in cuts)
    head_pieces, rank_pieces, latent_pieces, token_pieces = (cut.pieces() for cut in cuts)
    a, b = (graph.tensors[operand.tensor] for operand in producer.inputs)
    source, composite = graph.tensors[consumer.inputs[0].tensor], graph.tensors[producer.outputs[0].tensor]
    whole_rank, depth = (math.prod(extents[index] for index in indices) for indices in (inner.m, inner.k))
    factor_bits = heads * depth * (rank * a.element_bits + latent * b.element_bits)
    source_bits = tokens * rank * source.element_bits if setting.via_dram(source.name) else np.zeros_like(tokens)
    resident = np.where(rank == whole_rank, tokens, math.prod(extents[index] for index in outer.m))
    footprint = 2 * (factor_bits + source_bits) + 1.5 * heads * rank * latent * composite.element_bits
    footprint = footprint + resident * heads * latent * graph.partial_bits
    traffic = a.bits * latent_pieces + b.bits * rank_pieces
    if setting.via_dram(source.name) and source.bits > setting.small_bits:
        traffic = traffic + source.bits * head_pieces * latent_pieces
    operand_bits = max(a.element_bits, b.element_bits)
    tile_cycles = machine.tile_cycles(heads, rank, latent, np.full_like(heads, depth), operand_bits)
    groups = head_pieces * latent_pieces
    best = setting.best(
        CandidateSizes(
            traffic_bits=traffic,
            compute_cycles=machine.rounds(groups) * rank_pieces * tile_cycles,
            tile_bits=factor_bits,
            tile_cycles=tile_cycles,
            tiles=groups * rank_pieces * (1 + token_pieces),
            groups=groups,
            footprint_bits=footprint,
            fits=footprint <= setting.budget_bits,
        )
    )
    return chosen_sizes(cuts[:3], best), chosen_sizes(cuts, best)


def cut_vector(setting: Setting, operator: Operator, heads: Sequence[str], query_tokens: int | None) -> Sizes:
    """Cut a norm or RoPE over heads and other indices, then tokens and batch, never over its last axis.

    `query_tokens` are those of a tile of attention, which may lie on another core than the next. Where queries are made
    on a core that has nothing but a vector unit, no piece reaches over two of them: what it makes for the later one
    would wait there until that runs.
    """
    rows = operator.inputs[0].indices[:-1]
    order = [*heads, *(index for index in rows if index not in (*heads, "q", "b")), "q", "b"]
    free = [index for index in order if index in rows]
    per_head = bool(heads) and heads[-1] in free
    start = {"q": query_tokens} if per_head and query_tokens and not setting.machine.one_core_does_all else {}
    return outer_cut(setting, operator, free, start=start)


def cut_elementwise(setting: Setting, operator: Operator, made: Sequence[Mapping[str, int]]) -> Sizes:
    """Cut an elementwise operator as the products that make its inputs are cut (`made`), and on until it fits.

    So a tile works on what one tile of each has left, and need not wait for others.
    """
    out = operator.outputs[0].indices
    start: Sizes = {}
    for index, size in (entry for sizes in made for entry in sizes.items() if entry[0] in out):
        start[index] = min(size, start.get(index, size))
    return outer_cut(setting, operator, out, start=start)


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
        whole = sizes.get(index, extents[index])
        for size in piece_sizes(whole):
            sizes[index] = nested_size(whole, size) if whole < extents[index] else size
            enough = piece_count(order, sizes, extents) >= least_pieces
            if enough and footprint_bits() <= setting.vector_budget_bits:
                return {i: s for i, s in sizes.items() if s < extents[i]}
    return sizes
