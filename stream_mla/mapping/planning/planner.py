"""Choose a tiling that fits the memories: how operators are cut, and which tensors leave the chip.

A search per operator over piece sizes (numpy, all combinations at once) for the least

    max(DRAM time, compute time) + 1/4 min(...) + one tile's load and compute + a small price per tile

with the pieces double-buffered inside a share of the SRAM. Estimates only: the schedule that follows is exact,
and its bounds hold for the tiling that is chosen here. Sizes given by the user are taken as they are.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from stream_mla.errors import InfeasibleError
from stream_mla.hardware.accelerator import Accelerator
from stream_mla.hardware.interconnect import find_routes
from stream_mla.mapping.planning.analytical_model import Setting, Spill, Strategy, estimate_machine, scaled_setting
from stream_mla.mapping.planning.attention_tiling import EXPANDED, AttentionCut, cut_attention
from stream_mla.mapping.planning.candidate_sizes import Sizes
from stream_mla.mapping.planning.memory_footprint import peak_occupancy, resident_bits
from stream_mla.mapping.planning.operator_tiling import (
    cut_composite,
    cut_contraction,
    cut_sum,
    cut_vector,
    outer_cut,
    worth_parts,
)
from stream_mla.mapping.policy import Fusion, Policy, Prefetch
from stream_mla.mapping.tiling.tile_graph import Tiling
from stream_mla.workload.operator_graph import CONTRACTIONS, Kind, Operator, OperatorGraph, Role, gemm_indices
from stream_mla.workload.split_k import ROW_PARTS, can_spread, parts_of, spread

ATTENTION = ("scores", "softmax", "attend", "scores_rope")
"""Operators that are cut alike."""
CONTEXT_PARTS = frozenset({"context_part", "context_stats"})
"""What a part of the keys leaves for the merge."""
SCORES = frozenset({"scores", "probs", "probs_stats"})
"""What passes between array and vector unit for each chunk of keys."""
ROOMY = 0.75
"""Of a memory: what a plan made to fit may be expected to need, so that tiles still find room before their turn."""
SCALES = (1.0, 0.5, 0.25, 0.1)
"""Shares of the memories that plans are made for: what they hold beside one operator's tiles is not foreseen."""


def candidate_tilings(
    graph: OperatorGraph, accelerator: Accelerator, forced: Mapping[str, int], policy: Policy
) -> Iterable[Tiling]:
    """Yield different tilings worth trying.

    `forced` gives sizes per index (and `parts`). For each of several shares of the memories, the first tiling spills
    what is large; the next ones keep it on chip, which is right where groups of heads are worked off one after the
    other. Where the cache is expanded to keys and values, the first ones do so chunk by chunk.
    """
    machine = estimate_machine(accelerator)
    if policy.fusion is Fusion.ON:
        _require_paths(accelerator)
    heads = next(index for index in ("h", "g") if index in graph.extents)
    groups: list[int | None] = [None]
    if heads not in forced and any(operator.kind is Kind.SOFTMAX for operator in graph.operators):
        wanted = (graph.extents[heads] // pieces for pieces in (8, 16, 32))
        groups += [size for size in dict.fromkeys(wanted) if size]
    seen: list[Tiling] = []
    for scale in SCALES:
        for group, way in _strategies(graph, groups, policy):
            sizes = forced if group is None else {**forced, heads: group}
            setting_of = partial(scaled_setting, machine=machine, forced=sizes, scale=scale)
            found = list(_tilings(setting_of, graph, way, policy))
            if scale == SCALES[0] and way.spill is Spill.NONE:
                found += _with_room(setting_of, graph, accelerator, found[0], way, policy)
            for tiling in found:
                if tiling not in seen:
                    seen.append(tiling)
                    yield tiling


def _require_paths(accelerator: Accelerator) -> None:
    """Refuse to keep everything on a chip whose cores cannot send to each other."""
    _, routes = find_routes(accelerator)
    cores = list(enumerate(accelerator.cores))
    for source, target in ((a, b) for a in cores for b in cores if a[0] != b[0]):
        if (source[0], target[0]) not in routes:
            raise InfeasibleError(
                f"with fusion on, intermediate tensors go from core to core, and no path of links leads from "
                f"{source[1].name} to {target[1].name} but through the DRAM: use fusion auto, or add a link"
            )


_SettingOf = Callable[..., Setting]
"""From a graph and a `way` to the setting of a plan."""


def _tilings(setting_of: _SettingOf, graph: OperatorGraph, way: Strategy, policy: Policy) -> Iterable[Tiling]:
    """Yield the tilings of one way, with the rows of some contractions in parts and without."""
    setting = setting_of(graph, way=way)
    attention = cut_attention(setting, {operator.name: operator for operator in graph.operators})
    for parts in _row_parts(setting, way, attention, _given_row_parts(graph, setting.forced)):
        parted = spread(graph, parts)
        spreading = replace(way, k_splits=parts)
        yield _under(policy, parted, _plan(setting_of(parted, way=spreading), spreading, attention))


def _with_room(
    setting_of: _SettingOf,
    graph: OperatorGraph,
    accelerator: Accelerator,
    tiling: Tiling,
    way: Strategy,
    policy: Policy,
) -> Iterable[Tiling]:
    """Return tilings that spill what takes most room, one tensor after the other, until the rest has enough."""
    if peak_occupancy(graph, accelerator, tiling) <= 1:
        return []
    found = [tiling]
    while peak_occupancy(graph, accelerator, found[0]) > ROOMY:
        waiting = resident_bits(graph, accelerator, found[0])
        largest = max(waiting, key=lambda name: waiting[name], default="")
        if not largest or not waiting[largest] or largest in way.too_large:
            return []
        way = replace(way, too_large=way.too_large | {largest})
        found = list(_tilings(setting_of, graph, way, policy))
    return found


def _strategies(
    graph: OperatorGraph, groups: Sequence[int | None], policy: Policy
) -> Iterable[tuple[int | None, Strategy]]:
    """Yield the sizes of head groups, and what leaves the chip, in the order in which they are tried."""
    # stacks that follow each other without overlap keep what expands apart from what attends
    able = policy.prefetch is not Prefetch.SECOND and set(EXPANDED) <= set(graph.tensors)
    expanded = frozenset(EXPANDED) if able else None

    fused_only = policy.fusion is Fusion.ON

    def way(spill: Spill, inline: frozenset[str] = frozenset()) -> Strategy:
        kept = Spill.NEVER if fused_only and spill is Spill.NONE else spill
        return Strategy(spill=kept, inline=inline, sharing=policy.sharing)

    if policy.fusion is Fusion.OFF:
        return [(None, way(Spill.ALL))]
    ways: list[tuple[int | None, Strategy]] = []
    if expanded:
        ways += [(None, way(Spill.LARGE, expanded)), (None, way(Spill.NONE, expanded))]
    ways += [(None, way(Spill.LARGE))]
    ways += [(group, way(Spill.NONE)) for group in groups]
    ways += [(group, way(Spill.LARGE)) for group in groups[1:]]
    return [(group, entry) for group, entry in ways if not (fused_only and entry.spill is not Spill.NEVER)]


def _given_row_parts(graph: OperatorGraph, forced: Mapping[str, int]) -> Mapping[str, int] | None:
    """Return the parts of rows that the user asks for, of one contraction or of all; None where that is free."""
    if not any(name.partition(".")[0] == ROW_PARTS for name in forced):
        return None
    able = (operator.name for operator in graph.operators if can_spread(graph, operator))
    return {name: forced.get(f"{ROW_PARTS}.{name}", forced.get(ROW_PARTS, 1)) for name in able}


def _row_parts(
    setting: Setting, way: Strategy, attention: AttentionCut, given: Mapping[str, int] | None
) -> list[Mapping[str, int]]:
    """Return parts of rows to plan with: those that promise to pay, and then none."""
    found: dict[str, int] = {}
    setting = replace(setting, spilled=setting.spilled | _context_places(setting, attention.parts)[0])
    setting = replace(setting, alone=frozenset(_alone(setting, attention)))
    for operator in setting.graph.operators:
        if operator.name in (*ATTENTION, *way.inline) or not can_spread(setting.graph, operator):
            continue
        if given is not None:
            found[operator.name] = given[operator.name]
        elif setting.machine.array_cores > 1 and not any(o.tensor in setting.graph.local for o in operator.reads):
            most = _most(setting, operator, attention)
            found[operator.name] = worth_parts(setting, operator, most, attention.sizes)
    found = {name: parts for name, parts in found.items() if parts > 1}
    return [found, {}] if found and given is None else [found]


def _under(policy: Policy, graph: OperatorGraph, tiling: Tiling) -> Tiling:
    """Return a tiling with what a policy takes away from the scheduler."""
    single_buffered: frozenset[str] = frozenset()
    phases: Mapping[str, int] = {}
    if policy.prefetch is Prefetch.OFF:
        single_buffered = frozenset(graph.tensors)
    elif policy.prefetch is Prefetch.SECOND:
        single_buffered = frozenset(
            operator.inputs[0].tensor for operator in graph.operators if operator.kind in CONTRACTIONS
        )
        phases = _stacks(graph)
    if policy.fusion is Fusion.OFF:
        phases = {operator.name: number for number, operator in enumerate(graph.operators)}
    return replace(
        tiling, single_buffered=single_buffered, phases=phases, shared=tiling.shared if policy.sharing else frozenset()
    )


def _stacks(graph: OperatorGraph) -> Mapping[str, int]:
    """Number the fused stacks as FLAT fuses (Kao et al., ASPLOS 2023, arXiv 2107.06419).

    0 before the heads, 1 queries, keys and values per head, 2 attention, 3 after the heads.
    """
    stacks: dict[str, int] = {}
    for operator in graph.operators:
        per_head = any(index in operand.indices for operand in operator.outputs for index in ("h", "g"))
        before = max((stacks[name] for name in graph.edges.predecessors(operator.name)), default=0)
        if operator.name in (*ATTENTION, "merge"):
            stacks[operator.name] = 2
        elif per_head:
            stacks[operator.name] = max(1, before)
        else:
            stacks[operator.name] = 3 if before else 0
    return stacks


def _plan(setting: Setting, way: Strategy, attention: AttentionCut) -> Tiling:
    """Plan all operators, now that it is known how attention is cut."""
    graph = setting.graph
    operators = {operator.name: operator for operator in graph.operators}
    spilled, local = _context_places(setting, attention.parts)
    if way.spill is Spill.ALL:
        spilled, local = setting.spilled, frozenset[str]()
    setting = replace(setting, spilled=spilled)
    setting = replace(setting, alone=frozenset(_alone(setting, attention)))
    sizes: dict[str, Sizes] = {
        name: {index: size for index, size in attention.sizes.items() if index in operators[name].indices}
        for name in (*ATTENTION, *way.inline)
        if name in operators
    }
    if "softmax" in operators:
        sizes["softmax"] = dict(attention.softmax)
        sizes["merge"] = _cut_merge(setting, operators["merge"], attention)
    for number, operator in enumerate(graph.operators):
        if operator.name in sizes:
            continue
        if operator.name == "composite" and way.spill is not Spill.ALL:
            user = operators["query_absorbed"]
            sizes[operator.name], sizes[user.name] = cut_composite(setting, operator, user)
        elif operator.kind in CONTRACTIONS:
            most = _most(setting, operator, attention)
            sizes[operator.name] = cut_contraction(setting, operator, most, attention.sizes)
        elif operator.kind is Kind.SUM:
            sizes[operator.name] = cut_sum(setting, operator, sizes[graph.operators[number - 1].name])
        elif operator.kind in (Kind.NORM, Kind.ROPE):
            sizes[operator.name] = cut_vector(setting, operator, None if attention.kept else attention.sizes.get("q"))
    return Tiling(
        sizes=sizes,
        parts=attention.parts,
        spilled=spilled,
        shared=frozenset(_shared(setting, operators, way)),
        local=local | way.inline,
        inline=way.inline,
        eager=frozenset(_eager(setting)),
        together=attention.kept,
        k_splits=way.k_splits,
    )


def _most(setting: Setting, operator: Operator, attention: AttentionCut) -> Sizes:
    """Return the largest pieces of an operator that adds up heads in small sums: it can follow as heads are done."""
    heads = [index for index in attention.heads if index in gemm_indices(operator).k]
    if not heads or not _small(setting, operator):
        return {}
    return {index: attention.sizes[index] for index in heads if index in attention.sizes}


def _alone(setting: Setting, attention: AttentionCut) -> Iterable[str]:
    """Yield contractions that have a core for themselves: all their operands come from the DRAM or go there.

    Where attention keeps the keys of a head for all its queries, these may be made meanwhile.
    """
    for operator in setting.graph.operators:
        places = [operand.tensor for operand in (*operator.reads, *operator.outputs)]
        outside = all(setting.via_dram(name) or setting.graph.tensors[name].role is Role.OUTPUT for name in places)
        per_head = any(index in operand.indices for operand in operator.outputs for index in attention.heads)
        if outside and not (attention.kept and per_head):
            yield operator.name


def _small(setting: Setting, operator: Operator) -> bool:
    """Whether an operator's unfinished sums are small as a whole: those of one part, where the rows are in parts."""
    elements = math.prod(setting.graph.tensors[operator.outputs[0].tensor].shape) // parts_of(setting.graph, operator)
    return elements * setting.graph.partial_bits <= setting.small_bits


def _shared(setting: Setting, operators: Mapping[str, Operator], way: Strategy) -> Iterable[str]:
    """Yield the tensors of which a core loads a block once for all its clusters: small ones, and weights that expand
    the cache, which requests and parts of the keys use one after the other.
    """
    for name, tensor in setting.graph.tensors.items():
        if setting.via_dram(name) and tensor.bits <= setting.small_bits:
            yield name
    for name in way.inline:
        yield operators[name].inputs[1].tensor


def _context_places(setting: Setting, parts: int) -> tuple[frozenset[str], frozenset[str]]:
    """Return the spilled and the local tensors, now that it is known whether there are parts to merge."""
    graph, machine = setting.graph, setting.machine
    spilled, local = setting.spilled, graph.local
    if not machine.one_core_does_all:
        local -= SCORES
        if not machine.joined and not setting.keeps_all:
            spilled |= SCORES
    if parts > 1:
        if not setting.keeps_all and graph.tensors["context_part"].bits * parts > setting.small_bits:
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
        # a vector core that serves arrays has room for a piece of each, and the parts come from as many arrays
        copies = attention.parts if setting.machine.one_core_does_all else 1
        return outer_cut(setting, merge, order, least_pieces=wanted, copies=copies)
    if setting.machine.one_core_does_all:
        return {index: size for index, size in attention.sizes.items() if index in merge.indices}
    return outer_cut(setting, merge, [*attention.heads, "q", "b"], start=attention.sizes)


def _eager(setting: Setting) -> Iterable[str]:
    """Yield operators whose unfinished sums are small as a whole, so that they may wait."""
    return (operator.name for operator in setting.graph.operators if _small(setting, operator))
