"""The checker: a valid schedule is accepted, and each way of breaking it is named in one sentence.

The schedule, by hand. Two cores on a bus of 16 bit per cycle (as the DRAM), 1000 bit of SRAM each. `first` and
`second` are a chain on core0 that makes `z`; `use` on core1 reads it, `tail` on core0's vector unit makes `s`,
which goes through DRAM to `end`.

    load a   core0   0..2    32 bit          first  core0 array    2..5   a, makes z (16 bit, 64 while unfinished)
    load b   core0   2..4    32 bit          second core0 array    5..9   b, z is complete
    send z   core1   9..10   16 bit          use    core1 array   10..12  z, makes y
    store y  core1  12..13   16 bit          tail   core0 vector   9..11  z, makes s
    store s  core0  11..12   16 bit          end    core1 vector  14..15  s, makes o
    load s   core1  13..14   16 bit          store o core1        15..16  16 bit
"""

from dataclasses import replace

import pytest

from stream_mla.hardware.interconnect import OFF_CHIP
from stream_mla.schedule.checker import violations
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.schedule import Schedule, TileRun, peak_sram_bits, route_of
from tests.helpers import Step, block, core_type, forward, hand_problem, held, machine, transfer

CORE = core_type(sram_bits=1000)
A, B, Z, Y, S, LAST = range(6)
BLOCKS = [
    block("a", 32, weight=True),
    block("b", 32, weight=True),
    block("z", 16, held_bits=64),
    block("y", 16, stored=True),
    block("s", 16, spilled=True),
    block("o", 16, stored=True),
]
STEPS = [
    Step(name="first", reads=("a",), writes="z", cycles=3),
    Step(name="second", reads=("b",), writes="z", cycles=4),
    Step(name="use", reads=("z",), writes="y", cycles=2),
    Step(name="tail", reads=("z",), writes="s", cycles=2, vector=True, group=0),
    Step(name="end", reads=("s",), writes="o", cycles=1, vector=True, group=1),
]
FIRST, SECOND, USE, TAIL, END = range(5)
LOAD_A, LOAD_B, SEND_Z, STORE_Y, STORE_S, LOAD_S, STORE_O = range(7)
HELD_A, HELD_B, HELD_Z, SENT_Z, HELD_Y, HELD_S, LOADED_S, HELD_O = range(8)


def _problem() -> Problem:
    return hand_problem(machine(CORE, CORE, bandwidth=16), BLOCKS, STEPS)


def _run(tile: int, core: int, start: int, end: int, read: int, write: int) -> TileRun:
    return TileRun(tile=tile, core=core, start=start, end=end, reads=(read,), writes=(write,))


VALID = Schedule(
    runs=(
        _run(FIRST, 0, 2, 5, HELD_A, HELD_Z),
        _run(SECOND, 0, 5, 9, HELD_B, HELD_Z),
        _run(USE, 1, 10, 12, SENT_Z, HELD_Y),
        _run(TAIL, 0, 9, 11, HELD_Z, HELD_S),
        _run(END, 1, 14, 15, LOADED_S, HELD_O),
    ),
    transfers=(
        transfer(A, OFF_CHIP, HELD_A, 0, 2),
        transfer(B, OFF_CHIP, HELD_B, 2, 4),
        transfer(Z, HELD_Z, SENT_Z, 9, 10),
        transfer(Y, HELD_Y, OFF_CHIP, 12, 13),
        transfer(S, HELD_S, OFF_CHIP, 11, 12),
        transfer(S, OFF_CHIP, LOADED_S, 13, 14),
        transfer(LAST, HELD_O, OFF_CHIP, 15, 16),
    ),
    residencies=(
        held(A, 0, 32, 0, 5),
        held(B, 0, 32, 2, 9),
        held(Z, 0, 64, 2, 11),
        held(Z, 1, 16, 9, 12),
        held(Y, 1, 16, 10, 13),
        held(S, 0, 16, 9, 12),
        held(S, 1, 16, 13, 15),
        held(LAST, 1, 16, 14, 16),
    ),
)


def _change_run(number: int, **changes: object) -> Schedule:
    runs = list(VALID.runs)
    runs[number] = replace(runs[number], **changes)  # pyright: ignore[reportArgumentType]
    return replace(VALID, runs=tuple(runs))


def _change_move(number: int, **changes: int) -> Schedule:
    transfers = list(VALID.transfers)
    transfers[number] = replace(transfers[number], **changes)
    return replace(VALID, transfers=tuple(transfers))


def _change_held(number: int, **changes: int) -> Schedule:
    held = list(VALID.residencies)
    held[number] = replace(held[number], **changes)
    return replace(VALID, residencies=tuple(held))


def test_the_schedule_by_hand_is_valid_and_is_what_running_forward_finds() -> None:
    assert violations(_problem(), VALID) == []
    assert VALID.latency_cycles == 16
    found = forward(_problem(), 0, 1)
    assert [(r.tile, r.core, r.start, r.end) for r in found.runs] == [
        (r.tile, r.core, r.start, r.end) for r in VALID.runs
    ]
    assert sorted((m.block, m.start, m.end) for m in found.transfers) == sorted(
        (m.block, m.start, m.end) for m in VALID.transfers
    )


BROKEN: dict[str, tuple[Schedule, list[str]]] = {
    "a tile runs twice": (
        replace(VALID, runs=(*VALID.runs, VALID.runs[END])),
        ["end runs 2 times, not once"],
    ),
    "a tile never runs": (
        replace(VALID, runs=VALID.runs[:-1]),
        ["end runs 0 times, not once"],
    ),
    "a run is longer than it costs": (
        _change_run(USE, end=13),
        ["use takes 3 cycles on core1, it costs 2"],
    ),
    "a run starts before the beginning": (
        _change_run(FIRST, start=-1, end=2),
        ["first starts at -1, before the beginning"],
    ),
    "a cluster is spread over cores": (
        _change_run(TAIL, core=1),
        ["tail runs on core1, its cluster on core0"],
    ),
    "a copy is smaller than its block": (
        _change_held(HELD_A, bits=31),
        ["a on core0 holds 31 bit, it has 32"],
    ),
    "a copy that is sent holds the width of unfinished sums": (
        _change_held(SENT_Z, bits=64),
        ["z on core1 holds 64 bit, it has 16"],
    ),
    "two tiles share an array": (
        # second starts while first runs; its chain is broken too
        _change_run(SECOND, start=4, end=8),
        ["first and second run at once on the array of core0", "second starts at 4, before first ends at 5"],
    ),
    "steps add to different copies": (
        replace(
            VALID,
            runs=(_run(FIRST, 0, 2, 5, HELD_A, 8), *VALID.runs[1:]),
            residencies=(*VALID.residencies, held(Z, 0, 64, 2, 5)),
        ),
        ["second adds to another copy than the step before it"],
    ),
    "a tile reads another block": (
        _change_run(FIRST, reads=(HELD_B,), start=4, end=7),
        [
            "first and second run at once on the array of core0",
            "second starts at 5, before first ends at 7",
            "first reads other blocks than it must",
        ],
    ),
    "a tile reads nothing": (
        _change_run(FIRST, reads=()),
        ["first reads other blocks than it must"],
    ),
    "a tile writes another block": (
        _change_run(END, writes=(HELD_Y,)),
        [
            "end writes other blocks than it must",
            "y moves at 12, its source is complete at 15",
            "o moves at 15, its source is complete at None",
            "y on core1 is held from 10 to 13 but used from 10 to 15",
        ],
    ),
    "a tile reads in another core's memory": (
        _change_run(USE, reads=(HELD_Z,)),
        [
            "use on core1 reads z in another core's memory",
            "z on core0 is held from 2 to 11 but used from 2 to 12",
        ],
    ),
    "a tile writes in another core's memory": (
        _change_held(HELD_Y, core=0),
        ["use on core1 writes y in another core's memory"],
    ),
    "a tile starts before its data": (
        _change_run(USE, start=9, end=11),
        [
            "use starts at 9, z is there at 10",
            "y on core1 is held from 10 to 13 but used from 9 to 13",
        ],
    ),
    "nothing brings what a tile reads": (
        replace(VALID, transfers=VALID.transfers[1:]),
        ["first reads a on core0, which nothing brings there"],
    ),
    "a move between places that no link joins": (
        _change_move(SEND_Z, target=HELD_Z),
        [
            "use reads z on core1, which nothing brings there",
            "z moves between places that no link joins",
        ],
    ),
    "a move is shorter than its route": (
        _change_move(LOAD_A, end=1, arrival=1),
        ["a moves in 1 + 0 cycles, its route takes 2 + 0"],
    ),
    "a move is longer than its route": (
        _change_move(STORE_O, end=17, arrival=17),
        [
            "o moves in 2 + 0 cycles, its route takes 1 + 0",
            "o on core1 is held from 14 to 16 but used from 14 to 17",
        ],
    ),
    "a move arrives later than its route": (
        _change_move(LOAD_B, arrival=5),
        ["b moves in 2 + 1 cycles, its route takes 2 + 0"],
    ),
    "a move starts before the beginning": (
        _change_move(LOAD_A, start=-1, end=1, arrival=1),
        [
            "a moves at -1, before the beginning",
            "a on core0 is held from 0 to 5 but used from -1 to 5",
        ],
    ),
    "a move fills a copy of another block": (
        _change_move(LOAD_A, block=B),
        ["b is moved from or to a copy of a"],
    ),
    "a move drains a copy of another block": (
        _change_move(STORE_Y, block=LAST),
        [
            "o is moved from or to a copy of y",
            "o is written to DRAM twice",
            "y never reaches DRAM",
        ],
    ),
    "a move starts before its source is complete": (
        _change_move(SEND_Z, start=8, end=9, arrival=9),
        [
            "z moves at 8, its source is complete at 9",
            "z on core1 is held from 9 to 12 but used from 8 to 12",
        ],
    ),
    "a result never reaches DRAM": (
        replace(VALID, transfers=VALID.transfers[:-1]),
        ["o never reaches DRAM"],
    ),
    "a result is written twice": (
        replace(VALID, transfers=(*VALID.transfers, transfer(LAST, HELD_O, OFF_CHIP, 16, 17))),
        [
            "o is written to DRAM twice",
            "o on core1 is held from 14 to 16 but used from 14 to 17",
        ],
    ),
    "a spilled block is read before it is written": (
        _change_move(LOAD_S, start=11, end=12, arrival=12),
        [
            "s is read from DRAM at 11, before it was written there",
            "dram carries 32 bit per cycle at 11, it can carry 16",
            "bus carries 32 bit per cycle at 11, it can carry 16",
            "s on core1 is held from 13 to 15 but used from 11 to 15",
        ],
    ),
    "a block that stays on chip is read from DRAM": (
        _change_move(SEND_Z, source=OFF_CHIP),
        ["z is read from DRAM at 9, before it was written there"],
    ),
    "two moves share a bandwidth": (
        _change_move(LOAD_B, start=1, end=3, arrival=3),
        [
            "dram carries 32 bit per cycle at 1, it can carry 16",
            "bus carries 32 bit per cycle at 1, it can carry 16",
            "b on core0 is held from 2 to 9 but used from 1 to 9",
        ],
    ),
    "a copy is held too late": (
        _change_held(HELD_Z, start=3),
        ["z on core0 is held from 3 to 11 but used from 2 to 11"],
    ),
    "a copy is given up too early": (
        _change_held(HELD_S, end=11),
        ["s on core0 is held from 9 to 11 but used from 9 to 12"],
    ),
    "a copy ends before it starts": (
        replace(VALID, residencies=(*VALID.residencies, held(A, 0, 32, 5, 3))),
        ["a on core0 is held from 5 to 3 but used from 3 to 5"],
    ),
}
"""What is wrong -> (schedule, every sentence it earns)."""


@pytest.mark.parametrize("what", BROKEN)
def test_each_broken_rule_is_named(what: str) -> None:
    schedule, sentences = BROKEN[what]

    assert violations(_problem(), schedule) == sentences


def test_a_core_that_lacks_the_unit() -> None:
    problem = hand_problem(
        machine(core_type("vector", array=False), core_type(), bandwidth=16),
        [block("y", 16, stored=True)],
        [Step(name="t", writes="y", cycles=2)],
    )
    schedule = Schedule(
        runs=(TileRun(tile=0, core=0, start=0, end=2, reads=(), writes=(0,)),),
        transfers=(transfer(0, 0, OFF_CHIP, 2, 3),),
        residencies=(held(0, 0, 16, 0, 3),),
    )

    assert violations(problem, schedule) == ["t runs on core0, which lacks the unit for it"]


@pytest.mark.parametrize(
    ("bits", "sentences"),
    [
        # from 2 to 5 core0 holds a (32), b (32) and z (64 while unfinished); from 9 to 11 z and s
        (128, []),
        (127, ["core0 holds 128 bit at 2, its SRAM has 127"]),
        # core1: from 10 to 12 z (16) and y (16); all of it is below
        (31, ["core0 holds 32 bit at 0, its SRAM has 31", "core1 holds 32 bit at 10, its SRAM has 31"]),
    ],
)
def test_memory_holds_no_more_than_its_capacity(bits: int, sentences: list[str]) -> None:
    small = core_type(sram_bits=bits)

    assert violations(hand_problem(machine(small, small, bandwidth=16), BLOCKS, STEPS), VALID) == sentences


def test_the_maker_of_unfinished_sums_holds_them_wide() -> None:
    """z is 16 bit, but 64 bit while `first` and `second` add to it: a copy of 16 bit hides 48 bit of SRAM."""
    assert violations(_problem(), _change_held(HELD_Z, bits=16)) == ["z on core0 holds 16 bit, it has 64"]


def test_peak_is_the_most_at_any_instant() -> None:
    # core0: at 2 a 32, b 32, z 64; core1: from 10 to 12 z 16 and y 16
    assert peak_sram_bits(_problem(), VALID) == {"core0": 128, "core1": 32}


def test_the_route_of_a_move_follows_the_places_of_its_copies() -> None:
    problem = _problem()

    assert route_of(problem, VALID, VALID.transfers[SEND_Z]) is problem.routes[0, 1]
    assert route_of(problem, VALID, VALID.transfers[LOAD_S]) is problem.routes[OFF_CHIP, 1]
    assert route_of(problem, VALID, VALID.transfers[STORE_S]) is problem.routes[0, OFF_CHIP]
