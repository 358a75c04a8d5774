"""A schedule with its problem and bounds, and how it was found."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import fsum

from stream_mla.gc_pause import gc_paused
from stream_mla.hardware.core_cost import Objective
from stream_mla.schedule.bounds.schedule_bounds import Bounds
from stream_mla.schedule.checker import violations
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.replay import replay
from stream_mla.schedule.schedule import Schedule, energy_parts_pj

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A schedule, with what it is a schedule of."""

    problem: Problem
    limits: Bounds
    schedule: Schedule
    least_energy_tiles: frozenset[int]
    """Tiles whose products use the mapping of least energy."""
    found_by: str
    origin: str = ""
    """Fingerprint of the point of a stored result that this is, or stems from."""
    checked: bool = False
    """Whether it is a replay that passed the checker, as did what was replayed."""

    @property
    def steps(self) -> int:
        """Tiles and moves: what it costs to find and check."""
        return len(self.schedule.runs) + len(self.schedule.transfers)

    @cached_property
    def latency_cycles(self) -> int:
        """Latency of the schedule."""
        return self.schedule.latency_cycles

    @cached_property
    def energy_pj(self) -> float:
        """Energy of the schedule."""
        return fsum(energy_parts_pj(self.problem, self.schedule).values())

    def bound(self, objective: Objective) -> float:
        """Return what no schedule of this tiling can beat."""
        return self.limits.energy_pj if objective is Objective.ENERGY else self.limits.lower_bound_cycles

    def value(self, objective: Objective) -> float:
        """It is what is minimised."""
        return self.energy_pj if objective is Objective.ENERGY else self.latency_cycles

    def within(self, share: float, objective: Objective) -> bool:
        """Whether its gap is at most so large: nothing can take less by more than this share of it."""
        value = self.value(objective)
        return value - self.bound(objective) <= value * share

    def beats(self, other: "Candidate", objective: Objective) -> bool:
        """Whether it is better; the other objective breaks ties."""
        mine, theirs = self.value(objective), other.value(objective)
        if mine != theirs:
            return mine < theirs
        tie = Objective.LATENCY if objective is Objective.ENERGY else Objective.ENERGY
        return self is not other and self.value(tie) < other.value(tie)


def gap_line(value: float, bound: float, objective: Objective) -> str:
    """Say how good a schedule is: its value, the bound on it, and the gap between them."""
    gap = f"gap {max(0.0, value - bound) / max(value, 1):.2%}"
    if objective is Objective.ENERGY:
        return f"best {value / 1e9:,.4f} mJ, bound {bound / 1e9:,.4f}, {gap}"
    return f"best {value:,.0f} cycles, bound {bound:,.0f}, {gap}"


@gc_paused
def verified(candidate: Candidate) -> Candidate:
    """Return the replay of a candidate; both must obey all rules, and the replay may not be later."""
    if candidate.checked:
        return candidate
    problem, schedule = candidate.problem, candidate.schedule
    again = replay(problem, schedule)
    for what, entry in (("schedule", schedule), ("replay", again)):
        if entry is again and again == schedule:
            continue  # the same times obey the same rules
        if broken := violations(problem, entry):
            raise AssertionError(
                f"the {what} of {candidate.found_by} breaks {len(broken)} rules: {'; '.join(broken[:5])}"
            )
    if again.latency_cycles > schedule.latency_cycles:
        raise AssertionError(
            f"{candidate.found_by} claims {schedule.latency_cycles} cycles, the replay takes {again.latency_cycles}"
        )
    return replace(candidate, schedule=again, checked=True)


@dataclass(frozen=True, kw_only=True)
class Solved:
    """It is what the solver, or the local search before it, said, whether or not its schedule was the better one."""

    objective: Objective
    status: str
    bound_cycles: int | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Story:
    """How a schedule was found."""

    solved: tuple[Solved, ...]
    greedy_latency_cycles: int
    latency_cap_cycles: int | None
    start_sha256: str
    interrupted: bool
