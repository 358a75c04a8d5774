"""A scheme from outside the package: cross attention, whose keys and values an encoder has left in the cache.

A scheme is a function from a workload to an operator graph. Once registered it works wherever a shipped one does: in
`Point.of`, tables and stored results.
"""

from dataclasses import replace

from stream_mla import Point, Workload, evaluate, lower, register_scheme
from stream_mla.workload.operator_graph import OperatorGraph
from stream_mla.workload.spec import GroupedQueryAttention

NEW_ROWS = ("key", "key_rope", "value")


def cross_attention(workload: Workload) -> OperatorGraph:
    """Return grouped-query attention without what appends to the cache."""
    graph = lower(workload, "mha")
    operators = tuple(operator for operator in graph.operators if operator.name not in NEW_ROWS)
    used = {operand.tensor for operator in operators for operand in (*operator.reads, *operator.outputs)}
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name in used}
    return replace(graph, scheme="cross_attention", operators=operators, tensors=tensors)


register_scheme(
    "cross_attention", cross_attention, "a decoder attends to an encoder", attention=(GroupedQueryAttention,)
)
for scheme in ("mha", "cross_attention"):
    print(evaluate(Point.of("llama_3_8b", "flat_cloud", context=1499, scheme=scheme, time_limit=0)))
