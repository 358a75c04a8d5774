"""Multicast: one load of a shared block fills a copy in each core that needs it; by hand, and searched exhaustively."""

from dataclasses import replace
from math import fsum

import pytest

from stream_mla.hardware.core_cost import Objective
from stream_mla.hardware.interconnect import OFF_CHIP, joint
from stream_mla.schedule.bounds.schedule_bounds import bounds
from stream_mla.schedule.checker import violations
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.replay import replay
from stream_mla.schedule.schedule import Schedule, energy_parts_pj, route_of
from stream_mla.solvers.budget import Budget
from stream_mla.solvers.cp_sat.solve import improve
from tests.helpers import Step, block, bus, core_type, forward, hand_problem, machine, wire

BUDGET = Budget(time_limit_s=20, gap_limit=0.0, seed=1, workers=1)


def _readers(
    cores: int = 2, *, multicast: bool = True, shared: bool = True, port: float = 16, sram_bits: int = 1000
) -> Problem:
    """Tiles t0, t1, ... all read w (160 bit) and take 20 cycles."""
    names = [f"core{n}" for n in range(cores)]
    return hand_problem(
        machine(
            *[core_type(sram_bits=sram_bits)] * cores,
            links=[bus("dram", *names, bandwidth=16, port=port, multicast=multicast)],
        ),
        [block("w", 160, weight=True, shared=shared), *(block(f"y{n}", 16, stored=True) for n in range(cores))],
        [Step(name=f"t{n}", reads=("w",), writes=f"y{n}", cycles=20) for n in range(cores)],
    )


def _loads(problem: Problem, schedule: Schedule) -> list[tuple[str, list[int], int]]:
    """Block, cores and start of each load."""
    return [
        (
            problem.tile_graph.blocks[m.block].name,
            [schedule.residencies[residency].core for residency in m.filled],
            m.start,
        )
        for m in schedule.transfers
        if m.source == OFF_CHIP
    ]


def test_one_load_fills_a_copy_in_every_core() -> None:
    problem = _readers(3)
    schedule = forward(problem, *range(len(problem.cores)))

    # w 0..10 to all; three tiles 10..30; y 30..31, 31..32, 32..33
    assert _loads(problem, schedule) == [("w", [0, 1, 2], 0)]
    assert [run.start for run in schedule.runs] == [10, 10, 10]
    assert schedule.latency_cycles == 33
    assert violations(problem, schedule) == []
    assert replay(problem, schedule) == schedule


@pytest.mark.parametrize(("multicast", "shared"), [(False, True), (True, False), (False, False)])
def test_without_the_bus_or_the_sharing_each_core_has_its_own(multicast: bool, shared: bool) -> None:
    problem = _readers(2, multicast=multicast, shared=shared)

    assert _loads(problem, forward(problem, *range(len(problem.cores)))) == [("w", [0], 0), ("w", [1], 10)]
    assert [run.start for run in forward(problem, *range(len(problem.cores))).runs] == [10, 20]


def test_it_takes_the_dram_and_the_bus_once_and_every_port() -> None:
    problem = _readers(2, port=8)
    schedule = forward(problem, *range(len(problem.cores)))
    route = route_of(problem, schedule, schedule.transfers[0])
    assert route is not None

    names = [problem.resources[resource].name for resource in route.resources]
    assert names == ["dram", "bus", "bus:core0:in", "bus:core1:in"]
    # 160 bit at the ports' 8
    assert (route.demand, schedule.transfers[0].end) == (8000, 20)


def test_ports_that_are_taken_hold_it_up() -> None:
    """core1's port brings v until 10; bus and DRAM have room for both, but w must wait for the port."""
    problem = hand_problem(
        machine(core_type(), core_type(), links=[bus("dram", "core0", "core1", bandwidth=16, port=8, multicast=True)]),
        [
            block("v", 80, weight=True),
            block("w", 80, weight=True, shared=True),
            *(block(name, 8, stored=True) for name in ("o", "y0", "y1")),
        ],
        [
            Step(name="first", reads=("v",), writes="o", cycles=1),
            Step(name="t0", reads=("w",), writes="y0", cycles=5),
            Step(name="t1", reads=("w",), writes="y1", cycles=9),
        ],
    )
    schedule = forward(problem, 0, 1, 0)

    assert _loads(problem, schedule) == [("v", [0], 0), ("w", [1, 0], 10)]


def test_energy_counts_the_dram_once_and_link_and_sram_for_every_core() -> None:
    problem = _readers(3)
    parts = energy_parts_pj(problem, forward(problem, *range(len(problem.cores))))

    # w: DRAM 8, link 1/8 and SRAM write 2 for each of 3 cores; three results of 16: SRAM read 1, link 1/8, DRAM 4
    assert parts["dram"] == 160 * 8 + 3 * 16 * 4
    assert parts["links"] == 160 * 3 * 0.125 + 3 * 16 * 0.125
    assert parts["sram"] == 160 * 3 * 2 + 3 * 16 * 1


def test_bounds_count_it_once() -> None:
    found = bounds(_readers(3))

    # 160 + 3 x 16 at 16
    assert (found.cycles["dram"], found.cycles["bus"]) == (13, 13)
    assert found.energy_pj == 3 * 20 + 160 * (8 + 0.125 + 2) + 3 * 16 * (1 + 0.125 + 4)
    assert found.energy_pj < fsum(energy_parts_pj(_readers(3), forward(_readers(3), 0, 1, 2)).values())


def test_each_multicast_bus_has_its_own_load() -> None:
    """core0 and core1 are on one bus, core2 on another, core3 on a wire."""
    links = [
        bus("dram", "core0", "core1", name="near", multicast=True),
        bus("dram", "core2", name="far", multicast=True),
        wire("dram", "core3", bandwidth=16),
    ]
    problem = _readers(4)
    accelerator = machine(*[core_type()] * 4, links=links)
    problem = hand_problem(
        accelerator,
        problem.tile_graph.blocks,
        [Step(name=f"t{n}", reads=("w",), writes=f"y{n}", cycles=20) for n in range(4)],
    )
    near, far = ([problem.routes[OFF_CHIP, core] for core in cores] for cores in ((0, 1), (2,)))

    assert joint(tuple(near)) is not None
    assert joint((*near, *far)) is None
    assert _loads(problem, forward(problem, *range(len(problem.cores)))) == [
        ("w", [0, 1], 0),
        ("w", [2], 10),
        ("w", [3], 20),
    ]


def test_what_goes_from_core_to_core_is_sent_to_each() -> None:
    problem = hand_problem(
        machine(*[core_type()] * 3, links=[bus("dram", "core0", "core1", "core2", multicast=True)]),
        [block("z", 16, shared=True), *(block(f"y{n}", 16, stored=True) for n in range(2))],
        [
            Step(name="make", writes="z", cycles=50),
            Step(name="use0", reads=("z",), writes="y0", cycles=50),
            Step(name="use1", reads=("z",), writes="y1", cycles=50),
        ],
    )
    schedule = forward(problem, 0, 1, 2)

    assert [(m.start, len(m.filled)) for m in schedule.transfers if OFF_CHIP not in (m.source, m.target)] == [
        (50, 1),
        (51, 1),
    ]


def test_a_spilled_block_comes_back_to_all() -> None:
    problem = hand_problem(
        machine(core_type(), core_type(), links=[bus("dram", "core0", "core1", multicast=True)]),
        [block("s", 160, spilled=True, shared=True), *(block(f"y{n}", 16, stored=True) for n in range(2))],
        [
            Step(name="make", writes="s", cycles=5),
            *(Step(name=f"t{n}", reads=("s",), writes=f"y{n}", cycles=20) for n in range(2)),
        ],
    )
    schedule = forward(problem, 0, 0, 1)

    # out 5..15, back 15..25 to both
    assert [(m.start, len(m.filled)) for m in schedule.transfers] == [(5, 0), (15, 2), (45, 0), (46, 0)]
    assert violations(problem, schedule) == []


# --- the checker ------------------------------------------------------------------------------------------------------


def test_the_checker_wants_a_multicast_bus() -> None:
    problem, plain = _readers(2), _readers(2, multicast=False)

    assert violations(plain, forward(problem, *range(len(problem.cores)))) == [
        "w moves to core0, core1 at once, and no multicast bus brings it there"
    ]


def test_the_checker_wants_one_copy_per_core_of_the_right_block() -> None:
    problem = _readers(2)
    found = forward(problem, *range(len(problem.cores)))
    load = found.transfers[0]
    twice = replace(load, also=(load.target,))
    assert violations(problem, replace(found, transfers=(twice, *found.transfers[1:]))) == [
        "t1 reads w on core1, which nothing brings there",
        "w moves to core0, core0 at once, and no multicast bus brings it there",
    ]

    wrong = replace(load, also=found.runs[1].writes)
    assert violations(problem, replace(found, transfers=(wrong, *found.transfers[1:]))) == [
        "t1 reads w on core1, which nothing brings there",
        "w is moved from or to a copy of y1",
        "y1 on core1 is held from 10 to 32 but used from 0 to 32",
    ]


def test_the_checker_counts_every_copy() -> None:
    problem = _readers(2)
    found = forward(problem, *range(len(problem.cores)))
    single_buffered = [replace(h, start=1) if h.core == 1 and h.block == 0 else h for h in found.residencies]

    assert violations(problem, replace(found, residencies=tuple(single_buffered))) == [
        "w on core1 is held from 1 to 30 but used from 0 to 30"
    ]
    # w 160 and y 16 bit on each core, from 10 on
    assert violations(_readers(2, sram_bits=175), found) == [
        f"core{n} holds 176 bit at 10, its SRAM has 175" for n in range(2)
    ]


def test_two_loads_of_a_shared_block_are_allowed() -> None:
    """A multicast is what the bus offers, not what it demands."""
    assert violations(_readers(2), forward(_readers(2, multicast=False), 0, 1)) == []


# --- memory -----------------------------------------------------------------------------------------------------------


def _crossed(sram_bits: int) -> Problem:
    """core0 needs u and then w, core1 w and then u; both are shared, 160 bit each. Results are 16 bit."""
    return hand_problem(
        machine(
            core_type(sram_bits=sram_bits),
            core_type(sram_bits=sram_bits),
            links=[bus("dram", "core0", "core1", multicast=True)],
        ),
        [
            block("u", 160, weight=True, shared=True),
            block("w", 160, weight=True, shared=True),
            *(block(f"y{n}", 16, stored=True) for n in range(4)),
        ],
        [
            Step(name="t0", reads=("u",), writes="y0", cycles=20),
            Step(name="t1", reads=("w",), writes="y1", cycles=30),
            Step(name="t2", reads=("w",), writes="y2", cycles=40),
            Step(name="t3", reads=("u",), writes="y3", cycles=5),
        ],
    )


def test_with_room_for_both_each_block_is_loaded_once() -> None:
    problem = _crossed(1000)
    schedule = forward(problem, 0, 1, 0, 1)

    # t2 on core0 after 20, t3 on core1 after 30
    assert _loads(problem, schedule) == [("u", [0, 1], 0), ("w", [1, 0], 10)]


def test_a_multicast_for_which_there_is_never_room_is_split() -> None:
    """With room for one block on each core, core0 keeps u's place and core1 w's: neither could ever start."""
    problem = _crossed(180)
    schedule = forward(problem, 0, 1, 0, 1)

    # u goes to core0 alone: 0..10, t0 10..30, y0 30..31; then core0 has room for w: to both 31..41;
    # t1 41..71 and t2 41..81; y1 71..72; core1's own u 72..82, t3 82..87; y2 82..83, y3 87..88
    assert _loads(problem, schedule) == [("u", [0], 0), ("w", [1, 0], 31), ("u", [1], 72)]
    assert [run.start for run in schedule.runs] == [10, 41, 41, 82]
    assert violations(problem, schedule) == []
    assert replay(problem, schedule) == schedule


def test_a_split_hint_is_improved_and_bounds_nothing() -> None:
    problem = _crossed(180)
    first = forward(problem, 0, 1, 0, 1)
    found = improve(problem, first, lower_bound_cycles=bounds(problem).lower_bound_cycles, budget=BUDGET)

    assert found.status == "OPTIMAL"
    assert found.bound_cycles is None
    assert found.schedule is not None
    assert violations(problem, found.schedule) == []
    assert found.schedule.latency_cycles <= first.latency_cycles


def test_energy_is_minimised_with_the_dram_counted_once() -> None:
    """With both tiles on one core w crosses one link and is written once: the solver puts them together."""
    problem = replace(_readers(2), objective=Objective.ENERGY)
    first = forward(problem, *range(len(problem.cores)))
    assert len(_loads(problem, first)[0][1]) == 2
    found = improve(problem, first, lower_bound_cycles=0, budget=BUDGET, latency_cap_cycles=100)

    assert found.schedule is not None
    assert _loads(problem, found.schedule) == [("w", [found.schedule.runs[0].core], 0)]
