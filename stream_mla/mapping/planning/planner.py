"""Choose tilings that fit the memories: how operators are cut, and which tensors leave the chip.

Each fusion group is cut on its own, its core alike, and every other operator by itself: a search over piece sizes
(numpy, all combinations at once) for the least

    max(DRAM time, compute time) + 1/4 min(...) + one tile's load and compute + a small price per tile

with the pieces double-buffered inside a share of the SRAM. These are estimates: the schedule that follows is exact,
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
from stream_mla.mapping.planning.attention_group import attention_groups, expanded_tensors
from stream_mla.mapping.planning.attention_tiling import AttentionCut, cut_attention, cut_of
from stream_mla.mapping.planning.candidate_sizes import Sizes
from stream_mla.mapping.planning.memory_footprint import peak_occupancy, resident_bits
from stream_mla.mapping.planning.operator_tiling import (
    cut_composite,
    cut_contraction,
    cut_elementwise,
    cut_sum,
    cut_vector,
    outer_cut,
    worthwhile_k_splits,
)
from stream_mla.mapping.planning.tensor_places import (
    alone,
    has_small_sums,
    makes_inline,
    places,
    shared,
    under_policy,
)
from stream_mla.mapping.policy import Fusion, Policy, Prefetch
from stream_mla.mapping.tiling.tile_graph import Tiling
from stream_mla.workload.fusion_group import GroupRole
from stream_mla.workload.operator_graph import (
    CONTRACTIONS,
    ELEMENTWISE,
    Kind,
    Operator,
    OperatorGraph,
    gemm_indices,
)
from stream_mla.workload.split_k import K_SPLITS, can_spread, spread

ROOMY = 0.75
"""A tiling that is made to fit may occupy at most this share of a memory; the rest lets tiles be loaded ahead."""
SCALES = (1.0, 0.5, 0.25, 0.1)
"""Tilings are planned for these shares of the SRAM, because the planner sees one operator at a time and not what the
others keep there."""
HEAD_PIECES = (8, 16, 32)
"""Pieces into which the heads are cut where groups of heads are worked off one after the other: enough for the cores of
most machines, and few enough that each is worth its loads."""

_Cuts = Mapping[str, AttentionCut]
"""Fusion group -> how its core is cut."""


def candidate_tilings(
    graph: OperatorGraph, accelerator: Accelerator, forced: Mapping[str, int], policy: Policy
) -> Iterable[Tiling]:
    """Yield different tilings worth trying.

    `forced` gives sizes per index, and splits (see `split_k`). For each of several shares of the memories, the first
    tiling spills large tensors; the next ones keep them on chip, which is right where groups of heads are worked off
    one after the other. Where the cache is expanded to keys and values, the first ones do so chunk by chunk.
    """
    machine = estimate_machine(accelerator)
    if policy.fusion is Fusion.ON:
        _require_paths(accelerator)
    seen: list[Tiling] = []
    for scale in SCALES:
        for head_sizes, way in _strategies(graph, _head_sizes(graph, forced), policy):
            sizes = {**forced, **head_sizes}
            setting_of = partial(scaled_setting, machine=machine, forced=sizes, scale=scale)
            found = list(_tilings(setting_of, graph, way, policy))
            if scale == SCALES[0] and way.spill is Spill.NONE:
                found += _with_room(setting_of, graph, accelerator, found[0], way, policy)
            for tiling in found:
                if tiling not in seen:
                    seen.append(tiling)
                    yield tiling


def _head_sizes(graph: OperatorGraph, forced: Mapping[str, int]) -> list[Mapping[str, int]]:
    """Return sizes of groups of heads that are worth trying, per outer index of the heads, and first none."""
    outer = {graph.groups[name].heads[0]: None for name in graph.attention_groups if graph.groups[name].heads}
    found: list[Mapping[str, int]] = [{}]
    for pieces in HEAD_PIECES:
        sizes = {index: graph.extents[index] // pieces for index in outer if index not in forced}
        sizes = {index: size for index, size in sizes.items() if size}
        if sizes and sizes not in found:
            found.append(sizes)
    return found


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
    """Yield the tilings of one way, with some contractions split and without."""
    setting = setting_of(graph, way=way)
    attention = {name: cut_attention(setting, group) for name, group in setting.groups.items()}
    for k_splits in _k_splits(setting, way, attention, _given_k_splits(graph, setting.forced)):
        spread_graph = spread(graph, k_splits)
        spreading = replace(way, k_splits=k_splits)
        tiling = _plan(setting_of(spread_graph, way=spreading), spreading, attention)
        yield under_policy(policy, spread_graph, tiling)


def _with_room(
    setting_of: _SettingOf,
    graph: OperatorGraph,
    accelerator: Accelerator,
    tiling: Tiling,
    way: Strategy,
    policy: Policy,
) -> Iterable[Tiling]:
    """Return tilings that spill the tensor that takes most room, one after the other, until the rest has enough."""
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
    graph: OperatorGraph, head_sizes: Sequence[Mapping[str, int]], policy: Policy
) -> Iterable[tuple[Mapping[str, int], Strategy]]:
    """Yield the sizes of head groups, and which tensors leave the chip, in the order in which they are tried."""
    # stacks that follow each other without overlap keep what expands apart from what attends
    able = policy.prefetch is not Prefetch.SECOND
    expanded = expanded_tensors(attention_groups(graph)) if able else frozenset[str]()

    fused_only = policy.fusion is Fusion.ON

    def way(spill: Spill, inline: frozenset[str] = frozenset()) -> Strategy:
        kept = Spill.NEVER if fused_only and spill is Spill.NONE else spill
        return Strategy(spill=kept, inline=inline, sharing=policy.sharing)

    if policy.fusion is Fusion.OFF:
        return [({}, way(Spill.ALL))]
    ways: list[tuple[Mapping[str, int], Strategy]] = []
    if expanded:
        ways += [({}, way(Spill.LARGE, expanded)), ({}, way(Spill.NONE, expanded))]
    ways += [({}, way(Spill.LARGE))]
    ways += [(sizes, way(Spill.NONE)) for sizes in head_sizes]
    ways += [(sizes, way(Spill.LARGE)) for sizes in head_sizes[1:]]
    return [(sizes, entry) for sizes, entry in ways if not (fused_only and entry.spill is not Spill.NEVER)]


def _given_k_splits(graph: OperatorGraph, forced: Mapping[str, int]) -> Mapping[str, int] | None:
    """Return the splits that the user asks for, of one contraction or of all; None where they are free."""
    if not any(name.partition(".")[0] == K_SPLITS for name in forced):
        return None
    able = (operator.name for operator in graph.operators if can_spread(graph, operator))
    return {name: forced.get(f"{K_SPLITS}.{name}", forced.get(K_SPLITS, 1)) for name in able}


def _k_splits(
    setting: Setting, way: Strategy, attention: _Cuts, given: Mapping[str, int] | None
) -> list[Mapping[str, int]]:
    """Return splits of contractions to plan with: those that promise to pay, and then none."""
    found: dict[str, int] = {}
    setting = replace(setting, spilled=setting.spilled | places(setting, attention)[0])
    setting = replace(setting, alone=frozenset(alone(setting, attention)))
    for operator in setting.graph.operators:
        fused = operator.in_core or makes_inline(operator, way.inline)
        if fused or not can_spread(setting.graph, operator):
            continue
        if given is not None:
            found[operator.name] = given[operator.name]
        elif setting.machine.array_cores > 1 and not any(o.tensor in setting.graph.local for o in operator.reads):
            cut = cut_of(attention, operator)
            found[operator.name] = worthwhile_k_splits(setting, operator, _max_sizes(setting, operator, cut), cut.sizes)
    found = {name: splits for name, splits in found.items() if splits > 1}
    return [found, {}] if found and given is None else [found]


def _plan(setting: Setting, way: Strategy, attention: _Cuts) -> Tiling:
    """Plan all operators, now that it is known how attention is cut."""
    spilled, local = places(setting, attention)
    if way.spill is Spill.ALL:
        spilled, local = setting.spilled, frozenset[str]()
    setting = replace(setting, spilled=spilled)
    setting = replace(setting, alone=frozenset(alone(setting, attention)))
    return Tiling(
        sizes=_all_sizes(setting, way, attention),
        kv_splits={name: cut.kv_splits for name, cut in attention.items()},
        spilled=spilled,
        shared=frozenset(shared(setting, way.inline)),
        local=local | way.inline,
        inline=way.inline,
        eager=frozenset(o.name for o in setting.graph.operators if has_small_sums(setting, o)),
        together=frozenset(tensor for cut in attention.values() for tensor in cut.kept),
        k_splits=way.k_splits,
    )


def _all_sizes(setting: Setting, way: Strategy, attention: _Cuts) -> dict[str, Sizes]:
    """Return how each operator is cut: the cores of groups and their merges first, then one after the other."""
    operators = setting.graph.operators
    sizes: dict[str, Sizes] = {}
    for operator in operators:
        cut = cut_of(attention, operator)
        if cut.heads and operator.role is GroupRole.SOFTMAX:
            sizes[operator.name] = dict(cut.softmax)
        elif cut.heads and operator.role is GroupRole.MERGE:
            sizes[operator.name] = _cut_merge(setting, operator, cut)
        elif cut.heads and (operator.in_core or makes_inline(operator, way.inline)):
            sizes[operator.name] = {i: size for i, size in cut.sizes.items() if i in operator.indices}
    for number, operator in enumerate(operators):
        if operator.name in sizes:
            continue
        user = setting.graph.member(operator.group, GroupRole.COMPOSITE_USER)
        if operator.role is GroupRole.COMPOSITE and user is not None and way.spill is not Spill.ALL:
            sizes[operator.name], sizes[user.name] = cut_composite(setting, operator, user)
        elif operator.kind is Kind.SUM:
            sizes[operator.name] = cut_sum(setting, operator, sizes[operators[number - 1].name])
        else:
            sizes[operator.name] = _cut_alone(setting, operator, cut_of(attention, operator), sizes)
    return sizes


def _cut_alone(setting: Setting, operator: Operator, cut: AttentionCut, sizes: Mapping[str, Sizes]) -> Sizes:
    """Return how an operator is cut that no other is cut with; `sizes` are those of the operators before it."""
    if operator.kind in CONTRACTIONS:
        return cut_contraction(setting, operator, _max_sizes(setting, operator, cut), cut.sizes)
    if operator.kind in ELEMENTWISE:
        read = {operand.tensor for operand in operator.inputs}
        makers = (o for o in setting.graph.operators if any(operand.tensor in read for operand in o.outputs))
        return cut_elementwise(setting, operator, [sizes[maker.name] for maker in makers])
    return cut_vector(setting, operator, cut.heads, None if cut.kept else cut.sizes.get("q"))


def _max_sizes(setting: Setting, operator: Operator, cut: AttentionCut) -> Sizes:
    """Return upper limits of an operator's pieces: one that adds up heads in small sums follows them one by one."""
    heads = [index for index in cut.heads if index in gemm_indices(operator).k]
    if not heads or not has_small_sums(setting, operator):
        return {}
    return {index: cut.sizes[index] for index in heads if index in cut.sizes}


def _cut_merge(setting: Setting, merge: Operator, cut: AttentionCut) -> Sizes:
    """Merge where the context is made if there is one split, else spread over heads."""
    if cut.kv_splits > 1:
        heads = math.prod(setting.graph.extents[index] for index in cut.heads)
        wanted = min(setting.machine.array_cores, heads)
        order = [*cut.heads, "b", "q"]
        # a vector core that serves arrays has room for a piece of each, and the splits come from as many arrays
        copies = cut.kv_splits if setting.machine.one_core_does_all else 1
        return outer_cut(setting, merge, order, least_pieces=wanted, copies=copies)
    if setting.machine.one_core_does_all:
        return {index: size for index, size in cut.sizes.items() if index in merge.indices}
    return outer_cut(setting, merge, [*cut.heads, "q", "b"], start=cut.sizes)
