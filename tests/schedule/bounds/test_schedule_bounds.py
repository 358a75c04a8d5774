"""Every lower bound by hand, on problems small enough to add up."""

from dataclasses import replace

import pytest

from stream_mla.hardware.core_cost import Cost, Objective
from stream_mla.mapping.tiling.tiler import tile
from stream_mla.schedule.bounds.schedule_bounds import Bounds, bounds, ideal_cycles
from stream_mla.schedule.problem import Problem, price
from stream_mla.schedule.replay import replay
from stream_mla.solvers.list_scheduling.greedy import greedy
from stream_mla.workload.lowering.attention import lower
from tests.helpers import Step, block, bus, core_type, grouped, hand_problem, latent, machine, uncut, wire, workload


def _cycles(problem: Problem) -> dict[str, int]:
    return dict(bounds(problem).cycles)


def _traffic(*, shared: bool, links: str = "bus", port: float = 8) -> Problem:
    """Two tiles that read w (160 bit) and make results of 48 bit; one core, or two joined as `links` say."""
    match links:
        case "ports":
            accelerator = machine(core_type(), links=[bus("dram", "core0", bandwidth=16, port=port)])
        case "apart":
            wires = [wire("dram", f"core{n}", name=f"wire{n}", bandwidth=8) for n in range(2)]
            accelerator = machine(core_type(), core_type(), links=wires)
        case _:
            accelerator = machine(core_type(), core_type())
    return hand_problem(
        accelerator,
        [
            block("w", 160, weight=True, shared=shared),
            block("y0", 48, stored=True),
            block("y1", 48, stored=True),
        ],
        [Step(name=f"t{n}", reads=("w",), writes=f"y{n}", cycles=1) for n in range(2)],
    )


def test_the_dram_and_a_bus_must_carry_all_bits() -> None:
    # one load or one per cluster, and two results, at 16: 256 / 16 and 416 / 16
    assert {name: _cycles(_traffic(shared=True))[name] for name in ("dram", "bus")} == {"dram": 16, "bus": 16}
    assert {name: _cycles(_traffic(shared=False))[name] for name in ("dram", "bus")} == {"dram": 26, "bus": 26}


def test_the_ports_of_an_only_core_carry_loads_and_stores_apart() -> None:
    found = _cycles(_traffic(shared=False, links="ports"))

    # in: 2 x 160 / 8; out: 2 x 48 / 8
    assert {name: n for name, n in found.items() if ":" in name} == {"bus:core0:in": 40, "bus:core0:out": 12}
    assert found["dram"] == found["bus"] == 26


@pytest.mark.parametrize(
    ("port", "cycles"),
    [
        (4, 26),  # four moves at once fill 16: 416 / 16
        (5, 28),  # three take 15, and no fourth fits: 416 / 15 is 27.7
        (10, 42),  # one at a time: 416 / 10 is 41.6
    ],
)
def test_what_no_move_can_take_of_a_bandwidth_carries_nothing(port: float, cycles: int) -> None:
    found = _cycles(_traffic(shared=False, links="ports", port=port))

    assert found["dram"] == found["bus"] == cycles


def test_what_only_some_cores_use_bounds_nothing() -> None:
    found = _cycles(_traffic(shared=False, links="apart"))

    assert sorted(found) == ["arrays", "critical path", "dram", "vector units"]
    assert found["dram"] == 26


def test_bits_are_rounded_up_to_cycles() -> None:
    problem = hand_problem(machine(core_type()), [block("y", 17, stored=True)], [Step(name="t", writes="y", cycles=1)])

    assert _cycles(problem)["dram"] == 2


def test_spilled_blocks_go_out_and_come_back_for_each_cluster() -> None:
    problem = hand_problem(
        machine(core_type()),
        [block("s", 160, spilled=True), block("y", 16, stored=True), block("o", 16, stored=True)],
        [
            Step(name="make", writes="s", cycles=1),
            Step(name="t0", reads=("s",), writes="y", cycles=1),
            Step(name="t1", reads=("s",), writes="o", cycles=1),
        ],
    )

    # 160 out, 2 x 160 in, 2 x 16 out: 512 / 16
    assert _cycles(problem)["dram"] == 32


def test_a_block_that_is_never_read_is_not_loaded() -> None:
    problem = hand_problem(
        machine(core_type()),
        [block("w", 160, weight=True), block("y", 16, stored=True)],
        [Step(name="t", writes="y", cycles=1)],
    )

    assert _cycles(problem)["dram"] == 1


def test_units_share_their_tiles() -> None:
    """7 + 8 + 5 cycles of products on three arrays, 9 of vector work on the two cores that have a vector unit."""
    types = [core_type("both"), core_type("both"), core_type("array", vector=False)]
    problem = hand_problem(
        machine(*types),
        [block(f"y{n}", 1, stored=True) for n in range(4)],
        [
            *(Step(name=f"t{n}", writes=f"y{n}", cycles=cycles) for n, cycles in enumerate((7, 8, 5))),
            Step(name="norm", writes="y3", cycles=9, vector=True),
        ],
    )
    found = _cycles(problem)

    assert found["arrays"] == 8  # ceil(20 / 3), and the store of the last one's block
    assert found["vector units"] == 6  # ceil(9 / 2), and its store


def _with_costs(problem: Problem, *costs: dict[str, tuple[int, float]]) -> Problem:
    """Set cycles and energy of each tile on each core type."""
    empty = Cost(
        cycles=1,
        sram_read_bits=0,
        sram_write_bits=0,
        mac_pj=0,
        register_pj=0,
        sram_pj=0,
        vector_pj=0,
        mapping="by hand",
    )
    return replace(
        problem,
        costs=tuple(
            {name: replace(empty, cycles=cycles, mac_pj=energy) for name, (cycles, energy) in entry.items()}
            for entry in costs
        ),
    )


def test_every_tile_runs_on_its_cheapest_core() -> None:
    problem = hand_problem(
        machine(core_type("a"), core_type("b")),
        [block("y", 1, stored=True), block("o", 1, stored=True)],
        [Step(name="t0", writes="y", cycles=1), Step(name="t1", writes="o", cycles=1)],
    )
    problem = _with_costs(problem, {"a": (10, 5.0), "b": (4, 9.0)}, {"a": (6, 2.0), "b": (8, 1.0)})
    found = bounds(problem)

    assert found.cycles["arrays"] == 6  # (4 + 6) / 2, and a store
    # least energies 5 and 1; each result: SRAM read 1, link 1/8, DRAM write 4 pJ
    assert found.energy_pj == 5 + 1 + 2 * (1 + 0.125 + 4)


def test_the_critical_path_counts_loads_tiles_and_stores() -> None:
    """DRAM latency 5; a link of 8 and a link of 16, of 2 and 7 cycles."""
    links = [
        wire("dram", "core0", name="near", bandwidth=8, latency=2),
        wire("dram", "core1", name="far", bandwidth=16, latency=7),
    ]
    problem = hand_problem(
        machine(core_type(), core_type(), links=links, bandwidth=16, latency=5),
        [
            block("w", 160, weight=True),
            block("z", 1000),
            block("s", 32, spilled=True),
            block("y", 48, stored=True),
        ],
        [
            Step(name="t0", reads=("w",), writes="z", cycles=3),
            Step(name="t1", reads=("z",), writes="s", cycles=4),
            Step(name="t2", reads=("s",), writes="y", cycles=6),
        ],
    )

    # the fastest rate 16 and the least latency 5 + 2, whichever core has them:
    # w 160/16 + 7 = 17, t0 20; z may stay where it is: t1 24; s 2 + 7 out: 33, 2 + 7 back: 42; t2 48; y 3 + 7: 58
    assert _cycles(problem)["critical path"] == 58


def test_the_critical_path_may_end_with_a_tile() -> None:
    problem = hand_problem(machine(core_type()), [block("y", 16)], [Step(name="t", writes="y", cycles=7)])

    assert _cycles(problem)["critical path"] == 7


def test_the_critical_path_is_the_longest() -> None:
    problem = hand_problem(
        machine(*[core_type()] * 3),
        [block(name, 16) for name in ("p", "q")] + [block("y", 16, stored=True)],
        [
            Step(name="long", writes="p", cycles=30),
            Step(name="short", writes="q", cycles=20),
            Step(name="join", reads=("q", "p"), writes="y", cycles=2),
        ],
    )

    assert _cycles(problem)["critical path"] == 33
    # a result that waits to be stored counts too: 30 + 2 + 1; nothing else is as long
    assert bounds(problem).binding == "critical path"
    assert bounds(problem).lower_bound_cycles == 33


def test_energy_takes_the_cheapest_ends() -> None:
    cheap = core_type("cheap")
    cheap = replace(cheap, sram=replace(cheap.sram, read_energy=0.25, write_energy=0.5))
    links = [wire("dram", "core0", name="a"), replace(wire("dram", "core1", name="b"), energy=0.0625)]
    problem = hand_problem(
        machine(core_type(), cheap, links=links),
        [block("w", 100, weight=True), block("z", 50), block("y", 10, stored=True)],
        [
            Step(name="t0", reads=("w",), writes="z", cycles=3),
            Step(name="t1", reads=("z",), writes="y", cycles=5, vector=True),
        ],
    )

    # tiles 3 + 5; w: DRAM 8, link 1/16, SRAM 1/2; y: SRAM 1/4, link 1/16, DRAM 4; z need not move
    assert bounds(problem).energy_pj == 8 + 100 * (8 + 0.0625 + 0.5) + 10 * (0.25 + 0.0625 + 4)


def test_the_best_bound_binds() -> None:
    found = Bounds(cycles={"dram": 5, "arrays": 9, "critical path": 7}, energy_pj=0)

    assert (found.binding, found.lower_bound_cycles) == ("arrays", 9)


@pytest.mark.parametrize("cycles", [1, 100])
def test_a_bound_that_is_met(cycles: int) -> None:
    """Three loads one after the other; each tile runs while the next weight comes."""
    problem = hand_problem(
        machine(core_type()),
        [*(block(f"w{n}", 160, weight=True) for n in range(3)), block("y", 16, stored=True)],
        [Step(name=f"t{n}", reads=(f"w{n}",), writes="y", cycles=cycles) for n in range(3)],
    )
    latency = replay(problem, greedy(problem)).latency_cycles

    # 1: the last weight is there at 30, then t2 and the store; the path of t0, t1, t2: 10 + 3 + 1
    # 100: 10 + 300 + 1, the path; and so the array, which waits for the first weight and for the store
    assert latency == {1: 32, 100: 311}[cycles]
    assert (
        _cycles(problem)
        == {
            1: {"dram": 31, "bus": 31, "arrays": 14, "vector units": 0, "critical path": 14},
            100: {"dram": 31, "bus": 31, "arrays": 311, "vector units": 0, "critical path": 311},
        }[cycles]
    )


def test_no_tiling_beats_the_ideal() -> None:
    step = workload(grouped(rotate=False), cached_tokens=5)
    graph = lower(step, "mha")

    # 7 x (16 + 8 + 8) + 16 x 7 weights, 6 keys of 4 heads of 4 twice: 336 + 192 MACs; 2 arrays of 4 MACs per cycle
    assert graph.total_macs == 528
    # weights 336, x 7, caches 2 x 6 x 8 read; y 7 and 2 x 8 written: 462 elements of 8 bit at 16 bit per cycle
    assert ideal_cycles(graph, machine(core_type(), core_type(), bandwidth=16)) == 231
    assert ideal_cycles(graph, machine(core_type(), core_type(), bandwidth=1600)) == 66


def test_the_ideal_adds_up_the_arrays_that_can_multiply_at_the_width() -> None:
    graph = lower(workload(grouped(rotate=False), cached_tokens=5), "mha")
    narrow = core_type("narrow", operand_bits=4)

    # 528 MACs of 8 bit on the one array of 4 that can do them
    assert ideal_cycles(graph, machine(core_type(), narrow, bandwidth=1600)) == 132


@pytest.mark.parametrize(
    ("bandwidth", "port", "cycles"),
    [
        # all 462 elements of 8 bit at the bus's 8 in place of the DRAM's 16
        (8, 8, 462),
        # in through a port of 4: weights 336, x 7 and caches 96; out through another: y 7 and new rows 16
        (8, 4, 878),
    ],
)
def test_the_ideal_counts_links_that_all_traffic_must_use(bandwidth: float, port: float, cycles: int) -> None:
    graph = lower(workload(grouped(rotate=False), cached_tokens=5), "mha")
    assert (graph.dram_read_bits, graph.dram_write_bits) == (439 * 8, 23 * 8)
    links = [bus("dram", "core0", bandwidth=bandwidth, port=port)]
    assert ideal_cycles(graph, machine(core_type(), links=links, bandwidth=16)) == cycles
    problem = price(tile(graph, uncut(graph.local)), machine(core_type(), links=links), Objective.LATENCY)
    assert bounds(problem).lower_bound_cycles >= cycles


def test_the_ideal_leaves_out_links_that_some_traffic_can_avoid() -> None:
    graph = lower(workload(grouped(rotate=False), cached_tokens=5), "mha")
    wires = [wire("dram", f"core{n}", name=f"wire{n}", bandwidth=8) for n in range(2)]
    # both wires together carry the DRAM's 16; loads and stores may also split up
    assert ideal_cycles(graph, machine(core_type(), core_type(), links=wires, bandwidth=16)) == 231
    # through the port of core0 or that of core1, but through the bus in any case
    links = [bus("dram", "core0", "core1", bandwidth=8, port=2)]
    assert ideal_cycles(graph, machine(core_type(), core_type(), links=links, bandwidth=16)) == 462


def test_the_bounds_of_a_layer_hold_the_ideal() -> None:
    graph = lower(workload(latent()), "mla_rc")
    accelerator = machine(core_type())
    problem = price(tile(graph, uncut(graph.local)), accelerator, Objective.LATENCY)

    assert bounds(problem).lower_bound_cycles >= ideal_cycles(graph, accelerator)


def test_a_unit_waits_for_what_comes_first_and_leaves_time_for_what_follows() -> None:
    def arrays(*, spilled: bool) -> int:
        problem = hand_problem(
            machine(core_type(), core_type()),
            [
                *(block(f"w{n}", size, weight=True) for n, size in enumerate((160, 320))),
                *(block(f"z{n}", 32, spilled=spilled) for n in range(2)),
                *(block(f"y{n}", 48, stored=True) for n in range(2)),
            ],
            [
                *(Step(name=f"t{n}", reads=(f"w{n}",), writes=f"z{n}", cycles=20) for n in range(2)),
                *(Step(name=f"n{n}", reads=(f"z{n}",), writes=f"y{n}", cycles=5, vector=True) for n in range(2)),
            ],
        )
        return bounds(problem).cycles["arrays"]

    # the first weight is there at 10; 20 cycles on each array; then a norm of 5, and its 48 bit in 3
    assert arrays(spilled=False) == 10 + 20 + 5 + 3
    # z goes to the DRAM and back in 2 cycles each way
    assert arrays(spilled=True) == 10 + 20 + 4 + 5 + 3
