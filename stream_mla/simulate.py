"""Replay: a second opinion on time.

Only the decisions of a schedule are taken: which core, and the order in which things start on each unit,
on each bandwidth resource and in each memory. All times are derived here, event by event: everything starts as
soon as its data are there, its turn has come, and bandwidth and memory have room.

Starting earlier never delays what comes later in the same order, so the replay of a valid schedule is valid and
never longer than the schedule claims.
"""

import heapq
from collections import defaultdict, deque
from dataclasses import replace
from itertools import pairwise

from stream_mla.problem import Problem
from stream_mla.routes import OFF_CHIP, Route
from stream_mla.schedule import Held, Move, Run, Schedule, route_of

_END, _ARRIVAL = 0, 1
"""Kinds of events; at one instant what frees goes first."""


class _Replay:
    """State of the machine while the events pass.

    Steps are numbered: the runs of the schedule, then its moves. So are the things on which steps take turns: units,
    then bandwidth resources, then memories.
    """

    def __init__(self, problem: Problem, schedule: Schedule) -> None:
        self.problem, self.schedule = problem, schedule
        runs, moves, cores = schedule.runs, schedule.moves, len(problem.cores)
        self.first_move = len(runs)
        self.first_resource = 2 * cores
        self.first_memory = self.first_resource + len(problem.resources)
        steps = len(runs) + len(moves)
        self.routes = [self._route(move) for move in moves]
        self.start = [-1] * steps
        self.queues: list[deque[int]] = [deque() for _ in range(self.first_memory + cores)]
        self.turns: list[list[int]] = [[] for _ in range(steps)]
        self.opens: list[list[int]] = [[] for _ in range(steps)]
        """Copies whose memory a step takes."""
        self.room: list[list[tuple[int, int]]] = [[] for _ in range(steps)]
        """(core, bits) that a step takes."""
        self.pending = [0] * len(schedule.held)
        """Uses of each copy that are not over."""
        self.waits = [0] * steps
        self.frees: dict[tuple[int, int], list[int]] = defaultdict(list)
        """(event, step) -> steps that wait for it."""
        self.free_bits = [core.type.sram.capacity for core in problem.cores]
        self.free_share = [resource.capacity for resource in problem.resources]
        self.unit_free = [True] * (2 * cores)
        self.held_from = [0] * len(schedule.held)
        self.held_to = [0] * len(schedule.held)
        self.events: list[tuple[int, int, int, int]] = []
        """A heap of (time, order of start, event, step)."""
        self.started = 0
        self._plan()
        self._precedences()

    def _route(self, move: Move) -> Route:
        route = route_of(self.problem, self.schedule, move)
        assert route is not None, "a valid schedule moves along links"
        return route

    def _plan(self) -> None:
        """Derive turns from the order of the claimed starts."""
        runs, moves, held = self.schedule.runs, self.schedule.moves, self.schedule.held
        order = [(run.start, run.end, run.tile, number) for number, run in enumerate(runs)]
        order += [(move.start, move.arrival, -1, self.first_move + number) for number, move in enumerate(moves)]
        opened = [False] * len(held)
        for _, _, _, step in sorted(order):
            if step < self.first_move:
                run = runs[step]
                turns = [self.problem.unit(run.tile, run.core)]
                fresh = [copy for copy in run.writes if not opened[copy]]
            else:
                number = step - self.first_move
                turns = [self.first_resource + resource for resource in self.routes[number].resources]
                fresh = [moves[number].target] if moves[number].target != OFF_CHIP else []
            need: dict[int, int] = {}
            for copy in fresh:
                opened[copy] = True
                need[held[copy].core] = need.get(held[copy].core, 0) + held[copy].bits
            turns += [self.first_memory + core for core in need]
            self.opens[step], self.turns[step], self.room[step] = fresh, turns, list(need.items())
            for turn in turns:
                self.queues[turn].append(step)

    def _after(self, step: int, event: int, before: int) -> None:
        self.waits[step] += 1
        self.frees[event, before].append(step)

    def _precedences(self) -> None:
        """Derive what each step waits for, and how many uses each copy has."""
        filled, stored = self._sources()
        for number, run in enumerate(self.schedule.runs):
            for copy in run.reads:
                self._after(number, *filled[copy])
            for copy in (*run.reads, *run.writes):
                self.pending[copy] += 1
        for step, move in enumerate(self.schedule.moves, start=self.first_move):
            if move.source != OFF_CHIP:
                self._after(step, *filled[move.source])
                self.pending[move.source] += 1
            elif move.block in stored:
                self._after(step, _ARRIVAL, stored[move.block])
            if move.target != OFF_CHIP:
                self.pending[move.target] += 1

    def _sources(self) -> tuple[dict[int, tuple[int, int]], dict[int, int]]:
        """Return what fills each copy and what brings each block to DRAM; put the steps of chains in order."""
        filled: dict[int, tuple[int, int]] = {}
        stored: dict[int, int] = {}
        chains: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for step, move in enumerate(self.schedule.moves, start=self.first_move):
            if move.target == OFF_CHIP:
                stored[move.block] = step
            else:
                filled[move.target] = (_ARRIVAL, step)
        for number, run in enumerate(self.schedule.runs):
            tile = self.problem.cut.tiles[run.tile]
            chains[tile.chain].append((tile.step, number))
            if tile.last:
                for copy in run.writes:
                    filled[copy] = (_END, number)
        for chain in chains.values():
            for (_, before), (_, after) in pairwise(sorted(chain)):
                self._after(after, _END, before)
        return filled, stored

    def _fits(self, step: int) -> bool:
        if self.waits[step] or self.start[step] >= 0:
            return False
        turns = self.turns[step]
        for turn in turns:
            if self.queues[turn][0] != step:
                return False
        for core, bits in self.room[step]:
            if self.free_bits[core] < bits:
                return False
        if step < self.first_move:
            return self.unit_free[turns[0]]
        route = self.routes[step - self.first_move]
        return all(self.free_share[resource] >= route.demand for resource in route.resources)

    def _begin(self, step: int, now: int) -> None:
        self.start[step] = now
        self.started += 1
        for turn in self.turns[step]:
            self.queues[turn].popleft()
        for core, bits in self.room[step]:
            self.free_bits[core] -= bits
        for copy in self.opens[step]:
            self.held_from[copy] = now
        if step < self.first_move:
            run = self.schedule.runs[step]
            self.unit_free[self.turns[step][0]] = False
            heapq.heappush(self.events, (now + self._run_cycles(run), self.started, _END, step))
            return
        number = step - self.first_move
        route = self.routes[number]
        for resource in route.resources:
            self.free_share[resource] -= route.demand
        end = now + self._move_cycles(number)
        heapq.heappush(self.events, (end, self.started, _END, step))
        heapq.heappush(self.events, (end + route.latency_cycles, self.started, _ARRIVAL, step))

    def _run_cycles(self, run: Run) -> int:
        return self.problem.cost(run.tile, run.core).cycles

    def _move_cycles(self, number: int) -> int:
        return self.routes[number].cycles(self.problem.cut.blocks[self.schedule.moves[number].block].bits)

    def _finish(self, event: int, step: int, now: int) -> list[int]:
        """Release what an event frees; return the steps that may now start."""
        touched: list[int] = []
        done: tuple[int, ...] = ()
        if step < self.first_move:
            run, unit = self.schedule.runs[step], self.turns[step][0]
            self.unit_free[unit] = True
            touched += self._head(unit)
            done = (*run.reads, *run.writes)
        else:
            number = step - self.first_move
            move, route = self.schedule.moves[number], self.routes[number]
            if event == _END:
                for resource in route.resources:
                    self.free_share[resource] += route.demand
                    touched += self._head(self.first_resource + resource)
                done = (move.source,) if move.source != OFF_CHIP else ()
            elif move.target != OFF_CHIP:
                done = (move.target,)
        for copy in done:
            self.pending[copy] -= 1
            if not self.pending[copy]:
                held = self.schedule.held[copy]
                self.free_bits[held.core] += held.bits
                self.held_to[copy] = now
                touched += self._head(self.first_memory + held.core)
        for other in self.frees.get((event, step), ()):
            self.waits[other] -= 1
            if not self.waits[other]:
                touched.append(other)
        return touched

    def _head(self, turn: int) -> list[int]:
        queue = self.queues[turn]
        return [queue[0]] if queue else []

    def run(self) -> Schedule:
        """Let all events pass and return the schedule with the derived times."""
        ready = [step for turn in range(len(self.queues)) for step in self._head(turn)]
        now = 0
        while True:
            while ready:
                step = ready.pop()
                if self._fits(step):
                    self._begin(step, now)
                    for turn in self.turns[step]:
                        ready += self._head(turn)
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
        runs: list[Run] = []
        for run, start in zip(self.schedule.runs, self.start[: self.first_move], strict=True):
            runs.append(replace(run, start=start, end=start + self._run_cycles(run)))
        moves: list[Move] = []
        for number, move in enumerate(self.schedule.moves):
            start = self.start[self.first_move + number]
            end = start + self._move_cycles(number)
            moves.append(replace(move, start=start, end=end, arrival=end + self.routes[number].latency_cycles))
        held: list[Held] = [
            replace(copy, start=since, end=until)
            for copy, since, until in zip(self.schedule.held, self.held_from, self.held_to, strict=True)
        ]
        return Schedule(runs=tuple(runs), moves=tuple(moves), held=tuple(held))


def replay(problem: Problem, schedule: Schedule) -> Schedule:
    """Return the schedule with its decisions kept and its times derived anew."""
    return _Replay(problem, schedule).run()
