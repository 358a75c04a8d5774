"""Lower bounds on the latency and energy of every schedule of a problem.

Each is a proof on its own, for the tiling at hand, whatever the cores, the order and the overlap:

- a **resource** must carry its bits: DRAM, and any link that all traffic of a kind must use;
- the **arrays**, and the **vector units**, must do their tiles, each at its cheapest core;
- the **critical path** through tiles and the loads they wait for;
- energy: every tile at its cheapest core, and the bits that must move.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, fsum

from stream_mla.accelerator import Accelerator
from stream_mla.graph import CONTRACTIONS, OperatorGraph
from stream_mla.problem import Problem
from stream_mla.routes import OFF_CHIP, SHARE, Route
from stream_mla.work import VectorWork


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What no schedule can beat."""

    cycles: Mapping[str, int]
    """Reason -> cycles; the largest binds."""
    energy_pj: float

    @property
    def binding(self) -> str:
        """The reason that binds."""
        return max(self.cycles, key=lambda reason: self.cycles[reason])

    @property
    def lower_bound_cycles(self) -> int:
        """The best of the bounds."""
        return max(self.cycles.values())


def ideal_cycles(graph: OperatorGraph, accelerator: Accelerator) -> int:
    """Cycles that no tiling and no schedule can beat: every DRAM byte once at full bandwidth, or all MACs at peak."""
    dram = (graph.dram_read_bits + graph.dram_write_bits) / accelerator.per_cycle(accelerator.dram.bandwidth)
    compute = 0.0
    for operator in (operator for operator in graph.operators if operator.kind in CONTRACTIONS):
        bits = max(graph.tensors[operand.tensor].element_bits for operand in operator.inputs[:2])
        arrays = (core.type.array for core in accelerator.array_cores())
        able = [(array, entry) for array in arrays if array is not None and (entry := array.precision(bits))]
        peak = sum(array.rows * array.columns * entry.macs_per_element for array, entry in able)
        compute += graph.macs(operator) / peak
    return max(1, int(max(dram, compute)))


def bounds(problem: Problem) -> Bounds:
    """Compute all bounds."""
    cycles = {**_resources(problem), **_units(problem), "critical path": _critical_path(problem)}
    return Bounds(cycles=cycles, energy_pj=_energy_pj(problem))


def _moves(problem: Problem) -> list[tuple[int, bool]]:
    """Transfers that every schedule makes: (block, whether it is a load)."""
    moves: list[tuple[int, bool]] = []
    for number, block in enumerate(problem.cut.blocks):
        if block.stored:
            moves.append((number, False))
        if block.via_dram and problem.cut.users[number]:
            owners = {problem.cut.tiles[user].cluster for user in problem.cut.users[number]}
            moves += [(number, True)] * (1 if block.shared else len(owners))
    return moves


def _routes(problem: Problem, *, load: bool) -> list[Route]:
    ends = [(OFF_CHIP, core) if load else (core, OFF_CHIP) for core in range(len(problem.cores))]
    return [problem.routes[end] for end in ends]


def _resources(problem: Problem) -> dict[str, int]:
    """Bits that must cross each resource that all loads, or all stores, use."""
    carried = [0] * len(problem.resources)
    always: dict[bool, set[int]] = {}
    for load in (True, False):
        first, *others = (set(route.resources) for route in _routes(problem, load=load))
        always[load] = first.intersection(*others)
    for block, load in _moves(problem):
        for resource in always[load]:
            carried[resource] += problem.cut.blocks[block].bits
    return {
        resource.name: ceil(bits * SHARE / resource.capacity)
        for resource, bits in zip(problem.resources, carried, strict=True)
        if bits
    }


def _units(problem: Problem) -> dict[str, int]:
    work = {"arrays": 0, "vector units": 0}
    for tile, cycles in zip(problem.cut.tiles, problem.minimum_cycles, strict=True):
        work["vector units" if isinstance(tile.work, VectorWork) else "arrays"] += cycles
    counts = {
        "arrays": len(list(problem.accelerator.array_cores())),
        "vector units": len(list(problem.accelerator.vector_cores())),
    }
    return {name: -(-cycles // counts[name]) for name, cycles in work.items()}


def _critical_path(problem: Problem) -> int:
    """Longest chain of tiles, each after the fastest loads of what it reads, up to the last store."""
    cut = problem.cut
    load = min(_routes(problem, load=True), key=lambda route: (-route.demand, route.latency_cycles))
    store = min(_routes(problem, load=False), key=lambda route: (-route.demand, route.latency_cycles))
    load_latency = min(route.latency_cycles for route in _routes(problem, load=True))
    store_latency = min(route.latency_cycles for route in _routes(problem, load=False))
    in_dram = [0] * len(cut.blocks)
    done = [0] * len(cut.tiles)
    longest = 0
    for number, tile in enumerate(cut.tiles):
        start = max((done[before] for before in cut.predecessors[number]), default=0)
        for block in tile.reads:
            if cut.blocks[block].via_dram:
                start = max(start, in_dram[block] + load.cycles(cut.blocks[block].bits) + load_latency)
        done[number] = start + problem.minimum_cycles[number]
        longest = max(longest, done[number])
        for block in tile.writes if tile.last else ():
            if cut.blocks[block].stored:
                in_dram[block] = done[number] + store.cycles(cut.blocks[block].bits) + store_latency
                longest = max(longest, in_dram[block])
    return longest


def _energy_pj(problem: Problem) -> float:
    dram, cores = problem.accelerator.dram, problem.cores
    writes = min(core.type.sram.write_energy for core in cores)
    reads = min(core.type.sram.read_energy for core in cores)
    per_bit = {
        True: dram.read_energy + writes + min(route.energy_pj_per_bit for route in _routes(problem, load=True)),
        False: dram.write_energy + reads + min(route.energy_pj_per_bit for route in _routes(problem, load=False)),
    }
    moved = (problem.cut.blocks[block].bits * per_bit[load] for block, load in _moves(problem))
    work = (min(cost.energy_pj for cost in costs.values()) for costs in problem.costs)
    return fsum((*moved, *work))
