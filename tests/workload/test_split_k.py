"""Rows of a contraction in parts, by hand: who makes what, who adds it up, and where it pays."""

from collections import Counter
from dataclasses import replace

import pytest

from stream_mla.hardware.work import Gemm, VectorWork
from stream_mla.mapping.planning.analytical_model import Spill, Strategy, estimate_machine, scaled_setting
from stream_mla.mapping.planning.operator_tiling import cut_sum, worthwhile_k_splits
from stream_mla.mapping.planning.planner import candidate_tilings
from stream_mla.mapping.policy import POLICIES
from stream_mla.mapping.tiling.tile_graph import TileGraph, Tiling, tile_count
from stream_mla.mapping.tiling.tiler import tile
from stream_mla.schedule.checker import violations
from stream_mla.schedule.replay import replay
from stream_mla.solvers.list_scheduling.greedy import greedy
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.operator_graph import Kind
from stream_mla.workload.split_k import spread
from tests.helpers import bus, core_type, latent, machine, small_problem, uncut, wire, workload

MLA = lower(workload(latent(heads=4)), "mla_absorbed")
"""One token; w_o is 4 heads x 6 value elements by 7 columns, in bytes; partial sums have 32 bit."""


def _cut(parts: int, **sizes: int) -> Tiling:
    return replace(uncut(MLA.local), sizes={"out": sizes}, k_splits={"out": parts})


def _tiles(tile_graph: TileGraph, operator: str) -> list[Gemm | VectorWork]:
    return [entry.work for entry in tile_graph.tiles if entry.operator == operator]


def test_parts_have_sums_of_their_own_which_are_added_up() -> None:
    tile_graph = tile(MLA, _cut(2, h=1))
    out = [entry for entry in tile_graph.tiles if entry.operator == "out"]

    # heads 0 and 2 are one part, 1 and 3 the other: two chains of two, on any cores
    assert Counter(entry.group for entry in out) == {entry.group: 2 for entry in out}
    assert sorted((entry.box["h"][0], entry.box["o"][0], entry.step) for entry in out) == [
        (0, 0, 0), (1, 1, 0), (2, 0, 1), (3, 1, 1)
    ]  # fmt: skip
    assert [block.bits for block in tile_graph.blocks if block.tensor == "out_part"] == [7 * 32, 7 * 32]
    # 7 columns: one addition each of two sums of 32 bit, into 8 bit
    assert _tiles(tile_graph, "out_sum") == [VectorWork(operations=7, read_bits=2 * 7 * 32, write_bits=7 * 8)]
    assert tile_count(MLA, tile_graph.tiling) == len(tile_graph.tiles)


def test_no_product_and_no_load_is_added() -> None:
    whole, tile_graph = tile(MLA, _cut(1, h=1)), tile(MLA, _cut(4, h=1))

    for graph in (whole, tile_graph):
        assert sum(work.macs for work in _tiles(graph, "out") if isinstance(work, Gemm)) == 24 * 7
        assert sum(b.bits for b in graph.blocks if b.tensor == "w_o") == 24 * 7 * 8
        assert all(len(graph.users[n]) == 1 for n, b in enumerate(graph.blocks) if b.tensor == "w_o")
    assert [entry.step for entry in tile_graph.tiles if entry.operator == "out"] == [0, 0, 0, 0]
    # the third and the fourth part too: 3 additions for each of 7 columns
    assert _tiles(tile_graph, "out_sum") == [VectorWork(operations=21, read_bits=4 * 7 * 32, write_bits=7 * 8)]


def test_there_are_no_more_parts_than_row_pieces() -> None:
    tile_graph = tile(MLA, _cut(4, h=2))

    assert tile_graph.shapes["out_part"] == (2, 1, 1, 7)
    assert tile(MLA, _cut(4)).graph == MLA


def test_parts_of_a_pair_of_indices_are_dealt_over_both() -> None:
    tile_graph = tile(MLA, _cut(3, h=2, v=3))
    found = {(e.box["h"][0], e.box["v"][0]): e.box["o"][0] for e in tile_graph.tiles if e.operator == "out"}

    assert found == {(0, 0): 0, (0, 3): 1, (2, 0): 2, (2, 3): 0}


def test_what_has_an_addend_or_stays_local_has_no_parts() -> None:
    with pytest.raises(ValueError, match=r"^scores cannot be spread over parts of its rows$"):
        spread(MLA, {"scores": 2})


def test_a_sum_follows_its_parts_into_their_phase() -> None:
    tiling = replace(_cut(2, h=1), phases={"out": 3})

    assert {entry.phase for entry in tile(MLA, tiling).tiles if entry.operator in ("out", "out_sum")} == {1}


@pytest.mark.parametrize("joined", [True, False])
def test_partial_sums_go_over_a_link_or_through_the_dram(joined: bool) -> None:
    """Two cores, each with the rows of two heads."""
    links = [bus("dram", "core0", "core1"), wire("core0", "core1")]
    spilled = frozenset[str]()
    if not joined:
        links = [wire("dram", f"core{n}", name=f"wire{n}") for n in range(2)]
        spilled = frozenset(spread(MLA, {"out": 2}).tensors) - MLA.local
    tiling = replace(_cut(2, h=1, e=3), spilled=spilled)
    problem = small_problem(MLA, tiling, machine(core_type(), core_type(), links=links))
    schedule = greedy(problem)
    moved = {
        (m.source < 0, m.target < 0)
        for m in schedule.transfers
        if problem.tile_graph.blocks[m.block].tensor == "out_part"
    }

    assert violations(problem, schedule) == []
    assert replay(problem, schedule).latency_cycles <= schedule.latency_cycles
    assert moved == ({(False, False)} if joined else {(True, False), (False, True)})


KEPT = Strategy(spill=Spill.NONE, inline=frozenset(), sharing=True)


@pytest.mark.parametrize(
    ("cores", "bandwidth", "columns", "parts"),
    [
        # 24 rows by 7 columns on 2 x 2 elements: 12 x 4 = 48 cycles on one core, 3 x 4 = 12 on each of four; their sums
        # go out and in, 2 x 4 x 7 x 32 bit in 11.2 cycles
        (4, 160, 7, 4),
        (4, 16, 7, 1),  # in 112 cycles
        # two chains, of 4 and 3 columns, take 12 x 2 = 24 cycles; two parts of each 12, and 5.6 for the sums
        (4, 160, 4, 2),
        (4, 160, 2, 1),  # four chains, one for each core
        (1, 160, 7, 1),
    ],
)
def test_parts_are_for_cores_that_would_idle(cores: int, bandwidth: float, columns: int, parts: int) -> None:
    estimate = estimate_machine(machine(*[core_type()] * cores, bandwidth=bandwidth))
    setting = scaled_setting(MLA, estimate, {"e": columns}, 1, KEPT)
    out = next(operator for operator in MLA.operators if operator.name == "out")

    assert worthwhile_k_splits(setting, out, {}, {}) == parts


def test_a_sum_is_cut_into_as_many_pieces_as_there_are_chains() -> None:
    graph = spread(MLA, {"out": 2})
    setting = scaled_setting(graph, estimate_machine(machine(*[core_type()] * 4)), {}, 1, KEPT)
    total = next(operator for operator in graph.operators if operator.kind is Kind.SUM)

    # two parts of columns in two pieces, 4 and 3: four sums, the most of 2 columns
    assert cut_sum(setting, total, {"e": 4, "h": 1}) == {"e": 2}


@pytest.mark.parametrize(
    ("forced", "parts"),
    [
        ({"row_parts": 2}, {"q_latent", "kv_latent", "key_rope_raw", "query", "query_absorbed", "query_rope_raw",
                            "head_out", "out"}),
        ({"row_parts.out": 2}, {"out"}),
        ({"row_parts": 2, "row_parts.out": 1}, {"q_latent", "kv_latent", "key_rope_raw", "query", "query_absorbed",
                                                "query_rope_raw", "head_out"}),
        ({"row_parts": 1}, set[str]()),
    ],
)  # fmt: skip
def test_the_user_says_which_rows_are_in_parts(forced: dict[str, int], parts: set[str]) -> None:
    tilings = list(candidate_tilings(MLA, machine(core_type(), core_type()), forced, POLICIES["free"]))

    assert {frozenset(tiling.k_splits) for tiling in tilings} == {frozenset(parts)}
    for tiling in tilings:
        tile_graph = tile(MLA, tiling)
        assert {entry.operator for entry in tile_graph.tiles if entry.kind is Kind.SUM} == {
            f"{name}_sum" for name in parts
        }
