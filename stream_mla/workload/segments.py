"""A graph in segments: parts that run one after the other, each on some of the heads, tokens or requests.

A prefill of many tokens has millions of tiles, alike for every head. Where no tiling of the whole graph is small enough
to be scheduled, it runs in segments. First it is cut into stages: the operators before the heads of an attention layer,
those that work on its heads, those after them up to the heads of the next layer, and so on; a graph without attention
is one stage. Then each stage is cut into segments. Those of one kind do the same work on other data, so one schedule
stands for all of them. A segment begins when the one before has ended, and what it makes for later ones goes through
the DRAM: that is a schedule of the graph, and its latency is the sum.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

from stream_mla.workload.fusion_group import GroupRole
from stream_mla.workload.operator_graph import COUNTERS, Operator, OperatorGraph, Role


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a graph, on some of the heads, tokens or requests."""

    graph: OperatorGraph
    sizes: Mapping[str, int]
    """Index -> how much of it this is, where that is not all."""
    times: int
    """How often it runs, each time with others."""


def stages_of(graph: OperatorGraph) -> list[tuple[Operator, ...]]:
    """Return the operators before the heads, those that work on heads, those after them, and so on; none is empty.

    Stages are numbered: even ones lie between heads, odd ones work on heads. An operator is in the first stage of its
    kind in which all that it reads is made. What groups of heads share (the keys and values of GQA) comes before the
    heads; a product that stays on chip is made where it is used.
    """
    numbers: dict[str, int] = {}
    for operator in graph.operators:
        earliest = max((numbers[name] for name in graph.edges.predecessors(operator.name)), default=0)
        heads = graph.groups[operator.group].heads if operator.group is not None else ()
        on_heads = bool(heads) and all(_runs_along(operator, index) for index in heads)
        numbers[operator.name] = earliest + (earliest % 2 != on_heads)
    for user in graph.members(GroupRole.COMPOSITE_USER):
        composite = graph.member(user.group, GroupRole.COMPOSITE)
        if composite is not None:
            numbers[composite.name] = max(numbers[composite.name], numbers[user.name])
    stages: dict[int, list[Operator]] = {number: [] for number in sorted(set(numbers.values()))}
    for operator in graph.operators:
        stages[numbers[operator.name]].append(operator)
    return [tuple(stage) for stage in stages.values()]


def _runs_along(operator: Operator, index: str) -> bool:
    """Whether all that an operator makes lies along an index that may be cut, so that pieces of it share no work."""
    return index in operator.cuttable and all(index in operand.indices for operand in operator.outputs)


def segments(graph: OperatorGraph, operators: Sequence[Operator], pieces: int) -> list[Segment]:
    """Return the segments of a stage: about so many in all, of as few kinds as that allows.

    Heads are cut, groups of them first, then requests, whose keys nobody else reads; a stage without attention is cut
    into tokens and requests, and then along the other indices of all its results. Where pieces are not even, some
    segments have one head or token more than others. Where the indices allow no more, there are fewer than wanted.
    """
    cuts: dict[str, Mapping[int, int]] = {}
    for index in (i for i in _cut_order(graph, operators) if all(_runs_along(operator, i) for operator in operators)):
        wanted = min(pieces, graph.extents[index])
        cuts[index] = _sizes(graph.extents[index], wanted)
        pieces = -(-pieces // sum(cuts[index].values()))
    found: list[Segment] = []
    for chosen in product(*cuts.values()):
        sizes = {i: size for i, size in zip(cuts, chosen, strict=True) if size < graph.extents[i]}
        times = prod(cuts[index][size] for index, size in zip(cuts, chosen, strict=True))
        found.append(Segment(graph=part(graph, operators, sizes), sizes=sizes, times=times))
    return found


def _cut_order(graph: OperatorGraph, operators: Sequence[Operator]) -> tuple[str, ...]:
    """Return the indices along which a stage may be cut, in the order in which they are."""
    softmax = next((operator for operator in operators if operator.role is GroupRole.SOFTMAX), None)
    if softmax is not None and softmax.group is not None:
        return (*graph.groups[softmax.group].heads, "b")
    others = (index for index in operators[0].outputs[0].indices if index not in ("q", "b", "w", *COUNTERS))
    return ("q", "b", *others)


def _sizes(extent: int, pieces: int) -> dict[int, int]:
    """Return sizes of pieces and how many there are of each: one size, if that takes less than twice the pieces."""
    even = next(n for n in range(pieces, extent + 1) if extent % n == 0)
    if even < 2 * pieces:
        return {extent // even: even}
    small, longer = divmod(extent, pieces)
    return {small + 1: longer, small: pieces - longer}


def whole(graph: OperatorGraph, operators: Sequence[Operator]) -> OperatorGraph:
    """Return the graph of a stage in one segment."""
    return part(graph, operators, {})


def part(graph: OperatorGraph, operators: Sequence[Operator], sizes: Mapping[str, int]) -> OperatorGraph:
    """Return the graph of some operators, over a piece of some indices."""
    extents = {index: sizes.get(index, extent) for index, extent in graph.extents.items()}
    names = {operator.name for operator in operators}
    made = {operand.tensor for operator in operators for operand in operator.outputs}
    read = {operand.tensor for operator in operators for operand in operator.reads}
    others = {o.tensor for operator in graph.operators if operator.name not in names for o in operator.reads}

    def role(name: str) -> Role:
        """Where a tensor lives: what another segment makes is read from the DRAM, what it needs is written there."""
        own = graph.tensors[name].role
        if own in (Role.ACTIVATION, Role.PARTIAL) and name not in made:
            return Role.INPUT
        kept = own is Role.CACHE and name in read
        return Role.OUTPUT if name in made & others and not kept else own

    shapes = {
        operand.tensor: tuple(
            size - (graph.extents[index] - extents[index])
            for size, index in zip(graph.tensors[operand.tensor].shape, operand.indices, strict=True)
        )
        for operator in operators
        for operand in (*operator.reads, *operator.outputs)
    }
    return replace(
        graph,
        extents=extents,
        tensors={name: replace(graph.tensors[name], shape=shape, role=role(name)) for name, shape in shapes.items()},
        operators=tuple(operators),
        local=graph.local.intersection(shapes),
    )


def handed_over(parts: Sequence[Segment]) -> Iterator[str]:
    """Yield the tensors that one segment writes to the DRAM for another."""
    made = {operand.tensor for part in parts for operator in part.graph.operators for operand in operator.outputs}
    inputs = {name: None for part in parts for name, t in part.graph.tensors.items() if t.role is Role.INPUT}
    yield from (name for name in inputs if name in made)
