"""A better machine is never slower: optima that CP-SAT proves, for the same tiles, before and after.

Every schedule of the smaller machine is one of the larger: what fitted fits, what took n cycles takes at most n, and a
new core may stay idle. Bandwidths grow together: a faster DRAM alone may take a bus from others that share it (see
the last test).
"""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from stream_mla.errors import InfeasibleError, NoScheduleError
from stream_mla.hardware.accelerator import DRAM, Accelerator, Core
from stream_mla.hardware.core_cost import Objective
from stream_mla.hardware.interconnect import find_routes
from stream_mla.mapping.tiling.tiler import tile
from stream_mla.schedule.bounds.schedule_bounds import bounds
from stream_mla.schedule.problem import Problem, price
from stream_mla.solvers.budget import Budget
from stream_mla.solvers.cp_sat.solve import improve
from stream_mla.solvers.list_scheduling.greedy import greedy
from stream_mla.workload.operator_graph import Kind, Role
from tests.helpers import Step, block, bus, core_type, graphs, hand_problem, machine, uncut
from tests.oracle import tiny_problem

BUDGET = Budget(time_limit_s=1, gap_limit=0.0, seed=1, workers=1)
SLOW = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

Change = Callable[[Accelerator, int], Accelerator]
"""A machine, and by how much it is to be better."""


def more_sram(accelerator: Accelerator, steps: int) -> Accelerator:
    cores = tuple(
        replace(core, type=replace(core.type, sram=replace(sram, capacity=sram.capacity + 4 * steps)))
        for core in accelerator.cores
        for sram in (core.type.sram,)
    )
    return replace(accelerator, cores=cores)


def more_bandwidth(accelerator: Accelerator, steps: int) -> Accelerator:
    factor = 1 + steps / 4
    return replace(
        accelerator,
        dram=replace(accelerator.dram, bandwidth=accelerator.dram.bandwidth * factor),
        links=tuple(
            replace(link, bandwidth=link.bandwidth * factor, port_bandwidth=link.port_bandwidth * factor)
            for link in accelerator.links
        ),
    )


def one_more_core(accelerator: Accelerator, steps: int) -> Accelerator:
    """A copy of one of the cores, on the bus."""
    like = accelerator.cores[steps % len(accelerator.cores)]
    links = tuple(
        replace(link, ends=(*link.ends, "extra")) if DRAM in link.ends else link for link in accelerator.links
    )
    return replace(accelerator, cores=(*accelerator.cores, Core(name="extra", type=like.type)), links=links)


CHANGES = (more_sram, more_bandwidth, one_more_core)


def on(problem: Problem, accelerator: Accelerator) -> Problem:
    """The same tiles, at the same costs, on another machine."""
    resources, routes = find_routes(accelerator)
    return replace(problem, accelerator=accelerator, resources=resources, routes=routes)


def optimum(problem: Problem) -> int | None:
    """Proven fewest cycles, or None."""
    try:
        first = greedy(problem)
    except (InfeasibleError, NoScheduleError):
        return None
    found = improve(problem, first, lower_bound_cycles=bounds(problem).lower_bound_cycles, budget=BUDGET)
    return found.schedule.latency_cycles if found.status == "OPTIMAL" and found.schedule is not None else None


def require_not_slower(problem: Problem, better: Problem) -> None:
    """An example without two proofs does not count."""
    before = optimum(problem)
    assume(before is not None)
    after = optimum(better)
    assume(after is not None)
    assert before is not None
    assert after is not None
    assert after <= before


@pytest.mark.parametrize("change", CHANGES)
@SLOW
@given(seed=st.integers(0, 10**6), steps=st.integers(1, 8))
def test_tiny_problems(change: Change, seed: int, steps: int) -> None:
    problem = tiny_problem(random.Random(seed))
    require_not_slower(problem, on(problem, change(problem.accelerator, steps)))


@st.composite
def layers(draw: st.DrawFn) -> Problem:
    """A small layer with two operators cut in two, on a machine whose memory just holds the largest tile, or more."""
    graph = draw(graphs())
    free = [operator for operator in graph.operators if operator.kind in (Kind.EINSUM, Kind.NORM)]
    sizes: dict[str, dict[str, int]] = {}
    for operator in draw(st.lists(st.sampled_from(free), max_size=2, unique_by=lambda entry: entry.name)):
        index = draw(st.sampled_from(operator.cuttable))
        sizes[operator.name] = {index: -(-graph.extents[index] // 2)}
    inner = sorted(name for name, tensor in graph.tensors.items() if tensor.role is Role.ACTIVATION)
    spilled = draw(st.sets(st.sampled_from(inner), max_size=3)) - graph.local
    tile_graph = tile(graph, replace(uncut(graph.local), sizes=sizes, spilled=frozenset(spilled)))
    need = max(sum(tile_graph.blocks[b].held_bits for b in {*entry.reads, *entry.writes}) for entry in tile_graph.tiles)
    all_bits = sum(entry.held_bits for entry in tile_graph.blocks)
    kind = core_type(sram_bits=need + draw(st.integers(0, all_bits - need)))
    names = [f"core{number}" for number in range(draw(st.integers(1, 2)))]
    links = [
        bus("dram", *names, bandwidth=48, port=draw(st.sampled_from((16.0, 48.0))), latency=draw(st.integers(0, 3)))
    ]
    return price(tile_graph, machine(*[kind] * len(names), links=links, bandwidth=48), Objective.LATENCY)


@pytest.mark.parametrize("change", CHANGES)
@settings(SLOW, max_examples=8)
@given(problem=layers(), steps=st.integers(1, 8))
def test_small_layers(change: Change, problem: Problem, steps: int) -> None:
    require_not_slower(problem, on(problem, change(problem.accelerator, steps)))


def test_a_change_helps_where_it_should() -> None:
    """Two products of 10 cycles, each with 160 bit of weights, on a bus of 16 bit per cycle: 10 cycles a load.

    One core with room for one weight: load, run, load, run = 40. With room for both, the second load hides: 30. At
    twice the bandwidth: 5 + 10 + 5 + 10 = 30. With a second core: loads end at 10 and 20, the second run at 30.
    """
    blocks = [block("w0", 160, weight=True), block("w1", 160, weight=True), block("y0", 4), block("y1", 4)]
    steps = [Step(name=f"t{n}", reads=(f"w{n}",), writes=f"y{n}", cycles=10) for n in range(2)]
    problem = hand_problem(machine(core_type(sram_bits=168)), blocks, steps)
    assert optimum(problem) == 40
    assert optimum(on(problem, more_sram(problem.accelerator, 40))) == 30
    assert optimum(on(problem, more_bandwidth(problem.accelerator, 4))) == 30
    assert optimum(on(problem, one_more_core(problem.accelerator, 0))) == 30


def test_a_faster_dram_alone_may_take_the_bus_from_a_send() -> None:
    """A limit of the model: a move takes all of the bandwidth that its route has, it cannot be asked to take less.

    A bus of 16 bit per cycle with ports of 12: core0 loads w at the 4 of the DRAM while it sends y0 to core1 at 12.
    y0 is made in cycle 0, sent from 1 to 11, used until 12; w is there at 10 and used until 11. A DRAM of 8 brings w
    in 5 cycles, but leaves the bus 8 of the 12 that the send wants: y0 is sent from 5 to 15, and used until 16.
    """
    blocks = [block("w", 40, weight=True), block("y0", 120), block("y1", 4), block("y2", 4)]
    steps = [
        Step(name="t0", writes="y0", cycles=1),
        Step(name="t1", reads=("y0",), writes="y1", cycles=1, vector=True),
        Step(name="t2", reads=("w",), writes="y2", cycles=1),
    ]
    kinds = (core_type("a", vector=False), core_type("b", array=False))
    accelerator = machine(*kinds, links=[bus("dram", "core0", "core1", bandwidth=16, port=12)], bandwidth=4)
    problem = hand_problem(accelerator, blocks, steps)
    faster = replace(accelerator, dram=replace(accelerator.dram, bandwidth=8.0))
    assert optimum(problem) == 12
    assert optimum(on(problem, faster)) == 16
