"""Graphs of matrix products and feed-forward networks, alone or after other graphs.

    gemm        C[m, n] = A[m, k] B[k, n]
    gated_ffn   y = (SiLU(x W_gate) * (x W_up)) W_down      (SwiGLU: Shazeer, arXiv 2002.05202; Llama, DeepSeek)

Weights are read from DRAM, the input too, and the result is written there. Rows of a product are query tokens (index
q), so that a network can follow attention (`in_sequence`). SiLU and the elementwise product are operators of their own
on the vector unit; a kernel that does them while it writes a product back saves the time that they take here.
"""

from stream_mla.workload.lowering.graph_builder import GraphBuilder
from stream_mla.workload.operator_graph import Kind, OperatorGraph, Role
from stream_mla.workload.spec import Precision


def gemm(precision: Precision, *, m: int, n: int, k: int) -> OperatorGraph:
    """Return the graph of one product of an input [m, k] with a weight [k, n]."""
    builder = GraphBuilder(precision, _positive(b=1, q=m, d=k, e=n))
    x = builder.whole("x", "bqd", Role.INPUT)
    builder.einsum("gemm", x, builder.weight("w", "de"), builder.whole("y", "bqe", Role.OUTPUT))
    return builder.graph("gemm")


def gated_ffn(precision: Precision, *, batch: int, tokens: int, model_dim: int, hidden_dim: int) -> OperatorGraph:
    """Return the graph of a gated feed-forward network, over `tokens` of each of `batch` requests."""
    builder = GraphBuilder(precision, _positive(b=batch, q=tokens, d=model_dim, e=model_dim, f=hidden_dim))
    x = builder.whole("x", "bqd", Role.INPUT)
    gate = builder.make("gate", x, builder.weight("w_gate", "df"), "bqf")
    activated = builder.vector(Kind.SILU, "silu", gate, builder.whole("silu", "bqf", Role.ACTIVATION))
    up = builder.make("up", x, builder.weight("w_up", "df"), "bqf")
    hidden = builder.whole("hidden", "bqf", Role.ACTIVATION)
    builder.vector(Kind.PRODUCT, "hidden", activated, hidden, up)
    builder.einsum("down", hidden, builder.weight("w_down", "fe"), builder.whole("y", "bqe", Role.OUTPUT))
    return builder.graph("gated_ffn")


def _positive(**extents: int) -> dict[str, int]:
    """Return extents; ValueError where one is not a positive whole number."""
    for index, extent in extents.items():
        if extent < 1:
            raise ValueError(f"index {index} must have at least 1 element, got {extent}")
    return extents
