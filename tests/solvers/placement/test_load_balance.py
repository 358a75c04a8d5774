"""Evening out what cores have to do, by hand: loads take 1/8 cycle per bit, half of the DRAM's 16 bit per cycle."""

import pytest

from stream_mla.schedule.checker import violations
from stream_mla.schedule.problem import Problem
from stream_mla.solvers.list_scheduling.multi_start import multi_start
from stream_mla.solvers.placement.load_balance import balanced
from tests.helpers import Step, block, core_type, hand_problem, machine


def _apart(*cycles: int, loads: tuple[int, ...] = (), vector: bool = False) -> Problem:
    """A tile of each number of cycles, which loads so many bits, on two cores; nothing joins them."""
    bits = dict(enumerate(loads))
    return hand_problem(
        machine(core_type(), core_type()),
        [
            *(block(f"y{n}", 16, stored=True) for n in range(len(cycles))),
            *(block(f"w{n}", size, weight=True) for n, size in bits.items()),
        ],
        [
            Step(name=f"t{n}", reads=(f"w{n}",) if n in bits else (), writes=f"y{n}", cycles=own, vector=vector)
            for n, own in enumerate(cycles)
        ],
    )


@pytest.mark.parametrize(
    ("cycles", "before", "after"),
    [
        ((4, 4, 4, 4), (0, 0, 0, 0), [0, 0, 1, 1]),
        ((4, 4, 4, 4), (0, 1, 0, 1), [0, 1, 0, 1]),
        ((9, 2, 3), (0, 0, 1), [0, 1, 1]),  # 11 and 3: 9 and 5 is better than 2 and 12
        ((9, 1, 5), (0, 1, 1), [0, 1, 1]),  # 9 and 6 cannot be bettered
    ],
)
def test_the_busiest_array_gives_what_leaves_the_least(
    cycles: tuple[int, ...], before: tuple[int, ...], after: list[int]
) -> None:
    assert balanced(_apart(*cycles), before) == after


def test_loads_count_as_arrays_do() -> None:
    # loads of 10, 10, 2 and 2 cycles beside 1 cycle of work each: 20 and 4, 10 and 14, then 12 and 12
    assert balanced(_apart(1, 1, 1, 1, loads=(80, 80, 16, 16)), (0, 0, 1, 1)) == [0, 1, 1, 0]
    # a core with 15 cycles of work and one with loads of 20: the least that remains is 15
    assert balanced(_apart(15, 1, 1, loads=(0, 80, 80)), (0, 1, 1)) == [0, 1, 0]


def test_vector_work_does_not_count() -> None:
    assert balanced(_apart(4, 4, vector=True), (0, 0)) == [0, 0]


def test_a_block_that_a_core_shares_is_loaded_there_once() -> None:
    def after(shared: bool) -> list[int]:
        problem = hand_problem(
            machine(core_type(), core_type()),
            [block("w", 80, weight=True, shared=shared), *(block(name, 16, stored=True) for name in "abc")],
            [Step(name=name, reads=("w",), writes=name, cycles=1) for name in "abc"],
        )
        return balanced(problem, (0, 0, 0))

    # each loads for 10 cycles: 30 and 0, then 20 and 10; or 10 for all of them, and only 3 cycles of work
    assert [after(shared) for shared in (False, True)] == [[0, 0, 1], [0, 0, 0]]


def test_what_is_joined_on_chip_stays_together() -> None:
    def after(spilled: bool) -> list[int]:
        problem = hand_problem(
            machine(core_type(), core_type()),
            [block("z", 16, spilled=spilled), block("y", 16, stored=True)],
            [Step(name="make", writes="z", cycles=9), Step(name="use", reads=("z",), writes="y", cycles=9)],
        )
        return balanced(problem, (0, 0))

    assert [after(spilled) for spilled in (False, True)] == [[0, 0], [1, 0]]


def test_cores_of_another_kind_are_no_place_to_move_to() -> None:
    problem = hand_problem(
        machine(core_type("fast"), core_type("slow")),
        [block("a", 16, stored=True), block("b", 16, stored=True)],
        [Step(name=name, writes=name, cycles=5) for name in "ab"],
    )
    assert balanced(problem, (0, 0)) == [0, 0]


def test_a_balanced_assignment_is_a_variant() -> None:
    # t0 to core0 until 12, t1 loads 20 for core1, t2 20 for core0 until 32, so t3 and t4, 10 each, to core1: it loads
    # for 40 cycles then, and core0 for 20 beside its work of 13
    problem = _apart(12, 1, 1, 1, 1, loads=(0, 160, 160, 80, 80))

    found = list(multi_start(problem))

    cores = [[run.core for run in schedule.runs] for schedule in found]
    assert cores[0] == [0, 1, 0, 1, 1]  # as assigned, in tile order
    assert [0, 1, 0, 1, 0] in cores
    assert all(violations(problem, schedule) == [] for schedule in found)
