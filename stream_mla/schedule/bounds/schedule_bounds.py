"""Lower bounds on the latency and energy of every schedule of a problem.

Each is a proof on its own, for the tiling at hand, whatever the cores, the order and the overlap:

- a **resource** must carry its bits: DRAM, and any link that all traffic of a kind must use, as far as the rates of
  routes fill it (five moves of 12.5 GB/s fit into 64 GB/s, and no sixth);
- the **arrays**, and the **vector units**, must do their tiles, each at its cheapest core; none starts before the first
  of them can, and after the last one there is what must follow it;
- where loads take turns with the arrays (**late** loads), both together, on each core's fastest way in;
- the **critical path** through tiles, the loads they wait for, and what must be sent between them;
- what must be sent crosses links, and stays in memories while it is (`crossings`);
- **phases** follow each other: the best bound of each, added up;
- energy: every tile at its cheapest core, and the bits that must move.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum

from stream_mla.gc_pause import gc_paused
from stream_mla.hardware.accelerator import Accelerator
from stream_mla.hardware.interconnect import OFF_CHIP, Route, find_routes, usable, usable_cycles
from stream_mla.hardware.work import UnitKind
from stream_mla.schedule.bounds.communication_bounds import Sends
from stream_mla.schedule.problem import Problem
from stream_mla.workload.operator_graph import CONTRACTIONS, OperatorGraph


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """It is what no schedule can beat."""

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
    """Cycles that no tiling and no schedule can beat.

    Every DRAM byte once, through whatever all loads or all stores must use, at its full rate; or all MACs at peak.
    """
    moved = least_transfer_cycles(accelerator, graph.dram_read_bits, graph.dram_write_bits)
    compute = 0.0
    for operator in (operator for operator in graph.operators if operator.kind in CONTRACTIONS):
        width = max(graph.tensors[operand.tensor].element_bits for operand in operator.inputs[:2])
        arrays = (core.type.array for core in accelerator.array_cores())
        able = [(array, entry) for array in arrays if array is not None and (entry := array.precision(width))]
        peak = sum(array.elements * entry.macs_per_element for array, entry in able)
        compute += graph.macs(operator) / peak
    return max(1, int(max(moved, compute)))


def least_transfer_cycles(accelerator: Accelerator, read_bits: int, write_bits: int) -> int:
    """Return least cycles in which so many bits pass what all loads, or all stores, must use."""
    resources, routes = find_routes(accelerator)
    always = {load: _always(len(accelerator.cores), routes, load=load) for load in (True, False)}
    bits = {True: read_bits, False: write_bits}
    return max(
        sum(bits[load] for load in bits if number in always[load])
        * resources[number].grid
        // usable(resources[number], number, routes)
        for number in always[True] | always[False]
    )


@gc_paused
def bounds(problem: Problem) -> Bounds:
    """Compute all bounds.

    >>> from stream_mla import Point, evaluate
    >>> outcome = evaluate(Point.of("llama_3_8b", "flat_cloud", context=64, time_limit=0))
    >>> found = bounds(outcome.problem)
    >>> found.binding, found.lower_bound_cycles <= outcome.schedule.latency_cycles
    ('dram', True)
    """
    tiles = range(len(problem.tile_graph.tiles))
    transfers = _transfers(problem)
    sends = Sends(problem=problem)
    longest, starts = _critical_paths(problem, [0 for _ in tiles], sends)
    units, around = _units(problem, tiles, transfers), _around(problem, starts)
    cycles = {
        **_resources(problem, transfers),
        **{name: units[name] + more for name, more in around.items()},
        **{name: cycles for name, cycles in units.items() if name not in around},
        "critical path": longest[0],
    }
    if sends.transfers:
        for name, least in (*sends.cut_cycles(_dram_bits(problem, transfers)).items(), *sends.memory_cycles().items()):
            cycles[name] = max(cycles.get(name, 0), least)
    if any(tile.phase for tile in problem.tile_graph.tiles):
        cycles["phases"] = _phases(problem, transfers, sends)
    return Bounds(cycles=cycles, energy_pj=_energy_pj(problem, transfers))


@dataclass(frozen=True, kw_only=True)
class _Transfer:
    """A move between DRAM and a core that every schedule makes."""

    block: int
    load: bool
    phase: int
    """The phase in whose time it must lie, or -1 where that is not known."""
    stops_array: bool
    """It is a late load into a core that has an array."""


def _transfers(problem: Problem) -> list[_Transfer]:
    tile_graph = problem.tile_graph
    last = max(tile.phase for tile in tile_graph.tiles)
    found: list[_Transfer] = []
    for number, block in enumerate(tile_graph.blocks):
        users = tile_graph.users[number]
        if block.stored:
            made = tile_graph.tiles[tile_graph.maker[number]].phase
            inside = made == last or (block.via_dram and any(tile_graph.tiles[user].phase == made for user in users))
            found.append(_Transfer(block=number, load=False, phase=made if inside else -1, stops_array=False))
        groups: dict[int, list[int]] = defaultdict(list)
        for user in users if block.via_dram else ():
            groups[-1 if block.shared else tile_graph.tiles[user].group].append(user)
        for group in groups.values():
            stops = block.single_buffered and any(
                tile_graph.tiles[user].work.unit_kind is UnitKind.ARRAY for user in group
            )
            phase = min(tile_graph.tiles[user].phase for user in group)
            found.append(_Transfer(block=number, load=True, phase=phase, stops_array=stops))
    return found


def _dram_bits(problem: Problem, transfers: Iterable[_Transfer]) -> dict[bool, int]:
    """Bits of all loads (True) and of all stores."""
    bits = {True: 0, False: 0}
    for transfer in transfers:
        bits[transfer.load] += problem.tile_graph.blocks[transfer.block].bits
    return bits


def _phases(problem: Problem, transfers: Sequence[_Transfer], sends: Sends) -> int:
    """Phases do not overlap, except for stores: what binds each of them adds up."""
    phases = [tile.phase for tile in problem.tile_graph.tiles]
    tiles: dict[int, list[int]] = defaultdict(list)
    for number, phase in enumerate(phases):
        tiles[phase].append(number)
    inside: dict[int, list[_Transfer]] = defaultdict(list)
    for transfer in transfers:
        inside[transfer.phase].append(transfer)
    cycles, _ = _critical_paths(problem, phases, sends)
    for phase, members in tiles.items():
        moved = inside[phase]
        reasons = {**_resources(problem, moved), **_units(problem, members, moved)}
        cycles[phase] = max(cycles[phase], *reasons.values())
    return sum(cycles)


def _dram_routes(cores: int, routes: Mapping[tuple[int, int], Route], *, load: bool) -> list[Route]:
    """Return the route of each core from the DRAM, or to it."""
    return [routes[(OFF_CHIP, core) if load else (core, OFF_CHIP)] for core in range(cores)]


def _always(cores: int, routes: Mapping[tuple[int, int], Route], *, load: bool) -> set[int]:
    """Return the resources that all loads, or all stores, use."""
    return set[int].intersection(*(set(route.resources) for route in _dram_routes(cores, routes, load=load)))


def _routes(problem: Problem, *, load: bool) -> list[Route]:
    return _dram_routes(len(problem.cores), problem.routes, load=load)


def _resources(problem: Problem, transfers: Iterable[_Transfer]) -> dict[str, int]:
    """Bits that must cross each resource that all loads, or all stores, use."""
    carried = [0] * len(problem.resources)
    always = {load: _always(len(problem.cores), problem.routes, load=load) for load in (True, False)}
    for transfer in transfers:
        for resource in always[transfer.load]:
            carried[resource] += problem.tile_graph.blocks[transfer.block].bits
    return {
        resource.name: usable_cycles(resource, number, problem.routes, bits)
        for number, (resource, bits) in enumerate(zip(problem.resources, carried, strict=True))
        if bits
    }


def _units(problem: Problem, tiles: Iterable[int], transfers: Iterable[_Transfer]) -> dict[str, int]:
    done_by = dict.fromkeys(UnitKind, 0)
    for tile in tiles:
        done_by[problem.tile_graph.tiles[tile].work.unit_kind] += problem.minimum_cycles[tile]
    work = {kind.plural: cycles for kind, cycles in done_by.items()}
    counts = {kind.plural: problem.accelerator.count(kind) for kind in UnitKind}
    if single_buffered := sum(
        problem.tile_graph.blocks[transfer.block].bits for transfer in transfers if transfer.stops_array
    ):
        # loads into one core share its fastest way in, so that they stop its array for at least their bits at that rate
        fastest = max(_routes(problem, load=True), key=lambda route: route.demand)
        arrays = UnitKind.ARRAY.plural
        work[f"{arrays} and late loads"] = work[arrays] + -(-single_buffered * fastest.grid // fastest.demand)
        counts[f"{arrays} and late loads"] = counts[arrays]
    return {name: -(-cycles // counts[name]) for name, cycles in work.items()}


def _fastest(problem: Problem, *, load: bool) -> Callable[[int], int]:
    """Return the cycles until bits are loaded, or stored, at the best rate and the least latency that any core has."""
    routes = _routes(problem, load=load)
    route = max(routes, key=lambda route: route.demand)
    latency = min(route.latency_cycles for route in routes)
    return lambda bits: route.cycles(bits) + latency


def _around(problem: Problem, starts: Sequence[int]) -> dict[str, int]:
    """It holds, for each kind of unit: cycles before its first tile can start, and after its last one ends.

    Each unit does all of its work between the two, so they add to the work over the number of units.
    """
    tile_graph = problem.tile_graph
    load, store = (_fastest(problem, load=way) for way in (True, False))
    after = [0] * len(tile_graph.tiles)
    """The longest chain that follows each tile."""
    for number in reversed(range(len(tile_graph.tiles))):
        tile = tile_graph.tiles[number]
        for block in tile.writes if tile.last else ():
            if tile_graph.blocks[block].stored:
                after[number] = max(after[number], store(tile_graph.blocks[block].bits))
        rest = problem.minimum_cycles[number] + after[number]
        for before in tile_graph.predecessors[number]:
            after[before] = max(after[before], rest)
        for block in tile.reads:
            maker, bits = tile_graph.maker[block], tile_graph.blocks[block].bits
            if maker >= 0 and tile_graph.blocks[block].via_dram:
                after[maker] = max(after[maker], store(bits) + load(bits) + rest)
    found: dict[str, int] = {}
    for kind in UnitKind:
        members = [n for n, tile in enumerate(tile_graph.tiles) if tile.work.unit_kind is kind]
        around = min((starts[n] for n in members), default=0) + min((after[n] for n in members), default=0)
        found[kind.plural] = around
    return found


def _critical_paths(problem: Problem, phases: Sequence[int], sends: Sends) -> tuple[list[int], list[int]]:
    """Longest chain of each phase: tiles, each after the fastest loads and sends of what it reads; in the last, stores
    too. And the earliest start of each tile in its phase.
    """
    tile_graph = problem.tile_graph
    load, store = (_fastest(problem, load=way) for way in (True, False))
    starts = [0] * len(tile_graph.tiles)
    in_dram = [0] * len(tile_graph.blocks)
    done = [0] * len(tile_graph.tiles)
    longest = [0] * (max(phases) + 1)
    loaded = _load_phases(problem, phases) if any(phases) else {}
    loads = [load(block.bits) if block.via_dram else -1 for block in tile_graph.blocks]
    """Cycles of a load of each block, or -1 where none is needed."""
    for number, (tile, phase) in enumerate(zip(tile_graph.tiles, phases, strict=True)):
        start = max([done[before] for before in tile_graph.predecessors[number] if phases[before] == phase], default=0)
        for block in tile.reads:
            owner = -1 if tile_graph.blocks[block].shared else tile.group
            if loads[block] >= 0 and (not loaded or loaded[block, owner] == phase):
                made = tile_graph.maker[block]
                ready = in_dram[block] if made >= 0 and phases[made] == phase else 0
                start = max(start, ready + loads[block])
            elif sends.transfers and loads[block] < 0 and phases[tile_graph.maker[block]] == phase:
                start = max(start, done[tile_graph.maker[block]] + sends.sent_cycles(block, tile.group))
        starts[number] = start
        done[number] = start + problem.minimum_cycles[number]
        longest[phase] = max(longest[phase], done[number])
        for block in tile.writes if tile.last else ():
            if tile_graph.blocks[block].stored:
                in_dram[block] = done[number] + store(tile_graph.blocks[block].bits)
                if phase == len(longest) - 1:
                    longest[phase] = max(longest[phase], in_dram[block])
    return longest, starts


def _load_phases(problem: Problem, phases: Sequence[int]) -> dict[tuple[int, int], int]:
    """Return the phase of each load: (block, cluster, or -1 where it is shared) -> first phase that needs it."""
    found: dict[tuple[int, int], int] = {}
    for tile, phase in zip(problem.tile_graph.tiles, phases, strict=True):
        for block in tile.reads:
            owner = block, -1 if problem.tile_graph.blocks[block].shared else tile.group
            found[owner] = min(phase, found.get(owner, phase))
    return found


def _energy_pj(problem: Problem, transfers: Iterable[_Transfer]) -> float:
    dram, cores = problem.accelerator.dram, problem.cores
    writes = min(core.type.sram.write_energy for core in cores)
    reads = min(core.type.sram.read_energy for core in cores)
    per_bit = {
        True: dram.read_energy + writes + min(route.energy_pj_per_bit for route in _routes(problem, load=True)),
        False: dram.write_energy + reads + min(route.energy_pj_per_bit for route in _routes(problem, load=False)),
    }
    moved = (problem.tile_graph.blocks[transfer.block].bits * per_bit[transfer.load] for transfer in transfers)
    work = (min(cost.energy_pj for cost in costs.values()) for costs in problem.costs)
    return fsum((*moved, *work))
