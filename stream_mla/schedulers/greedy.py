"""Memory-aware list scheduling: always a schedule, or the reason why there is none.

Clusters are given to cores one after the other, each to the core on which it would be done first. Then time
runs forward: units and links take the ready step that stands first in the tile order. Memory is reserved in
tile order on each core, as far ahead as it lasts, so loads run ahead of their tiles (prefetch) and the first
unfinished tile can always proceed.
"""

import heapq
from collections import defaultdict
from collections.abc import Sequence
from enum import IntEnum

from stream_mla.errors import InfeasibleError, NoScheduleError, StreamMlaError
from stream_mla.problem import Activities, Problem, activities
from stream_mla.routes import OFF_CHIP
from stream_mla.schedule import Schedule
from stream_mla.schedulers.timing import timed


def assign(problem: Problem) -> list[int]:
    """Give each cluster, in tile order, to the core on which it would be done first.

    A core's clock counts the work it was given; a cluster pays for what it must have sent there.
    """
    cut = problem.cut
    busy = [0] * len(problem.cores)
    core_of = [-1] * len(problem.cluster_tiles)
    present: set[tuple[int, int]] = set()
    for tile in cut.tiles:
        cluster = tile.cluster
        if core_of[cluster] >= 0:
            continue
        members = problem.cluster_tiles[cluster]
        needed = {block for member in members for block in cut.tiles[member].reads}
        sources = {
            block: core_of[cut.tiles[cut.maker[block]].cluster]
            for block in needed
            if not cut.blocks[block].via_dram and core_of[cut.tiles[cut.maker[block]].cluster] >= 0
        }

        def done(core: int, members: Sequence[int] = members, sources: dict[int, int] = sources) -> tuple[int, int]:
            sent = [
                problem.routes[source, core].cycles(cut.blocks[block].bits)
                for block, source in sources.items()
                if source != core and (block, core) not in present and (source, core) in problem.routes
            ]
            return busy[core] + sum(problem.cost(member, core).cycles for member in members) + sum(sent), core

        core = min(problem.candidates[cluster], key=done)
        busy[core] += sum(problem.cost(member, core).cycles for member in members)
        present.update((block, core) for block in sources)
        core_of[cluster] = core
    return core_of


class _Event(IntEnum):
    END = 0
    ARRIVAL = 1


class _Forward:
    """The machine as time runs forward over a fixed set of activities."""

    def __init__(self, problem: Problem, acts: Activities) -> None:
        self.problem, self.acts = problem, acts
        cut = problem.cut
        self.core_of = [acts.core_of_cluster[tile.cluster] for tile in cut.tiles]
        self.run_start = [-1] * len(cut.tiles)
        self.move_start = [-1] * len(acts.moves)
        self.released = [-1] * len(acts.copies)
        self.pending = [len(copy.users) + len(copy.moves_out) for copy in acts.copies]
        for writes in acts.writes:
            for copy in writes:
                self.pending[copy] += 1
        self.granted = [False] * len(acts.copies)
        self.in_dram = [move.after_store < 0 for move in acts.moves]
        self.complete = [False] * len(acts.copies)
        self.free_bits = [core.type.sram.capacity for core in problem.cores]
        self.free_share = [resource.capacity for resource in problem.resources]
        self.unit_free = [True] * (2 * len(problem.cores))
        self.ready_tiles: dict[int, list[int]] = defaultdict(list)
        self.touched_units: set[int] = set()
        self.offered: list[tuple[int, int]] = []
        """Moves that became ready at this instant, with their urgency."""
        self.blocked: list[list[tuple[int, int]]] = [[] for _ in problem.resources]
        """Ready moves that found too little bandwidth left on a resource: a heap of each."""
        self.freed: set[int] = set()
        self.events: list[tuple[int, int, _Event, bool, int]] = []
        self.priority = self._move_priorities()
        self.loads_after: dict[int, list[int]] = defaultdict(list)
        for number, move in enumerate(acts.moves):
            if move.after_store >= 0:
                self.loads_after[move.after_store].append(number)
        self.waits = [
            len(set(reads)) + len(writes) * (tile.step == 0) + (tile.step > 0)
            for tile, reads, writes in zip(cut.tiles, acts.reads, acts.writes, strict=True)
        ]
        self.next_step: dict[int, int] = {}
        for number, before in enumerate(cut.predecessors):
            for other in before:
                if cut.tiles[other].chain == cut.tiles[number].chain:
                    self.next_step[other] = number
        self.first_step = {
            copy: number for number, writes in enumerate(acts.writes) if cut.tiles[number].step == 0 for copy in writes
        }
        self._queue_reservations()

    def _move_priorities(self) -> list[int]:
        """A load is as urgent as its first user; a store as the tile that made the block."""
        priorities: list[int] = []
        for move in self.acts.moves:
            if move.target == OFF_CHIP:
                priorities.append(self.problem.cut.maker[move.block])
            else:
                priorities.append(min(self.acts.copies[move.target].users))
        return priorities

    def _queue_reservations(self) -> None:
        """List the copies of each core in the order in which its tiles first need them."""
        self.queue: list[list[int]] = [[] for _ in self.problem.cores]
        self.head = [0] * len(self.problem.cores)
        seen: set[int] = set()
        for reads, writes in zip(self.acts.reads, self.acts.writes, strict=True):
            for copy in (*reads, *writes):
                if copy not in seen:
                    seen.add(copy)
                    self.queue[self.acts.copies[copy].core].append(copy)

    def _reserve(self, core: int) -> None:
        queue = self.queue[core]
        while self.head[core] < len(queue):
            copy = queue[self.head[core]]
            bits = self.acts.copies[copy].bits
            if bits > self.free_bits[core]:
                return
            self.free_bits[core] -= bits
            self.granted[copy] = True
            self.head[core] += 1
            brought_by = self.acts.copies[copy].brought_by
            if brought_by >= 0:
                self._offer_move(brought_by)
            else:
                self._met(self.first_step[copy])

    def _offer_move(self, number: int) -> None:
        move = self.acts.moves[number]
        has_source = self.in_dram[number] if move.source == OFF_CHIP else self.complete[move.source]
        if has_source and (move.target == OFF_CHIP or self.granted[move.target]):
            self.offered.append((self.priority[number], number))

    def _met(self, tile: int) -> None:
        """Note that one thing a tile waits for has come."""
        self.waits[tile] -= 1
        if not self.waits[tile]:
            unit = self.problem.unit(tile, self.core_of[tile])
            heapq.heappush(self.ready_tiles[unit], tile)
            self.touched_units.add(unit)

    def _start_all(self, now: int) -> None:
        """Start what can start: on freed units, then moves in order of urgency."""
        for unit in self.touched_units:
            if self.ready_tiles[unit] and self.unit_free[unit]:
                tile = heapq.heappop(self.ready_tiles[unit])
                self.unit_free[unit] = False
                self.run_start[tile] = now
                end = now + self.problem.cost(tile, self.core_of[tile]).cycles
                heapq.heappush(self.events, (end, tile, _Event.END, True, tile))
        self.touched_units.clear()
        pool = [(priority, number, -1) for priority, number in self.offered]
        pool += [(*self.blocked[resource][0], resource) for resource in self.freed if self.blocked[resource]]
        self.offered.clear()
        self.freed.clear()
        heapq.heapify(pool)
        while pool:
            priority, number, queue = heapq.heappop(pool)
            if queue >= 0:  # the first in line may have changed since
                priority, number = heapq.heappop(self.blocked[queue])
            route = self.acts.moves[number].route
            short = [r for r in route.resources if self.free_share[r] < route.demand]
            if short:
                heapq.heappush(self.blocked[short[0]], (priority, number))
            else:
                self._start_move(number, now)
            if queue >= 0 and self.blocked[queue] and self.free_share[queue] > 0 and queue not in short[:1]:
                heapq.heappush(pool, (*self.blocked[queue][0], queue))

    def _start_move(self, number: int, now: int) -> None:
        move = self.acts.moves[number]
        self.move_start[number] = now
        for resource in move.route.resources:
            self.free_share[resource] -= move.route.demand
        end = now + move.cycles
        heapq.heappush(self.events, (end, number, _Event.END, False, number))
        heapq.heappush(self.events, (end + move.route.latency_cycles, number, _Event.ARRIVAL, False, number))

    def _release(self, copy: int, now: int) -> None:
        self.pending[copy] -= 1
        if not self.pending[copy]:
            core = self.acts.copies[copy].core
            self.released[copy] = now
            self.free_bits[core] += self.acts.copies[copy].bits
            self._reserve(core)

    def _tile_done(self, tile: int, now: int) -> None:
        unit = self.problem.unit(tile, self.core_of[tile])
        self.unit_free[unit] = True
        self.touched_units.add(unit)
        if tile in self.next_step:
            self._met(self.next_step[tile])
        for copy in self.acts.writes[tile] if self.problem.cut.tiles[tile].last else ():
            self._completed(copy)
        for copy in (*self.acts.reads[tile], *self.acts.writes[tile]):
            self._release(copy, now)

    def _completed(self, copy: int) -> None:
        self.complete[copy] = True
        for user in self.acts.copies[copy].users:
            self._met(user)
        for move in self.acts.copies[copy].moves_out:
            self._offer_move(move)

    def _move_event(self, number: int, event: _Event, now: int) -> None:
        move = self.acts.moves[number]
        if event is _Event.END:
            for resource in move.route.resources:
                self.free_share[resource] += move.route.demand
            self.freed.update(move.route.resources)
            if move.source != OFF_CHIP:
                self._release(move.source, now)
        elif move.target != OFF_CHIP:
            self._completed(move.target)
        else:
            for load in self.loads_after[number]:
                self.in_dram[load] = True
                self._offer_move(load)

    def run(self) -> Schedule:
        """Run until everything is done; the error of `greedy` where memory is full and nothing can end."""
        now = 0
        for core in range(len(self.problem.cores)):
            self._reserve(core)
        while True:
            self._start_all(now)
            if not self.events:
                break
            now = self.events[0][0]
            while self.events and self.events[0][0] == now:
                _, _, event, is_run, number = heapq.heappop(self.events)
                if is_run:
                    self._tile_done(number, now)
                else:
                    self._move_event(number, event, now)
        if -1 in self.run_start:
            raise self._stuck()
        return timed(self.problem, self.acts, self.run_start, self.move_start)

    def _stuck(self) -> StreamMlaError:
        """Name the first tile that cannot run, what it needs, and who holds the memory of its core.

        Infeasible is only what is proven: that the tile does not even fit alone.
        """
        blocks = self.problem.cut.blocks
        tile = self.run_start.index(-1)
        core = self.core_of[tile]
        if self.head[core] == len(self.queue[core]):
            raise AssertionError("the greedy scheduler stopped with memory for all tiles")
        wanted = self.acts.copies[self.queue[core][self.head[core]]]
        kept = [
            copy
            for copy, granted, released in zip(self.acts.copies, self.granted, self.released, strict=True)
            if copy.core == core and granted and released < 0
        ]
        kept.sort(key=lambda copy: -copy.bits)
        holders = ", ".join(f"{blocks[copy.block].name} {copy.bits // 8:,} B" for copy in kept[:4])
        name, sram = self.problem.cores[core].name, self.problem.cores[core].type.sram.capacity
        free = self.free_bits[core]
        alone = sum(self.acts.copies[copy].bits for copy in {*self.acts.reads[tile], *self.acts.writes[tile]})
        kind = InfeasibleError if alone > self.problem.cores[core].type.sram.capacity else NoScheduleError
        return kind(
            f"on {name}, {self.problem.cut.tiles[tile].name} waits for {blocks[wanted.block].name}, which needs "
            f"{wanted.bits // 8:,} B: {free // 8:,} B of {sram // 8:,} B are free, {-(-(wanted.bits - free) // 8):,} B "
            f"too few" + (f"; of {len(kept)} held, the largest are {holders}" if kept else "")
        )


def greedy(problem: Problem) -> Schedule:
    """Return a valid schedule.

    InfeasibleError where a tile does not fit its memory even alone; NoScheduleError where what waits beside the tiles,
    in their order, leaves too little room.
    """
    return _Forward(problem, activities(problem, assign(problem))).run()
