"""The work of a tile: what an operator does over a box of its indices."""

from collections.abc import Mapping
from math import prod

from stream_mla.hardware.work import Gemm, VectorWork
from stream_mla.mapping.tiling.grid import Interval
from stream_mla.workload.operator_graph import PART, Kind, Operand, Operator, OperatorGraph, gemm_indices

Box = Mapping[str, Interval]

OPERATIONS_PER_ELEMENT = {
    # maximum 1, subtract and scale 1, exponential 4, sum 1. The 4 is what Stream 1.13 and 2.1 charge for
    # exp, sigmoid and silu (github.com/KULeuven-MICAS/stream, core cost of SIMD operators).
    Kind.SOFTMAX: 7,
    # square and accumulate 2, scale 1.
    Kind.NORM: 3,
    # two products and a sum for each element of a rotated pair.
    Kind.ROPE: 3,
    # sigmoid 4 (as above), product 1.
    Kind.GATE: 5,
    # scale each part and add it: counted per element of a part; the division adds 1 per element of the result.
    Kind.MERGE: 2,
    # add each part but the first: counted per element of a part, less 1 per element of the result.
    Kind.SUM: 1,
    # x / (1 + exp(-x)): Stream charges 4 for silu as a whole, as for exp and sigmoid (see softmax).
    Kind.SILU: 4,
    # one product for each element of the result, counted per element of the first input.
    Kind.PRODUCT: 1,
}
"""Vector operations per element, the model's own count where no source is named: one per arithmetic operation."""


def region(operand: Operand, box: Box) -> tuple[Interval, ...]:
    """Return the part of a tensor that an operand covers over a box."""
    return tuple(
        [
            (box[index][0] + offset, box[index][1] + offset)
            for index, offset in zip(operand.indices, operand.offsets, strict=True)
        ]
    )


def gemm_work(graph: OperatorGraph, operator: Operator, box: Box, step: int) -> Gemm:
    """Return the matrix product of a contraction over a box, as the given step of its chain."""
    groups = gemm_indices(operator)

    def size(indices: tuple[str, ...]) -> int:
        return prod(box[index][1] - box[index][0] for index in indices)

    a, b = (graph.tensors[operand.tensor] for operand in operator.inputs[:2])
    return Gemm(
        batch=size(groups.batch),
        m=size(groups.m),
        n=size(groups.n),
        k=size(groups.k),
        a_bits=a.element_bits,
        b_bits=b.element_bits,
        out_bits=graph.tensors[operator.outputs[0].tensor].element_bits,
        accumulates=step > 0 or operator.addend is not None,
    )


def vector_work(graph: OperatorGraph, operator: Operator, box: Box, *, rescales: bool) -> VectorWork:
    """Return the operations and bits of a vector operator over a box; a later chunk of keys `rescales` the context."""

    def bits(operands: tuple[Operand, ...]) -> int:
        sizes = (prod(high - low for low, high in region(operand, box)) for operand in operands)
        return sum(
            size * graph.tensors[operand.tensor].element_bits for size, operand in zip(sizes, operands, strict=True)
        )

    elements = prod(box[index][1] - box[index][0] for index in operator.inputs[0].indices)
    operations = elements * OPERATIONS_PER_ELEMENT[operator.kind]
    if operator.kind is Kind.SOFTMAX and rescales:
        # a later chunk rescales the running context: one product per element
        operations += elements // (box["k"][1] - box["k"][0]) * operator.state_width
    if operator.kind is Kind.MERGE:
        operations += elements // (box["s"][1] - box["s"][0])
    if operator.kind is Kind.SUM:
        operations -= elements // (box[PART][1] - box[PART][0])
    return VectorWork(operations=operations, read_bits=bits(operator.inputs), write_bits=bits(operator.outputs))
