"""Cores by earliest finish, by hand. Units are free from the start; the bus brings 16 bit per cycle."""

import pytest

from stream_mla.schedule.checker import violations
from stream_mla.schedule.problem import Problem
from stream_mla.solvers.cutoff import CutoffError
from stream_mla.solvers.list_scheduling.multi_start import multi_start
from stream_mla.solvers.placement.heft import placement
from tests.helpers import Step, block, core_type, hand_problem, machine, wire


def test_a_tile_goes_into_a_gap_that_is_long_enough() -> None:
    blocks = [block("w", 160, weight=True), *(block(f"y{n}", 16, stored=True) for n in range(4))]
    steps = [
        Step(name="t0", writes="y0", cycles=5),
        Step(name="t1", reads=("w",), writes="y1", cycles=10),
        Step(name="t2", writes="y2", cycles=8),
        Step(name="t3", writes="y3", cycles=4),
    ]
    problem = hand_problem(machine(core_type(), core_type()), blocks, steps)

    # core0: t0 0..5, and t1 from 10 on, when w is there, as on core1; t2 does not fit between: core1, 0..8;
    # t3 does: 5..9
    assert placement(problem, range(4)) == [0, 0, 1, 0]


def test_what_was_given_out_before_takes_bandwidth() -> None:
    """x is on core0 at 10; brought to core1 as well, it would not be there before 20."""
    steps = [
        Step(name="t0", reads=("x",), writes="y0", cycles=5),
        Step(name="t1", reads=("x",), writes="y1", cycles=5),
        Step(name="t2", reads=("x",), writes="y2", cycles=5),
        Step(name="t3", reads=("x",), writes="y3", cycles=5),
    ]
    blocks = [block("x", 160, weight=True, shared=True), *(block(f"y{n}", 16, stored=True) for n in range(4))]
    problem = hand_problem(machine(core_type(), core_type()), blocks, steps)

    # core0: 10..15, 15..20, 20..25, each stored in 1 cycle; x on core1 not before 10 + 10 + 3 stores = 23, so t3 ends
    # there at 28, and on core0 at 30
    assert placement(problem, range(4)) == [0, 0, 0, 1]


def test_the_first_tile_of_a_cluster_counts_all_of_them() -> None:
    steps = [
        Step(name="a0", writes="a", cycles=1),
        Step(name="b0", writes="b", cycles=1),
        Step(name="a1", writes="a", cycles=50),
        Step(name="c0", writes="c", cycles=20),
        Step(name="b1", writes="b", cycles=10),
    ]
    blocks = [block(name, 16, stored=True) for name in "abc"]
    problem = hand_problem(machine(core_type(), core_type()), blocks, steps)

    # a: core0 until 51, b therefore on core1 until 11; c: core1 is free at 1, and 10 more are promised: 31 < 71
    assert placement(problem, range(5)) == [0, 1, 1]


def _fast_and_slow() -> Problem:
    """core0 loads 16 bit per cycle, core1 just 1."""
    links = [wire("dram", "core0", name="fast", bandwidth=16), wire("dram", "core1", name="slow", bandwidth=1)]
    return hand_problem(
        machine(core_type(), core_type(), links=links),
        [*(block(f"w{n}", 160, weight=True) for n in range(2)), *(block(f"y{n}", 16, stored=True) for n in range(2))],
        [Step(name=f"t{n}", reads=(f"w{n}",), writes=f"y{n}", cycles=5) for n in range(2)],
    )


def test_the_placement_ends_where_it_is_too_late() -> None:
    # w0 0..10, t0 10..15; w0, the cycle of y0 and w1 take 21, t1 21..26
    assert placement(_fast_and_slow(), range(2), limit=26) == [0, 0]
    with pytest.raises(CutoffError):
        placement(_fast_and_slow(), range(2), limit=25)


def test_a_variant_has_the_cores_that_finish_first() -> None:
    """The others spread the tiles, as each core is given the same share of the DRAM's bandwidth."""
    problem = _fast_and_slow()
    found = list(multi_start(problem))

    # core1: w1 waits for the DRAM until 10 and takes 160, t1 5, y1 16; core0: t1 20..25, y1 25..26
    assert [schedule.latency_cycles for schedule in found] == [191, 26, 26, 191, 191]
    assert [[run.core for run in schedule.runs] for schedule in found] == [[0, 1], *2 * [[0, 0]], *2 * [[0, 1]]]
    assert all(violations(problem, schedule) == [] for schedule in found)
