"""The methods that improve a candidate, each `(candidate, budget, incumbent) -> candidate`.

A method starts from a candidate, spends at most its budget, shows each better candidate to the incumbent as it finds
it (so that an interrupt loses nothing), and returns the incumbent that it leaves. The optimizer lists the methods in
their order, each with the condition under which it applies: those are below the methods.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from stream_mla.hardware.core_cost import Objective
from stream_mla.schedule.bounds.schedule_bounds import bounds
from stream_mla.schedule.candidate import Candidate, gap_line, verified
from stream_mla.schedule.schedule import Schedule
from stream_mla.solvers.budget import Budget
from stream_mla.solvers.improvement.hill_climbing import climb
from stream_mla.solvers.improvement.right_shift import right_shifted
from stream_mla.solvers.incumbent import Incumbent
from stream_mla.solvers.list_scheduling.multi_start import multi_start as other_schedules

MOST_SHIFTS = 4
"""Forward-backward improvement is done at most so many times in a row: later ones hardly gain."""
LEAST_SHIFT_GAIN = 1e-3
"""Forward-backward improvement goes on only where it gained this share of the latency: each time costs more than a
replay."""
CLIMBING_SHARE = 0.5
"""Hill climbing takes this share of the time before CP-SAT gets the rest."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to a better candidate, when it applies, and the share of the time that it gets."""

    improve: Callable[[Candidate, Budget, Incumbent], Candidate]
    applies: Callable[[Candidate, Budget, Incumbent], bool]
    time_share: Callable[[Candidate, Budget], float] | None = None
    """The share of the time left that the method may take; None for a method that ends by itself."""
    patience: int = 0
    """The method ends after so many rounds in a row without a gain."""


def multi_start(candidate: Candidate, budget: Budget, incumbent: Incumbent) -> Candidate:
    """Try other orders and placements of the same tiling."""
    tries = budget.tries(candidate.steps)
    for schedule in other_schedules(candidate.problem, lambda: incumbent.to_beat, tries):
        incumbent.update(replace(incumbent.candidate, schedule=schedule, found_by="greedy", checked=False))
        incumbent.report("other orders, ")
        if incumbent.candidate.within(budget.gap_limit, Objective.LATENCY):
            break
    return incumbent.candidate


def forward_backward(candidate: Candidate, budget: Budget, incumbent: Incumbent) -> Candidate:
    """Shift all steps to the right and let the replay move them up again, as long as that gains."""
    for _ in range(min(MOST_SHIFTS, budget.tries(candidate.steps))):
        if incumbent.within(budget.gap_limit):
            break
        best = incumbent.candidate
        shifted = right_shifted(best.problem, best.schedule)
        incumbent.update(verified(replace(best, schedule=shifted, checked=False)))
        incumbent.report("put off, ")
        if incumbent.candidate.latency_cycles > best.latency_cycles * (1 - LEAST_SHIFT_GAIN):
            break
    incumbent.shifted_cycles = incumbent.candidate.latency_cycles
    return incumbent.candidate


def hill_climbing(candidate: Candidate, budget: Budget, incumbent: Incumbent) -> Candidate:
    """Change one decision after the other, and keep what is faster."""
    began = time.perf_counter()
    found = climb(
        candidate.problem,
        candidate.schedule,
        budget,
        lower_bound_cycles=candidate.limits.lower_bound_cycles,
        progress=_gap_reporter("climbing", candidate, incumbent),
    )
    if found.gains:
        better = replace(candidate, schedule=found.schedule, found_by="climbing", checked=False)
        incumbent.update(verified(better))
    if found.rounds:
        seconds = time.perf_counter() - began
        incumbent.record(f"{found.gains} gains in {found.rounds} changes", seconds=seconds)
    elif candidate.steps > budget.window_steps:
        incumbent.record(f"skipped: {candidate.steps} tiles and moves")
    if found.interrupted:
        raise KeyboardInterrupt
    return incumbent.candidate


def cp_sat(candidate: Candidate, budget: Budget, incumbent: Incumbent) -> Candidate:
    """Let CP-SAT decide everything at once."""
    objective = incumbent.goal.objective
    if candidate.steps > budget.whole_steps:
        incumbent.record(f"skipped: {candidate.steps} tiles and moves")
        return incumbent.candidate
    if objective is Objective.ENERGY and candidate.energy_pj <= bounds(candidate.problem).energy_pj * (1 + 1e-12):
        incumbent.record("not needed: no placement takes less energy with these mappings")
        return incumbent.candidate
    from stream_mla.solvers.cp_sat import solve  # loads OR-Tools, which only this method and windows need

    found = solve.improve(
        replace(candidate.problem, objective=objective),
        candidate.schedule,
        lower_bound_cycles=candidate.limits.lower_bound_cycles,
        energy_bound_pj=candidate.limits.energy_pj,
        budget=budget,
        latency_cap_cycles=incumbent.goal.latency_cap_cycles if objective is Objective.ENERGY else None,
        progress=lambda value, bound: incumbent.progress(f"cp_sat: {gap_line(value, bound, objective)}"),
    )
    if found.schedule is not None:
        incumbent.update(verified(replace(candidate, schedule=found.schedule, found_by="cp_sat", checked=False)))
    incumbent.record(found.status, bound_cycles=found.bound_cycles, seconds=found.seconds)
    if found.interrupted:
        raise KeyboardInterrupt
    return incumbent.candidate


def large_neighbourhood(candidate: Candidate, budget: Budget, incumbent: Incumbent) -> Candidate:
    """Let CP-SAT improve one window of time after the other, where the whole is too large for it."""
    from stream_mla.solvers.improvement.large_neighbourhood import improve_windows  # loads OR-Tools

    began = time.perf_counter()

    def replayed(schedule: Schedule) -> Schedule:
        return verified(replace(candidate, schedule=schedule, found_by="windows", checked=False)).schedule

    found = improve_windows(
        candidate.problem,
        candidate.schedule,
        replayed,
        budget,
        lower_bound_cycles=candidate.limits.lower_bound_cycles,
        progress=_gap_reporter("windows", candidate, incumbent),
    )
    incumbent.update(replace(candidate, schedule=found.schedule, found_by="windows"))
    seconds = time.perf_counter() - began
    incumbent.record(f"{found.gains} gains in {found.rounds} windows", seconds=seconds)
    if found.interrupted:
        raise KeyboardInterrupt
    return incumbent.candidate


def _gap_reporter(name: str, candidate: Candidate, incumbent: Incumbent) -> Callable[[int], None]:
    """Return what tells the progress how good a latency is that a method has reached."""
    bound = candidate.limits.lower_bound_cycles
    return lambda cycles: incumbent.progress(f"{name}: {gap_line(cycles, bound, Objective.LATENCY)}")


def pays_to_start_anew(candidate: Candidate, budget: Budget, _: Incumbent) -> bool:
    """Return whether the latency gap is wide, or open where the schedule is small."""
    small = budget.counts_as_small(candidate.steps)
    gap = budget.gap_limit if small else max(budget.wide_gap, budget.gap_limit)
    return not candidate.within(gap, Objective.LATENCY)


def pays_to_shift(candidate: Candidate, budget: Budget, incumbent: Incumbent) -> bool:
    """Return whether the latency gap is wide and shifting to the right may still gain."""
    wide = max(budget.wide_gap, budget.gap_limit)
    return not candidate.within(wide, Objective.LATENCY) and can_shift(candidate, budget, incumbent)


def can_shift(candidate: Candidate, _: Budget, incumbent: Incumbent) -> bool:
    """Return whether shifting to the right may still gain: it does nothing for energy."""
    return incumbent.goal.objective is Objective.LATENCY and candidate.latency_cycles != incumbent.shifted_cycles


def minimises_latency(_candidate: Candidate, _budget: Budget, incumbent: Incumbent) -> bool:
    """Return whether latency is the objective."""
    return incumbent.goal.objective is Objective.LATENCY


def can_be_solved(candidate: Candidate, budget: Budget, incumbent: Incumbent) -> bool:
    """Return whether CP-SAT is asked: it has no substitute for energy, and where it is left out it says so."""
    return candidate.steps <= budget.whole_steps or incumbent.goal.objective is Objective.ENERGY


def climbing_share(candidate: Candidate, budget: Budget) -> float:
    """Return the share of the time for hill climbing: all of it where CP-SAT is left out."""
    return 1.0 if candidate.steps > budget.window_steps else CLIMBING_SHARE


def all_that_is_left(_candidate: Candidate, _budget: Budget) -> float:
    """Return the whole of the time that is left."""
    return 1.0
