"""The schedule that CP-SAT starts from, as values of its variables."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from stream_mla.hardware.interconnect import OFF_CHIP
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Hint:
    """Values of a known schedule, by what they are values of."""

    core: Sequence[int]
    run: dict[int, int]
    load: dict[tuple[int, int, int], int]
    """(block, core, owning cluster or -1) -> start."""
    send: dict[tuple[int, int], int]
    store: dict[int, int]
    apart: dict[tuple[int, int], int]
    """(block, core) -> which of the loads of a shared block over one multicast bus brings it there, from 0."""


def read_hint(problem: Problem, schedule: Schedule) -> Hint:
    """Read the values of a schedule."""
    run = {entry.tile: entry.start for entry in schedule.runs}
    core = [-1] * len(problem.group_tiles)
    for entry in schedule.runs:
        core[problem.tile_graph.tiles[entry.tile].group] = entry.core
    users: dict[int, int] = {}
    for entry in schedule.runs:
        for residency in entry.reads:
            users[residency] = problem.tile_graph.tiles[entry.tile].group
    hint = Hint(core=core, run=run, load={}, send={}, store={}, apart={})
    loads: Counter[tuple[int, tuple[str, ...]]] = Counter()
    for transfer in schedule.transfers:
        if transfer.target == OFF_CHIP:
            hint.store[transfer.block] = transfer.start
        elif transfer.source == OFF_CHIP:
            owner = -1 if problem.tile_graph.blocks[transfer.block].shared else users[transfer.target]
            cores = [schedule.residencies[residency].core for residency in transfer.filled]
            hint.load.update(((transfer.block, core, owner), transfer.start) for core in cores)
            route = problem.routes[OFF_CHIP, cores[0]]
            if owner < 0 and route.multicast:
                number = loads[transfer.block, route.links]
                hint.apart.update(((transfer.block, core), number) for core in cores)
                loads[transfer.block, route.links] += 1
        else:
            hint.send[transfer.block, schedule.residencies[transfer.target].core] = transfer.start
    return hint
