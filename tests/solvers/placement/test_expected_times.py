"""Cores and orders from expected times, by hand: blocks without a flag cost nothing, others 1/16 cycle per bit."""

from dataclasses import replace

import pytest

from stream_mla.hardware.accelerator import CoreType
from stream_mla.schedule.problem import Problem
from stream_mla.solvers.placement.earliest_finish import assign
from stream_mla.solvers.placement.expected_times import Turns, expected
from tests.helpers import LARGE, Step, block, core_type, hand_problem, machine, wire, with_last


def test_a_cluster_goes_where_it_would_be_done_first() -> None:
    """`use` stays with z, 50 cycles of sending (800 bit at 16) away from the idle core, until it would wait longer."""

    def core_of_use(busy: int, make: int = 1) -> int:
        problem = hand_problem(
            machine(core_type(), core_type()),
            [block("z", 800), block("y", 16, stored=True), block("o", 16, stored=True)],
            [
                Step(name="make", writes="z", cycles=make),
                Step(name="busy", reads=("z",), writes="y", cycles=busy),
                Step(name="use", reads=("z",), writes="o", cycles=10),
            ],
        )
        return assign(problem)[2]

    # home is free at 1 + busy, z is on core1 at 1 + 50; where both are alike, core1 has less work
    assert [core_of_use(busy) for busy in (1, 49, 50, 51, 100)] == [0, 0, 1, 1, 1]
    # what takes z long to make delays the idle core as well
    assert [core_of_use(busy, make=1000) for busy in (49, 51)] == [0, 1]


def test_what_was_sent_to_a_core_need_not_be_sent_again() -> None:
    """Three readers of z, which core0 has at 60 and core1 50 cycles later."""

    def cores(first: int) -> list[int]:
        problem = hand_problem(
            machine(core_type(), core_type()),
            [block("z", 800), *(block(f"y{n}", 16, stored=True) for n in range(3))],
            [
                Step(name="make", writes="z", cycles=60),
                *(Step(name=f"t{n}", reads=("z",), writes=f"y{n}", cycles=(first, 10, 10)[n]) for n in range(3)),
            ],
        )
        return assign(problem)[1:]

    # t0 at home until 115, t1 on core1; sent again, z would be there for t2 at 70 + 50, after the 115 of core0
    assert cores(55) == [0, 1, 1]
    # home is free at 105, before 60 + 50, then at 115
    assert cores(45) == [0, 0, 1]


def _tiles(*steps: tuple[str, int], loads: dict[str, int] | None = None, kinds: tuple[CoreType, ...] = ()) -> Problem:
    """Steps on two cores: a chain for each letter, of these cycles; `loads` gives weights of each, in bit."""
    loads = loads or {}
    names = list(dict.fromkeys(name[0] for name, _ in steps))
    blocks = [block(name, 16, stored=True) for name in names]
    blocks += [block(f"w{name}", bits, weight=True) for name, bits in loads.items()]
    return hand_problem(
        machine(*(kinds or (core_type(), core_type()))),
        blocks,
        [
            Step(name=name, reads=(f"w{name[0]}",) if name[0] in loads else (), writes=name[0], cycles=cycles)
            for name, cycles in steps
        ],
    )


def _eager(problem: Problem, *operators: str) -> Problem:
    tiling = replace(problem.tile_graph.tiling, eager=frozenset(operators))
    return replace(problem, tile_graph=replace(problem.tile_graph, tiling=tiling))


CHAINS = ("a0", 1), ("f0", 2), ("b0", 1), ("a1", 50), ("b1", 50)
"""When b begins, core0 is free at 1 and core1, which has f, at 2; core0 still has 50 cycles of a before it."""


def test_early_chains_lie_on_different_cores() -> None:
    assert assign(_tiles(*CHAINS)) == [0, 1, 0]
    assert assign(_eager(_tiles(*CHAINS), "b0")) == [0, 1, 1]
    # only what adds up waits for promises: not a single tile, and not what comes before it
    assert assign(_eager(_tiles(*CHAINS), "a0", "f0")) == [0, 1, 0]
    assert assign(_eager(_tiles(*CHAINS[:4]), "b0")) == [0, 1, 0]


def test_promises_are_kept_one_tile_after_the_other() -> None:
    """Once a1 has begun, it counts as time until the core is free and no more as a promise: 51 + 0, not 51 + 50."""
    # b begins after a1: core0 is free at 51, core1, with f, at 60: b0 and a2 (10, promised) make it 61
    steps = ("a0", 1), ("f0", 60), ("a1", 50), ("b0", 1), ("a2", 10), ("b1", 50)
    assert assign(_eager(_tiles(*steps), "b0")) == [0, 1, 1]
    steps = (*steps[:4], ("a2", 8), ("b1", 50))
    assert assign(_eager(_tiles(*steps), "b0")) == [0, 1, 0]


def test_where_even_all_clusters_count_promises() -> None:
    assert assign(_tiles(*CHAINS), even=True) == [0, 1, 1]
    assert assign(_tiles(*CHAINS[:4]), even=True) == [0, 1, 1]


def test_what_can_wait_leaves_its_core_to_others_until_it_starts() -> None:
    problem = hand_problem(
        machine(*[core_type()] * 3),
        [block("z", 16), *(block(name, 16, stored=True) for name in "bhog")],
        [
            Step(name="make", writes="z", cycles=100),
            Step(name="busy", reads=("z",), writes="b", cycles=50),
            Step(name="half", writes="h", cycles=50),
            Step(name="out", reads=("z",), writes="o", cycles=5),
            Step(name="go", writes="g", cycles=1),
        ],
    )
    # make and busy: core0 until 150; half: core1 until 50; out: z is on core2, which has done nothing, at 101. go could
    # be there after 105, or, if out lets it go first, after 5; or on core1 after 50
    assert assign(problem) == [0, 0, 1, 2, 1]
    assert assign(with_last(problem, "out")) == [0, 0, 1, 2, 2]


@pytest.mark.parametrize(("bits", "cycles", "core"), [(96, 5, 0), (104, 5, 1), (96, 12, 0), (96, 13, 1)])
def test_a_tile_lasts_as_long_as_its_loads(bits: int, cycles: int, core: int) -> None:
    """Each of the two arrays has 8 of the DRAM's 16: 96 bit take 12 cycles, 104 bit 13."""
    # c goes to core0 unless a lasts longer than b's 12 cycles; where both are alike core0 comes first
    assert assign(_tiles(("a0", cycles), ("b0", 12), ("c0", 1), loads={"a": bits})) == [0, 1, core]


def test_a_cluster_loads_a_block_once() -> None:
    # a0 loads 96 bit, 12 cycles, a1 has it then: 13 in all, as long as b
    assert assign(_tiles(("a0", 1), ("a1", 1), ("b0", 13), ("c0", 1), loads={"a": 96})) == [0, 1, 0]
    assert assign(_tiles(("a0", 1), ("a1", 2), ("b0", 13), ("c0", 1), loads={"a": 96})) == [0, 1, 1]


def test_the_faster_core_is_worth_waiting_for() -> None:
    kinds = core_type("slow"), core_type("fast")
    problem = _tiles(("a0", 10), ("b0", 10), ("c0", 10), kinds=kinds)
    costs = tuple({**entry, "fast": replace(entry["fast"], cycles=4)} for entry in problem.costs)

    # done at 10 or 4; 10 or 4 + 4; 10 or 8 + 4
    assert assign(replace(problem, costs=costs)) == [1, 1, 0]


def test_vector_cores_take_turns() -> None:
    kinds = core_type("array", vector=False), core_type("vector", array=False), core_type("vector", array=False)
    problem = hand_problem(
        machine(*kinds),
        [block(f"y{n}", 16, stored=True) for n in range(4)],
        [Step(name=f"v{n}", writes=f"y{n}", cycles=cycles, vector=True) for n, cycles in enumerate((9, 4, 4, 4))],
    )
    # given 9 and 0, then 9 and 4, 9 and 8
    assert assign(problem) == [1, 2, 2, 2]


def test_a_vector_core_that_serves_arrays_makes_none_wait_for_another() -> None:
    array, vector = core_type("array", vector=False), core_type("vector", array=False)
    problem = hand_problem(
        machine(array, array, vector),
        [block(name, 16) for name in "xaszu"],
        [
            Step(name="x0", writes="x", cycles=50),
            Step(name="a0", writes="a", cycles=1),
            Step(name="long", writes="s", cycles=100, vector=True),
            Step(name="short", writes="z", cycles=1, vector=True),
            Step(name="use", reads=("z",), writes="u", cycles=1),
            Step(name="a1", writes="a", cycles=500),
        ],
    )
    # z is made at 1, not after `long`: core1 is free at 1, core0 at 50; at 101 both were, and core0 has less to do
    assert assign(problem) == [0, 1, 2, 2, 1]


def _names(problem: Problem, *cores: int) -> list[str]:
    """Expected order of the tiles, with the clusters on these cores."""
    return [problem.tile_graph.tiles[tile].name for tile in expected(problem, cores).order]


def test_a_vector_core_serves_arrays_in_turn() -> None:
    """Two arrays make two products each, of 10 cycles; each is followed by 3 cycles on the only vector unit."""
    steps: list[Step] = []
    for array in "pq":
        for n in range(2):
            steps.append(Step(name=f"{array}{n}", writes=f"z{array}{n}", cycles=10))
            steps.append(
                Step(name=f"{array}{n}'", reads=(f"z{array}{n}",), writes=f"{array}{n}", cycles=3, vector=True)
            )
    problem = hand_problem(
        machine(*[core_type("array", vector=False)] * 2, core_type("vector", array=False)),
        [block(name, 16) for step in steps for name in [step.writes]],
        steps,
    )
    # p0 and q0 0..10, p1 and q1 10..20, each sent in 1; p0' 11..14, q0' 14..17, p1' 21..24, q1' 24..27
    assert _names(problem, 0, 2, 0, 2, 1, 2, 1, 2) == ["p0", "q0", "p1", "q1", "p0'", "q0'", "p1'", "q1'"]


def test_what_an_array_sends_arrives_piece_by_piece() -> None:
    """p and then r make 80 bit each, that go to the vector core one after the other, 5 cycles each at 16; q makes c."""

    def names(bits: int) -> list[str]:
        problem = hand_problem(
            machine(*[core_type("array", vector=False)] * 2, core_type("vector", array=False)),
            [block("a", 80), block("b", 80), block("c", bits), *(block(f"{name}'", 16) for name in "abc")],
            [
                Step(name="p", writes="a", cycles=10),
                Step(name="q", writes="c", cycles=10),
                Step(name="r", writes="b", cycles=1),
                *(Step(name=f"{name}'", reads=(name,), writes=f"{name}'", cycles=1, vector=True) for name in "abc"),
            ],
        )
        return _names(problem, 0, 1, 0, 2, 2, 2)

    # a is there at 15, b, made at 11, at 20; c at 10 + 6, or 10 + 11
    assert names(96) == ["p", "q", "r", "a'", "c'", "b'"]
    assert names(176) == ["p", "q", "r", "a'", "b'", "c'"]


def test_a_vector_unit_beside_an_array_works_in_tile_order() -> None:
    steps = [
        Step(name="product", writes="z", cycles=10),
        Step(name="waits", reads=("z",), writes="y", cycles=3, vector=True),
        Step(name="ready", writes="o", cycles=3, vector=True),
    ]
    blocks = [block(name, 16) for name in "zyo"]
    assert _names(hand_problem(machine(core_type()), blocks, steps), 0, 0, 0) == ["product", "waits", "ready"]
    apart = machine(core_type("array", vector=False), core_type("vector", array=False))
    assert _names(hand_problem(apart, blocks, steps), 0, 1, 1) == ["product", "ready", "waits"]


def _streams(*, last: bool) -> Problem:
    """Three tiles that load 160 bit each, 10 cycles at 16, and take 12; two of 20 cycles that load nothing."""
    names = [f"{kind}{n}" for kind, count in (("out", 3), ("c", 2)) for n in range(count)]
    weights = [block(f"w{n}", 160, weight=True) for n in range(3)]
    problem = hand_problem(
        machine(core_type()),
        [*weights, *(block(f"of {name}", 16) for name in names)],
        [
            Step(
                name=name,
                reads=(f"w{name[-1]}",) if name.startswith("out") else (),
                writes=f"of {name}",
                cycles=12 if name.startswith("out") else 20,
            )
            for name in names
        ],
    )
    return with_last(problem, "out0", "out1", "out2") if last else problem


def test_the_last_operator_streams_behind_compute() -> None:
    # at 0 nothing is loaded: c0 0..20; then w0 is there, w1 when out0 is done at 32, w2 at 44
    assert _names(_streams(last=True), *[0] * 5) == ["c0", "out0", "out1", "out2", "c1"]
    assert _names(_streams(last=False), *[0] * 5) == ["out0", "out1", "out2", "c0", "c1"]


@pytest.mark.parametrize(
    ("norm", "names"), [(5, ["norm", "d0", "c", "d1", "out"]), (30, ["norm", "d0", "out", "d1", "c"])]
)
def test_the_last_operator_leaves_an_idle_array_to_what_comes_first(norm: int, names: list[str]) -> None:
    """`c` waits for `norm` on the other core; `out`, for 160 bit at half of the DRAM's 16: 20 cycles."""
    problem = hand_problem(
        machine(core_type(), core_type()),
        [block("w", 160, weight=True), *(block(name, 16) for name in "zdeco")],
        [
            Step(name="norm", writes="z", cycles=norm, vector=True),
            Step(name="d0", writes="d", cycles=25),
            Step(name="d1", writes="e", cycles=1),
            Step(name="c", reads=("z",), writes="c", cycles=25),
            Step(name="out", reads=("w",), writes="o", cycles=1),
        ],
    )
    # c 5..30, then out; or out 20..21, while nothing else can start, and c 30; meanwhile d1 at 25
    assert _names(with_last(problem, "out"), 1, 1, 1, 0, 0) == names


def test_only_the_last_operator_waits_and_only_if_its_sums_are_small() -> None:
    problem = _streams(last=True)
    large = replace(
        problem,
        tile_graph=replace(problem.tile_graph, tiling=replace(problem.tile_graph.tiling, eager=frozenset({"mid"}))),
    )
    assert _names(large, *[0] * 5) == ["out0", "out1", "out2", "c0", "c1"]
    steps = [Step(name="mid", reads=("w",), writes="y", cycles=12), Step(name="c", writes="z", cycles=20)]
    blocks = [block("w", 160, weight=True), block("y", 16), block("z", 16)]
    assert _names(with_last(hand_problem(machine(core_type()), blocks, steps), "out"), 0, 0) == ["mid", "c"]


def test_phases_come_first() -> None:
    def names(phase: int) -> list[str]:
        problem = hand_problem(
            machine(core_type(), core_type()),
            [block(name, 16) for name in "bda"],
            [
                Step(name="b", writes="b", cycles=20),
                Step(name="d", writes="d", cycles=20),
                Step(name="a", writes="a", cycles=1, phase=phase),
            ],
        )
        return _names(problem, 0, 0, 1)

    # b 0..20, d 20..40, and on the other core a 0..1
    assert names(0) == ["b", "a", "d"]
    assert names(1) == ["b", "d", "a"]


@pytest.mark.parametrize(("bandwidth", "names"), [(16, ["a0", "b0", "a1", "b1"]), (4, ["a0", "a1", "b0", "b1"])])
def test_cores_that_stream_side_by_side_share_the_dram(bandwidth: float, names: list[str]) -> None:
    """160 bit per tile: at half of the DRAM's 16, 20 cycles each; at a wire of 4, 40."""
    problem = hand_problem(
        machine(
            core_type(),
            core_type(),
            links=[wire("dram", f"core{n}", name=f"wire{n}", bandwidth=(16, bandwidth)[n]) for n in range(2)],
        ),
        [*(block(f"w{n}", 160, weight=True) for n in range(4)), block("a", 16), block("b", 16)],
        [Step(name=f"{'ab'[n // 2]}{n % 2}", reads=(f"w{n}",), writes="ab"[n // 2], cycles=1) for n in range(4)],
    )
    # a0 20, a1 40 either way; b0 20 and b1 40, or 40 and 80
    assert _names(problem, 0, 1) == names


@pytest.mark.parametrize(("shared", "names"), [(True, ["b", "a", "d", "c"]), (False, ["b", "a", "c", "d"])])
def test_a_shared_block_is_loaded_once_per_core(shared: bool, names: list[str]) -> None:
    problem = hand_problem(
        machine(core_type(), core_type()),
        [block("w", 160, weight=True, shared=shared), *(block(name, 16) for name in "abcd")],
        [
            Step(name="a", reads=("w",), writes="a", cycles=1),
            Step(name="b", writes="b", cycles=25),
            Step(name="c", writes="c", cycles=5),
            Step(name="d", reads=("w",), writes="d", cycles=1),
        ],
    )
    # core0: a when w is there, 20..21, d at 21, or at 40 with a load of its own; core1: b 0..25, then c
    assert _names(problem, 0, 1, 1, 0) == names


@pytest.mark.parametrize(("sram_bits", "names"), [(LARGE, ["c", "d", "t", "e"]), (640, ["c", "d", "e", "t"])])
def test_loads_run_ahead_no_further_than_a_quarter_of_the_memory(sram_bits: int, names: list[str]) -> None:
    """t, after 100 cycles of c, loads 800 bit: 100 cycles at half of the DRAM's 16."""
    problem = hand_problem(
        machine(core_type("small", sram_bits=sram_bits), core_type()),
        [block("w", 800, weight=True), *(block(name, 16) for name in "ctde")],
        [
            Step(name="c", writes="c", cycles=100),
            Step(name="t", reads=("w",), writes="t", cycles=1),
            Step(name="d", writes="d", cycles=120),
            Step(name="e", writes="e", cycles=1),
        ],
    )
    # t at 100, before e at 120; or 160 bit, 20 cycles ahead: loaded from 80 to 180
    assert _names(problem, 0, 0, 1, 1) == names


def _ahead(*, made_bits: int = 16) -> Problem:
    """`late` waits for `long` on the other core, `heavy` loads for 20 of its 21 cycles; `light` only computes."""
    return hand_problem(
        machine(core_type(), core_type()),
        [block("w", 160, weight=True), block("v", made_bits), *(block(name, 16) for name in "zyu")],
        [
            Step(name="long", writes="z", cycles=30),
            Step(name="heavy", reads=("w",), writes="u", cycles=1),
            Step(name="late", reads=("z",), writes="y", cycles=4),
            Step(name="light", writes="v", cycles=8),
        ],
    )


def test_an_array_that_would_idle_takes_what_computes_ahead_of_its_turn() -> None:
    # core1: w would be there at 20, so light 0..8, then heavy 20..21, late 30..34
    assert _names(_ahead(), 0, 1, 1, 1) == ["long", "light", "heavy", "late"]


def test_what_is_made_ahead_fills_a_quarter_of_the_sram_at_most() -> None:
    problem = _ahead(made_bits=64)
    assert _names(problem, 0, 1, 1, 1) == ["long", "light", "heavy", "late"]
    kind = core_type()
    cramped = replace(kind, sram=replace(kind.sram, capacity=4 * 63))
    small = replace(problem, accelerator=machine(cramped, cramped))
    # heavy 20..21; late waits, and so does light
    assert _names(small, 0, 1, 1, 1) == ["long", "heavy", "late", "light"]


def test_an_array_whose_next_tile_waits_for_others_takes_any_that_is_ready() -> None:
    def names(*order: str) -> list[str]:
        steps = {
            "long": Step(name="long", writes="z", cycles=30),
            "late": Step(name="late", reads=("z",), writes="y", cycles=4),
            "heavy": Step(name="heavy", reads=("w",), writes="u", cycles=1),
        }
        blocks = [block("w", 160, weight=True), *(block(name, 16) for name in "zyu")]
        problem = hand_problem(machine(core_type(), core_type()), blocks, [steps[name] for name in order])
        return _names(problem, 0, *[1] * (len(order) - 1))

    # heavy loads until 20 and is done before late can start at 30
    assert names("long", "late", "heavy") == ["long", "heavy", "late"]
    assert names("long", "heavy", "late") == ["long", "heavy", "late"]


def test_what_streams_is_taken_while_the_dram_would_idle() -> None:
    """c0 to c2 compute for 10 cycles, s0 and s1 for 1, with loads of 160 bit: 10 cycles."""
    steps = [Step(name=f"c{n}", writes=f"y{n}", cycles=10) for n in range(3)]
    steps += [Step(name=f"s{n}", reads=(f"w{n}",), writes=f"z{n}", cycles=1) for n in range(2)]
    blocks = [block(f"w{n}", 160, weight=True) for n in range(2)] + [block(step.writes, 16) for step in steps]
    problem = hand_problem(machine(core_type()), blocks, steps)

    # w0 could be there at 10, when c0 ends, and w1 at 20, when s0 and c1 have ended (21)
    order = expected(problem, [0] * 5, turns=Turns.FILL).order
    assert [problem.tile_graph.tiles[tile].name for tile in order] == ["c0", "s0", "c1", "s1", "c2"]
    assert _names(problem, *[0] * 5) == ["c0", "c1", "c2", "s0", "s1"]
