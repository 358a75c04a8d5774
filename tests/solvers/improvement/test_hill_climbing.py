"""Hill climbing: one change of a core or of the order at a time, kept where it is not slower."""

from dataclasses import replace

import pytest

from stream_mla.evaluation import evaluate
from stream_mla.results.outcome import Interrupted
from stream_mla.results.result import Status
from stream_mla.schedule.activities import activities
from stream_mla.schedule.checker import violations
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.schedule import Schedule
from stream_mla.solvers.budget import Budget
from stream_mla.solvers.improvement.hill_climbing import climb
from stream_mla.solvers.improvement.local_search import Improved
from stream_mla.solvers.list_scheduling.list_scheduler import ListScheduler
from tests.helpers import Step, block, core_type, decode_point, hand_problem, machine
from tests.oracle import choices, exhaustive
from tests.solvers.cp_sat.test_oracle import Maker, instances, multicast, phased, plain, single_buffered
from tests.solvers.improvement.test_large_neighbourhood import chains, two_tiles

PATIENCE = 300


def budget(seconds: float, seed: int) -> Budget:
    return Budget(time_limit_s=seconds, gap_limit=0.0, seed=seed, workers=1, patience=PATIENCE)


def _climbed(
    problem: Problem, schedule: Schedule, *, enough: float = 0, seconds: float = 1.0, seed: int = 0
) -> Improved:
    return climb(problem, schedule, budget(seconds, seed), lower_bound_cycles=enough)


def test_a_better_order_is_found() -> None:
    problem, schedule = two_tiles()
    # w 0..10, v 10..12, short 10..11, long 12..32; with v first, at 0..2: long 2..22, w 2..12, short 22..23
    assert schedule.latency_cycles == 32
    found = _climbed(problem, schedule)
    assert [run.start for run in found.schedule.runs] == [22, 2]
    assert (found.schedule.latency_cycles, found.gains, found.interrupted) == (23, 1, False)
    assert found.rounds > PATIENCE


def test_a_better_core_is_found() -> None:
    steps = [Step(name=f"t{n}", reads=(f"w{n}",), writes=f"y{n}", cycles=100) for n in range(2)]
    blocks = [block(f"w{n}", 32, weight=True) for n in range(2)] + [block(f"y{n}", 16) for n in range(2)]
    problem = hand_problem(machine(core_type(), core_type()), blocks, steps)
    schedule = ListScheduler(problem, activities(problem, [0, 0])).run()
    # loads of 2 cycles each, one after the other; on one core 2..102 and 102..202, on two 2..102 and 4..104
    assert schedule.latency_cycles == 202
    found = _climbed(problem, schedule)
    assert found.schedule.latency_cycles == 104
    assert {run.core for run in found.schedule.runs} == {0, 1}


def test_it_ends_where_that_is_enough_or_the_time_is_over() -> None:
    problem, schedule = two_tiles()
    assert _climbed(problem, schedule, enough=32) == Improved(schedule=schedule, rounds=0, gains=0, interrupted=False)
    assert _climbed(problem, schedule, seconds=0) == Improved(schedule=schedule, rounds=0, gains=0, interrupted=False)
    assert _climbed(problem, schedule, enough=23).rounds < PATIENCE


@pytest.mark.parametrize("make", [plain, single_buffered, phased, multicast])
def test_small_problems_stay_valid_and_do_not_beat_the_optimum(make: Maker) -> None:
    for seed, problem, first in instances(make, 12):
        found = _climbed(problem, first)
        assert violations(problem, found.schedule) == [], seed
        assert exhaustive(problem, choices(problem)) <= found.schedule.latency_cycles <= first.latency_cycles, seed


def test_a_seed_repeats_the_search() -> None:
    problem, schedule = chains(1)
    patient = replace(budget(1.0, 3), clock_factor=100.0)  # a busy machine takes its time
    first, again = (climb(problem, schedule, patient, lower_bound_cycles=0) for _ in range(2))
    assert first == again
    assert first.gains > 0
    assert first.schedule.latency_cycles < schedule.latency_cycles
    assert violations(problem, first.schedule) == []


def test_an_interrupt_leaves_the_best() -> None:
    problem, schedule = chains(1)
    told: list[int] = []

    def stop(cycles: int) -> None:
        told.append(cycles)
        raise KeyboardInterrupt

    found = climb(problem, schedule, budget(1.0, seed=3), lower_bound_cycles=0, progress=stop)
    assert found.interrupted
    assert told == [found.schedule.latency_cycles]
    assert found.schedule.latency_cycles < schedule.latency_cycles


def test_schedules_too_large_for_the_solver_are_climbed() -> None:
    point = decode_point("deepseek_v2_lite", "mla_ru", "tpu_v7_ironwood", 1024, time_limit_s=3.0)
    small_windows = replace(Budget.of(point), window_steps=100)
    lines: list[str] = []
    result = evaluate(point, lines.append, budget=small_windows).result
    assert result.scheduler == "climbing"
    assert result.latency_cycles < result.greedy_latency_cycles
    assert result.solver_status.endswith(" changes")
    assert [line for line in lines if line.startswith("climbing: best ")]

    def stop(line: str) -> None:
        if line.startswith("climbing"):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        evaluate(point, stop, budget=small_windows)
    assert caught.value.outcome.result.status is Status.INTERRUPTED
    assert caught.value.outcome.result.solver_status.startswith("1 gains in ")
