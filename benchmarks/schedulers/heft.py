"""HEFT (Topcuoglu, Hariri, Wu, IEEE TPDS 13(3), 2002): greedy list scheduling as the literature has it.

Upward ranks with mean costs, transfers included; tiles by falling rank, each on the core where it finishes first, with
insertion into the gaps of the core's unit. What HEFT does not know is added with as little as possible:

- Tiles of a cluster share a core: the first one chooses it, counting the cycles of all of them.
- Transfers and loads share bandwidths: a transfer is not through before its resources could carry all traffic given
  out so far.
- Memory: how long a copy is held is known only once its last user has a time, so a placement cannot be checked as it
  is made. Cores and priorities of HEFT are therefore run on the same machine as ours, which reserves memory in order of
  rank. Ranks go breadth first, and where memory does not hold that, the tile order takes their place, at last with
  the cores of our greedy scheduler; `heft` says which.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import nsmallest

from benchmarks.schedulers.placed import scheduled
from stream_mla.errors import NoScheduleError
from stream_mla.problem import Problem
from stream_mla.routes import OFF_CHIP, Route
from stream_mla.schedule import Schedule
from stream_mla.schedulers.assignment import assign
from stream_mla.schedulers.ranks import rank_order

MANY, FEW = 40, 16
"""Of more than MANY cores, only the FEW that are free first are asked, and those that have some of the data."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """What HEFT decides."""

    cores: tuple[int, ...]
    """Of each cluster."""
    order: tuple[int, ...]
    """Tiles, the most urgent first."""


@dataclass
class _Unit:
    """Times at which an array or a vector unit is busy."""

    busy: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    promised: float = 0.0
    """Cycles of tiles whose clusters are here but which have no time yet."""

    def first_gap(self, ready: float, cycles: float) -> float:
        """Earliest start, in a gap or after all."""
        position = bisect_right(self.busy, (ready, float("inf")))
        start = max(ready, self.busy[position - 1][1]) if position else ready
        for begin, end in self.busy[position:]:
            if start + cycles <= begin:
                break
            start = max(start, end)
        return start

    def take(self, start: float, end: float) -> None:
        """Neighbours without a gap become one."""
        position = bisect_right(self.busy, (start, end))
        if position < len(self.busy) and self.busy[position][0] == end:
            end = self.busy.pop(position)[1]
        if position and self.busy[position - 1][1] == start:
            position -= 1
            start = self.busy.pop(position)[0]
        self.busy.insert(position, (start, end))

    @property
    def free_at(self) -> float:
        """When all that is here and all that is promised could be done."""
        return self.promised + (self.busy[-1][1] if self.busy else 0.0)


class _Heft:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.units = [_Unit() for _ in range(2 * len(problem.cores))]
        self.carried = [0.0] * len(problem.resources)
        """Cycles that each resource needs for all traffic given out so far."""
        self.core_of = [-1] * len(problem.cluster_tiles)
        self.done = [0.0] * len(problem.cut.tiles)
        self.there: dict[tuple[int, int, int], float] = {}
        """(block, core, owning cluster or -1) -> when it has arrived."""
        self.holders: dict[int, list[int]] = defaultdict(list)
        """Cores that a block was brought to or made on."""

    def _arrival(self, block: int, core: int, cluster: int) -> tuple[float, Route | None]:
        """When a block can be on a core, and the route it takes there if it is not there yet."""
        info, maker = self.problem.cut.blocks[block], self.problem.cut.maker[block]
        owner = cluster if info.via_dram and not info.shared else -1
        if (block, core, owner) in self.there:
            return self.there[block, core, owner], None
        made = self.done[maker] if maker >= 0 else 0.0
        home = self.core_of[self.problem.cut.tiles[maker].cluster] if maker >= 0 else OFF_CHIP
        if info.via_dram:
            if maker >= 0:
                made = self._through(self.problem.routes[home, OFF_CHIP], info.bits, made)
            home = OFF_CHIP
        if home == core:
            return made, None
        route = self.problem.routes.get((home, core))
        return (self._through(route, info.bits, made), route) if route is not None else (float("inf"), None)

    def _through(self, route: Route, bits: int, ready: float) -> float:
        cycles = route.cycles(bits)
        share = (
            self.carried[resource] + cycles * route.demand / self.problem.resources[resource].capacity
            for resource in route.resources
        )
        return max(ready + cycles, *share) + route.latency_cycles

    def _start(self, tile: int, core: int) -> float:
        """Earliest start of a tile on a core: its data are there, and the unit has a gap."""
        info = self.problem.cut.tiles[tile]
        ready = max((self.done[before] for before in self.problem.cut.predecessors[tile]), default=0.0)
        for block in info.reads:
            ready = max(ready, self._arrival(block, core, info.cluster)[0])
        return self.units[self.problem.unit(tile, core)].first_gap(ready, self.problem.cost(tile, core).cycles)

    def _choose(self, tile: int) -> int:
        """The core on which the cluster of a tile would be finished first."""
        cluster = self.problem.cut.tiles[tile].cluster
        members = self.problem.cluster_tiles[cluster]
        cores: Sequence[int] = self.problem.candidates[cluster]
        if len(cores) > MANY:
            least = nsmallest(FEW, cores, key=lambda core: self.units[self.problem.unit(tile, core)].free_at)
            holders = {core for block in self.problem.cut.tiles[tile].reads for core in self.holders[block]}
            cores = sorted({*least, *holders.intersection(cores)})

        kinds = {self.problem.cores[core].type.name: core for core in cores}
        work = {kind: sum(self.problem.cost(member, core).cycles for member in members) for kind, core in kinds.items()}

        def finish(core: int) -> tuple[float, int]:
            unit = self.units[self.problem.unit(tile, core)]
            return self._start(tile, core) + unit.promised + work[self.problem.cores[core].type.name], core

        core = min(cores, key=finish)
        for member in members:
            unit = self.units[self.problem.unit(member, core)]
            unit.promised += self.problem.cost(member, core).cycles
        return core

    def place(self, order: Sequence[int]) -> tuple[int, ...]:
        """Give every tile, in this order, a core and a time; return the cores of the clusters."""
        for number in order:
            tile = self.problem.cut.tiles[number]
            if self.core_of[tile.cluster] < 0:
                self.core_of[tile.cluster] = self._choose(number)
            core = self.core_of[tile.cluster]
            start = self._start(number, core)
            for block in tile.reads:
                arrival, route = self._arrival(block, core, tile.cluster)
                self._carry(block, route)
                info = self.problem.cut.blocks[block]
                self.there[block, core, tile.cluster if info.via_dram and not info.shared else -1] = arrival
                if route is not None and (info.shared or not info.via_dram):
                    self.holders[block].append(core)
            unit, cycles = self.units[self.problem.unit(number, core)], self.problem.cost(number, core).cycles
            unit.take(start, start + cycles)
            unit.promised -= cycles
            self.done[number] = start + cycles
            for block in tile.writes if tile.last else ():
                self.holders[block].append(core)
                if self.problem.cut.blocks[block].stored:
                    self._carry(block, self.problem.routes[core, OFF_CHIP])
        return tuple(self.core_of)

    def _carry(self, block: int, route: Route | None) -> None:
        if route is None:
            return
        cycles = route.cycles(self.problem.cut.blocks[block].bits)
        for resource in route.resources:
            self.carried[resource] += cycles * route.demand / self.problem.resources[resource].capacity


def heft(problem: Problem) -> tuple[Schedule, Placed, str]:
    """Return a valid schedule, the decisions behind it, and what they are."""
    by_rank, in_order = tuple(rank_order(problem)), tuple(range(len(problem.cut.tiles)))
    ways = (
        ("rank", lambda: _Heft(problem).place(by_rank), by_rank),
        ("tile order, cores of the ranks", lambda: _Heft(problem).place(by_rank), in_order),
        ("tile order", lambda: _Heft(problem).place(in_order), in_order),
        ("tile order, cores of greedy", lambda: tuple(assign(problem)), in_order),
    )
    why: NoScheduleError | None = None
    for name, cores, order in ways:
        placed = Placed(cores=cores(), order=order)
        try:
            return scheduled(problem, placed.cores, placed.order), placed, name
        except NoScheduleError as error:
            why = error
    assert why is not None
    raise why
