"""From a placement and start times to a schedule; what both schedulers end with."""

from collections.abc import Sequence

from stream_mla.problem import Activities, Problem
from stream_mla.routes import OFF_CHIP
from stream_mla.schedule import Held, Move, Run, Schedule


def timed(problem: Problem, acts: Activities, run_start: Sequence[int], move_start: Sequence[int]) -> Schedule:
    """Put times on a placement: residencies follow from what fills and uses each copy."""
    runs: list[Run] = []
    first = [1 << 62] * len(acts.copies)
    last = [0] * len(acts.copies)

    def touch(copy: int, start: int, end: int) -> None:
        first[copy], last[copy] = min(first[copy], start), max(last[copy], end)

    for tile, start in enumerate(run_start):
        core = acts.core_of_cluster[problem.cut.tiles[tile].cluster]
        end = start + problem.cost(tile, core).cycles
        reads, writes = acts.reads[tile], acts.writes[tile]
        runs.append(Run(tile=tile, core=core, start=start, end=end, reads=reads, writes=writes))
        for copy in (*reads, *writes):
            touch(copy, start, end)
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
            touch(plan.source, start, end)
        for copy in plan.filled:
            touch(copy, start, arrival)
    held = tuple(
        Held(block=copy.block, core=copy.core, bits=copy.bits, start=first[number], end=last[number])
        for number, copy in enumerate(acts.copies)
    )
    return Schedule(runs=tuple(runs), moves=tuple(moves), held=held)
