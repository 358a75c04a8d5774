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
    core = [-1] * len(problem.cluster_tiles)
    for entry in schedule.runs:
        core[problem.cut.tiles[entry.tile].cluster] = entry.core
    users: dict[int, int] = {}
    for entry in schedule.runs:
        for copy in entry.reads:
            users[copy] = problem.cut.tiles[entry.tile].cluster
    hint = Hint(core=core, run=run, load={}, send={}, store={}, apart={})
    loads: Counter[tuple[int, tuple[str, ...]]] = Counter()
    for move in schedule.moves:
        if move.target == OFF_CHIP:
            hint.store[move.block] = move.start
        elif move.source == OFF_CHIP:
            owner = -1 if problem.cut.blocks[move.block].shared else users[move.target]
            cores = [schedule.held[copy].core for copy in move.filled]
            hint.load.update(((move.block, core, owner), move.start) for core in cores)
            route = problem.routes[OFF_CHIP, cores[0]]
            if owner < 0 and route.multicast:
                number = loads[move.block, route.links]
                hint.apart.update(((move.block, core), number) for core in cores)
                loads[move.block, route.links] += 1
        else:
            hint.send[move.block, schedule.held[move.target].core] = move.start
    return hint
