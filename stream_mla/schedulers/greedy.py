"""Memory-aware list scheduling: always a schedule, or the reason why there is none.

Clusters get cores and tiles get an order from the times at which they are expected to run (`expectation`). Then time
runs forward in that order (`forward`); where the order needs more memory than there is, in the order of the tiles,
which is made for little memory.
"""

from collections.abc import Iterable, Iterator, Sequence

from stream_mla.errors import StreamMlaError
from stream_mla.problem import Problem, activities
from stream_mla.schedule import Schedule
from stream_mla.schedulers.expectation import assign, expected_order
from stream_mla.schedulers.forward import Forward
from stream_mla.schedulers.ranks import rank_order
from stream_mla.uncollected import uncollected


@uncollected
def greedy(problem: Problem) -> Schedule:
    """Return a valid schedule.

    InfeasibleError where a tile does not fit its memory even alone; NoScheduleError where what waits beside the tiles,
    in their order, leaves too little room.
    """
    cores = assign(problem)
    acts = activities(problem, cores)
    try:
        return Forward(problem, acts, expected_order(problem, cores)).run()
    except StreamMlaError:
        return Forward(problem, acts).run()


def variants(problem: Problem) -> Iterator[Schedule]:
    """Yield schedules that `greedy` could as well have made, without those whose order needs too much memory.

    In tile order; with what streams taken while the DRAM would idle; by upward rank; and all that with the work spread
    evenly, where this makes a difference.
    """
    ranked, cores = rank_order(problem), assign(problem)
    yield from _in_orders(problem, cores, (None, expected_order(problem, cores, fill=True), ranked))
    if (spread := assign(problem, even=True)) != cores:
        streamed = (expected_order(problem, spread, fill=fill) for fill in (True, False))
        yield from _in_orders(problem, spread, (None, *streamed, ranked))


def _in_orders(problem: Problem, cores: Sequence[int], orders: Iterable[Sequence[int] | None]) -> Iterator[Schedule]:
    acts = activities(problem, cores)
    for order in orders:
        try:
            yield Forward(problem, acts, order).run()
        except StreamMlaError:
            continue
