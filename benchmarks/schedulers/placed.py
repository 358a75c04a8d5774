"""Decisions to a schedule: given cores and a priority order, the machine of `stream_mla` finds the times.

The alternatives decide; times, memory and traffic follow by the same rules for all of them.
"""

import heapq
from collections.abc import Sequence

from stream_mla.problem import Problem, activities
from stream_mla.schedule import Schedule
from stream_mla.schedulers.forward import Forward


def in_precedence(problem: Problem, keys: Sequence[float]) -> list[int]:
    """Phase by phase the tiles with the smallest keys first, none before its predecessors."""
    tiles = problem.cut.tiles
    waiting = [len(before) for before in problem.cut.predecessors]
    ready = [(tiles[number].phase, keys[number], number) for number, count in enumerate(waiting) if not count]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        _, _, number = heapq.heappop(ready)
        order.append(number)
        for other in problem.cut.successors[number]:
            waiting[other] -= 1
            if not waiting[other]:
                heapq.heappush(ready, (tiles[other].phase, keys[other], other))
    return order


def scheduled(problem: Problem, cores: Sequence[int], order: Sequence[int]) -> Schedule:
    """Run clusters on `cores` with priorities in this order; NoScheduleError where memory does not hold the order."""
    return Forward(problem, activities(problem, cores), order).run()
