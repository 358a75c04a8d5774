"""What each policy takes away from the scheduler: late tensors, phases, shared tensors, and what leaves the chip."""

from dataclasses import replace

import pytest

from stream_mla.mapping.planning.planner import candidate_tilings
from stream_mla.mapping.policy import POLICIES, Fusion, Policy, Prefetch
from stream_mla.mapping.tiling.tile_graph import Tiling
from stream_mla.schedule.checker import violations
from stream_mla.solvers.list_scheduling.greedy import greedy
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.operator_graph import OperatorGraph, Role
from tests.helpers import LATENT_SCHEMES, core_type, grouped, latent, machine, small_problem, workload

SMALL = 800
"""Bits of SRAM of which a tenth is less than some activations."""


def _all(graph: OperatorGraph, policy: Policy, sram_bits: int = SMALL) -> list[Tiling]:
    return list(candidate_tilings(graph, machine(*[core_type(sram_bits=sram_bits)] * 2), {}, policy))


@pytest.mark.parametrize("scheme", LATENT_SCHEMES)
def test_free_takes_nothing_away(scheme: str) -> None:
    found = _all(lower(workload(latent()), scheme), POLICIES["free"])
    assert {(tiling.single_buffered, len(tiling.phases)) for tiling in found} == {(frozenset(), 0)}
    assert {bool(tiling.spilled) for tiling in found} == {True, False}


def test_layer_by_layer_spills_all_and_numbers_the_operators() -> None:
    graph = lower(workload(latent()), "mla_absorbed")
    found = _all(graph, POLICIES["layer_by_layer"])
    inner = {name for name, tensor in graph.tensors.items() if tensor.role in (Role.ACTIVATION, Role.PARTIAL)}
    assert found
    for tiling in found:
        assert tiling.spilled == inner
        assert tiling.local == tiling.inline == tiling.single_buffered == frozenset()
        assert [tiling.phases[operator.name] for operator in graph.operators] == list(range(16))


def test_layers_run_one_after_the_other() -> None:
    graph = lower(workload(latent(), query_tokens=2), "mla_rc")
    accelerator = machine(core_type(), core_type())
    problem = small_problem(
        graph, next(iter(candidate_tilings(graph, accelerator, {}, POLICIES["layer_by_layer"]))), accelerator
    )
    schedule = greedy(problem)
    assert violations(problem, schedule) == []
    ends = [0] * len(graph.operators)
    starts = [schedule.latency_cycles] * len(graph.operators)
    for run in schedule.runs:
        phase = problem.tile_graph.tiles[run.tile].phase
        starts[phase], ends[phase] = min(starts[phase], run.start), max(ends[phase], run.end)
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))


BEFORE = dict.fromkeys(("q_latent", "q_latent_norm", "kv_latent", "kv_latent_norm", "key_rope_raw", "key_rope"), 0)
ROTATED = dict.fromkeys(("query_rope_raw", "query_rope"), 1)
ATTENTION = dict.fromkeys(("scores", "softmax", "attend", "merge"), 2)


@pytest.mark.parametrize(
    ("scheme", "phases"),
    [
        ("mla_absorbed", {**BEFORE, **ROTATED, "query": 1, "query_absorbed": 1, **ATTENTION, "head_out": 2, "out": 3}),
        ("mla_rc", {**BEFORE, **ROTATED, "composite": 1, "query_absorbed": 1, **ATTENTION, "head_out": 2, "out": 3}),
        (
            "mla_naive",
            {**BEFORE, **ROTATED, "query": 1, "keys": 1, "values": 1, "scores_rope": 2, **ATTENTION, "out": 3},
        ),
    ],
)
def test_the_letter_fuses_stacks(scheme: str, phases: dict[str, int]) -> None:
    for tiling in _all(lower(workload(latent()), scheme), POLICIES["letter"]):
        assert tiling.phases == phases
        assert tiling.spilled == frozenset()


def test_the_stacks_of_grouped_queries() -> None:
    (*_, tiling) = _all(lower(workload(grouped()), "mha"), POLICIES["letter"])
    projections = ("query", "query_rope", "key", "key_rope", "value")
    assert tiling.phases.items() >= {**dict.fromkeys(projections, 1), **ATTENTION, "out": 3}.items()


def test_the_letter_loads_second_operands_ahead() -> None:
    # first operands: of the projections x and the normalised latent, then query, query_full, numerators, context
    single_buffered = {"x", "q_latent_norm", "query", "query_full", "probs", "context", "head_out"}
    for tiling in _all(lower(workload(latent()), "mla_absorbed"), POLICIES["letter"]):
        assert tiling.single_buffered == single_buffered


def test_without_prefetch_all_loads_are_late() -> None:
    graph = lower(workload(latent()), "mla_absorbed")
    policy = Policy(fusion=Fusion.AUTO, prefetch=Prefetch.OFF, sharing=True)
    for tiling in _all(graph, policy):
        assert tiling.single_buffered == frozenset(graph.tensors)
        assert tiling.phases == {}


@pytest.mark.parametrize("name", POLICIES)
def test_nothing_is_shared_where_sharing_is_off(name: str) -> None:
    graph = lower(workload(latent()), "mla_naive")
    assert any(tiling.shared for tiling in _all(graph, POLICIES[name], 3000))
    assert not any(tiling.shared for tiling in _all(graph, replace(POLICIES[name], sharing=False), 3000))
