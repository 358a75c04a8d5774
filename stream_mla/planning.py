"""Choose a tiling that fits the memories: how operators are cut, and which tensors leave the chip.

A search per operator over piece sizes (numpy, all combinations at once) for the least

    max(DRAM time, compute time) + 1/4 min(...) + one tile's load and compute + a small price per tile

with the pieces double-buffered inside a share of the SRAM. Estimates only: the schedule that follows is exact,
and its bounds hold for the tiling that is chosen here. Sizes given by the user are taken as they are.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stream_mla.accelerator import Accelerator, Dataflow, Delivery
from stream_mla.errors import InfeasibleError
from stream_mla.graph import CONTRACTIONS, COUNTERS, Kind, Operator, OperatorGraph, Role, gemm_indices
from stream_mla.problem import OFF_CHIP, find_routes
from stream_mla.tiling import Tiling

Numbers = NDArray[np.int64]
Sizes = dict[str, int]

TILE_SHARE = 0.55
"""Share of an SRAM that the tiles of one operator plan with; the rest is for what waits between operators."""
SMALL_SHARE = 1 / 10
"""A tensor up to this share of an SRAM stays on chip whole."""
PRICE_PER_TILE = 1e-4
"""Of the layer's DRAM or compute time, whichever is longer: 100 more tiles must gain 1 %."""
ATTENTION = ("scores", "softmax", "attend", "scores_rope")


@dataclass(frozen=True, kw_only=True)
class _Machine:
    """What the estimates need of an accelerator."""

    array_cores: int
    sram_bits: int
    vector_sram_bits: int
    joined: bool
    """Every core reaches every other over a link."""
    one_core_does_all: bool
    """Every core that has an array has a vector unit too."""
    dram_bits_per_cycle: float
    rows: int
    columns: int
    systolic: bool
    dataflows: tuple[Dataflow, ...]
    rates: tuple[tuple[int, float], ...]

    def tile_cycles(self, batch: Numbers, m: Numbers, n: Numbers, k: Numbers, bits: int) -> NDArray[np.float64]:
        """Estimate the cycles of GEMMs: the broadcast or SCALE-Sim forms of `cost`, without SRAM bounds."""
        rate = next((macs for width, macs in self.rates if width >= bits), self.rates[-1][1])
        k = -(-k // max(1, int(rate)))
        rows, columns = self.rows, self.columns
        skew = rows + columns - 2 if self.systolic else 0
        fill = skew + rows if self.systolic else 0
        forms = {
            Dataflow.OUTPUT_STATIONARY: _ceil(m, rows) * _ceil(n, columns) * (k + skew),
            Dataflow.WEIGHT_STATIONARY: _ceil(k, rows) * _ceil(n, columns) * (m + fill),
            Dataflow.INPUT_STATIONARY: _ceil(k, rows) * _ceil(m, columns) * (n + fill),
        }
        best = np.min([forms[dataflow] for dataflow in self.dataflows], axis=0)
        return batch * best / min(1.0, rate)


def _ceil(a: Numbers, b: int) -> Numbers:
    return -(-a // b)


def _machine(accelerator: Accelerator) -> _Machine:
    resources, routes = find_routes(accelerator)
    arrays = list(accelerator.array_cores())
    vectors = list(accelerator.vector_cores())
    if not arrays or not vectors:
        raise InfeasibleError(f"{accelerator.name} needs at least one MAC array and one vector unit for attention")
    array = arrays[0].type.array
    assert array is not None
    numbers = range(len(accelerator.cores))
    to_dram = [routes[OFF_CHIP, n] for n in numbers]
    bus = min(resources[r].capacity for r in to_dram[0].resources)
    total = bus if len({route.resources for route in to_dram}) == 1 else resources[0].capacity
    return _Machine(
        array_cores=len(arrays),
        sram_bits=min(core.type.sram.capacity for core in arrays),
        vector_sram_bits=min(core.type.sram.capacity for core in vectors),
        joined=all((a, b) in routes for a in numbers for b in numbers if a != b),
        one_core_does_all=all(core.type.vector is not None for core in arrays),
        dram_bits_per_cycle=total / 1000,
        rows=array.rows,
        columns=array.columns,
        systolic=array.delivery is Delivery.SYSTOLIC,
        dataflows=array.dataflows,
        rates=tuple(sorted((p.operand, p.macs_per_element) for p in array.precisions)),
    )


def piece_sizes(extent: int, multiple: int = 1) -> list[int]:
    """Sizes that cut an extent into about 1, 2, 3, 4, 6, 8, 12, ... nearly equal pieces."""
    sizes: set[int] = set()
    pieces = 1
    while pieces <= extent:
        size = -(-extent // pieces)
        sizes.add(min(extent, -(-size // multiple) * multiple) if size >= 4 * multiple else size)
        pieces = pieces + 1 if pieces < 4 else pieces * 3 // 2 if (pieces & (pieces - 1)) == 0 else pieces * 4 // 3
    return sorted(sizes, reverse=True)


def _group_choices(indices: Sequence[str], extents: Mapping[str, int], forced: Mapping[str, int]) -> list[Sizes]:
    """Sizes for a group of indices: outer indices are cut down to 1 before inner ones are cut."""
    choices: list[Sizes] = [{}]
    fixed = {index: forced[index] for index in indices if index in forced}
    free = [index for index in indices if index not in forced and extents[index] > 1]
    for position, index in enumerate(free):
        ones = dict.fromkeys(free[:position], 1)
        step = 16 if position == len(free) - 1 and extents[index] > 64 else 1
        choices += [{**ones, index: size} for size in piece_sizes(extents[index], step) if size < extents[index]]
    return [{**fixed, **choice} for choice in choices]


def _elements(indices: Iterable[str], sizes: Sizes, extents: Mapping[str, int]) -> int:
    return math.prod(min(sizes.get(index, extents[index]), extents[index]) for index in indices)


def _pieces(indices: Iterable[str], sizes: Sizes, extents: Mapping[str, int]) -> int:
    return math.prod(-(-extents[index] // sizes.get(index, extents[index])) for index in indices)


class _Planner:
    """Plans one graph on one machine; `scale` shrinks every memory budget."""

    def __init__(
        self, graph: OperatorGraph, machine: _Machine, forced: Mapping[str, int], scale: float, *, spill: bool
    ) -> None:
        self.graph, self.machine, self.forced = graph, machine, forced
        self.budget = int(machine.sram_bits * TILE_SHARE * scale)
        self.small = int(machine.sram_bits * SMALL_SHARE * scale)
        self.vector_budget = int(machine.vector_sram_bits * scale / (4 if machine.one_core_does_all else 2))
        self.sizes: dict[str, Sizes] = {}
        self.parts = 1
        self.local = set(graph.local)
        if not machine.one_core_does_all:
            self.local -= {"scores", "probs", "probs_stats"}
        macs = graph.total_macs
        peak = machine.array_cores * machine.rows * machine.columns
        dram_cycles = (graph.dram_read_bits + graph.dram_write_bits) / machine.dram_bits_per_cycle
        self.tile_price = PRICE_PER_TILE * max(dram_cycles, macs / peak)
        self.spilled = self._spilled(self.small if spill else machine.sram_bits * machine.array_cores * 10**6)

    def _spilled(self, limit: int) -> set[str]:
        kinds = (Role.ACTIVATION, Role.PARTIAL)
        return {
            name
            for name, tensor in self.graph.tensors.items()
            if tensor.role in kinds
            and name not in self.graph.local
            and (tensor.bits > limit or not self.machine.joined)
        }

    def via_dram(self, tensor: str) -> bool:
        """Whether consumers read a tensor from DRAM."""
        return tensor in self.spilled or self.graph.tensors[tensor].role in (Role.INPUT, Role.WEIGHT, Role.CACHE)

    def loads(self, tensor: str, again: Numbers, clusters: Numbers) -> NDArray[np.float64]:
        """Estimate bits read from DRAM when each cluster reads anew, or each core once if the tensor is small."""
        bits = self.graph.tensors[tensor].bits
        if not self.via_dram(tensor):
            return np.zeros(len(again))
        if bits <= self.small:
            return bits * np.minimum(clusters, self.machine.array_cores).astype(np.float64)
        return bits * again.astype(np.float64)

    def pick(
        self,
        traffic_bits: NDArray[np.float64],
        tile_cycles: NDArray[np.float64],
        tiles: Numbers,
        clusters: Numbers,
        tile_bits: Numbers,
        fits: NDArray[np.bool_],
        footprint: Numbers,
    ) -> int:
        """Return the number of the best candidate; of those that do not fit, the smallest."""
        if not fits.any():
            return int(np.argmin(footprint))
        cores = self.machine.array_cores
        dram = traffic_bits / self.machine.dram_bits_per_cycle
        rounds = -(-clusters // cores)
        compute = tiles / clusters * tile_cycles * rounds
        edge = tile_bits / self.machine.dram_bits_per_cycle + tile_cycles
        score = np.maximum(dram, compute) + np.minimum(dram, compute) / 4 + edge + tiles * self.tile_price
        return int(np.argmin(np.where(fits, score, np.inf)))

    def contraction(self, operator: Operator) -> None:
        """Cut one einsum."""
        extents, tensors = self.graph.extents, self.graph.tensors
        groups = gemm_indices(operator)
        order = (groups.batch, groups.m, groups.n, groups.k)
        parts = [_group_choices(group, extents, self.forced) for group in order]
        grids = np.meshgrid(*(np.arange(len(choices)) for choices in parts), indexing="ij")
        picks = [grid.ravel() for grid in grids]
        size, count = [], []
        for group, choices, chosen in zip(order, parts, picks, strict=True):
            size.append(np.array([_elements(group, choice, extents) for choice in choices])[chosen])
            count.append(np.array([_pieces(group, choice, extents) for choice in choices])[chosen])
        (batch, m, n, k), (nb, nm, nn, nk) = size, count
        a, b = (tensors[operand.tensor] for operand in operator.inputs[:2])
        out = tensors[operator.outputs[0].tensor]
        held = np.where(nk > 1, max(out.element_bits, self.graph.partial_bits), out.element_bits)
        a_bits, b_bits = batch * m * k * a.element_bits, batch * k * n * b.element_bits
        footprint = 2 * (a_bits + b_bits) + batch * m * n * held * np.where(nk > 1, 1, 2)
        clusters = nb * nm * nn
        traffic = self.loads(a.name, nn, clusters) + self.loads(b.name, nm, clusters)
        tile_cycles = self.machine.tile_cycles(batch, m, n, k, max(a.element_bits, b.element_bits))
        best = self.pick(
            traffic,
            tile_cycles,
            np.where(nk > 1, clusters * nk * 3 // 2, clusters),  # a chain is the last resort: it reads its sums again
            clusters,
            a_bits + b_bits,
            footprint <= self.budget,
            footprint,
        )
        chosen: Sizes = {}
        for choices, pick in zip(parts, picks, strict=True):
            chosen |= choices[int(pick[best])]
        self.sizes[operator.name] = chosen

    def composite(self, producer: Operator, consumer: Operator) -> None:
        """Cut a product that stays on chip together with the operator that uses it.

        Heads, rank and latent dimension are cut alike in both. A rank that is cut keeps the sums of all tokens.
        """
        extents = self.graph.extents
        rank = consumer.inputs[0].indices[-1]
        tokens = extents["b"] * extents["q"]
        choices = [_group_choices(group, extents, self.forced) for group in (("h",), (rank,), ("c",), ("b", "q"))]
        best: tuple[float, float, Sizes] | None = None
        width = self.graph.tensors[producer.outputs[0].tensor].element_bits
        a, b = (self.graph.tensors[operand.tensor] for operand in producer.inputs)
        latent = self.graph.tensors[consumer.inputs[0].tensor]
        for heads in choices[0]:
            for ranks in choices[1]:
                for latents in choices[2]:
                    for rows in choices[3]:
                        sizes = {**heads, **ranks, **latents, **rows}
                        h, r, c = (min(sizes.get(i, extents[i]), extents[i]) for i in ("h", rank, "c"))
                        q = _elements(("b", "q"), sizes, extents)
                        kept = q if r == extents[rank] else tokens
                        piece = h * extents["n"] * (r * a.element_bits + c * b.element_bits)
                        read = q * r * latent.element_bits if self.via_dram(latent.name) else 0
                        footprint = 2 * (piece + read) + 1.5 * h * r * c * width + kept * h * c * self.graph.partial_bits
                        nh, nr, nc = (_pieces((i,), sizes, extents) for i in ("h", rank, "c"))
                        traffic = a.bits * nc + b.bits * nr
                        if self.via_dram(latent.name) and latent.bits > self.small:
                            traffic += latent.bits * nh * nc
                        one = np.array([1])
                        cycles = float(
                            self.machine.tile_cycles(
                                one * h, one * r, one * c, one * extents["n"], max(a.element_bits, b.element_bits)
                            )[0]
                        )
                        clusters = nh * nc
                        rounds = -(-clusters // self.machine.array_cores)
                        compute = rounds * nr * cycles
                        dram = traffic / self.machine.dram_bits_per_cycle
                        tiles = clusters * nr * (1 + _pieces(("b", "q"), sizes, extents))
                        score = max(dram, compute) + min(dram, compute) / 4 + cycles + tiles * self.tile_price
                        score += piece / self.machine.dram_bits_per_cycle
                        fits = footprint <= self.budget
                        key = (0.0, score) if fits else (1.0, footprint)
                        if best is None or key < best[:2]:
                            best = (*key, sizes)
        assert best is not None
        rows_only = {index: size for index, size in best[2].items() if index in ("b", "q")}
        self.sizes[producer.name] = {index: size for index, size in best[2].items() if index not in rows_only}
        self.sizes[consumer.name] = dict(best[2])

    def attention(self, operators: Mapping[str, Operator]) -> None:
        """Cut scores, softmax and the product with the values alike, and choose the parts of the keys."""
        extents, machine = self.graph.extents, self.machine
        score_op, attend_op = operators["scores"], operators["attend"]
        heads = ("g", "j") if "g" in extents else ("h",)
        query, keys = (self.graph.tensors[operand.tensor] for operand in score_op.inputs[:2])
        values = self.graph.tensors[attend_op.inputs[1].tensor]
        depth = extents[score_op.inputs[0].indices[-1]]
        width = extents[attend_op.outputs[0].indices[-1]]
        probs_bits = self.graph.tensors["probs"].element_bits
        per_head = "h" in score_op.inputs[1].indices or "g" in score_op.inputs[1].indices
        shared_cache = keys is values
        head_choices = _group_choices(heads, extents, self.forced)
        query_choices = _group_choices(("q",), extents, self.forced)
        key_choices = _group_choices(("k",), extents, self.forced)
        batches = min(self.forced.get("b", 1), extents["b"])
        # heads are cut before tokens, as the projections cut them, so that blocks on both sides match
        rows = [
            (h, q, k, parts)
            for h in range(len(head_choices))
            for q in range(len(query_choices))
            if q == 0 or heads[0] in self.forced or _elements(heads[:1], head_choices[h], extents) == 1
            for k in range(len(key_choices))
            for parts in self._part_choices(key_choices[k])
        ]
        picks = np.array(rows)
        h = np.array([_elements(heads, choice, extents) for choice in head_choices])[picks[:, 0]]
        nh = np.array([_pieces(heads, choice, extents) for choice in head_choices])[picks[:, 0]]
        kv_heads = np.array([_elements(heads[:1], choice, extents) for choice in head_choices])[picks[:, 0]]
        q = np.array([_elements(("q",), choice, extents) for choice in query_choices])[picks[:, 1]]
        nq = np.array([_pieces(("q",), choice, extents) for choice in query_choices])[picks[:, 1]]
        k = np.array([_elements(("k",), choice, extents) for choice in key_choices])[picks[:, 2]]
        parts = picks[:, 3]
        part = -(-extents["k"] // parts)
        k = np.minimum(k, part)
        chunks = -(-part // k) * parts
        q_rows = batches * h * q
        copies = batches * (kv_heads if per_head else 1)
        row_bits = depth * keys.element_bits + (0 if shared_cache else width * values.element_bits)
        chunk_bits = copies * k * row_bits
        state_bits = q_rows * width * (self.graph.partial_bits + self.graph.tensors["context"].element_bits)
        footprint = q_rows * depth * query.element_bits + 2 * chunk_bits + 3 * q_rows * k * probs_bits + state_bits
        if not machine.one_core_does_all:
            vector_fits = 2 * q_rows * k * probs_bits <= self.vector_budget
        else:
            vector_fits = np.ones(len(picks), dtype=np.bool_)
        nb = -(-extents["b"] // batches)
        clusters = nb * nh * nq * parts
        cache_bits = keys.bits + (0 if shared_cache else values.bits)
        again = nq if per_head else nq * nh
        traffic = cache_bits * again.astype(np.float64)
        traffic += np.where(parts > 1, 2 * parts * extents["b"] * extents["q"] * h * nh * width * self.graph.partial_bits, 0)
        one = np.ones(len(picks), dtype=np.int64)
        bits = max(query.element_bits, keys.element_bits)
        inner = q_rows // np.maximum(copies, 1)
        tile_cycles = machine.tile_cycles(copies * one, inner, k, depth * one, bits)
        tile_cycles = tile_cycles + machine.tile_cycles(copies * one, inner, width * one, k, bits)
        tiles = 3 * nb * nh * nq * chunks
        best = self.pick(
            traffic, tile_cycles, tiles // 3, clusters, chunk_bits, (footprint <= self.budget) & vector_fits, footprint
        )
        chosen = {**head_choices[picks[best, 0]], **query_choices[picks[best, 1]], "b": batches, "k": int(k[best])}
        self.parts = int(parts[best])
        for name in ATTENTION:
            if name in operators:
                self.sizes[name] = {i: s for i, s in chosen.items() if i in operators[name].indices}
        self._merge(operators["merge"], chosen, heads)

    def _part_choices(self, keys: Sizes) -> list[int]:
        if "parts" in self.forced:
            return [min(self.forced["parts"], self.graph.extents["k"])]
        most = min(self.machine.array_cores, self.graph.extents["k"])
        del keys
        return sorted({1, *(-(-most // 2**i) for i in range(8)), most})

    def _merge(self, merge: Operator, chosen: Sizes, heads: Sequence[str]) -> None:
        """Merge where the context is made if there is one part, else spread over heads."""
        extents = self.graph.extents
        if self.parts == 1:
            self.spilled -= {"context_part", "context_stats"}
            if self.machine.one_core_does_all:
                self.local |= {"context_part", "context_stats"}
                self.sizes[merge.name] = {i: s for i, s in chosen.items() if i in merge.indices}
                return
            if not self.machine.joined:
                self.spilled |= {"context_part", "context_stats"}
            self.sizes[merge.name] = self._outer_cut(merge, [*heads, "q", "b"], 1, 1, chosen)
            return
        tensor = self.graph.tensors["context_part"]
        if tensor.bits * self.parts > self.small:
            self.spilled |= {"context_part", "context_stats"}
        wanted = min(self.machine.array_cores, math.prod(extents[i] for i in heads))
        self.sizes[merge.name] = self._outer_cut(merge, [*heads, "b", "q"], wanted, self.parts)

    def _outer_cut(
        self, operator: Operator, order: Sequence[str], pieces: int, factor: int = 1, most: Mapping[str, int] | None = None
    ) -> Sizes:
        """Cut a vector operator along `order`, from sizes of at `most`, until it fits and has enough `pieces`."""
        extents = self.graph.extents
        operands = (*operator.inputs, *operator.outputs)
        sizes: Sizes = {i: s for i, s in {**(most or {}), **self.forced}.items() if i in order}

        def bits(cut: Sizes) -> int:
            return sum(
                factor * _elements((i for i in o.indices if i not in COUNTERS), cut, extents)
                * self.graph.tensors[o.tensor].element_bits
                for o in operands
            )

        for index in (i for i in order if i in operator.indices and i not in self.forced):
            for size in piece_sizes(sizes.get(index, extents[index])):
                sizes[index] = size
                if bits(sizes) <= self.vector_budget and _pieces(order, sizes, extents) >= pieces:
                    return {i: s for i, s in sizes.items() if s < extents[i]}
        return sizes

    def vector(self, operator: Operator) -> None:
        """Cut a norm or RoPE over heads, tokens and batch, never over its last axis."""
        free = [index for index in ("h", "g", "j", "q", "b") if index in operator.inputs[0].indices[:-1]]
        self.sizes[operator.name] = self._outer_cut(operator, free, 1)

    def tiling(self) -> Tiling:
        """Plan all operators."""
        operators = {operator.name: operator for operator in self.graph.operators}
        self.attention(operators)
        for operator in self.graph.operators:
            if operator.name in self.sizes:
                continue
            if operator.name == "composite":
                self.composite(operator, operators["query_absorbed"])
            elif operator.kind in CONTRACTIONS:
                self.contraction(operator)
            elif operator.kind in (Kind.NORM, Kind.ROPE):
                self.vector(operator)
        shared = {n for n, t in self.graph.tensors.items() if self.via_dram(n) and t.bits <= self.small}
        return Tiling(
            sizes=self.sizes,
            parts=self.parts,
            spilled=frozenset(self.spilled),
            shared=frozenset(shared),
            local=frozenset(self.local),
            early=frozenset(self._early()),
        )

    def _early(self) -> Iterable[str]:
        """Yield operators whose unfinished sums are small as a whole, so that they may wait."""
        for operator in self.graph.operators:
            sums = math.prod(self.graph.tensors[operator.outputs[0].tensor].shape) * self.graph.partial_bits
            if sums <= self.small:
                yield operator.name


def plans(graph: OperatorGraph, accelerator: Accelerator, forced: Mapping[str, int]) -> Iterable[Tiling]:
    """Yield different tilings worth trying.

    `forced` gives sizes per index (and `parts`). For each of several shares of the memories, the first tiling spills
    what is large; the next ones keep all activities on chip, whatever their size, which is right where groups
    of heads are worked off one after the other.
    """
    machine = _machine(accelerator)
    heads = next(index for index in ("h", "g") if index in graph.extents)
    groups: list[int | None] = [None]
    if heads not in forced:
        wanted = (graph.extents[heads] // pieces for pieces in (8, 16, 32))
        groups += [size for size in dict.fromkeys(wanted) if size]
    seen: list[Tiling] = []
    for scale in (1.0, 0.5, 0.25, 0.1):
        for group, spill in ((None, True), *((group, spill) for spill in (False, True) for group in groups)):
            sizes = forced if group is None else {**forced, heads: group}
            tiling = _Planner(graph, machine, sizes, scale, spill=spill).tiling()
            if tiling not in seen:
                seen.append(tiling)
                yield tiling
