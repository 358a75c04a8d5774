"""Decisions to a schedule: given cores and a priority order, the machine of `stream_mla` finds the times.

The alternatives decide; times, memory and traffic follow by the same rules for all of them.
"""

from collections.abc import Sequence

from stream_mla.problem import Problem, activities
from stream_mla.schedule import Schedule
from stream_mla.schedulers.forward import Forward


def scheduled(problem: Problem, cores: Sequence[int], order: Sequence[int]) -> Schedule:
    """Run clusters on `cores` with priorities in this order; NoScheduleError where memory does not hold the order."""
    return Forward(problem, activities(problem, cores), order).run()
