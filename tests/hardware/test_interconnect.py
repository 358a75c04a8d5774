"""Paths of several links, and meshes: by hand. Routes of one link are in test_problem.py."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from stream_mla.errors import SpecError
from stream_mla.frontends.catalog import dump, load_accelerator
from stream_mla.hardware.accelerator import DRAM, Accelerator, Link, LinkKind
from stream_mla.hardware.interconnect import OFF_CHIP, find_routes
from stream_mla.schedule.checker import violations
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.replay import replay
from stream_mla.schedule.schedule import energy_parts_pj
from stream_mla.solvers.list_scheduling.greedy import greedy
from tests.helpers import Step, block, bus, core_type, hand_problem, machine, wire


def _line(*, dram_at: Sequence[int] = (0,)) -> Accelerator:
    """Four cores in a row, joined by wires a, b, c; the DRAM is wired to some of them."""
    links = [wire(f"core{n}", f"core{n + 1}", name=name, latency=n + 1) for n, name in enumerate("abc")]
    links += [wire(DRAM, f"core{n}", name=f"dram{n}", bandwidth=16, latency=1) for n in dram_at]
    return machine(*(core_type(f"type{n}") for n in range(4)), links=links, latency=10)


def _links(links: Sequence[Link], source: int = 0, target: int = 3) -> tuple[str, ...]:
    """Return the links on the way between two of four cores, all of which reach the DRAM by a bus of their own."""
    own = [bus(DRAM, f"core{n}", name=f"dram{n}") for n in range(4)]
    return find_routes(machine(*[core_type()] * 4, links=[*links, *own]))[1][source, target].links


def test_a_path_takes_all_its_links_at_the_lowest_rate() -> None:
    resources, routes = find_routes(_line())
    route = routes[OFF_CHIP, 3]

    assert route.links == ("dram0", "a", "b", "c")
    assert [resources[number].name for number in route.resources] == [
        "dram",
        "a:core0>core1",
        "b:core1>core2",
        "c:core2>core3",
        "dram0:dram>core0",
    ]
    assert route.demand == 8_000  # of the wires; DRAM and its link have 16
    assert route.cycles(80) == 10  # cut-through: not once per link
    assert route.latency_cycles == 17  # 10 DRAM, 1 its link, 1 + 2 + 3 the wires
    assert route.energy_pj_per_bit == 1  # 4 links at 0.25
    assert routes[3, OFF_CHIP].links == ("c", "b", "a", "dram0")
    assert len(routes) == 20  # each of 5 places reaches each other one


@pytest.mark.parametrize(
    ("dram", "demand"),
    [
        (100, 5_882),  # 16.7 moves of 6: 17 of 100 / 17
        (96, 6_000),  # just 16
        (95, 6_000),  # 15.8: so few would slow down too much
    ],
)
def test_a_whole_number_of_moves_fills_the_dram(dram: float, demand: int) -> None:
    link = bus(DRAM, "core0", "core1", bandwidth=200, port=6)
    routes = find_routes(machine(core_type(), core_type(), links=[link], bandwidth=dram))[1]

    assert routes[OFF_CHIP, 1].demand == routes[1, OFF_CHIP].demand == demand
    assert routes[0, 1].demand == 6_000  # between cores, all that a port can


def test_latencies_along_a_path_add_before_they_are_rounded_up() -> None:
    links = [wire(f"core{n}", f"core{n + 1}", name=name, latency=0.4) for n, name in enumerate("ab")]
    route = find_routes(machine(*[core_type()] * 3, links=[*links, wire(DRAM, "core0", name="dram0")]))[1][0, 2]

    assert route.latency_cycles == 1  # 0.8; apart they would be 1 + 1


def test_no_path_leads_through_the_dram() -> None:
    _, routes = find_routes(_line(dram_at=(0, 3)))

    assert routes[0, 3].links == ("a", "b", "c")
    # but each core loads from its nearest side
    assert [routes[OFF_CHIP, core].links for core in range(4)] == [
        ("dram0",),
        ("dram0", "a"),
        ("dram3", "c"),
        ("dram3",),
    ]


def test_one_slow_link_serves_before_two_fast_ones() -> None:
    fast = [wire("core0", "core1", name="a", bandwidth=64), wire("core1", "core3", name="b", bandwidth=64)]

    assert _links(fast) == ("a", "b")
    assert _links([*fast, bus("core0", "core3", name="slow", bandwidth=1)]) == ("slow",)


def test_of_paths_of_one_length_the_fastest_then_the_frugal_then_the_first_serves() -> None:
    def path(first: Link, second: Link) -> list[Link]:
        return [replace(first, ends=("core0", first.ends[1])), replace(second, ends=(second.ends[0], "core3"))]

    via_1 = path(wire("core0", "core1", name="a"), wire("core1", "core3", name="b"))
    via_2 = path(wire("core0", "core2", name="c"), wire("core2", "core3", name="d"))
    wide = [via_2[0], replace(via_2[1], bandwidth=16, port_bandwidth=16)]
    wider = [replace(link, bandwidth=16, port_bandwidth=16) for link in via_2]
    least_energy_tiles = [via_2[0], replace(via_2[1], energy=0.125)]

    assert _links([*via_1, *via_2]) == ("a", "b")
    assert _links([*via_2, *via_1]) == ("c", "d")
    assert _links([*via_1, *wide]) == ("a", "b")  # its first link is no faster
    assert _links([*via_1, *wider]) == ("c", "d")
    assert _links([*via_1, *least_energy_tiles]) == ("c", "d")


def test_a_slow_start_wins_where_the_end_is_slower_still() -> None:
    """To core2 the fast path is better; to core3, behind a slow link, the frugal one."""
    links = [
        replace(wire("core0", "core1", name="fast", bandwidth=16), energy=1.0),
        wire("core1", "core2", name="on", bandwidth=16),
        wire("core0", "far", name="frugal", bandwidth=8),
        wire("far", "core2", name="on too", bandwidth=8),
        wire("core2", "core3", name="slow", bandwidth=2),
    ]
    links = [replace(link, ends=tuple(end.replace("far", "core4") for end in link.ends)) for link in links]
    own = [bus(DRAM, f"core{n}", name=f"dram{n}") for n in range(5)]
    _, routes = find_routes(machine(*[core_type()] * 5, links=[*links, *own]))

    assert routes[0, 2].links == ("fast", "on")
    assert routes[0, 3].links == ("frugal", "on too", "slow")


def test_a_path_over_buses_takes_the_ports_it_passes() -> None:
    links = [
        bus(DRAM, "core0", "core1", name="left", bandwidth=16, port=6),
        bus("core1", "core2", name="right", bandwidth=16, port=4),
    ]
    resources, routes = find_routes(machine(*[core_type()] * 3, links=links))
    route = routes[0, 2]

    assert (route.links, route.demand) == (("left", "right"), 4_000)
    assert [resources[number].name for number in route.resources] == [
        "left",
        "left:core0:out",
        "left:core1:in",
        "right",
        "right:core1:out",
        "right:core2:in",
    ]


def _sends(*pairs: tuple[int, int]) -> Problem:
    """On each core of the first of a pair a block of 80 bit is made, which a core of the second reads."""
    problem = hand_problem(
        _line(dram_at=range(4)),
        [entry for n in range(len(pairs)) for entry in (block(f"z{n}", 80), block(f"y{n}", 16, stored=True))],
        [
            step
            for n in range(len(pairs))
            for step in (
                Step(name=f"make{n}", writes=f"z{n}", cycles=1),
                Step(name=f"use{n}", reads=(f"z{n}",), writes=f"y{n}", cycles=1),
            )
        ],
    )
    cores = [core for pair in pairs for core in pair]
    costs = tuple({f"type{core}": costs[f"type{core}"]} for core, costs in zip(cores, problem.costs, strict=True))
    return replace(problem, costs=costs)


@pytest.mark.parametrize(
    ("pairs", "starts"),
    [
        (((0, 2), (1, 3)), [1, 11]),  # a, b and b, c: wire b is shared, one after the other
        (((0, 1), (1, 3)), [1, 1]),  # a and b, c: nothing shared
        (((0, 2), (3, 1)), [1, 1]),  # a, b and c, b: b in both directions
        (((0, 3), (1, 2)), [1, 11]),  # a, b, c and b
    ],
)
def test_paths_contend_for_a_link_in_the_middle(pairs: tuple[tuple[int, int], ...], starts: list[int]) -> None:
    problem = _sends(*pairs)
    schedule = greedy(problem)
    sends = sorted(move.start for move in schedule.transfers if move.source != OFF_CHIP and move.target != OFF_CHIP)

    assert violations(problem, schedule) == []
    assert sends == starts  # 80 bit at 8 bit per cycle: 10 cycles each
    assert replay(problem, schedule) == schedule


def test_links_charge_energy_per_hop() -> None:
    # z0 over 2 wires, 0.25 pJ/bit each: 40 pJ; y0 over the link to DRAM: 16 x 0.25 = 4 pJ
    problem = _sends((0, 2))

    assert energy_parts_pj(problem, greedy(problem))["links"] == 44


CORE = """\
    name: core_type
    source: test
    array:
      rows: 4
      columns: 8
      delivery: broadcast
      dataflows: [output_stationary]
      precisions:
      - {operand: 8 bit, macs_per_element: 1, mac_energy: 0.08 pJ/MAC}
    vector: {operations_per_cycle: 16, operation_energy: 0.5 pJ/op}
    registers: {capacity: 64 bit, read_energy: 0.01 pJ/bit, write_energy: 0.01 pJ/bit}
    sram:
      capacity: 2 MiB
      read_bandwidth: 64 B/cycle
      write_bandwidth: 32 B/cycle
      read_energy: 1 pJ/bit
      write_energy: 1 pJ/bit
"""
MESH = f"""\
name: small
source: test
clock: 2 GHz
cores:
- name: core
  count: 6
  type:
{CORE}
dram: {{capacity: 1 GiB, bandwidth: 100 GB/s, latency: 50 ns, read_energy: 8 pJ/bit, write_energy: 8 pJ/bit}}
links:
- {{name: net, kind: mesh, ends: [core], columns: 3,
   bandwidth: 4 B/cycle, port_bandwidth: 3 B/cycle, latency: 5 ns, energy: 0.5 pJ/bit}}
- {{name: memory, kind: link, ends: [dram, "core[0]"],
   bandwidth: 100 GB/s, port_bandwidth: 100 GB/s, latency: 0 ns, energy: 0 pJ/bit}}
"""


def _load(folder: Path, text: str) -> Accelerator:
    (folder / "file.yaml").write_text(text)
    return load_accelerator(str(folder / "file.yaml"))


def _changed(old: str, new: str) -> str:
    assert MESH.count(old) == 1, old
    return MESH.replace(old, new)


def test_a_mesh_stands_for_the_links_between_neighbours(tmp_path: Path) -> None:
    *mesh, memory = _load(tmp_path, MESH).links

    # 0 1 2
    # 3 4 5
    neighbours = [(0, 1), (1, 2), (3, 4), (4, 5), (0, 3), (1, 4), (2, 5)]
    assert [(link.name, link.ends) for link in mesh] == [
        (f"net:core[{a}]-core[{b}]", (f"core[{a}]", f"core[{b}]")) for a, b in neighbours
    ]
    assert {link.kind for link in mesh} == {LinkKind.LINK}
    assert {(link.bandwidth, link.port_bandwidth) for link in mesh} == {(64e9, 48e9)}  # 4 and 3 B/cycle at 2 GHz
    assert {(link.latency, link.energy) for link in mesh} == {(5e-9, 0.5)}
    assert memory.name == "memory"


def test_routes_of_a_mesh_go_along_the_row_first(tmp_path: Path) -> None:
    _, routes = find_routes(_load(tmp_path, MESH))

    assert routes[0, 5].links == ("net:core[0]-core[1]", "net:core[1]-core[2]", "net:core[2]-core[5]")
    assert routes[5, 0].links == ("net:core[4]-core[5]", "net:core[3]-core[4]", "net:core[0]-core[3]")
    assert routes[2, 3].links == ("net:core[1]-core[2]", "net:core[0]-core[1]", "net:core[0]-core[3]")
    assert routes[OFF_CHIP, 4].links == ("memory", "net:core[0]-core[1]", "net:core[1]-core[4]")
    assert routes[OFF_CHIP, 4].demand == 24_000  # 3 B per cycle through a port
    assert routes[OFF_CHIP, 4].latency_cycles == 120  # 50 + 2 x 5 ns at 2 GHz
    for (a, b), route in routes.items():
        if OFF_CHIP not in (a, b):
            assert len(route.links) == abs(a % 3 - b % 3) + abs(a // 3 - b // 3)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ends: [core],", 'ends: ["core[1]", "core[0]", "core[2]", "core[3]", "core[4]", "core[5]"],'),
        ("columns: 3", "columns: 2"),
        ("bandwidth: 4 B/cycle, port", "bandwidth: 2 B/cycle, port"),
        ("port_bandwidth: 3 B/cycle", "port_bandwidth: 2 B/cycle"),
        ("latency: 5 ns", "latency: 6 ns"),
        ("energy: 0.5 pJ/bit}", "energy: 0.25 pJ/bit}"),
    ],
)
def test_every_field_of_a_mesh_has_an_effect(tmp_path: Path, old: str, new: str) -> None:
    def route(text: str) -> tuple[list[str], int, int, float]:
        resources, routes = find_routes(_load(tmp_path, text))
        found = routes[OFF_CHIP, 2]
        names = [resources[number].name for number in found.resources]
        return names, found.cycles(1000), found.latency_cycles, found.energy_pj_per_bit

    assert route(_changed(old, new)) != route(MESH)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("columns: 3", "columns: 4", "6 ends do not fill rows of 4 @ links[0].columns"),
        ("columns: 3", "columns: 0", "6 ends do not fill rows of 0 @ links[0].columns"),
        ("columns: 3,", "", "required key 'columns' is missing: add it @ links[0].columns"),
        (
            "ends: [core], columns: 3",
            'ends: ["core[0]"], columns: 1',
            "a mesh needs at least two different ends, got core[0] @ links[0].ends",
        ),
        (
            "ends: [core], columns: 3",
            'ends: ["core[0]", "core[1]", "core[0]"], columns: 3',
            "a mesh needs different ends, got core[0] twice @ links[0].ends",
        ),
        (
            "bandwidth: 4 B/cycle, port",
            "bandwidth: 0 B/cycle, port",
            "bandwidth must be > 0, got 0 @ links[0]",
        ),
        (
            "ends: [core],",
            'ends: ["core[0]", "core[1]", "core[2]"],',
            "no path of links joins core 'core[3]' with 'dram'; every core needs one @ top level",
        ),
    ],
)
def test_mistake_in_a_mesh(tmp_path: Path, old: str, new: str, problem: str) -> None:
    with pytest.raises(SpecError) as error:
        _load(tmp_path, _changed(old, new))

    assert list(error.value.problems) == [problem]


@pytest.mark.parametrize(("read", "columns"), [(1, 1), (2, 2), (3, 3), (6, 1)])  # a row is a column, laid down
def test_a_mesh_is_written_as_a_mesh(tmp_path: Path, read: int, columns: int) -> None:
    accelerator = _load(tmp_path, _changed("columns: 3", f"columns: {read}"))
    text = dump(accelerator)

    assert f"- name: net\n  kind: mesh\n  ends: [core]\n  columns: {columns}\n  bandwidth: 8 GB/s\n" in text
    assert _load(tmp_path, text) == accelerator


def test_what_is_left_of_a_mesh_is_written_link_by_link(tmp_path: Path) -> None:
    whole = _load(tmp_path, MESH)
    accelerator = replace(whole, links=(*whole.links[:2], *whole.links[3:]))
    text = dump(accelerator)

    assert "mesh" not in text
    assert _load(tmp_path, text) == accelerator
