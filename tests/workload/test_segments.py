"""A layer in passes computes the same as the layer, costs what its passes cost, and is stored and told as such."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import accumulate, product
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream_mla.errors import TooManyTilesError
from stream_mla.evaluation import evaluate
from stream_mla.frontends import catalog
from stream_mla.hardware.core_cost import Objective
from stream_mla.mapping.tiling.interpreter import execute
from stream_mla.mapping.tiling.tiler import tile
from stream_mla.point import Point
from stream_mla.results import store
from stream_mla.results.render import comparison
from stream_mla.results.result import Status
from stream_mla.schedule.checker import violations
from stream_mla.solvers.budget import Budget
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.operator_graph import Kind, Operand, OperatorGraph, Role
from stream_mla.workload.segments import Segment, handed_over, segments, stages_of
from stream_mla.workload.spec import Workload
from tests.helpers import graphs, point_of, uncut

Floats = NDArray[np.float64]


def places(graph: OperatorGraph, parts: list[Segment]) -> Iterator[tuple[Segment, Mapping[str, int]]]:
    """Yield every pass of a stretch with where its piece of each index begins."""
    tile_graph = sorted({index for part in parts for index in part.sizes})
    sizes = {index: [part.graph.extents[index] for part in parts] for index in tile_graph}
    counts = {i: {size: _count(graph, parts, i, size) for size in dict.fromkeys(sizes[i])} for i in tile_graph}
    pieces = {i: [size for size, count in counts[i].items() for _ in range(count)] for i in tile_graph}
    begins = {i: list(accumulate(pieces[i], initial=0)) for i in tile_graph}
    for where in product(*(range(len(pieces[i])) for i in tile_graph)):
        chosen = {i: pieces[i][place] for i, place in zip(tile_graph, where, strict=True)}
        [part] = [p for p in parts if all(p.graph.extents[i] == size for i, size in chosen.items())]
        yield part, {i: begins[i][place] for i, place in zip(tile_graph, where, strict=True)}


def _count(graph: OperatorGraph, parts: list[Segment], index: str, size: int) -> int:
    """How many pieces of an index have a size: elements of the layer that are in such passes, over those of one."""
    others = {i for part in parts for i in part.sizes} - {index}
    covered = sum(
        part.times * prod(part.graph.extents[i] for i in (*others, index))
        for part in parts
        if part.graph.extents[index] == size
    )
    return covered // (size * prod(graph.extents[i] for i in others))


def run_pass(part: Segment, begins: Mapping[str, int], arrays: dict[str, Floats]) -> None:
    """Run one pass on its piece of the layer's tensors, and put back what it made."""
    graph = part.graph
    first = begins.get("q", 0)
    operators = tuple(replace(o, first_position=o.first_position + first) for o in graph.operators)
    graph = replace(graph, operators=operators)

    def own(operand: Operand, name: str) -> tuple[slice, ...]:
        shape = graph.tensors[name].shape
        return tuple(
            slice(begins.get(index, 0), begins.get(index, 0) + size)
            for index, size in zip(operand.indices, shape, strict=True)
        )

    read = {operand.tensor: operand for operator in operators for operand in operator.reads}
    read |= {operand.tensor: operand for operator in operators for operand in operator.outputs}
    done = execute(
        tile(graph, uncut(graph.local)), {name: arrays[name][own(operand, name)] for name, operand in read.items()}
    )
    for operator in operators:
        for operand in operator.outputs:
            whole = tuple(
                slice(begins.get(index, 0) + offset, begins.get(index, 0) + offset + graph.extents[index])
                for index, offset in zip(operand.indices, operand.offsets, strict=True)
            )
            piece = tuple(
                slice(offset, offset + graph.extents[index])
                for index, offset in zip(operand.indices, operand.offsets, strict=True)
            )
            arrays[operand.tensor][whole] = done[operand.tensor][piece]


@given(graphs(), st.integers(1, 8))
def test_passes_compute_the_layer(graph: OperatorGraph, pieces: int) -> None:
    rng = np.random.default_rng(3)
    filled = (Role.INPUT, Role.WEIGHT, Role.CACHE)
    start = {name: rng.normal(size=t.shape) for name, t in graph.tensors.items() if t.role in filled}
    expected = execute(tile(graph, uncut(graph.local)), start)
    arrays = {
        name: np.array(start[name]) if name in start else np.full(t.shape, np.nan) for name, t in graph.tensors.items()
    }
    for stage in stages_of(graph):
        for part, begins in places(graph, segments(graph, stage, pieces)):
            run_pass(part, begins, arrays)
    [result] = [name for name, t in graph.tensors.items() if t.role is Role.OUTPUT]
    np.testing.assert_allclose(arrays[result], expected[result], rtol=1e-9, atol=1e-12)


@given(graphs(), st.integers(1, 8))
def test_passes_do_all_the_work_and_no_more(graph: OperatorGraph, pieces: int) -> None:
    parts = [part for stage in stages_of(graph) for part in segments(graph, stage, pieces)]
    assert sum(part.times * part.graph.total_macs for part in parts) == graph.total_macs
    assert sorted(o.name for stage in stages_of(graph) for o in stage) == sorted(graph.edges)
    for name in handed_over(parts):
        assert {part.graph.tensors[name].role for part in parts if name in part.graph.tensors} == {
            Role.INPUT,
            Role.OUTPUT,
        }


def test_heads_come_in_even_passes_where_that_takes_less_than_twice_as_many() -> None:
    model = catalog.load_model("deepseek_v3")
    step = Workload(model=model, batch=2, query_tokens=4096, cached_tokens=0, precision=model.precision)
    graph = lower(step, "mla_naive")
    before, heads, after = stages_of(graph)
    assert [o.name for o in before][-1] == "key_rope"
    assert [o.name for o in after] == ["out"]
    # 128 heads in 20 pieces: 32 of 4; in 200: each head, of 2 requests one after the other
    assert [(p.times, dict(p.sizes)) for p in segments(graph, heads, 20)] == [(32, {"h": 4})]
    assert [(p.times, dict(p.sizes)) for p in segments(graph, heads, 200)] == [(256, {"h": 1, "b": 1})]
    # 4,096 tokens in 3 pieces: 4 of 1,024
    assert [(p.times, dict(p.sizes)) for p in segments(graph, after, 3)] == [(4, {"q": 1024})]
    # 1,021 tokens are a prime: one more in the first of 5
    odd = lower(replace(step, query_tokens=1021), "mla_naive")
    assert [(p.times, dict(p.sizes)) for p in segments(odd, stages_of(odd)[2], 5)] == [(1, {"q": 205}), (4, {"q": 204})]


def test_keys_of_a_group_are_made_before_its_heads() -> None:
    model = catalog.load_model("llama_3_8b")
    step = Workload(model=model, batch=1, query_tokens=64, cached_tokens=0, precision=model.precision)
    before, heads, _ = stages_of(lower(step, "mha"))
    assert [o.name for o in before] == ["key", "key_rope", "value"]
    assert Kind.SOFTMAX in {o.kind for o in heads}


@pytest.fixture
def few() -> Point:
    """A point whose layer has more tiles than `in_passes` allows to be scheduled as a whole."""
    model = catalog.load_model("deepseek_v2_lite")
    return point_of(
        Workload(model=model, batch=1, query_tokens=256, cached_tokens=0, precision=model.precision),
        catalog.load_accelerator("flat_edge"),
        "mla_absorbed",
        gap_limit=0.05,
    )


def in_passes(point: Point) -> Budget:
    """The budget under which tilings have at most 1,500 tiles, and a pass about 500."""
    return replace(Budget.of(point), max_tiles=1500, segment_tiles=500)


def test_the_result_is_the_sum_of_checked_passes(few: Point, tmp_path: Path) -> None:
    outcome = evaluate(few, budget=in_passes(few))
    result = outcome.result
    graph = lower(few.workload, few.scheme)
    assert [len(stage) for stage in stages_of(graph)] == [4, 9, 1]
    assert sum(entry.part.times for entry in outcome.segments) > len(outcome.segments)  # some run several times
    assert result.latency_cycles == sum(p.times * p.latency_cycles for p in result.passes)
    assert result.lower_bound_cycles == sum(p.times * p.lower_bound_cycles for p in result.passes)
    assert result.lower_bound_cycles == max(result.bounds_cycles.values())
    assert result.ideal_cycles <= result.latency_cycles
    assert result.macs == sum(e.part.times * e.outcome.result.macs for e in outcome.segments)
    assert result.macs >= graph.total_macs  # tiles that the mask hides in part are computed as a whole
    assert result.dram_read_bytes >= result.dram_minimum_read_bytes
    assert result.cache_reads >= 1
    assert "head_out" in result.spilled
    assert result.status is Status.FEASIBLE
    assert 0 <= result.gap <= few.gap_limit
    assert result.energy_pj == pytest.approx(sum(e.part.times * e.outcome.result.energy_pj for e in outcome.segments))
    for entry in outcome.segments:
        assert violations(entry.outcome.problem, entry.outcome.schedule) == []
    stored = store.load(store.save(tmp_path, few, outcome))
    assert stored.result == result
    again = store.rebuilt(stored, few)
    assert [candidate.latency_cycles for candidate in again] == [entry.latency_cycles for entry in result.passes]
    told = " ".join(comparison.table_of([few], [result], wide=True).split())
    first, second, _ = (f"{entry.latency_cycles:,} cycles" for entry in result.passes)
    assert (
        "mla_absorbed has too many tiles to be scheduled as a whole. It runs in segments, one after the other, and its "
        f"gap is that of schedules in these segments: kv_latent to key_rope {first}; "
        f"query to head_out 8 times with h=2 each, {second}; out 2 times with q=128 each"
    ) in told


def test_passes_cost_little_beside_a_schedule_of_the_whole(few: Point) -> None:
    """On one core a pass starts with loads that nothing hides, and queries and contexts pass the DRAM."""
    result = evaluate(few, budget=in_passes(few)).result
    whole = evaluate(few).result
    assert whole.passes == ()
    assert result.ideal_cycles == whole.ideal_cycles
    assert whole.latency_cycles < result.latency_cycles < 1.1 * whole.latency_cycles


def test_the_cap_that_passes_find_is_that_of_the_layer(few: Point) -> None:
    """Latency, then energy: each pass keeps to 0.1 % of its own best latency, so do all of them together."""
    result = evaluate(replace(few, objective=Objective.LATENCY_THEN_ENERGY), budget=in_passes(few)).result
    assert result.latency_cap_cycles is not None
    assert result.latency_cycles <= result.latency_cap_cycles <= 1.01 * result.latency_cycles


def test_a_cap_on_the_latency_needs_a_schedule_of_the_whole(few: Point) -> None:
    with pytest.raises(TooManyTilesError, match=r"would cut it into [\d,]+ tiles, more than 1,500"):
        evaluate(replace(few, objective=Objective.ENERGY, latency_cap_cycles=10**9), budget=in_passes(few))
