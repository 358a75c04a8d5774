"""Which tilings are scheduled, and when one is given up."""

from dataclasses import replace
from itertools import pairwise
from math import inf

import pytest
from hypothesis import given

from stream_mla.errors import NoScheduleError
from stream_mla.evaluation import evaluate
from stream_mla.hardware.core_cost import Objective
from stream_mla.mapping.planning.memory_footprint import peak_occupancy
from stream_mla.mapping.planning.planner import candidate_tilings
from stream_mla.point import Point
from stream_mla.schedule.bounds.schedule_bounds import ideal_cycles
from stream_mla.schedule.candidate import Progress
from stream_mla.schedule.problem import Problem
from stream_mla.solvers.budget import Budget
from stream_mla.solvers.cutoff import CutoffError
from stream_mla.solvers.list_scheduling.greedy import greedy
from stream_mla.solvers.tiling_search import GAIN, TilingSearch, best_first
from stream_mla.workload.lowering.attention import lower
from tests.helpers import core_type, decode_point, machine, problems


def searched(point: Point, progress: Progress = lambda _: None) -> TilingSearch:
    """Return the search over the tilings of a point within its own budget."""
    return TilingSearch(point, lower(point.workload, point.scheme), Objective.LATENCY, Budget.of(point), progress)


def test_few_tilings_are_tried_and_none_that_is_left_is_much_faster() -> None:
    point = decode_point("deepseek_v2_lite", "mla_absorbed", "flat_edge", 1024)
    graph = lower(point.workload, point.scheme)
    said: list[str] = []
    found = [candidate.latency_cycles for candidate in searched(point, said.append).improving_candidates(enough=0)]
    assert all(later <= before * (1 - GAIN) for before, later in pairwise(found))
    every = [candidate.latency_cycles for candidate in searched(point).candidates()]
    assert found[-1] <= 1.005 * min(every)
    scheduled = len(found) + sum("not faster" in line or "do not fit" in line for line in said)
    assert scheduled < len(list(candidate_tilings(graph, point.accelerator, {}, point.policy)))


def test_the_first_tiling_that_is_good_enough_ends_the_search() -> None:
    point = decode_point("deepseek_v2_lite", "mla_absorbed", "tpu_like_quad_core", 1024)
    graph = lower(point.workload, point.scheme)
    enough = 2 * ideal_cycles(graph, point.accelerator)
    assert len(list(searched(point).improving_candidates(enough))) == 1


def test_tilings_that_are_not_expected_to_fit_come_last() -> None:
    point = decode_point("deepseek_v2_lite", "mla_absorbed", "tpu_like_quad_core", 1792)
    point = replace(point, workload=replace(point.workload, query_tokens=256))
    graph = lower(point.workload, point.scheme)
    order = [tiling for tiling, _ in best_first(point, graph, enough=0)]
    tight = [peak_occupancy(graph, point.accelerator, tiling) > 1 for tiling in order]
    assert tight == sorted(tight)
    assert {*tight} == {False, True}


def test_what_does_not_fit_is_told() -> None:
    point = decode_point("deepseek_v2_lite", "mla_absorbed", "flat_edge", 1024)
    point = replace(point, accelerator=machine(core_type(sram_bits=512)))
    with pytest.raises(NoScheduleError, match="tilings of deepseek_v2_lite as mla_absorbed fits small"):
        list(searched(point).improving_candidates(enough=0))


@given(problems())
def test_a_schedule_within_the_limit_is_the_same_and_one_beyond_it_is_given_up(problem: Problem) -> None:
    schedule = greedy(problem)
    assert greedy(problem, schedule.latency_cycles) == schedule
    with pytest.raises(CutoffError):
        greedy(problem, schedule.latency_cycles - 1)


@given(problems())
def test_what_is_good_enough_is_no_worse_than_was_asked_for(problem: Problem) -> None:
    best = greedy(problem).latency_cycles
    assert greedy(problem, enough=best).latency_cycles == best
    assert greedy(problem, enough=inf).latency_cycles >= best


def test_a_gap_that_is_small_enough_ends_all_searches() -> None:
    """There are faster tilings, and other orders of them: none is looked at within the limit."""
    point = decode_point("deepseek_v2_lite", "mla_absorbed", "flat_edge", 1024)
    widest, exact = [list[str](), list[str]()]
    first = evaluate(replace(point, gap_limit=0.5), widest.append).result
    best = evaluate(point, exact.append).result
    assert len(widest) == 1
    assert first.gap <= 0.5
    assert len(exact) > 1
    assert best.latency_cycles < first.latency_cycles


def test_once_the_gap_is_as_asked_for_tilings_must_promise_more_than_such_a_gap() -> None:
    point = decode_point("deepseek_v2_lite", "mla_absorbed", "tpu_v4i", 256)
    point = replace(point, workload=replace(point.workload, query_tokens=64))
    said, said_less = [list[str](), list[str]()]
    exact = list(searched(point, said.append).improving_candidates(enough=0))
    rough = list(searched(replace(point, gap_limit=0.05), said_less.append).improving_candidates(enough=0))
    best, near = exact[-1], rough[-1]
    assert near.within(0.05, Objective.LATENCY)
    assert near.latency_cycles * 0.95 < best.latency_cycles < near.latency_cycles
    assert len(rough) + len(said_less) < len(exact) + len(said)
