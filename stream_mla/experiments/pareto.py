"""The latency/energy front of one point: from the fastest schedule to the one of least energy, by latency caps.

Every point of the front is the outcome of an evaluation of its own and can be repeated as such; all of them share
their tilings.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import log

from stream_mla.evaluation import evaluate_in
from stream_mla.hardware.core_cost import Objective
from stream_mla.point import Point
from stream_mla.results.outcome import Outcome
from stream_mla.schedule.candidate import Candidate, Progress
from stream_mla.solvers.energy_mappings import MappingPool
from stream_mla.workload.lowering.attention import lower

SAME = 1e-9
"""Energies that differ by less than this share are equal."""


def front(point: Point, points: int, progress: Progress = lambda _: None) -> Iterator[Outcome]:
    """Yield the fastest schedule, the one of least energy, and those under up to so many caps between.

    Each cap goes to the middle of the part that is open widest, in latency times energy.
    Some may be dominated: see `non_dominated`. The objective of `point` has no effect.
    """
    graph = lower(point.workload, point.scheme)
    pool = MappingPool(point, graph, progress)

    def reach(objective: Objective, cap: int | None, *starts: Candidate) -> Outcome:
        aimed = replace(point, objective=objective, latency_cap_cycles=cap)
        return evaluate_in(pool, aimed, graph, progress, starts)

    fastest = reach(Objective.LATENCY_THEN_ENERGY, None)
    yield fastest
    thriftiest = reach(Objective.ENERGY, None, fastest.best)
    yield thriftiest
    gaps = [_Gap.between(fastest.result.latency_cycles, fastest, thriftiest)]
    for _ in range(points):
        gap = max(gaps, key=lambda one: one.area)
        if gap.high - gap.low < 2 or gap.area <= 0:
            return
        gaps.remove(gap)
        cap = max(gap.low + 1, min(gap.high - 1, round((gap.low * gap.high) ** 0.5)))
        found = reach(Objective.ENERGY, cap, fastest.best)
        yield found
        gaps += [_Gap.between(gap.low, gap.left, found), _Gap.between(cap, found, gap.right)]


@dataclass(frozen=True)
class _Gap:
    """An unknown part of the front: nothing better than `left` up to `low` cycles, and `right` at `high`."""

    low: int
    high: int
    left: Outcome
    right: Outcome

    @classmethod
    def between(cls, low: int, left: Outcome, right: Outcome) -> "_Gap":
        return cls(low, right.result.latency_cycles, left, right)

    @property
    def area(self) -> float:
        """It is what a schedule between could save, as latency (logarithmic) times energy."""
        saving = self.left.result.energy_pj - self.right.result.energy_pj
        return log(max(1, self.high) / self.low) * max(0.0, saving - SAME * self.left.result.energy_pj)


def non_dominated(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes that no other beats in latency or energy without losing in the other, fastest first."""
    kept: list[Outcome] = []
    for outcome in sorted(outcomes, key=lambda one: (one.result.latency_cycles, one.result.energy_pj)):
        if not kept or outcome.result.energy_pj < kept[-1].result.energy_pj * (1 - SAME):
            kept.append(outcome)
    return kept
