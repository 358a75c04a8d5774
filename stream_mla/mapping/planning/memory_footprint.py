"""Memory footprint: how full a tiling makes the memories, estimated from the shapes of its tiles.

The estimate decides in which order tilings are tried.

On a core with an array there are, at the same time,

- the **working set** of its largest operator: the bits that one tile reads, twice where it loads them from the DRAM for
  itself, and those that it writes. The tiles of a fusion group's core share one working set, with all keys of a split
  where these are kept;
- the **resident** tensors between operators on chip: of each, along each index, the largest piece that an operator
  makes or takes at once. Heads run one after another. A tensor that every head re-reads stays resident entirely. So
  does a tensor that is reduced over heads, except when (a) it is accumulated eagerly or (b) one round of the cores
  covers all its tiles. Operators without a group do the same with the indices that they reduce.

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
    PART,
    Kind,
    Operand,
    Operator,
    OperatorGraph,
    Role,
    gemm_indices,
)
from stream_mla.workload.split_k import k_splits_of, spread_cut

IN_MEMORY = (Role.INPUT, Role.WEIGHT, Role.CACHE)
"""The roles of tensors that are read from DRAM whatever the tiling."""


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
        for name in shapes.graph.tensors
        if name in shapes.graph.intermediates and name not in tiling.spilled | shapes.graph.local | tiling.local
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
        """Whether the next tile's piece is loaded while one is used: not where a core loads it once for all."""
        return self.via_dram(tensor) and tensor not in self.tiling.shared

    def piece(self, operator: Operator, index: str) -> int:
        """Return the size of an operator's largest piece along an index."""
        extent = self.graph.extents[index]
        if index == PART:
            return k_splits_of(self.graph, operator) if operator.kind is Kind.SUM else 1
        if index in COUNTERS:
            return 1 if "k" in operator.indices else self.tiling.kv_splits_of(operator)
        if index == "k":
            extent = -(-extent // self.tiling.kv_splits_of(operator))
        return min(extent, self.tiling.sizes.get(operator.name, {}).get(index, extent))

    def element_bits(self, operator: Operator, operand: Operand) -> int:
        """Return the width of an operand: that of partial sums where a result is added up in several steps."""
        bits = self.graph.tensors[operand.tensor].element_bits
        if operator.kind not in CONTRACTIONS or operand not in operator.outputs:
            return bits
        several = any(self.piece(operator, i) < self.graph.extents[i] for i in gemm_indices(operator).k)
        return max(bits, self.graph.partial_bits) if several else bits

    def tile_bits(self, operator: Operator, operand: Operand) -> int:
        """Return the bits of one operand of a tile."""
        elements = prod(self.piece(operator, index) for index in operand.indices)
        return elements * self.element_bits(operator, operand)

    def rounds(self, operator: Operator, cores: int) -> int:
        """Return how often each core takes a piece of an operator's result."""
        pieces = (
            -(-self.graph.extents[index] // self.piece(operator, index))
            for index in operator.outputs[0].indices
            if index not in (*COUNTERS, "w")
        )
        return -(-prod(pieces) * k_splits_of(self.graph, operator) // cores)

    def working_bits(self, *, vector: bool) -> int:
        """Return the working set of the largest operator on an array, or on either unit where one core has both."""
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
                    size = size // self.piece(operator, "k") * self._resident(operator)
                elif operand in operator.reads and self._loaded_ahead(operand.tensor):
                    size *= 2
                bits[operand.tensor] = max(size, bits.get(operand.tensor, 0))
            if joined.intersection(bits):
                fused |= {name: max(size, fused.get(name, 0)) for name, size in bits.items()}
            else:
                largest = max(largest, sum(bits.values()))
        return max(largest, sum(fused.values()))

    def _resident(self, operator: Operator) -> int:
        """Return the keys of a split that are kept at a time: those that a piece of the query tokens sees."""
        split_keys = -(-self.graph.extents["k"] // self.tiling.kv_splits_of(operator))
        seen = operator_seen(self.graph, operator, self.tiling)
        return split_keys if seen is None else min(split_keys, seen.most_keys)

    def _kept(self, operator: Operator, operand: Operand) -> bool:
        """Whether all keys of a split stay, for one piece of the query tokens after the other."""
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
        """Return the bits of one tensor that wait on a core, summed over the operators that make some of it."""
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
            heads = self._heads_of(user)
            again = any(
                head in user.indices
                and head not in operand.indices
                and self.piece(user, head) < self.graph.extents[head]
                for head in heads
            )
            reduced = heads if user.group is not None else user.indices
            added = index in reduced and not any(index in made.indices for made in user.outputs)
            if again or (added and user.name not in self.tiling.eager and self.rounds(user, cores) > 1):
                return True
        return False

    def _heads_of(self, operator: Operator) -> tuple[str, ...]:
        """Return the indices that number the heads of an operator's group."""
        return () if operator.group is None else self.graph.groups[operator.group].heads

    def vector_bits(self) -> int:
        """Return twice the bits of the largest tile of vector work."""
        vector = (operator for operator in self.graph.operators if operator.kind not in CONTRACTIONS)
        return max((2 * sum(self.tile_bits(o, x) for x in (*o.reads, *o.outputs)) for o in vector), default=0)
