"""Footprints and prices by hand: operators are cut no more than a budget asks for."""

from dataclasses import replace

import pytest

from stream_mla.hardware.accelerator import VectorUnit
from stream_mla.mapping.planning.analytical_model import Setting, Spill, Strategy, estimate_machine, scaled_setting
from stream_mla.mapping.planning.attention_group import attention_groups
from stream_mla.mapping.planning.attention_tiling import cut_attention
from stream_mla.mapping.planning.operator_tiling import cut_composite, cut_contraction, outer_cut
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.operator_graph import OperatorGraph
from tests.helpers import core_type, grouped, latent, machine, workload

MLA = lower(workload(latent()), "mla_absorbed")
SPILL = Strategy(spill=Spill.LARGE, inline=frozenset(), sharing=True)


def _tight(graph: OperatorGraph, budget_bits: int, *, cores: int = 1, **forced: int) -> Setting:
    """Operators may take `budget_bits`; a tile more costs more than anything else gains."""
    estimate = estimate_machine(machine(*[core_type()] * cores))
    setting = scaled_setting(graph, estimate, forced, 1, SPILL)
    return replace(setting, budget_bits=budget_bits, tile_price_cycles=1000)


@pytest.mark.parametrize(
    ("budget_bits", "forced", "sizes"),
    [
        # x is 7 B, w_dkv 7 x 5 B. Whole, both twice and 5 B of output twice: 2 x (56 + 280) + 2 x 40 = 752
        (752, {}, {}),
        (751, {}, {"c": 3}),
        # 2 x (56 + 7 x 3 x 8) + 2 x 24 = 496; with c=2, 2 x (56 + 112) + 2 x 16 = 368
        (496, {}, {"c": 3}),
        (495, {}, {"c": 2}),
        # cut along d, the output is 5 sums of 32 bit, once: 2 x (4 x 8 + 4 x 5 x 8) + 160 = 544
        (751, {"c": 5}, {"c": 5, "d": 4}),
        (544, {"c": 5}, {"c": 5, "d": 4}),
        # 2 x (24 + 120) + 160 = 448
        (543, {"c": 5}, {"c": 5, "d": 3}),
        # nothing fits: the smallest, 2 x (8 + 40) + 160 = 256
        (1, {"c": 5}, {"c": 5, "d": 1}),
    ],
)
def test_a_contraction_is_cut_no_more_than_it_must(
    budget_bits: int, forced: dict[str, int], sizes: dict[str, int]
) -> None:
    operator = next(operator for operator in MLA.operators if operator.name == "kv_latent")
    assert cut_contraction(_tight(MLA, budget_bits, **forced), operator) == sizes


@pytest.mark.parametrize(
    ("budget_bits", "keys"),
    [
        # two rows: query 7 B, context 5 sums of 32 bit and 5 B, 2 x (56 + 200) = 512; a key is 7 B and has its value
        # in it, 6 of them twice 672; scores 3 x 2 x 6 B = 288 bit; together 1472
        (1472, 6),
        (1471, 3),
        # 512 + 2 x 3 x 56 + 3 x 2 x 3 x 8 = 992
        (992, 3),
        (991, 2),
    ],
)
def test_attention_is_cut_no_more_than_it_must(budget_bits: int, keys: int) -> None:
    group = attention_groups(MLA)["attention"]
    assert cut_attention(_tight(MLA, budget_bits, h=2), group).sizes == {"h": 2, "b": 1, "k": keys}


@pytest.mark.parametrize(
    ("inline", "budget_bits", "keys"),
    [
        # two rows: query 3 B, context 6 sums of 32 bit and 6 B, 2 x (24 + 240) = 528; a key and its value 9 B for each
        # of 2 heads, twice, a rotary part of 2 B twice: 6 x (288 + 32) = 1920; scores 3 x 2 x 6 B = 288; together 2736
        (False, 2736, 6),
        (False, 2735, 3),
        # keys and values once, cached rows of 7 B twice: 6 x (144 + 112) = 1536; the weights of both heads
        # 2 x 5 x (3 + 6) B = 720; 528 + 1536 + 288 + 720 = 3072
        (True, 3072, 6),
        (True, 3071, 3),
        # 528 + 768 + 144 + 720
        (True, 2160, 3),
        (True, 2159, 2),
    ],
)
def test_attention_over_an_expanded_cache_is_cut_no_more_than_it_must(
    inline: bool, budget_bits: int, keys: int
) -> None:
    graph = lower(workload(latent()), "mla_naive")
    group = attention_groups(graph)["attention"]
    assert group.expanded == {"keys", "values"}
    setting = replace(_tight(graph, budget_bits, h=2), inline=group.expanded if inline else frozenset[str]())
    assert cut_attention(setting, group).sizes == {"h": 2, "b": 1, "k": keys}


def test_each_chunk_costs_softmax_a_rescaling() -> None:
    """Two rows of 12 elements against 6 keys, with values of 10; the DRAM takes no time."""
    graph = lower(workload(replace(latent(), kv_rank=10)), "mla_absorbed")
    group = attention_groups(graph)["attention"]

    def keys(lanes: int) -> int:
        core = replace(core_type(), vector=VectorUnit(operations_per_cycle=lanes, operation_energy=0.5))
        setting = scaled_setting(graph, estimate_machine(machine(core, bandwidth=1e9)), {"h": 2}, 1, SPILL)
        return cut_attention(replace(setting, tile_price_cycles=0.0), group).sizes["k"]

    # the array takes 6 + 5, 12 + 10, 18 + 15 or 36 + 30 cycles for 1, 2, 3 or 6 keys, 66 in all; what the first chunk
    # takes is not hidden, so that one key is best, 66 + 11
    assert keys(1_000_000) == 1
    # softmax: 2 x (7 x 6 + 10 x chunks) = 204, 144, 124 or 104 cycles, and a quarter of 66: 204 + 11, 144 + 22,
    # 124 + 33 or 104 + 66
    assert keys(1) == 3


def test_what_adds_up_heads_is_cut_as_they_are_made() -> None:
    """`out` adds up 2 heads x 6 values; pieces of one head at most, in place of one piece of both."""
    out = next(operator for operator in MLA.operators if operator.name == "out")
    assert cut_contraction(_tight(MLA, 100_000), out) == {}
    assert cut_contraction(_tight(MLA, 100_000), out, {"h": 2}) == {}
    assert cut_contraction(_tight(MLA, 100_000), out, {"h": 1}) == {"h": 1}


@pytest.mark.parametrize(
    ("spilled", "beside", "heads"), [(False, {"b": 1}, 1), (True, {}, 1), (True, {"b": 1}, 2), (True, {"b": 4}, 1)]
)
def test_a_result_that_others_use_in_small_blocks_is_made_in_larger_ones(
    spilled: bool, beside: dict[str, int], heads: int
) -> None:
    """`query_absorbed` of 8 heads and 4 requests writes 8 x 4 x 7 B = 1792 bit, through a port of 128 bit per cycle."""
    graph = lower(workload(latent(heads=8), batch=4), "mla_absorbed")
    core = core_type()
    assert core.array is not None
    wide = replace(
        core, array=replace(core.array, rows=64, columns=64), sram=replace(core.sram, read_bandwidth=1_000_000)
    )
    estimate = estimate_machine(machine(wide, bandwidth=128))
    setting = scaled_setting(graph, estimate, {"b": 4, "n": 3, "c": 5}, 1, SPILL)
    setting = replace(
        setting,
        budget_bits=100_000,
        small_bits=0,
        tile_price_cycles=0,
        spilled=frozenset({"query_full"}) if spilled else frozenset[str](),
    )
    # A tile of 1, 2, 4 or 8 heads loads 1.7, 3.4, 6.8 or 13.5 cycles and takes 3, 6, 12 or 24, 13.5 and 24 in all. Its
    # blocks are 32, 16, 8 or 4 where they are cut into requests too, of 56, 112, 224 or 448 bit, which take 1, 1, 2 or
    # 4 cycles each way: 36, 4, 4 or 4 more than all bits need, 28. With one head the DRAM takes 49.5 cycles then.
    # Else they are 8, 4, 2 or 1 of 224, 448, 896 or 1792 bit: 4, 4, 0 or 0 more.
    operator = next(operator for operator in graph.operators if operator.name == "query_absorbed")
    assert cut_contraction(setting, operator, neighbour_sizes=beside)["h"] == heads


def test_heads_with_keys_of_their_own_are_cut_for_free() -> None:
    # a key and its value take 64 bit in each of 2 groups, a row 4 x 8 + 4 x (32 + 8) = 192. Whole: 2 x 192 +
    # 2 x 2 x 6 x 64 + 3 x 2 x 6 x 8 = 2208. One group: 1104; half the keys: 1296; both are 2 tiles and load 768 bit,
    # 48 cycles, but groups can lie on both cores: 12 cycles of compute instead of 2 x 16, beside 2 x (7 x 6 + 4) or
    # 2 x (7 x 6 + 2 x 4) operations of softmax on 8 lanes
    graph = lower(workload(grouped(kv_heads=2, heads=2)), "mha")
    cut = cut_attention(_tight(graph, 1300, cores=2, parts=1), attention_groups(graph)["attention"])
    assert cut.sizes == {"g": 1, "b": 1, "k": 6}


@pytest.mark.parametrize(
    ("budget_bits", "forced", "sizes"),
    [
        # both factors twice, 2 x 2 x 3 x (4 + 5) B, one and a half of 2 x 4 x 5 B, sums 2 x 2 x 5 x 32 bit:
        # 864 + 480 + 640 = 1984
        (1984, {"h": 2, "r": 4, "q": 2}, {"h": 2, "r": 4, "q": 2}),
        # c=3: 672 + 288 + 384 = 1344, and c=2: 576 + 192 + 256 = 1024
        (1983, {"h": 2, "r": 4, "q": 2}, {"h": 2, "r": 4, "c": 3, "q": 2}),
        (1344, {"h": 2, "r": 4, "q": 2}, {"h": 2, "r": 4, "c": 3, "q": 2}),
        (1343, {"h": 2, "r": 4, "q": 2}, {"h": 2, "r": 4, "c": 2, "q": 2}),
        # one of two tokens: 864 + 480 + 320 = 1664; a rank that is cut keeps both: 672 + 240 + 640 = 1552
        (1664, {"h": 2, "c": 5, "q": 1}, {"h": 2, "c": 5, "q": 1}),
        (1663, {"h": 2, "c": 5, "q": 1}, {"h": 2, "r": 2, "c": 5, "q": 1}),
        (1552, {"h": 2, "c": 5, "q": 1}, {"h": 2, "r": 2, "c": 5, "q": 1}),
        (1551, {"h": 2, "c": 5, "q": 1}, {"h": 2, "r": 1, "c": 5, "q": 1}),
    ],
)
def test_a_composite_is_cut_no_more_than_it_must(
    budget_bits: int, forced: dict[str, int], sizes: dict[str, int]
) -> None:
    graph = lower(workload(latent(), query_tokens=2), "mla_rc")
    operators = {operator.name: operator for operator in graph.operators}
    setting = _tight(graph, budget_bits, **forced)
    made, used = cut_composite(setting, operators["composite"], operators["query_absorbed"])
    assert used == sizes
    assert made == {index: size for index, size in sizes.items() if index != "q"}


def test_a_vector_operator_is_cut_until_it_fits_and_suffices() -> None:
    graph = lower(workload(latent(heads=8), query_tokens=4), "mla_naive")
    rope = next(operator for operator in graph.operators if operator.name == "query_rope")
    setting = scaled_setting(graph, estimate_machine(machine(core_type())), {}, 1, SPILL)
    assert outer_cut(setting, rope, ["h", "q"]) == {}
    assert outer_cut(setting, rope, ["h", "q"], least_pieces=3) == {"h": 3}
    # a piece of 1 x 4 rows of 2 B, read and written, has 128 bit
    assert outer_cut(replace(setting, vector_budget_bits=128), rope, ["h", "q"]) == {"h": 1}
    assert outer_cut(replace(setting, vector_budget_bits=128), rope, ["h", "q"], copies=2) == {"h": 1, "q": 2}
    assert outer_cut(replace(setting, vector_budget_bits=64), rope, ["h", "q"], start={"h": 2}) == {"h": 1, "q": 2}
    # nothing fits: single rows are the smallest there is
    assert outer_cut(replace(setting, vector_budget_bits=1), rope, ["h", "q"]) == {"h": 1, "q": 1}
