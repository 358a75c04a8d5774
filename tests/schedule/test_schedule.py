"""What a schedule adds up to, by hand: bandwidth, latency, energy, memory."""

import pytest

from stream_mla.hardware.interconnect import OFF_CHIP
from stream_mla.schedule.checker import violations
from stream_mla.schedule.schedule import Schedule, TileRun, Transfer, energy_parts_pj, peak_sram_bits
from stream_mla.solvers.list_scheduling.greedy import greedy
from tests.helpers import Step, block, bus, core_type, hand_problem, held, machine, transfer

CORE = core_type(sram_bits=1000)


def test_units_of_one_core_run_side_by_side() -> None:
    """tail, on core0's vector unit, may run while core0's array does something else."""
    problem = hand_problem(
        machine(CORE, bandwidth=16),
        [block("y", 16, stored=True), block("o", 16, stored=True)],
        [Step(name="product", writes="y", cycles=2), Step(name="norm", writes="o", cycles=2, vector=True)],
    )
    together = greedy(problem)

    assert [(run.start, run.end) for run in together.runs] == [(0, 2), (0, 2)]
    assert violations(problem, together) == []


def _loads(*loads: tuple[int, int]) -> Schedule:
    """Loads of block 0, 16 bit each, at 8 bit per cycle: (core, start) of each."""
    return Schedule(
        runs=(),
        transfers=tuple(transfer(0, OFF_CHIP, number, start, start + 2) for number, (_, start) in enumerate(loads)),
        residencies=tuple(held(0, core, 16, start, start + 2) for core, start in loads),
    )


@pytest.mark.parametrize(
    ("loads", "sentences"),
    [
        ([(0, 0), (1, 0)], []),  # two ports of 8 fill the bus of 16
        ([(0, 0), (1, 1), (2, 2)], []),  # the first ends as the third starts
        (
            [(0, 0), (1, 1), (2, 1)],
            [
                "dram carries 24 bit per cycle at 1, it can carry 16",
                "bus carries 24 bit per cycle at 1, it can carry 16",
            ],
        ),
        ([(0, 0), (0, 1)], ["bus:core0:in carries 16 bit per cycle at 1, it can carry 8"]),
    ],
)
def test_bandwidth_is_shared_up_to_its_capacity(loads: list[tuple[int, int]], sentences: list[str]) -> None:
    links = [bus("dram", "core0", "core1", "core2", bandwidth=16, port=8)]
    problem = hand_problem(machine(CORE, CORE, CORE, links=links), [block("w", 16, weight=True)], [])

    assert violations(problem, _loads(*loads)) == sentences


def test_what_a_move_brings_is_there_after_the_latency() -> None:
    """16 bit at 16 per cycle, and 3 cycles of latency: loaded at 0 it is there at 4; the result is in DRAM at 10."""
    problem = hand_problem(
        machine(CORE, bandwidth=16, latency=3),
        [block("w", 16, weight=True), block("y", 16, stored=True)],
        [Step(name="t", reads=("w",), writes="y", cycles=2)],
    )

    def schedule(start: int) -> Schedule:
        return Schedule(
            runs=(TileRun(tile=0, core=0, start=start, end=start + 2, reads=(0,), writes=(1,)),),
            transfers=(
                Transfer(block=0, source=OFF_CHIP, target=0, start=0, end=1, arrival=4),
                Transfer(block=1, source=1, target=OFF_CHIP, start=start + 2, end=start + 3, arrival=start + 6),
            ),
            residencies=(held(0, 0, 16, 0, start + 2), held(1, 0, 16, start, start + 3)),
        )

    assert violations(problem, schedule(4)) == []
    assert schedule(4).latency_cycles == 10
    assert violations(problem, schedule(3)) == ["t starts at 3, w is there at 4"]


def test_memory_is_taken_until_what_is_brought_has_arrived() -> None:
    problem = hand_problem(machine(CORE, latency=3), [block("w", 16, weight=True)], [])
    schedule = Schedule(
        runs=(),
        transfers=(Transfer(block=0, source=OFF_CHIP, target=0, start=0, end=1, arrival=4),),
        residencies=(held(0, 0, 16, 0, 1),),
    )

    assert violations(problem, schedule) == ["w on core0 is held from 0 to 1 but used from 0 to 4"]


def test_energy_of_two_tiles_by_hand() -> None:
    """first on core0 sends to second on core1 over the bus; everything else is DRAM."""
    problem = hand_problem(
        machine(CORE, CORE, bandwidth=16),
        [block("x", 40, weight=True), block("z", 24), block("y", 10, stored=True)],
        [
            Step(name="first", reads=("x",), writes="z", cycles=3),
            Step(name="second", reads=("z",), writes="y", cycles=5, vector=True),
        ],
    )
    schedule = Schedule(
        runs=(
            TileRun(tile=0, core=0, start=3, end=6, reads=(0,), writes=(1,)),
            TileRun(tile=1, core=1, start=8, end=13, reads=(2,), writes=(3,)),
        ),
        transfers=(transfer(0, OFF_CHIP, 0, 0, 3), transfer(1, 1, 2, 6, 8), transfer(2, 3, OFF_CHIP, 13, 14)),
        residencies=(held(0, 0, 40, 0, 6), held(1, 0, 24, 3, 8), held(1, 1, 24, 6, 13), held(2, 1, 10, 8, 14)),
    )

    assert violations(problem, schedule) == []
    assert energy_parts_pj(problem, schedule) == {
        "mac": 3.0,  # 1 pJ per cycle of first
        "registers": 0.0,
        "vector": 5.0,  # 1 pJ per cycle of second
        # written at 2 pJ/bit: x 40, z 24 on core1; read at 1 pJ/bit: z 24 on core0, y 10
        "sram": 40 * 2 + 24 * 2 + 24 * 1 + 10 * 1,
        "links": (40 + 24 + 10) * 0.125,
        "dram": 40 * 8 + 10 * 4,  # read 8, written 4 pJ/bit
    }


def test_what_ends_frees_its_place_for_what_starts_at_that_instant() -> None:
    problem = hand_problem(machine(CORE), [block("a", 32, weight=True)], [])
    schedule = Schedule(runs=(), transfers=(), residencies=(held(0, 0, 32, 0, 5), held(0, 0, 32, 5, 9)))

    assert peak_sram_bits(problem, schedule) == {"core0": 32}
