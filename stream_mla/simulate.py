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
from enum import IntEnum
from itertools import pairwise

from stream_mla.problem import OFF_CHIP, Problem
from stream_mla.schedule import Held, Move, Run, Schedule, route_of

Step = tuple[str, int]
"""("run" or "move", position in the schedule)."""


class _Event(IntEnum):
    """Order at one instant: what frees goes first."""

    END = 0
    ARRIVAL = 1


class _Replay:
    """State of the machine while the events pass."""

    def __init__(self, problem: Problem, schedule: Schedule) -> None:
        self.problem, self.schedule = problem, schedule
        self.routes = [route_of(problem, schedule, move) for move in schedule.moves]
        self.start: dict[Step, int] = {}
        self.queues: dict[tuple[str, int], deque[Step]] = defaultdict(deque)
        self.turns: dict[Step, list[tuple[str, int]]] = {}
        self.opens: dict[Step, list[int]] = defaultdict(list)
        self.pending = [0] * len(schedule.held)
        """Uses of each copy that are not over."""
        self.waits: dict[Step, int] = defaultdict(int)
        self.frees: dict[tuple[_Event, Step], list[Step]] = defaultdict(list)
        self.free_bits = [core.type.sram.capacity for core in problem.cores]
        self.free_share = [resource.capacity for resource in problem.resources]
        self.unit_free = [True] * (2 * len(problem.cores))
        self.held_from = [0] * len(schedule.held)
        self.held_to = [0] * len(schedule.held)
        self.events: list[tuple[int, int, _Event, Step]] = []
        self._plan()

    def _plan(self) -> None:
        """Derive turns and precedences from the order of the claimed starts."""
        runs, moves = self.schedule.runs, self.schedule.moves
        steps: list[tuple[int, int, int, Step]] = [(r.start, r.end, r.tile, ("run", i)) for i, r in enumerate(runs)]
        steps += [(m.start, m.arrival, -1, ("move", i)) for i, m in enumerate(moves)]
        opened: set[int] = set()
        for _, _, _, step in sorted(steps):
            kind, number = step
            turns: list[tuple[str, int]] = []
            if kind == "run":
                run = runs[number]
                turns.append(("unit", self.problem.unit(run.tile, run.core)))
                fresh = [copy for copy in run.writes if copy not in opened]
            else:
                route = self.routes[number]
                assert route is not None
                turns += [("resource", resource) for resource in route.resources]
                fresh = [moves[number].target] if moves[number].target != OFF_CHIP else []
            opened.update(fresh)
            self.opens[step] = fresh
            turns += [("memory", core) for core in dict.fromkeys(self.schedule.held[copy].core for copy in fresh)]
            self.turns[step] = turns
            for turn in turns:
                self.queues[turn].append(step)
        self._precedences()

    def _after(self, step: Step, event: _Event, before: Step) -> None:
        self.waits[step] += 1
        self.frees[event, before].append(step)

    def _precedences(self) -> None:
        """Derive what each step waits for, and how many uses each copy has."""
        filled, stored = self._sources()
        for number, run in enumerate(self.schedule.runs):
            for copy in run.reads:
                self._after(("run", number), *filled[copy])
            for copy in (*run.reads, *run.writes):
                self.pending[copy] += 1
        for number, move in enumerate(self.schedule.moves):
            if move.source != OFF_CHIP:
                self._after(("move", number), *filled[move.source])
                self.pending[move.source] += 1
            elif move.block in stored:
                self._after(("move", number), _Event.ARRIVAL, stored[move.block])
            if move.target != OFF_CHIP:
                self.pending[move.target] += 1

    def _sources(self) -> tuple[dict[int, tuple[_Event, Step]], dict[int, Step]]:
        """Return what fills each copy and what brings each block to DRAM; put the steps of chains in order."""
        filled: dict[int, tuple[_Event, Step]] = {}
        stored: dict[int, Step] = {}
        chains: dict[int, list[tuple[int, Step]]] = defaultdict(list)
        for number, move in enumerate(self.schedule.moves):
            if move.target == OFF_CHIP:
                stored[move.block] = ("move", number)
            else:
                filled[move.target] = (_Event.ARRIVAL, ("move", number))
        for number, run in enumerate(self.schedule.runs):
            tile = self.problem.cut.tiles[run.tile]
            chains[tile.chain].append((tile.step, ("run", number)))
            if tile.last:
                filled |= dict.fromkeys(run.writes, (_Event.END, ("run", number)))
        for chain in chains.values():
            for (_, before), (_, after) in pairwise(sorted(chain)):
                self._after(after, _Event.END, before)
        return filled, stored

    def _fits(self, step: Step) -> bool:
        if self.waits[step] or any(self.queues[turn][0] != step for turn in self.turns[step]):
            return False
        need: dict[int, int] = defaultdict(int)
        for copy in self.opens[step]:
            need[self.schedule.held[copy].core] += self.schedule.held[copy].bits
        if any(self.free_bits[core] < bits for core, bits in need.items()):
            return False
        if step[0] == "run":
            return self.unit_free[self.turns[step][0][1]]
        route = self.routes[step[1]]
        assert route is not None
        return all(self.free_share[resource] >= route.demand for resource in route.resources)

    def _begin(self, step: Step, now: int) -> None:
        self.start[step] = now
        for turn in self.turns[step]:
            self.queues[turn].popleft()
        for copy in self.opens[step]:
            self.free_bits[self.schedule.held[copy].core] -= self.schedule.held[copy].bits
            self.held_from[copy] = now
        if step[0] == "run":
            run = self.schedule.runs[step[1]]
            self.unit_free[self.turns[step][0][1]] = False
            end = arrival = now + self.problem.cost(run.tile, run.core).cycles
        else:
            move, route = self.schedule.moves[step[1]], self.routes[step[1]]
            assert route is not None
            for resource in route.resources:
                self.free_share[resource] -= route.demand
            end = now + route.cycles(self.problem.cut.blocks[move.block].bits)
            arrival = end + route.latency_cycles
        order = len(self.start)
        heapq.heappush(self.events, (end, order, _Event.END, step))
        heapq.heappush(self.events, (arrival, order, _Event.ARRIVAL, step))

    def _finish(self, event: _Event, step: Step, now: int) -> list[Step]:
        """Release what an event frees; return the steps that may now start."""
        done: list[int] = []
        touched: list[Step] = []
        if step[0] == "run":
            run = self.schedule.runs[step[1]]
            if event is _Event.END:
                self.unit_free[self.problem.unit(run.tile, run.core)] = True
                done = [*run.reads, *run.writes]
                touched += self._heads([("unit", self.problem.unit(run.tile, run.core))])
        else:
            move, route = self.schedule.moves[step[1]], self.routes[step[1]]
            assert route is not None
            if event is _Event.END:
                for resource in route.resources:
                    self.free_share[resource] += route.demand
                touched += self._heads([("resource", resource) for resource in route.resources])
                done = [move.source] if move.source != OFF_CHIP else []
            elif move.target != OFF_CHIP:
                done = [move.target]
        for copy in done:
            self.pending[copy] -= 1
            if not self.pending[copy]:
                held = self.schedule.held[copy]
                self.free_bits[held.core] += held.bits
                self.held_to[copy] = now
                touched += self._heads([("memory", held.core)])
        for other in self.frees[event, step]:
            self.waits[other] -= 1
            touched.append(other)
        return touched

    def _heads(self, turns: list[tuple[str, int]]) -> list[Step]:
        return [self.queues[turn][0] for turn in turns if self.queues[turn]]

    def run(self) -> Schedule:
        """Let all events pass and return the schedule with the derived times."""
        ready = self._heads(list(self.queues))
        now = 0
        while True:
            while ready:
                step = ready.pop()
                if step not in self.start and self._fits(step):
                    self._begin(step, now)
                    ready += self._heads(self.turns[step])
            if not self.events:
                break
            now = self.events[0][0]
            while self.events and self.events[0][0] == now:
                _, _, event, step = heapq.heappop(self.events)
                ready += self._finish(event, step, now)
        if len(self.start) != len(self.turns):
            raise AssertionError("the order of this schedule cannot be replayed: its steps wait for each other")
        return self._timed()

    def _timed(self) -> Schedule:
        runs: list[Run] = []
        for number, run in enumerate(self.schedule.runs):
            start = self.start["run", number]
            runs.append(replace(run, start=start, end=start + self.problem.cost(run.tile, run.core).cycles))
        moves: list[Move] = []
        for number, move in enumerate(self.schedule.moves):
            start, route = self.start["move", number], self.routes[number]
            assert route is not None
            end = start + route.cycles(self.problem.cut.blocks[move.block].bits)
            moves.append(replace(move, start=start, end=end, arrival=end + route.latency_cycles))
        held: list[Held] = [
            replace(copy, start=self.held_from[number], end=self.held_to[number])
            for number, copy in enumerate(self.schedule.held)
        ]
        return Schedule(runs=tuple(runs), moves=tuple(moves), held=tuple(held))


def replay(problem: Problem, schedule: Schedule) -> Schedule:
    """Return the schedule with its decisions kept and its times derived anew."""
    return _Replay(problem, schedule).run()
