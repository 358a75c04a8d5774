"""What tilings are expected to hold, by hand: DeepSeek's layer with 2 heads, in bytes and sums of 32 bit."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from stream_mla.mapping.planning.memory_footprint import peak_occupancy, resident_bits
from stream_mla.mapping.tiling.tile_graph import Tiling
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.operator_graph import OperatorGraph
from tests.helpers import core_type, latent, machine, uncut, workload

FOUR = lower(workload(latent(), query_tokens=4, cached_tokens=2), "mla_absorbed")
ONE = lower(workload(latent()), "mla_absorbed")


def _waiting(graph: OperatorGraph, sizes: Mapping[str, Mapping[str, int]], cores: int = 2) -> dict[str, int]:
    return resident_bits(graph, machine(*[core_type()] * cores), replace(uncut(graph.local), sizes=sizes))


def test_the_larger_piece_waits() -> None:
    # the norm makes 2 of 4 tokens at once, which have 4 elements of 8 bit
    halves = {"q_latent": {"q": 1}, "query": {"q": 1}, "query_rope_raw": {"q": 1}}
    assert _waiting(FOUR, {"q_latent_norm": {"q": 2}, **halves})["q_latent_norm"] == 2 * 4 * 8
    # one of the two that read it takes 4 tokens at once
    assert _waiting(FOUR, {**halves, "query": {}})["q_latent_norm"] == 4 * 4 * 8


def test_vector_work_makes_as_much_at_once_as_it_is_given() -> None:
    # q_latent makes 4 tokens at once: the norm of them follows, whatever its tiles
    sizes = {"q_latent_norm": {"q": 1}, "query": {"q": 1}, "query_rope_raw": {"q": 1}}
    assert _waiting(FOUR, sizes)["q_latent_norm"] == 4 * 4 * 8


def test_what_each_head_reads_anew_waits_as_a_whole() -> None:
    sizes = {"q_latent": {"q": 1}, "q_latent_norm": {"q": 1}, "query": {"q": 1}, "query_rope_raw": {"q": 1}}
    assert _waiting(FOUR, sizes)["q_latent_norm"] == 4 * 8
    assert _waiting(FOUR, {**sizes, "query": {"q": 1, "h": 1}})["q_latent_norm"] == 4 * 4 * 8


def test_unfinished_sums_are_wide() -> None:
    assert _waiting(ONE, {})["q_latent"] == 4 * 8
    assert _waiting(ONE, {"q_latent": {"d": 3}})["q_latent"] == 4 * 32


def test_heads_that_are_added_up_in_several_rounds_wait_for_each_other() -> None:
    sizes = {"head_out": {"h": 1}, "out": {"h": 1, "e": 1}}
    # 7 columns on 7 cores: each head of 6 values is added as it comes; on 6 cores, one column follows another
    assert _waiting(ONE, sizes, cores=7)["head_out"] == 6 * 8
    assert _waiting(ONE, sizes, cores=6)["head_out"] == 2 * 6 * 8
    eager = replace(uncut(ONE.local), sizes=sizes, eager=frozenset({"out"}))
    assert resident_bits(ONE, machine(*[core_type()] * 6), eager)["head_out"] == 6 * 8


def test_what_is_spilled_or_stays_local_does_not_wait() -> None:
    tiling = replace(uncut(ONE.local), spilled=frozenset({"head_out"}))
    waiting = resident_bits(ONE, machine(core_type()), tiling)
    assert "head_out" not in waiting
    assert "scores" not in waiting
    assert "query_full" in waiting


def test_a_core_needs_its_largest_working_set_and_what_waits() -> None:
    tiling = uncut(ONE.local)
    waiting = sum(resident_bits(ONE, machine(core_type()), tiling).values())
    # `out` reads 12 B and weights of 12 x 7 B, twice as they come from the DRAM, and makes 7 B: 187 B. Attention: query
    # 14 B, 6 rows of 7 B twice, scores 12 B, numerators 12 B and 4 statistics of 32 bit, context 10 sums and 4
    # statistics of 32 bit: 194 B
    capacity = 10_000
    attention = 8 * (14 + 84 + 12 + 12) + 32 * (4 + 10 + 4)
    share = peak_occupancy(ONE, machine(core_type(sram_bits=capacity)), tiling)
    assert share == pytest.approx((max(8 * 187, attention) + waiting) / capacity)


def test_a_vector_core_needs_two_of_its_largest_tiles() -> None:
    accelerator = machine(core_type("array", vector=False), core_type("vector", array=False, sram_bits=2000))
    tiling = Tiling(sizes={}, spilled=frozenset(), shared=frozenset(), local=frozenset())
    # merge: 2 x 5 sums and 2 x 2 statistics of 32 bit, and 2 x 5 elements of context
    assert peak_occupancy(ONE, accelerator, tiling) == pytest.approx(2 * (14 * 32 + 80) / 2000)
