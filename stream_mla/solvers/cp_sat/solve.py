"""The exact scheduler; only the modules `cp_sat*` know OR-Tools.

One CP-SAT model decides the core of every cluster, the start of every tile, load, send and store, and how long
each copy of a block stays in a memory. It starts from a complete hint, a valid schedule that is also its
horizon, so it returns something at least as good or nothing. With one worker the budget is deterministic
time and a seed repeats the search exactly (unless the clock, as a last resort, ends it first); with more, it is
wall-clock time and it may not.

Where clusters x cores are more than `MOST_CHOICES`, the clusters keep the cores of the hint. The solver's bound then
holds for that placement only, and is not reported. Nor is it where the hint loads a shared block several times over one
multicast bus, because its memories had no room at once: the model keeps to these loads.
"""

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

from ortools.sat.python import cp_model

from stream_mla.hardware.core_cost import Objective
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.schedule import Schedule, energy_parts_pj
from stream_mla.solvers.budget import Budget
from stream_mla.solvers.cp_sat.model import ENERGY_STEPS, Model

MOST_CHOICES = 1500
STEPS_PER_DETERMINISTIC_SECOND = 400
"""One unit of OR-Tools' deterministic time takes about a second with up to so many tiles and moves, and proportionally
longer with more (measured with 9.15: 1.0 s at 500, 4.5 s at 1,900, 10 s at 3,500)."""


@dataclass(frozen=True, kw_only=True)
class Solution:
    """It is what the solver found."""

    status: str
    """OPTIMAL, FEASIBLE, UNKNOWN: OR-Tools' own word."""
    schedule: Schedule | None
    bound_cycles: int | None
    """A proven lower bound on the latency; None where the objective or the placement allows none."""
    seconds: float
    interrupted: bool
    """Ctrl-C ended the search; the schedule is the best found until then."""


Progress = Callable[[float, float], None]
"""Told the objective (cycles or pJ) of the best schedule and the bound, whenever one of them improves."""


class _Report(cp_model.CpSolverSolutionCallback):
    """Tells every solution, and every better bound from the first solution on."""

    def __init__(self, progress: Progress, *, per_unit: float, floor: float) -> None:
        """`per_unit`: cycles or pJ of one step of OR-Tools' objective; `floor`: a bound known before."""
        super().__init__()
        self.progress, self.per_unit, self.floor = progress, per_unit, floor
        self.best: float | None = None

    def on_solution_callback(self) -> None:
        """Called by OR-Tools."""
        self.best = self.objective_value
        self.tell(self.best_objective_bound)

    def tell(self, bound: float) -> None:
        """Called with every better bound."""
        if self.best is not None:
            self.progress(self.best * self.per_unit, max(self.floor, bound * self.per_unit))


def _solve(
    solver: cp_model.CpSolver, model: cp_model.CpModel, report: _Report
) -> "tuple[cp_model.CpSolverStatus, bool]":  # a string: OR-Tools 9.14 lacks the name
    """Solve in a thread, so that Ctrl-C ends the search at once; return the status, and whether that was so."""
    solver.parameters.catch_sigint_signal = False
    solver.best_bound_callback = report.tell
    with ThreadPoolExecutor(max_workers=1) as pool:
        running = pool.submit(solver.solve, model, report)
        try:
            return running.result(), False
        except KeyboardInterrupt:
            while not running.done():  # again and again, as the search may not have begun
                solver.stop_search()
                wait([running], timeout=0.1)
            return running.result(), True


def _solver(budget: Budget, steps: int) -> cp_model.CpSolver:
    solver = cp_model.CpSolver()
    parameters = solver.parameters
    parameters.num_workers = budget.workers
    parameters.random_seed = budget.seed
    parameters.relative_gap_limit = budget.gap_limit
    if budget.workers == 1:
        parameters.interleave_search = True
        parameters.max_deterministic_time = budget.time_limit_s / max(1.0, steps / STEPS_PER_DETERMINISTIC_SECOND)
        parameters.max_time_in_seconds = budget.clock_factor * budget.time_limit_s  # presolve is hardly counted
    else:
        parameters.max_time_in_seconds = budget.time_limit_s
    return solver


def improve(
    problem: Problem,
    schedule: Schedule,
    *,
    lower_bound_cycles: int,
    energy_bound_pj: float = 0.0,
    budget: Budget,
    latency_cap_cycles: int | None = None,
    progress: Progress = lambda _value, _bound: None,
) -> Solution:
    """Search for a schedule better than the one given, which is the hint.

    It is the horizon too, unless a cap allows more.
    """
    began = time.perf_counter()
    choices = sum(len(cores) for cores in problem.candidates if len(cores) > 1)
    fixed = choices > MOST_CHOICES
    built = Model(problem, schedule, fixed=fixed, horizon=latency_cap_cycles)
    energy = math.fsum(energy_parts_pj(problem, schedule).values())
    built.minimise(problem.objective, lower_bound_cycles, energy)
    for_energy = problem.objective is Objective.ENERGY
    solver = _solver(budget, len(schedule.runs) + len(schedule.transfers))
    report = _Report(
        progress,
        per_unit=energy / ENERGY_STEPS / (built.horizon + 1) if for_energy else 1.0,
        floor=energy_bound_pj if for_energy else lower_bound_cycles,
    )
    status, interrupted = _solve(solver, built.model, report)
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    bounded = not for_energy and not fixed and not built.splits_multicasts
    bound = max(lower_bound_cycles, math.ceil(solver.best_objective_bound - 1e-6)) if found and bounded else None
    return Solution(
        status=solver.status_name(status) + (" for the placement of greedy" if fixed else ""),
        schedule=built.extract(solver) if found else None,
        bound_cycles=bound,
        seconds=time.perf_counter() - began,
        interrupted=interrupted,
    )
