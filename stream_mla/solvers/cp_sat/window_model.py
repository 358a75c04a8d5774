"""The CP-SAT model of a window of a schedule: the steps in it are free, and all that follows moves up as one.

Every step that runs between two instants is free in time; where it runs is not. What came before stays where it is.
What comes after keeps its times relative to each other and begins `gain` cycles sooner: the most is wanted. All free
steps must have ended by then, up to the last of them now: so only what lies between the first start and the last end of
the free steps is in the model, whatever the size of the schedule.
"""

from collections import defaultdict
from dataclasses import dataclass
from math import gcd

import numpy as np
from ortools.sat.python import cp_model

from stream_mla.schedule.problem import Problem
from stream_mla.schedule.timing import Cycles, Steps, Times


@dataclass(frozen=True, kw_only=True)
class Found:
    """It is what the solver made of a window."""

    gain: int
    """Cycles by which all that follows can begin sooner."""
    proven: bool
    """Whether no more can be gained here."""
    start: Cycles
    """All steps start at these cycles, with the gain."""
    work: float
    """Deterministic time of the solver."""


class _Window:
    def __init__(self, problem: Problem, steps: Steps, times: Times, begin: int, end: int, later: Times) -> None:
        self.problem, self.steps, self.times = problem, steps, times
        self.begin, self.end = begin, end
        self.later = later
        self.free = np.nonzero((times.done > begin) & (times.start < end))[0].tolist()
        self.first = int(times.start[self.free].min())
        self.last = min(int(times.done[self.free].max()) + end - begin, int(times.done.max()))
        past = np.nonzero((times.done > self.first) & (times.done <= begin))[0].tolist()
        future = np.nonzero((times.start >= end) & (later.start < self.last))[0].tolist()
        self.model = cp_model.CpModel()
        span = self.last - self.first
        self.gain = self.model.new_int_var(0, min(end - begin, span), "gain")
        self.model.add_hint(self.gain, 0)
        self.start: dict[int, cp_model.LinearExprT] = {}
        """The steps in the model start at these cycles, counted from `first`."""
        self.variable: dict[int, cp_model.IntVar] = {}
        for step in self.free:
            now = int(times.start[step]) - self.first
            variable = self.model.new_int_var(0, span - steps.cycles[step] - steps.latency[step], f"s{step}")
            self.model.add_hint(variable, now)
            self.start[step] = self.variable[step] = variable
            self.model.add(self._done(step) <= span - self.gain)
        self.start.update((step, int(times.start[step]) - self.first) for step in past)
        self.start.update((step, int(later.start[step]) - self.first - self.gain) for step in future)
        self.moving = {*self.free, *future}
        self._order()
        self._phases()
        self._resources()
        self._memories()
        self.model.maximize(self.gain)

    def _end(self, step: int) -> cp_model.LinearExprT:
        return self.start[step] + self.steps.cycles[step]

    def _done(self, step: int) -> cp_model.LinearExprT:
        return self._end(step) + self.steps.latency[step]

    def _order(self) -> None:
        """Steps wait for what they need."""
        for step in self.moving:
            for before in self.steps.before[step]:
                if before in self.variable or (before in self.start and step in self.variable):
                    self.model.add(self.start[step] >= self._done(before))

    def _phases(self) -> None:
        """Runs and loads of a phase wait for all runs of the phases before."""
        phase = self.steps.phase
        for number in sorted({phase[step] for step in self.moving} - {0}):
            runs = [step for step in self.start if step < self.steps.runs and phase[step] < number]
            if not any(run in self.variable for run in runs):
                continue
            border = self.model.new_int_var(0, self.last - self.first, f"p{number}")
            for run in runs:
                self.model.add(border >= self._done(run))
            for step in self.moving:
                if phase[step] >= number:
                    self.model.add(self.start[step] >= border)

    def _interval(self, step: int) -> cp_model.IntervalVar:
        return self.model.new_fixed_size_interval_var(self.start[step], self.steps.cycles[step], f"i{step}")

    def _resources(self) -> None:
        """Units run one tile at a time, bandwidths carry no more than they can, late loads stop arrays."""
        intervals = {step: self._interval(step) for step in self.start}
        units: dict[int, list[int]] = defaultdict(list)
        flows: dict[int, list[tuple[int, int]]] = defaultdict(list)
        stops: dict[int, list[int]] = defaultdict(list)
        for step in self.start:
            if step < self.steps.runs:
                units[self.steps.units[step]].append(step)
            for resource, demand in self.steps.shares[step]:
                flows[resource].append((step, demand))
            for core in self.steps.single_buffered[step]:
                stops[core].append(step)
        for users in units.values():
            self.model.add_no_overlap([intervals[step] for step in users])
        for core, loads in stops.items():
            runs, many = units[self.problem.array_of[core]], len(loads)
            demands = [many] * len(runs) + [1] * many
            self.model.add_cumulative([intervals[step] for step in (*runs, *loads)], demands, many)
        for resource, users in flows.items():
            capacity = self.problem.resources[resource].capacity
            if all(2 * demand > capacity for _, demand in users):
                self.model.add_no_overlap([intervals[step] for step, _ in users])
            elif sum(demand for _, demand in users) > capacity:
                demands = [demand for _, demand in users]
                self.model.add_cumulative([intervals[step] for step, _ in users], demands, capacity)

    def _memories(self) -> None:
        """Memories hold no more than they can; one that could hold all copies of the window at once is left out."""
        held_from, held_to = self.later.held_from, self.later.held_to
        alive = np.nonzero((held_from < self.last) & (held_to > self.first))[0].tolist()
        per_core: dict[int, list[int]] = defaultdict(list)
        for residency in alive:
            per_core[self.steps.core[residency]].append(residency)
        uses = self._uses()
        for core, residencies in per_core.items():
            free = self.problem.cores[core].type.sram.capacity
            if sum(self.steps.bits[residency] for residency in residencies) <= free:
                continue
            always = [c for c in residencies if held_from[c] <= self.first and held_to[c] > self.last]
            free -= sum(self.steps.bits[residency] for residency in always)
            rest = sorted(set(residencies).difference(always))
            unit = gcd(*(self.steps.bits[residency] for residency in rest))
            self.model.add_cumulative(
                [self._holds(residency, *uses[residency]) for residency in rest],
                [self.steps.bits[residency] // unit for residency in rest],
                free // unit,
            )

    def _uses(self) -> dict[int, tuple[list[int], list[cp_model.LinearExprT]]]:
        """Return what in the model opens each copy, and the ends of its uses that are not in the past."""
        uses: dict[int, tuple[list[int], list[cp_model.LinearExprT]]] = defaultdict(lambda: ([], []))
        for step in sorted(self.moving):
            for touch in self.steps.touches[step]:
                opens, ends = uses[touch.residency]
                if touch.opens:
                    opens.append(step)
                ends.append(self._done(step) if touch.arrival else self._end(step))
        return uses

    def _holds(self, residency: int, opens: list[int], ends: list[cp_model.LinearExprT]) -> cp_model.IntervalVar:
        """The time for which a copy is in memory, as far as it is in the model."""
        span = self.last - self.first
        begin = self.start[opens[0]] if opens else max(0, int(self.later.held_from[residency]) - self.first)
        if self.later.held_to[residency] > self.last:  # used by what is behind the window, which moves up with its end
            return self._between(begin, span, residency)
        if not ends:
            return self._between(begin, int(self.later.held_to[residency]) - self.first, residency)
        if len(ends) == 1:
            return self._between(begin, ends[0], residency)
        until = self.model.new_int_var(0, span, f"u{residency}")
        self.model.add_hint(until, min(span, int(self.later.held_to[residency]) - self.first))
        for end in ends:
            self.model.add(until >= end)
        return self._between(begin, until, residency)

    def _between(self, begin: cp_model.LinearExprT, end: cp_model.LinearExprT, residency: int) -> cp_model.IntervalVar:
        span = self.last - self.first
        length = self.model.new_int_var(0, span, f"l{residency}")
        return self.model.new_interval_var(begin, length, end, f"h{residency}")


def solve_window(
    problem: Problem, steps: Steps, times: Times, begin: int, end: int, later: Times, *, work: float, seed: int
) -> Found:
    """Look for times of the steps between two instants that let all that follows begin sooner."""
    window = _Window(problem, steps, times, begin, end, later)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed
    solver.parameters.max_deterministic_time = work
    solver.parameters.max_time_in_seconds = 10 * work  # presolve is hardly counted
    solver.parameters.catch_sigint_signal = False
    status = solver.solve(window.model)
    start = times.start
    gain = 0
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE) and (gain := solver.value(window.gain)):
        start = np.where(times.start >= end, later.start - gain, times.start)
        for step, variable in window.variable.items():
            start[step] = window.first + solver.value(variable)
    return Found(
        gain=gain,
        proven=status in (cp_model.OPTIMAL, cp_model.INFEASIBLE),
        start=start,
        work=solver.response_proto.deterministic_time,
    )
