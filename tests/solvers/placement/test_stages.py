"""The order of tiles stage by stage, by hand."""

from dataclasses import replace

from stream_mla.mapping.tiling.tile_graph import TileGraph
from stream_mla.solvers.placement.earliest_finish import assign
from stream_mla.solvers.placement.expected_times import expected
from stream_mla.solvers.placement.priorities import stage_order, stages
from tests.helpers import Step, block, core_type, hand_problem, machine


def _cut(*local: str, late_phase: int = 0) -> TileGraph:
    """Two groups, `a` before `b`; `c` needs both the first `a` and the first `b`."""
    problem = hand_problem(
        machine(core_type()),
        [block(name, 16) for name in ("y0", "z0", "y1", "z1")] + [block("o", 16, stored=True)],
        [
            Step(name="a0", writes="y0", cycles=1),
            Step(name="b0", reads=("y0",), writes="z0", cycles=1),
            Step(name="c", reads=("y0", "z0"), writes="o", cycles=1),
            Step(name="a1", writes="y1", cycles=1, phase=late_phase),
            Step(name="b1", reads=("y1",), writes="z1", cycles=1, phase=late_phase),
        ],
    )
    return replace(problem.tile_graph, tiling=replace(problem.tile_graph.tiling, local=frozenset(local)))


def test_a_stage_follows_all_that_it_needs() -> None:
    assert stages(_cut()) == {"a0": 0, "b0": 1, "c": 2, "a1": 0, "b1": 1}
    assert stage_order(_cut()) == [0, 3, 1, 4, 2]


def test_what_a_local_tensor_joins_is_one_stage() -> None:
    assert stages(_cut("z0")) == {"a0": 0, "b0": 1, "c": 1, "a1": 0, "b1": 1}
    # c is joined with a0, which feeds it through b0 as well: that is in between
    assert stages(_cut("y0")) == {"a0": 0, "b0": 0, "c": 0, "a1": 0, "b1": 1}
    assert stage_order(_cut("y0")) == [0, 1, 2, 3, 4]


def test_stages_stay_in_their_phase() -> None:
    assert stage_order(_cut(late_phase=1)) == [0, 1, 2, 3, 4]


def test_cores_work_stage_by_stage_while_one_that_serves_them_works() -> None:
    """Two groups, each on the array for 10 cycles, on the vector core for 10, and on the array again for 10."""
    steps: list[Step] = []
    for n in range(2):
        steps += [Step(name=f"make{n}", writes=f"y{n}", cycles=10)]
        steps += [Step(name=f"mid{n}", reads=(f"y{n}",), writes=f"z{n}", cycles=10, vector=True)]
        steps += [Step(name=f"use{n}", reads=(f"z{n}",), writes=f"o{n}", cycles=10)]
    blocks = [block(f"{letter}{n}", 16, stored=letter == "o") for n in range(2) for letter in "yzo"]
    # a quarter of 60 bit is too little for a y of 16 that is made ahead of its turn
    small = core_type("a", vector=False, sram_bits=60)
    problem = hand_problem(machine(small, core_type("v", array=False)), blocks, steps)

    order = stage_order(problem.tile_graph)
    plan = expected(problem, assign(problem, order), order)

    # each send takes 1: make0 0, make1 10, mid0 11, mid1 21, use0 22, use1 32
    assert [problem.tile_graph.tiles[tile].name for tile in plan.order] == [
        "make0",
        "make1",
        "mid0",
        "mid1",
        "use0",
        "use1",
    ]
    assert plan.cycles == 42
    # group after group: use0 22 to 32, and only then make1 32, mid1 43, use1 54
    assert expected(problem, assign(problem)).cycles == 64
