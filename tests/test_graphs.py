"""Graphs that are not one attention layer: products, gated feed-forward networks, and layers one after the other."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from stream_mla.errors import TooManyTilesError
from stream_mla.evaluation import evaluate_graph
from stream_mla.frontends import catalog
from stream_mla.mapping.planning.planner import candidate_tilings
from stream_mla.mapping.policy import POLICIES
from stream_mla.mapping.tiling.interpreter import Floats, execute
from stream_mla.mapping.tiling.tile_graph import TileGraph, Tiling, tile_count
from stream_mla.mapping.tiling.tiler import tile
from stream_mla.point import Point
from stream_mla.results.outcome import Outcome
from stream_mla.schedule.checker import violations
from stream_mla.solvers.budget import Budget
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.lowering.ffn import gated_ffn, gemm
from stream_mla.workload.lowering.sequence import in_sequence
from stream_mla.workload.operator_graph import Kind, OperatorGraph, Role
from stream_mla.workload.spec import Workload
from tests.helpers import BYTES, core_type, grouped, latent, machine, point_of, workload

MACHINES = ["flat_cloud", "tpu_like_quad_core", "h100"]


def _gemm() -> OperatorGraph:
    return gemm(BYTES, m=24, n=96, k=160)


def _two_gemms() -> OperatorGraph:
    return in_sequence(first=gemm(BYTES, m=24, n=96, k=160), second=gemm(BYTES, m=24, n=48, k=96))


def _ffn() -> OperatorGraph:
    return gated_ffn(BYTES, batch=2, tokens=12, model_dim=64, hidden_dim=176)


def _latent_layers() -> OperatorGraph:
    first = lower(workload(latent(heads=4), query_tokens=2, cached_tokens=30), "mla_rc")
    second = lower(workload(latent(heads=4), query_tokens=2, cached_tokens=30), "mla_naive")
    return in_sequence(first=first, second=second)


def _grouped_layers() -> OperatorGraph:
    layer = lower(workload(grouped(), batch=2, query_tokens=3, cached_tokens=20), "mha")
    return in_sequence(first=layer, second=layer)


def _block() -> OperatorGraph:
    attention = lower(workload(grouped(), batch=2, query_tokens=3), "mha")
    return in_sequence(attention=attention, ffn=gated_ffn(BYTES, batch=2, tokens=3, model_dim=7, hidden_dim=19))


GRAPHS = [_gemm, _two_gemms, _ffn, _latent_layers, _grouped_layers, _block]


def _point(accelerator: str) -> Point:
    """A point of an accelerator; the graph is given apart from it."""
    return point_of(workload(grouped()), catalog.load_accelerator(accelerator), "graph", gap_limit=0.01)


def _checked(point: Point, graph: OperatorGraph) -> Outcome:
    """Return the outcome of a graph, checked, between its bounds."""
    outcome = evaluate_graph(point, graph)
    assert violations(outcome.problem, outcome.schedule) == []
    result = outcome.result
    assert result.macs == graph.total_macs
    assert 0 < result.ideal_cycles <= result.lower_bound_cycles <= result.latency_cycles
    assert result.dram_read_bytes >= graph.dram_read_bits / 8
    assert result.dram_write_bytes >= graph.dram_write_bits / 8
    return outcome


def _given(graph: OperatorGraph) -> dict[str, Floats]:
    rng = np.random.default_rng(5)
    filled = (Role.INPUT, Role.WEIGHT, Role.CACHE)
    return {name: rng.normal(size=t.shape) / 3 for name, t in graph.tensors.items() if t.role in filled}


def _result(tile_graph: TileGraph) -> Floats:
    [name] = [name for name, tensor in tile_graph.graph.tensors.items() if tensor.role is Role.OUTPUT]
    return execute(tile_graph, _given(tile_graph.graph))[name]


def _uncut(graph: OperatorGraph) -> Floats:
    """Return the result of one tile per operator."""
    return _result(tile(graph, Tiling(sizes={}, spilled=frozenset(), shared=frozenset(), local=frozenset())))


@pytest.mark.parametrize("accelerator", MACHINES)
@pytest.mark.parametrize("make", GRAPHS)
def test_graphs_are_planned_scheduled_and_computed(make: Callable[[], OperatorGraph], accelerator: str) -> None:
    graph = make()
    outcome = _checked(_point(accelerator), graph)
    np.testing.assert_allclose(_result(outcome.problem.tile_graph), _uncut(graph), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("make", GRAPHS)
def test_every_candidate_tiling_computes_the_graph(make: Callable[[], OperatorGraph]) -> None:
    """On two cores with little memory, tiles are small, and some tensors leave the chip."""
    graph = make()
    expected = _uncut(graph)
    small = machine(core_type(sram_bits=12_000), core_type(sram_bits=12_000))
    tilings = list(candidate_tilings(graph, small, {}, POLICIES["free"]))
    assert any(tiling.spilled for tiling in tilings) == bool(graph.intermediates - graph.local)
    for tiling in tilings:
        tile_graph = tile(graph, tiling)
        assert len(tile_graph.tiles) > len(graph.operators)
        np.testing.assert_allclose(_result(tile_graph), expected, rtol=1e-9, atol=1e-12)


def test_a_gated_ffn_is_what_the_paper_says() -> None:
    """Shazeer, arXiv 2002.05202: (SiLU(x W_gate) * (x W_up)) W_down."""
    graph = _ffn()
    given = _given(graph)
    gate, up = given["x"] @ given["w_gate"], given["x"] @ given["w_up"]
    expected = (gate / (1 + np.exp(-gate)) * up) @ given["w_down"]
    np.testing.assert_allclose(_uncut(graph), expected, rtol=1e-9, atol=1e-12)
    # 24 tokens against three matrices of 64 x 176
    assert graph.total_macs == 24 * 3 * 64 * 176


def test_silu_takes_four_operations_and_a_product_one() -> None:
    """24 x 176 elements; SiLU reads one operand of 8 bit, the product two."""
    graph = _ffn()
    tiles = tile(graph, Tiling(sizes={}, spilled=frozenset(), shared=frozenset(), local=frozenset())).tiles
    [silu] = [entry.work for entry in tiles if entry.kind is Kind.SILU]
    [product] = [entry.work for entry in tiles if entry.kind is Kind.PRODUCT]
    elements = 24 * 176
    assert vars(silu) == {"operations": 4 * elements, "read_bits": 8 * elements, "write_bits": 8 * elements}
    assert vars(product) == {"operations": elements, "read_bits": 16 * elements, "write_bits": 8 * elements}


def test_layers_have_groups_of_their_own() -> None:
    graph = _latent_layers()
    assert graph.attention_groups == ("first.attention", "second.attention")
    vector = core_type("vector", array=False)
    small = machine(core_type(vector=False, sram_bits=9000), core_type(vector=False, sram_bits=9000), vector)
    for tiling in candidate_tilings(graph, small, {"parts": 3}, POLICIES["free"]):
        assert tiling.kv_splits == {"first.attention": 3, "second.attention": 3}
        assert tiling.sizes["first.scores"] != tiling.sizes["second.scores"] or not tiling.inline


def test_a_real_network_comes_close_to_its_bound() -> None:
    """The expert of DeepSeek-V2-Lite (2048 x 1408) in decode: its weights are read once, at the DRAM's rate."""
    graph = gated_ffn(BYTES, batch=1, tokens=1, model_dim=2048, hidden_dim=1408)
    result = _checked(_point("flat_cloud"), graph).result
    # three matrices, input and output of 2048: 8,654,848 B at 400 B per cycle
    assert result.ideal_cycles == (3 * 2048 * 1408 + 2 * 2048) // 400 == 21_637
    assert result.latency_cycles < 1.05 * result.ideal_cycles


def test_two_real_layers_take_twice_one() -> None:
    """Decode of DeepSeek-V2-Lite is bound by the DRAM, so that layers in a row overlap at their ends only."""
    model = catalog.load_model("deepseek_v2_lite")
    layer = lower(Workload(model=model, batch=1, query_tokens=1, cached_tokens=512, precision=BYTES), "mla_absorbed")
    one = _checked(_point("flat_cloud"), layer).result
    two = _checked(_point("flat_cloud"), in_sequence(first=layer, second=layer)).result
    assert 1.9 * one.latency_cycles < two.latency_cycles < 2.02 * one.latency_cycles


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_hold_for_any_graph(policy: str) -> None:
    two = machine(core_type(), core_type())
    for make in GRAPHS:
        _checked(point_of(workload(grouped()), two, "graph", policy=POLICIES[policy], gap_limit=0.05), make())


def _with_few_tiles(point: Point, most: int, segment: int) -> Budget:
    """Return the budget under which a tiling has `most` tiles at most, and a segment about `segment`."""
    return replace(Budget.of(point), max_tiles=most, segment_tiles=segment)


def _tall_gemm() -> OperatorGraph:
    """Return a product of many tokens with a weight that one core can hold."""
    return gemm(BYTES, m=960, n=24, k=32)


@pytest.mark.parametrize("make", [_tall_gemm, _ffn, _latent_layers, _grouped_layers, _block])
def test_graphs_with_too_many_tiles_run_in_segments(make: Callable[[], OperatorGraph]) -> None:
    graph = make()
    small = machine(core_type(sram_bits=16_000), core_type(sram_bits=16_000))
    point = point_of(workload(grouped()), small, "graph", gap_limit=0.05)
    fewest = min(tile_count(graph, tiling) for tiling in candidate_tilings(graph, small, {}, point.policy))
    outcome = evaluate_graph(point, graph, budget=_with_few_tiles(point, fewest - 1, fewest // 3))
    result = outcome.result
    assert sum(entry.part.times for entry in outcome.segments) > 1
    assert result.macs == sum(e.part.times * e.outcome.result.macs for e in outcome.segments)
    assert graph.total_macs == sum(e.part.times * e.part.graph.total_macs for e in outcome.segments) <= result.macs
    assert result.latency_cycles == sum(p.times * p.latency_cycles for p in result.passes) > result.ideal_cycles
    for entry in outcome.segments:
        assert violations(entry.outcome.problem, entry.outcome.schedule) == []


def test_what_segments_cannot_make_small_is_refused() -> None:
    """One token, whose results lie along no index that both products make: there is nothing to cut."""
    small = machine(core_type(sram_bits=8000), core_type(sram_bits=8000))
    graph = in_sequence(first=gemm(BYTES, m=1, n=96, k=160), second=gemm(BYTES, m=1, n=48, k=96))
    point = point_of(workload(grouped()), small, "graph")
    with pytest.raises(TooManyTilesError) as caught:
        evaluate_graph(point, graph, budget=_with_few_tiles(point, 10, 5))
    assert str(caught.value).startswith(
        "first.gemm to second.gemm, which nothing cuts, has too many tiles even as a segment: none of "
    )


def test_what_does_not_fit_together_is_refused() -> None:
    layer = lower(workload(grouped()), "mha")
    with pytest.raises(ValueError, match=r"^second has 7 of index k, what comes before it has 6$"):
        in_sequence(first=layer, second=lower(workload(grouped(), cached_tokens=6), "mha"))
    with pytest.raises(ValueError, match=r"^second\.x is \(1, 24, 64\), and first\.y before it is \(1, 24, 96\)$"):
        in_sequence(first=gemm(BYTES, m=24, n=96, k=160), second=gemm(BYTES, m=24, n=48, k=64))
    with pytest.raises(ValueError, match=r"^a sequence needs at least one graph$"):
        in_sequence()
    with pytest.raises(ValueError, match=r"^index e must have at least 1 element, got 0$"):
        gemm(BYTES, m=1, n=0, k=1)
