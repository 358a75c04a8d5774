"""Memory-aware list scheduling: always a schedule, or the reason why there is none.

Clusters get cores and tiles get an order from the times at which they are expected to run (`expectation`). Then time
runs forward in that order (`forward`); where the order needs more memory than there is, in the order of the tiles,
which is made for little memory.
"""

from collections.abc import Callable, Iterator
from math import inf

from stream_mla.errors import StreamMlaError
from stream_mla.problem import Problem, activities
from stream_mla.schedule import Schedule
from stream_mla.schedulers.expectation import assign, expected_order
from stream_mla.schedulers.forward import Forward
from stream_mla.schedulers.remaining import BeatenError
from stream_mla.uncollected import uncollected


@uncollected
def greedy(problem: Problem, limit: float = inf) -> Schedule:
    """Return a valid schedule.

    InfeasibleError where a tile does not fit its memory even alone; NoScheduleError where what waits beside the tiles,
    in their order, leaves too little room. BeatenError where it would take more cycles than the limit.
    """
    cores = assign(problem)
    acts = activities(problem, cores)
    try:
        return Forward(problem, acts, expected_order(problem, cores)).run(limit)
    except StreamMlaError:
        return Forward(problem, acts).run(limit)


def variants(problem: Problem, limit: Callable[[], float] = lambda: inf) -> Iterator[Schedule]:
    """Yield schedules that `greedy` could as well have made: in tile order, and with the work spread evenly.

    Those that pass the limit, as it is when they are made, are given up.
    """
    for even in (False, True):
        cores = assign(problem, even=even)
        acts = activities(problem, cores)
        for order in (None, expected_order(problem, cores)) if even else (None,):
            try:
                yield Forward(problem, acts, order).run(limit())
            except (StreamMlaError, BeatenError):
                continue
