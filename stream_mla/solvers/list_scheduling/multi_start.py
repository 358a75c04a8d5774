"""Other orders and placements that `greedy` could as well have chosen, made one after the other.

1. The order of the tiles, on the placement by earliest finish time.
2. The order of the tiles, on the placement of HEFT in that order.
3. The order of upward ranks, on the placement of HEFT by these ranks; the order of the tiles there, where memory does
   not hold the ranks.
4. The order of expected times in which tiles that stream run while the DRAM would idle; with many tiles also the order
   group after group, as `greedy` may have gone by stages.
5. The order of upward ranks, on the placement by earliest finish time.
6. All of these orders, on a placement that spreads the promised work evenly, where that differs.
7. The order group after group, on a placement whose load is balanced, and on one that gathers the readers of a block.

Methods unlike each other come first, because large layers get only a few tries.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from math import inf

from stream_mla.errors import StreamMlaError
from stream_mla.schedule.activities import activities
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.schedule import Schedule
from stream_mla.solvers.cutoff import CutoffError
from stream_mla.solvers.list_scheduling.greedy import BOTH_ORDERS_TILES
from stream_mla.solvers.list_scheduling.list_scheduler import ListScheduler
from stream_mla.solvers.placement.earliest_finish import assign
from stream_mla.solvers.placement.expected_times import Turns, expected
from stream_mla.solvers.placement.heft import placement
from stream_mla.solvers.placement.load_balance import balanced
from stream_mla.solvers.placement.priorities import rank_order, stage_order

Order = Sequence[int] | None
"""Tiles; None is theirs."""
Try = Callable[[], Schedule | None]


def multi_start(
    problem: Problem, limit: Callable[[], float] = lambda: inf, most: int | None = None
) -> Iterator[Schedule]:
    """Yield the schedules of at most so many tries.

    Those whose order needs too much memory, or that pass the limit, as it is when they are made, are given up.
    """
    for attempt in islice(_Variants(problem, limit).tries(), most):
        with suppress(StreamMlaError, CutoffError):
            if (found := attempt()) is not None:
                yield found


class _Variants:
    def __init__(self, problem: Problem, limit: Callable[[], float]) -> None:
        self.problem, self.limit = problem, limit
        self.known: list[list[int]] = []
        """Cores that were tried with several orders."""

    def tries(self) -> Iterator[Try]:
        """Yield what makes a schedule, or makes none where it is known already."""
        problem, both = self.problem, (Turns.FILL, Turns.AHEAD)
        first = assign(problem)
        self.known.append(first)
        by_stages = len(problem.tile_graph.tiles) > BOTH_ORDERS_TILES and stage_order(problem.tile_graph) != list(
            range(len(problem.tile_graph.tiles))
        )
        yield self._try(first, None)
        ranked = rank_order(problem)
        yield self._as_heft
        yield lambda: self._as_heft_by_rank(ranked)
        for turns in both if by_stages else both[:1]:
            yield self._try(first, turns)
        yield self._try(first, ranked)
        if (even := assign(problem, even=True)) != first:
            self.known.append(even)
            for order in (None, *both, ranked):
                yield self._try(even, order)
        tried = list(self.known)
        for others in (balanced(problem, first), assign(problem, gather=True)):
            if others not in tried:
                tried.append(others)
                yield self._try(others, Turns.AHEAD)

    def _try(self, cores: Sequence[int], order: Order | Turns) -> Try:
        def made() -> Schedule:
            chosen = expected(self.problem, cores, turns=order).order if isinstance(order, Turns) else order
            return self._run(cores, chosen)

        return made

    def _run(self, cores: Sequence[int], order: Order) -> Schedule:
        return ListScheduler(self.problem, activities(self.problem, cores), order).run(self.limit())

    def _as_heft(self) -> Schedule | None:
        cores = placement(self.problem, range(len(self.problem.tile_graph.tiles)), self.limit())
        return None if cores in self.known else self._run(cores, None)

    def _as_heft_by_rank(self, ranked: Sequence[int]) -> Schedule | None:
        cores = placement(self.problem, ranked)
        if cores in self.known:
            return None
        try:
            return self._run(cores, ranked)
        except StreamMlaError:
            return self._run(cores, None)
