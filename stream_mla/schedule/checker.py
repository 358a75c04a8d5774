"""A schedule as plain facts, and the rules every schedule obeys.

`violations` knows no scheduler: it reads what ran where and when, what moved and what was held, and checks

- every tile runs once, on a core that can, for as long as it costs; a unit runs one tile at a time;
- the tiles of a cluster share a core, and the steps of a chain follow each other;
- a tile reads copies of just the blocks it needs, complete and in its own core's memory while it runs;
- a move starts from a complete copy, takes as long as its route says, and no resource carries more than it can;
- what must reach DRAM does, and nothing is read from there before it arrived;
- nothing of a phase starts before the earlier ones have ended, and late loads take turns with a core's array;
- a copy is held from its first byte to its last use, and no memory holds more than its capacity at any instant.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

from stream_mla.gc_pause import gc_paused
from stream_mla.hardware.interconnect import OFF_CHIP, SHARE, Route
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.schedule import Schedule, TileRun, residency_changes, route_of


@gc_paused
def violations(problem: Problem, schedule: Schedule) -> list[str]:
    """Return every broken rule as a sentence; an empty list means that the schedule is valid.

    >>> from dataclasses import replace
    >>> from stream_mla import Point, evaluate
    >>> outcome = evaluate(Point.of("llama_3_8b", "flat_cloud", context=64, time_limit=0))
    >>> violations(outcome.problem, outcome.schedule)
    []
    >>> first = outcome.problem.tile_graph.tiles[outcome.schedule.runs[0].tile].name
    >>> without = replace(outcome.schedule, runs=outcome.schedule.runs[1:])
    >>> violations(outcome.problem, without) == [f"{first} runs 0 times, not once"]
    True
    """
    if broken := list(_placement(problem, schedule)):
        return broken  # times mean nothing for tiles that cannot be where they are
    complete = _completion(problem, schedule)
    routes = [route_of(problem, schedule, transfer) for transfer in schedule.transfers]
    return [
        *_units(problem, schedule),
        *_chains(problem, schedule),
        *_reads(problem, schedule, complete),
        *_moves(problem, schedule, complete, routes),
        *_dram(problem, schedule),
        *_phases(problem, schedule),
        *_turns(problem, schedule),
        *_bandwidth(problem, schedule, routes),
        *_residency(problem, schedule),
        *_capacity(problem, schedule),
    ]


def _placement(problem: Problem, schedule: Schedule) -> Iterable[str]:
    times = Counter([run.tile for run in schedule.runs])
    tiles = problem.tile_graph.tiles
    for number, tile in enumerate(tiles):
        if times[number] != 1:
            yield f"{tile.name} runs {times[number]} times, not once"
    core_of: dict[int, int] = {}
    for run in schedule.runs:
        tile, core = tiles[run.tile], problem.cores[run.core]
        cost = problem.costs[run.tile].get(core.type.name)
        if cost is None:
            yield f"{tile.name} runs on {core.name}, which lacks the unit for it"
        elif run.end - run.start != cost.cycles:
            yield f"{tile.name} takes {run.end - run.start} cycles on {core.name}, it costs {cost.cycles}"
        if run.start < 0:
            yield f"{tile.name} starts at {run.start}, before the beginning"
        other = core_of.setdefault(tile.group, run.core)
        if other != run.core:
            yield f"{tile.name} runs on {core.name}, its cluster on {problem.cores[other].name}"
    written = {residency for run in schedule.runs for residency in run.writes}
    for number, held in enumerate(schedule.residencies):
        block = problem.tile_graph.blocks[held.block]
        bits = block.held_bits if number in written else block.bits
        if held.bits != bits:
            yield f"{block.name} on {problem.cores[held.core].name} holds {held.bits} bit, it has {bits}"


def _completion(problem: Problem, schedule: Schedule) -> list[int | None]:
    """When each held copy is complete; None where nothing fills it."""
    complete: list[int | None] = [None] * len(schedule.residencies)
    for transfer in schedule.transfers:
        for residency in transfer.filled:
            complete[residency] = transfer.arrival
    for run in schedule.runs:
        if problem.tile_graph.tiles[run.tile].last:
            for residency in run.writes:
                complete[residency] = run.end
    return complete


def _overlaps(intervals: list[tuple[int, int, str]]) -> Iterable[tuple[str, str]]:
    """Yield the names of neighbours in time that overlap."""
    intervals.sort()
    for (_, end, first), (start, _, second) in pairwise(intervals):
        if start < end:
            yield first, second


def _units(problem: Problem, schedule: Schedule) -> Iterable[str]:
    busy: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for run in schedule.runs:
        busy[problem.unit(run.tile, run.core)].append((run.start, run.end, problem.tile_graph.tiles[run.tile].name))
    for unit, intervals in sorted(busy.items()):
        name = f"the {'vector unit' if unit % 2 else 'array'} of {problem.cores[unit // 2].name}"
        for first, second in _overlaps(intervals):
            yield f"{first} and {second} run at once on {name}"


def _chains(problem: Problem, schedule: Schedule) -> Iterable[str]:
    tiles = problem.tile_graph.tiles
    steps: dict[int, list[tuple[int, int, TileRun]]] = defaultdict(list)
    for run in schedule.runs:
        tile = tiles[run.tile]
        steps[tile.chain].append((tile.step, run.tile, run))
    for entries in steps.values():
        if len(entries) == 1:
            continue
        entries.sort()
        for (_, _, before), (_, _, after) in pairwise(entries):
            if after.start < before.end:
                first, second = (tiles[run.tile].name for run in (before, after))
                yield f"{second} starts at {after.start}, before {first} ends at {before.end}"
            if after.writes != before.writes:
                yield f"{tiles[after.tile].name} adds to another copy than the step before it"


def _reads(problem: Problem, schedule: Schedule, complete: Sequence[int | None]) -> Iterable[str]:
    blocks, held = problem.tile_graph.blocks, schedule.residencies
    block_of, core_of = [residency.block for residency in held], [residency.core for residency in held]
    for run in schedule.runs:
        tile, core = problem.tile_graph.tiles[run.tile], run.core
        for word, residencies, needed in (("reads", run.reads, tile.reads), ("writes", run.writes, tile.writes)):
            found = [block_of[residency] for residency in residencies]
            if found != list(needed) and sorted(found) != sorted(needed):
                yield f"{tile.name} {word} other blocks than it must"
            for residency in residencies:
                if core_of[residency] != core:
                    name = blocks[block_of[residency]].name
                    yield f"{tile.name} on {problem.cores[core].name} {word} {name} in another core's memory"
        for residency in run.reads:
            ready = complete[residency]
            if ready is None:
                where = f"{blocks[block_of[residency]].name} on {problem.cores[core].name}"
                yield f"{tile.name} reads {where}, which nothing brings there"
            elif run.start < ready:
                yield f"{tile.name} starts at {run.start}, {blocks[block_of[residency]].name} is there at {ready}"


def _moves(
    problem: Problem, schedule: Schedule, complete: Sequence[int | None], routes: Sequence[Route | None]
) -> Iterable[str]:
    for transfer, route in zip(schedule.transfers, routes, strict=True):
        name = problem.tile_graph.blocks[transfer.block].name
        if route is None:
            cores = ", ".join(problem.cores[schedule.residencies[residency].core].name for residency in transfer.filled)
            yield (
                f"{name} moves to {cores} at once, and no multicast bus brings it there"
                if transfer.also
                else f"{name} moves between places that no link joins"
            )
            continue
        cycles = route.cycles(problem.tile_graph.blocks[transfer.block].bits)
        if transfer.end - transfer.start != cycles or transfer.arrival != transfer.end + route.latency_cycles:
            took = f"{transfer.end - transfer.start} + {transfer.arrival - transfer.end}"
            yield f"{name} moves in {took} cycles, its route takes {cycles} + {route.latency_cycles}"
        if transfer.start < 0:
            yield f"{name} moves at {transfer.start}, before the beginning"
        for end in (transfer.source, transfer.target, *transfer.also):
            if end != OFF_CHIP and schedule.residencies[end].block != transfer.block:
                other = problem.tile_graph.blocks[schedule.residencies[end].block]
                yield f"{name} is moved from or to a copy of {other.name}"
        if transfer.source != OFF_CHIP:
            ready = complete[transfer.source]
            if ready is None or transfer.start < ready:
                yield f"{name} moves at {transfer.start}, its source is complete at {ready}"


def _dram(problem: Problem, schedule: Schedule) -> Iterable[str]:
    arrived: dict[int, int] = {}
    for transfer in schedule.transfers:
        if transfer.target == OFF_CHIP:
            if transfer.block in arrived:
                yield f"{problem.tile_graph.blocks[transfer.block].name} is written to DRAM twice"
            arrived[transfer.block] = transfer.arrival
    for number, block in enumerate(problem.tile_graph.blocks):
        if block.stored and number not in arrived:
            yield f"{block.name} never reaches DRAM"
    for transfer in schedule.transfers:
        block = problem.tile_graph.blocks[transfer.block]
        if (
            transfer.source == OFF_CHIP
            and not block.born_in_dram
            and transfer.start < arrived.get(transfer.block, transfer.start + 1)
        ):
            yield f"{block.name} is read from DRAM at {transfer.start}, before it was written there"


def _phases(problem: Problem, schedule: Schedule) -> Iterable[str]:
    tiles = problem.tile_graph.tiles
    if not any(tile.phase for tile in tiles):
        return
    needed: dict[int, int] = {}
    """Copy -> the first phase that reads it."""
    last: dict[int, TileRun] = {}
    """Phase -> the run that ends last in it, or in one before."""
    for run in sorted(schedule.runs, key=lambda run: tiles[run.tile].phase):
        phase = tiles[run.tile].phase
        for residency in run.reads:
            needed.setdefault(residency, phase)
        last[phase] = max(last.get(phase, last.get(phase - 1, run)), run, key=lambda run: run.end)
    steps = [(tiles[run.tile].name, "starts", tiles[run.tile].phase, run.start) for run in schedule.runs]
    for transfer in schedule.transfers:
        if transfer.source == OFF_CHIP:
            phase = min((needed[residency] for residency in transfer.filled if residency in needed), default=0)
            steps.append((problem.tile_graph.blocks[transfer.block].name, "is loaded", phase, transfer.start))
    for name, does, phase, start in steps:
        before = last[phase - 1] if phase else None
        if before is not None and start < before.end:
            other = tiles[before.tile]
            yield (
                f"{name} {does} at {start} in phase {phase}, "
                f"before {other.name} of phase {other.phase} ends at {before.end}"
            )


def _turns(problem: Problem, schedule: Schedule) -> Iterable[str]:
    loads = [
        transfer
        for transfer in schedule.transfers
        if transfer.source == OFF_CHIP and problem.tile_graph.blocks[transfer.block].single_buffered
    ]
    arrays: dict[int, list[TileRun]] = defaultdict(list)
    for run in schedule.runs if loads else ():
        if problem.unit(run.tile, run.core) % 2 == 0:
            arrays[run.core].append(run)
    for runs in arrays.values():
        runs.sort(key=lambda run: run.start)
    for transfer in loads:
        for core in (schedule.residencies[residency].core for residency in transfer.filled):
            # runs on one array do not overlap: the first that ends after the load starts is the first that may clash
            first = bisect_right(arrays[core], transfer.start, key=lambda run: run.end)
            if first < len(arrays[core]) and (run := arrays[core][first]).start < transfer.end:
                tiles, blocks = problem.tile_graph.tiles, problem.tile_graph.blocks
                yield (
                    f"{blocks[transfer.block].name} is loaded into {problem.cores[core].name} from "
                    f"{transfer.start} to {transfer.end}, while {tiles[run.tile].name} runs on its array"
                )


def _bandwidth(problem: Problem, schedule: Schedule, routes: Sequence[Route | None]) -> Iterable[str]:
    changes: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for transfer, route in zip(schedule.transfers, routes, strict=True):
        if route is not None:
            for resource in route.resources:
                changes[resource] += ((transfer.start, route.demand), (transfer.end, -route.demand))
    for number, entries in sorted(changes.items()):
        resource = problem.resources[number]
        if over := _over(entries, resource.capacity):
            time, used = over
            yield (
                f"{resource.name} carries {used / SHARE:g} bit per cycle at {time}, "
                f"it can carry {resource.capacity / SHARE:g}"
            )


def _over(changes: list[tuple[int, int]], capacity: int) -> tuple[int, int] | None:
    """First instant at which the running sum of (time, change) passes the capacity, and the sum then."""
    changes.sort()  # at one instant, what ends (negative) goes before what starts
    sums = accumulate([change for _, change in changes])
    return next(((time, used) for (time, _), used in zip(changes, sums, strict=True) if used > capacity), None)


def _residency(problem: Problem, schedule: Schedule) -> Iterable[str]:
    first, last = (
        [residency.end for residency in schedule.residencies],
        [residency.start for residency in schedule.residencies],
    )

    def use(residencies: Iterable[int], start: int, end: int) -> None:
        for residency in residencies:
            if start < first[residency]:
                first[residency] = start
            if end > last[residency]:
                last[residency] = end

    for run in schedule.runs:
        use(run.reads + run.writes, run.start, run.end)
    for transfer in schedule.transfers:
        if transfer.source != OFF_CHIP:
            use((transfer.source,), transfer.start, transfer.end)
        use(transfer.filled, transfer.start, transfer.arrival)
    for residency, since, until in zip(schedule.residencies, first, last, strict=True):
        if since < residency.start or until > residency.end:
            name, core = problem.tile_graph.blocks[residency.block].name, problem.cores[residency.core].name
            yield f"{name} on {core} is held from {residency.start} to {residency.end} but used from {since} to {until}"


def _capacity(problem: Problem, schedule: Schedule) -> Iterable[str]:
    for number, entries in residency_changes(schedule):
        core = problem.cores[number]
        if over := _over(entries, core.type.sram.capacity):
            time, used = over
            yield f"{core.name} holds {used} bit at {time}, its SRAM has {core.type.sram.capacity}"
