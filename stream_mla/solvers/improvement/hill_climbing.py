"""Hill climbing over what `forward` is given: the core of each cluster, and the order of the tiles.

Starts from the cores of a schedule and the order in which its tiles start. Each round changes one thing at random: one
cluster goes to another core, two swap theirs, or the tiles of one cluster come earlier or later. Then time runs forward
again, until it is known to take longer than before. What is not slower is where the next round starts.

The cost of a round is counted in tiles and moves.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf

from stream_mla.errors import StreamMlaError
from stream_mla.gc_pause import gc_paused
from stream_mla.schedule.activities import Activities, activities
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.schedule import Schedule
from stream_mla.solvers.budget import Budget
from stream_mla.solvers.cutoff import CutoffError
from stream_mla.solvers.improvement.local_search import Improved, LocalSearch
from stream_mla.solvers.list_scheduling.list_scheduler import ListScheduler
from stream_mla.solvers.placement.priorities import in_precedence

STEP_S = 2.5e-5
"""It is what a round costs for each tile and move, in about seconds (measured)."""
SHIFT_SPREAD = 0.05
"""Half of the changes of order move a group by about this share of all tiles (the standard deviation), the others by
any distance: most orders that are better differ little."""


@dataclass(frozen=True, kw_only=True)
class _Decisions:
    acts: Activities
    """It is what follows from the core of each cluster."""
    keys: list[float]
    """It holds, for each tile: those with the smallest come first."""


def climb(
    problem: Problem,
    schedule: Schedule,
    budget: Budget,
    *,
    lower_bound_cycles: float,
    progress: Callable[[int], None] = lambda _: None,
) -> Improved:
    """Search until the budget is spent or the gap small enough; Ctrl-C ends it with the best schedule so far."""
    return _Climb(problem, schedule, budget).run(lower_bound_cycles, progress)


class _Climb(LocalSearch):
    def __init__(self, problem: Problem, schedule: Schedule, budget: Budget) -> None:
        super().__init__(schedule, budget)
        self.problem = problem
        self.round_s = STEP_S * (len(schedule.runs) + len(schedule.transfers))
        self.movable = [group for group, able in enumerate(problem.candidates) if len(able) > 1]
        self.changes = [self._sooner_or_later, self._past_another]
        if self.movable:
            self.changes += [self._to_another_core, self._swap_cores]
        cores, keys = [-1] * len(problem.group_tiles), [0.0] * len(schedule.runs)
        by_start = sorted(schedule.runs, key=lambda run: (run.start, run.tile))
        for place, run in enumerate(by_start):
            cores[problem.tile_graph.tiles[run.tile].group] = run.core
            keys[run.tile] = float(place)
        self.now = _Decisions(acts=activities(problem, cores), keys=keys)
        self.limit: float = inf
        """It is what the decisions take; before the first round that is not known."""

    def affords_round(self) -> bool:
        return (self.rounds + 1) * self.round_s <= self.budget.time_limit_s

    @gc_paused
    def round(self) -> Schedule | None:
        """At first nothing is changed."""
        changed = self.random.choice(self.changes)() if self.rounds > 1 else self.now
        with suppress(StreamMlaError, CutoffError):  # memory does not hold the order, or it is slower
            order = in_precedence(self.problem, changed.keys)
            found = ListScheduler(self.problem, changed.acts, order).run(self.limit)
            self.now, self.limit = changed, found.latency_cycles
            return found if self.limit < self.cycles else None
        return None

    def _to_another_core(self) -> _Decisions:
        group = self.random.choice(self.movable)
        return self._on_cores({group: self.random.choice(self.problem.candidates[group])})

    def _swap_cores(self) -> _Decisions:
        one, two = self.random.choice(self.movable), self.random.choice(self.movable)
        cores, able = self.now.acts.core_of_group, self.problem.candidates
        if cores[two] not in able[one] or cores[one] not in able[two]:
            return self._to_another_core()
        return self._on_cores({one: cores[two], two: cores[one]})

    def _on_cores(self, other: dict[int, int]) -> _Decisions:
        cores = list(self.now.acts.core_of_group)
        for group, core in other.items():
            cores[group] = core
        return _Decisions(acts=activities(self.problem, cores), keys=self.now.keys)

    def _sooner_or_later(self) -> _Decisions:
        return self._shifted(self._any_cluster(), self.random.gauss(0.0, SHIFT_SPREAD * len(self.now.keys)))

    def _past_another(self) -> _Decisions:
        one, two = self._any_cluster(), self._any_cluster()
        return self._shifted(one, self._first(two) - self._first(one) - 0.5)

    def _any_cluster(self) -> Sequence[int]:
        return self.random.choice(self.problem.group_tiles)

    def _first(self, group: Sequence[int]) -> float:
        return min(self.now.keys[tile] for tile in group)

    def _shifted(self, group: Sequence[int], by: float) -> _Decisions:
        keys = list(self.now.keys)
        for tile in group:
            keys[tile] += by
        return _Decisions(acts=self.now.acts, keys=keys)
