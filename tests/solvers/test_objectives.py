"""Energy under a latency cap, latency then energy, and the front between the two."""

import importlib
import re
from dataclasses import replace
from math import fsum

import pytest

from stream_mla.errors import InfeasibleError, NoScheduleError
from stream_mla.evaluation import evaluate
from stream_mla.experiments.pareto import front, non_dominated
from stream_mla.frontends import catalog
from stream_mla.hardware.core_cost import Objective
from stream_mla.point import Point
from stream_mla.results.outcome import Outcome
from stream_mla.schedule.activities import activities
from stream_mla.schedule.checker import violations
from stream_mla.schedule.problem import Problem, price_mixed, products
from stream_mla.schedule.schedule import Schedule, energy_parts_pj
from stream_mla.solvers.cp_sat import solve
from stream_mla.solvers.cp_sat.solve import Solution
from stream_mla.solvers.energy_mappings import MappingPool
from stream_mla.solvers.list_scheduling.greedy import greedy
from stream_mla.solvers.list_scheduling.list_scheduler import ListScheduler
from stream_mla.solvers.optimizer import CAP_SLACK
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.spec import Precision, Workload
from tests.helpers import core_type, latent, machine, point_of, workload

EIGHT = Precision(weights=8, cache=8, activations=8, partials=32)
BASE = point_of(
    Workload(model=catalog.load_model("deepseek_v2_lite"), batch=1, query_tokens=1, cached_tokens=512, precision=EIGHT),
    catalog.load_accelerator("flat_cloud"),
    "mla_rc",
)


def aimed(objective: Objective, cap: int | None = None, point: Point = BASE) -> Outcome:
    return evaluate(replace(point, objective=objective, latency_cap_cycles=cap))


@pytest.fixture(scope="module")
def fastest() -> Outcome:
    return aimed(Objective.LATENCY)


@pytest.fixture(scope="module")
def thriftiest() -> Outcome:
    return aimed(Objective.ENERGY)


def test_latency_then_energy_keeps_the_latency_and_saves_energy(fastest: Outcome) -> None:
    both = aimed(Objective.LATENCY_THEN_ENERGY).result
    assert both.latency_cap_cycles is not None
    assert both.latency_cap_cycles == int(both.greedy_latency_cycles * (1 + CAP_SLACK))
    assert both.latency_cycles <= both.latency_cap_cycles <= fastest.result.latency_cycles * (1 + CAP_SLACK)
    assert both.energy_pj <= fastest.result.energy_pj
    assert both.objective == "latency-then-energy"


def test_least_energy_under_a_cap_lies_between_the_ends(fastest: Outcome, thriftiest: Outcome) -> None:
    low, high = fastest.result.latency_cycles, thriftiest.result.latency_cycles
    assert low < high
    outcome = aimed(Objective.ENERGY, (low + high) // 2)
    result = outcome.result
    assert result.latency_cycles <= (low + high) // 2 == result.latency_cap_cycles
    assert thriftiest.result.energy_pj <= result.energy_pj < fastest.result.energy_pj
    assert violations(outcome.problem, outcome.schedule) == []
    # some products use the mapping of least energy, others the fastest
    assert 0 < result.frugal_tiles == len(outcome.best.least_energy_tiles) < len(products(outcome.problem.tile_graph))
    # what is reported is what these mappings cost
    problem = price_mixed(outcome.problem.tile_graph, BASE.accelerator, outcome.best.least_energy_tiles)
    assert fsum(energy_parts_pj(problem, outcome.schedule).values()) == result.energy_pj


def test_a_cap_that_all_meet_changes_nothing(thriftiest: Outcome) -> None:
    capped = aimed(Objective.ENERGY, 10 * thriftiest.result.latency_cycles).result
    assert capped.energy_pj <= thriftiest.result.energy_pj * (1 + 1e-9)


def test_a_cap_below_what_any_schedule_takes_is_proven_infeasible(fastest: Outcome) -> None:
    ideal = fastest.result.ideal_cycles
    with pytest.raises(InfeasibleError) as caught:
        aimed(Objective.ENERGY, ideal - 1)
    assert str(caught.value) == (
        f"deepseek_v2_lite as mla_rc takes at least {ideal:,} cycles on flat_cloud, whatever the tiling: "
        f"more than the latency cap of {ideal - 1:,}"
    )


def test_a_cap_that_nothing_meets_names_the_best_latency(fastest: Outcome) -> None:
    ideal, best = fastest.result.ideal_cycles, fastest.result.latency_cycles
    with pytest.raises(NoScheduleError) as caught:
        aimed(Objective.ENERGY, ideal)
    assert str(caught.value) == (
        f"no schedule of deepseek_v2_lite as mla_rc on flat_cloud within {ideal:,} cycles was found: the fastest known "
        f"takes {best:,} cycles ({best / 1e3:,.1f} us), and none can take less than {ideal:,}"
    )


def lonely(problem: Problem, _limit: float, _enough: float, **_options: object) -> Schedule:
    """Greedy that uses the first core that can do a cluster, and no other."""
    return ListScheduler(problem, activities(problem, [cores[0] for cores in problem.candidates])).run()


def no_variants(_problem: Problem, _limit: object, _most: int) -> tuple[Schedule, ...]:
    return ()


def test_the_solver_may_meet_a_cap_that_greedy_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Much work for two cores, of which greedy is made to use one; what stands for the solver uses both."""

    def solver(problem: Problem, schedule: Schedule, **_options: object) -> Solution:
        found = greedy(replace(problem, objective=Objective.LATENCY))
        return Solution(status="SPIED", schedule=found, bound_cycles=None, seconds=0.0, interrupted=False)

    monkeypatch.setattr(importlib.import_module("stream_mla.solvers.tiling_search"), "greedy", lonely)
    monkeypatch.setattr(importlib.import_module("stream_mla.solvers.methods"), "other_schedules", no_variants)
    monkeypatch.setattr(solve, "improve", solver)
    work = workload(latent(heads=4), query_tokens=8, cached_tokens=32)
    point = replace(BASE, accelerator=machine(core_type(), core_type(), bandwidth=1e5), workload=work, time_limit_s=1.0)
    pool = MappingPool(point, lower(work, point.scheme), lambda _: None)
    alone = min(pool.fast(), key=lambda candidate: candidate.latency_cycles)
    cap = greedy(alone.problem).latency_cycles
    assert cap < alone.latency_cycles
    result = aimed(Objective.ENERGY, cap, point).result
    assert result.latency_cycles <= cap
    assert result.scheduler == "cp_sat"
    assert re.match(r"latency: \d+ gains in \d+ changes, SPIED; energy: ", result.solver_status)


def test_a_cap_needs_the_objective_energy() -> None:
    with pytest.raises(ValueError, match=r"^a latency cap needs the objective energy, got latency$"):
        replace(BASE, latency_cap_cycles=1)


def test_mappings_change_times_and_energies_but_no_decision() -> None:
    graph = lower(BASE.workload, BASE.scheme)
    pool = MappingPool(BASE, graph, lambda _: None)
    fast = next(pool.fast())
    least_energy_tiles = pool.remapped(fast, products(fast.problem.tile_graph))
    assert least_energy_tiles.energy_pj < fast.energy_pj
    assert least_energy_tiles.latency_cycles > fast.latency_cycles
    assert [run.core for run in least_energy_tiles.schedule.runs] == [run.core for run in fast.schedule.runs]
    # the order stays, so that faster mappings can only help
    assert pool.remapped(least_energy_tiles, frozenset()).latency_cycles < least_energy_tiles.latency_cycles
    # bounds that hold for any mapping: the cycles of the fastest, the energy of the most frugal
    limits = pool.limits(fast)
    assert limits.cycles == fast.limits.cycles
    assert limits.energy_pj == least_energy_tiles.limits.energy_pj < fast.limits.energy_pj


def test_each_candidate_under_a_cap_is_thriftier_than_the_one_before() -> None:
    graph = lower(BASE.workload, BASE.scheme)
    pool = MappingPool(BASE, graph, lambda _: None)
    fast = next(pool.fast())
    found = list(pool.under(fast, fast.latency_cycles * 11 // 10))
    assert len(found) > 1
    energies = [fast.energy_pj, *(candidate.energy_pj for candidate in found)]
    assert energies == sorted(energies, reverse=True)
    assert all(candidate.latency_cycles <= fast.latency_cycles * 11 // 10 for candidate in found)


@pytest.fixture(scope="module")
def drawn() -> list[Outcome]:
    return list(front(BASE, 4))


def test_no_point_of_a_front_is_dominated(drawn: list[Outcome]) -> None:
    kept = [outcome.result for outcome in non_dominated(drawn)]
    assert len(kept) >= 4
    latencies = [result.latency_cycles for result in kept]
    energies = [result.energy_pj for result in kept]
    assert latencies == sorted(set(latencies))
    assert energies == sorted(set(energies), reverse=True)
    assert latencies[0] == min(outcome.result.latency_cycles for outcome in drawn)
    assert energies[-1] <= min(outcome.result.energy_pj for outcome in drawn) * (1 + 1e-9)


def test_every_point_of_a_front_is_valid_and_keeps_to_its_cap(drawn: list[Outcome]) -> None:
    assert len(drawn) == 6  # the ends and four caps
    for outcome in drawn:
        assert violations(outcome.problem, outcome.schedule) == []
        assert outcome.result.energy_lower_bound_pj <= outcome.result.energy_pj * (1 + 1e-12)
        assert outcome.result.lower_bound_cycles <= outcome.result.latency_cycles
        cap = outcome.result.latency_cap_cycles
        assert cap is None or outcome.result.latency_cycles <= cap


def test_a_point_of_a_front_can_be_had_alone(drawn: list[Outcome]) -> None:
    result = drawn[2].result
    assert result.latency_cap_cycles is not None
    alone = aimed(Objective.ENERGY, result.latency_cap_cycles).result
    assert (alone.latency_cycles, alone.point_sha256) == (result.latency_cycles, result.point_sha256)
    assert alone.energy_pj == result.energy_pj
