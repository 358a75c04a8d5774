"""Put off what need not be done yet, so that a window before it sees where there is time to spare.

The steps that start between two instants are placed anew, the last first, each as late as what stands behind it
allows: the steps that need it, its turn on units, bandwidths and memories, which stays as it is, and the second
instant, from which on nothing moves. No step starts earlier than it did.
"""

import heapq
from collections import defaultdict

import numpy as np

from stream_mla.gc_pause import gc_paused
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.schedule import Schedule
from stream_mla.schedule.timing import Steps, Times, moved, read_steps, times


class _Postponed:
    def __init__(self, problem: Problem, steps: Steps, times: Times, begin: int, end: int) -> None:
        self.problem, self.steps, self.times = problem, steps, times
        self.end = end
        self.start: dict[int, int] = {}
        """The steps that were put off start at these cycles."""
        ends = times.done - steps.latencies
        zone = np.nonzero((times.start >= begin) & (times.start < end))[0]
        self.zone: list[int] = zone[np.lexsort((-times.start[zone], -ends[zone]))].tolist()
        """In the order in which they are placed: what ends last comes first."""
        self.limit = ends
        self.unit: dict[int, int] = {}
        """It holds, for each unit: when what was placed on it starts."""
        self.single_buffered: dict[int, int] = {}
        """It holds, for each core: when the late loads that were placed start."""
        self.phase: dict[int, int] = {}
        """It holds, for each phase: when what waits for it starts."""
        self.turn: dict[int, int] = {}
        """It holds, for each bandwidth: the earliest end placed on it."""
        self.flows: dict[int, list[tuple[int, int]]] = defaultdict(list)
        """It holds, for each bandwidth: (-start, demand) of what was placed, a heap."""
        self.share = [resource.capacity for resource in problem.resources]
        self.room_turn: dict[int, int] = {}
        self.freed: dict[int, list[tuple[int, int]]] = defaultdict(list)
        """It holds, for each core: (-start, bits) of the copies whose first byte was placed, a heap."""
        self.free = [core.type.sram.capacity for core in problem.cores]
        self.until: dict[int, int] = {}
        """It holds, for each copy that is held: the end of its last use, as placed."""
        for residency in np.nonzero((times.held_to > end) & (times.held_from < end))[0].tolist():
            self._hold(residency, int(times.held_to[residency]))

    def _hold(self, residency: int, until: int) -> None:
        self.until[residency] = until
        self.free[self.steps.core[residency]] -= self.steps.bits[residency]

    def run(self) -> Times:
        """Return the times of all steps."""
        start, held_from, held_to = (t.copy() for t in (self.times.start, self.times.held_from, self.times.held_to))
        for step in self.zone:
            self._place(step)
            start[step] = self.start[step]
            for touch in self.steps.touches[step]:
                if touch.opens:
                    held_from[touch.residency] = self.start[step]
        held_to[list(self.until)] = list(self.until.values())
        done = self.times.done + start - self.times.start
        return Times(start=start, done=done, held_from=held_from, held_to=held_to)

    def _latest(self, step: int) -> int:
        """Latest end that precedence, units, phases and late loads allow."""
        steps = self.steps
        latest = max(int(self.limit[step]), self.end - steps.latency[step])
        for other in steps.after[step]:
            start = self.start.get(other)
            latest = min(latest, (int(self.times.start[other]) if start is None else start) - steps.latency[step])
        if step < steps.runs:
            unit = steps.units[step]
            latest = min(latest, self.unit.get(unit, latest))
            if self.problem.is_array[unit]:
                latest = min(latest, self.single_buffered.get(self.problem.core_of_unit[unit], latest))
            for phase, start in self.phase.items():
                if phase > steps.phase[step]:
                    latest = min(latest, start)
        for core in steps.single_buffered[step]:
            latest = min(latest, self.unit.get(self.problem.array_of[core], latest))
        return latest

    def _place(self, step: int) -> None:
        steps = self.steps
        touched = [touch.residency for touch in steps.touches[step]]
        fresh = [residency for residency in touched if residency not in self.until]
        need: dict[int, int] = defaultdict(int)
        for residency in fresh:
            need[steps.core[residency]] += steps.bits[residency]
        latest = self._latest(step)
        turns = [self.until[residency] for residency in touched if residency in self.until]
        turns += [self.turn[resource] for resource, _ in steps.shares[step] if resource in self.turn]
        turns += [self.room_turn[core] for core in need if core in self.room_turn]
        latest = self._with_room(step, need, min(latest, *turns) if turns else latest)
        for core in need:
            self.room_turn[core] = latest
        for residency in fresh:
            self._hold(residency, latest)
        self._take(step, latest)

    def _take(self, step: int, end: int) -> None:
        """Give a step its time; what it keeps others from ends where it starts."""
        steps = self.steps
        start = self.start[step] = end - steps.cycles[step]
        if step < steps.runs:
            self.unit[steps.units[step]] = start
        for resource, demand in steps.shares[step]:
            self.turn[resource] = end
            self.share[resource] -= demand
            heapq.heappush(self.flows[resource], (-start, demand))
        for core in steps.single_buffered[step]:
            self.single_buffered[core] = min(start, self.single_buffered.get(core, start))
        if phase := steps.phase[step]:
            self.phase[phase] = min(start, self.phase.get(phase, start))
        for touch in steps.touches[step]:
            if touch.opens:
                heapq.heappush(self.freed[steps.core[touch.residency]], (-start, steps.bits[touch.residency]))

    def _with_room(self, step: int, need: dict[int, int], latest: int) -> int:
        """Latest end at which bandwidths and memories have room."""
        for resource, demand in self.steps.shares[step]:
            latest = self._settle(self.flows[resource], self.share, resource, demand, latest)
        for core, bits in need.items():
            latest = self._settle(self.freed[core], self.free, core, bits, latest)
        return latest

    def _settle(self, heap: list[tuple[int, int]], free: list[int], number: int, wanted: int, latest: int) -> int:
        while heap and (-heap[0][0] >= latest or free[number] < wanted):
            minus_start, given = heapq.heappop(heap)
            latest = min(latest, -minus_start)
            free[number] += given
        return latest


def right_shift_times(problem: Problem, steps: Steps, times: Times, begin: int, end: int) -> Times:
    """Return the times of all steps, those in between as late as can be."""
    return _Postponed(problem, steps, times, begin, end).run()


@gc_paused
def right_shifted(problem: Problem, schedule: Schedule) -> Schedule:
    """Return a schedule in which every step is as late as it can be; its replay lets all of them move up again.

    The replay is in the order that this leaves the steps in, and often shorter than the schedule was
    (forward-backward improvement: Li, Willis, EJOR 56(3), 1992).
    """
    steps, now = read_steps(problem, schedule), times(schedule)
    return moved(schedule, steps, right_shift_times(problem, steps, now, 0, schedule.latency_cycles).start)
