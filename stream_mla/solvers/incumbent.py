"""The best candidate that a search has found so far, the goal it is measured by, and what is reported on the way."""

from dataclasses import dataclass
from math import inf

from stream_mla.hardware.core_cost import Objective
from stream_mla.mapping.tiling.tile_graph import TileGraph
from stream_mla.schedule.candidate import Candidate, Progress, Solved, gap_line


@dataclass(frozen=True, kw_only=True)
class Goal:
    """The objective of a search, and the latency that its schedules must keep to."""

    objective: Objective
    latency_cap_cycles: int | None = None

    def admits(self, candidate: Candidate) -> bool:
        """Return whether a candidate keeps to the latency cap."""
        return self.latency_cap_cycles is None or candidate.latency_cycles <= self.latency_cap_cycles


class Incumbent:
    """The best candidate so far, and the record of the searches that looked for a better one."""

    def __init__(self, goal: Goal, progress: Progress) -> None:
        self.goal, self.progress = goal, progress
        self.best: Candidate | None = None
        self.solved: list[tuple[TileGraph, Solved]] = []
        """The tiles that each search was given, and what it reports."""
        self.shifted_cycles = 0
        """The latency at which forward-backward improvement last ended: at this latency it gains nothing more."""

    @property
    def candidate(self) -> Candidate:
        """The best candidate, once there is one."""
        assert self.best is not None, "a search over tilings without a candidate ends in an error"
        return self.best

    @property
    def to_beat(self) -> float:
        """The latency that a faster schedule may have at most."""
        return inf if self.best is None else self.best.latency_cycles - 1

    def update(self, candidate: Candidate) -> None:
        """Make a candidate the incumbent if it keeps to the cap and is better."""
        if self.goal.admits(candidate) and (self.best is None or candidate.beats(self.best, self.goal.objective)):
            self.best = candidate

    def within(self, gap: float) -> bool:
        """Return whether the gap of the incumbent, by the objective of the goal, is at most so large."""
        return self.candidate.within(gap, self.goal.objective)

    def report(self, prefix: str) -> None:
        """Tell the progress: a prefix, and how good the incumbent is."""
        if self.best is None:
            self.progress(f"{prefix}none under the cap yet")
            return
        objective = self.goal.objective
        self.progress(prefix + gap_line(self.best.value(objective), self.best.bound(objective), objective))

    def record(self, status: str, *, bound_cycles: int | None = None, seconds: float = 0.0) -> None:
        """Keep what a search reports about its end, whether or not its schedule became the incumbent."""
        entry = Solved(objective=self.goal.objective, status=status, bound_cycles=bound_cycles, seconds=seconds)
        self.solved.append((self.candidate.problem.tile_graph, entry))
