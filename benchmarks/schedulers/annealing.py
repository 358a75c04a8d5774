"""Simulated annealing over the decisions that are ours: the core of each cluster, and the order of tiles.

Starts from HEFT's schedule. A step moves one cluster to another core, swaps the cores of two, or lets the tiles of
one cluster come before or after those of another; the machine then finds the times. Worse by d cycles is accepted with
probability exp(-d / T); T falls geometrically from 2 % of the first latency to 0.01 % as the time runs out. An order
that memory does not hold is not accepted.
"""

import math
import random
import time
from collections.abc import Sequence

from benchmarks.schedulers.heft import heft
from benchmarks.schedulers.placed import scheduled
from stream_mla.errors import NoScheduleError
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.schedule import Schedule
from stream_mla.solvers.placement.priorities import in_precedence

FIRST, LAST = 0.02, 0.0001
"""Temperature at the beginning and the end, as shares of the first latency."""


class _Walk:
    """Cores and priorities that change at random."""

    def __init__(self, problem: Problem, cores: Sequence[int], order: Sequence[int], seed: int) -> None:
        self.problem, self.random = problem, random.Random(seed)
        self.cores = list(cores)
        self.keys = [0.0] * len(order)
        for position, tile in enumerate(order):
            self.keys[tile] = float(position)
        self.movable = [group for group, able in enumerate(problem.candidates) if len(able) > 1]

    def step(self) -> tuple[list[int], list[float]]:
        """Return changed cores and priorities."""
        cores, keys = list(self.cores), list(self.keys)
        kind = self.random.random()
        if self.movable and kind < 0.4:
            group = self.random.choice(self.movable)
            cores[group] = self.random.choice(self.problem.candidates[group])
        elif self.movable and kind < 0.6:
            one, two = self.random.choice(self.movable), self.random.choice(self.movable)
            if cores[two] in self.problem.candidates[one] and cores[one] in self.problem.candidates[two]:
                cores[one], cores[two] = cores[two], cores[one]
        else:
            one, two = (self.random.randrange(len(self.problem.group_tiles)) for _ in range(2))
            shift = min(keys[tile] for tile in self.problem.group_tiles[two])
            shift -= min(keys[tile] for tile in self.problem.group_tiles[one]) + 0.5
            for tile in self.problem.group_tiles[one]:
                keys[tile] += shift
        return cores, keys


def annealed(problem: Problem, seconds: float, seed: int) -> tuple[Schedule, int]:
    """Return the best schedule found in the time given, HEFT's included, and the number of steps."""
    deadline = time.perf_counter() + seconds
    best, placed, _ = heft(problem)
    walk = _Walk(problem, placed.cores, placed.order, seed)
    first = now = best.latency_cycles
    began = last = time.perf_counter()
    steps, longest = 0, 0.0
    while last + longest < deadline:
        steps += 1
        cores, keys = walk.step()
        try:
            schedule = scheduled(problem, cores, in_precedence(problem, keys))
        except NoScheduleError:
            schedule = None
        share = (time.perf_counter() - began) / max(1e-9, deadline - began)
        temperature = first * FIRST * (LAST / FIRST) ** share
        if schedule is not None and walk.random.random() < math.exp(
            min(0.0, (now - schedule.latency_cycles) / temperature)
        ):
            walk.cores, walk.keys, now = cores, keys, schedule.latency_cycles
            best = min(best, schedule, key=lambda entry: entry.latency_cycles)
        longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
    return best, steps
