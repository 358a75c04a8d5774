"""The cost model that tilings are chosen by: a machine in a few numbers, a share of its memories, a candidate's price.

It only estimates: the schedule that follows is exact. All cores with an array count as one kind: the rate is that of
the first, the memory the smallest.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stream_mla.errors import InfeasibleError
from stream_mla.hardware.accelerator import Accelerator, Dataflow, Delivery
from stream_mla.hardware.core_cost import Grid, grids
from stream_mla.hardware.interconnect import OFF_CHIP, Route, find_routes
from stream_mla.mapping.planning.attention_group import AttentionGroup, attention_groups
from stream_mla.mapping.planning.candidate_sizes import Numbers
from stream_mla.workload.operator_graph import Operator, OperatorGraph, Role

Reals = NDArray[np.float64]
Quantities = Numbers | Reals

TILE_SHARE = 0.55
"""Share of an SRAM that the tiles of one operator plan with; the rest is for what waits between operators."""
ALONE_SHARE = 0.8
"""Share of an SRAM that the tiles of an operator plan with where nothing else runs on its core meanwhile; the small
tensors that stay on chip are taken off it."""
SMALL_SHARE = 1 / 10
"""A tensor up to this share of an SRAM stays on chip whole."""
IN_FLIGHT = 2
"""Score pieces that each array keeps in the memory of a vector-only core: one arriving, one returning (double
buffering)."""
JOINED_RATE = 1 / 8
"""A core-to-core path slower than this share of a core's DRAM rate is ignored: going through DRAM is then assumed to be
as good."""
PRICE_PER_TILE = 2e-5
"""Share of the layer's DRAM or compute time, whichever is longer, that one more tile must gain: 500 more must gain
1 %, as each is scheduled."""


@dataclass(frozen=True, kw_only=True)
class MachineEstimate:
    """An accelerator in the numbers that the estimates need."""

    array_cores: int
    sram_bits: int
    """The smallest of the cores with an array."""
    sram_bits_per_cycle: float
    """Read by an array from its SRAM."""
    vector_sram_bits: int
    """The smallest of the cores with a vector unit."""
    vector_cores: int
    vector_operations_per_cycle: int
    """All vector units together do so many operations per cycle."""
    vector_port_bits_per_cycle: float
    """From a core with an array to one with a vector unit, or back: the least; as with the DRAM where none leads."""
    joined: bool
    """Every core reaches every other, and not much slower than through the DRAM."""
    one_core_does_all: bool
    """Every core that has an array has a vector unit too."""
    dram_bits_per_cycle: float
    """All cores together get so many bits per cycle from the DRAM."""
    port_bits_per_cycle: float
    """One core gets so many bits per cycle through its own port: the least of the cores with an array."""
    rows: int
    columns: int
    copies: int
    """Arrays of rows x columns in one core."""
    systolic: bool
    dataflows: tuple[Dataflow, ...]
    rates: tuple[tuple[int, float], ...]
    """(Operand width in bit, MACs per element and cycle), narrowest first."""

    def tile_cycles(self, batch: Numbers, m: Numbers, n: Numbers, k: Numbers, bits: int) -> Reals:
        """Estimate the cycles of GEMMs: by the broadcast or systolic forms of `core_cost`, operands read once."""
        read: Reals = (m * k + k * n) * bits / self.sram_bits_per_cycle
        rate = next((macs for width, macs in self.rates if width >= bits), self.rates[-1][1])
        k = _ceil(k, max(1, int(rate)))
        best = np.min([self._steps(grid, batch, m, n, k) for grid in grids(self.copies, *[self.copies] * 3)], axis=0)
        longest: Reals = np.maximum(best / min(1.0, rate), batch * read)
        return longest

    def _steps(self, grid: Grid, batch: Numbers, m: Numbers, n: Numbers, k: Numbers) -> Numbers:
        """Steps of an array, dealt out to its copies as a grid says."""
        batch, m, n = _ceil(batch, grid.batch), _ceil(m, grid.m), _ceil(n, grid.n)
        rows, columns = self.rows, self.columns
        skew = rows + columns - 2 if self.systolic else 0
        fill = skew + rows if self.systolic else 0
        forms = {
            Dataflow.OUTPUT_STATIONARY: _ceil(m, rows) * _ceil(n, columns) * (k + skew),
            Dataflow.WEIGHT_STATIONARY: _ceil(k, rows) * _ceil(n, columns) * (m + fill),
            Dataflow.INPUT_STATIONARY: _ceil(k, rows) * _ceil(m, columns) * (n + fill),
        }
        return batch * np.min([forms[dataflow] for dataflow in self.dataflows], axis=0)

    def rounds(self, groups: Numbers) -> Numbers:
        """Clusters that the busiest core runs."""
        return _ceil(groups, self.array_cores)

    def dram_cycles(self, bits: Quantities) -> Reals:
        """Cycles of a transfer at the DRAM's full rate."""
        return bits / self.dram_bits_per_cycle


def _ceil(a: Numbers, b: int) -> Numbers:
    return -(-a // b)


def estimate_machine(accelerator: Accelerator) -> MachineEstimate:
    """Return what the estimates need. InfeasibleError where no core multiplies, or none does vector work."""
    resources, routes = find_routes(accelerator)
    arrays = list(accelerator.array_cores())
    vectors = list(accelerator.vector_cores())
    if not arrays or not vectors:
        raise InfeasibleError(f"{accelerator.name} needs at least one MAC array and one vector unit for attention")
    array = arrays[0].type.array
    assert array is not None
    numbers = range(len(accelerator.cores))
    to_dram = [routes[OFF_CHIP, n] for n in numbers]
    bus = min(resources[r].capacity for r in to_dram[0].resources)
    total = bus if len({route.resources for route in to_dram}) == 1 else resources[0].capacity
    return MachineEstimate(
        array_cores=len(arrays),
        sram_bits=min(core.type.sram.capacity for core in arrays),
        sram_bits_per_cycle=min(core.type.sram.read_bandwidth for core in arrays),
        vector_sram_bits=min(core.type.sram.capacity for core in vectors),
        vector_cores=len(vectors),
        vector_operations_per_cycle=sum(c.type.vector.operations_per_cycle for c in vectors if c.type.vector),
        vector_port_bits_per_cycle=_vector_port(accelerator, routes) / resources[0].grid,
        joined=all(
            (a, b) in routes and routes[a, b].demand >= routes[OFF_CHIP, b].demand * JOINED_RATE
            for a in numbers
            for b in numbers
            if a != b
        ),
        one_core_does_all=all(core.type.vector is not None for core in arrays),
        dram_bits_per_cycle=total / resources[0].grid,
        port_bits_per_cycle=min(
            routes[OFF_CHIP, n].demand for n, core in enumerate(accelerator.cores) if core.type.array is not None
        )
        / resources[0].grid,
        rows=array.rows,
        columns=array.columns,
        copies=array.copies,
        systolic=array.delivery is Delivery.SYSTOLIC,
        dataflows=array.dataflows,
        rates=tuple(sorted((p.operand, p.macs_per_element) for p in array.precisions)),
    )


def _vector_port(accelerator: Accelerator, routes: Mapping[tuple[int, int], Route]) -> int:
    """Return the least rate between the cores of each kind, either way."""
    arrays = [n for n, core in enumerate(accelerator.cores) if core.type.array is not None]
    vectors = [n for n, core in enumerate(accelerator.cores) if core.type.vector is not None]
    ends = [pair for a in arrays for v in vectors for pair in ((a, v), (v, a)) if a != v]
    return min(
        [routes.get(pair, routes[OFF_CHIP, pair[1]]).demand for pair in ends], default=routes[OFF_CHIP, 0].demand
    )


@dataclass(frozen=True, kw_only=True)
class CandidateSizes:
    """Ways to cut an operator; entry i of each array belongs to candidate i."""

    traffic_bits: Quantities
    """Read from DRAM, over all tiles."""
    compute_cycles: Reals
    """The busiest core computes for so many cycles, over its tiles."""
    tile_bits: Numbers
    """It is what the first tile must load before it starts."""
    tile_cycles: Reals
    """One tile takes so many cycles."""
    tiles: Numbers
    groups: Numbers
    """Groups of tiles that may lie on different cores, and so load side by side."""
    footprint_bits: Quantities
    """The working set in one SRAM."""
    fits: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The conditions under which all operators of one plan are cut: a graph, a machine, a share of its memories."""

    graph: OperatorGraph
    machine: MachineEstimate
    forced: Mapping[str, int]
    """Sizes given by the user, per index; and the splits of keys and of contractions (see `split_k`)."""
    budget_bits: int
    """For the working set of one operator, in the SRAM of a core with an array."""
    small_bits: int
    """A tensor up to this size stays on chip whole."""
    vector_budget_bits: int
    """For the working set of a vector operator: most of its SRAM, a quarter where arrays use it too."""
    layer_cycles: float
    """DRAM or compute time of the layer, whichever is longer."""
    dram_binds: bool
    """Which of the two that is."""
    tile_price_cycles: float
    """It is what one more tile must gain."""
    spilled: frozenset[str]
    keeps_all: bool
    """Whether nothing may be spilled."""
    """Activations that are written to DRAM and read back."""
    inline: frozenset[str]
    """Activations made just before they are used, on the core that uses them."""
    sharing: bool
    """Whether one load may serve several clusters of a core."""
    alone: frozenset[str] = frozenset()
    """Contractions beside which nothing else runs on a core: all their operands come from the DRAM or go there."""

    @cached_property
    def groups(self) -> Mapping[str, AttentionGroup]:
        """The attention groups of the graph, by name."""
        return attention_groups(self.graph)

    def via_dram(self, tensor: str) -> bool:
        """Whether consumers read a tensor from DRAM."""
        return tensor in self.spilled or self.graph.tensors[tensor].role in (Role.INPUT, Role.WEIGHT, Role.CACHE)

    def room_bits(self, operator: Operator) -> int:
        """Return the budget of a contraction: where nothing of it waits on chip, all but what other operators leave."""
        if operator.name not in self.alone:
            return self.budget_bits
        kept = (
            tensor.bits
            for tensor in self.graph.tensors.values()
            if tensor.role is Role.ACTIVATION and tensor.bits <= self.small_bits and tensor.name not in self.spilled
        )
        return max(self.budget_bits, int(self.budget_bits * ALONE_SHARE / TILE_SHARE) - sum(kept))

    def loads_bits(self, tensor: str, again: Numbers, groups: Numbers) -> Reals:
        """Estimate bits read from DRAM: the tensor `again` times, or once per core with work if it is small."""
        bits = self.graph.tensors[tensor].bits
        if not self.via_dram(tensor):
            return np.zeros(len(again))
        if self.sharing and bits <= self.small_bits:
            return bits * np.minimum(groups, self.machine.array_cores).astype(np.float64)
        return bits * again.astype(np.float64)

    def best(self, candidates: CandidateSizes) -> int:
        """Return the number of the best candidate that fits; where none does, of the smallest."""
        if not candidates.fits.any():
            return int(np.argmin(candidates.footprint_bits))
        return int(np.argmin(self._prices(candidates)))

    def least_price(self, candidates: CandidateSizes) -> float:
        """Return the price of the best candidate that fits; infinite where none does."""
        return float(np.min(self._prices(candidates)))

    def _prices(self, candidates: CandidateSizes) -> Reals:
        """Return the price of each candidate in cycles; infinite where it does not fit.

        It is the longer of DRAM and compute time, a quarter of the shorter, as they do not overlap perfectly, the first
        tile's load and the last one's work, which nothing hides, and a little for each tile.
        """
        machine, compute = self.machine, candidates.compute_cycles
        ports = np.minimum(candidates.groups, machine.array_cores) * machine.port_bits_per_cycle
        dram = candidates.traffic_bits / np.minimum(machine.dram_bits_per_cycle, ports)
        edge = self.machine.dram_cycles(candidates.tile_bits) + candidates.tile_cycles
        price = np.maximum(dram, compute) + np.minimum(dram, compute) / 4 + edge
        price = price + candidates.tiles * self.tile_price_cycles
        return np.where(candidates.fits, price, np.inf)


class Spill(Enum):
    """A choice of the activations that leave the chip."""

    NEVER = "never"
    """None does, whatever room it takes and however slow the links are: fusion is on."""
    NONE = "none"
    """None does but where it takes much room, or where links are too slow to carry it."""
    LARGE = "large"
    ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """One way to plan a layer."""

    spill: Spill
    inline: frozenset[str]
    sharing: bool
    k_splits: Mapping[str, int] = field(default_factory=dict[str, int])
    """Contraction -> splits of its reduced indices."""
    too_large: frozenset[str] = frozenset()
    """Activations that leave the chip although others stay: there is no room for them to wait."""


def scaled_setting(
    graph: OperatorGraph, machine: MachineEstimate, forced: Mapping[str, int], scale: float, way: Strategy
) -> Setting:
    """Return the setting in which `scale` shrinks every memory budget."""
    small_bits = int(machine.sram_bits * SMALL_SHARE * scale)
    dram_cycles = (graph.dram_read_bits + graph.dram_write_bits) / machine.dram_bits_per_cycle
    compute_cycles = graph.total_macs / (machine.array_cores * machine.copies * machine.rows * machine.columns)
    return Setting(
        graph=graph,
        machine=machine,
        forced=forced,
        budget_bits=int(machine.sram_bits * TILE_SHARE * scale),
        small_bits=small_bits,
        vector_budget_bits=int(
            machine.vector_sram_bits
            * scale
            * (0.25 if machine.one_core_does_all else machine.vector_cores / machine.array_cores / IN_FLIGHT)
        ),
        layer_cycles=max(dram_cycles, compute_cycles),
        dram_binds=dram_cycles >= compute_cycles,
        tile_price_cycles=PRICE_PER_TILE * max(dram_cycles, compute_cycles),
        keeps_all=way.spill is Spill.NEVER,
        spilled=frozenset(
            name
            for name, tensor in graph.tensors.items()
            if way.spill is not Spill.NEVER
            and name in graph.intermediates
            and (way.spill is Spill.ALL or name not in graph.local | way.inline)
            and (
                way.spill is Spill.ALL
                or (way.spill is Spill.LARGE and tensor.bits > small_bits)
                or name in way.too_large
                or not machine.joined
            )
        ),
        inline=way.inline,
        sharing=way.sharing,
    )
