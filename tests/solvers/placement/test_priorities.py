"""Upward ranks by hand: the cycles from a tile's start to the end of the last that needs it."""

from dataclasses import replace

from stream_mla.solvers.placement.priorities import rank_order, upward_ranks
from tests.helpers import Step, block, core_type, hand_problem, machine

STEPS = [
    Step(name="alone", writes="y", cycles=5),
    Step(name="first", writes="z", cycles=1),
    Step(name="second", reads=("z",), writes="x", cycles=100),
    Step(name="spilled", writes="s", cycles=2),
    Step(name="reader", reads=("s",), writes="o", cycles=20),
]
BLOCKS = [block("y", 16), block("z", 32), block("x", 16), block("s", 48, stored=True), block("o", 16)]


def test_the_rank_of_a_tile_counts_what_follows_it_and_the_sending_between() -> None:
    problem = hand_problem(machine(core_type(), core_type()), BLOCKS, STEPS)

    # z is 32 bit at 16 a cycle: 1 + 2 + 100; s is sent like any block that is not read from DRAM: 2 + 3 + 20
    assert upward_ranks(problem) == [5.0, 103.0, 100.0, 25.0, 20.0]
    assert rank_order(problem) == [1, 2, 3, 4, 0]


def test_all_that_goes_from_one_tile_to_another_is_sent_one_after_the_other() -> None:
    steps = [
        Step(name="both", writes="z", cycles=1),
        Step(name="alone", writes="x", cycles=3),
        Step(name="reader", reads=("z", "y", "x"), writes="o", cycles=10),
    ]
    blocks = [block("z", 32), block("y", 48), block("x", 64), block("o", 16)]
    problem = hand_problem(machine(core_type(), core_type()), blocks, steps)
    first, *rest = problem.tile_graph.tiles
    tile_graph = replace(problem.tile_graph, tiles=(replace(first, writes=(0, 1)), *rest), maker=(0, 0, 1, 2))

    # z and y: 1 + (32 + 48) / 16 + 10; x: 3 + 64 / 16 + 10
    assert upward_ranks(replace(problem, tile_graph=tile_graph)) == [16.0, 17.0, 10.0]


def test_on_one_core_nothing_is_sent() -> None:
    assert upward_ranks(hand_problem(machine(core_type()), BLOCKS, STEPS)) == [5.0, 101.0, 100.0, 22.0, 20.0]
