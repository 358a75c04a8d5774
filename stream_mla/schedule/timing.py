"""A schedule as steps with what ties them together: what a search needs that moves a few of them at a time.

Steps are the runs of the schedule, then its moves. What ties them does not change while placements stay: only the times
do, so it is read once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stream_mla.hardware.interconnect import OFF_CHIP
from stream_mla.mapping.tiling.tile_order import successors
from stream_mla.schedule.activities import Activities
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.schedule import Held, Move, Run, Schedule, route_of

Cycles = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Touch:
    """A use of a copy by a step, which holds the copy until it ends, or until what it moves has arrived."""

    copy: int
    arrival: bool
    opens: bool


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What does not change with the times."""

    runs: int
    """Steps from this on are moves."""
    cycles: tuple[int, ...]
    latency: tuple[int, ...]
    """From the end of a move to its arrival."""
    latencies: Cycles
    """The same."""
    before: tuple[tuple[int, ...], ...]
    """Steps that must have arrived before each."""
    after: tuple[tuple[int, ...], ...]
    """Steps that wait for each."""
    units: tuple[int, ...]
    """The unit of each run; -1 for moves."""
    shares: tuple[tuple[tuple[int, int], ...], ...]
    """(resource, demand) of each step."""
    late: tuple[tuple[int, ...], ...]
    """Cores whose arrays each step stops."""
    phase: tuple[int, ...]
    """Of runs and loads, which wait for it; 0 for what does not."""
    touches: tuple[tuple[Touch, ...], ...]
    core: tuple[int, ...]
    """Of each copy."""
    bits: tuple[int, ...]
    """Of each copy."""


@dataclass(frozen=True, kw_only=True)
class Times:
    """When the steps run, and the copies are held."""

    start: Cycles
    done: Cycles
    """Ends of runs, arrivals of moves."""
    held_from: Cycles
    held_to: Cycles


def times(schedule: Schedule) -> Times:
    """Read the times of a schedule."""
    return Times(
        start=np.array([step.start for step in (*schedule.runs, *schedule.moves)], dtype=np.int64),
        done=np.array([*(r.end for r in schedule.runs), *(m.arrival for m in schedule.moves)], dtype=np.int64),
        held_from=np.array([copy.start for copy in schedule.held], dtype=np.int64),
        held_to=np.array([copy.end for copy in schedule.held], dtype=np.int64),
    )


def read_steps(problem: Problem, schedule: Schedule) -> Steps:
    """Read what ties the steps of a valid schedule together."""
    runs, moves, tiles = schedule.runs, schedule.moves, problem.cut.tiles
    routes = [route_of(problem, schedule, move) for move in moves]
    bits = [problem.cut.blocks[move.block].bits for move in moves]
    known = [(route, route.cycles(size)) for route, size in zip(routes, bits, strict=True) if route is not None]
    shares = tuple(tuple((resource, route.demand) for resource in route.resources) for route, _ in known)
    loads = [move.source == OFF_CHIP for move in moves]
    before = _before(problem, schedule)
    latency = (*(0 for _ in runs), *(route.latency_cycles for route, _ in known))
    late = (
        tuple(schedule.held[copy].core for copy in move.filled) if load and problem.cut.blocks[move.block].late else ()
        for move, load in zip(moves, loads, strict=True)
    )
    return Steps(
        runs=len(runs),
        cycles=(*(run.end - run.start for run in runs), *(cycles for _, cycles in known)),
        latency=latency,
        latencies=np.array(latency, dtype=np.int64),
        before=before,
        after=successors(before),
        units=(*(problem.unit(run.tile, run.core) for run in runs), *(-1 for _ in moves)),
        shares=(*(() for _ in runs), *shares),
        late=(*(() for _ in runs), *late),
        phase=(*(tiles[run.tile].phase for run in runs), *_phases_of_moves(problem, schedule)),
        touches=_touches(problem, schedule),
        core=tuple(copy.core for copy in schedule.held),
        bits=tuple(copy.bits for copy in schedule.held),
    )


def _before(problem: Problem, schedule: Schedule) -> tuple[tuple[int, ...], ...]:
    runs, tiles = schedule.runs, problem.cut.tiles
    filled: dict[int, int] = {}
    stored: dict[int, int] = {}
    at_step: dict[tuple[int, int], int] = {}
    for step, run in enumerate(runs):
        tile = tiles[run.tile]
        at_step[tile.chain, tile.step] = step
        filled.update((copy, step) for copy in run.writes if tile.last)
    for step, move in enumerate(schedule.moves, start=len(runs)):
        filled.update((copy, step) for copy in move.filled)
        if move.target == OFF_CHIP:
            stored[move.block] = step
    found: list[tuple[int, ...]] = []
    for run in runs:
        tile = tiles[run.tile]
        chain = (at_step[tile.chain, tile.step - 1],) if tile.step else ()
        found.append((*(filled[copy] for copy in run.reads), *chain))
    for move in schedule.moves:
        if move.source != OFF_CHIP:
            found.append((filled[move.source],))
        else:
            found.append((stored[move.block],) if move.block in stored else ())
    return tuple(found)


def _phases_of_moves(problem: Problem, schedule: Schedule) -> Sequence[int]:
    """Loads wait for the phase of the first tile that needs them; other moves for none."""
    needed: dict[int, int] = {}
    for run in schedule.runs:
        for copy in run.reads:
            phase = problem.cut.tiles[run.tile].phase
            needed[copy] = min(phase, needed.get(copy, phase))
    return [
        min((needed[copy] for copy in move.filled if copy in needed), default=0) if move.source == OFF_CHIP else 0
        for move in schedule.moves
    ]


def _touches(problem: Problem, schedule: Schedule) -> tuple[tuple[Touch, ...], ...]:
    found: list[tuple[Touch, ...]] = []
    for run in schedule.runs:
        first = not problem.cut.tiles[run.tile].step
        reads = (Touch(copy=copy, arrival=False, opens=False) for copy in run.reads)
        found.append((*reads, *(Touch(copy=copy, arrival=False, opens=first) for copy in run.writes)))
    for move in schedule.moves:
        source = () if move.source == OFF_CHIP else (Touch(copy=move.source, arrival=False, opens=False),)
        found.append((*source, *(Touch(copy=copy, arrival=True, opens=True) for copy in move.filled)))
    return tuple(found)


def moved(schedule: Schedule, steps: Steps, start: Cycles) -> Schedule:
    """Return the schedule with other starts, and all that follows from them."""
    starts: list[int] = start.tolist()
    ends = [begin + cycles for begin, cycles in zip(starts, steps.cycles, strict=True)]
    arrivals = [end + latency for end, latency in zip(ends, steps.latency, strict=True)]
    held_from = [max(arrivals)] * len(schedule.held)
    held_to = [0] * len(schedule.held)
    for begin, end, arrival, touches in zip(starts, ends, arrivals, steps.touches, strict=True):
        for touch in touches:
            held_from[touch.copy] = min(held_from[touch.copy], begin)
            held_to[touch.copy] = max(held_to[touch.copy], arrival if touch.arrival else end)
    return Schedule(
        runs=tuple(
            replace(run, start=begin, end=end) for run, begin, end in zip(schedule.runs, starts, ends, strict=False)
        ),
        moves=tuple(
            replace(move, start=starts[step], end=ends[step], arrival=arrivals[step])
            for step, move in enumerate(schedule.moves, start=steps.runs)
        ),
        held=tuple(
            replace(copy, start=begin, end=end)
            for copy, begin, end in zip(schedule.held, held_from, held_to, strict=True)
        ),
    )


def timed(problem: Problem, acts: Activities, run_start: Sequence[int], move_start: Sequence[int]) -> Schedule:
    """Put times on a placement: residencies follow from what fills and uses each copy."""
    runs: list[Run] = []
    first = [1 << 62] * len(acts.copies)
    last = [0] * len(acts.copies)

    def touch(copies: Iterable[int], start: int, end: int) -> None:
        for copy in copies:
            if start < first[copy]:
                first[copy] = start
            if end > last[copy]:
                last[copy] = end

    tiles = problem.cut.tiles
    for tile, start in enumerate(run_start):
        core = acts.core_of_cluster[tiles[tile].cluster]
        end = start + problem.cost(tile, core).cycles
        reads, writes = acts.reads[tile], acts.writes[tile]
        runs.append(Run(tile=tile, core=core, start=start, end=end, reads=reads, writes=writes))
        touch(reads + writes, start, end)
    moves: list[Move] = []
    for plan, start in zip(acts.moves, move_start, strict=True):
        end = start + plan.cycles
        arrival = end + plan.route.latency_cycles
        moves.append(
            Move(
                block=plan.block,
                source=plan.source,
                target=plan.target,
                start=start,
                end=end,
                arrival=arrival,
                also=plan.also,
            )
        )
        if plan.source != OFF_CHIP:
            touch((plan.source,), start, end)
        touch(plan.filled, start, arrival)
    held = [
        Held(block=copy.block, core=copy.core, bits=copy.bits, start=since, end=until)
        for copy, since, until in zip(acts.copies, first, last, strict=True)
    ]
    return Schedule(runs=tuple(runs), moves=tuple(moves), held=tuple(held))
