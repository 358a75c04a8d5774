"""Phases: nothing of one starts before the tiles of the earlier ones have ended; by hand, and searched exhaustively."""

import random
from dataclasses import replace

import pytest

from stream_mla.errors import InfeasibleError
from stream_mla.hardware.interconnect import OFF_CHIP
from stream_mla.mapping.tiling.tiler import tile
from stream_mla.schedule.bounds.schedule_bounds import bounds
from stream_mla.schedule.checker import violations
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.replay import replay
from stream_mla.schedule.schedule import Schedule
from stream_mla.solvers.budget import Budget
from stream_mla.workload.lowering.attention import lower
from tests.helpers import Step, block, core_type, forward, hand_problem, latent, machine, uncut, workload
from tests.oracle import tiny_problem, with_phases

BUDGET = Budget(time_limit_s=20, gap_limit=0.0, seed=1, workers=1)


def _two(second: int, *, shared: bool = False, cores: int = 1) -> Problem:
    """t1 reads a and makes y, t2 reads a and b and makes o; t2 is in the phase given. 16 bit per cycle."""
    return hand_problem(
        machine(*[core_type()] * cores),
        [
            block("a", 320, weight=True, shared=shared),
            block("b", 160, weight=True),
            block("y", 160, stored=True),
            block("o", 16, stored=True),
        ],
        [
            Step(name="t1", reads=("a",), writes="y", cycles=30),
            Step(name="t2", reads=("a", "b"), writes="o", cycles=40, phase=second),
        ],
    )


def _loads(problem: Problem, schedule: Schedule) -> list[tuple[str, int]]:
    return [(problem.tile_graph.blocks[m.block].name, m.start) for m in schedule.transfers if m.source == OFF_CHIP]


def _runs(schedule: Schedule) -> list[int]:
    return [run.start for run in schedule.runs]


def test_a_phase_begins_when_the_one_before_has_ended() -> None:
    one, two = _two(0), _two(1)

    # a for t1 0..20, a for t2 20..40, b 40..50; t1 20..50, t2 50..90
    assert (_runs(forward(one)), _loads(one, forward(one))) == ([20, 50], [("a", 0), ("a", 20), ("b", 40)])
    # t1 ends at 50; y, made by the earlier tile, is stored 50..60 while phase 1 has begun; a 60..80, b 80..90
    assert (_runs(forward(two)), _loads(two, forward(two))) == ([20, 90], [("a", 0), ("a", 60), ("b", 80)])
    assert forward(two).latency_cycles == 131
    assert violations(two, forward(two)) == []


def test_a_shared_load_belongs_to_the_first_phase_that_needs_it() -> None:
    problem = _two(1, shared=True)

    # t2 finds a there; only b is of phase 1: y 50..60, b 60..70
    assert (_runs(forward(problem)), _loads(problem, forward(problem))) == ([20, 70], [("a", 0), ("b", 60)])


def test_a_phase_is_one_for_the_whole_machine() -> None:
    problem = _two(1, shared=True, cores=2)
    schedule = forward(problem, 0, 1)

    # t2 has core1 to itself, and its copy of a is loaded there for t2 alone: after t1's end at 50, after y
    assert (_runs(schedule), _loads(problem, schedule)) == ([20, 90], [("a", 0), ("a", 60), ("b", 80)])


def test_a_send_may_cross_the_border() -> None:
    """Only tiles and loads wait: z goes to core1 while `long` still runs."""
    problem = hand_problem(
        machine(core_type(), core_type()),
        [block("z", 160), block("y", 16, stored=True), block("o", 16, stored=True)],
        [
            Step(name="make", writes="z", cycles=5),
            Step(name="long", writes="y", cycles=50),
            Step(name="use", reads=("z",), writes="o", cycles=3, phase=1),
        ],
    )
    schedule = forward(problem, 0, 0, 1)

    # make 0..5, long 5..55; z goes 5..15, though phase 1, in which it is used, begins at 55
    sends = [transfer.start for transfer in schedule.transfers if OFF_CHIP not in (transfer.source, transfer.target)]
    assert (_runs(schedule), sends) == ([0, 5, 55], [5])
    assert violations(problem, schedule) == []
    assert replay(problem, schedule) == schedule


def test_the_checker_names_step_phase_and_the_tile_it_must_wait_for() -> None:
    plain, problem = _two(0), _two(1)

    assert violations(problem, forward(plain)) == [
        "a is loaded at 20 in phase 1, before t1 of phase 0 ends at 50",
        "b is loaded at 40 in phase 1, before t1 of phase 0 ends at 50",
    ]


def test_the_checker_names_a_tile_that_starts_too_early() -> None:
    problem = hand_problem(
        machine(core_type(), core_type()),
        [block("y", 16, stored=True), block("o", 16, stored=True)],
        [Step(name="t1", writes="y", cycles=30), Step(name="t2", writes="o", cycles=40, phase=1)],
    )
    later = forward(problem, 0, 1)
    assert _runs(later) == [0, 30]
    assert violations(problem, later) == []

    runs = (later.runs[0], replace(later.runs[1], start=29, end=69))
    held = (later.residencies[0], replace(later.residencies[1], start=29))
    assert violations(problem, replace(later, runs=runs, residencies=held)) == [
        "t2 starts at 29 in phase 1, before t1 of phase 0 ends at 30"
    ]


def test_the_replay_waits_for_phases_and_squeezes_the_rest() -> None:
    problem = _two(1)
    claim = forward(problem)
    slack = Schedule(
        runs=tuple(replace(r, start=3 * r.start, end=3 * r.start + r.end - r.start) for r in claim.runs),
        transfers=tuple(
            replace(m, start=3 * m.start, end=3 * m.start + m.end - m.start, arrival=3 * m.start + m.end - m.start)
            for m in claim.transfers
        ),
        residencies=tuple(replace(h, start=3 * h.start, end=3 * h.end) for h in claim.residencies),
    )

    assert violations(problem, slack) == []
    assert replay(problem, slack) == replay(problem, claim) == claim


def test_the_bounds_of_phases_add_up() -> None:
    # phase 0: load a 20, t1 30: a path of 50; phase 1: loads a 20 and t2 40 and o 1: 61 by the longer load
    assert bounds(_two(1)).cycles["phases"] == 50 + 61
    # a is there: b 10, t2 40, o 1
    assert bounds(_two(1, shared=True)).cycles["phases"] == 50 + 51
    assert "phases" not in bounds(_two(0)).cycles
    assert bounds(_two(1)).binding == "phases"
    # the path does not know phases: a 20, t2 40, o 1, as t1 is independent
    assert bounds(_two(1)).cycles["critical path"] == 61


def test_what_binds_a_phase_may_be_a_resource_a_unit_or_the_path() -> None:
    """Three phases: DRAM-bound, array-bound, and one whose spilled block goes out and comes back inside it."""
    problem = hand_problem(
        machine(core_type()),
        [
            *(block(f"w{n}", 160, weight=True) for n in range(3)),
            *(block(f"p{n}", 16) for n in range(3)),
            *(block(f"q{n}", 16) for n in range(3)),
            block("s", 32, spilled=True),
            block("o", 48, stored=True),
        ],
        [
            *(Step(name=f"load{n}", reads=(f"w{n}",), writes=f"p{n}", cycles=1) for n in range(3)),
            *(Step(name=f"work{n}", reads=(f"p{n}",), writes=f"q{n}", cycles=20, phase=1) for n in range(3)),
            Step(name="spill", reads=("q0", "q1", "q2"), writes="s", cycles=4, phase=2),
            Step(name="end", reads=("s",), writes="o", cycles=5, phase=2),
        ],
    )
    found = bounds(problem)

    # 3 x 160 / 16 = 30 (path 11); 3 x 20 = 60 (path 20); 4 + s out 2 + back 2 + 5 + o out 3 = 16
    assert found.cycles["phases"] == 30 + 60 + 16
    # load2 is done one cycle after the last load
    assert forward(problem).latency_cycles == found.lower_bound_cycles + 1


def test_a_store_for_a_later_phase_may_fall_into_it() -> None:
    """s is stored while phase 1 has begun: its 20 cycles are no part of phase 0."""
    problem = hand_problem(
        machine(core_type()),
        [block("s", 320, spilled=True), block("y", 16), block("o", 16, stored=True)],
        [
            Step(name="make", writes="s", cycles=5),
            Step(name="other", writes="y", cycles=40, phase=1),
            Step(name="end", reads=("s", "y"), writes="o", cycles=5, phase=2),
        ],
    )

    # make 0..5; other 5..45 while s is stored 5..25; s comes back 45..65, end 65..70, o 70..71
    assert bounds(problem).cycles["phases"] == 5 + 40 + (20 + 5 + 1)
    assert forward(problem).latency_cycles == 71


def test_the_order_of_tiles_is_by_phase() -> None:
    graph = lower(workload(latent(heads=2)), "mla_absorbed")
    sizes = {name: {"h": 1} for name in ("query", "query_absorbed", "scores", "softmax", "attend", "merge", "head_out")}
    names = [operator.name for operator in graph.operators]
    single_buffered = dict.fromkeys(names[names.index("scores") :], 7)
    tile_graph = tile(graph, replace(uncut(graph.local), sizes=sizes, phases=single_buffered))

    # 0 and 7 are numbered without the gap
    phases = [entry.phase for entry in tile_graph.tiles]
    assert phases == sorted(phases)
    assert {entry.operator for entry in tile_graph.tiles if entry.phase == 1} == set(single_buffered)


def test_no_phase_waits_for_a_later_one() -> None:
    graph = lower(workload(latent()), "mla_absorbed")
    with pytest.raises(InfeasibleError) as caught:
        tile(graph, replace(uncut(graph.local), phases={"scores": 2, "softmax": 1}))

    assert str(caught.value) == (
        "softmax in phase 1 reads scores, which scores makes in phase 2: no earlier phase can wait for a later one"
    )


def test_phases_tell_in_the_bounds() -> None:
    tighter = 0
    for seed in range(100):
        rng = random.Random(seed)
        plain = tiny_problem(rng)
        tighter += bounds(with_phases(plain, rng)).lower_bound_cycles > bounds(plain).lower_bound_cycles
    assert tighter >= 25
