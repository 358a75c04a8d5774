"""Spread a reduction over cores: the rows of a contraction in parts, each with sums of its own, which are added last.

    y[m, n] = sum_k x[m, k] w[k, n]   becomes   part[o, m, n] = sum over the rows k of part o,   y = sum_o part[o]

The second is an operator of its own on the vector unit (`Kind.SUM`), so parts may lie on any cores. The row pieces
that the tiling cuts are dealt to the parts in turn: `o` counts parts, not elements, and no weight is read twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

from stream_mla.workload.operator_graph import PART, Kind, Operand, Operator, OperatorGraph, Role, Tensor, gemm_indices

ROW_PARTS = "row_parts"
"""What the user calls the parts of rows: for all contractions, or followed by a dot and the name of one."""


def sum_of(operator: str) -> str:
    """Name of the operator that adds up the parts of another."""
    return f"{operator}_sum"


def can_spread(graph: OperatorGraph, operator: Operator) -> bool:
    """Whether the rows of an operator may lie on several cores: a plain product of which no sum must stay local."""
    local = any(operand.tensor in graph.local for operand in operator.outputs)
    return operator.kind is Kind.EINSUM and operator.addend is None and not local


def spread(graph: OperatorGraph, k_splits: Mapping[str, int]) -> OperatorGraph:
    """Return the graph in which these operators leave partial sums, in so many parts, each followed by their sum."""
    k_splits = {name: parts for name, parts in k_splits.items() if parts > 1}
    if not k_splits:
        return graph
    operators: list[Operator] = []
    tensors = dict(graph.tensors)
    for operator in graph.operators:
        parts = k_splits.get(operator.name, 1)
        if parts == 1:
            operators.append(operator)
            continue
        if not can_spread(graph, operator):
            raise ValueError(f"{operator.name} cannot be spread over parts of its rows")
        out = operator.outputs[0]
        shape = (parts, *(graph.extents[index] for index in out.indices))
        part = Tensor(name=f"{operator.name}_part", shape=shape, role=Role.PARTIAL, element_bits=graph.partial_bits)
        tensors[part.name] = part
        view = Operand(part.name, (PART, *out.indices), (0,) * len(shape))
        operators.append(replace(operator, outputs=(view,)))
        operators.append(Operator(name=sum_of(operator.name), kind=Kind.SUM, inputs=(view,), outputs=(out,)))
    return replace(graph, extents={**graph.extents, PART: 1}, tensors=tensors, operators=tuple(operators))


def parts_of(graph: OperatorGraph, operator: Operator) -> int:
    """Return the parts of an operator's rows in a graph that is spread: 1 where they are not."""
    for operand in (*operator.inputs, *operator.outputs):
        if operand.indices[0] == PART:
            return graph.tensors[operand.tensor].shape[0]
    return 1


def found_parts(graph: OperatorGraph) -> dict[str, int]:
    """Return the contractions of a graph that is spread, with the parts of their rows."""
    return {o.name: parts for o in graph.operators if o.kind is not Kind.SUM and (parts := parts_of(graph, o)) > 1}


def spread_cut(
    graph: OperatorGraph, k_splits: Mapping[str, int], sizes: Mapping[str, Mapping[str, int]]
) -> OperatorGraph:
    """Spread a graph as far as sizes cut it into row pieces; what is spread already stays as it is."""
    extents = graph.extents
    parts: dict[str, int] = {}
    for operator in graph.operators if k_splits else ():
        if operator.name in k_splits and parts_of(graph, operator) == 1:
            given = sizes.get(operator.name, {})
            rows = prod(-(-extents[i] // given.get(i, extents[i])) for i in gemm_indices(operator).k)
            parts[operator.name] = min(k_splits[operator.name], rows)
    return spread(graph, parts)


def in_parts(pieces: Sequence[Mapping[str, tuple[int, int]]], parts: int) -> list[dict[str, tuple[int, int]]]:
    """Deal row pieces to the parts in turn: heads that are done one after the other feed all parts all the time."""
    return [{**piece, PART: (number % parts, number % parts + 1)} for number, piece in enumerate(pieces)]
