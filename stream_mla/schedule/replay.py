"""Replay: a second opinion on time.

Only the decisions of a schedule are taken: which core, and the order in which things start on each unit,
on each bandwidth resource, in each memory, and, where a core's array takes turns with late loads, among these. All
times are derived here, event by event: everything starts as soon as its data are there, its phase and its turn have
come, and bandwidth and memory have room.

Starting earlier never delays what comes later in the same order, so the replay of a valid schedule is valid and
never longer than the schedule claims.
"""

import heapq
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from stream_mla.gc_pause import gc_paused
from stream_mla.hardware.interconnect import OFF_CHIP, Route
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.schedule import Residency, Schedule, TileRun, Transfer, route_of

_END, _ARRIVAL, _PHASE = 0, 1, 2
"""Kinds of events; at one instant what frees goes first. The end of a phase is the end of its last tile."""


class _Replay:
    """State of the machine while the events pass.

    Steps are numbered: the runs of the schedule, then its moves. So are the things on which steps take turns: units,
    then bandwidth resources, then memories, then arrays between tiles and late loads.
    """

    def __init__(self, problem: Problem, schedule: Schedule) -> None:
        self.problem, self.schedule = problem, schedule
        runs, transfers, cores = schedule.runs, schedule.transfers, len(problem.cores)
        self.first_move = len(runs)
        self.first_resource = len(problem.units)
        self.first_memory = self.first_resource + len(problem.resources)
        self.first_array = self.first_memory + cores
        self.is_array, self.core_of_unit, self.array_of = problem.is_array, problem.core_of_unit, problem.array_of
        steps = len(runs) + len(transfers)
        self.routes = [self._route(transfer) for transfer in transfers]
        self.cycles = [problem.cost(run.tile, run.core).cycles for run in runs]
        self.cycles += [
            r.cycles(problem.tile_graph.blocks[m.block].bits) for m, r in zip(transfers, self.routes, strict=True)
        ]
        self.start = [-1] * steps
        self.queues: list[deque[int]] = [deque() for _ in range(self.first_array + cores)]
        self.turns: list[Sequence[int]] = [()] * steps
        self.opens: list[Sequence[int]] = [()] * steps
        """Copies whose memory a step takes."""
        self.room: list[Sequence[tuple[int, int]]] = [()] * steps
        """(core, bits) that a step takes."""
        self.pending = [0] * len(schedule.residencies)
        """Uses of each copy that are not over."""
        self.waits = [0] * steps
        self.frees: list[dict[int, list[int]]] = [defaultdict(list) for _ in (_END, _ARRIVAL, _PHASE)]
        """It holds, for each kind of event: step -> steps that wait for it."""
        self.free_bits = [core.type.sram.capacity for core in problem.cores]
        self.free_share = [resource.capacity for resource in problem.resources]
        self.unit_free = [True] * len(problem.units)
        self.single_buffered = [self._cores_stopped_by(transfer) for transfer in transfers]
        """Cores whose arrays may not work while a move is under way."""
        self.loads_stopping_array = [0] * cores
        self.held_from = [0] * len(schedule.residencies)
        self.held_to = [0] * len(schedule.residencies)
        self.events: list[tuple[int, int, int, int]] = []
        """A heap of (time, order of start, event, step)."""
        self.started = 0
        self._plan()
        self._precedences()
        self._phases()

    def _route(self, transfer: Transfer) -> Route:
        route = route_of(self.problem, self.schedule, transfer)
        assert route is not None, "a valid schedule moves along links"
        return route

    def _cores_stopped_by(self, transfer: Transfer) -> tuple[int, ...]:
        if transfer.source != OFF_CHIP or not self.problem.tile_graph.blocks[transfer.block].single_buffered:
            return ()
        return tuple(self.schedule.residencies[residency].core for residency in transfer.filled)

    def _plan(self) -> None:
        """Derive turns from the order of the claimed starts."""
        runs, transfers, held = self.schedule.runs, self.schedule.transfers, self.schedule.residencies
        order = [(run.start, run.end, run.tile, number) for number, run in enumerate(runs)]
        order += [
            (transfer.start, transfer.arrival, -1, self.first_move + number)
            for number, transfer in enumerate(transfers)
        ]
        opened = [False] * len(held)
        shared_arrays = {core for cores in self.single_buffered for core in cores}
        order.sort()
        for _, _, _, step in order:
            residencies: Sequence[int]
            if step < self.first_move:
                run = runs[step]
                turns = [self.problem.unit(run.tile, run.core)]
                if run.core in shared_arrays and self.problem.is_array[turns[0]]:
                    turns.append(self.first_array + run.core)
                residencies = [residency for residency in run.writes if not opened[residency]]
            else:
                number = step - self.first_move
                turns = [self.first_resource + resource for resource in self.routes[number].resources]
                turns += [self.first_array + core for core in self.single_buffered[number]]
                residencies = transfers[number].filled
            if residencies:
                self._take_room(step, residencies, opened, turns)
            self.turns[step] = turns
            for turn in turns:
                self.queues[turn].append(step)

    def _take_room(self, step: int, residencies: Sequence[int], opened: list[bool], turns: list[int]) -> None:
        """Let a step take the memory of the copies that it begins, in its turn on each core."""
        need: dict[int, int] = {}
        for residency in residencies:
            opened[residency] = True
            held = self.schedule.residencies[residency]
            need[held.core] = need.get(held.core, 0) + held.bits
        turns += [self.first_memory + core for core in need]
        self.opens[step], self.room[step] = residencies, list(need.items())

    def _after(self, step: int, event: int, before: int) -> None:
        self.waits[step] += 1
        self.frees[event][before].append(step)

    def _precedences(self) -> None:
        """Derive what each step waits for, and how many uses each copy has."""
        filled, stored = self._sources()
        frees, pending = self.frees, self.pending
        for number, run in enumerate(self.schedule.runs):
            self.waits[number] += len(run.reads)
            for residency in run.reads:
                event, before = filled[residency]
                frees[event][before].append(number)
            for residency in run.reads + run.writes:
                pending[residency] += 1
        for step, transfer in enumerate(self.schedule.transfers, start=self.first_move):
            if transfer.source != OFF_CHIP:
                self._after(step, *filled[transfer.source])
                self.pending[transfer.source] += 1
            elif transfer.block in stored:
                self._after(step, _ARRIVAL, stored[transfer.block])
            for residency in transfer.filled:
                self.pending[residency] += 1

    def _phases(self) -> None:
        """Let the tiles and loads of each phase wait for the tiles of the phases before."""
        phases = [self.problem.tile_graph.tiles[run.tile].phase for run in self.schedule.runs]
        self.phase = 0
        self.unfinished = [phases.count(phase) for phase in range(max(phases) + 1)]
        """Tiles of each phase."""
        if len(self.unfinished) == 1:
            return
        needed: dict[int, int] = {}
        for run, phase in zip(self.schedule.runs, phases, strict=True):
            for residency in run.reads:
                needed[residency] = min(phase, needed.get(residency, phase))
        for transfer in self.schedule.transfers:
            of_copies = (needed[residency] for residency in transfer.filled if residency in needed)
            phases.append(min(of_copies, default=0) if transfer.source == OFF_CHIP else 0)
        for step, phase in enumerate(phases):
            if phase:
                self._after(step, _PHASE, phase - 1)

    def _sources(self) -> tuple[dict[int, tuple[int, int]], dict[int, int]]:
        """Return what fills each copy and what brings each block to DRAM; put the steps of chains in order."""
        filled: dict[int, tuple[int, int]] = {}
        stored: dict[int, int] = {}
        chains: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for step, transfer in enumerate(self.schedule.transfers, start=self.first_move):
            if transfer.target == OFF_CHIP:
                stored[transfer.block] = step
            for residency in transfer.filled:
                filled[residency] = (_ARRIVAL, step)
        for number, run in enumerate(self.schedule.runs):
            tile = self.problem.tile_graph.tiles[run.tile]
            chains[tile.chain].append((tile.step, number))
            if tile.last:
                for residency in run.writes:
                    filled[residency] = (_END, number)
        for chain in chains.values():
            chain.sort()
            for (_, before), (_, after) in pairwise(chain):
                self._after(after, _END, before)
        return filled, stored

    def _fits(self, step: int) -> bool:
        """Whether it is a step's turn everywhere, and there is room, for one that waits for no event any more."""
        turns, queues = self.turns[step], self.queues
        for turn in turns:
            if queues[turn][0] != step:
                return False
        for core, bits in self.room[step]:
            if self.free_bits[core] < bits:
                return False
        if step < self.first_move:
            unit = turns[0]
            stopped = self.is_array[unit] and self.loads_stopping_array[self.core_of_unit[unit]]
            return self.unit_free[unit] and not stopped
        number = step - self.first_move
        for core in self.single_buffered[number]:
            if not self.unit_free[self.array_of[core]]:
                return False
        route = self.routes[number]
        demand = route.demand
        return all(self.free_share[resource] >= demand for resource in route.resources)

    def _begin(self, step: int, now: int) -> None:
        self.start[step] = now
        self.started += 1
        for turn in self.turns[step]:
            self.queues[turn].popleft()
        for core, bits in self.room[step]:
            self.free_bits[core] -= bits
        for residency in self.opens[step]:
            self.held_from[residency] = now
        if step < self.first_move:
            self.unit_free[self.turns[step][0]] = False
            heapq.heappush(self.events, (now + self.cycles[step], self.started, _END, step))
            return
        number = step - self.first_move
        route = self.routes[number]
        for resource in route.resources:
            self.free_share[resource] -= route.demand
        for core in self.single_buffered[number]:
            self.loads_stopping_array[core] += 1
        end = now + self.cycles[step]
        heapq.heappush(self.events, (end, self.started, _END, step))
        heapq.heappush(self.events, (end + route.latency_cycles, self.started, _ARRIVAL, step))

    def _finish(self, event: int, step: int, now: int) -> list[int]:
        """Release what an event frees; return the steps that may now start."""
        queues = self.queues
        freed: list[int] = []
        """Turns that may go on."""
        touched: list[int] = []
        done: Sequence[int] = ()
        if step < self.first_move:
            run, unit = self.schedule.runs[step], self.turns[step][0]
            self.unit_free[unit] = True
            freed += (unit, self.first_array + self.core_of_unit[unit]) if self.is_array[unit] else (unit,)
            touched = self._finish_phase(self.problem.tile_graph.tiles[run.tile].phase)
            done = run.reads + run.writes
        else:
            number = step - self.first_move
            transfer = self.schedule.transfers[number]
            if event == _END:
                route = self.routes[number]
                for resource in route.resources:
                    self.free_share[resource] += route.demand
                    freed.append(self.first_resource + resource)
                for core in self.single_buffered[number]:
                    self.loads_stopping_array[core] -= 1
                    freed.append(self.first_array + core)
                done = (transfer.source,) if transfer.source != OFF_CHIP else ()
            else:
                done = transfer.filled
        for residency in done:
            self.pending[residency] -= 1
            if not self.pending[residency]:
                held = self.schedule.residencies[residency]
                self.free_bits[held.core] += held.bits
                self.held_to[residency] = now
                freed.append(self.first_memory + held.core)
        touched += [queues[turn][0] for turn in freed if queues[turn]]
        return touched + self._met(event, step)

    def _met(self, event: int, step: int) -> list[int]:
        """Note that an event has come; return the steps that wait for no other."""
        waits = self.waits
        touched: list[int] = []
        for other in self.frees[event].get(step, ()):
            waits[other] -= 1
            if not waits[other]:
                touched.append(other)
        return touched

    def _finish_phase(self, phase: int) -> list[int]:
        """Note that a tile has ended; return the steps that the end of its phase lets go."""
        touched: list[int] = []
        self.unfinished[phase] -= 1
        if self.unfinished[phase]:
            return touched
        while self.phase < len(self.unfinished) and not self.unfinished[self.phase]:
            touched += self._met(_PHASE, self.phase)
            self.phase += 1
        return touched

    def run(self) -> Schedule:
        """Let all events pass and return the schedule with the derived times."""
        ready = [queue[0] for queue in self.queues if queue]
        waits, start, queues = self.waits, self.start, self.queues
        now = 0
        while True:
            while ready:
                step = ready.pop()
                if not waits[step] and start[step] < 0 and self._fits(step):
                    self._begin(step, now)
                    ready += [queues[turn][0] for turn in self.turns[step] if queues[turn]]
            if not self.events:
                break
            now = self.events[0][0]
            while self.events and self.events[0][0] == now:
                _, _, event, step = heapq.heappop(self.events)
                ready += self._finish(event, step, now)
        if self.started != len(self.start):
            raise AssertionError("the order of this schedule cannot be replayed: its steps wait for each other")
        return self._timed()

    def _timed(self) -> Schedule:
        """Return the schedule with the derived times; what keeps its times stays the same object."""
        starts, moved = self.start, self.start[self.first_move :]
        runs = [
            r
            if r.start == start and r.end == start + cycles
            else TileRun(tile=r.tile, core=r.core, start=start, end=start + cycles, reads=r.reads, writes=r.writes)
            for r, start, cycles in zip(self.schedule.runs, starts, self.cycles, strict=False)
        ]
        transfers: list[Transfer] = []
        lasting = self.cycles[self.first_move :]
        for m, route, start, cycles in zip(self.schedule.transfers, self.routes, moved, lasting, strict=True):
            end = start + cycles
            arrival = end + route.latency_cycles
            same = (m.start, m.end, m.arrival) == (start, end, arrival)
            transfers.append(m if same else replace(m, start=start, end=end, arrival=arrival))
        held = [
            residency
            if residency.start == since and residency.end == until
            else Residency(block=residency.block, core=residency.core, bits=residency.bits, start=since, end=until)
            for residency, since, until in zip(self.schedule.residencies, self.held_from, self.held_to, strict=True)
        ]
        return Schedule(runs=tuple(runs), transfers=tuple(transfers), residencies=tuple(held))


@gc_paused
def replay(problem: Problem, schedule: Schedule) -> Schedule:
    """Return the schedule with its decisions kept and its times derived anew.

    >>> from stream_mla import Point, evaluate
    >>> outcome = evaluate(Point.of("llama_3_8b", "flat_cloud", context=64, time_limit=0))
    >>> replay(outcome.problem, outcome.schedule) == outcome.schedule  # it was replayed already
    True
    """
    return _Replay(problem, schedule).run()
