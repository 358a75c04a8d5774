"""It says what a machine must have for an operator graph, whatever the tiling: refused before anything is tried."""

from stream_mla.errors import InfeasibleError, SpecError
from stream_mla.hardware.accelerator import Accelerator
from stream_mla.workload.operator_graph import CONTRACTIONS, Kind, OperatorGraph, Role

MOST_MACS = 10**17
"""A layer has at most this many MACs, so that all that is counted of it fits 64 bit: DeepSeek-V3 takes 4e16 for a
prefill of a million tokens, half a minute on a whole H100."""


def require(graph: OperatorGraph, accelerator: Accelerator) -> None:
    """Refuse operands that are too wide (SpecError), and what no memory can hold (InfeasibleError, a proof)."""
    if graph.total_macs > MOST_MACS:
        raise SpecError(
            "the layer", [f"it has {graph.total_macs:.3g} MACs, at most {MOST_MACS:.0g} are simulated: lower --context"]
        )
    _require_precision(graph, accelerator)
    _require_dram(graph, accelerator)
    _require_sram(graph, accelerator)


def dram_bits(graph: OperatorGraph) -> int:
    """Bits that the DRAM must hold: weights, cache, input and output."""
    return sum(t.bits for t in graph.tensors.values() if t.role in (Role.INPUT, Role.WEIGHT, Role.CACHE, Role.OUTPUT))


def _require_precision(graph: OperatorGraph, accelerator: Accelerator) -> None:
    """Refuse products that no array can do, all at once."""
    problems: list[str] = []
    arrays = [core.type.array for core in accelerator.array_cores() if core.type.array is not None]
    widest = max((entry.operand for array in arrays for entry in array.precisions), default=0)
    for operator in (operator for operator in graph.operators if operator.kind in CONTRACTIONS):
        tensors = [graph.tensors[operand.tensor] for operand in operator.inputs[:2]]
        bits = max(tensor.element_bits for tensor in tensors)
        if bits > widest:
            names = " x ".join(f"{tensor.name} ({tensor.element_bits} bit)" for tensor in tensors)
            problems.append(f"{operator.name} multiplies {names}, the widest array does {widest} bit: set --bits")
    if problems:
        raise SpecError(accelerator.name, problems)


def _require_dram(graph: OperatorGraph, accelerator: Accelerator) -> None:
    """Refuse a layer whose tensors the DRAM cannot hold."""
    need, have = dram_bits(graph), accelerator.dram.capacity
    if need > have:
        tensors = [t for t in graph.tensors.values() if t.role in (Role.INPUT, Role.WEIGHT, Role.CACHE, Role.OUTPUT)]
        largest = max(tensors, key=lambda tensor: tensor.bits)
        raise InfeasibleError(
            f"{accelerator.name}: weights, cache, input and output need {need // 8:,} B, the DRAM has {have // 8:,} B; "
            f"the largest is {largest.name} ({largest.role}) with {largest.bits // 8:,} B"
        )


def _require_sram(graph: OperatorGraph, accelerator: Accelerator) -> None:
    """Refuse rows that no tiling may cut and no memory can hold."""
    core = max(accelerator.vector_cores(), key=lambda core: core.type.sram.capacity, default=None)
    if core is None:
        return  # that there is no vector unit at all is said where the tiling is planned
    for operator in (operator for operator in graph.operators if operator.kind in (Kind.NORM, Kind.ROPE)):
        source, target = (graph.tensors[operand.tensor] for operand in (operator.inputs[0], operator.outputs[0]))
        row = graph.extents[operator.inputs[0].indices[-1]]
        need = row * (source.element_bits + target.element_bits)
        if need > core.type.sram.capacity:
            raise InfeasibleError(
                f"{operator.name} takes whole rows of {row:,} elements: one of {source.name} and its result need "
                f"{need // 8:,} B, the SRAM of {core.name} has {core.type.sram.capacity // 8:,} B, "
                f"{(need - core.type.sram.capacity + 7) // 8:,} B too few"
            )
