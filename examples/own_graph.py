"""A graph of one's own: the attention kernel alone, with queries that come from DRAM and no projections.

Any operator graph can be scheduled, checked and bounded. This one is cut out of a shipped one: what makes the queries
and the new rows of the cache is left out, and so is the output projection.
"""

from dataclasses import replace

from stream_mla import Point, evaluate_graph, lower
from stream_mla.workload.operator_graph import OperatorGraph, Role

KERNEL = ("scores", "softmax", "attend", "merge")


def kernel_only(graph: OperatorGraph) -> OperatorGraph:
    """Return the part of an attention layer from the queries to the context of each head."""
    operators = tuple(operator for operator in graph.operators if operator.name in KERNEL)
    used = {operand.tensor for operator in operators for operand in (*operator.reads, *operator.outputs)}
    made = {operand.tensor for operator in operators for operand in operator.outputs}
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name in used}
    for name, tensor in tensors.items():
        if tensor.role is Role.ACTIVATION and name not in made:
            tensors[name] = replace(tensor, role=Role.INPUT)
    tensors["context"] = replace(tensors["context"], role=Role.OUTPUT)
    return replace(graph, operators=operators, tensors=tensors)


point = Point.of("llama_3_8b", "flat_cloud", context=1024, time_limit=0)
layer = lower(point.workload, point.scheme)
for graph in (layer, kernel_only(layer)):
    outcome = evaluate_graph(point, graph)
    print(", ".join(operator.name for operator in graph.operators))
    print(f"  {outcome.result.latency_cycles:,} cycles, gap {100 * outcome.result.gap:.2f} %")
