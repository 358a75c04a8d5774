"""Choose a tiling that fits the memories: how operators are cut, and which tensors leave the chip.

A search per operator over piece sizes (numpy, all combinations at once) for the least

    max(DRAM time, compute time) + 1/4 min(...) + one tile's load and compute + a small price per tile

with the pieces double-buffered inside a share of the SRAM. Estimates only: the schedule that follows is exact,
and its bounds hold for the tiling that is chosen here. Sizes given by the user are taken as they are.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from stream_mla.accelerator import Accelerator
from stream_mla.estimate import Setting, estimate_machine, scaled_setting
from stream_mla.graph import CONTRACTIONS, Kind, Operator, OperatorGraph
from stream_mla.operator_cuts import AttentionCut, cut_attention, cut_composite, cut_contraction, cut_vector, outer_cut
from stream_mla.piece_choices import Sizes
from stream_mla.tiling import Tiling

ATTENTION = ("scores", "softmax", "attend", "scores_rope")
"""Operators that are cut alike."""
CONTEXT_PARTS = frozenset({"context_part", "context_stats"})
"""What a part of the keys leaves for the merge."""
SCORES = frozenset({"scores", "probs", "probs_stats"})
"""What passes between array and vector unit for each chunk of keys."""
SCALES = (1.0, 0.5, 0.25, 0.1)
"""Shares of the memories that plans are made for: what they hold beside one operator's tiles is not foreseen."""


def plans(graph: OperatorGraph, accelerator: Accelerator, forced: Mapping[str, int]) -> Iterable[Tiling]:
    """Yield different tilings worth trying.

    `forced` gives sizes per index (and `parts`). For each of several shares of the memories, the first tiling spills
    what is large; the next ones keep it on chip, which is right where groups of heads are worked off one after the
    other.
    """
    machine = estimate_machine(accelerator)
    heads = next(index for index in ("h", "g") if index in graph.extents)
    groups: list[int | None] = [None]
    if heads not in forced:
        wanted = (graph.extents[heads] // pieces for pieces in (8, 16, 32))
        groups += [size for size in dict.fromkeys(wanted) if size]
    ways = dict.fromkeys([(None, True), *((group, spill) for spill in (False, True) for group in groups)])
    seen: list[Tiling] = []
    for scale in SCALES:
        for group, spill in ways:
            sizes = forced if group is None else {**forced, heads: group}
            tiling = _plan(scaled_setting(graph, machine, sizes, scale, spill=spill))
            if tiling not in seen:
                seen.append(tiling)
                yield tiling


def _plan(setting: Setting) -> Tiling:
    """Plan all operators."""
    graph = setting.graph
    operators = {operator.name: operator for operator in graph.operators}
    attention = cut_attention(setting, operators)
    spilled, local = _context_places(setting, attention.parts)
    setting = replace(setting, spilled=spilled)
    sizes: dict[str, Sizes] = {
        name: {index: size for index, size in attention.sizes.items() if index in operators[name].indices}
        for name in ATTENTION
        if name in operators
    }
    sizes["merge"] = _cut_merge(setting, operators["merge"], attention)
    for operator in graph.operators:
        if operator.name in sizes:
            continue
        if operator.name == "composite":
            user = operators["query_absorbed"]
            sizes[operator.name], sizes[user.name] = cut_composite(setting, operator, user)
        elif operator.kind in CONTRACTIONS:
            sizes[operator.name] = cut_contraction(setting, operator)
        elif operator.kind in (Kind.NORM, Kind.ROPE):
            sizes[operator.name] = cut_vector(setting, operator)
    return Tiling(
        sizes=sizes,
        parts=attention.parts,
        spilled=spilled,
        shared=frozenset(
            name
            for name, tensor in graph.tensors.items()
            if setting.via_dram(name) and tensor.bits <= setting.small_bits
        ),
        local=local,
        early=frozenset(_early(setting)),
    )


def _context_places(setting: Setting, parts: int) -> tuple[frozenset[str], frozenset[str]]:
    """Return the spilled and the local tensors, now that it is known whether there are parts to merge."""
    graph, machine = setting.graph, setting.machine
    spilled, local = setting.spilled, graph.local
    if not machine.one_core_does_all:
        local -= SCORES
        if not machine.joined:
            spilled |= SCORES
    if parts > 1:
        if graph.tensors["context_part"].bits * parts > setting.small_bits:
            spilled |= CONTEXT_PARTS
    elif machine.one_core_does_all:
        spilled, local = spilled - CONTEXT_PARTS, local | CONTEXT_PARTS
    elif machine.joined:
        spilled -= CONTEXT_PARTS
    return spilled, local


def _cut_merge(setting: Setting, merge: Operator, attention: AttentionCut) -> Sizes:
    """Merge where the context is made if there is one part, else spread over heads."""
    if attention.parts > 1:
        heads = math.prod(setting.graph.extents[index] for index in attention.heads)
        wanted = min(setting.machine.array_cores, heads)
        order = [*attention.heads, "b", "q"]
        return outer_cut(setting, merge, order, least_pieces=wanted, copies=attention.parts)
    if setting.machine.one_core_does_all:
        return {index: size for index, size in attention.sizes.items() if index in merge.indices}
    return outer_cut(setting, merge, [*attention.heads, "q", "b"], start=attention.sizes)


def _early(setting: Setting) -> Iterable[str]:
    """Yield operators whose unfinished sums are small as a whole, so that they may wait."""
    for operator in setting.graph.operators:
        elements = math.prod(setting.graph.tensors[operator.outputs[0].tensor].shape)
        if elements * setting.graph.partial_bits <= setting.small_bits:
            yield operator.name
