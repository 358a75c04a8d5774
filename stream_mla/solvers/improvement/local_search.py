"""It says what hill climbing and windows share: rounds that keep what is better, until the time or the hope is over.

A search counts what it costs in steps, so a seed repeats it exactly, unless the clock, as a last resort, ends it first.
"""

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from stream_mla.schedule.schedule import Schedule
from stream_mla.solvers.budget import Budget


@dataclass(frozen=True, kw_only=True)
class Improved:
    """It is what a local search made of a schedule."""

    schedule: Schedule
    rounds: int
    gains: int
    interrupted: bool


class LocalSearch(ABC):
    """The best schedule so far, and how the search for a better one gets on."""

    def __init__(self, schedule: Schedule, budget: Budget) -> None:
        self.best, self.cycles = schedule, schedule.latency_cycles
        self.budget, self.random = budget, random.Random(budget.seed)
        self.rounds = self.gains = self.vain = 0

    @abstractmethod
    def affords_round(self) -> bool:
        """Return whether the time limit allows for one more round."""

    @abstractmethod
    def round(self) -> Schedule | None:
        """Try one change; return a schedule that is no longer than the best, or None."""

    def _keep(self, found: Schedule) -> bool:
        """Return whether what was found is shorter."""
        gained = found.latency_cycles < self.cycles
        self.best, self.cycles = found, found.latency_cycles
        if gained:
            self.gains += 1
            self.vain = 0
        return gained

    def run(self, lower_bound_cycles: float, progress: Callable[[int], None]) -> Improved:
        """Search until the budget is spent or the gap small enough; Ctrl-C ends it with the best so far."""
        deadline = time.perf_counter() + self.budget.clock_factor * self.budget.time_limit_s
        enough_cycles = self.budget.enough_cycles(lower_bound_cycles)
        interrupted = False
        try:
            while self.cycles > enough_cycles and self.vain < self.budget.patience:
                if not self.affords_round() or time.perf_counter() >= deadline:
                    break
                self.rounds += 1
                self.vain += 1
                found = self.round()
                if found is not None and self._keep(found):
                    progress(self.cycles)
        except KeyboardInterrupt:
            interrupted = True
        return Improved(schedule=self.best, rounds=self.rounds, gains=self.gains, interrupted=interrupted)
