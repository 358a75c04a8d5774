"""How full a tiling makes the memories, from the shapes of its tiles alone: an estimate, to try first what will fit.

On a core with an array there are, at the same time,

- the **working set** of its largest operator: what one tile reads, twice where it loads that from the DRAM for itself,
  and what it writes. The tiles around softmax share one, with all keys of a part where these are kept;
- what **waits** between operators on chip: of each tensor, along each index, the largest piece that an operator makes
  or takes at once. Heads are worked off one after the other: what each of them reads anew waits as a whole, and so does
  what is added up over them, unless its sums run beside the heads, in one round of the cores, or wait unfinished.

A core with nothing but a vector unit holds the pieces of a tile there, and again those that come or go meanwhile.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from stream_mla.hardware.accelerator import Accelerator
from stream_mla.mapping.tiling.tile_graph import Tiling, operator_seen
from stream_mla.workload.operator_graph import (
    CONTRACTIONS,
    COUNTERS,
    HEADS,
    PART,
    Kind,
    Operand,
    Operator,
    OperatorGraph,
    Role,
    gemm_indices,
)
from stream_mla.workload.split_k import parts_of, spread_cut

IN_MEMORY = (Role.INPUT, Role.WEIGHT, Role.CACHE)


def peak_occupancy(graph: OperatorGraph, accelerator: Accelerator, tiling: Tiling) -> float:
    """Return the share of its memory that the fullest core is expected to need; more than 1 does not fit."""
    shapes = _Shapes(graph=spread_cut(graph, tiling.k_splits, tiling.sizes), tiling=tiling)
    arrays = [core.type.sram.capacity for core in accelerator.array_cores()]
    others = [core.type.sram.capacity for core in accelerator.vector_cores() if core.type.array is None]
    need = shapes.working_bits(vector=not others) + sum(resident_bits(graph, accelerator, tiling).values())
    share = need / min(arrays)
    return max(share, shapes.vector_bits() / min(others)) if others else share


def resident_bits(graph: OperatorGraph, accelerator: Accelerator, tiling: Tiling) -> dict[str, int]:
    """Return the bits of each tensor that wait on a core with an array, of those that stay on chip."""
    shapes = _Shapes(graph=spread_cut(graph, tiling.k_splits, tiling.sizes), tiling=tiling)
    cores = len(list(accelerator.array_cores()))
    return {
        name: shapes.resident_bits(name, cores)
        for name, tensor in shapes.graph.tensors.items()
        if tensor.role in (Role.ACTIVATION, Role.PARTIAL)
        and name not in tiling.spilled | shapes.graph.local | tiling.local
    }


@dataclass(frozen=True, kw_only=True)
class _Shapes:
    """Pieces of operators and tensors of one tiling."""

    graph: OperatorGraph
    tiling: Tiling

    def via_dram(self, tensor: str) -> bool:
        """Whether consumers read a tensor from DRAM."""
        return tensor in self.tiling.spilled or self.graph.tensors[tensor].role in IN_MEMORY

    def _loaded_ahead(self, tensor: str) -> bool:
        """Whether the next tile's piece is loaded while one is used: not of what a core loads once for all."""
        return self.via_dram(tensor) and tensor not in self.tiling.shared

    def piece(self, operator: Operator, index: str) -> int:
        """Return the size of an operator's largest piece along an index."""
        extent = self.graph.extents[index]
        if index == PART:
            return parts_of(self.graph, operator) if operator.kind is Kind.SUM else 1
        if index in COUNTERS:
            return 1 if "k" in operator.indices else self.tiling.parts
        if index == "k":
            extent = -(-extent // self.tiling.parts)
        return min(extent, self.tiling.sizes.get(operator.name, {}).get(index, extent))

    def element_bits(self, operator: Operator, operand: Operand) -> int:
        """Width of what an operator reads or writes: that of partial sums where it adds up in several steps."""
        bits = self.graph.tensors[operand.tensor].element_bits
        if operator.kind not in CONTRACTIONS or operand not in operator.outputs:
            return bits
        several = any(self.piece(operator, i) < self.graph.extents[i] for i in gemm_indices(operator).k)
        return max(bits, self.graph.partial_bits) if several else bits

    def tile_bits(self, operator: Operator, operand: Operand) -> int:
        """Bits of one operand of a tile."""
        elements = prod(self.piece(operator, index) for index in operand.indices)
        return elements * self.element_bits(operator, operand)

    def rounds(self, operator: Operator, cores: int) -> int:
        """How often each core takes a piece of what an operator makes."""
        pieces = (
            -(-self.graph.extents[index] // self.piece(operator, index))
            for index in operator.outputs[0].indices
            if index not in (*COUNTERS, "w")
        )
        return -(-prod(pieces) * parts_of(self.graph, operator) // cores)

    def working_bits(self, *, vector: bool) -> int:
        """The working set of the largest operator on an array, or on either unit where one core has both."""
        joined = self.graph.local | self.tiling.inline
        fused: dict[str, int] = {}
        largest = 0
        for operator in self.graph.operators:
            if operator.kind not in CONTRACTIONS and not vector:
                continue
            bits: dict[str, int] = {}
            for operand in (*operator.reads, *operator.outputs):
                size = self.tile_bits(operator, operand)
                if self._kept(operator, operand):
                    size = size // self.piece(operator, "k") * self._stay(operator)
                elif operand in operator.reads and self._loaded_ahead(operand.tensor):
                    size *= 2
                bits[operand.tensor] = max(size, bits.get(operand.tensor, 0))
            if joined.intersection(bits):
                fused |= {name: max(size, fused.get(name, 0)) for name, size in bits.items()}
            else:
                largest = max(largest, sum(bits.values()))
        return max(largest, sum(fused.values()))

    def _stay(self, operator: Operator) -> int:
        """Return the keys of a part that are kept at a time: those that a piece of the query tokens sees."""
        part = -(-self.graph.extents["k"] // self.tiling.parts)
        seen = operator_seen(self.graph, operator, self.tiling)
        return part if seen is None else min(part, seen.most_keys)

    def _kept(self, operator: Operator, operand: Operand) -> bool:
        """Whether all keys of a part stay, for one piece of the query tokens after the other."""
        if operand not in operator.reads:
            return False
        if operand.tensor in self.tiling.together:
            return True
        several = "q" in operator.indices and self.piece(operator, "q") < self.graph.extents["q"]
        return bool(self.tiling.inline) and several and "k" in operand.indices and "q" not in operand.indices

    def made(self, operator: Operator, index: str) -> int:
        """Return how much of an index an operator makes at once: vector work follows what it works on."""
        largest = self.piece(operator, index)
        for operand in operator.reads if operator.kind not in CONTRACTIONS else ():
            if index in operand.indices and not self.via_dram(operand.tensor):
                makers = (o for o in self.graph.operators for x in o.outputs if x.tensor == operand.tensor)
                largest = max(largest, *(self.piece(maker, index) for maker in makers))
        return largest

    def resident_bits(self, tensor: str, cores: int) -> int:
        """Bits of one tensor that wait on a core: of each of its parts, as it is made."""
        makers = [(o, x) for o in self.graph.operators for x in o.outputs if x.tensor == tensor]
        users = [(o, x) for o in self.graph.operators for x in o.reads if x.tensor == tensor]
        total = 0
        for maker, made in makers:
            elements = 1
            for index in made.indices:
                whole = self.graph.extents[index]
                pieces = [self.made(maker, index)] + [self.piece(u, index) for u, _ in users if index in u.indices]
                elements *= whole if index not in COUNTERS and self._stays(index, users, cores) else max(pieces)
            total += elements * self.element_bits(maker, made)
        return total

    def _stays(self, index: str, users: Iterable[tuple[Operator, Operand]], cores: int) -> bool:
        """Whether all of a tensor along an index is there at once, as heads come one after the other."""
        for user, operand in users:
            again = any(
                head in user.indices
                and head not in operand.indices
                and self.piece(user, head) < self.graph.extents[head]
                for head in HEADS
            )
            added = index in HEADS and not any(index in made.indices for made in user.outputs)
            if again or (added and user.name not in self.tiling.eager and self.rounds(user, cores) > 1):
                return True
        return False

    def vector_bits(self) -> int:
        """Twice the largest tile of vector work."""
        vector = (operator for operator in self.graph.operators if operator.kind not in CONTRACTIONS)
        return max((2 * sum(self.tile_bits(o, x) for x in (*o.reads, *o.outputs)) for o in vector), default=0)
