"""The replay: decisions kept, times derived anew; by hand, and against every schedule greedy makes."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_mla.hardware.interconnect import OFF_CHIP
from stream_mla.schedule.checker import violations
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.replay import replay
from stream_mla.schedule.schedule import Schedule, TileRun
from stream_mla.solvers.list_scheduling.greedy import greedy
from tests.helpers import Step, block, bus, core_type, hand_problem, held, machine, problems, transfer

STUCK = "the order of this schedule cannot be replayed: its steps wait for each other"


def _later(schedule: Schedule, at: Callable[[int], int]) -> Schedule:
    """Move every start from t to at(t), and hold copies as long as that takes; durations stay."""
    return Schedule(
        runs=tuple(replace(r, start=at(r.start), end=at(r.start) + r.end - r.start) for r in schedule.runs),
        transfers=tuple(
            replace(m, start=at(m.start), end=at(m.start) + m.end - m.start, arrival=at(m.start) + m.arrival - m.start)
            for m in schedule.transfers
        ),
        residencies=tuple(replace(h, start=at(h.start), end=at(h.end)) for h in schedule.residencies),
    )


def _decisions(schedule: Schedule) -> object:
    """Everything but the times."""
    return (
        [(r.tile, r.core, r.reads, r.writes) for r in schedule.runs],
        [(m.block, m.source, m.target) for m in schedule.transfers],
        [(h.block, h.core, h.bits) for h in schedule.residencies],
    )


@given(problems())
@settings(max_examples=60, deadline=None)
def test_the_replay_of_greedy_is_valid_and_never_longer(problem: Problem) -> None:
    claim = greedy(problem)
    again = replay(problem, claim)

    assert violations(problem, again) == []
    assert _decisions(again) == _decisions(claim)
    assert again.latency_cycles <= claim.latency_cycles
    assert all(a.start <= c.start for a, c in zip(again.runs, claim.runs, strict=True))
    assert all(a.start <= c.start for a, c in zip(again.transfers, claim.transfers, strict=True))
    assert replay(problem, again) == again


@given(problems(), st.integers(1, 4), st.lists(st.tuples(st.integers(0, 400), st.integers(1, 50)), max_size=6))
@settings(max_examples=60, deadline=None)
def test_slack_in_a_schedule_is_squeezed_out(problem: Problem, factor: int, pauses: list[tuple[int, int]]) -> None:
    """Stretched by a factor, and with pauses (from when, how long), a schedule is valid and replays as before."""
    claim = greedy(problem)
    slack = _later(claim, lambda t: factor * t + sum(length for start, length in pauses if start <= t))

    assert violations(problem, slack) == []
    assert replay(problem, slack) == replay(problem, claim)


# One core, 48 bit of SRAM, 16 bit per cycle to a DRAM of 2 cycles latency. Loads of 32 bit take 2, stores of 8 bit 1.
TWO_TILES = hand_problem(
    machine(core_type(sram_bits=48), latency=2),
    [
        block("a", 32, weight=True),
        block("b", 32, weight=True),
        block("y", 8, stored=True),
        block("o", 8, stored=True),
    ],
    [
        Step(name="t1", reads=("a",), writes="y", cycles=3),
        Step(name="t2", reads=("b",), writes="o", cycles=4),
    ],
)


def _two_tiles(times: Sequence[int]) -> Schedule:
    """Starts of: load a, load b, store y, store o, t1, t2."""
    load_a, load_b, store_y, store_o, t1, t2 = times
    transfers = [(0, OFF_CHIP, 0, load_a, 2), (1, OFF_CHIP, 1, load_b, 2)]
    transfers += [(2, 2, OFF_CHIP, store_y, 1), (3, 3, OFF_CHIP, store_o, 1)]
    return Schedule(
        runs=(
            TileRun(tile=0, core=0, start=t1, end=t1 + 3, reads=(0,), writes=(2,)),
            TileRun(tile=1, core=0, start=t2, end=t2 + 4, reads=(1,), writes=(3,)),
        ),
        transfers=tuple(
            replace(transfer(number, source, target, start, start + cycles), arrival=start + cycles + 2)
            for number, source, target, start, cycles in transfers
        ),
        residencies=(
            held(0, 0, 32, load_a, t1 + 3),
            held(1, 0, 32, load_b, t2 + 4),
            held(2, 0, 8, t1, store_y + 1),
            held(3, 0, 8, t2, store_o + 1),
        ),
    )


@pytest.mark.parametrize(
    ("claimed", "derived"),
    [
        # Load a 0..2, there at 4; t1 4..7, y is stored 7..8. b (32) does not fit beside a (32): it could come at 7,
        # but the bus goes to y first, so it comes 8..10, there at 12; t2 12..16; o 16..17, in DRAM at 19.
        ([5, 40, 30, 70, 20, 60], [0, 8, 7, 16, 4, 12]),
        # Now b was first on the bus: 7..9, there at 11, y 9..10; t2 11..15; o 15..16.
        ([5, 30, 40, 70, 20, 60], [0, 7, 9, 15, 4, 11]),
    ],
)
def test_order_is_kept_and_times_are_derived(claimed: list[int], derived: list[int]) -> None:
    claim = _two_tiles(claimed)

    assert violations(TWO_TILES, claim) == []
    assert replay(TWO_TILES, claim) == _two_tiles(derived)


def test_memory_may_be_filled_to_the_last_bit() -> None:
    full = replace(TWO_TILES, accelerator=machine(core_type(sram_bits=40), latency=2))

    # a (32) and y (8); then b and y; then b and o
    assert replay(full, _two_tiles([5, 40, 30, 70, 20, 60])) == _two_tiles([0, 8, 7, 16, 4, 12])


def test_with_room_for_both_the_second_load_runs_ahead() -> None:
    roomy = replace(TWO_TILES, accelerator=machine(core_type(sram_bits=80), latency=2))

    # b follows a on the bus: 2..4, there at 6; t2 waits for the array until 7, o for t2 until 11
    assert replay(roomy, _two_tiles([5, 7, 40, 70, 20, 60])) == _two_tiles([0, 2, 7, 11, 4, 7])


def _pair(first: int, second: int) -> tuple[Problem, Schedule]:
    """`wait` reads a weight that takes 10 cycles to load, `ready` reads nothing; starts as claimed."""
    problem = hand_problem(
        machine(core_type()),
        [block("w", 160, weight=True), block("y", 16, stored=True), block("o", 16, stored=True)],
        [Step(name="wait", reads=("w",), writes="y", cycles=5), Step(name="ready", writes="o", cycles=3)],
    )
    schedule = Schedule(
        runs=(
            TileRun(tile=0, core=0, start=first, end=first + 5, reads=(0,), writes=(1,)),
            TileRun(tile=1, core=0, start=second, end=second + 3, reads=(), writes=(2,)),
        ),
        transfers=(
            transfer(0, OFF_CHIP, 0, 0, 10),
            transfer(1, 1, OFF_CHIP, 100, 101),
            transfer(2, 2, OFF_CHIP, 101, 102),
        ),
        residencies=(held(0, 0, 160, 0, first + 5), held(1, 0, 16, first, 101), held(2, 0, 16, second, 102)),
    )
    return problem, schedule


@pytest.mark.parametrize(
    ("claimed", "derived"),
    [
        # `wait` was first on the array: `ready` may not overtake it
        ((20, 30), (10, 15)),
        # `ready` was first: it starts at once
        ((30, 20), (10, 0)),
    ],
)
def test_nothing_overtakes_on_a_unit(claimed: tuple[int, int], derived: tuple[int, int]) -> None:
    problem, schedule = _pair(*claimed)
    assert violations(problem, schedule) == []

    assert tuple(run.start for run in replay(problem, schedule).runs) == derived


def test_loads_share_a_bus_of_two_ports() -> None:
    """Ports of 8 on a bus of 16: two loads of 80 bit run at once, the third after them."""
    links = [bus("dram", *(f"core{n}" for n in range(3)), bandwidth=16, port=8)]
    problem = hand_problem(
        machine(*[core_type()] * 3, links=links),
        [block("w", 80, weight=True, shared=True), *(block(f"y{n}", 8, stored=True) for n in range(3))],
        [Step(name=f"t{n}", reads=("w",), writes=f"y{n}", cycles=1) for n in range(3)],
    )
    claim = Schedule(
        runs=tuple(TileRun(tile=n, core=n, start=100 + n, end=101 + n, reads=(n,), writes=(3 + n,)) for n in range(3)),
        transfers=(
            *(transfer(0, OFF_CHIP, n, 10 * n, 10 * n + 10) for n in range(3)),
            *(transfer(1 + n, 3 + n, OFF_CHIP, 110 + n, 111 + n) for n in range(3)),
        ),
        residencies=(
            *(held(0, n, 80, 10 * n, 101 + n) for n in range(3)),
            *(held(1 + n, n, 8, 100 + n, 111 + n) for n in range(3)),
        ),
    )
    assert violations(problem, claim) == []
    again = replay(problem, claim)

    # from 10 on the third load leaves 8 of the bus: y0 is stored 11..12, y1 12..13
    assert [m.start for m in again.transfers] == [0, 0, 10, 11, 12, 21]
    assert [r.start for r in again.runs] == [10, 10, 20]
    assert violations(problem, again) == []


def test_a_spilled_block_is_read_after_it_has_arrived() -> None:
    problem = hand_problem(
        machine(core_type(), latency=4),
        [block("s", 32, spilled=True), block("y", 16, stored=True)],
        [Step(name="make", writes="s", cycles=3), Step(name="use", reads=("s",), writes="y", cycles=1)],
    )
    again = replay(problem, greedy(problem))

    # made 0..3, stored 3..5, in DRAM at 9; loaded 9..11, there at 15; used 15..16; y stored 16..17, in DRAM at 21
    assert [(m.start, m.end, m.arrival) for m in again.transfers] == [(3, 5, 9), (9, 11, 15), (16, 17, 21)]
    assert again.latency_cycles == 21


def test_a_consumer_before_its_producer_cannot_be_replayed() -> None:
    problem = hand_problem(
        machine(core_type()),
        [block("z", 16), block("y", 16, stored=True)],
        [Step(name="make", writes="z", cycles=2), Step(name="use", reads=("z",), writes="y", cycles=2)],
    )
    schedule = Schedule(
        runs=(
            TileRun(tile=0, core=0, start=2, end=4, reads=(), writes=(0,)),
            TileRun(tile=1, core=0, start=0, end=2, reads=(0,), writes=(1,)),
        ),
        transfers=(transfer(1, 1, OFF_CHIP, 4, 5),),
        residencies=(held(0, 0, 16, 0, 4), held(1, 0, 16, 0, 5)),
    )

    assert violations(problem, schedule) == ["use starts at 0, z is there at 4"]
    with pytest.raises(AssertionError) as caught:
        replay(problem, schedule)
    assert str(caught.value) == STUCK


def test_what_never_fits_cannot_be_replayed() -> None:
    small = replace(TWO_TILES, accelerator=machine(core_type(sram_bits=39), latency=2))

    # t1 holds a (32) and y (8)
    with pytest.raises(AssertionError) as caught:
        replay(small, _two_tiles([0, 8, 7, 16, 4, 12]))
    assert str(caught.value) == STUCK
