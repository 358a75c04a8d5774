"""What must be sent, by hand: two arrays, each with a wire of 8 bit per cycle to the only vector unit."""

from dataclasses import replace

import pytest

from stream_mla.hardware.accelerator import Link
from stream_mla.schedule.bounds.schedule_bounds import bounds
from stream_mla.schedule.problem import Problem
from stream_mla.solvers.list_scheduling.greedy import greedy
from tests.helpers import Step, block, bus, core_type, hand_problem, machine, wire

WIRES = [wire(f"core{n}", "core2", name=f"wire{n}", latency=3) for n in range(2)]
BUS = bus("dram", "core0", "core1", "core2")


def _three(*links: Link, back: bool = False, vector: bool = False) -> Problem:
    """Three products of 80 bit, each read by vector work; `back`: what that makes is read by products again."""
    array = core_type("array", vector=vector)
    steps: list[Step] = []
    for n in range(3):
        steps.append(Step(name=f"t{n}", writes=f"z{n}", cycles=1))
        steps.append(Step(name=f"v{n}", reads=(f"z{n}",), writes=f"p{n}", cycles=2, vector=True))
        if back:
            steps.append(Step(name=f"u{n}", reads=(f"p{n}",), writes=f"y{n}", cycles=1))
    names = [step.writes for step in steps]
    blocks = [block(name, 16 if name[0] == "y" else 80, stored=name[0] == ("y" if back else "p")) for name in names]
    return hand_problem(
        machine(array, array, core_type("vector", array=False, sram_bits=320), links=links), blocks, steps
    )


def test_all_links_together_carry_what_must_be_sent() -> None:
    problem = _three(BUS, *WIRES, back=True)
    found = bounds(problem).cycles

    # 3 x 80 bit in, at 2 x 8, and as many out
    assert found["wire0:core0>core2 and 1 alike"] == 15
    assert found["wire0:core2>core0 and 1 alike"] == 15
    # t 1, 10 + 3 to the vector unit, v 2, 13 back, u 1, and y is stored, 16 bit at 16: 1
    assert found["critical path"] == 1 + 13 + 2 + 13 + 1 + 1
    # in: 80 bit for 13, and 2 while v runs; out: for 2 and 10, until the last bit has left
    assert found["memory of core2"] == -(-3 * (80 * 15 + 80 * 12) // 320)
    assert bounds(problem).lower_bound_cycles <= greedy(problem).latency_cycles


def test_a_bus_carries_loads_stores_and_sends() -> None:
    found = bounds(_three(BUS)).cycles

    # 3 x 80 bit sent, 3 x 80 stored, at 16; the DRAM has only the stores
    assert (found["bus"], found["dram"]) == (30, 15)


@pytest.mark.parametrize("back", [False, True])
def test_a_route_over_another_core_passes_every_cut_once(back: bool) -> None:
    """core0 reaches the vector unit only through core1, whose wire carries all of it."""
    line = [wire("core0", "core1", name="wire0"), wire("core1", "core2", name="wire1")]
    apart = [wire("dram", f"core{n}", name=f"dram{n}") for n in range(3)]
    found = bounds(_three(*apart, *line, back=back)).cycles

    # from core0 the route has wire0 and wire1, from core1 wire1 alone: 240 bit at 8, whoever makes the products
    assert found["wire1:core1>core2"] == 30
    assert ("wire1:core2>core1" in found) is back


def test_nothing_must_be_sent_where_an_array_has_a_vector_unit() -> None:
    found = bounds(_three(BUS, *WIRES, vector=True)).cycles

    assert sorted(found) == ["arrays", "bus", "critical path", "dram", "vector units"]


def test_what_goes_through_the_dram_is_not_sent() -> None:
    problem = _three(BUS, *WIRES)
    spilled = tuple(
        replace(entry, via_dram=True, stored=True) if entry.tensor.startswith("z") else entry
        for entry in problem.tile_graph.blocks
    )
    found = bounds(replace(problem, tile_graph=replace(problem.tile_graph, blocks=spilled))).cycles

    # 240 bit of z out and in, 240 of p out
    assert (found["bus"], "memory of core2" in found) == (45, False)
