"""A core for every cluster as HEFT has it: where it is finished first (Topcuoglu, Hariri, Wu, IEEE TPDS 13(3), 2002).

Tiles are taken in a given order, by upward rank or another, with insertion into the gaps of a core's unit. What HEFT
does not know is added with as little as possible:

- Tiles of a cluster share a core: the first one chooses it, counting the cycles of all of them.
- Transfers and loads share bandwidths: a transfer is not through before its resources could carry all traffic given
  out so far. So cores that stream side by side take from each other here, where `assignment` gives each a fair share.

Memories are not known here: how long a copy is held is known only once its last user has a time.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from math import inf
from typing import NamedTuple

from stream_mla.gc_pause import gc_paused
from stream_mla.hardware.interconnect import OFF_CHIP
from stream_mla.schedule.problem import Problem
from stream_mla.solvers.cutoff import CutoffError

MOST_CORES_ASKED = 40
"""Up to so many cores, a group of tiles is offered to each core that can run it."""
CORES_ASKED = 16
"""With more cores, a group is offered to so many that are free first, and to those that hold some of its data: the
others would hardly be chosen, and asking all of them takes most of the time."""


@dataclass
class _Unit:
    """Times at which an array or a vector unit is busy."""

    busy: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    promised: float = 0.0
    """Cycles of tiles whose clusters are here but which have no time yet."""

    def first_gap(self, ready: float, cycles: float) -> float:
        """Earliest start, in a gap or after all."""
        position = bisect_right(self.busy, (ready, inf))
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


class _Need(NamedTuple):
    """A block that a tile reads. Sorted, of those of one size from one place the one that is ready last comes first."""

    home: int
    """Where it comes from: a core, or OFF_CHIP."""
    bits: int
    waits: float
    """Less than nothing: cycles until it is ready there."""
    block: int
    owner: int
    """The cluster that loads it for itself, or -1."""


class _Placement:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.types = [core.type.name for core in problem.cores]
        self.capacity = [resource.capacity for resource in problem.resources]
        self.units = [_Unit() for _ in problem.units]
        self.carried = [0.0] * len(problem.resources)
        """Cycles that each resource needs for all traffic given out so far."""
        self.core_of = [-1] * len(problem.group_tiles)
        self.done = [0.0] * len(problem.tile_graph.tiles)
        self.there: dict[tuple[int, int, int], float] = {}
        """(block, core, owner) -> when it has arrived."""
        self.holders: dict[int, list[int]] = defaultdict(list)
        """Cores that a block was brought to or made on, for several clusters."""

    def _needs(self, tile: int) -> list[_Need]:
        """It is what a tile reads; what goes through DRAM comes from there, after its store."""
        tile_graph, found = self.problem.tile_graph, list[_Need]()
        for block in tile_graph.tiles[tile].reads:
            info, maker = tile_graph.blocks[block], tile_graph.maker[block]
            made, home = 0.0, OFF_CHIP
            if maker >= 0:
                made, home = self.done[maker], self.core_of[tile_graph.tiles[maker].group]
                if info.via_dram:
                    made, home = self._through(home, OFF_CHIP, info.bits, made), OFF_CHIP
            owner = tile_graph.tiles[tile].group if info.via_dram and not info.shared else -1
            found.append(_Need(home, info.bits, -made, block, owner))
        return found

    def _through(self, source: int, target: int, bits: int, ready: float) -> float:
        """When bits that are ready have got from one place to another."""
        route = self.problem.routes.get((source, target))
        if route is None:
            return inf
        cycles = route.cycles(bits)
        end, taken = ready + cycles, cycles * route.demand
        for resource in route.resources:
            done = self.carried[resource] + taken / self.capacity[resource]
            if done > end:
                end = done
        return end + route.latency_cycles

    def _brought(self, need: _Need, core: int) -> float:
        """When a block that is not on a core yet can be there."""
        return -need.waits if need.home == core else self._through(need.home, core, need.bits, -need.waits)

    def _inputs(self, needs: Sequence[_Need], core: int, ready: float, single_buffered: float = inf) -> float:
        """When all that a tile reads can be on a core, and what it waits for is done, or any time that is too late.

        `needs` are sorted.
        """
        home, bits = -2, 0
        """This is the place of the last block that is not there yet, and its bits."""
        for need in needs:
            arrival = self.there.get((need.block, core, need.owner))
            if arrival is None:
                if need.home == home and need.bits == bits:
                    continue  # it was ready no later than the last one, and takes as long
                home, bits = need.home, need.bits
                arrival = self._brought(need, core)
            if arrival > ready:
                ready = arrival
                if ready >= single_buffered:
                    break
        return ready

    def _asked(self, tile: int) -> Sequence[int]:
        """Cores that a tile's cluster may be given to."""
        cores, unit_on = (
            self.problem.candidates[self.problem.tile_graph.tiles[tile].group],
            self.problem.units_of_tile[tile],
        )
        if len(cores) <= MOST_CORES_ASKED:
            return cores
        least = nsmallest(CORES_ASKED, cores, key=lambda core: self.units[unit_on[core]].free_at)
        holders = {core for block in self.problem.tile_graph.tiles[tile].reads for core in self.holders[block]}
        return sorted({*least, *holders.intersection(cores)})

    def _choose(self, tile: int, needs: Sequence[_Need], ready: float) -> int:
        """The core on which the cluster of a tile would be finished first; no other tile of it has a core yet."""
        costs, unit_on = self.problem.costs, self.problem.units_of_tile[tile]
        members = self.problem.group_tiles[self.problem.tile_graph.tiles[tile].group]
        cores = self._asked(tile)
        types = {self.types[core] for core in cores}
        work = {kind: sum(costs[member][kind].cycles for member in members) for kind in types}
        best, chosen = inf, cores[0]
        for core in cores:
            kind, at = self.types[core], self.units[unit_on[core]]
            rest, cycles = at.promised + work[kind], costs[tile][kind].cycles
            if at.first_gap(ready, cycles) + rest < best:
                finish = at.first_gap(self._inputs(needs, core, ready, best - rest), cycles) + rest
                if finish < best:
                    best, chosen = finish, core
        return chosen

    def _give(self, group: int, core: int) -> None:
        self.core_of[group] = core
        for member in self.problem.group_tiles[group]:
            self.units[self.problem.unit(member, core)].promised += self.problem.cost(member, core).cycles

    def _carry(self, source: int, target: int, bits: int) -> None:
        route = self.problem.routes.get((source, target))
        if route is not None:
            taken = route.cycles(bits) * route.demand
            for resource in route.resources:
                self.carried[resource] += taken / self.capacity[resource]

    def _bring(self, need: _Need, core: int) -> None:
        """Let a block be on a core, if it is not there yet."""
        key = need.block, core, need.owner
        if key in self.there or need.home == core:
            return
        self.there[key] = self._brought(need, core)
        self._carry(need.home, core, need.bits)
        if need.owner < 0:
            self.holders[need.block].append(core)

    def run(self, order: Sequence[int], limit: float) -> list[int]:
        """Give every tile, in this order, a core and a time; return the cores of the clusters."""
        tile_graph, problem = self.problem.tile_graph, self.problem
        for number in order:
            tile, needs = tile_graph.tiles[number], self._needs(number)
            in_turn = sorted(needs)
            ready = max((self.done[before] for before in tile_graph.predecessors[number]), default=0.0)
            if self.core_of[tile.group] < 0:
                able = problem.candidates[tile.group]
                self._give(tile.group, able[0] if len(able) == 1 else self._choose(number, in_turn, ready))
            core = self.core_of[tile.group]
            unit, cycles = self.units[problem.unit(number, core)], problem.cost(number, core).cycles
            start = unit.first_gap(self._inputs(in_turn, core, ready), cycles)
            for need in needs:
                self._bring(need, core)
            unit.take(start, start + cycles)
            unit.promised -= cycles
            self.done[number] = start + cycles
            if self.done[number] > limit:
                raise CutoffError
            for block in tile.writes if tile.last else ():
                self.holders[block].append(core)
                if tile_graph.blocks[block].stored:
                    self._carry(core, OFF_CHIP, tile_graph.blocks[block].bits)
        return self.core_of


@gc_paused
def placement(problem: Problem, order: Sequence[int], limit: float = inf) -> list[int]:
    """Give each cluster a core, taking the tiles in this topological order.

    CutoffError as soon as a tile is expected to end after the limit.
    """
    if all(len(able) == 1 for able in problem.candidates):
        return [able[0] for able in problem.candidates]
    return _Placement(problem).run(order, limit)
