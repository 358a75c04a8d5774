"""A layer in passes: parts that run one after the other, each with other heads, tokens or requests.

A prefill of many tokens has millions of tiles, alike for every head. Where no tiling of the whole layer is small enough
to be scheduled, the layer runs in passes: what comes before the heads, the heads, a few at a time, and what adds them
up. Passes of one kind do the same work on other data, so one schedule stands for all of them. A pass begins when the
one before has ended, and what it makes for later ones goes through the DRAM: that is a schedule of the layer, and its
latency is the sum.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

from stream_mla.workload.operator_graph import HEADS, Kind, Operator, OperatorGraph, Role


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a layer, on some of the heads, tokens or requests."""

    graph: OperatorGraph
    sizes: Mapping[str, int]
    """Index -> how much of it this is, where that is not all."""
    times: int
    """How often it runs, each time with others."""


def stages_of(graph: OperatorGraph) -> list[tuple[Operator, ...]]:
    """Return the operators before the heads, those that work on heads, and those after them; without empty ones.

    What groups of heads share (the keys and values of GQA) comes before the heads.
    """
    operators = graph.operators
    heads_of_all = [index for index in HEADS if index in graph.extents]
    numbers = [n for n, operator in enumerate(operators) if all(_runs_along(operator, i) for i in heads_of_all)]
    last = max(numbers, default=-1)
    before = tuple(o for n, o in enumerate(operators) if n not in numbers and n < last)
    heads = tuple(operators[number] for number in numbers)
    after = tuple(o for n, o in enumerate(operators) if n not in numbers and n > last)
    return [stage for stage in (before, heads, after) if stage]


def _runs_along(operator: Operator, index: str) -> bool:
    """Whether all that an operator makes lies along an index, so that pieces of it share no work."""
    return all(index in operand.indices for operand in operator.outputs)


def segments(graph: OperatorGraph, operators: Sequence[Operator], pieces: int) -> list[Segment]:
    """Return the passes of a stretch: about so many in all, of as few kinds as that allows.

    Heads are cut, groups of them first, then requests, whose keys nobody else reads; a stretch without heads is cut
    into tokens. Where pieces are not even, some passes have one head or token more than others.
    """
    able = (*HEADS, "b") if any(o.kind is Kind.SOFTMAX for o in operators) else ("q", "b")
    cuts: dict[str, Mapping[int, int]] = {}
    for index in (i for i in able if all(_runs_along(operator, i) for operator in operators)):
        wanted = min(pieces, graph.extents[index])
        cuts[index] = _sizes(graph.extents[index], wanted)
        pieces = -(-pieces // sum(cuts[index].values()))
    found: list[Segment] = []
    for chosen in product(*cuts.values()):
        sizes = {i: size for i, size in zip(cuts, chosen, strict=True) if size < graph.extents[i]}
        times = prod(cuts[index][size] for index, size in zip(cuts, chosen, strict=True))
        found.append(Segment(graph=part(graph, operators, sizes), sizes=sizes, times=times))
    return found


def _sizes(extent: int, pieces: int) -> dict[int, int]:
    """Return sizes of pieces and how many there are of each: one size, if that takes less than twice the pieces."""
    even = next(n for n in range(pieces, extent + 1) if extent % n == 0)
    if even < 2 * pieces:
        return {extent // even: even}
    small, longer = divmod(extent, pieces)
    return {small + 1: longer, small: pieces - longer}


def whole(graph: OperatorGraph, operators: Sequence[Operator]) -> OperatorGraph:
    """Return the graph of a stretch in one pass."""
    return part(graph, operators, {})


def part(graph: OperatorGraph, operators: Sequence[Operator], sizes: Mapping[str, int]) -> OperatorGraph:
    """Return the graph of some operators, over a piece of some indices."""
    extents = {index: sizes.get(index, extent) for index, extent in graph.extents.items()}
    names = {operator.name for operator in operators}
    made = {operand.tensor for operator in operators for operand in operator.outputs}
    read = {operand.tensor for operator in operators for operand in operator.reads}
    others = {o.tensor for operator in graph.operators if operator.name not in names for o in operator.reads}

    def role(name: str) -> Role:
        """Where a tensor lives: what another pass makes is read from the DRAM, what it needs is written there."""
        own = graph.tensors[name].role
        if own in (Role.ACTIVATION, Role.PARTIAL) and name not in made:
            return Role.INPUT
        return Role.OUTPUT if name in made & others - read else own

    shapes = {
        operand.tensor: tuple(
            size - (graph.extents[index] - extents[index])
            for size, index in zip(graph.tensors[operand.tensor].shape, operand.indices, strict=True)
        )
        for operator in operators
        for operand in (*operator.reads, *operator.outputs)
    }
    if both := {name for name in made & others & read if graph.tensors[name].role is not Role.CACHE}:
        raise AssertionError(f"{', '.join(sorted(both))}: read in the pass that makes it and in others")
    return replace(
        graph,
        extents=extents,
        tensors={name: replace(graph.tensors[name], shape=shape, role=role(name)) for name, shape in shapes.items()},
        operators=tuple(operators),
        local=graph.local.intersection(shapes),
    )


def handed_over(parts: Sequence[Segment]) -> Iterator[str]:
    """Yield the tensors that one pass writes to the DRAM for another."""
    made = {operand.tensor for part in parts for operator in part.graph.operators for operand in operator.outputs}
    inputs = {name: None for part in parts for name, t in part.graph.tensors.items() if t.role is Role.INPUT}
    yield from (name for name in inputs if name in made)
