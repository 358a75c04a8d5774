"""CP-SAT, the checker, the replay and the bounds against an exhaustive search on 680 tiny random problems.

`make solvers` runs this file on the oldest and the newest OR-Tools that are allowed.
"""

import random
from collections.abc import Callable, Iterator

import pytest

from stream_mla.errors import InfeasibleError, NoScheduleError
from stream_mla.schedule.activities import activities
from stream_mla.schedule.bounds.schedule_bounds import bounds
from stream_mla.schedule.checker import violations
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.replay import replay
from stream_mla.schedule.schedule import Schedule
from stream_mla.solvers.budget import Budget
from stream_mla.solvers.cp_sat.solve import improve
from stream_mla.solvers.list_scheduling.greedy import greedy
from tests.oracle import choices, exhaustive, tiny_problem, with_late_loads, with_multicast, with_phases

BUDGET = Budget(time_limit_s=20, gap_limit=0.0, seed=1, workers=1)
MOST_STEPS = 8
"""Tiles and moves; the exhaustive search grows faster than their factorial."""

Maker = Callable[[random.Random], Problem]


def plain(rng: random.Random) -> Problem:
    return tiny_problem(rng)


def single_buffered(rng: random.Random) -> Problem:
    return with_late_loads(tiny_problem(rng), rng)


def phased(rng: random.Random) -> Problem:
    return with_phases(tiny_problem(rng), rng)


def multicast(rng: random.Random) -> Problem:
    return with_multicast(tiny_problem(rng))


def instances(make: Maker, count: int) -> Iterator[tuple[int, Problem, Schedule]]:
    """Yield problems that the exhaustive search can take and that greedy schedules, each with its seed."""
    found = seed = 0
    while found < count:
        seed += 1
        problem = make(random.Random(seed))
        if len(activities(problem, choices(problem)[0]).transfers) + len(problem.tile_graph.tiles) > MOST_STEPS:
            continue
        try:
            first = greedy(problem)
        except (InfeasibleError, NoScheduleError):
            continue  # greedy keeps tile order in memory; another order might fit, but there is no hint for it
        found += 1
        yield seed, problem, first


@pytest.mark.parametrize(("make", "count"), [(plain, 320), (single_buffered, 120), (phased, 120), (multicast, 120)])
def test_proven_optimum_equals_exhaustive_search(make: Maker, count: int) -> None:
    better = two_cores = together = 0
    for seed, problem, first in instances(make, count):
        limits = bounds(problem)
        found = improve(problem, first, lower_bound_cycles=limits.lower_bound_cycles, budget=BUDGET)
        assert found.status == "OPTIMAL", seed
        assert found.schedule is not None
        assert violations(problem, found.schedule) == [], seed
        optimum = exhaustive(problem, choices(problem))
        assert replay(problem, found.schedule).latency_cycles == optimum, seed
        assert found.schedule.latency_cycles == optimum, seed
        assert found.bound_cycles == optimum, seed
        assert limits.lower_bound_cycles <= optimum <= first.latency_cycles, seed
        better += optimum < first.latency_cycles
        two_cores += len({run.core for run in found.schedule.runs}) == 2
        together += any(transfer.also for transfer in found.schedule.transfers)
    assert better >= count // 10, "the problems must leave the solver something to gain"
    assert two_cores >= count // 10, "the problems must make the second core worth it"
    assert together >= count // 20 or make is not multicast, "the problems must make a multicast worth it"
