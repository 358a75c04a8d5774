"""The contract of CP-SAT on tiny instances; test_oracle.py compares its optima with an exhaustive search."""

import random
from dataclasses import replace

import pytest

from stream_mla.errors import InfeasibleError, NoScheduleError
from stream_mla.hardware.core_cost import Objective
from stream_mla.schedule.bounds.schedule_bounds import bounds
from stream_mla.schedule.checker import violations
from stream_mla.schedule.schedule import energy_parts_pj
from stream_mla.solvers.budget import Budget
from stream_mla.solvers.cp_sat.solve import improve
from stream_mla.solvers.list_scheduling.greedy import greedy
from tests.oracle import tiny_problem

BUDGET = Budget(time_limit_s=20, gap_limit=0.0, seed=1, workers=1)


@pytest.mark.parametrize("seed", range(20))
def test_energy_first_is_never_worse_than_greedy(seed: int) -> None:
    problem = replace(tiny_problem(random.Random(1000 + seed)), objective=Objective.ENERGY)
    try:
        first = greedy(problem)
    except (InfeasibleError, NoScheduleError):
        pytest.skip("greedy keeps tile order in memory; there is no hint")
    found = improve(problem, first, lower_bound_cycles=bounds(problem).lower_bound_cycles, budget=BUDGET)
    assert found.schedule is not None
    assert violations(problem, found.schedule) == []
    energy = sum(energy_parts_pj(problem, found.schedule).values())
    assert energy <= sum(energy_parts_pj(problem, first).values()) * (1 + 1e-4)
    assert energy >= bounds(problem).energy_pj * (1 - 1e-9)
    assert found.bound_cycles is None


def test_one_worker_and_a_seed_repeat_exactly() -> None:
    problem = tiny_problem(random.Random(3))
    first = greedy(problem)
    lower = bounds(problem).lower_bound_cycles
    schedules = [improve(problem, first, lower_bound_cycles=lower, budget=BUDGET).schedule for _ in range(2)]
    assert schedules[0] == schedules[1]
