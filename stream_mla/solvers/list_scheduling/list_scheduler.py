"""The machine as time runs forward: what greedy does once every cluster has its core.

Units and links take the ready step that stands first in a given order of the tiles. Memory is reserved in this order on
each core, as far ahead as it lasts, so loads run ahead of their tiles (prefetch) and the first unfinished tile can
always proceed. Three rules hold it back:

- the tiles of a phase, and their loads, wait for all tiles of the phases before;
- late loads take turns with the tiles on a core's array: a tile that is ready goes first, and only what the next tile
  in order needs is loaded;
- a multicast waits until all its cores have room. Where nothing else can go on, those that have room get theirs, and
  the others later: a multicast never stops what would run without it.
"""

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from enum import IntEnum
from math import inf

from stream_mla.hardware.interconnect import OFF_CHIP
from stream_mla.schedule.activities import Activities, fan_out
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.schedule import Schedule
from stream_mla.schedule.timing import timed
from stream_mla.solvers.cutoff import CutoffError, RemainingWork
from stream_mla.solvers.list_scheduling.memory_reservations import MemoryReservations
from stream_mla.solvers.list_scheduling.transfer_queue import TransferQueue

LOOK_EVERY = 100
"""So many instants pass between two looks at what is left."""


class _Event(IntEnum):
    END = 0
    ARRIVAL = 1


class ListScheduler:
    """The machine as time runs forward over a fixed set of activities."""

    def __init__(self, problem: Problem, acts: Activities, order: Sequence[int] | None = None) -> None:
        """`order` is a topological order of the tiles; without one, theirs."""
        self.problem, self.acts = problem, acts
        tile_graph = problem.tile_graph
        self.order = range(len(tile_graph.tiles)) if order is None else order
        self.rank = [0] * len(tile_graph.tiles)
        for rank, tile in enumerate(self.order):
            self.rank[tile] = rank
        rank = self.rank
        self.first_use = [min([rank[user] for user in residency.users], default=-1) for residency in acts.residencies]
        self.core_of = [acts.core_of_group[tile.group] for tile in tile_graph.tiles]
        self.unit_of = [problem.unit(tile, core) for tile, core in enumerate(self.core_of)]
        self.cycles = [problem.cost(tile, core).cycles for tile, core in enumerate(self.core_of)]
        self.run_start = [-1] * len(tile_graph.tiles)
        self.complete = [False] * len(acts.residencies)
        self.unit_free = [True] * len(problem.units)
        self.ready_tiles: dict[int, list[int]] = defaultdict(list)
        self.touched_units: set[int] = set()
        self.traffic = TransferQueue(problem.resources)
        self.now = 0
        self.events: list[tuple[int, int, _Event, bool, int]] = []
        self._prepare_moves()
        self.remaining = RemainingWork(problem, self.unit_of, self.cycles, self.transfers)
        self._prepare_phases()
        self._prepare_turns()
        self.waits = [
            len(set(reads)) + len(writes) * (tile.step == 0) + (tile.step > 0) + (tile.phase > 0)
            for tile, reads, writes in zip(tile_graph.tiles, acts.reads, acts.writes, strict=True)
        ]
        steps = {(tile.chain, tile.step): number for number, tile in enumerate(tile_graph.tiles)}
        self.next_step = [steps.get((tile.chain, tile.step + 1), -1) for tile in tile_graph.tiles]
        self.first_step = {
            residency: number
            for number, writes in enumerate(acts.writes)
            if tile_graph.tiles[number].step == 0
            for residency in writes
        }
        self.memory = MemoryReservations(problem, acts, self.order, self._granted)

    def _prepare_moves(self) -> None:
        self.transfers = list(self.acts.transfers)
        self.brought_by = [residency.brought_by for residency in self.acts.residencies]
        self.transfer_start = [-1] * len(self.transfers)
        self.in_dram = [transfer.after_store < 0 for transfer in self.transfers]
        self.missing = [len(transfer.filled) for transfer in self.transfers]
        """Copies of each move that have no memory yet."""
        self.partly: set[int] = set()
        """Moves of which some copies have memory and others not."""
        self.priority = [self._urgency(number) for number in range(len(self.transfers))]
        self.loads_after: dict[int, list[int]] = defaultdict(list)
        for number, transfer in enumerate(self.transfers):
            if transfer.after_store >= 0:
                self.loads_after[transfer.after_store].append(number)

    def _urgency(self, number: int) -> int:
        """A load is as urgent as its first user; a store as the tile that made the block: the rank of the tile."""
        transfer = self.transfers[number]
        if transfer.target == OFF_CHIP:
            return self.rank[self.problem.tile_graph.maker[transfer.block]]
        return min(self.first_use[residency] for residency in transfer.filled)

    def _prepare_phases(self) -> None:
        tiles = self.problem.tile_graph.tiles
        self.phase = 0
        self.unfinished = [0] * (1 + max(tile.phase for tile in tiles))
        """Tiles of each phase."""
        self.next_phase: list[list[int]] = [[] for _ in self.unfinished]
        for number, tile in enumerate(tiles):
            self.unfinished[tile.phase] += 1
            self.next_phase[tile.phase].append(number)
        self.held_back: list[list[int]] = [[] for _ in self.unfinished]
        """Loads that could start but for their phase."""

    def _prepare_turns(self) -> None:
        cores = self.problem.cores
        self.single_buffered = [self._cores_stopped_by(number) for number in range(len(self.transfers))]
        self.loads_stopping_array = [0] * len(cores)
        self.loads_waiting_for_array: list[set[int]] = [set() for _ in cores]
        self.array_tiles: list[list[int]] = [[] for _ in cores]
        """Tiles on each array that have not started, the last first; some in between may have."""
        if any(self.single_buffered):
            for tile in reversed(self.order):
                core = self.core_of[tile]
                if self.problem.is_array[self.unit_of[tile]]:
                    self.array_tiles[core].append(tile)

    def _cores_stopped_by(self, number: int) -> tuple[int, ...]:
        """Cores whose arrays may not work while this move is under way."""
        transfer = self.transfers[number]
        if transfer.source != OFF_CHIP or not self.problem.tile_graph.blocks[transfer.block].single_buffered:
            return ()
        return tuple(self.acts.residencies[residency].core for residency in transfer.filled)

    def _granted(self, residency: int) -> None:
        """Let a load, or the first step of a chain, go on that waited for the memory of a residency."""
        transfer = self.brought_by[residency]
        if transfer >= 0:
            self.missing[transfer] -= 1
            (self.partly.add if self.missing[transfer] else self.partly.discard)(transfer)
            self._offer_move(transfer)
        else:
            self._met(self.first_step[residency])

    def _offer_move(self, number: int) -> None:
        transfer = self.transfers[number]
        has_source = self.in_dram[number] if transfer.source == OFF_CHIP else self.complete[transfer.source]
        if not has_source or self.missing[number]:
            return
        phase = self._phase_of_load(number) if self.phase < len(self.unfinished) - 1 else 0
        if phase > self.phase:
            self.held_back[phase].append(number)
        else:
            self._offer(number)

    def _offer(self, number: int) -> None:
        self.traffic.offer(self.priority[number], number, self.transfers[number].route)

    def _phase_of_load(self, number: int) -> int:
        """The phase of the first tile that needs it; other moves have none."""
        if self.transfers[number].source != OFF_CHIP:
            return 0
        return self.problem.tile_graph.tiles[self.order[self.priority[number]]].phase

    def _met(self, tile: int) -> None:
        """Note that one thing a tile waits for has come."""
        self.waits[tile] -= 1
        if not self.waits[tile]:
            unit = self.unit_of[tile]
            heapq.heappush(self.ready_tiles[unit], self.rank[tile])
            self.touched_units.add(unit)

    def _start_all(self) -> None:
        """Start what can start: on freed units, then moves in order of urgency."""
        is_array, core_of_unit = self.problem.is_array, self.problem.core_of_unit
        for unit in self.touched_units:
            stopped = is_array[unit] and self.loads_stopping_array[core_of_unit[unit]]
            if self.ready_tiles[unit] and self.unit_free[unit] and not stopped:
                tile = self.order[heapq.heappop(self.ready_tiles[unit])]
                self.unit_free[unit] = False
                self.run_start[tile] = self.now
                cycles = self.cycles[tile]
                self.remaining.on_unit[unit] -= cycles
                end = self.now + cycles
                heapq.heappush(self.events, (end, tile, _Event.END, True, tile))
        for unit in self.touched_units:
            if is_array[unit] and self.loads_waiting_for_array[core_of_unit[unit]]:
                self._offer_waiting_loads(core_of_unit[unit])
        self.touched_units.clear()
        self.traffic.start(self._waits_for_turn, self._begin_move)

    def _waits_for_turn(self, number: int) -> bool:
        """Whether a load is late and may not start yet: then it is set aside until something about an array changes."""
        if not self.single_buffered[number] or self._may_stop_arrays(number):
            return False
        for core in self.single_buffered[number]:
            self.loads_waiting_for_array[core].add(number)
        return True

    def _begin_move(self, number: int) -> None:
        transfer = self.transfers[number]
        self.transfer_start[number] = self.now
        self.remaining.remove(transfer)
        for core in self.single_buffered[number]:
            self.loads_stopping_array[core] += 1
        end = self.now + transfer.cycles
        heapq.heappush(self.events, (end, number, _Event.END, False, number))
        heapq.heappush(self.events, (end + transfer.route.latency_cycles, number, _Event.ARRIVAL, False, number))

    def _may_stop_arrays(self, number: int) -> bool:
        """Whether no array that it stops works or could, and some core cannot go on in order without it."""
        arrays = [self.problem.array_of[core] for core in self.single_buffered[number]]
        if any(not self.unit_free[array] or self.ready_tiles[array] for array in arrays):
            return False
        for residency, core in zip(self.transfers[number].filled, self.single_buffered[number], strict=True):
            left = self.array_tiles[core]
            while left and self.run_start[left[-1]] >= 0:
                left.pop()
            if not left or self.first_use[residency] <= self.rank[left[-1]]:
                return True
        return False

    def _offer_waiting_loads(self, core: int) -> None:
        """Offer the late loads that may start now that something about this core's array has changed."""
        for number in sorted(self.loads_waiting_for_array[core]):
            if self._may_stop_arrays(number):
                for other in self.single_buffered[number]:
                    self.loads_waiting_for_array[other].discard(number)
                self._offer(number)

    def _tile_done(self, tile: int) -> None:
        unit = self.unit_of[tile]
        self.unit_free[unit] = True
        self.touched_units.add(unit)
        self._count_phase(self.problem.tile_graph.tiles[tile].phase)
        if self.next_step[tile] >= 0:
            self._met(self.next_step[tile])
        writes = self.acts.writes[tile]
        for residency in writes if self.problem.tile_graph.tiles[tile].last else ():
            self._completed(residency)
        for residency in self.acts.reads[tile] + writes:
            self.memory.end_use(residency)

    def _count_phase(self, phase: int) -> None:
        """Note that a tile has ended; after the last of a phase the next one begins."""
        self.unfinished[phase] -= 1
        if self.unfinished[phase] or self.phase == len(self.unfinished) - 1:
            return
        self.phase += 1
        for tile in self.next_phase[self.phase]:
            self._met(tile)
        for number in self.held_back[self.phase]:
            self._offer(number)

    def _completed(self, residency: int) -> None:
        self.complete[residency] = True
        for user in self.acts.residencies[residency].users:
            self._met(user)
        for transfer in self.acts.residencies[residency].transfers_out:
            self._offer_move(transfer)

    def _move_event(self, number: int, event: _Event) -> None:
        transfer = self.transfers[number]
        if event is _Event.END:
            self.traffic.end(transfer.route)
            for core in self.single_buffered[number]:
                self.loads_stopping_array[core] -= 1
                self.touched_units.add(self.problem.array_of[core])
            if transfer.source != OFF_CHIP:
                self.memory.end_use(transfer.source)
        elif transfer.target == OFF_CHIP:
            for load in self.loads_after[number]:
                self.in_dram[load] = True
                self._offer_move(load)
        else:
            for residency in transfer.filled:
                self._completed(residency)

    def run(self, limit: float = inf) -> Schedule:
        """Run until everything is done; the error of `greedy` where memory is full and nothing can end.

        CutoffError as soon as it is known that this takes more cycles than the limit.
        """
        instants = 0
        for core in range(len(self.problem.cores)):
            self.memory.reserve(core)
        while True:
            if instants % LOOK_EVERY == 0 and self.now + self.remaining.cycles > limit:
                raise CutoffError
            instants += 1
            self._start_all()
            if not self.events and not self._split_multicast():
                break
            if not self.events:
                continue
            self.now = self.events[0][0]
            while self.events and self.events[0][0] == self.now:
                _, _, event, is_run, number = heapq.heappop(self.events)
                if is_run:
                    self._tile_done(number)
                else:
                    self._move_event(number, event)
        if -1 in self.run_start:
            tile = next(tile for tile in self.order if self.run_start[tile] < 0)
            raise self.memory.deadlock(tile, self.core_of[tile], self.now)
        if self.now > limit:
            raise CutoffError
        return timed(
            self.problem, replace(self.acts, transfers=tuple(self.transfers)), self.run_start, self.transfer_start
        )

    def _split_multicast(self) -> bool:
        """Fill the copies that have room without those that have none, of the most urgent multicast that waits so.

        Returns whether there was one. The rest becomes a load of its own.
        """
        able = [n for n in self.partly if self.in_dram[n] and self._phase_of_load(n) <= self.phase]
        if not able:
            return False
        granted = self.memory.granted
        number = min(able, key=lambda n: min(self.first_use[c] for c in self.transfers[n].filled if granted[c]))
        self.partly.discard(number)
        transfer = self.transfers[number]
        parts = [
            [residency for residency in transfer.filled if granted[residency] is has_memory]
            for has_memory in (True, False)
        ]
        cores = [[self.acts.residencies[residency].core for residency in part] for part in parts]
        new, rest = (fan_out(self.problem, transfer, *part) for part in zip(parts, cores, strict=True))
        self.remaining.remove(transfer)
        self.remaining.add(new)
        self.remaining.add(rest)
        self.transfers[number] = new
        self.transfers.append(rest)
        for residency in rest.filled:
            self.brought_by[residency] = len(self.transfers) - 1
        self.transfer_start.append(-1)
        self.in_dram.append(True)
        self.missing[number] = 0
        self.missing.append(len(rest.filled))
        self.priority[number] = self._urgency(number)
        self.priority.append(self._urgency(len(self.transfers) - 1))
        self.single_buffered[number] = self._cores_stopped_by(number)
        self.single_buffered.append(self._cores_stopped_by(len(self.transfers) - 1))
        self._offer_move(number)
        return True
