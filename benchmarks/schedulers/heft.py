"""HEFT (Topcuoglu, Hariri, Wu, IEEE TPDS 13(3), 2002): greedy list scheduling as the literature has it.

Upward ranks with mean costs, transfers included (`stream_mla.schedulers.ranks`); tiles by falling rank, each on the
core where it finishes first (`stream_mla.schedulers.heft`, which says what is added to HEFT). The library tries this
among its variants; here it stands alone.

How long a copy is held is known only once its last user has a time, so a placement cannot be checked against the
memories as it is made. Cores and priorities of HEFT are therefore run on the same machine as ours, which reserves
memory in order of rank. Ranks go breadth first, and where memory does not hold that, the tile order takes their place,
at last with the cores of our greedy scheduler; `heft` says which.
"""

from dataclasses import dataclass

from benchmarks.schedulers.placed import scheduled
from stream_mla.errors import NoScheduleError
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.schedule import Schedule
from stream_mla.solvers.placement.earliest_finish import assign
from stream_mla.solvers.placement.heft import placement
from stream_mla.solvers.placement.priorities import rank_order


@dataclass(frozen=True, kw_only=True)
class Placed:
    """What HEFT decides."""

    cores: list[int]
    """Of each cluster."""
    order: tuple[int, ...]
    """Tiles, the most urgent first."""


def heft(problem: Problem) -> tuple[Schedule, Placed, str]:
    """Return a valid schedule, the decisions behind it, and what they are."""
    by_rank, in_order = tuple(rank_order(problem)), tuple(range(len(problem.tile_graph.tiles)))
    ways = (
        ("rank", lambda: placement(problem, by_rank), by_rank),
        ("tile order, cores of the ranks", lambda: placement(problem, by_rank), in_order),
        ("tile order", lambda: placement(problem, in_order), in_order),
        ("tile order, cores of greedy", lambda: assign(problem), in_order),
    )
    why: NoScheduleError | None = None
    for name, cores, order in ways:
        placed = Placed(cores=cores(), order=order)
        try:
            return scheduled(problem, placed.cores, placed.order), placed, name
        except NoScheduleError as error:
            why = error
    assert why is not None
    raise why
