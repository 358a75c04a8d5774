"""From a placement and start times to a schedule; what both schedulers end with."""

from collections.abc import Iterable, Sequence

from stream_mla.problem import Activities, Problem
from stream_mla.routes import OFF_CHIP
from stream_mla.schedule import Held, Move, Run, Schedule


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
