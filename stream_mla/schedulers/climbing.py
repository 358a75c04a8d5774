"""Hill climbing over what `forward` is given: the core of each cluster, and the order of the tiles.

Starts from the cores of a schedule and the order in which its tiles start. Each round changes one thing at random: one
cluster goes to another core, two swap theirs, or the tiles of one cluster come earlier or later. Then time runs forward
again, until it is known to take longer than before. What is not slower is where the next round starts.

The cost is counted in tiles and moves, so a seed repeats the search exactly (unless the clock, as a last resort, ends
it first).
"""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from stream_mla.errors import StreamMlaError
from stream_mla.problem import Activities, Problem, activities
from stream_mla.schedule import Schedule
from stream_mla.schedulers.forward import Forward
from stream_mla.schedulers.ranks import in_precedence
from stream_mla.schedulers.remaining import BeatenError
from stream_mla.uncollected import uncollected

STEP_S = 2.5e-5
"""What a round costs for each tile and move, in about seconds (measured)."""
PATIENCE = 300
"""The search ends after so many rounds in a row without a gain."""
NEAR = 0.05
"""Half of the changes of order move a cluster by about this share of all tiles, the others by any distance."""


@dataclass(frozen=True, kw_only=True)
class Improved:
    """What a local search made of a schedule."""

    schedule: Schedule
    rounds: int
    gains: int
    interrupted: bool


@dataclass(frozen=True, kw_only=True)
class _Decisions:
    acts: Activities
    """What follows from the core of each cluster."""
    keys: list[float]
    """Of each tile: those with the smallest come first."""


def climb(
    problem: Problem,
    schedule: Schedule,
    *,
    enough_cycles: float,
    time_limit_s: float,
    seed: int,
    progress: Callable[[int], None] = lambda _: None,
) -> Improved:
    """Search until the time is over or few enough cycles are reached; Ctrl-C ends it with the best schedule so far."""
    search = _Climb(problem, schedule, seed)
    round_s = STEP_S * (len(schedule.runs) + len(schedule.moves))
    deadline = time.perf_counter() + 2 * time_limit_s
    interrupted = False
    try:
        while search.best.latency_cycles > enough_cycles and search.vain < PATIENCE:
            if (search.rounds + 1) * round_s > time_limit_s or time.perf_counter() >= deadline:
                break
            if search.round():
                progress(search.best.latency_cycles)
    except KeyboardInterrupt:
        interrupted = True
    return Improved(schedule=search.best, rounds=search.rounds, gains=search.gains, interrupted=interrupted)


class _Climb:
    def __init__(self, problem: Problem, schedule: Schedule, seed: int) -> None:
        self.problem, self.best = problem, schedule
        self.random = random.Random(seed)
        self.rounds = self.gains = self.vain = 0
        self.movable = [cluster for cluster, able in enumerate(problem.candidates) if len(able) > 1]
        self.changes = [self._sooner_or_later, self._past_another]
        if self.movable:
            self.changes += [self._to_another_core, self._swap_cores]
        cores, keys = [-1] * len(problem.cluster_tiles), [0.0] * len(schedule.runs)
        by_start = sorted(schedule.runs, key=lambda run: (run.start, run.tile))
        for place, run in enumerate(by_start):
            cores[problem.cut.tiles[run.tile].cluster] = run.core
            keys[run.tile] = float(place)
        self.now = _Decisions(acts=activities(problem, cores), keys=keys)
        self.cycles: float = float("inf")
        """What the decisions take; before the first round that is not known."""

    @uncollected
    def round(self) -> bool:
        """Try one change, at first none; return whether it made the best schedule shorter."""
        changed = self.random.choice(self.changes)() if self.rounds else self.now
        self.rounds += 1
        self.vain += 1
        with suppress(StreamMlaError, BeatenError):  # memory does not hold the order, or it is slower
            order = in_precedence(self.problem, changed.keys)
            found = Forward(self.problem, changed.acts, order).run(self.cycles)
            self.now, self.cycles = changed, found.latency_cycles
            if self.cycles < self.best.latency_cycles:
                self.best, self.vain = found, 0
                self.gains += 1
                return True
        return False

    def _to_another_core(self) -> _Decisions:
        cluster = self.random.choice(self.movable)
        return self._on_cores({cluster: self.random.choice(self.problem.candidates[cluster])})

    def _swap_cores(self) -> _Decisions:
        one, two = self.random.choice(self.movable), self.random.choice(self.movable)
        cores, able = self.now.acts.core_of_cluster, self.problem.candidates
        if cores[two] not in able[one] or cores[one] not in able[two]:
            return self._to_another_core()
        return self._on_cores({one: cores[two], two: cores[one]})

    def _on_cores(self, other: dict[int, int]) -> _Decisions:
        cores = list(self.now.acts.core_of_cluster)
        for cluster, core in other.items():
            cores[cluster] = core
        return _Decisions(acts=activities(self.problem, cores), keys=self.now.keys)

    def _sooner_or_later(self) -> _Decisions:
        return self._shifted(self._any_cluster(), self.random.gauss(0.0, NEAR * len(self.now.keys)))

    def _past_another(self) -> _Decisions:
        one, two = self._any_cluster(), self._any_cluster()
        return self._shifted(one, self._first(two) - self._first(one) - 0.5)

    def _any_cluster(self) -> Sequence[int]:
        return self.random.choice(self.problem.cluster_tiles)

    def _first(self, cluster: Sequence[int]) -> float:
        return min(self.now.keys[tile] for tile in cluster)

    def _shifted(self, cluster: Sequence[int], by: float) -> _Decisions:
        keys = list(self.now.keys)
        for tile in cluster:
            keys[tile] += by
        return _Decisions(acts=self.now.acts, keys=keys)
