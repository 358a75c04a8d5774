"""Spread a reduction over cores: the rows of a contraction in parts, each with sums of its own, which are added last.

    y[m, n] = sum_k x[m, k] w[k, n]   becomes   part[o, m, n] = sum over the rows k of part o,   y = sum_o part[o]

The second is an operator of its own on the vector unit (`Kind.SUM`), so parts may lie on any cores. A part is a run
of row pieces, as the tiling cuts them: `o` counts parts, not elements, and no weight is read twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

from stream_mla.graph import PART, Kind, Operand, Operator, OperatorGraph, Role, Tensor, gemm_indices

ROW_PARTS = "row_parts"
"""What the user calls the parts of rows: for all contractions, or followed by a dot and the name of one."""


def sum_of(operator: str) -> str:
    """Name of the operator that adds up the parts of another."""
    return f"{operator}_sum"


def can_spread(graph: OperatorGraph, operator: Operator) -> bool:
    """Whether the rows of an operator may lie on several cores: a plain product of which no sum must stay local."""
    local = any(operand.tensor in graph.local for operand in operator.outputs)
    return operator.kind is Kind.EINSUM and operator.addend is None and not local


def spread(graph: OperatorGraph, row_parts: Mapping[str, int]) -> OperatorGraph:
    """Return the graph in which these operators leave partial sums, in so many parts, each followed by their sum."""
    row_parts = {name: parts for name, parts in row_parts.items() if parts > 1}
    if not row_parts:
        return graph
    operators: list[Operator] = []
    tensors = dict(graph.tensors)
    for operator in graph.operators:
        parts = row_parts.get(operator.name, 1)
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


def rows_of(graph: OperatorGraph, operator: Operator, sizes: Mapping[str, Mapping[str, int]]) -> int:
    """Return the row pieces that sizes make of an operator: it cannot have more parts."""
    given, extents = sizes.get(operator.name, {}), graph.extents
    return prod(-(-extents[index] // given.get(index, extents[index])) for index in gemm_indices(operator).k)


def in_parts(pieces: Sequence[Mapping[str, tuple[int, int]]], parts: int) -> list[dict[str, tuple[int, int]]]:
    """Number the parts of row pieces: runs of nearly equal length."""
    return [
        {**piece, PART: (part, part + 1)}
        for number, piece in enumerate(pieces)
        for part in (number * parts // len(pieces),)
    ]
