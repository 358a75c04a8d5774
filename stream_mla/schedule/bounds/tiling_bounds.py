"""It says what no schedule of a tiling can beat, from the counts and shapes of its tiles alone: the tiling is not cut
for it.

It never exceeds the bounds of the cut tiling (`bounds`), which know more, and takes a thousandth of their time:

- the arrays, and the vector units, do all tiles, each at its cheapest core: an operator has few shapes of tiles;
- what all loads, or all stores, must use carries every block that is stored, and every block that is read from the
  DRAM, once for each cluster that reads it. Clusters are counted along the indices that tell apart all operators whose
  tiles may share one; where that is not known, they count as one.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from math import prod

import numpy as np

from stream_mla.hardware.accelerator import Accelerator
from stream_mla.hardware.core_cost import Objective
from stream_mla.hardware.work import UnitKind
from stream_mla.mapping.tiling.grid import Interval, key_pieces, part_edges
from stream_mla.mapping.tiling.seen_pieces import SeenPieces
from stream_mla.mapping.tiling.tile_graph import Tiling, operator_seen
from stream_mla.mapping.tiling.tile_work import gemm_work, region, vector_work
from stream_mla.schedule.bounds.schedule_bounds import least_transfer_cycles
from stream_mla.schedule.problem import cost_of
from stream_mla.workload.operator_graph import (
    CONTRACTIONS,
    COUNTERS,
    PART,
    Kind,
    Operand,
    Operator,
    OperatorGraph,
    Role,
)
from stream_mla.workload.split_k import k_splits_of, spread_cut


@dataclass(frozen=True)
class _Piece:
    """A piece of an index, as far as the work of a tile depends on it."""

    length: int
    first: bool
    """It starts its part of the keys, or the index."""


def tiling_lower_bound(graph: OperatorGraph, accelerator: Accelerator, tiling: Tiling) -> int:
    """Return least cycles of every schedule of a tiling."""
    graph = spread_cut(graph, tiling.k_splits, tiling.sizes)
    read, written = _traffic_bits(graph, tiling)
    return max(_unit_cycles(graph, accelerator, tiling), least_transfer_cycles(accelerator, read, written))


def _edges(graph: OperatorGraph, tiling: Tiling, operator: Operator, index: str) -> set[int]:
    """Return where the pieces of an index start."""
    extent = graph.extents[index]
    size = tiling.sizes.get(operator.name, {}).get(index, extent)
    if index == "k":
        return {low for (low, _), _ in key_pieces(extent, tiling.kv_splits_of(operator), size)}
    return {0} if index == PART else set(range(0, extent, size))


def _kinds(graph: OperatorGraph, tiling: Tiling, operator: Operator, index: str) -> Mapping[_Piece, int]:
    """Return the pieces of an index, and how many there are of each kind."""
    extent = graph.extents[index]
    size = tiling.sizes.get(operator.name, {}).get(index, extent)
    if index == PART:
        return {_Piece(k_splits_of(graph, operator) if operator.kind is Kind.SUM else 1, True): 1}
    if index in COUNTERS:
        return {_Piece(1 if "k" in operator.indices else tiling.kv_splits_of(operator), True): 1}
    if index == "w":
        return {_Piece(2, True): 1}
    edges = part_edges(extent, tiling.kv_splits_of(operator) if index == "k" else 1)
    whole = Counter(high - low for low, high in pairwise(edges))
    found: Counter[_Piece] = Counter()
    for length, count in whole.items():
        full, rest = divmod(length, size)
        found[_Piece(min(size, length), True)] += count
        found[_Piece(size, False)] += count * max(0, full - 1)
        if full and rest:
            found[_Piece(rest, False)] += count
    return +found


def _tile_kinds(
    graph: OperatorGraph, tiling: Tiling, operator: Operator
) -> Mapping[tuple[str, ...], Mapping[tuple[_Piece, ...], int]]:
    """Return, for each index of an operator, its kinds of pieces with their numbers; for indices that a mask ties to
    each other, their kinds of combinations.
    """
    found: dict[tuple[str, ...], Mapping[tuple[_Piece, ...], int]] = {}
    tied: tuple[str, ...] = ()
    if seen := operator_seen(graph, operator, tiling):
        tied, kinds = ("q", "k"), seen.kinds().items()
        found[tied] = {(_Piece(q, True), _Piece(k, first)): count for (q, k, first), count in kinds}
    elif operator.mask is not None:
        tied = ("q", "s")
        merged = _maker_seen(graph, tiling, operator.inputs[0].tensor)
        size = tiling.sizes.get(operator.name, {}).get("q", graph.extents["q"])
        lows = np.arange(0, graph.extents["q"], size)
        highs = np.minimum(lows + size, graph.extents["q"])
        pairs = Counter(zip((highs - lows).tolist(), merged.splits_over(lows, highs).tolist(), strict=True))
        found[tied] = {(_Piece(q, True), _Piece(s, True)): count for (q, s), count in pairs.items()}
    for index in (index for index in operator.indices if index not in tied):
        found[index,] = {(piece,): count for piece, count in _kinds(graph, tiling, operator, index).items()}
    return found


def _maker_seen(graph: OperatorGraph, tiling: Tiling, tensor: str) -> SeenPieces:
    """Return the tiles that a mask leaves of the operator that makes a tensor."""
    maker = next(operator for operator in graph.operators if any(o.tensor == tensor for o in operator.outputs))
    seen = operator_seen(graph, maker, tiling)
    assert seen is not None, f"{maker.name} has no mask"
    return seen


def _unit_cycles(graph: OperatorGraph, accelerator: Accelerator, tiling: Tiling) -> int:
    """Work of all tiles at their cheapest cores, spread evenly."""
    types = {core.type.name: core.type for core in accelerator.cores}.values()
    work = dict.fromkeys(UnitKind, 0)
    for operator in graph.operators:
        kinds = _tile_kinds(graph, tiling, operator)
        made = {index for operand in operator.outputs for index in operand.indices}
        for combination in product(*(kind.items() for kind in kinds.values())):
            pieces = (piece for piece, _ in combination)
            entries = [entry for of in zip(kinds, pieces, strict=True) for entry in zip(*of, strict=True)]
            box = {index: (0, piece.length) for index, piece in entries}
            if operator.kind in CONTRACTIONS:
                later = PART not in made and any(not piece.first for index, piece in entries if index not in made)
                entry = gemm_work(graph, operator, box, int(later))
            else:
                later = any(not piece.first for index, piece in entries if index == "k")
                entry = vector_work(graph, operator, box, rescales=later)
            costs = [cost.cycles for core in types if (cost := cost_of(core, entry, Objective.LATENCY)) is not None]
            work[entry.unit_kind] += min(costs, default=0) * prod(count for _, count in combination)
    return max(-(-cycles // max(1, accelerator.count(kind))) for kind, cycles in work.items())


def _traffic_bits(graph: OperatorGraph, tiling: Tiling) -> tuple[int, int]:
    """Bits that must be read from the DRAM, and written there."""
    via_dram = {
        name
        for name, tensor in graph.tensors.items()
        if name in tiling.spilled or tensor.role in (Role.INPUT, Role.WEIGHT, Role.CACHE)
    }
    stored = sum(
        _elements(graph, tiling, operator, operand, {}) * graph.tensors[operand.tensor].element_bits
        for operator in graph.operators
        for operand in operator.outputs
        if operand.tensor in via_dram or graph.tensors[operand.tensor].role is Role.OUTPUT
    )
    read = sum(_group_bits(graph, tiling, graph.operators, name, {}) for name in via_dram & tiling.shared)
    for group in _joined(graph, tiling):
        apart = _telling(graph, tiling, group)
        for name in {operand.tensor for operator in group for operand in operator.reads} & via_dram - tiling.shared:
            read += _group_bits(graph, tiling, group, name, apart)
    return read, stored


def _joined(graph: OperatorGraph, tiling: Tiling) -> list[list[Operator]]:
    """Return the operators whose tiles may share a cluster, group by group."""
    groups: list[tuple[set[str], list[Operator]]] = []
    for operator in graph.operators:
        tensors = {operand.tensor for operand in _joining(graph, tiling, operator)}
        members = [operator]
        apart: list[tuple[set[str], list[Operator]]] = []
        for known, others in groups:
            if known & tensors:
                tensors, members = tensors | known, others + members
            else:
                apart.append((known, others))
        groups = [*apart, (tensors, members)]
    return [members for _, members in groups]


def _joining(graph: OperatorGraph, tiling: Tiling, operator: Operator) -> list[Operand]:
    """Return the operands of an operator that make tiles which touch one block share a cluster."""
    local = graph.local | tiling.local | tiling.inline
    touched = [operand for operand in (*operator.reads, *operator.outputs) if operand.tensor in local]
    return touched + [operand for operand in operator.reads if operand.tensor in tiling.together]


def _telling(graph: OperatorGraph, tiling: Tiling, group: Iterable[Operator]) -> Mapping[str, Sequence[int]]:
    """Return the indices along which clusters of a group surely differ, and where the pieces start that this makes."""
    group = list(group)
    joining = [operand for operator in group for operand in _joining(graph, tiling, operator)]
    found: dict[str, Sequence[int]] = {}
    for index in group[0].outputs[0].indices:
        if index in (*COUNTERS, "w") or not _keeps_apart(index, group, joining):
            continue
        edges = [_edges(graph, tiling, operator, index) for operator in group]
        found[index] = sorted(set[int].intersection(*edges))
    splits = [tiling.kv_splits_of(operator) for operator in group if "k" in operator.indices]
    if splits and _keeps_apart("s", group, joining):
        found["k"] = part_edges(graph.extents["k"], min(splits))[:-1]
    return found


def _keeps_apart(index: str, group: Iterable[Operator], joining: Iterable[Operand]) -> bool:
    """Whether tiles that differ in an index never share a cluster: all that joins them lies along it, alike."""
    if not all(index in operand.indices for operator in group for operand in operator.outputs):
        return False
    places: dict[str, set[tuple[int, int]]] = {}
    for operand in joining:
        if index not in operand.indices:
            return False
        axis = operand.indices.index(index)
        places.setdefault(operand.tensor, set()).add((axis, operand.offsets[axis]))
    return all(len(entries) == 1 for entries in places.values())


def _group_bits(
    graph: OperatorGraph, tiling: Tiling, group: Iterable[Operator], name: str, apart: Mapping[str, Sequence[int]]
) -> int:
    """Bits of a tensor that the clusters of a group read: each part once, whoever of the group reads it."""
    extents = {index: (0, extent) for index, extent in graph.extents.items()}
    taken: list[tuple[Interval, ...]] = []
    bits = 0
    for operator in group:
        whole = {**extents, "s": (0, tiling.kv_splits_of(operator))}
        for operand in operator.reads:
            if operand.tensor != name or "t" in operand.indices:
                continue
            box = region(operand, whole)
            if any(all(a < d and c < b for (a, b), (c, d) in zip(box, other, strict=True)) for other in taken):
                continue
            taken.append(box)
            bits += _elements(graph, tiling, operator, operand, apart) * graph.tensors[name].element_bits
    return bits


def _elements(
    graph: OperatorGraph, tiling: Tiling, operator: Operator, operand: Operand, apart: Mapping[str, Sequence[int]]
) -> int:
    """Return the elements of an operand that clusters of an operator touch, each of those that `apart` tells apart
    for itself.
    """
    tied = ("q", "k", "s") if operator.mask is not None else ()
    sizes = {**graph.extents, "s": tiling.kv_splits_of(operator), PART: k_splits_of(graph, operator)}
    elements = prod(sizes[index] for index in operand.indices if index not in tied)
    elements *= prod(
        len(starts)
        for index, starts in apart.items()
        if index not in (*operand.indices, *tied) and not (index == "k" and "s" in operand.indices)
    )
    return elements * _tied_elements(graph, tiling, operator, operand, apart) if tied else elements


def _tied_elements(
    graph: OperatorGraph, tiling: Tiling, operator: Operator, operand: Operand, apart: Mapping[str, Sequence[int]]
) -> int:
    """Return the same, along the indices of queries and keys that a mask ties to each other."""
    queries, keys, splits = (index in operand.indices for index in ("q", "k", "s"))
    seen = operator_seen(graph, operator, tiling) or _maker_seen(graph, tiling, operator.inputs[0].tensor)
    if queries and keys:
        return _pairs(graph, tiling, operator, operand, seen)
    if queries:
        return int((seen.query_lengths * seen.splits).sum()) if splits or "k" in apart else graph.extents["q"]
    starts = np.array(apart.get("q", [0]))
    if keys:
        return seen.keys_over(starts)
    ends = np.append(starts[1:], graph.extents["q"])
    return int(seen.splits_over(starts, ends).sum()) if splits or "k" in apart else len(starts)


def _pairs(graph: OperatorGraph, tiling: Tiling, operator: Operator, operand: Operand, seen: SeenPieces) -> int:
    """Return the pairs of a query and a key that are made of a tensor, or read of it by one operator.

    Of what is made, only what the tiles of a reader touch is read. Where neither cuts the other's pieces, all that is
    known is that it has the pairs that are not hidden.
    """
    if operand in operator.outputs:
        return seen.area
    made = _maker_seen(graph, tiling, operand.tensor)
    return min(seen.area, made.area) if seen.nests_with(made) else graph.pairs(operator)
