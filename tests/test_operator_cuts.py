"""Footprints and prices by hand: operators are cut no more than a budget asks for."""

from dataclasses import replace

import pytest

from stream_mla.attention import lower
from stream_mla.estimate import Setting, estimate_machine, scaled_setting
from stream_mla.graph import OperatorGraph
from stream_mla.operator_cuts import cut_attention, cut_composite, cut_contraction, outer_cut
from tests.helpers import core_type, grouped, latent, machine, workload

MLA = lower(workload(latent()), "mla_absorbed")


def _tight(graph: OperatorGraph, budget_bits: int, *, cores: int = 1, **forced: int) -> Setting:
    """Operators may take `budget_bits`; a tile more costs more than anything else gains."""
    estimate = estimate_machine(machine(*[core_type()] * cores))
    setting = scaled_setting(graph, estimate, forced, 1, spill=True)
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
    operators = {operator.name: operator for operator in MLA.operators}
    assert cut_attention(_tight(MLA, budget_bits, h=2), operators).sizes == {"h": 2, "b": 1, "k": keys}


def test_heads_with_keys_of_their_own_are_cut_for_free() -> None:
    # a key and its value take 64 bit in each of 2 groups, a row 4 x 8 + 4 x (32 + 8) = 192. Whole: 2 x 192 +
    # 2 x 2 x 6 x 64 + 3 x 2 x 6 x 8 = 2208. One group: 1104; half the keys: 1296; both are 2 tiles and load 768 bit,
    # 48 cycles, but groups can lie on both cores: 12 cycles of compute instead of 2 x 16
    graph = lower(workload(grouped(kv_heads=2, heads=2)), "mha")
    operators = {operator.name: operator for operator in graph.operators}
    cut = cut_attention(_tight(graph, 1300, cores=2, parts=1), operators)
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
    setting = scaled_setting(graph, estimate_machine(machine(core_type())), {}, 1, spill=True)
    assert outer_cut(setting, rope, ["h", "q"]) == {}
    assert outer_cut(setting, rope, ["h", "q"], least_pieces=3) == {"h": 3}
    # a piece of 1 x 4 rows of 2 B, read and written, has 128 bit
    assert outer_cut(replace(setting, vector_budget_bits=128), rope, ["h", "q"]) == {"h": 1}
    assert outer_cut(replace(setting, vector_budget_bits=128), rope, ["h", "q"], copies=2) == {"h": 1, "q": 2}
    assert outer_cut(replace(setting, vector_budget_bits=64), rope, ["h", "q"], start={"h": 2}) == {"h": 1, "q": 2}
    # nothing fits: single rows are the smallest there is
    assert outer_cut(replace(setting, vector_budget_bits=1), rope, ["h", "q"]) == {"h": 1, "q": 1}
