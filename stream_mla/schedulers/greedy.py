"""Memory-aware list scheduling: always a schedule, or the reason why there is none.

Clusters get cores and tiles get an order from the times at which they are expected to run (`expectation`): group after
group as the tiles stand, or stage by stage (`stages`) where the layer is expected to end sooner by that. Then time runs
forward in that order (`forward`); where the order needs more memory than there is, in the order of the tiles, which is
made for little memory.
"""

from collections.abc import Iterator
from math import inf

from stream_mla.errors import StreamMlaError
from stream_mla.problem import Problem, activities
from stream_mla.schedule import Schedule
from stream_mla.schedulers.expectation import assign, expected
from stream_mla.schedulers.forward import Forward
from stream_mla.schedulers.remaining import BeatenError
from stream_mla.schedulers.stages import stage_order
from stream_mla.uncollected import uncollected

SOONER = 0.01
"""Stage by stage must be expected to end sooner by this share: it needs more memory."""
FEW = 3000
"""With up to so many tiles both are tried, which takes about a second."""


@uncollected
def greedy(problem: Problem, limit: float = inf) -> Schedule:
    """Return a valid schedule.

    InfeasibleError where a tile does not fit its memory even alone; NoScheduleError where what waits beside the tiles,
    in their order, leaves too little room. BeatenError where it would take more cycles than the limit.
    """
    cores = assign(problem)
    plans = [(cores, expected(problem, cores))]
    few = len(problem.cut.tiles) <= FEW
    by_stage = stage_order(problem.cut)
    if by_stage != list(range(len(by_stage))):
        others = assign(problem, by_stage)
        plan = expected(problem, others, by_stage)
        sooner = plan.cycles < plans[0][1].cycles * (1 - SOONER)
        if sooner or few:
            plans.insert(0 if sooner else 1, (others, plan))
    best: Schedule | None = None
    beaten: BeatenError | None = None
    for placed, plan in plans:
        try:
            best = Forward(problem, activities(problem, placed), plan.order).run(limit)
            limit = best.latency_cycles - 1
        except BeatenError as error:
            beaten = error
        except StreamMlaError:
            continue
        if not few:
            break
    if best is None and beaten is not None:
        raise beaten
    return best or Forward(problem, activities(problem, cores)).run(limit)


def variants(problem: Problem) -> Iterator[Schedule]:
    """Yield schedules that `greedy` could as well have made: in tile order, and with the work spread evenly."""
    for even in (False, True):
        cores = assign(problem, even=even)
        acts = activities(problem, cores)
        for order in (None, expected(problem, cores).order) if even else (None,):
            try:
                yield Forward(problem, acts, order).run()
            except StreamMlaError:
                continue
