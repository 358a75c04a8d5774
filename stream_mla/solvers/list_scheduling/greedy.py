"""Memory-aware list scheduling: always a schedule, or the reason why there is none.

Clusters get cores (`earliest_finish`), and tiles an order from the times at which they are expected to run
(`expected_times`): group after group as the tiles stand, or stage by stage (`priorities.stage_order`) where the layer
is expected to end sooner by that. The list scheduler follows that order; where the order needs more memory than there
is, it follows the order of the tiles, which is made for little memory, or one between the two.
"""

from collections.abc import Sequence
from math import inf

from stream_mla.errors import StreamMlaError
from stream_mla.gc_pause import gc_paused
from stream_mla.schedule.activities import Activities, activities
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.schedule import Schedule
from stream_mla.solvers.cutoff import CutoffError
from stream_mla.solvers.list_scheduling.list_scheduler import ListScheduler
from stream_mla.solvers.placement.earliest_finish import assign
from stream_mla.solvers.placement.expected_times import Turns, expected
from stream_mla.solvers.placement.priorities import stage_order

SOONER = 0.01
"""The order stage by stage must be expected to end sooner by this share to come first: it needs more memory."""
BOTH_ORDERS_TILES = 3000
"""Up to so many tiles, both orders are tried, group after group and stage by stage, which takes about a second."""
TILE_ORDER_FIRST_TILES = 20_000
"""With more tiles than this (or than `BOTH_ORDERS_TILES` where there is a schedule to beat), the order of the tiles is
tried first: it takes least memory, so where it does not fit, nothing will, and computing the times at which tiles are
expected to run would have taken most of the time."""


@gc_paused
def greedy(problem: Problem, limit: float = inf, enough: float = 0.0, *, easy: bool = False) -> Schedule:
    """Return a valid schedule: the fastest of some, or the first that takes `enough` cycles or fewer. Where that is
    `easy`, the order of the tiles comes first: it costs half as much as those that are made from expected times.

    InfeasibleError where a tile does not fit its memory even alone; NoScheduleError where what waits beside the tiles,
    in their order, leaves too little room. CutoffError where it would take more cycles than the limit.
    """
    cores = assign(problem)
    acts = activities(problem, cores)
    beaten = False
    best: Schedule | None = None
    if easy or len(problem.tile_graph.tiles) > (TILE_ORDER_FIRST_TILES if limit == inf else BOTH_ORDERS_TILES):
        try:
            best = ListScheduler(problem, acts).run(limit)
            limit = best.latency_cycles - 1
        except CutoffError:
            beaten = True
    if best is None or best.latency_cycles > enough:
        for placed, order in _plans(problem, cores, acts):
            try:
                best = ListScheduler(problem, placed, order).run(limit)
                limit = best.latency_cycles - 1
            except CutoffError:
                beaten = True
            except StreamMlaError:
                continue
            if len(problem.tile_graph.tiles) > BOTH_ORDERS_TILES or limit < enough:
                break
    if best is not None:
        return best
    if beaten:
        raise CutoffError
    return _with_little_memory(problem, cores, acts, limit)


def _with_little_memory(problem: Problem, cores: Sequence[int], acts: Activities, limit: float) -> Schedule:
    """Return a schedule in the order of the tiles, or a faster one that takes more memory, if there is room for it."""
    try:
        best = ListScheduler(problem, acts).run(limit)
    except CutoffError:
        return ListScheduler(problem, acts, expected(problem, cores, turns=Turns.KEPT).order).run(limit)
    try:
        order = expected(problem, cores, turns=Turns.KEPT).order
        return ListScheduler(problem, acts, order).run(best.latency_cycles - 1)
    except (StreamMlaError, CutoffError):
        return best


def _plans(problem: Problem, cores: Sequence[int], acts: Activities) -> list[tuple[Activities, Sequence[int]]]:
    """Return placed tiles and an order of them, of each way that is worth trying, the best first; one is on `cores`."""
    groups = expected(problem, cores)
    by_stage = stage_order(problem.tile_graph)
    if by_stage == list(range(len(by_stage))):
        return [(acts, groups.order)]
    others = assign(problem, by_stage)
    stages = expected(problem, others, by_stage)
    sooner = stages.cycles < groups.cycles * (1 - SOONER)
    if not sooner and len(by_stage) > BOTH_ORDERS_TILES:
        return [(acts, groups.order)]
    plans = [(activities(problem, others), stages.order), (acts, groups.order)]
    return plans if sooner else plans[::-1]
