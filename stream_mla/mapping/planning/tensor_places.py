"""Where the tensors of a plan live: on one core, on chip, or in the DRAM; and what a policy takes away."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from stream_mla.mapping.planning.analytical_model import Setting
from stream_mla.mapping.planning.attention_tiling import AttentionCut, cut_of
from stream_mla.mapping.policy import Fusion, Policy, Prefetch
from stream_mla.mapping.tiling.tile_graph import Tiling
from stream_mla.workload.fusion_group import GroupRole
from stream_mla.workload.operator_graph import CONTRACTIONS, Operator, OperatorGraph, Role
from stream_mla.workload.split_k import k_splits_of

BEFORE, PER_HEAD, ATTENTION, AFTER = range(4)
"""The fused stacks of one attention layer, as they follow each other."""
STACKS = 4
"""Stacks of one attention layer: those of the next one are numbered on from there."""


def places(setting: Setting, attention: Mapping[str, AttentionCut]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the spilled and the local tensors, now that it is known which groups have splits to merge."""
    graph, machine = setting.graph, setting.machine
    spilled, local = setting.spilled, graph.local
    for name, group in setting.groups.items():
        splits = attention[name].kv_splits
        if not machine.one_core_does_all:
            local -= group.score_tensors
            if not machine.joined and not setting.keeps_all:
                spilled |= group.score_tensors
        if splits > 1:
            bits = graph.tensors[group.attend.outputs[0].tensor].bits * splits
            if not setting.keeps_all and bits > setting.small_bits:
                spilled |= group.split_tensors
        elif machine.one_core_does_all:
            spilled, local = spilled - group.split_tensors, local | group.split_tensors
        elif machine.joined:
            spilled -= group.split_tensors
    return spilled, local


def alone(setting: Setting, attention: Mapping[str, AttentionCut]) -> Iterable[str]:
    """Yield contractions that have a core for themselves: all their operands come from the DRAM or go there.

    Where attention keeps the keys of a head for all its queries, operators of its heads may run meanwhile.
    """
    for operator in setting.graph.operators:
        tensors = [operand.tensor for operand in (*operator.reads, *operator.outputs)]
        outside = all(setting.via_dram(name) or setting.graph.tensors[name].role is Role.OUTPUT for name in tensors)
        cut = cut_of(attention, operator)
        per_head = any(index in operand.indices for operand in operator.outputs for index in cut.heads)
        if outside and not (cut.kept and per_head):
            yield operator.name


def has_small_sums(setting: Setting, operator: Operator) -> bool:
    """Whether an operator's unfinished sums are small as a whole, or those of one split where it is split."""
    splits = k_splits_of(setting.graph, operator)
    elements = math.prod(setting.graph.tensors[operator.outputs[0].tensor].shape) // splits
    return elements * setting.graph.partial_bits <= setting.small_bits


def shared(setting: Setting, inline: frozenset[str]) -> Iterable[str]:
    """Yield the tensors of which a core loads a block once for all its clusters.

    These are small ones, and weights that expand the cache inline, which requests and splits of the keys use one after
    the other.
    """
    for name, tensor in setting.graph.tensors.items():
        if setting.via_dram(name) and tensor.bits <= setting.small_bits:
            yield name
    for operator in setting.graph.operators:
        if makes_inline(operator, inline):
            yield operator.inputs[1].tensor


def makes_inline(operator: Operator, inline: frozenset[str]) -> bool:
    """Whether an operator makes a tensor that is made just before it is used."""
    return any(operand.tensor in inline for operand in operator.outputs)


def under_policy(policy: Policy, graph: OperatorGraph, tiling: Tiling) -> Tiling:
    """Return a tiling without the freedom that a policy takes away from the scheduler."""
    single_buffered: frozenset[str] = frozenset()
    phases: Mapping[str, int] = {}
    if policy.prefetch is Prefetch.OFF:
        single_buffered = frozenset(graph.tensors)
    elif policy.prefetch is Prefetch.SECOND:
        single_buffered = frozenset(
            operator.inputs[0].tensor for operator in graph.operators if operator.kind in CONTRACTIONS
        )
        phases = fused_stacks(graph)
    if policy.fusion is Fusion.OFF:
        phases = {operator.name: number for number, operator in enumerate(graph.operators)}
    return replace(
        tiling, single_buffered=single_buffered, phases=phases, shared=tiling.shared if policy.sharing else frozenset()
    )


def fused_stacks(graph: OperatorGraph) -> Mapping[str, int]:
    """Number the fused stacks as FLAT fuses (Kao et al., ASPLOS 2023, arXiv 2107.06419).

    0 before the heads, 1 queries, keys and values per head, 2 attention, 3 after the heads; the heads of the next layer
    begin at 5. What a layer has before its heads is fused with what the layer before has after them.
    """
    stacks: dict[str, int] = {}
    for operator in graph.operators:
        earliest = max((stacks[name] for name in graph.edges.predecessors(operator.name)), default=0)
        heads = graph.groups[operator.group].heads if operator.group is not None else ()
        if operator.in_core or operator.role is GroupRole.MERGE:
            able = (ATTENTION,)
        elif any(index in operand.indices for operand in operator.outputs for index in heads):
            able = (PER_HEAD, ATTENTION)
        else:
            able = (BEFORE, AFTER)
        stacks[operator.name] = next(n for n in range(earliest, earliest + STACKS) if n % STACKS in able)
        if operator.role is GroupRole.COMPOSITE_USER:
            composite = graph.member(operator.group, GroupRole.COMPOSITE)
            if composite is not None:
                stacks[composite.name] = stacks[operator.name]
    return stacks
