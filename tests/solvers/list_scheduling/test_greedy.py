"""The greedy scheduler: always valid, prefetching, fair to all cores; or the reason why there is no schedule."""

from dataclasses import replace
from math import fsum, inf

import pytest
from hypothesis import given, settings

from stream_mla.errors import InfeasibleError, NoScheduleError
from stream_mla.hardware.interconnect import OFF_CHIP
from stream_mla.mapping.tiling.tile_graph import Tiling
from stream_mla.schedule.activities import activities
from stream_mla.schedule.bounds.schedule_bounds import bounds
from stream_mla.schedule.checker import violations
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.replay import replay
from stream_mla.schedule.schedule import energy_parts_pj
from stream_mla.solvers.list_scheduling.greedy import greedy
from stream_mla.solvers.list_scheduling.list_scheduler import ListScheduler
from stream_mla.solvers.list_scheduling.multi_start import multi_start
from stream_mla.solvers.placement.earliest_finish import assign
from stream_mla.solvers.placement.expected_times import expected
from stream_mla.workload.lowering.attention import lower
from tests.helpers import (
    LARGE,
    Step,
    block,
    bus,
    core_type,
    forward,
    hand_problem,
    latent,
    machine,
    problems,
    small_problem,
    uncut,
    wire,
    with_last,
    workload,
)


@given(problems())
def test_where_much_is_enough_the_order_of_the_tiles_comes_first(problem: Problem) -> None:
    in_tile_order = ListScheduler(problem, activities(problem, assign(problem))).run()
    assert greedy(problem, enough=inf, easy=True) == in_tile_order
    assert greedy(problem, easy=True).latency_cycles <= in_tile_order.latency_cycles


@given(problems())
@settings(max_examples=120, deadline=None)
def test_with_enough_memory_there_is_a_valid_schedule_between_bound_and_claim(problem: Problem) -> None:
    claim = greedy(problem)
    again = replay(problem, claim)
    limits = bounds(problem)

    assert violations(problem, claim) == []
    assert violations(problem, again) == []
    assert limits.lower_bound_cycles <= again.latency_cycles <= claim.latency_cycles
    assert limits.energy_pj <= fsum(energy_parts_pj(problem, claim).values()) * (1 + 1e-12)
    assert greedy(problem) == claim


def _need_in_tile_order(problem: Problem) -> dict[str, int]:
    """Most bits that each core type must hold if tiles run one after the other, in order.

    A copy is there from the first tile that makes or reads it to the last; a copy that is sent, at least until the
    first tile that reads it elsewhere.
    """
    acts = activities(problem, assign(problem))
    first = [len(acts.reads)] * len(acts.residencies)
    last = [0] * len(acts.residencies)
    for number, (reads, writes) in enumerate(zip(acts.reads, acts.writes, strict=True)):
        for residency in (*reads, *writes):
            first[residency], last[residency] = min(first[residency], number), max(last[residency], number)
    for sent in acts.transfers:
        if OFF_CHIP not in (sent.source, sent.target):
            last[sent.source] = max(last[sent.source], first[sent.target])
    need = dict.fromkeys((core.type.name for core in problem.cores), 1)
    for number in range(len(acts.reads)):
        bits = [0] * len(problem.cores)
        for residency, low, high in zip(acts.residencies, first, last, strict=True):
            bits[residency.core] += residency.bits * (low <= number <= high)
        for core, held in zip(problem.cores, bits, strict=True):
            need[core.type.name] = max(need[core.type.name], held)
    return need


@given(problems())
@settings(max_examples=80, deadline=None)
def test_memory_for_one_tile_after_the_other_is_enough(problem: Problem) -> None:
    """Then the first unfinished tile can always go on; with less than some tile's own blocks, none can."""
    tight = _with_sram(problem, _need_in_tile_order(problem))
    schedule = greedy(tight)

    assert violations(tight, schedule) == []
    assert schedule.latency_cycles >= bounds(tight).lower_bound_cycles

    most = max(sum(problem.tile_graph.blocks[b].bits for b in {*t.reads, *t.writes}) for t in problem.tile_graph.tiles)
    with pytest.raises((InfeasibleError, NoScheduleError)):
        greedy(_with_sram(problem, {core.type.name: most - 1 for core in problem.cores}))


def _with_sram(problem: Problem, bits: dict[str, int]) -> Problem:
    cores = tuple(
        replace(core, type=replace(core.type, sram=replace(core.type.sram, capacity=bits[core.type.name])))
        for core in problem.cores
    )
    return replace(problem, accelerator=replace(problem.accelerator, cores=cores))


def _two_loads(sram_bits: int) -> Problem:
    """t1 needs a (320 bit: 20 cycles of load) and makes y; t2 needs b (320) and makes o."""
    return hand_problem(
        machine(core_type(sram_bits=sram_bits)),
        [
            block("a", 320, weight=True),
            block("b", 320, weight=True),
            block("y", 16, stored=True),
            block("o", 16, stored=True),
        ],
        [
            Step(name="t1", reads=("a",), writes="y", cycles=30),
            Step(name="t2", reads=("b",), writes="o", cycles=30),
        ],
    )


def test_a_load_runs_while_an_earlier_tile_computes() -> None:
    schedule = greedy(_two_loads(1000))

    # a 0..20, t1 20..50; b 20..40 meanwhile; t2 50..80; o 80..81
    assert [run.start for run in schedule.runs] == [20, 50]
    assert [transfer.start for transfer in schedule.transfers] == [0, 50, 20, 80]
    assert schedule.latency_cycles == 81


def test_without_room_the_load_waits() -> None:
    # a and y are 336 bit; b (320) would need 656
    schedule = greedy(_two_loads(655))

    # b waits for a to go at 50; y, made by the earlier tile, goes before it on the bus: 50..51
    assert [run.start for run in schedule.runs] == [20, 71]
    assert [transfer.start for transfer in schedule.transfers] == [0, 50, 51, 101]
    assert greedy(_two_loads(656)).latency_cycles == 81


def test_the_message_of_what_does_not_fit_is_complete() -> None:
    with pytest.raises(InfeasibleError) as caught:
        greedy(_two_loads(328))

    # 328 bit = 41 B; a is 40 B, there after 320 / 16 = 20 cycles, y 2 B
    assert str(caught.value) == (
        "at cycle 20, on core0, t1 waits for y, which needs 2 B: 1 B of 41 B are free, 1 B too few; "
        "of 1 held, the largest are a 40 B"
    )


def test_the_message_of_a_block_larger_than_the_memory() -> None:
    with pytest.raises(InfeasibleError) as caught:
        greedy(_two_loads(312))

    assert str(caught.value) == (
        "at cycle 0, on core0, t1 waits for a, which needs 40 B: 39 B of 39 B are free, 1 B too few"
    )


def test_the_message_names_the_largest_holders() -> None:
    problem = hand_problem(
        machine(core_type(sram_bits=800)),
        [*(block(f"w{n}", 80 + 8 * n, weight=True) for n in range(6)), block("y", 800, stored=True)],
        [Step(name="t", reads=tuple(f"w{n}" for n in range(6)), writes="y", cycles=1)],
    )
    with pytest.raises(InfeasibleError) as caught:
        greedy(problem)

    # 10 + 11 + ... + 15 = 75 of 100 B, there after 5 + 6 + 6 + 7 + 7 + 8 cycles at 2 B per cycle
    assert str(caught.value) == (
        "at cycle 39, on core0, t waits for y, which needs 100 B: 25 B of 100 B are free, 75 B too few; "
        "of 6 held, the largest are w5 15 B, w4 14 B, w3 13 B, w2 12 B"
    )


def _independent(count: int, cores: int) -> Problem:
    return hand_problem(
        machine(*[core_type()] * cores),
        [
            *(block(f"w{n}", 16, weight=True) for n in range(count)),
            *(block(f"y{n}", 16, stored=True) for n in range(count)),
        ],
        [Step(name=f"t{n}", reads=(f"w{n}",), writes=f"y{n}", cycles=100) for n in range(count)],
    )


@pytest.mark.parametrize("cores", [1, 2, 3, 4])
def test_parallel_work_uses_all_cores_alike(cores: int) -> None:
    problem = _independent(12, cores)
    schedule = greedy(problem)

    counts = [sum(run.core == core for run in schedule.runs) for core in range(cores)]
    assert counts == [12 // cores] * cores


def test_heads_of_a_layer_use_all_cores() -> None:
    graph = lower(workload(latent(heads=8)), "mla_absorbed")
    heads = ("query", "query_absorbed", "scores", "softmax", "attend", "merge", "head_out")
    tiling = replace(uncut(graph.local), sizes={name: {"h": 1} for name in heads})
    problem = small_problem(graph, tiling, machine(*[core_type()] * 4))

    assert {run.core for run in greedy(problem).runs} == {0, 1, 2, 3}


def test_an_order_that_needs_too_much_memory_gives_way_to_that_of_the_tiles() -> None:
    """`outN` could wait for its weights (160 bit: 10 cycles) behind `makeN`, but two z of 400 bit do not fit."""
    steps: list[Step] = []
    for n in range(2):
        steps += [Step(name=f"make{n}", writes=f"z{n}", cycles=5)]
        steps += [Step(name=f"out{n}", reads=(f"z{n}", f"w{n}"), writes=f"y{n}", cycles=1)]
    blocks = [block(f"z{n}", 400) for n in range(2)]
    blocks += [block(f"w{n}", 160, weight=True) for n in range(2)] + [block(f"y{n}", 16, stored=True) for n in range(2)]

    def tight(sram_bits: int) -> Problem:
        return with_last(hand_problem(machine(core_type(sram_bits=sram_bits)), blocks, steps), "out0", "out1")

    order = expected(tight(LARGE), [0, 0, 0, 0]).order
    assert order == [0, 2, 1, 3]
    with pytest.raises(NoScheduleError):
        ListScheduler(tight(700), activities(tight(700), [0, 0, 0, 0]), order).run()
    # make0 0..5, out0 when w0 is there, 10..11, and z0 goes; z1 could have no place before: make1 11..16
    assert [run.start for run in greedy(tight(700)).runs][:3] == [0, 10, 11]


def _promises() -> Problem:
    """A chain of 1 and 50 cycles, a tile of 2, and another chain: see `test_expectation`."""
    return hand_problem(
        machine(core_type(), core_type()),
        [block(name, 16, stored=True) for name in ("a", "f", "b")],
        [
            Step(name="a0", writes="a", cycles=1),
            Step(name="f0", writes="f", cycles=2),
            Step(name="b0", writes="b", cycles=1),
            Step(name="a1", writes="a", cycles=50),
            Step(name="b1", writes="b", cycles=50),
        ],
    )


def test_variants_are_other_orders_and_an_even_spread() -> None:
    problem = _promises()
    found = list(multi_start(problem))

    cores = [[run.core for run in schedule.runs] for schedule in found]
    heft, ranked = [[0, 1, 1, 0, 1]], [[0, 0, 1, 0, 1]]
    assert cores == [[0, 1, 0, 0, 0]] + heft + ranked + 2 * [[0, 1, 0, 0, 0]] + 4 * heft
    # one core has both chains: 1 + 1 + 50 + 50, and the store; else the chain beside f: 2 + 1 + 50 + 1, as HEFT has it
    # too; by rank f is last, where it would be done first
    assert [schedule.latency_cycles for schedule in found] == [103, 54, 54, 103, 103, 54, 54, 54, 54]
    assert all(violations(problem, schedule) == [] for schedule in found)


def test_variants_that_do_not_fit_are_left_out() -> None:
    assert list(multi_start(_two_loads(328))) == []
    assert len(list(multi_start(_two_loads(336)))) == 3  # one core: in tile order, streaming, by rank


def test_work_goes_to_cores_that_have_the_unit() -> None:
    problem = hand_problem(
        machine(core_type("vector", array=False), core_type("array", vector=False)),
        [block("z", 16), block("y", 16, stored=True)],
        [
            Step(name="product", writes="z", cycles=3),
            Step(name="norm", reads=("z",), writes="y", cycles=2, vector=True),
        ],
    )

    # product on core1 0..3, z to core0 3..4, norm 4..6, y 6..7
    schedule = greedy(problem)
    assert [(run.core, run.start) for run in schedule.runs] == [(1, 0), (0, 4)]
    assert schedule.latency_cycles == 7


def test_the_more_urgent_load_goes_first() -> None:
    """All loads are possible at once; they come in the order of the tiles that need them."""
    problem = hand_problem(
        machine(core_type(), core_type()),
        [
            *(block(f"w{n}", 160, weight=True) for n in range(4)),
            *(block(f"y{n}", 16, stored=True) for n in range(4)),
        ],
        [Step(name=f"t{n}", reads=(f"w{n}",), writes=f"y{n}", cycles=25) for n in range(4)],
    )
    schedule = greedy(problem)
    loads = {m.block: m.start for m in schedule.transfers if m.source == OFF_CHIP}

    # 160 bit at 16: 10 cycles each; t0 ends at 35, when the bus is with w3 until 40
    assert [run.core for run in schedule.runs] == [0, 1, 0, 1]
    assert loads == {0: 0, 1: 10, 2: 20, 3: 30}
    # t0 10..35, t1 20..45, t2 35..60, t3 45..70; y0 is stored at 40, the others as they are made
    assert [run.start for run in schedule.runs] == [10, 20, 35, 45]
    assert [m.start for m in schedule.transfers if m.target == OFF_CHIP] == [40, 45, 60, 70]


def test_blocked_moves_keep_their_urgency() -> None:
    """The store of y was listed before the loads of `next`, but y was made after `next` could have started."""
    problem = hand_problem(
        machine(core_type(), core_type()),
        [
            block("w", 160, weight=True),
            block("v", 160, weight=True),
            block("y", 16, stored=True),
            block("o", 16, stored=True),
        ],
        [
            Step(name="first", writes="y", cycles=1),
            Step(name="next", reads=("w", "v"), writes="o", cycles=1),
            Step(name="second", writes="y", cycles=1),
        ],
    )
    schedule = forward(problem, 0, 1)

    # w has the bus 0..10; v and, from 2 on, y wait for it; then v 10..20, y 20..21; next 20..21, o 21..22
    assert {(m.block, m.start) for m in schedule.transfers} == {(0, 0), (1, 10), (2, 20), (3, 21)}


def test_all_that_fits_starts_when_a_wide_move_ends() -> None:
    """core0's wire takes all of the DRAM's 16, the others 8 each: two loads follow at once."""
    rates = (16, 8, 8)
    problem = hand_problem(
        machine(
            *[core_type()] * 3,
            links=[wire("dram", f"core{n}", name=f"wire{n}", bandwidth=rate) for n, rate in enumerate(rates)],
        ),
        [
            *(block(f"w{n}", 160, weight=True) for n in range(3)),
            *(block(f"y{n}", 16, stored=True) for n in range(3)),
        ],
        [Step(name=f"t{n}", reads=(f"w{n}",), writes=f"y{n}", cycles=100) for n in range(3)],
    )
    loads = {m.block: m.start for m in greedy(problem).transfers if m.source == OFF_CHIP}

    assert loads == {0: 0, 1: 10, 2: 10}


def test_a_blocked_move_does_not_hold_up_one_that_can_go() -> None:
    """Ports of 8 on a bus of 16: core0's second load waits for its port, core1's load goes on."""
    links = [bus("dram", "core0", "core1", bandwidth=16, port=8)]
    problem = hand_problem(
        machine(core_type(), core_type(), links=links),
        [
            *(block(f"w{n}", 80, weight=True) for n in range(3)),
            *(block(f"y{n}", 8, stored=True) for n in range(2)),
        ],
        [
            Step(name="t0", reads=("w0", "w1"), writes="y0", cycles=5),
            Step(name="t1", reads=("w2",), writes="y1", cycles=5),
        ],
    )
    loads = {m.block: m.start for m in greedy(problem).transfers if m.source == OFF_CHIP}

    # 80 bit at 8: 10 cycles
    assert loads == {0: 0, 1: 10, 2: 0}


def test_cores_without_a_link_between_them_cannot_share_a_block() -> None:
    links = [wire("dram", "core0", name="a"), wire("dram", "core1", name="b")]
    graph = lower(workload(latent(heads=2)), "mla_absorbed")
    heads = ("query", "query_absorbed", "scores", "softmax", "attend", "merge", "head_out")
    tiling = Tiling(
        sizes={name: {"h": 1} for name in heads},
        spilled=frozenset(),
        shared=frozenset(),
        local=graph.local,
    )
    problem = small_problem(graph, tiling, machine(core_type(), core_type(), links=links))

    assert violations(problem, greedy(problem)) == []
    with pytest.raises(InfeasibleError) as caught:
        activities(problem, [group % 2 for group in range(len(problem.group_tiles))])
    assert str(caught.value).endswith(", and no link joins them: add one, or spill the tensor")
