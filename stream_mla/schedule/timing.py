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
from stream_mla.schedule.schedule import Residency, Schedule, TileRun, Transfer, route_of

Cycles = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Touch:
    """A use of a copy by a step, which holds the copy until it ends, or until what it moves has arrived."""

    residency: int
    arrival: bool
    opens: bool


@dataclass(frozen=True, kw_only=True)
class Steps:
    """It is what does not change with the times."""

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
    single_buffered: tuple[tuple[int, ...], ...]
    """Cores whose arrays each step stops."""
    phase: tuple[int, ...]
    """Runs and loads wait for their phase; it is 0 for steps that wait for none."""
    touches: tuple[tuple[Touch, ...], ...]
    core: tuple[int, ...]
    """Each residency is in the memory of this core."""
    bits: tuple[int, ...]
    """Each residency takes so many bits."""


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
        start=np.array([step.start for step in (*schedule.runs, *schedule.transfers)], dtype=np.int64),
        done=np.array([*(r.end for r in schedule.runs), *(m.arrival for m in schedule.transfers)], dtype=np.int64),
        held_from=np.array([residency.start for residency in schedule.residencies], dtype=np.int64),
        held_to=np.array([residency.end for residency in schedule.residencies], dtype=np.int64),
    )


def read_steps(problem: Problem, schedule: Schedule) -> Steps:
    """Read what ties the steps of a valid schedule together."""
    runs, transfers, tiles = schedule.runs, schedule.transfers, problem.tile_graph.tiles
    routes = [route_of(problem, schedule, transfer) for transfer in transfers]
    bits = [problem.tile_graph.blocks[transfer.block].bits for transfer in transfers]
    known = [(route, route.cycles(size)) for route, size in zip(routes, bits, strict=True) if route is not None]
    shares = tuple(tuple((resource, route.demand) for resource in route.resources) for route, _ in known)
    loads = [transfer.source == OFF_CHIP for transfer in transfers]
    before = _before(problem, schedule)
    latency = (*(0 for _ in runs), *(route.latency_cycles for route, _ in known))
    single_buffered = (
        tuple(schedule.residencies[residency].core for residency in transfer.filled)
        if load and problem.tile_graph.blocks[transfer.block].single_buffered
        else ()
        for transfer, load in zip(transfers, loads, strict=True)
    )
    return Steps(
        runs=len(runs),
        cycles=(*(run.end - run.start for run in runs), *(cycles for _, cycles in known)),
        latency=latency,
        latencies=np.array(latency, dtype=np.int64),
        before=before,
        after=successors(before),
        units=(*(problem.unit(run.tile, run.core) for run in runs), *(-1 for _ in transfers)),
        shares=(*(() for _ in runs), *shares),
        single_buffered=(*(() for _ in runs), *single_buffered),
        phase=(*(tiles[run.tile].phase for run in runs), *_phases_of_moves(problem, schedule)),
        touches=_touches(problem, schedule),
        core=tuple(residency.core for residency in schedule.residencies),
        bits=tuple(residency.bits for residency in schedule.residencies),
    )


def _before(problem: Problem, schedule: Schedule) -> tuple[tuple[int, ...], ...]:
    runs, tiles = schedule.runs, problem.tile_graph.tiles
    filled: dict[int, int] = {}
    stored: dict[int, int] = {}
    at_step: dict[tuple[int, int], int] = {}
    for step, run in enumerate(runs):
        tile = tiles[run.tile]
        at_step[tile.chain, tile.step] = step
        filled.update((residency, step) for residency in run.writes if tile.last)
    for step, transfer in enumerate(schedule.transfers, start=len(runs)):
        filled.update((residency, step) for residency in transfer.filled)
        if transfer.target == OFF_CHIP:
            stored[transfer.block] = step
    found: list[tuple[int, ...]] = []
    for run in runs:
        tile = tiles[run.tile]
        chain = (at_step[tile.chain, tile.step - 1],) if tile.step else ()
        found.append((*(filled[residency] for residency in run.reads), *chain))
    for transfer in schedule.transfers:
        if transfer.source != OFF_CHIP:
            found.append((filled[transfer.source],))
        else:
            found.append((stored[transfer.block],) if transfer.block in stored else ())
    return tuple(found)


def _phases_of_moves(problem: Problem, schedule: Schedule) -> Sequence[int]:
    """Loads wait for the phase of the first tile that needs them; other moves for none."""
    needed: dict[int, int] = {}
    for run in schedule.runs:
        for residency in run.reads:
            phase = problem.tile_graph.tiles[run.tile].phase
            needed[residency] = min(phase, needed.get(residency, phase))
    return [
        min((needed[residency] for residency in transfer.filled if residency in needed), default=0)
        if transfer.source == OFF_CHIP
        else 0
        for transfer in schedule.transfers
    ]


def _touches(problem: Problem, schedule: Schedule) -> tuple[tuple[Touch, ...], ...]:
    found: list[tuple[Touch, ...]] = []
    for run in schedule.runs:
        first = not problem.tile_graph.tiles[run.tile].step
        reads = (Touch(residency=residency, arrival=False, opens=False) for residency in run.reads)
        found.append((*reads, *(Touch(residency=residency, arrival=False, opens=first) for residency in run.writes)))
    for transfer in schedule.transfers:
        source = () if transfer.source == OFF_CHIP else (Touch(residency=transfer.source, arrival=False, opens=False),)
        found.append(
            (*source, *(Touch(residency=residency, arrival=True, opens=True) for residency in transfer.filled))
        )
    return tuple(found)


def moved(schedule: Schedule, steps: Steps, start: Cycles) -> Schedule:
    """Return the schedule with other starts, and all that follows from them."""
    starts: list[int] = start.tolist()
    ends = [begin + cycles for begin, cycles in zip(starts, steps.cycles, strict=True)]
    arrivals = [end + latency for end, latency in zip(ends, steps.latency, strict=True)]
    held_from = [max(arrivals)] * len(schedule.residencies)
    held_to = [0] * len(schedule.residencies)
    for begin, end, arrival, touches in zip(starts, ends, arrivals, steps.touches, strict=True):
        for touch in touches:
            held_from[touch.residency] = min(held_from[touch.residency], begin)
            held_to[touch.residency] = max(held_to[touch.residency], arrival if touch.arrival else end)
    return Schedule(
        runs=tuple(
            replace(run, start=begin, end=end) for run, begin, end in zip(schedule.runs, starts, ends, strict=False)
        ),
        transfers=tuple(
            replace(transfer, start=starts[step], end=ends[step], arrival=arrivals[step])
            for step, transfer in enumerate(schedule.transfers, start=steps.runs)
        ),
        residencies=tuple(
            replace(residency, start=begin, end=end)
            for residency, begin, end in zip(schedule.residencies, held_from, held_to, strict=True)
        ),
    )


def timed(problem: Problem, acts: Activities, run_start: Sequence[int], transfer_start: Sequence[int]) -> Schedule:
    """Put times on a placement: residencies follow from what fills and uses each copy."""
    runs: list[TileRun] = []
    first = [1 << 62] * len(acts.residencies)
    last = [0] * len(acts.residencies)

    def touch(residencies: Iterable[int], start: int, end: int) -> None:
        for residency in residencies:
            if start < first[residency]:
                first[residency] = start
            if end > last[residency]:
                last[residency] = end

    tiles = problem.tile_graph.tiles
    for tile, start in enumerate(run_start):
        core = acts.core_of_group[tiles[tile].group]
        end = start + problem.cost(tile, core).cycles
        reads, writes = acts.reads[tile], acts.writes[tile]
        runs.append(TileRun(tile=tile, core=core, start=start, end=end, reads=reads, writes=writes))
        touch(reads + writes, start, end)
    transfers: list[Transfer] = []
    for plan, start in zip(acts.transfers, transfer_start, strict=True):
        end = start + plan.cycles
        arrival = end + plan.route.latency_cycles
        transfers.append(
            Transfer(
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
        Residency(block=residency.block, core=residency.core, bits=residency.bits, start=since, end=until)
        for residency, since, until in zip(acts.residencies, first, last, strict=True)
    ]
    return Schedule(runs=tuple(runs), transfers=tuple(transfers), residencies=tuple(held))
