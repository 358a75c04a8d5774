"""Decisions to a schedule: given cores and a priority order, the machine of `stream_mla` finds the times.

The alternatives decide; times, memory and traffic follow by the same rules for all of them.
"""

from collections.abc import Sequence

from stream_mla.schedule.activities import activities
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.schedule import Schedule
from stream_mla.solvers.list_scheduling.list_scheduler import ListScheduler


def scheduled(problem: Problem, cores: Sequence[int], order: Sequence[int]) -> Schedule:
    """Run clusters on `cores` with priorities in this order; NoScheduleError where memory does not hold the order."""
    return ListScheduler(problem, activities(problem, cores), order).run()
