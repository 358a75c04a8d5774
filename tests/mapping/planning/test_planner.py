"""Plans fit the memories they are made for, and keep to what the user and the machine prescribe."""

import re
from dataclasses import replace
from itertools import islice, pairwise
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_mla.errors import InfeasibleError
from stream_mla.frontends import catalog
from stream_mla.hardware.accelerator import CoreType, Dataflow, Delivery, OperandPrecision
from stream_mla.hardware.core_cost import Objective, gemm_cost
from stream_mla.hardware.work import Gemm
from stream_mla.mapping.planning.analytical_model import (
    CandidateSizes,
    Spill,
    Strategy,
    estimate_machine,
    scaled_setting,
)
from stream_mla.mapping.planning.attention_group import attention_groups, attention_shape
from stream_mla.mapping.planning.attention_tiling import streamed_bits
from stream_mla.mapping.planning.candidate_sizes import Numbers, combine, group_choices, nested_size, piece_sizes
from stream_mla.mapping.planning.memory_footprint import peak_occupancy
from stream_mla.mapping.planning.planner import candidate_tilings
from stream_mla.mapping.policy import POLICIES, Fusion
from stream_mla.mapping.tiling.tile_graph import Tiling
from stream_mla.mapping.tiling.tiler import tile
from stream_mla.workload.fusion_group import GroupRole
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.operator_graph import CONTRACTIONS, OperatorGraph, Role
from stream_mla.workload.spec import Workload
from tests.helpers import (
    BYTES,
    LATENT_SCHEMES,
    bus,
    core_type,
    graphs,
    grouped,
    latent,
    machine,
    wire,
    workload,
)

FREE = POLICIES["free"]
SPILL = Strategy(spill=Spill.LARGE, inline=frozenset(), sharing=True)

MLA = lower(workload(latent()), "mla_absorbed")
SHARE = 0.55
"""Of an SRAM, for the tiles of one operator."""


def _first(graph: OperatorGraph, *types: CoreType, **forced: int) -> Tiling:
    return next(iter(candidate_tilings(graph, machine(*types), forced, FREE)))


def _numbers(*values: int) -> Numbers:
    return np.array(values, dtype=np.int64)


def test_piece_sizes_by_hand() -> None:
    # 1, 2, 3, 4, 6, 8 and 12 pieces; 6 and 8 pieces of 12 are both at most 2 long
    assert piece_sizes(12) == [12, 6, 4, 3, 2, 1]
    # 500, 334, 250, 167, 125 and 84 are rounded up to 16; 1000 is the extent, and 63 is below 4 x 16
    assert piece_sizes(1000, 16)[:8] == [1000, 512, 336, 256, 176, 128, 96, 63]


@given(st.integers(1, 200_000), st.sampled_from((1, 16)))
def test_piece_sizes_go_from_whole_to_tiny_in_small_steps(extent: int, multiple: int) -> None:
    sizes = piece_sizes(extent, multiple)
    assert sizes[0] == extent
    assert sizes[-1] in (1, 2)
    for size, smaller in pairwise(sizes):
        assert smaller < size < 2 * smaller + multiple
        assert smaller < 4 * multiple or smaller % multiple == 0


def test_a_nested_size_fills_the_whole_unless_it_is_small() -> None:
    assert [nested_size(44, size) for size in (44, 43, 15, 4, 3)] == [44, 22, 11, 4, 2]
    # 43 is prime
    assert [nested_size(43, size) for size in (43, 15, 2)] == [43, 15, 1]


def test_outer_indices_are_cut_to_one_before_inner_ones() -> None:
    extents = {"g": 3, "j": 4, "one": 1}
    assert group_choices(("g", "one", "j"), extents, {}) == [
        {},
        {"g": 2},
        {"g": 1},
        {"g": 1, "j": 2},
        {"g": 1, "j": 1},
    ]
    assert group_choices(("g", "j"), extents, {"g": 2}) == [{"g": 2}, {"g": 2, "j": 2}, {"g": 2, "j": 1}]


def test_combinations_count_elements_and_pieces() -> None:
    extents = {"g": 3, "k": 4}
    first, second = combine((("g",), ("k",)), extents, {"k": 3})
    assert [first.sizes(i) | second.sizes(i) for i in range(3)] == [{"k": 3}, {"g": 2, "k": 3}, {"g": 1, "k": 3}]
    assert first.elements().tolist() == [3, 2, 1]
    assert first.pieces().tolist() == [1, 2, 3]
    assert second.elements().tolist() == [3, 3, 3]
    assert second.pieces().tolist() == [2, 2, 2]
    assert first.take(_numbers(2, 0)).pieces().tolist() == [3, 1]


def _core(delivery: Delivery, macs_per_element: float, *dataflows: Dataflow) -> CoreType:
    core = core_type()
    assert core.array is not None
    precision = OperandPrecision(operand=8, macs_per_element=macs_per_element, mac_energy=0.5)
    array = replace(core.array, rows=3, columns=5, delivery=delivery, dataflows=dataflows, precisions=(precision,))
    return replace(core, array=array)


@pytest.mark.parametrize("dataflow", Dataflow)
@pytest.mark.parametrize("rate", [0.25, 1, 2])
@pytest.mark.parametrize("delivery", Delivery)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1, 20, 16), (4, 7, 9, 11), (3, 6, 10, 2)])
def test_estimated_cycles_are_those_of_the_cost_model(
    shape: tuple[int, int, int, int], delivery: Delivery, rate: float, dataflow: Dataflow
) -> None:
    core = _core(delivery, rate, dataflow)
    batch, m, n, k = shape
    work = Gemm(batch=batch, m=m, n=n, k=k, a_bits=8, b_bits=8, out_bits=8, accumulates=False)
    estimate = estimate_machine(machine(core)).tile_cycles(_numbers(batch), _numbers(m), _numbers(n), _numbers(k), 8)
    assert estimate.tolist() == [gemm_cost(core, work, Objective.LATENCY).cycles]


def test_the_best_dataflow_counts() -> None:
    core = _core(Delivery.BROADCAST, 1, *Dataflow)
    cycles = estimate_machine(machine(core)).tile_cycles(_numbers(2), _numbers(1), _numbers(20), _numbers(16), 8)
    # output stationary 1 x 4 x 16 = 64, weight 6 x 4 x 1 = 24, input 6 x 1 x 20 = 120; a batch of 2
    assert cycles.tolist() == [48]


def test_the_machine_is_its_smallest_memories_and_its_narrowest_common_bandwidth() -> None:
    both, array = core_type("both", sram_bits=300), core_type("array", vector=False, sram_bits=200)
    vector = core_type("vector", array=False, sram_bits=100)
    links = [bus("dram", "core0", "core1", "core2", bandwidth=8)]
    estimate = estimate_machine(machine(both, array, vector, links=links, bandwidth=16))
    assert (estimate.array_cores, estimate.sram_bits, estimate.vector_sram_bits) == (2, 200, 100)
    assert estimate.joined
    assert not estimate.one_core_does_all
    assert estimate.dram_bits_per_cycle == 8
    apart = [wire("dram", name, name=name, bandwidth=12) for name in ("core0", "core1")]
    estimate = estimate_machine(machine(both, both, links=apart, bandwidth=16))
    assert not estimate.joined
    assert estimate.one_core_does_all
    assert estimate.dram_bits_per_cycle == 16


@pytest.mark.parametrize(("bandwidth", "joined"), [(2, True), (1.9, False)])
def test_cores_are_joined_where_their_link_is_of_use(bandwidth: float, joined: bool) -> None:
    links = [wire("dram", f"core{n}", name=f"wire{n}", bandwidth=16) for n in range(2)]
    links.append(wire("core0", "core1", name="between", bandwidth=bandwidth))
    estimate = estimate_machine(machine(core_type(), core_type(), links=links, bandwidth=16))
    assert estimate.joined is joined  # an eighth of 16 is 2


def test_budgets_are_shares_of_the_memories() -> None:
    both, vector = core_type("both", sram_bits=1000), core_type("vector", array=False, sram_bits=400)
    setting = scaled_setting(MLA, estimate_machine(machine(both)), {}, 0.5, SPILL)
    assert (setting.budget_bits, setting.small_bits, setting.vector_budget_bits) == (275, 50, 125)
    apart = machine(core_type("array", vector=False, sram_bits=1000), vector)
    # half of 400 for one piece on its way there and one on its way back, of one array or of two
    assert scaled_setting(MLA, estimate_machine(apart), {}, 0.5, SPILL).vector_budget_bits == 100
    apart = machine(*[core_type("array", vector=False)] * 2, vector)
    assert scaled_setting(MLA, estimate_machine(apart), {}, 0.5, SPILL).vector_budget_bits == 50


def test_a_tile_costs_a_share_of_what_takes_longest() -> None:
    moved, macs = MLA.dram_read_bits + MLA.dram_write_bits, MLA.total_macs
    # 16 bit or 2 arrays x 4 MACs per cycle; and a DRAM that is never the longest
    slow, fast = (estimate_machine(machine(core_type(), core_type(), bandwidth=b)) for b in (16, 1e6))
    assert moved / 16 > macs / 8
    assert scaled_setting(MLA, slow, {}, 1, SPILL).tile_price_cycles == pytest.approx(2e-5 * moved / 16)
    assert scaled_setting(MLA, fast, {}, 1, SPILL).tile_price_cycles == pytest.approx(2e-5 * macs / 8)


def test_small_tensors_are_loaded_once_per_core_if_loads_are_shared() -> None:
    estimate = estimate_machine(machine(*[core_type(sram_bits=1000)] * 2))
    again, groups = _numbers(3, 3), _numbers(1, 5)

    def loads(tensor: str, *, sharing: bool) -> list[float]:
        setting = scaled_setting(MLA, estimate, {}, 1, replace(SPILL, sharing=sharing))
        return setting.loads_bits(tensor, again, groups).tolist()

    # a tenth of 1000 is 100: x has 56, w_o 672; one cluster, or five on two cores
    assert loads("x", sharing=True) == [56, 2 * 56]
    assert loads("x", sharing=False) == [3 * 56, 3 * 56]
    assert loads("w_o", sharing=True) == [3 * 672, 3 * 672]
    assert loads("query", sharing=False) == [0, 0]


@pytest.mark.parametrize("kind", [core_type(vector=False), core_type(array=False)])
def test_attention_needs_arrays_and_vector_units(kind: CoreType) -> None:
    message = "small needs at least one MAC array and one vector unit for attention"
    with pytest.raises(InfeasibleError, match=f"^{re.escape(message)}$"):
        _first(MLA, kind)


def _candidates(*fits: bool) -> CandidateSizes:
    return CandidateSizes(
        traffic_bits=_numbers(160, 160, 320),
        compute_cycles=np.array([4.0, 8.0, 0.0]),
        tile_bits=_numbers(160, 32, 16),
        tile_cycles=np.array([4.0, 2.0, 0.0]),
        tiles=_numbers(1, 4, 1),
        groups=_numbers(1, 1, 1),
        footprint_bits=_numbers(30, 20, 10),
        fits=np.array(fits),
    )


def test_the_cheapest_that_fits_is_chosen_else_the_smallest() -> None:
    # DRAM: 16 bit per cycle. 10 + 4/4 + 160/16 + 4 = 25; 10 + 8/4 + 32/16 + 2 = 16; 20 + 0 + 16/16 + 0 = 21
    setting = scaled_setting(MLA, estimate_machine(machine(core_type())), {}, 1, SPILL)
    assert setting.best(_candidates(True, True, True)) == 1
    assert setting.best(_candidates(True, False, True)) == 2
    assert setting.best(_candidates(False, False, False)) == 2
    # three more tiles cost the second candidate 3 x 2 > 21 - 16
    assert replace(setting, tile_price_cycles=2).best(_candidates(True, True, True)) == 2


def test_what_lies_on_one_core_loads_through_one_port() -> None:
    """Ports of 8 on a bus of 16: 160 bit take 20 cycles, or 10 where two cores load side by side."""

    def best(*groups: int) -> int:
        links = [bus("dram", "core0", "core1", bandwidth=16, port=8)]
        setting = scaled_setting(MLA, estimate_machine(machine(core_type(), core_type(), links=links)), {}, 1, SPILL)
        candidates = replace(_candidates(True, True, True), groups=_numbers(*groups))
        return replace(setting, tile_price_cycles=0).best(candidates)

    # 10 + 8/4 + 2 + 2 = 16, or 20 + 8/4 + 4 = 26; the others 25 or 35, and 20 + 1 = 21 or 41
    assert best(2, 2, 2) == 1
    assert best(2, 1, 2) == 2
    assert best(2, 1, 1) == 0
    # more clusters than cores load no faster than the bus
    assert best(9, 2, 9) == 1


def _deepseek() -> tuple[OperatorGraph, Tiling, float]:
    """V3's decode step in bytes on one core of 32 MiB: graph, first plan, and the bits a working set may have."""
    model = catalog.load_model("deepseek_v3")
    step = Workload(model=model, batch=1, query_tokens=1, cached_tokens=4096, precision=BYTES)
    graph = lower(step, "mla_absorbed")
    tiling = next(iter(candidate_tilings(graph, catalog.load_accelerator("flat_cloud"), {}, FREE)))
    return graph, tiling, SHARE * 32 * 2**20 * 8


def test_the_working_set_of_a_contraction_fits() -> None:
    _, tiling, budget = _deepseek()
    # the whole of w_o, 128 x 128 x 7168 B twice, would not fit
    assert budget < 2 * 8 * 128 * 128 * 7168
    sizes = tiling.sizes["out"]
    k, e = sizes.get("h", 128) * sizes.get("v", 128), sizes.get("e", 7168)
    sums = e * 32 if k < 128 * 128 else 2 * e * 8
    assert 2 * (k * 8 + k * e * 8) + sums <= budget


def test_the_working_set_of_attention_fits() -> None:
    _, tiling, budget = _deepseek()
    sizes = tiling.sizes["scores"]
    rows, keys = sizes.get("h", 128), sizes["k"]
    # a query and a row of the cache are 576 B, a row of the context 512 sums of 32 bit and 512 B
    assert rows * (576 * 8 + 512 * (32 + 8)) + 2 * keys * 576 * 8 + 3 * rows * keys * 8 <= budget


def _tile_footprints_bits(graph: OperatorGraph, tiling: Tiling) -> list[int]:
    """Bits of all tiles of contractions outside attention: inputs twice, the output twice or one piece of sums."""
    found: list[int] = []
    tiles = tile(graph, tiling).tiles
    steps = {entry.chain: entry.step for entry in tiles if entry.last}
    fused = {o.name for o in graph.operators if o.in_core or o.role is GroupRole.COMPOSITE} | {"query_absorbed"}
    for entry in tiles:
        if isinstance(work := entry.work, Gemm) and entry.operator not in fused:
            inputs = work.batch * (work.m * work.k * work.a_bits + work.k * work.n * work.b_bits)
            out = work.batch * work.m * work.n * (32 if steps[entry.chain] else 2 * work.out_bits)
            found.append(2 * inputs + out)
    return found


@given(graphs(), st.integers(5000, 50_000))
@settings(max_examples=40, deadline=None)
def test_every_plan_fits_and_none_comes_twice(graph: OperatorGraph, sram_bits: int) -> None:
    # the smallest pieces, 2 x 2 x 2 elements with sums, take 256 bit, less than 0.55 x 0.1 x 5000
    found = list(
        candidate_tilings(graph, machine(core_type(sram_bits=sram_bits), core_type(sram_bits=sram_bits)), {}, FREE)
    )
    assert not any(tiling in found[:number] for number, tiling in enumerate(found))
    for tiling in found:
        assert max(_tile_footprints_bits(graph, tiling)) <= SHARE * sram_bits


@pytest.mark.parametrize("scheme", ["mla_naive", "mla_absorbed"])
@pytest.mark.parametrize("sram_bits", [2000, 20_000, 100_000])
def test_heads_are_cut_before_tokens(scheme: str, sram_bits: int) -> None:
    tokens = 64
    graph = lower(workload(latent(heads=8), query_tokens=tokens), scheme)
    for tiling in candidate_tilings(graph, machine(core_type(sram_bits=sram_bits)), {}, FREE):
        sizes = tiling.sizes["scores"]
        assert sizes.get("q", tokens) == tokens or sizes["h"] == 1


def test_tokens_are_cut_where_heads_do_not_suffice() -> None:
    # one head of 64 tokens needs 64 x (5 x 8 + 6 x (32 + 8)) = 17,920 bit for queries and context alone
    sizes = _first(lower(workload(latent(heads=8), query_tokens=64), "mla_naive"), core_type(sram_bits=20_000)).sizes
    assert sizes["scores"]["h"] == 1
    assert sizes["scores"]["q"] < 64


def test_what_passes_to_a_separate_vector_unit_fits_there() -> None:
    graph = lower(workload(latent(heads=8), query_tokens=8, cached_tokens=56), "mla_absorbed")
    small_vector = core_type("vector", array=False, sram_bits=1000)
    sizes = _first(graph, core_type("array", vector=False), small_vector).sizes["softmax"]
    rows = sizes.get("h", 8) * sizes.get("q", 8)
    # scores in and numerators out, and half as much
    assert 1.5 * 2 * rows * sizes["k"] * 8 <= 1000 < 2 * 64 * 64 * 8


def test_softmax_apart_is_cut_finer_than_the_products_beside_it() -> None:
    graph = lower(workload(latent(heads=8), query_tokens=8, cached_tokens=56), "mla_absorbed")
    vector = core_type("vector", array=False, sram_bits=2048)
    sizes = _first(graph, core_type("array", vector=False), vector, k=64).sizes
    # a row of 64 keys and its numerators, 2 x 64 x 8 bit, and half as much take 1536
    assert sizes["softmax"] == {"h": 1, "q": 1, "b": 1, "k": 64}
    assert sizes["scores"] == sizes["attend"]
    assert sizes["scores"].get("h", 8) * sizes["scores"].get("q", 8) > 1


@pytest.mark.parametrize("sram_bits", [600, 1000, 1500, 2048, 4096])
def test_no_piece_of_softmax_reaches_over_two_tiles_of_the_products(sram_bits: int) -> None:
    """Else these would share a core, and with them all that softmax joins."""
    tokens = 50
    graph = lower(workload(latent(heads=6), query_tokens=tokens, cached_tokens=14), "mla_absorbed")
    vector = core_type("vector", array=False, sram_bits=sram_bits)
    array = core_type("array", vector=False, sram_bits=40_000)
    for tiling in candidate_tilings(graph, machine(array, array, vector), {}, FREE):
        products, softmax = tiling.sizes["scores"], tiling.sizes["softmax"]
        assert products.get("h", 6) % softmax.get("h", 6) == 0
        assert products.get("q", tokens) in (tokens, softmax["q"] * (products.get("q", tokens) // softmax["q"]))


def test_pieces_of_softmax_take_half_of_a_vector_core_in_the_time_of_the_layer() -> None:
    graph = lower(workload(latent(heads=8), query_tokens=64), "mla_absorbed")
    vector = core_type("vector", array=False, sram_bits=64_000)
    estimate = estimate_machine(machine(core_type("array", vector=False), vector, bandwidth=16))
    assert estimate.vector_port_bits_per_cycle == 16
    setting = replace(scaled_setting(graph, estimate, {}, 1, SPILL), layer_cycles=61_000)
    # 8 x 64 x 69 scores, with 7 operations each on 4 lanes: 61,824 cycles, longer than the DRAM and the array take; a
    # bit of scores, and later of numerators, is there while it is moved, 1 / 16 of a cycle, and worked on, 7 / 8 / 4
    held = 2 * 8 * 64 * 69 * 8 * (1 / 16 + 7 / 32)
    shape = attention_shape(graph, attention_groups(graph)["attention"], frozenset())
    assert streamed_bits(setting, shape) == int(0.5 * 61_824 * 64_000 / held)
    # in a layer that lasts for longer, one and a half pieces of both fill the memory
    assert streamed_bits(replace(setting, layer_cycles=1e6), shape) == int(64_000 / 1.5 / 2)


def test_operators_beside_which_nothing_runs_take_most_of_the_memory() -> None:
    graph = lower(workload(latent(heads=8), query_tokens=64), "mla_absorbed")
    setting = scaled_setting(graph, estimate_machine(machine(core_type(sram_bits=100_000))), {}, 1, SPILL)
    out = next(operator for operator in graph.operators if operator.name == "out")
    assert setting.room_bits(out) == 55_000
    alone = replace(setting, alone=frozenset({"out"}))
    # 0.8 of it, less the latent query twice, the latent of keys and values, and what is to be rotated of keys and of
    # queries of 8 heads: 64 x (4 + 4 + 5 + 2 + 8 x 2) B
    assert alone.room_bits(out) == 80_000 - 64 * 31 * 8
    assert replace(alone, small_bits=0).room_bits(out) == 80_000


def test_what_finds_no_room_to_wait_is_spilled_alone() -> None:
    """Tilings between those that spill all that is large and those that keep all."""
    graph = lower(workload(latent(heads=8), query_tokens=64), "mla_absorbed")
    accelerator = machine(core_type(sram_bits=60_000), core_type(sram_bits=60_000))
    found = list(candidate_tilings(graph, accelerator, {}, FREE))
    most = max((tiling.spilled for tiling in found), key=len)
    between = [tiling for tiling in found if tiling.spilled and tiling.spilled < most]
    assert between
    assert min(peak_occupancy(graph, accelerator, tiling) for tiling in between) <= 0.75
    assert any(not tiling.spilled and peak_occupancy(graph, accelerator, tiling) > 1 for tiling in found)


def test_keys_stay_for_all_query_tokens_of_their_head_where_they_fit() -> None:
    graph = lower(workload(grouped(heads=8, kv_heads=8), query_tokens=64), "mha")
    reads = frozenset({"k_cache", "v_cache"})
    # a head has 64 keys and values of 2 x 4 x 8 bit: 4096, and half of the next; 64 rows of it take
    # 64 x (4 x 8 + 4 x (32 + 8)) = 12,288 bit and must be cut
    tiling = _first(graph, core_type(sram_bits=16_000))
    assert (tiling.sizes["scores"]["q"] < 64, tiling.together) == (True, reads)
    assert _first(graph, core_type(sram_bits=6_000)).together == frozenset()
    once = next(iter(candidate_tilings(graph, machine(core_type(sram_bits=16_000)), {}, replace(FREE, sharing=False))))
    assert once.together == frozenset()


@pytest.mark.parametrize("scheme", LATENT_SCHEMES)
def test_forced_sizes_are_taken_as_given(scheme: str) -> None:
    graph = lower(workload(latent(heads=3)), scheme)
    # 6 keys in 2 parts of 3
    for tiling in candidate_tilings(graph, machine(core_type(), core_type()), {"h": 2, "k": 2, "parts": 2}, FREE):
        assert tiling.kv_splits == {"attention": 2}
        for operator in graph.operators:
            forced = {index: 2 for index in ("h", "k") if index in operator.indices}
            assert forced.items() <= tiling.sizes[operator.name].items()


def test_forced_groups_and_requests_are_taken_as_given() -> None:
    graph = lower(workload(grouped(kv_heads=2, heads=4), batch=3), "mha")
    for tiling in candidate_tilings(graph, machine(core_type()), {"g": 1, "b": 2}, FREE):
        assert all(tiling.sizes[name]["g"] == 1 for name in ("query", "scores", "softmax", "attend", "merge"))
        assert all(tiling.sizes[name]["b"] == 2 for name in ("query", "scores", "softmax", "attend", "merge", "out"))


def test_parts_are_no_more_than_keys() -> None:
    assert _first(MLA, core_type(), parts=100).kv_splits == {"attention": 6}


def test_the_composite_is_cut_like_its_user() -> None:
    graph = lower(workload(latent(heads=8), query_tokens=64), "mla_rc")
    for tiling in candidate_tilings(graph, machine(core_type(sram_bits=5000)), {}, FREE):
        made, used = (dict(tiling.sizes[name]) for name in ("composite", "query_absorbed"))
        assert made
        assert made == {index: size for index, size in used.items() if index not in ("b", "q")}


def _inner(graph: OperatorGraph) -> set[str]:
    return {name for name, tensor in graph.tensors.items() if tensor.role in (Role.ACTIVATION, Role.PARTIAL)}


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("scheme", LATENT_SCHEMES)
def test_cores_that_are_not_joined_exchange_everything_through_dram(scheme: str, parts: int) -> None:
    graph = lower(workload(latent()), scheme)
    links = [wire("dram", name, name=name) for name in ("core0", "core1")]
    for tiling in candidate_tilings(graph, machine(core_type(), core_type(), links=links), {"parts": parts}, FREE):
        assert tiling.spilled == _inner(graph) - tiling.local
        assert ("context_part" in tiling.local) == (parts == 1)


def test_large_activations_are_spilled_first_and_kept_in_later_plans() -> None:
    found = list(islice(candidate_tilings(MLA, machine(core_type(sram_bits=800)), {}, FREE), 2))
    # a tenth of 800 is 80 bit: query_full 2 x 7 x 8 = 112, query 2 x 3 x 8 = 48, context 2 x 5 x 8 = 80,
    # head_out 2 x 6 x 8 = 96; the parts of the context are merged where they are made
    assert [sorted(tiling.spilled) for tiling in found] == [["head_out", "query_full"], []]


def test_a_context_of_one_part_stays_on_its_core() -> None:
    assert _first(MLA, core_type(), parts=1).local == MLA.local | {"context_part", "context_stats"}
    assert _first(MLA, core_type(), parts=2).local == MLA.local


def test_a_context_in_parts_is_spilled_if_all_parts_are_large() -> None:
    # 2 parts x 2 heads x 5 sums of 32 bit = 640 bit, a tenth of 6400
    assert not _first(MLA, core_type(sram_bits=6400), parts=2).spilled
    assert _first(MLA, core_type(sram_bits=6390), parts=2).spilled == {"context_part", "context_stats"}


def test_a_context_of_one_part_reaches_a_separate_vector_unit() -> None:
    # a tenth of 1000 bit is less than the 320 of context_part
    kinds = core_type("array", vector=False, sram_bits=1000), core_type("vector", array=False)
    context = {"context_part", "context_stats"}
    assert not context & (tiling := _first(MLA, *kinds, parts=1)).spilled
    assert not context & tiling.local
    links = [wire("dram", name, name=name) for name in ("core0", "core1")]
    assert context <= next(iter(candidate_tilings(MLA, machine(*kinds, links=links), {"parts": 1}, FREE))).spilled


def test_scores_leave_an_array_without_a_vector_unit() -> None:
    graph = lower(workload(latent()), "mla_rc")
    kinds = core_type("array", vector=False), core_type("vector", array=False)
    assert _first(graph, *kinds, parts=1).local == {"composite"}


def test_small_tensors_are_shared() -> None:
    # a tenth of 2800 is 280 bit: x 56, w_dq 224, w_dkv 280, w_kr 112, w_uq 192, w_uk 240, w_qr 128;
    # kv_cache has 336, w_uv 480, w_o 672
    small = {"x", "w_dq", "w_kr", "w_uq", "w_uk", "w_qr"}
    assert _first(MLA, core_type(sram_bits=2790)).shared == small
    assert _first(MLA, core_type(sram_bits=2800)).shared == small | {"w_dkv"}
    assert _first(MLA, core_type(sram_bits=3350)).shared == small | {"w_dkv"}


def test_chains_wait_early_where_their_sums_are_small() -> None:
    # a tenth of 1600 is 160 bit, 5 sums of 32 bit: q_latent has 4, kv_latent 5, query 6
    eager = _first(MLA, core_type(sram_bits=1600)).eager
    contractions = {operator.name for operator in MLA.operators if operator.kind in CONTRACTIONS}
    sums = {o.name: prod(MLA.tensors[o.outputs[0].tensor].shape) for o in MLA.operators if o.name in contractions}
    assert {name: sums[name] for name in eager & contractions} == {
        "q_latent": 4, "kv_latent": 5, "key_rope_raw": 2, "query_rope_raw": 4,
    }  # fmt: skip


@pytest.mark.parametrize("forced", [{}, {"parts": 4}])
def test_with_fusion_on_nothing_passes_the_dram(forced: dict[str, int]) -> None:
    """Neither what takes much room in a small memory, nor what slow links carry."""
    slow = [bus("dram", "core0", "core1", bandwidth=16), wire("core0", "core1", bandwidth=1)]
    policy = replace(FREE, fusion=Fusion.ON)
    for accelerator in (machine(core_type(sram_bits=5000)), machine(core_type(), core_type(), links=slow)):
        found = list(candidate_tilings(MLA, accelerator, forced, policy))
        assert found
        assert not any(tiling.spilled for tiling in found)


def test_fusion_without_links_between_cores_is_refused() -> None:
    links = [wire("dram", name, name=f"to {name}") for name in ("core0", "core1")]
    with pytest.raises(InfeasibleError) as caught:
        list(
            candidate_tilings(MLA, machine(core_type(), core_type(), links=links), {}, replace(FREE, fusion=Fusion.ON))
        )
    assert str(caught.value) == (
        "with fusion on, intermediate tensors go from core to core, and no path of links leads from core0 to core1 but "
        "through the DRAM: use fusion auto, or add a link"
    )
