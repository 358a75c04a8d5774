"""Tiles priced on a machine: everything a scheduler may decide about, and the activities its choice implies.

Given the core of every cluster, the set of activities is fixed (`Activities`): which blocks are copied where,
which moves bring them, which tiles use them. A scheduler chooses the cores and the times.

Blocks that consumers read from DRAM are loaded once per core where the tiling shares them, else once per
cluster; a shared block goes to all its cores on one multicast bus at once. Blocks that stay on chip are sent once
to each other core that reads them.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from stream_mla.errors import InfeasibleError
from stream_mla.gc_pause import gc_paused
from stream_mla.hardware.accelerator import Accelerator, Core, CoreType
from stream_mla.hardware.core_cost import Cost, Objective, gemm_cost, vector_cost
from stream_mla.hardware.interconnect import OFF_CHIP, Resource, Route, find_routes, joint
from stream_mla.hardware.work import Gemm, UnitKind, VectorWork
from stream_mla.mapping.tiling.tile_graph import TileGraph


@dataclass(frozen=True)
class Unit:
    """An execution unit of one core, which runs one tile at a time."""

    core: int
    kind: UnitKind


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Tiles with their costs on each type of core, and the routes between places."""

    tile_graph: TileGraph
    accelerator: Accelerator
    objective: Objective
    costs: tuple[Mapping[str, Cost], ...]
    """It holds, for each tile: core type name -> cost; a type that cannot run it is absent."""
    resources: tuple[Resource, ...]
    routes: Mapping[tuple[int, int], Route]
    """(source, target) -> route, with core numbers or OFF_CHIP."""

    @property
    def cores(self) -> tuple[Core, ...]:
        """The cores; numbers elsewhere are positions in this tuple."""
        return self.accelerator.cores

    def cost(self, tile: int, core: int) -> Cost:
        """Cost of a tile on a core that can run it."""
        return self.costs[tile][self.cores[core].type.name]

    def multicast(self, source: int, targets: Sequence[int]) -> Route | None:
        """Return the route from the DRAM to several cores at once, or None where no bus offers it."""
        routes = [self.routes.get((source, target)) for target in targets]
        if source != OFF_CHIP or len(set(targets)) < len(targets):
            return None
        known = tuple(route for route in routes if route is not None)
        return joint(known) if len(known) == len(routes) else None

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """Every unit of every core; the number of a unit is its position here.

        A core has an entry for each kind of unit, also for a kind it lacks, on which no tile runs.
        """
        return tuple(Unit(core, kind) for core in range(len(self.cores)) for kind in UnitKind)

    @cached_property
    def units_of_kind(self) -> Mapping[UnitKind, tuple[int, ...]]:
        """The numbers of the units of each kind, by core."""
        numbers = {unit: number for number, unit in enumerate(self.units)}
        cores = range(len(self.cores))
        return {kind: tuple(numbers[Unit(core, kind)] for core in cores) for kind in UnitKind}

    @property
    def array_of(self) -> tuple[int, ...]:
        """The number of each core's array."""
        return self.units_of_kind[UnitKind.ARRAY]

    @cached_property
    def is_array(self) -> tuple[bool, ...]:
        """Whether each unit is an array."""
        return tuple(unit.kind is UnitKind.ARRAY for unit in self.units)

    @cached_property
    def core_of_unit(self) -> tuple[int, ...]:
        """The core that each unit is a part of."""
        return tuple(unit.core for unit in self.units)

    @cached_property
    def units_of_tile(self) -> tuple[tuple[int, ...], ...]:
        """The numbers of the units that may run each tile, by core."""
        return tuple([self.units_of_kind[tile.work.unit_kind] for tile in self.tile_graph.tiles])

    def unit(self, tile: int, core: int) -> int:
        """Return the number of the unit that runs a tile on a core."""
        return self.units_of_tile[tile][core]

    @cached_property
    def group_tiles(self) -> tuple[tuple[int, ...], ...]:
        """Tiles of each cluster."""
        members: dict[int, list[int]] = defaultdict(list)
        for number, tile in enumerate(self.tile_graph.tiles):
            members[tile.group].append(number)
        return tuple(tuple(members[group]) for group in range(len(members)))

    @cached_property
    def candidates(self) -> tuple[tuple[int, ...], ...]:
        """Cores that can run all tiles of each cluster."""
        found: list[tuple[int, ...]] = []
        able: dict[frozenset[str], tuple[int, ...]] = {}
        for group in self.group_tiles:
            types = frozenset(self.costs[group[0]]).intersection(*[self.costs[tile] for tile in group[1:]])
            if types not in able:
                able[types] = tuple(n for n, core in enumerate(self.cores) if core.type.name in types)
            found.append(able[types])
            if not found[-1]:
                tile = self.tile_graph.tiles[group[0]]
                raise InfeasibleError(f"no core can run {tile.name} and the tiles that must share its core")
        return tuple(found)

    @cached_property
    def minimum_cycles(self) -> tuple[int, ...]:
        """Fewest cycles of each tile over the core types."""
        return tuple([min([cost.cycles for cost in costs.values()]) for costs in self.costs])


def cost_of(core: CoreType, work: Gemm | VectorWork, objective: Objective) -> Cost | None:
    """Return the cost of a tile's work on a type of core, or None where it lacks the unit or the width."""
    match work:
        case VectorWork():
            return None if core.vector is None else vector_cost(core, work)
        case Gemm():
            able = core.array is not None and core.array.precision(work.operand_bits) is not None
            return gemm_cost(core, work, objective) if able else None


@gc_paused
def price(tile_graph: TileGraph, accelerator: Accelerator, objective: Objective) -> Problem:
    """Price every tile on every type of core.

    >>> from stream_mla import Objective, Point, evaluate
    >>> outcome = evaluate(Point.of("llama_3_8b", "flat_cloud", context=64, time_limit=0))
    >>> tile_graph, machine = outcome.problem.tile_graph, outcome.problem.accelerator
    >>> fast, frugal = (price(tile_graph, machine, aim) for aim in (Objective.LATENCY, Objective.ENERGY))
    >>> sum(fast.minimum_cycles) <= sum(frugal.minimum_cycles)
    True
    >>> tile_graph.tiles[0].name, fast.cost(0, 0).cycles, fast.cost(0, 0).mapping
    ('query[g=0:4,d=0:64]', 33, 'weight_stationary 1x1')
    """
    types = {core.type.name: core.type for core in accelerator.cores}
    costs: list[Mapping[str, Cost]] = []
    known: dict[int, Mapping[str, Cost]] = {}
    """It holds, for each work, by identity: tiles of one shape share theirs."""
    for tile in tile_graph.tiles:
        entry = known.get(id(tile.work))
        if entry is None:
            found = {name: cost_of(core, tile.work, objective) for name, core in types.items()}
            entry = known[id(tile.work)] = {name: cost for name, cost in found.items() if cost is not None}
        costs.append(entry)
    resources, routes = find_routes(accelerator)
    return Problem(
        tile_graph=tile_graph,
        accelerator=accelerator,
        objective=objective,
        costs=tuple(costs),
        resources=resources,
        routes=routes,
    )


def products(tile_graph: TileGraph) -> frozenset[int]:
    """Return the tiles that have several mappings: all are frugal where only energy counts."""
    return frozenset(number for number, entry in enumerate(tile_graph.tiles) if isinstance(entry.work, Gemm))


def price_mixed(tile_graph: TileGraph, accelerator: Accelerator, least_energy_tiles: frozenset[int]) -> Problem:
    """Price each tile for latency, or for energy where it is frugal."""
    fast = price(tile_graph, accelerator, Objective.LATENCY)
    return (
        mix(fast, price(tile_graph, accelerator, Objective.ENERGY), least_energy_tiles) if least_energy_tiles else fast
    )


def mix(fast: Problem, least_energy: Problem, least_energy_tiles: frozenset[int]) -> Problem:
    costs = enumerate(zip(fast.costs, least_energy.costs, strict=True))
    return replace(
        fast, costs=tuple(slow if number in least_energy_tiles else quick for number, (quick, slow) in costs)
    )
