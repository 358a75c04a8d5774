"""This module is about what an evaluation leaves behind."""

from dataclasses import dataclass

from stream_mla.results.result import Result
from stream_mla.results.short import Facts, ShortTable
from stream_mla.schedule.candidate import Candidate
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.schedule import Schedule
from stream_mla.workload.segments import Segment


@dataclass(frozen=True, kw_only=True, repr=False)
class Outcome(ShortTable):
    """A result with the schedule it describes. It prints as its result does."""

    result: Result
    best: Candidate
    """It holds, for a layer in passes: the schedule of the pass that takes longest."""
    segments: tuple["SegmentOutcome", ...] = ()
    """Empty where the layer is scheduled as a whole."""

    def title(self) -> str:
        """Return the title of the result."""
        return self.result.title()

    def headline(self) -> str:
        """Return the headline of the result."""
        return self.result.headline()

    def facts(self) -> Facts:
        """Return the facts of the result."""
        return self.result.facts()

    @property
    def problem(self) -> Problem:
        """It is what was scheduled."""
        return self.best.problem

    @property
    def schedule(self) -> Schedule:
        """The schedule, as replayed."""
        return self.best.schedule


@dataclass(frozen=True, kw_only=True)
class SegmentOutcome:
    """A pass, how often it runs, and its schedule."""

    part: Segment
    outcome: Outcome


class Interrupted(KeyboardInterrupt):
    """Ctrl-C came when there was a schedule already: the best one, checked, is the `outcome`."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__("interrupted")
        self.outcome = outcome
