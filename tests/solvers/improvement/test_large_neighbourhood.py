"""Windows: what follows is put off as far as it can wait, and what runs in a window is put in the best order."""

import random
from dataclasses import replace

import numpy as np
import pytest

from stream_mla.evaluation import evaluate
from stream_mla.results.outcome import Interrupted
from stream_mla.results.result import Status
from stream_mla.schedule.activities import activities
from stream_mla.schedule.bounds.schedule_bounds import bounds
from stream_mla.schedule.checker import violations
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.replay import replay
from stream_mla.schedule.schedule import Schedule
from stream_mla.schedule.timing import moved, read_steps, times
from stream_mla.solvers.budget import Budget
from stream_mla.solvers.improvement.large_neighbourhood import improve_windows
from stream_mla.solvers.improvement.local_search import Improved
from stream_mla.solvers.improvement.right_shift import right_shift_times, right_shifted
from stream_mla.solvers.list_scheduling.list_scheduler import ListScheduler
from tests.helpers import Step, block, core_type, decode_point, hand_problem, machine
from tests.oracle import choices, exhaustive
from tests.solvers.cp_sat.test_oracle import Maker, instances, multicast, phased, plain, single_buffered


def two_tiles() -> tuple[Problem, Schedule]:
    """`short` loads 160 bit, 10 cycles, and runs 1; `long` loads 32 bit, 2 cycles, and runs 20."""
    problem = hand_problem(
        machine(core_type()),
        [block("w", 160, weight=True), block("v", 32, weight=True), block("y", 16), block("z", 16)],
        [
            Step(name="short", reads=("w",), writes="y", cycles=1),
            Step(name="long", reads=("v",), writes="z", cycles=20),
        ],
    )
    return problem, ListScheduler(problem, activities(problem, [0, 0])).run()


def budget(seconds: float, seed: int) -> Budget:
    return Budget(time_limit_s=seconds, gap_limit=0.0, seed=seed, workers=1, patience=40)


def _improved(problem: Problem, schedule: Schedule, seconds: float = 1.0, seed: int = 0) -> Improved:
    bound = bounds(problem).lower_bound_cycles

    def settle(found: Schedule) -> Schedule:
        assert violations(problem, found) == []
        settled = replay(problem, found)
        assert settled.latency_cycles <= found.latency_cycles
        return settled

    return improve_windows(problem, schedule, settle, budget(seconds, seed), lower_bound_cycles=bound)


def test_a_window_finds_the_better_order() -> None:
    problem, schedule = two_tiles()
    # w 0..10, v 10..12, short 10..11, long 12..32; with v first, at 0..2: long 2..22, w 2..12, short 22..23
    assert schedule.latency_cycles == 32
    found = _improved(problem, schedule)
    assert [run.start for run in found.schedule.runs] == [22, 2]
    assert (found.schedule.latency_cycles, found.gains, found.interrupted) == (23, 1, False)
    assert violations(problem, found.schedule) == []


def test_without_time_nothing_changes() -> None:
    problem, schedule = two_tiles()
    assert _improved(problem, schedule, seconds=0.0) == Improved(
        schedule=schedule, rounds=0, gains=0, interrupted=False
    )


def test_what_can_wait_is_put_off() -> None:
    problem, schedule = two_tiles()
    later = right_shift_times(problem, read_steps(problem, schedule), times(schedule), 0, 32)
    # long ends at 32 and keeps the array from 12 on: short 11..12; v 10..12, before it w 0..10
    assert later.start.tolist() == [11, 12, 0, 10]
    # from 11 on only long starts, which cannot be put off
    assert right_shift_times(problem, read_steps(problem, schedule), times(schedule), 11, 32).start.tolist() == [
        10,
        12,
        0,
        10,
    ]


@pytest.mark.parametrize("make", [plain, single_buffered, phased, multicast])
def test_small_problems_stay_valid_and_do_not_beat_the_optimum(make: Maker) -> None:
    for seed, problem, first in instances(make, 12):
        steps = read_steps(problem, first)
        later = right_shift_times(problem, steps, times(first), 0, first.latency_cycles)
        assert np.all(later.start >= times(first).start), seed
        assert int(later.done.max()) == first.latency_cycles, seed
        assert violations(problem, moved(first, steps, later.start)) == [], seed
        assert replay(problem, right_shifted(problem, first)).latency_cycles <= first.latency_cycles, seed
        found = _improved(problem, first, seconds=0.3)
        assert violations(problem, found.schedule) == [], seed
        assert exhaustive(problem, choices(problem)) <= found.schedule.latency_cycles <= first.latency_cycles, seed


def chains(seed: int) -> tuple[Problem, Schedule]:
    """Forty tiles of random cycles with a load each, on two cores, in an order nobody thought about."""
    rng = random.Random(seed)
    steps: list[Step] = []
    blocks = [block(f"w{n}", 16 * rng.randint(1, 40), weight=True) for n in range(40)]
    for n in range(40):
        reads = (f"w{n}", f"y{n - 4}") if n >= 4 else (f"w{n}",)
        steps.append(Step(name=f"t{n}", reads=reads, writes=f"y{n}", cycles=rng.randint(1, 80)))
    blocks += [block(f"y{n}", 16 * rng.randint(1, 9)) for n in range(40)]
    problem = hand_problem(machine(*[core_type(sram_bits=3000)] * 2), blocks, steps)
    return problem, ListScheduler(problem, activities(problem, [n % 2 for n in range(40)])).run()


def test_a_seed_repeats_the_search() -> None:
    problem, schedule = chains(1)
    first, again = (_improved(problem, schedule, seconds=2.0, seed=3) for _ in range(2))
    assert first == again
    assert first.gains > 0
    assert violations(problem, first.schedule) == []
    assert first.schedule.latency_cycles < schedule.latency_cycles


def test_an_interrupt_leaves_the_best() -> None:
    problem, schedule = chains(1)
    settled: list[Schedule] = []

    def settle(found: Schedule) -> Schedule:
        if settled:
            raise KeyboardInterrupt
        settled.append(replay(problem, found))
        return settled[-1]

    found = improve_windows(problem, schedule, settle, budget(5.0, seed=3), lower_bound_cycles=1)
    assert found.interrupted
    assert found.schedule is settled[0]


def test_large_schedules_are_improved_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    point = decode_point("deepseek_v2_lite", "mla_absorbed", "flat_cloud", 512, time_limit_s=3.0)
    small_whole = replace(Budget.of(point), whole_steps=100)
    result = evaluate(point, budget=small_whole).result
    assert result.solver_status.endswith(" windows")
    assert result.scheduler == "windows"
    assert result.latency_cycles < result.greedy_latency_cycles

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stream_mla.solvers.improvement.large_neighbourhood.solve_window", stop)
    with pytest.raises(Interrupted) as caught:
        evaluate(point, budget=small_whole)
    assert caught.value.outcome.result.status is Status.INTERRUPTED
    assert caught.value.outcome.result.solver_status.endswith(", 0 gains in 1 windows")
    no_time = replace(small_whole, window_steps=100, time_limit_s=1e-3)
    assert evaluate(point, budget=no_time).result.solver_status.startswith("skipped")


def test_moved_keeps_what_it_does_not_move() -> None:
    problem, schedule = two_tiles()
    assert moved(schedule, read_steps(problem, schedule), times(schedule).start) == schedule
