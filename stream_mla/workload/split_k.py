"""Split-K: a contraction's reduced indices are dealt to several splits, whose partial sums are added up at the end.

    y[m, n] = sum_k x[m, k] w[k, n]   becomes   part[o, m, n] = sum over the rows k of split o,   y = sum_o part[o]

The second is an operator of its own on the vector unit (`Kind.SUM`), so splits may lie on any cores. The row pieces
that the tiling cuts are dealt to the splits in turn: `o` counts splits, not elements, and no weight is read twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

from stream_mla.workload.fusion_group import GroupRole
from stream_mla.workload.operator_graph import PART, Kind, Operand, Operator, OperatorGraph, Role, Tensor, gemm_indices

K_SPLITS = "row_parts"
"""The key under which sizes given by the user hold the splits of a contraction: of all, or, followed by a dot and a
name, of one. Points and stored results are fingerprinted with this spelling, so it stays; `--tile` takes
`k_splits` too.
"""
KV_SPLITS = "parts"
"""The key under which sizes given by the user hold the splits of the keys; `--tile` takes `kv_splits` too."""


def sum_of(operator: str) -> str:
    """Return the name of the operator that adds up the splits of another."""
    return f"{operator}_sum"


def can_spread(graph: OperatorGraph, operator: Operator) -> bool:
    """Whether an operator may be split: it is a plain product of which no sum must stay local."""
    local = any(operand.tensor in graph.local for operand in operator.outputs)
    return operator.kind is Kind.EINSUM and operator.addend is None and not local


def spread(graph: OperatorGraph, k_splits: Mapping[str, int]) -> OperatorGraph:
    """Return the graph in which these operators leave partial sums, in so many splits, each followed by their sum."""
    k_splits = {name: splits for name, splits in k_splits.items() if splits > 1}
    if not k_splits:
        return graph
    operators: list[Operator] = []
    tensors = dict(graph.tensors)
    for operator in graph.operators:
        splits = k_splits.get(operator.name, 1)
        if splits == 1:
            operators.append(operator)
            continue
        if not can_spread(graph, operator):
            raise ValueError(f"{operator.name} cannot be spread over parts of its rows")
        out = operator.outputs[0]
        shape = (splits, *(graph.extents[index] for index in out.indices))
        part = Tensor(name=f"{operator.name}_part", shape=shape, role=Role.PARTIAL, element_bits=graph.partial_bits)
        tensors[part.name] = part
        view = Operand(part.name, (PART, *out.indices), (0,) * len(shape))
        operators.append(replace(operator, outputs=(view,)))
        role = None if operator.group is None else GroupRole.NEIGHBOUR
        operators.append(
            Operator(
                name=sum_of(operator.name),
                kind=Kind.SUM,
                inputs=(view,),
                outputs=(out,),
                group=operator.group,
                role=role,
            )
        )
    return replace(graph, extents={**graph.extents, PART: 1}, tensors=tensors, operators=tuple(operators))


def k_splits_of(graph: OperatorGraph, operator: Operator) -> int:
    """Return the splits of an operator, or of what it adds up, in a graph that is spread: 1 where it has none."""
    for operand in (*operator.inputs, *operator.outputs):
        if operand.indices[0] == PART:
            return graph.tensors[operand.tensor].shape[0]
    return 1


def found_k_splits(graph: OperatorGraph) -> dict[str, int]:
    """Return the contractions of a graph that is spread, with the number of their splits."""
    products = (operator for operator in graph.operators if operator.kind is not Kind.SUM)
    return {operator.name: splits for operator in products if (splits := k_splits_of(graph, operator)) > 1}


def spread_cut(
    graph: OperatorGraph, k_splits: Mapping[str, int], sizes: Mapping[str, Mapping[str, int]]
) -> OperatorGraph:
    """Spread a graph as far as sizes cut it into row pieces; what is spread already stays as it is."""
    extents = graph.extents
    found: dict[str, int] = {}
    for operator in graph.operators if k_splits else ():
        if operator.name in k_splits and k_splits_of(graph, operator) == 1:
            given = sizes.get(operator.name, {})
            rows = prod(-(-extents[i] // given.get(i, extents[i])) for i in gemm_indices(operator).k)
            found[operator.name] = min(k_splits[operator.name], rows)
    return spread(graph, found)


def dealt_to_splits(pieces: Sequence[Mapping[str, tuple[int, int]]], splits: int) -> list[dict[str, tuple[int, int]]]:
    """Deal row pieces to the splits in turn: heads that are done one after the other feed all splits all the time."""
    return [{**piece, PART: (number % splits, number % splits + 1)} for number, piece in enumerate(pieces)]
