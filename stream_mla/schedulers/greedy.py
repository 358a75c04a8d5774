"""Memory-aware list scheduling: always a schedule, or the reason why there is none.

Clusters get cores and tiles get an order from the times at which they are expected to run (`expectation`). Then time
runs forward in that order (`forward`); where the order needs more memory than there is, in one in which no array works
ahead of its turn, and then in the order of the tiles, which is made for little memory.
"""

from collections.abc import Iterator

from stream_mla.errors import StreamMlaError
from stream_mla.problem import Problem, activities
from stream_mla.schedule import Schedule
from stream_mla.schedulers.balance import balanced
from stream_mla.schedulers.expectation import assign, expected_order
from stream_mla.schedulers.forward import Forward
from stream_mla.uncollected import uncollected


@uncollected
def greedy(problem: Problem) -> Schedule:
    """Return a valid schedule.

    InfeasibleError where a tile does not fit its memory even alone; NoScheduleError where what waits beside the tiles,
    in their order, leaves too little room.
    """
    cores = assign(problem)
    acts = activities(problem, cores)
    for ahead in (True, False):
        try:
            return Forward(problem, acts, expected_order(problem, cores, ahead=ahead)).run()
        except StreamMlaError:
            continue
    return Forward(problem, acts).run()


def variants(problem: Problem) -> Iterator[Schedule]:
    """Yield schedules that `greedy` could as well have made: in tile order, with the promised work spread evenly, and
    with the work of all cores evened out.
    """
    first = assign(problem)
    even, balance = assign(problem, even=True), balanced(problem, first)
    tries: list[tuple[list[int], list[int] | None]] = [(first, None)]
    if even != first:
        tries += [(even, None), (even, expected_order(problem, even))]
    if balance not in (first, even):
        tries.append((balance, expected_order(problem, balance)))
    for cores, order in tries:
        try:
            yield Forward(problem, activities(problem, cores), order).run()
        except StreamMlaError:
            continue
