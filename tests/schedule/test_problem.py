"""Routes, rates and activities by hand."""

from dataclasses import replace
from math import isclose

import pytest

from stream_mla.errors import InfeasibleError
from stream_mla.evaluation import evaluate
from stream_mla.hardware.accelerator import Accelerator
from stream_mla.hardware.core_cost import Objective
from stream_mla.hardware.interconnect import OFF_CHIP, Route, find_routes
from stream_mla.hardware.work import Gemm, UnitKind
from stream_mla.mapping.tiling.tiler import tile
from stream_mla.schedule.activities import activities
from stream_mla.schedule.problem import Problem, Unit, price
from stream_mla.workload.lowering.attention import lower
from tests.helpers import Step, block, bus, core_type, hand_problem, latent, machine, point_of, uncut, wire, workload


def _route(accelerator: Accelerator, source: int, target: int) -> tuple[str, list[str], int, int]:
    """Link, resources by name, demand in 1/1000 bit per cycle, latency in cycles."""
    resources, routes = find_routes(accelerator)
    route = routes[source, target]
    return "+".join(route.links), [resources[r].name for r in route.resources], route.demand, route.latency_cycles


def test_a_bus_of_full_ports_takes_bus_and_dram() -> None:
    accelerator = machine(core_type(), core_type(), bandwidth=16, latency=3)
    resources, routes = find_routes(accelerator)

    assert [(r.name, r.capacity) for r in resources] == [("dram", 16_000), ("bus", 16_000)]
    assert _route(accelerator, OFF_CHIP, 0) == ("bus", ["dram", "bus"], 16_000, 3)
    assert _route(accelerator, 1, OFF_CHIP) == ("bus", ["dram", "bus"], 16_000, 3)
    assert _route(accelerator, 0, 1) == ("bus", ["bus"], 16_000, 0)  # no DRAM, so no DRAM latency
    assert sorted(routes) == [(-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0)]


def test_ports_limit_and_are_one_way() -> None:
    links = [bus("dram", "core0", "core1", bandwidth=16, port=6)]
    accelerator = machine(core_type(), core_type(), links=links, bandwidth=10)
    resources, _ = find_routes(accelerator)

    assert [(r.name, r.capacity) for r in resources] == [
        ("dram", 10_000),
        ("bus", 16_000),
        ("bus:core0:in", 6_000),
        ("bus:core0:out", 6_000),
        ("bus:core1:in", 6_000),
        ("bus:core1:out", 6_000),
    ]
    assert _route(accelerator, OFF_CHIP, 1) == ("bus", ["dram", "bus", "bus:core1:in"], 6_000, 0)
    assert _route(accelerator, 1, OFF_CHIP) == ("bus", ["dram", "bus", "bus:core1:out"], 6_000, 0)
    assert _route(accelerator, 0, 1) == ("bus", ["bus", "bus:core0:out", "bus:core1:in"], 6_000, 0)


def test_the_slowest_resource_sets_the_rate() -> None:
    def rate(dram: float, of_bus: float, port: float) -> int:
        links = [bus("dram", "core0", bandwidth=of_bus, port=port)]
        return find_routes(machine(core_type(), links=links, bandwidth=dram))[1][OFF_CHIP, 0].demand

    assert (rate(5, 16, 6), rate(10, 7, 9), rate(10, 16, 6)) == (5_000, 7_000, 6_000)


def test_each_direction_of_a_wire_has_its_own_bandwidth() -> None:
    links = [bus("dram", "core0", "core1"), wire("core0", "core1", bandwidth=8, latency=2)]
    accelerator = machine(core_type(), core_type(), links=links)

    assert _route(accelerator, 0, 1) == ("wire", ["wire:core0>core1"], 8_000, 2)
    assert _route(accelerator, 1, 0) == ("wire", ["wire:core1>core0"], 8_000, 2)


def test_a_wire_serves_before_a_bus_and_the_faster_wire_before_the_slower() -> None:
    links = [
        bus("dram", "core0", "core1", bandwidth=100),
        wire("core0", "core1", name="slow", bandwidth=2),
        wire("core0", "core1", name="fast", bandwidth=4),
        replace(wire("core0", "core1", name="frugal", bandwidth=4), energy=0.125),
    ]
    for order in (links, links[::-1]):
        _, routes = find_routes(machine(core_type(), core_type(), links=order, bandwidth=100))
        assert [routes[e].links for e in ((0, 1), (1, 0), (OFF_CHIP, 0))] == [("frugal",), ("frugal",), ("bus",)]


def test_latencies_of_link_and_dram_add_before_they_are_rounded_up() -> None:
    links = [bus("dram", "core0", latency=0.5e-9)]
    accelerator = replace(machine(core_type(), links=links, latency=1.75e-9), clock=2e9)

    # 2.25 ns at 2 GHz: 4.5 cycles; apart they would be 1 + 4
    assert find_routes(accelerator)[1][OFF_CHIP, 0].latency_cycles == 5


def test_the_clock_turns_seconds_into_cycles() -> None:
    links = [bus("dram", "core0", bandwidth=48e9)]
    accelerator = replace(machine(core_type(), links=links, bandwidth=32e9), clock=2e9)
    resources, _ = find_routes(accelerator)

    assert [(r.name, r.capacity) for r in resources] == [("dram", 16_000), ("bus", 24_000)]


def test_moves_are_rounded_up_to_cycles() -> None:
    route = Route(links=("bus",), resources=(0,), demand=2_500, latency_cycles=7, energy_pj_per_bit=0)

    # 2.5 bit per cycle
    assert [route.cycles(bits) for bits in (1, 2, 3, 5, 6, 1000)] == [1, 1, 2, 2, 3, 400]


def test_a_wire_port_limits_too() -> None:
    """`port_bandwidth` is the most a core's port takes or gives, whatever the kind of link."""
    narrow = replace(wire("core0", "core1", bandwidth=8), port_bandwidth=4)
    _, routes = find_routes(machine(core_type(), core_type(), links=[bus("dram", "core0", "core1"), narrow]))

    assert routes[0, 1].demand == 4_000


def test_types_that_lack_the_unit_have_no_cost() -> None:
    graph = lower(workload(latent()), "mla_absorbed")
    types = (core_type("array", vector=False), core_type("vector", array=False), core_type("both"))
    problem = price(tile(graph, uncut()), machine(*types), Objective.LATENCY)
    found = {entry.name: sorted(costs) for entry, costs in zip(problem.tile_graph.tiles, problem.costs, strict=True)}

    assert (found["scores"], found["softmax"], found["merge"]) == (
        ["array", "both"],
        ["both", "vector"],
        ["both", "vector"],
    )
    numbers = {entry.name: number for number, entry in enumerate(problem.tile_graph.tiles)}
    assert problem.units[problem.unit(numbers["scores"], 2)] == Unit(core=2, kind=UnitKind.ARRAY)
    assert problem.units[problem.unit(numbers["softmax"], 2)] == Unit(core=2, kind=UnitKind.VECTOR)
    assert len({*problem.units}) == len(problem.units) == len(types) * len(UnitKind)
    for number, unit in enumerate(problem.units):
        assert problem.units_of_kind[unit.kind][unit.core] == number
        assert (problem.core_of_unit[number], problem.is_array[number]) == (unit.core, unit.kind is UnitKind.ARRAY)
    assert problem.candidates[problem.tile_graph.tiles[numbers["out"]].group] == (0, 2)
    assert problem.minimum_cycles[numbers["out"]] == problem.cost(numbers["out"], 2).cycles


def test_a_core_whose_array_is_too_narrow_has_no_cost() -> None:
    """A 4-bit core beside an 8-bit core: the products of 8-bit operands are left to the other."""
    graph = lower(workload(latent()), "mla_absorbed")
    types = (core_type("narrow", operand_bits=4), core_type("wide"))
    problem = price(tile(graph, uncut()), machine(*types), Objective.LATENCY)
    found = {entry.name: sorted(costs) for entry, costs in zip(problem.tile_graph.tiles, problem.costs, strict=True)}

    assert (found["scores"], found["softmax"]) == (["wide"], ["narrow", "wide"])


@pytest.mark.parametrize("widths", [(4, 8), (8, 4)])
def test_a_layer_runs_beside_a_core_that_is_too_narrow_for_it(widths: tuple[int, int]) -> None:
    types = [core_type(f"{bits} bit", operand_bits=bits) for bits in widths]
    point = point_of(workload(latent()), machine(*types), "mla_absorbed")
    outcome = evaluate(point)
    products = [r for r in outcome.schedule.runs if isinstance(outcome.problem.tile_graph.tiles[r.tile].work, Gemm)]

    assert {outcome.problem.cores[run.core].type.name for run in products} == {"8 bit"}
    # all MACs on one of two arrays of 4
    expected = outcome.result.macs / (8 * outcome.result.latency_cycles)
    assert isclose(outcome.result.mac_utilization, expected, rel_tol=1e-12)


def test_the_fastest_core_type_sets_the_minimum() -> None:
    slow = core_type("slow")
    assert slow.array is not None
    fast = replace(slow, name="fast", array=replace(slow.array, rows=64, columns=64))
    graph = lower(workload(latent()), "mla_absorbed")
    problem = price(tile(graph, uncut()), machine(slow, fast), Objective.LATENCY)
    out = next(number for number, entry in enumerate(problem.tile_graph.tiles) if entry.name == "out")

    # m 1, n 7, k 12 on 2 x 2, weight stationary: ceil(12/2) x ceil(7/2) x 1; on 64 x 64 one step
    assert (problem.cost(out, 0).cycles, problem.cost(out, 1).cycles) == (24, 1)
    assert problem.minimum_cycles[out] == 1


def test_a_cluster_that_no_core_can_run_is_infeasible() -> None:
    graph = lower(workload(latent(rope_dim=0, norms=False)), "mla_absorbed")
    types = (core_type("array", vector=False), core_type("vector", array=False))
    problem = price(tile(graph, uncut(graph.local)), machine(*types), Objective.LATENCY)

    with pytest.raises(InfeasibleError) as caught:
        _ = problem.candidates

    assert str(caught.value) == "no core can run scores and the tiles that must share its core"


TWO_CORES = machine(core_type(), core_type(), bandwidth=16)


def _moves(problem: Problem, cores: list[int]) -> list[tuple[str, str, str, int]]:
    """(block, source, target, cycles) of each move."""
    acts = activities(problem, cores)

    def place(residency: int) -> str:
        return "dram" if residency == OFF_CHIP else problem.cores[acts.residencies[residency].core].name

    return [
        (problem.tile_graph.blocks[m.block].name, place(m.source), place(m.target), m.cycles) for m in acts.transfers
    ]


def _readers(*, shared: bool) -> Problem:
    """Three tiles, each a cluster, that read one weight of 40 bit."""
    return hand_problem(
        TWO_CORES,
        [block("w", 40, weight=True, shared=shared), *(block(f"y{n}", 16, stored=True) for n in range(3))],
        [Step(name=f"t{n}", reads=("w",), writes=f"y{n}", cycles=1) for n in range(3)],
    )


def test_a_shared_block_is_loaded_once_per_core() -> None:
    problem = _readers(shared=True)

    # 40 bit at 16 bit per cycle: 3 cycles
    assert [m for m in _moves(problem, [0, 0, 1]) if m[0] == "w"] == [
        ("w", "dram", "core0", 3),
        ("w", "dram", "core1", 3),
    ]
    acts = activities(problem, [0, 0, 1])
    assert [acts.residencies[residency].users for residency in (acts.reads[0][0], acts.reads[2][0])] == [(0, 1), (2,)]


def test_another_block_is_loaded_once_per_cluster() -> None:
    problem = _readers(shared=False)

    assert [m for m in _moves(problem, [0, 0, 1]) if m[0] == "w"] == [
        ("w", "dram", "core0", 3),
        ("w", "dram", "core0", 3),
        ("w", "dram", "core1", 3),
    ]


def test_a_result_is_stored_once_from_where_it_is_made() -> None:
    transfers = _moves(_readers(shared=True), [0, 0, 1])

    assert [m for m in transfers if m[0] != "w"] == [
        ("y0", "core0", "dram", 1),
        ("y1", "core0", "dram", 1),
        ("y2", "core1", "dram", 1),
    ]


def _chain_of_readers(*, spilled: bool) -> Problem:
    """`make` feeds three readers."""
    return hand_problem(
        TWO_CORES,
        [
            block("x", 16, weight=True),
            block("z", 100, spilled=spilled),
            *(block(f"y{n}", 8, stored=True) for n in range(3)),
        ],
        [
            Step(name="make", reads=("x",), writes="z", cycles=1),
            *(Step(name=f"t{n}", reads=("z",), writes=f"y{n}", cycles=1) for n in range(3)),
        ],
    )


def test_a_block_on_chip_is_sent_once_to_each_other_core() -> None:
    problem = _chain_of_readers(spilled=False)
    acts = activities(problem, [0, 0, 1, 1])

    # 100 bit at 16: 7 cycles
    assert [m for m in _moves(problem, [0, 0, 1, 1]) if m[0] == "z"] == [("z", "core0", "core1", 7)]
    assert acts.reads[1] == acts.writes[0]  # at home it is read where it was made
    assert acts.reads[2] == acts.reads[3] != acts.writes[0]
    assert acts.residencies[acts.writes[0][0]].transfers_out == tuple(
        number for number, transfer in enumerate(acts.transfers) if transfer.source == acts.writes[0][0]
    )


def test_a_spilled_block_is_stored_and_then_loaded_by_each_cluster() -> None:
    problem = _chain_of_readers(spilled=True)
    acts = activities(problem, [0, 0, 1, 1])

    assert [m for m in _moves(problem, [0, 0, 1, 1]) if m[0] == "z"] == [
        ("z", "core0", "dram", 7),
        ("z", "dram", "core0", 7),
        ("z", "dram", "core1", 7),
        ("z", "dram", "core1", 7),
    ]
    store = next(number for number, transfer in enumerate(acts.transfers) if transfer.target == OFF_CHIP)
    assert [m.after_store for m in acts.transfers if m.block == 1] == [-1, store, store, store]
    assert [m.after_store for m in acts.transfers if m.block == 0] == [-1]


def test_the_maker_holds_wide_sums_and_sends_narrow_results() -> None:
    problem = hand_problem(
        TWO_CORES,
        [block("x", 16, weight=True), block("z", 20, held_bits=80), block("y", 8, stored=True)],
        [
            Step(name="first", reads=("x",), writes="z", cycles=1),
            Step(name="second", reads=("x",), writes="z", cycles=1),
            Step(name="use", reads=("z",), writes="y", cycles=1),
        ],
    )
    acts = activities(problem, [0, 1])

    assert [(c.block, c.core, c.bits) for c in acts.residencies if c.block == 1] == [(1, 0, 80), (1, 1, 20)]
    assert [m for m in _moves(problem, [0, 1]) if m[0] == "z"] == [("z", "core0", "core1", 2)]
    assert acts.writes[0] == acts.writes[1]


def test_cores_that_no_link_joins_cannot_send() -> None:
    links = [wire("dram", "core0", name="a"), wire("dram", "core1", name="b")]
    problem = hand_problem(
        machine(core_type(), core_type(), links=links),
        [block("z", 8), block("y", 8, stored=True)],
        [Step(name="make", writes="z", cycles=1), Step(name="use", reads=("z",), writes="y", cycles=1)],
    )

    assert len(activities(problem, [1, 1]).transfers) == 1
    with pytest.raises(InfeasibleError) as caught:
        activities(problem, [0, 1])
    assert str(caught.value) == "z must go from core0 to core1, and no link joins them: add one, or spill the tensor"
