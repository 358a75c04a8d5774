"""Late loads and the tiles of an array take turns on each core: by hand, and against the exhaustive search."""

from dataclasses import replace

import pytest

from stream_mla.hardware.interconnect import OFF_CHIP
from stream_mla.mapping.tiling.tiler import tile
from stream_mla.schedule.bounds.schedule_bounds import bounds
from stream_mla.schedule.checker import violations
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.replay import replay
from stream_mla.schedule.schedule import Schedule
from stream_mla.solvers.budget import Budget
from stream_mla.workload.lowering.attention import lower
from tests.helpers import Step, block, core_type, forward, hand_problem, latent, machine, uncut, wire, workload

BUDGET = Budget(time_limit_s=20, gap_limit=0.0, seed=1, workers=1)


def _starts(schedule: Schedule) -> tuple[list[int], list[int]]:
    return [run.start for run in schedule.runs], [transfer.start for transfer in schedule.transfers]


def _two(*, single_buffered: str, vector: bool = False, latency: float = 0) -> Problem:
    """t1 needs a (320 bit: 20 cycles) and makes y; t2 needs b (320) and makes o; both take 30 cycles."""
    return hand_problem(
        machine(core_type(), latency=latency),
        [
            block("a", 320, weight=True, single_buffered="a" in single_buffered),
            block("b", 320, weight=True, single_buffered="b" in single_buffered),
            block("y", 16, stored=True),
            block("o", 16, stored=True),
        ],
        [
            Step(name="t1", reads=("a",), writes="y", cycles=30, vector=vector),
            Step(name="t2", reads=("b",), writes="o", cycles=30),
        ],
    )


def test_without_late_loads_the_second_runs_ahead() -> None:
    # a 0..20, b 20..40, t1 20..50, t2 50..80; y 50..51, o 80..81. Moves: a, y, b, o
    assert _starts(forward(_two(single_buffered=""))) == ([20, 50], [0, 50, 20, 80])


def test_a_late_load_starts_when_the_tile_before_has_ended() -> None:
    # t1 20..50; y, of the earlier tile, goes first on the bus: 50..51, b 51..71, t2 71..101
    assert _starts(forward(_two(single_buffered="ab"))) == ([20, 71], [0, 50, 51, 101])
    assert _starts(forward(_two(single_buffered="b"))) == ([20, 71], [0, 50, 51, 101])
    # a comes before any tile runs: that it is late changes nothing
    assert _starts(forward(_two(single_buffered="a"))) == _starts(forward(_two(single_buffered="")))


def test_vector_tiles_do_not_matter() -> None:
    # t1 20..50 on the vector unit, b 20..40 meanwhile, t2 40..70 beside it
    assert _starts(forward(_two(single_buffered="ab", vector=True))) == ([20, 40], [0, 50, 20, 70])


def test_the_array_may_work_while_the_last_bits_are_on_their_way() -> None:
    """The load is over when its resources are free, not when it has arrived 4 cycles later."""
    problem = hand_problem(
        machine(core_type(), latency=4),
        [block("a", 160, weight=True, single_buffered=True), block("y", 16, stored=True), block("o", 16, stored=True)],
        [Step(name="t", reads=("a",), writes="y", cycles=5), Step(name="free", writes="o", cycles=6)],
    )

    # `free` is ready at 0 and goes first: 0..6; a 6..16, there at 20; o, made by the later tile, waits: 16..17
    assert _starts(forward(problem)) == ([20, 0], [6, 25, 16])
    single_buffered = replay(problem, forward(problem))
    runs = (single_buffered.runs[0], replace(single_buffered.runs[1], start=10, end=16))
    transfers = (replace(single_buffered.transfers[0], start=0, end=10, arrival=14), *single_buffered.transfers[1:])
    held = (
        replace(single_buffered.residencies[0], start=0),
        single_buffered.residencies[1],
        replace(single_buffered.residencies[2], start=10),
    )
    # a 0..10; `free` 10..16 begins the moment the bits are through
    assert violations(problem, Schedule(runs=runs, transfers=transfers, residencies=held)) == []


def test_a_ready_tile_goes_first_and_only_the_next_tile_is_served() -> None:
    """`make` and `other` read nothing; `use` needs z of the vector tile `norm`; w0 and w1 are late."""
    problem = hand_problem(
        machine(core_type()),
        [
            block("z", 16),
            block("n", 16),
            block("w0", 160, weight=True, single_buffered=True),
            block("w1", 160, weight=True, single_buffered=True),
            block("p", 16, stored=True),
            block("q", 16, stored=True),
            block("r", 16, stored=True),
        ],
        [
            Step(name="make", writes="z", cycles=4),
            Step(name="norm", reads=("z",), writes="n", cycles=20, vector=True),
            Step(name="use", reads=("n", "w0"), writes="p", cycles=5),
            Step(name="last", reads=("w1",), writes="q", cycles=5),
            Step(name="other", writes="r", cycles=7),
        ],
    )
    schedule = forward(problem)

    # make 0..4; other 4..11 is ready, w0 waits for it: 11..21; norm 4..24; w1 is for a tile after the next: it waits
    # though the bus is free from 21 and the array idle until 24; use 24..29, w1 30..40 after p 29..30; last 40..45
    assert [run.start for run in schedule.runs] == [0, 4, 24, 40, 4]
    loads = {problem.tile_graph.blocks[m.block].name: m.start for m in schedule.transfers if m.source == OFF_CHIP}
    assert loads == {"w0": 11, "w1": 30}


def test_the_array_of_another_core_does_not_matter() -> None:
    links = [wire("dram", f"core{n}", name=f"wire{n}", bandwidth=16) for n in range(2)]
    problem = hand_problem(
        machine(core_type(), core_type(), links=links, bandwidth=32),
        [
            block("y", 16, stored=True),
            block("w", 160, weight=True, single_buffered=True),
            block("o", 16, stored=True),
        ],
        [Step(name="long", writes="y", cycles=100), Step(name="t", reads=("w",), writes="o", cycles=5)],
    )

    assert [(run.core, run.start) for run in forward(problem, 0, 1).runs] == [(0, 0), (1, 10)]


def test_the_checker_names_tile_load_and_core() -> None:
    problem, plain = _two(single_buffered="b"), _two(single_buffered="")

    assert violations(plain, forward(plain)) == []
    assert violations(problem, forward(plain)) == ["b is loaded into core0 from 20 to 40, while t1 runs on its array"]
    # t1 ends the moment the load begins, t2 starts when it ends: no overlap
    later = forward(problem)
    assert violations(problem, later) == []
    # one cycle earlier it would overlap
    eager = [replace(m, start=49, end=69, arrival=69) if m.start == 51 else m for m in later.transfers]
    held = [replace(h, start=49) if h.block == 1 else h for h in later.residencies]
    y = [replace(m, start=80, end=81, arrival=81) if m.start == 50 else m for m in eager]
    held = [replace(h, end=81) if h.block == 2 else h for h in held]
    assert violations(problem, replace(later, transfers=tuple(y), residencies=tuple(held))) == [
        "b is loaded into core0 from 49 to 69, while t1 runs on its array"
    ]


@pytest.mark.parametrize(
    ("free", "load", "derived"),
    [
        # `free` was first: it starts at once, the load follows, t follows its data
        (20, 60, (0, 3, 13)),
        # the load was first: `free` waits for it
        (40, 20, (10, 0, 13)),
    ],
)
def test_the_replay_keeps_the_turns(free: int, load: int, derived: tuple[int, int, int]) -> None:
    problem = hand_problem(
        machine(core_type()),
        [block("w", 160, weight=True, single_buffered=True), block("y", 16, stored=True), block("o", 16, stored=True)],
        [Step(name="free", writes="o", cycles=3), Step(name="t", reads=("w",), writes="y", cycles=5)],
    )
    found = forward(problem)
    transfers = {problem.tile_graph.blocks[m.block].name: n for n, m in enumerate(found.transfers)}
    runs = (replace(found.runs[0], start=free, end=free + 3), replace(found.runs[1], start=80, end=85))
    at = {"w": (load, 10), "o": (100, 1), "y": (101, 1)}
    claimed = [found.transfers[n] for n in transfers.values()]
    for name, (start, cycles) in at.items():
        claimed[transfers[name]] = replace(
            claimed[transfers[name]], start=start, end=start + cycles, arrival=start + cycles
        )
    since = {"w": load, "o": free, "y": 80}
    until = {"w": 85, "o": 101, "y": 102}
    held = [
        replace(
            h, start=since[problem.tile_graph.blocks[h.block].name], end=until[problem.tile_graph.blocks[h.block].name]
        )
        for h in found.residencies
    ]
    claim = Schedule(runs=runs, transfers=tuple(claimed), residencies=tuple(held))
    assert violations(problem, claim) == []

    again = replay(problem, claim)
    assert (again.runs[0].start, again.transfers[transfers["w"]].start, again.runs[1].start) == derived
    assert violations(problem, again) == []


def test_arrays_and_late_loads_bound_together() -> None:
    # arrays 60; a and b 320 bit each at 16: 20 + 20 more
    assert bounds(_two(single_buffered="ab")).cycles["arrays and late loads"] == 100
    assert bounds(_two(single_buffered="b")).cycles["arrays and late loads"] == 80
    assert "arrays and late loads" not in bounds(_two(single_buffered="")).cycles
    # the load for a vector tile may go to a core without an array; the weight of t2 in 20, t2 itself, and its store
    assert bounds(_two(single_buffered="a", vector=True)).cycles["arrays"] == 20 + 30 + 1
    assert "arrays and late loads" not in bounds(_two(single_buffered="a", vector=True)).cycles


def test_two_arrays_share_the_late_loads() -> None:
    links = [wire("dram", f"core{n}", name=f"wire{n}", bandwidth=rate) for n, rate in enumerate((8, 16))]
    problem = hand_problem(
        machine(core_type(), core_type(), links=links, bandwidth=24),
        [block("a", 330, weight=True, single_buffered=True), block("y", 16, stored=True)],
        [Step(name="t", reads=("a",), writes="y", cycles=30)],
    )

    # 30 + 330 / 16 -> 21 by the fastest way in, over two arrays
    assert bounds(problem).cycles["arrays and late loads"] == 26


def test_the_tiling_says_which_tensors_are_late() -> None:
    graph = lower(workload(latent()), "mla_absorbed")
    tile_graph = tile(graph, replace(uncut(graph.local), single_buffered=frozenset({"w_o", "kv_cache"})))

    assert {entry.tensor for entry in tile_graph.blocks if entry.single_buffered} == {"w_o", "kv_cache"}
