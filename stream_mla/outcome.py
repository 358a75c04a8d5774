"""What an evaluation leaves behind."""

from dataclasses import dataclass

from stream_mla.problem import Problem
from stream_mla.result import Result
from stream_mla.schedule import Schedule
from stream_mla.search import Candidate


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A result with the schedule it describes."""

    result: Result
    best: Candidate

    @property
    def problem(self) -> Problem:
        """What was scheduled."""
        return self.best.problem

    @property
    def schedule(self) -> Schedule:
        """The schedule, as replayed."""
        return self.best.schedule


class Interrupted(KeyboardInterrupt):
    """Ctrl-C came when there was a schedule already: the best one, checked, is the `outcome`."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__("interrupted")
        self.outcome = outcome
