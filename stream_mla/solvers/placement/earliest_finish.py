"""A core for every cluster: the one that would be done with it first, as far as that can be foreseen.

Clusters are taken in tile order, or another. A core is done with one after its inputs are made, what it reads is sent
or loaded there, and what the core has begun is done. A cluster that adds up what comes in over a long time also waits
for all that the core was promised and has not begun, so that such clusters lie on different cores. Memories are not
known here, and of bandwidths only each core's fair share.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from stream_mla.hardware.work import UnitKind
from stream_mla.schedule.problem import Problem
from stream_mla.workload.operator_graph import Kind

TIE = 1e-6
"""Cores that would be done within this share of each other count as equal: the one with the least work is taken."""

Times = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """Cores that can run a cluster, as arrays."""

    cores: NDArray[np.int64]
    types: tuple[str, ...]
    units: Mapping[UnitKind, NDArray[np.int64]]
    """The number of each core's unit, by kind."""


def can_wait(problem: Problem) -> list[bool]:
    """Return which tiles belong to a last operator whose unfinished sums are small: the sum of its parts may follow."""
    graph, eager = problem.tile_graph.graph, problem.tile_graph.tiling.eager
    ends = {operator.name for operator in graph.operators if not any(graph.edges.successors(operator.name))}
    sums = {operator.name for operator in graph.operators if operator.kind is Kind.SUM} & ends
    last = eager.intersection(name for name in graph.edges if name in ends or sums.issuperset(graph.edges[name]))
    return [tile.operator in last for tile in problem.tile_graph.tiles]


class _Assignment:
    def __init__(self, problem: Problem, order: Sequence[int], *, even: bool, gather: bool) -> None:
        self.problem, self.order, self.even, self.gather = problem, order, even, gather
        count = len(problem.cores)
        self.core_of = [-1] * len(problem.group_tiles)
        self.free = np.zeros(len(problem.units))
        """When each unit is done with what it has begun."""
        self.promised = np.zeros(count)
        """Cycles of tiles that each core was given and has not begun."""
        self.given = np.zeros(count)
        """Cycles of all tiles that each core was given."""
        self.end = [0.0] * len(problem.tile_graph.tiles)
        self.cycles_per_bit: dict[int, Times] = {}
        self.loading = np.ones(count)
        """As `cycles_per_bit`, for what is given in cycles at a fair share of the DRAM."""
        self.choices: dict[tuple[int, ...], _Choice] = {}
        self.can_wait = can_wait(problem)
        arrays = max(1, problem.accelerator.count(UnitKind.ARRAY))
        self.share = problem.resources[0].bits_per_cycle / arrays
        """Each core with an array has this share of the DRAM's bandwidth, in bits per cycle."""
        self.loads = self._load_cycles()
        self.fair = sum(max(problem.minimum_cycles[n], load) for n, load in enumerate(self.loads)) / arrays
        """Cycles of all tiles, for each core with an array."""
        self.present: dict[int, NDArray[np.bool_]] = defaultdict(lambda: np.zeros(count, dtype=np.bool_))
        """It holds, for each block: the cores that read it."""

    def _sending(self, source: int) -> Times:
        """Cycles that a bit takes from a core to each core; infinite where no path joins them."""
        if source not in self.cycles_per_bit:
            routes = self.problem.routes
            self.cycles_per_bit[source] = np.array(
                [
                    routes[source, core].grid / routes[source, core].demand if (source, core) in routes else inf
                    for core in range(len(self.problem.cores))
                ]
            )
            self.cycles_per_bit[source][source] = 0.0
        return self.cycles_per_bit[source]

    def _load_cycles(self) -> list[float]:
        """Cycles of the loads that each tile is the first of its cluster to need, at a fair share of the DRAM."""
        tile_graph = self.problem.tile_graph
        seen: set[tuple[int, int]] = set()
        found: list[float] = []
        for tile in tile_graph.tiles:
            bits = 0
            for block in tile.reads:
                info = tile_graph.blocks[block]
                if info.via_dram and not info.shared and (block, tile.group) not in seen:
                    seen.add((block, tile.group))
                    bits += info.bits
            found.append(bits / self.share)
        return found

    def _lasts(self, tile: int, core: int) -> float:
        return max(self.problem.cost(tile, core).cycles, self.loads[tile])

    def _choice(self, group: int) -> _Choice:
        cores = self.problem.candidates[group]
        if cores not in self.choices:
            types = tuple(self.problem.cores[core].type.name for core in cores)
            units = {kind: np.array(numbers)[list(cores)] for kind, numbers in self.problem.units_of_kind.items()}
            self.choices[cores] = _Choice(cores=np.array(cores), types=types, units=units)
        return self.choices[cores]

    def _best(self, group: int, first: int) -> int:
        """Return the core that would be done with a cluster first."""
        problem, tile_graph = self.problem, self.problem.tile_graph
        choice = self._choice(group)
        if len(choice.cores) == 1:
            return int(choice.cores[0])
        members = problem.group_tiles[group]
        reads = {block for member in members for block in tile_graph.tiles[member].reads}
        if self.gather and (core := self._sharer(choice, reads, members)) >= 0:
            return core
        ready = max((self.end[before] for before in tile_graph.predecessors[first]), default=0.0)
        done = (
            np.maximum(self.free[choice.units[tile_graph.tiles[first].work.unit_kind]], ready)
            + TIE * self.given[choice.cores]
        )
        if self.even or (tile_graph.tiles[first].operator in tile_graph.tiling.eager and len(members) > 1):
            done = done + self.promised[choice.cores]
        done = self._with_moves(done, choice, reads)
        if len(set(choice.types)) > 1:
            own = {name: sum(problem.costs[member][name].cycles for member in members) for name in set(choice.types)}
            done += np.array([own[name] for name in choice.types])
        return int(choice.cores[int(np.argmin(done))])

    def _with_moves(self, done: Times, choice: _Choice, reads: Collection[int]) -> Times:
        """Add the cycles in which blocks come to each core that has none of them yet: sent, or loaded for all there."""
        tile_graph = self.problem.tile_graph
        present: list[NDArray[np.bool_]] = []
        ways: list[Times] = []
        cycles: list[float] = []
        for block in reads:
            maker, info = tile_graph.maker[block], tile_graph.blocks[block]
            source = -1 if maker < 0 or info.via_dram else self.core_of[tile_graph.tiles[maker].group]
            if source >= 0 or info.shared:
                present.append(self.present[block])
                ways.append(self._sending(source) if source >= 0 else self.loading)
                cycles.append(info.bits if source >= 0 else info.bits / self.share)
        if not cycles:
            return done
        moved = np.where(np.array(present), 0.0, np.array(ways) * np.array(cycles)[:, None])
        return np.add.reduce((done, *moved[:, choice.cores]))

    def _sharer(self, choice: _Choice, reads: Collection[int], members: Sequence[int]) -> int:
        """Return the core that has most of the shared blocks that a cluster reads, unless it has its share of the work;
        -1 where there is none.
        """
        blocks = self.problem.tile_graph.blocks
        has = sum((self.present[block] * blocks[block].bits for block in reads if blocks[block].shared), np.zeros(1))
        if not has.any():
            return -1
        core = int(choice.cores[int(np.argmax(has[choice.cores]))])
        own = sum(self._lasts(member, core) for member in members)
        return core if has[core] and self.given[core] + own <= self.fair else -1

    def run(self) -> list[int]:
        problem, tile_graph = self.problem, self.problem.tile_graph
        for number in self.order:
            tile = tile_graph.tiles[number]
            if self.core_of[tile.group] < 0:
                core = self._best(tile.group, number)
                self.core_of[tile.group] = core
                members = problem.group_tiles[tile.group]
                self.promised[core] += (total := sum(self._lasts(member, core) for member in members))
                self.given[core] += total
                for member in members:
                    for block in tile_graph.tiles[member].reads:
                        self.present[block][core] = True
            core = self.core_of[tile.group]
            lasts = self._lasts(number, core)
            start = max((self.end[before] for before in tile_graph.predecessors[number]), default=0.0)
            unit = problem.unit(number, core)
            if problem.cores[core].type.array is not None:  # others serve many arrays, in turn
                start = max(start, float(self.free[unit]))
                # what can wait leaves the time until it starts to others
                self.free[unit] = (self.free[unit] if self.can_wait[number] else start) + lasts
            self.end[number] = start + lasts
            self.promised[core] -= lasts
        return self.core_of


def assign(
    problem: Problem, order: Sequence[int] | None = None, *, even: bool = False, gather: bool = False
) -> list[int]:
    """Give each cluster a core, as the module docstring says; where `even`, promises count for all clusters.

    Where `gather`, clusters that share blocks go to one core until it has its share of all work, so that the DRAM is
    read less often. `order` is a topological order of the tiles; without one, theirs.
    """
    order = range(len(problem.tile_graph.tiles)) if order is None else order
    return _Assignment(problem, order, even=even, gather=gather).run()
