"""Floors of tilings that are not cut: never above the bounds of the cut tiling, and by hand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_mla.frontends import catalog
from stream_mla.hardware.core_cost import Objective
from stream_mla.mapping.planning.planner import candidate_tilings
from stream_mla.mapping.policy import POLICIES
from stream_mla.mapping.tiling.tiler import tile
from stream_mla.schedule.bounds.schedule_bounds import bounds
from stream_mla.schedule.bounds.tiling_bounds import tiling_lower_bound
from stream_mla.schedule.problem import Problem, price
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.spec import Workload
from tests.helpers import core_type, graphs, grouped, latent, machine, problems, small_problem, tilings, uncut, workload


@given(problems())
def test_a_floor_is_never_above_the_bounds(problem: Problem) -> None:
    floor = tiling_lower_bound(problem.tile_graph.graph, problem.accelerator, problem.tile_graph.tiling)
    assert floor <= bounds(problem).lower_bound_cycles


@given(st.data())
def test_a_floor_is_never_above_the_bounds_where_the_dram_is_slow(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    accelerator = machine(core_type(), core_type(), bandwidth=0.5)
    tiling = data.draw(tilings(graph))
    tiling = replace(tiling, shared=data.draw(st.frozensets(st.sampled_from(sorted(graph.tensors)))))
    limits = bounds(small_problem(graph, tiling, accelerator))
    assert tiling_lower_bound(graph, accelerator, tiling) <= limits.lower_bound_cycles


def test_what_must_pass_the_dram_by_hand() -> None:
    graph = lower(workload(grouped()), "mha")
    slow = machine(core_type(), bandwidth=0.001)  # bit per cycle: nothing but the DRAM counts
    once = graph.dram_read_bits + graph.dram_write_bits
    # queries, keys and values are clusters of their own, and each loads the input
    source = graph.tensors[graph.operators[0].inputs[0].tensor]
    assert tiling_lower_bound(graph, slow, uncut()) == 1000 * (once + 2 * source.bits)
    # and so do the clusters of the two groups of heads that queries are cut into
    halves = replace(uncut(), sizes={"query": {"g": 1}})
    assert tiling_lower_bound(graph, slow, halves) == 1000 * (once + 3 * source.bits)
    # unless one load serves all
    shared = replace(halves, shared=frozenset({source.name}))
    assert tiling_lower_bound(graph, slow, shared) == 1000 * once
    # what is spilled is written once and read once
    spilled = replace(shared, spilled=frozenset({"context"}))
    assert tiling_lower_bound(graph, slow, spilled) == 1000 * (once + 2 * graph.tensors["context"].bits)


@pytest.mark.parametrize("parts", [1, 4])
def test_compute_is_counted_tile_by_tile(parts: int) -> None:
    # 38 keys: chunks of 5 and one of 3; or parts of 9, 10, 9 and 10, each of chunks of 5, and one of 4 where it has 9
    graph = lower(workload(latent(), cached_tokens=37), "mla_absorbed")
    fast = machine(core_type(), bandwidth=1e6)
    sizes = {name: {"k": 5} for name in ("scores", "softmax", "attend")}
    tiling = replace(uncut(), sizes=sizes, kv_splits={"attention": parts})
    problem = small_problem(graph, tiling, fast)
    arrays = sum(
        cost
        for cost, entry in zip(problem.minimum_cycles, problem.tile_graph.tiles, strict=True)
        if entry.kind in ("einsum", "attend")
    )
    vectors = sum(problem.minimum_cycles) - arrays
    assert tiling_lower_bound(graph, fast, tiling) == max(arrays, vectors)


def test_floors_of_plans_are_close() -> None:
    # the loads that the counts leave out are few: on a shipped machine a floor is within 10 % of the bound
    model = catalog.load_model("deepseek_v2_lite")
    step = Workload(model=model, batch=1, query_tokens=1, cached_tokens=1024, precision=model.precision)
    graph, accelerator = lower(step, "mla_absorbed"), catalog.load_accelerator("tpu_like_quad_core")
    for tiling in list(candidate_tilings(graph, accelerator, {}, POLICIES["free"]))[:6]:
        limits = bounds(price(tile(graph, tiling), accelerator, Objective.LATENCY))
        floor = tiling_lower_bound(graph, accelerator, tiling)
        assert 0.9 * limits.lower_bound_cycles < floor <= limits.lower_bound_cycles
