"""Physics that must hold whatever the numbers: nothing is faster than its parts, nothing is lost between them."""

from dataclasses import replace
from math import fsum, isclose

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_mla.hardware.accelerator import Accelerator
from stream_mla.hardware.interconnect import OFF_CHIP
from stream_mla.hardware.work import Gemm
from stream_mla.mapping.tiling.tile_graph import Tiling
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.replay import replay
from stream_mla.schedule.schedule import Schedule, energy_parts_pj, route_of
from stream_mla.solvers.list_scheduling.greedy import greedy
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.operator_graph import OperatorGraph
from stream_mla.workload.spec import LatentAttention
from tests.helpers import (
    LATENT_SCHEMES,
    Step,
    block,
    bus,
    core_type,
    graphs,
    hand_problem,
    latent,
    machine,
    problems,
    small_problem,
    tilings,
    uncut,
    wire,
    workload,
)


def _dram_bits(problem: Problem, schedule: Schedule) -> int:
    return sum(problem.tile_graph.blocks[m.block].bits for m in schedule.transfers if OFF_CHIP in (m.source, m.target))


@given(problems())
@settings(max_examples=60, deadline=None)
def test_no_schedule_beats_peak_or_bandwidth(problem: Problem) -> None:
    """Counted from the graph, not from the tiles: 4 MACs per cycle and array, every DRAM bit at least once."""
    graph = problem.tile_graph.graph
    latency = replay(problem, greedy(problem)).latency_cycles
    peak = 4 * len(list(problem.accelerator.array_cores()))

    assert latency * peak >= graph.total_macs
    assert latency * problem.accelerator.dram.bandwidth >= graph.dram_read_bits + graph.dram_write_bits


@given(problems())
@settings(max_examples=60, deadline=None)
def test_something_is_always_under_way(problem: Problem) -> None:
    """So a schedule is no longer than all its runs and moves one after the other."""
    schedule = greedy(problem)

    work = sum(run.end - run.start for run in schedule.runs)
    assert schedule.latency_cycles <= work + sum(move.arrival - move.start for move in schedule.transfers)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 300)), min_size=1, max_size=6), st.integers(0, 9))
def test_without_overlap_the_latency_is_the_sum(sizes: list[tuple[int, int]], latency: int) -> None:
    """A chain of tiles on one core whose results all go through DRAM: (cycles, bits) of each."""
    blocks = [block(f"s{n}", bits, spilled=True) for n, (_, bits) in enumerate(sizes)]
    steps = [
        Step(name=f"t{n}", reads=(f"s{n - 1}",) if n else (), writes=f"s{n}", cycles=cycles)
        for n, (cycles, _) in enumerate(sizes)
    ]
    problem = hand_problem(machine(core_type(), latency=latency), blocks, steps)

    runs = sum(cycles for cycles, _ in sizes)
    moves = [-(-bits // 16) + latency for _, bits in sizes]  # each out, and all but the last back
    assert replay(problem, greedy(problem)).latency_cycles == runs + 2 * sum(moves) - moves[-1]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_identical_tiles_on_as_many_cores_take_the_time_of_one(count: int) -> None:
    links = [wire("dram", f"core{n}", name=f"wire{n}", bandwidth=8) for n in range(count)]
    problem = hand_problem(
        machine(*[core_type()] * count, links=links, bandwidth=8 * count),
        [
            *(block(f"w{n}", 160, weight=True) for n in range(count)),
            *(block(f"y{n}", 40, stored=True) for n in range(count)),
        ],
        [Step(name=f"t{n}", reads=(f"w{n}",), writes=f"y{n}", cycles=11) for n in range(count)],
    )

    assert replay(problem, greedy(problem)).latency_cycles == 20 + 11 + 5


EVEN = LatentAttention(
    model_dim=16, heads=8, query_rank=16, kv_rank=16, nope_dim=8, rope_dim=8, value_dim=16, latent_norms=True
)
"""A layer that halves: tiles have an even number of steps, and blocks that move an even number of beats."""


def _even_problem(scheme: str, factor: int) -> Problem:
    """The even layer by heads on a machine whose every rate is `factor` times the least."""
    graph = lower(workload(EVEN, cached_tokens=15), scheme)
    kind = core_type()
    assert kind.array is not None
    assert kind.vector is not None
    precision = replace(kind.array.precisions[0], macs_per_element=factor)
    kind = replace(
        kind,
        array=replace(kind.array, precisions=(precision,)),
        vector=replace(kind.vector, operations_per_cycle=4 * factor),
    )
    links = [
        bus("dram", "core0", "core1", bandwidth=32 * factor, port=16 * factor, latency=8 / factor),
        wire("core0", "core1", bandwidth=8 * factor, latency=4 / factor),
    ]
    accelerator = machine(kind, kind, links=links, bandwidth=16 * factor, latency=12 / factor)
    heads = ("query", "query_absorbed", "composite", "keys", "values", "scores", "scores_rope", "softmax", "attend",
             "merge", "head_out", "query_rope_raw", "query_rope")  # fmt: skip
    return small_problem(graph, replace(uncut(graph.local), sizes={name: {"h": 1} for name in heads}), accelerator)


@pytest.mark.parametrize("scheme", LATENT_SCHEMES)
def test_doubling_every_rate_halves_the_cycles(scheme: str) -> None:
    slow, fast = _even_problem(scheme, 1), _even_problem(scheme, 2)
    before, after = greedy(slow), greedy(fast)

    assert len({run.core for run in before.runs}) == 2
    assert 2 * after.latency_cycles == before.latency_cycles
    assert [2 * run.start for run in after.runs] == [run.start for run in before.runs]


def _at_clock(accelerator: Accelerator, factor: int) -> Accelerator:
    """Every rate per second times `factor`: those on chip through the clock."""
    return replace(
        accelerator,
        clock=accelerator.clock * factor,
        dram=replace(
            accelerator.dram,
            bandwidth=accelerator.dram.bandwidth * factor,
            latency=accelerator.dram.latency / factor,
        ),
        links=tuple(
            replace(
                link,
                bandwidth=link.bandwidth * factor,
                port_bandwidth=link.port_bandwidth * factor,
                latency=link.latency / factor,
            )
            for link in accelerator.links
        ),
    )


@given(problems(), st.sampled_from((2, 4, 1024)))
@settings(max_examples=40, deadline=None)
def test_a_faster_clock_with_as_much_faster_memories_changes_no_cycle(problem: Problem, factor: int) -> None:
    faster = small_problem(
        problem.tile_graph.graph, problem.tile_graph.tiling, _at_clock(problem.accelerator, factor), problem.objective
    )

    assert greedy(faster) == greedy(problem)


@given(problems())
@settings(max_examples=60, deadline=None)
def test_energy_is_the_sum_of_what_was_done(problem: Problem) -> None:
    schedule = greedy(problem)
    total = [problem.cost(run.tile, run.core).energy_pj for run in schedule.runs]
    for move in schedule.transfers:
        bits = problem.tile_graph.blocks[move.block].bits
        route = route_of(problem, schedule, move)
        assert route is not None
        # every SRAM of these machines reads for 1 and writes for 2 pJ/bit, the DRAM for 8 and 4
        per_bit = 8 if move.source == OFF_CHIP else 1
        per_bit += 4 if move.target == OFF_CHIP else 2 * len(move.filled)
        total.append(bits * (per_bit + route.energy_pj_per_bit))
    parts = energy_parts_pj(problem, schedule)

    assert list(parts) == ["mac", "registers", "vector", "sram", "links", "dram"]
    assert isclose(fsum(parts.values()), fsum(total), rel_tol=1e-12)
    work = [entry.work for entry in problem.tile_graph.tiles]
    macs = sum(entry.macs for entry in work if isinstance(entry, Gemm))
    assert parts["mac"] == 0.5 * macs
    # what a mask hides within a tile is computed, and nothing else beyond what must be
    graph = problem.tile_graph.graph
    masked = any(operator.mask for operator in graph.operators)
    assert macs >= graph.total_macs if masked else macs == graph.total_macs
    assert energy_parts_pj(problem, replay(problem, schedule)) == parts


@st.composite
def _cut_layers(draw: st.DrawFn) -> tuple[OperatorGraph, Tiling]:
    graph = draw(graphs())
    return graph, replace(draw(tilings(graph)), shared=frozenset())


@given(_cut_layers(), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_spilling_costs_just_what_goes_out_and_comes_back(layer: tuple[OperatorGraph, Tiling], cores: int) -> None:
    graph, tiling = layer
    accelerator = machine(*[core_type()] * cores)
    spilled = small_problem(graph, tiling, accelerator)
    fused = small_problem(graph, replace(tiling, spilled=frozenset()), accelerator)
    tile_graph = spilled.tile_graph
    extra = 0
    for number, entry in enumerate(tile_graph.blocks):
        if entry.tensor in tiling.spilled and tile_graph.maker[number] >= 0:
            readers = {tile_graph.tiles[user].group for user in tile_graph.users[number]}
            extra += entry.bits * (1 + len(readers))

    more, less = _dram_bits(spilled, greedy(spilled)), _dram_bits(fused, greedy(fused))
    assert more - less == extra
    assert less >= graph.dram_read_bits + graph.dram_write_bits


def test_layers_with_the_same_inputs_are_recounted_exactly() -> None:
    """Uncut on one core, every DRAM bit moves once, and at its price."""
    graph = lower(workload(latent()), "mla_ru")
    problem = small_problem(graph, replace(uncut(graph.local), shared=frozenset(graph.tensors)), machine(core_type()))
    schedule = greedy(problem)

    assert _dram_bits(problem, schedule) == graph.dram_read_bits + graph.dram_write_bits
    parts = energy_parts_pj(problem, schedule)
    assert parts["dram"] == 8 * graph.dram_read_bits + 4 * graph.dram_write_bits
    assert parts["links"] == 0.125 * (graph.dram_read_bits + graph.dram_write_bits)
    # norms of 4 and 5 elements and RoPE of 4 and 2 at 3 operations; softmax of 2 heads x 6 keys at 7; merge of
    # 2 heads x 5 elements at 2 + 1
    assert parts["vector"] == 0.5 * (3 * (4 + 5 + 4 + 2) + 7 * 12 + 3 * 10)
