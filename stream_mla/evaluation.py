"""The story: one point in, one result out.

lower -> plan and tile -> price -> schedule -> check -> replay -> check -> summarise
"""

from collections.abc import Sequence

from stream_mla.attention import lower
from stream_mla.graph import OperatorGraph
from stream_mla.hunt import Hunt
from stream_mla.outcome import Interrupted, Outcome
from stream_mla.point import Point
from stream_mla.requirements import require
from stream_mla.search import Candidate, Pool, Progress


def evaluate(point: Point, progress: Progress = lambda _: None, starts: Sequence[Candidate] = ()) -> Outcome:
    """Schedule one point, no worse than any of `starts`.

    InfeasibleError is a proof, NoScheduleError means that no tiling that was tried fits; both name tensor, bytes and
    memory. Interrupted, a KeyboardInterrupt, carries the best schedule found until then.
    """
    return evaluate_graph(point, lower(point.workload, point.scheme), progress, starts)


def evaluate_graph(
    point: Point, graph: OperatorGraph, progress: Progress = lambda _: None, starts: Sequence[Candidate] = ()
) -> Outcome:
    """Schedule an operator graph that need not be what the point's scheme lowers to."""
    return evaluate_in(Pool(point, graph, progress), point, graph, progress, starts)


def evaluate_in(
    pool: Pool, point: Point, graph: OperatorGraph, progress: Progress, starts: Sequence[Candidate] = ()
) -> Outcome:
    """Schedule a graph whose tilings a pool keeps, for several points that differ in what is minimised."""
    require(graph, point.accelerator)
    hunt = Hunt(point, graph, progress)
    try:
        hunt.run(pool, starts)
    except KeyboardInterrupt:
        if hunt.best is None:
            raise
        progress("interrupted: checking the best schedule found")
        raise Interrupted(hunt.outcome(interrupted=True)) from None
    return hunt.outcome(interrupted=False)
