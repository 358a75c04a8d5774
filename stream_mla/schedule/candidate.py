"""A schedule with its problem and bounds, and how it was found."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import fsum

from stream_mla.hardware.core_cost import Objective
from stream_mla.schedule.bounds.schedule_bounds import Bounds
from stream_mla.schedule.problem import Problem
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
        """What is minimised."""
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


def standing(value: float, bound: float, objective: Objective) -> str:
    """Say how good the best schedule is."""
    gap = f"gap {max(0.0, value - bound) / max(value, 1):.2%}"
    if objective is Objective.ENERGY:
        return f"best {value / 1e9:,.4f} mJ, bound {bound / 1e9:,.4f}, {gap}"
    return f"best {value:,.0f} cycles, bound {bound:,.0f}, {gap}"


@dataclass(frozen=True, kw_only=True)
class Solved:
    """What the solver, or the local search before it, said, whether or not its schedule was the better one."""

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
