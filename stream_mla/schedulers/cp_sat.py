"""The exact scheduler; with `cp_sat_model`, the only module that knows OR-Tools.

One CP-SAT model decides the core of every cluster, the start of every tile, load, send and store, and how long
each copy of a block stays in a memory. It starts from a complete hint, a valid schedule that is also its
horizon, so it returns something at least as good or nothing. With one worker the budget is deterministic
time and a seed repeats the search exactly (unless the clock, as a last resort, ends it first); with more, it is
wall-clock time and it may not.

Where clusters x cores are more than `MOST_CHOICES`, the clusters keep the cores of the hint. The solver's bound then
holds for that placement only, and is not reported.
"""

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ortools.sat.python import cp_model

from stream_mla.cost import Objective
from stream_mla.problem import Problem
from stream_mla.schedule import Schedule, energy_parts_pj
from stream_mla.schedulers.cp_sat_model import Model

MOST_CHOICES = 1500
STEPS_PER_DETERMINISTIC_SECOND = 400
"""One unit of OR-Tools' deterministic time takes about a second with up to so many tiles and moves, and proportionally
longer with more (measured with 9.15: 1.0 s at 500, 4.5 s at 1,900, 10 s at 3,500)."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long to search, and how to repeat it."""

    time_limit_s: float
    gap_limit: float
    """Stop when the schedule is proven to be within this share of the optimum."""
    seed: int
    workers: int


@dataclass(frozen=True, kw_only=True)
class Solution:
    """What the solver found."""

    status: str
    """OPTIMAL, FEASIBLE, UNKNOWN: OR-Tools' own word."""
    schedule: Schedule | None
    bound_cycles: int | None
    """A proven lower bound on the latency; None where the objective or the placement allows none."""
    seconds: float


class _Report(cp_model.CpSolverSolutionCallback):
    """Tell objective, bound and gap at every solution."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        super().__init__()
        self.progress = progress

    def on_solution_callback(self) -> None:
        """Called by OR-Tools."""
        objective, bound = self.objective_value, self.best_objective_bound
        gap = (objective - bound) / max(objective, 1)
        self.progress(f"cp_sat: objective {objective:.0f}, bound {bound:.0f}, gap {gap:.2%}, {self.wall_time:.1f} s")


def _solve(solver: cp_model.CpSolver, model: cp_model.CpModel, report: _Report) -> cp_model.CpSolverStatus:
    """Solve in a thread, so that Ctrl-C stops the search at once and is raised here."""
    solver.parameters.catch_sigint_signal = False
    with ThreadPoolExecutor(max_workers=1) as pool:
        running = pool.submit(solver.solve, model, report)
        try:
            return running.result()
        except KeyboardInterrupt:
            solver.stop_search()
            raise


def improve(
    problem: Problem,
    schedule: Schedule,
    *,
    lower_bound_cycles: int,
    budget: Budget,
    progress: Callable[[str], None] = lambda _: None,
) -> Solution:
    """Search for a schedule better than the one given, which is the hint and the horizon."""
    began = time.perf_counter()
    choices = sum(len(cores) for cores in problem.candidates if len(cores) > 1)
    fixed = choices > MOST_CHOICES
    built = Model(problem, schedule, fixed=fixed)
    energy = math.fsum(energy_parts_pj(problem, schedule).values())
    built.minimise(problem.objective, lower_bound_cycles, energy)
    solver = cp_model.CpSolver()
    parameters = solver.parameters
    parameters.num_workers = budget.workers
    parameters.random_seed = budget.seed
    parameters.relative_gap_limit = budget.gap_limit
    if budget.workers == 1:
        steps = len(schedule.runs) + len(schedule.moves)
        parameters.interleave_search = True
        parameters.max_deterministic_time = budget.time_limit_s / max(1.0, steps / STEPS_PER_DETERMINISTIC_SECOND)
        parameters.max_time_in_seconds = 2 * budget.time_limit_s  # presolve is hardly counted
    else:
        parameters.max_time_in_seconds = budget.time_limit_s
    status = _solve(solver, built.model, _Report(progress))
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    bounded = problem.objective is Objective.LATENCY and not fixed
    bound = max(lower_bound_cycles, math.ceil(solver.best_objective_bound - 1e-6)) if found and bounded else None
    return Solution(
        status=solver.status_name(status) + (" for the placement of greedy" if fixed else ""),
        schedule=built.extract(solver) if found else None,
        bound_cycles=bound,
        seconds=time.perf_counter() - began,
    )
