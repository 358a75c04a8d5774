"""An order for all tiles, from the times at which they are expected to run on given cores.

Neither memories are known here nor bandwidths beyond a fair share. An array works in order, as long as it does not
idle: where the next tile waits for others, it takes the first that is ready; where it waits for its load, the first of
a cluster that computes for longer than it loads (Johnson's rule for two machines in line: such jobs go first). What it
made ahead of its turn may fill a part of the SRAM. Tiles of the last operator whose sums are small wait until the DRAM
would idle, so that they stream behind what computes. A unit that serves many arrays takes what is ready first, so it
serves them in turn. Loads take the time of their core's fair share of the DRAM's bandwidth, so cores that stream side
by side are served side by side.
"""

import heapq
from collections import defaultdict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum

from stream_mla.hardware.interconnect import OFF_CHIP
from stream_mla.schedule.problem import Problem
from stream_mla.solvers.placement.earliest_finish import can_wait

PREFETCH_SHARE = 0.25
"""It holds, for an SRAM: what its core may have loaded ahead, in the expectation; and so what it may have made
ahead."""


class Turns(Enum):
    """When a tile may be taken before its turn on its array."""

    AHEAD = "ahead"
    """Where the array would idle, for the next tile waits for others or its load."""
    FILL = "fill"
    """Where the DRAM would idle: one that loads for longer than it computes."""
    KEPT = "kept"
    """Never, but for tiles that can wait."""


class _Expectation:
    """The machine as time runs forward, with units, and each core's fair share of the DRAM's bandwidth."""

    def __init__(self, problem: Problem, core_of_group: Sequence[int], order: Sequence[int], turns: Turns) -> None:
        self.problem, self.order, self.turns, tile_graph = problem, order, turns, problem.tile_graph
        self.rank = [0] * len(order)
        for position, number in enumerate(order):
            self.rank[number] = position
        self.core_of = [core_of_group[tile.group] for tile in tile_graph.tiles]
        self.unit_of = [problem.unit(number, core) for number, core in enumerate(self.core_of)]
        self.waiting = [len(before) for before in tile_graph.predecessors]
        self.can_wait = can_wait(problem)
        self.queue: dict[int, deque[int]] = defaultdict(deque)
        """It holds, for each unit that works in tile order: its tiles, but those that can wait."""
        self.in_order = [core.type.array is not None for core in problem.cores]
        for number in order:
            unit = self.unit_of[number]
            if self.in_order[problem.core_of_unit[unit]] and not self.can_wait[number]:
                self.queue[unit].append(number)
        self.offered: dict[int, list[tuple[float, int]]] = defaultdict(list)
        """It holds, for each unit: the tiles that can start, of those it may take in any order, and those that fill
        the DRAM."""
        self.ready: dict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        """It holds, for each unit that works in order: the places in it of the tiles that can start, of clusters that
        compute for
        longer than they load, and of others."""
        self.taken: set[int] = set()
        self.ahead_bits = [0] * len(problem.cores)
        """It holds, for each core: what the tiles write that were taken before their turn, which has not come yet."""
        self.busy: set[int] = set()
        self.loads = self._loads_of_tiles()
        self.present: set[tuple[int, int, int]] = set()
        """Loads of the tiles that have started."""
        self.computes = self._computes()
        used = set(self.core_of)
        self.loaded = dict.fromkeys(used, 0.0)
        """When each core's share of the bandwidth is done with the loads of what has started."""
        self.start = [0.0] * len(tile_graph.tiles)
        self.linked: dict[tuple[int, int], float] = defaultdict(float)
        """When a core is done with what it sends to another."""
        self.arrival: dict[tuple[int, int], float] = {}
        """When a block that is sent arrives at a core."""
        self.events: list[tuple[float, int]] = []
        """Ends of tiles, and from the number of tiles on, arrivals of all that a tile reads of another; a negative
        number is the complement of a unit that may go on."""

    def _loads_of_tiles(self) -> list[list[tuple[int, int, int]]]:
        """Return the loads of each tile: block, core, and cluster or -1 where all clusters share it."""
        problem, tile_graph = self.problem, self.problem.tile_graph
        share = problem.resources[0].capacity / len(set(self.core_of))
        grid = problem.resources[0].grid
        self.rates = [min(problem.routes[OFF_CHIP, core].demand, share) / grid for core in range(len(problem.cores))]
        found: list[list[tuple[int, int, int]]] = []
        for tile, core in zip(tile_graph.tiles, self.core_of, strict=True):
            loaded = (block for block in tile.reads if tile_graph.blocks[block].via_dram)
            found.append([(block, core, -1 if tile_graph.blocks[block].shared else tile.group) for block in loaded])
        return found

    def _load_cycles(self, number: int) -> float:
        """Cycles of the loads that a tile is the first to need, at its core's share of the bandwidth."""
        blocks = self.problem.tile_graph.blocks
        bits = sum(blocks[load[0]].bits for load in self.loads[number] if load not in self.present)
        return bits / self.rates[self.core_of[number]]

    def _computes(self) -> list[bool]:
        """Return of each tile whether the array works on its cluster for longer than the cluster loads."""
        found: list[bool] = [False] * len(self.core_of)
        for members in self.problem.group_tiles:
            core = self.core_of[members[0]]
            on_array = (number for number in members if self.problem.is_array[self.unit_of[number]])
            cycles = sum(self.problem.cost(number, core).cycles for number in on_array)
            blocks = {load[0] for number in members for load in self.loads[number]}
            loaded = sum(self.problem.tile_graph.blocks[block].bits for block in blocks) / self.rates[core]
            for number in members:
                found[number] = cycles > loaded
        return found

    def _offer(self, number: int, now: float) -> None:
        unit = self.unit_of[number]
        if self.can_wait[number] or not self.in_order[self.core_of[number]]:
            heapq.heappush(self.offered[unit], (0.0 if self.can_wait[number] else now, number))
            return
        heapq.heappush(self.ready[unit][0 if self.computes[number] else 1], self.rank[number])
        if self.turns is Turns.FILL and not self.computes[number]:
            heapq.heappush(self.offered[unit], (0.0, number))

    def _next(self, unit: int, now: float) -> int:
        """Return the tile that a free unit takes, or -1: one that can wait only where the DRAM would idle."""
        queue, offered = self.queue[unit], self.offered[unit]
        core = self.problem.core_of_unit[unit]
        while queue and queue[0] in self.taken:
            self.ahead_bits[core] -= self._written_bits(queue.popleft())
        while offered and offered[0][1] in self.taken:
            heapq.heappop(offered)
        first = queue[0] if queue and not self.waiting[queue[0]] else -1
        if offered:
            loaded = self.loaded[core] + self._load_cycles(offered[0][1])
            if not queue or loaded <= now:
                return self._before_turn(heapq.heappop(offered)[1])
            if first < 0:
                heapq.heappush(self.events, (loaded, ~unit))  # look again then
        waits = first < 0 or (not self.computes[first] and self.loaded[core] + self._load_cycles(first) > now)
        if waits and self.turns is Turns.AHEAD and self.problem.is_array[unit]:
            ahead = self._ahead(unit, only_computing=first >= 0)
            if ahead >= 0:
                return self._before_turn(ahead)
        if first >= 0:
            self.taken.add(queue.popleft())
        return first

    def _ahead(self, unit: int, *, only_computing: bool) -> int:
        """Return the first tile that can start before its turn and finds room for what it writes, or -1."""
        core = self.problem.core_of_unit[unit]
        room = PREFETCH_SHARE * self.problem.cores[core].type.sram.capacity - self.ahead_bits[core]
        for ready in self.ready[unit][: 1 if only_computing else 2]:
            while ready and self.order[ready[0]] in self.taken:
                heapq.heappop(ready)
            if ready and self._written_bits(self.order[ready[0]]) <= room:
                return self.order[ready[0]]
        return -1

    def _before_turn(self, number: int) -> int:
        """Take a tile that may stand further behind."""
        core = self.core_of[number]
        self.taken.add(number)
        if self.in_order[core] and not self.can_wait[number]:
            self.ahead_bits[core] += self._written_bits(number)
        return number

    def _written_bits(self, number: int) -> int:
        return sum(self.problem.tile_graph.blocks[block].bits for block in self.problem.tile_graph.tiles[number].writes)

    def _take(self, unit: int, now: float) -> None:
        if unit in self.busy:
            return
        number = self._next(unit, now)
        if number < 0:
            return
        core = self.problem.core_of_unit[unit]
        ahead = PREFETCH_SHARE * self.problem.cores[core].type.sram.capacity / self.rates[core]
        self.loaded[core] = max(self.loaded[core], now - ahead) + self._load_cycles(number)
        self.present.update(self.loads[number])
        self.start[number] = max(now, self.loaded[core])
        self.busy.add(unit)
        heapq.heappush(self.events, (self.start[number] + self.problem.cost(number, core).cycles, number))

    def run(self) -> tuple[list[float], float]:
        """Return the expected start of each tile, and the end of the last."""
        now = 0.0
        for number in self.order:
            if not self.waiting[number]:
                self._offer(number, 0.0)
        for unit in sorted(set(self.unit_of)):
            self._take(unit, 0.0)
        while self.events:
            now, number = heapq.heappop(self.events)
            if number < 0:
                self._take(~number, now)
                continue
            if number < len(self.start):
                self.busy.discard(self.unit_of[number])
                sent = self._send(number, now)
                met = [other for other in self.problem.tile_graph.successors[number] if other not in sent]
                woken = [self.unit_of[number]]
            else:
                met, woken = [number - len(self.start)], []
            for other in met:
                self.waiting[other] -= 1
                if not self.waiting[other]:
                    self._offer(other, now)
                    woken.append(self.unit_of[other])
            for unit in woken:
                self._take(unit, now)
        return self.start, now

    def _send(self, number: int, now: float) -> Collection[int]:
        """Send what a tile made to the cores of those that read it elsewhere; return them: they wait for it."""
        tile_graph, core = self.problem.tile_graph, self.core_of[number]
        latest: dict[int, float] = {}
        for block in tile_graph.tiles[number].writes if tile_graph.tiles[number].last else ():
            if tile_graph.blocks[block].via_dram:
                continue
            for user in tile_graph.users[block]:
                if (target := self.core_of[user]) != core and (core, target) in self.problem.routes:
                    latest[user] = max(latest.get(user, 0.0), self._arrives(block, core, target, now))
        for user, arrival in latest.items():
            heapq.heappush(self.events, (arrival, len(self.start) + user))
        return latest

    def _arrives(self, block: int, core: int, target: int, now: float) -> float:
        """Return when a block that is made now has come to another core; links carry one after the other."""
        arrival = self.arrival.get((block, target))
        if arrival is None:
            route = self.problem.routes[core, target]
            cycles = self.problem.tile_graph.blocks[block].bits * route.grid / route.demand
            arrival = self.arrival[block, target] = max(now, self.linked[core, target]) + cycles
            self.linked[core, target] = arrival
        return arrival


@dataclass(frozen=True, kw_only=True)
class Expected:
    """It is what a choice of cores is expected to come to."""

    order: Sequence[int]
    """The tiles by their expected starts, phase by phase."""
    cycles: float
    """The expected latency."""


def expected(
    problem: Problem,
    core_of_group: Sequence[int],
    order: Sequence[int] | None = None,
    turns: Turns = Turns.AHEAD,
) -> Expected:
    """Run the tiles on these cores, each core in a topological order of the tiles; without one, in theirs."""
    order = range(len(problem.tile_graph.tiles)) if order is None else order
    start, cycles = _Expectation(problem, core_of_group, order, turns).run()
    phases = [tile.phase for tile in problem.tile_graph.tiles]
    return Expected(order=sorted(order, key=lambda tile: (phases[tile], start[tile])), cycles=cycles)
