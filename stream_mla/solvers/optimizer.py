"""The search for the best schedule of one graph on one machine.

1. Several tilings are tried, each with its greedy schedule (`tiling_search`), and the best is the first incumbent.
2. `CONSTRUCTION` schedules the best tiling in other ways.
3. `IMPROVEMENT` takes the time limit to find a better schedule from the best one.

The best schedule is replayed; the schedule and its replay must both pass the checker, and the replay is returned.

Energy under a latency cap mixes two mappings of products, the fastest and the one of least energy
(`energy_mappings`). Latency-then-energy minimises latency first, then energy under a cap of `CAP_SLACK` above it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from stream_mla.errors import InfeasibleError, NoScheduleError
from stream_mla.gc_pause import gc_paused
from stream_mla.hardware.core_cost import Objective
from stream_mla.point import Point
from stream_mla.schedule.bounds.schedule_bounds import ideal_cycles
from stream_mla.schedule.candidate import Candidate, Progress, Story, verified
from stream_mla.schedule.problem import products
from stream_mla.solvers import methods
from stream_mla.solvers.budget import Budget
from stream_mla.solvers.energy_mappings import MappingPool
from stream_mla.solvers.incumbent import Goal, Incumbent
from stream_mla.solvers.methods import Method
from stream_mla.solvers.tiling_search import TilingSearch, until_stagnation
from stream_mla.workload.operator_graph import OperatorGraph

CONSTRUCTION = (
    Method(improve=methods.multi_start, applies=methods.pays_to_start_anew),
    Method(improve=methods.forward_backward, applies=methods.pays_to_shift),
)
"""These methods make the schedule of the best tiling anew; they need no time limit."""
IMPROVEMENT = (
    Method(improve=methods.forward_backward, applies=methods.can_shift),
    Method(
        improve=methods.hill_climbing,
        applies=methods.minimises_latency,
        time_share=methods.climbing_share,
        patience=300,
    ),
    Method(improve=methods.cp_sat, applies=methods.can_be_solved, time_share=methods.all_that_is_left),
    Method(
        improve=methods.large_neighbourhood,
        applies=methods.minimises_latency,
        time_share=methods.all_that_is_left,
        patience=40,
    ),
)
"""These methods share the time limit, in their order, until the gap is as small as asked for. What one leaves of it
goes to the next that applies: CP-SAT solves the whole where it is small enough, else windows of it."""
CAP_SLACK = 1e-3
"""Latency-then-energy may exceed the best latency found by this share: energy has little to choose from under the
best latency itself."""
MOST_REMAPPED = 3
"""Beside the best schedule, so many tilings get mappings of least energy, operator by operator, under a cap: each costs
as many replays as operators have energy to save."""


class Optimizer:
    """The best schedule of one point, as far as it has been found, and the order in which better ones are sought."""

    def __init__(self, point: Point, graph: OperatorGraph, progress: Progress, budget: Budget) -> None:
        self.point, self.graph, self.progress, self.budget = point, graph, progress, budget
        objective = Objective.ENERGY if point.objective is Objective.ENERGY else Objective.LATENCY
        self.incumbent = Incumbent(Goal(objective=objective, latency_cap_cycles=point.latency_cap_cycles), progress)
        self.ideal = ideal_cycles(graph, point.accelerator)
        self.greedy_cycles = 0
        """The latency before the first improvement."""
        improvements = 2 if point.objective is Objective.LATENCY_THEN_ENERGY else 1
        self.improvement_budget = replace(budget, time_limit_s=budget.time_limit_s / improvements)

    @property
    def best(self) -> Candidate | None:
        """The best candidate so far."""
        return self.incumbent.best

    def run(self, pool: MappingPool, starts: Sequence[Candidate]) -> None:
        """Search; whatever ends this, `best` is the best so far."""
        cap = self.point.latency_cap_cycles
        if cap is not None and cap < self.ideal:
            raise InfeasibleError(
                f"{self._name} takes at least {self.ideal:,} cycles on {self.point.accelerator.name}, whatever the "
                f"tiling: more than the latency cap of {cap:,}"
            )
        all_least_energy = self.point.objective is Objective.ENERGY and cap is None
        for start in starts:  # with the mappings that suit the objective
            least_energy_tiles = products(start.problem.tile_graph) if all_least_energy else frozenset[int]()
            self.incumbent.update(start if cap is not None else pool.remapped(start, least_energy_tiles))
        if self.point.objective is Objective.LATENCY:
            self._minimise_latency()
        elif all_least_energy:
            self._minimise_energy()
        elif cap is None:
            self._minimise_latency_then_energy(pool, starts)
        else:
            self._minimise_energy_under(cap, pool)

    def _minimise_latency(self) -> None:
        """Search all tilings for the fastest schedule."""
        search = TilingSearch(self.point, self.graph, Objective.LATENCY, self.budget, self.progress)
        enough = self.ideal * (1 + max(self.budget.near_gap, self.budget.gap_limit))
        self._take(search.improving_candidates(enough))
        self._construct()
        self._improve()

    def _minimise_energy(self) -> None:
        """Search all tilings for the schedule of least energy."""
        search = TilingSearch(self.point, self.graph, Objective.ENERGY, self.budget, self.progress)
        self._take(until_stagnation(search.candidates(), Objective.ENERGY, self.budget.patience))
        self._improve()

    def _minimise_latency_then_energy(self, pool: MappingPool, starts: Sequence[Candidate]) -> None:
        """Search for the fastest schedule, then for the one of least energy that takes hardly longer."""
        self._take(pool.fast())
        self._construct()
        self._improve()
        cap = int(self.incumbent.candidate.latency_cycles * (1 + CAP_SLACK))
        self.incumbent.goal = Goal(objective=Objective.ENERGY, latency_cap_cycles=cap)
        for start in starts:
            self.incumbent.update(start)
        self._save_energy(pool, cap)

    def _minimise_energy_under(self, cap: int, pool: MappingPool) -> None:
        """Search for the schedule of least energy under a latency cap."""
        self._take(pool.fast())
        if self.best is None:
            self._find_one_under(cap, min(pool.fast(), key=lambda candidate: candidate.latency_cycles))
        else:
            self._construct()
        self._save_energy(pool, cap)

    def _find_one_under(self, cap: int, fastest: Candidate) -> None:
        """Minimise latency from the fastest candidate, as none keeps to the cap; NoScheduleError if none does then."""
        under_the_cap = self.incumbent.goal
        self.incumbent.best, self.incumbent.goal = fastest, Goal(objective=Objective.LATENCY)
        try:
            self._construct()
            self._improve()
        finally:
            found = self.incumbent.candidate
            self.incumbent.best, self.incumbent.goal = None, under_the_cap
            self.incumbent.update(found)
        if self.best is None:
            seconds = found.latency_cycles / self.point.accelerator.clock
            raise NoScheduleError(
                f"no schedule of {self._name} on {self.point.accelerator.name} within {cap:,} cycles was found: the "
                f"fastest known takes {found.latency_cycles:,} cycles ({seconds * 1e6:,.1f} us), and none can take "
                f"less than {self.ideal:,}"
            )

    def _save_energy(self, pool: MappingPool, cap: int) -> None:
        """Give mappings of least energy to the best schedule and to the tilings that promise most, then improve it."""
        best = self.incumbent.candidate
        promising = sorted(
            (candidate for candidate in pool.fast() if candidate.latency_cycles <= cap),
            key=lambda candidate: pool.limits(candidate).energy_pj,
        )
        bases = [best, *(base for base in promising[:MOST_REMAPPED] if base is not best)]
        for number, base in enumerate(bases, start=1):
            for cheaper in pool.under(base, cap):
                self.incumbent.update(cheaper)
                self.incumbent.report(f"mappings of tiling {number} of {len(bases)}, ")
        best = self.incumbent.candidate
        self.incumbent.best = replace(best, limits=pool.limits(best))
        self._improve()

    @property
    def _name(self) -> str:
        """The model and scheme, as messages name them."""
        return f"{self.point.workload.model.name} as {self.point.scheme}"

    @gc_paused
    def _take(self, candidates: Iterable[Candidate]) -> None:
        """Show the incumbent one candidate per tiling."""
        for number, candidate in enumerate(candidates):
            self.incumbent.update(candidate)
            self.incumbent.report(f"tiling {number}: {len(candidate.problem.tile_graph.tiles):,} tiles, ")

    @gc_paused
    def _construct(self) -> None:
        """Schedule the best tiling in other ways."""
        self._apply(CONSTRUCTION, self.budget, Objective.LATENCY)

    def _improve(self) -> None:
        """Check the best schedule, and look for a better one where there is time for it."""
        self.incumbent.best = verified(self.incumbent.candidate)
        self.greedy_cycles = self.greedy_cycles or self.incumbent.best.latency_cycles
        if self.budget.time_limit_s > 0:
            self._apply(IMPROVEMENT, self.improvement_budget, self.incumbent.goal.objective)

    def _apply(self, listed: Iterable[Method], budget: Budget, objective: Objective) -> None:
        """Apply methods in their order to the incumbent, until its gap is as small as asked for."""
        left_s = budget.time_limit_s
        for method in listed:
            candidate = self.incumbent.candidate
            if candidate.within(budget.gap_limit, objective):
                return
            if not method.applies(candidate, budget, self.incumbent):
                continue
            own = budget
            if method.time_share is not None:
                if left_s <= 0:
                    return
                seconds = left_s * method.time_share(candidate, budget)
                left_s -= seconds
                own = replace(budget, time_limit_s=seconds, patience=method.patience)
            method.improve(candidate, own, self.incumbent)

    @gc_paused
    def settle(self, *, interrupted: bool) -> tuple[Candidate, Story]:
        """Return the best schedule, checked, and how it was found."""
        best = verified(self.incumbent.candidate)
        return best, Story(
            solved=tuple(
                solved if tile_graph is best.problem.tile_graph else replace(solved, bound_cycles=None)
                for tile_graph, solved in self.incumbent.solved
            ),
            greedy_latency_cycles=self.greedy_cycles or best.latency_cycles,
            latency_cap_cycles=self.incumbent.goal.latency_cap_cycles,
            start_sha256=best.origin,
            interrupted=interrupted,
        )
