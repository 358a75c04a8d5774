"""The hunt for the best schedule of one graph on one machine.

Several tilings are tried with the greedy scheduler and the best is kept; the solver then improves its schedule.
What is returned is the replay of the better one, and both opinions passed the checker.

Energy under a latency cap mixes two mappings of products, the fastest and the one of least energy (see `search`).
Latency-then-energy is the search for latency, then energy under a cap of what was found, within `WITHIN`.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf

from stream_mla.errors import InfeasibleError, NoScheduleError
from stream_mla.gc_pause import gc_paused
from stream_mla.hardware.core_cost import Objective
from stream_mla.mapping.tiling.tile_graph import TileGraph
from stream_mla.point import Point
from stream_mla.schedule.bounds.schedule_bounds import bounds, ideal_cycles
from stream_mla.schedule.candidate import Candidate, Progress, Solved, Story, standing
from stream_mla.schedule.checker import violations
from stream_mla.schedule.problem import products
from stream_mla.schedule.replay import replay
from stream_mla.schedule.schedule import Schedule
from stream_mla.solvers.energy_mappings import MappingPool
from stream_mla.solvers.improvement.hill_climbing import climb
from stream_mla.solvers.improvement.right_shift import right_shifted
from stream_mla.solvers.list_scheduling.multi_start import multi_start
from stream_mla.solvers.tiling_search import greedy_candidates, improving_candidates, until_stagnation
from stream_mla.workload.operator_graph import OperatorGraph

NEAR = 5e-3
"""The search over tilings ends with a greedy schedule within this share of what no tiling can beat."""
ROOM, FEW, STEPS_PER_S = 1e-2, 5000, 1500
"""Other orders of the best tiling are tried where its gap is more than this. Where it has few tiles and moves, which
takes under a second, or fewer than so many for each second that the solver may take, they are tried wherever the gap is
more than asked for."""
STEPS_TRIED = 1_000_000
"""Other orders may have so many tiles and moves together, about a minute; so may schedules that are put off."""
SLIGHT, MOST_ROUNDS = 1e-3, 4
"""What putting off must gain to be done again, and how often it is done at most: each time costs more than a replay."""
WITHIN = 1e-3
"""Latency-then-energy may exceed the best latency found by this share."""
MOST_BLENDS = 3
"""Tilings whose mappings are chosen operator by operator, under a cap."""
MOST_ACTIVITIES = 3000
"""Where tiles and moves are more than this, the solver gets windows of the schedule: it would not improve the whole."""
MOST_IN_WINDOWS = 20_000
"""Where they are more than this, it is left out: windows gain nothing there in half a minute."""
CLIMBING = 0.5
"""Share of the time limit for hill climbing, before CP-SAT gets the rest; all of it where CP-SAT is left out."""


class Optimizer:
    """The best schedule found so far of one point, and the ways to better ones."""

    def __init__(self, point: Point, graph: OperatorGraph, progress: Progress) -> None:
        self.point, self.graph, self.progress = point, graph, progress
        self.aim = Objective.ENERGY if point.objective is Objective.ENERGY else Objective.LATENCY
        self.cap = point.latency_cap_cycles
        self.ideal = ideal_cycles(graph, point.accelerator)
        self.best: Candidate | None = None
        self.settled = 0
        """Cycles of what gains nothing by being put off."""
        self.greedy_cycles = 0
        self.solver_rounds = 2 if point.objective is Objective.LATENCY_THEN_ENERGY else 1
        """Of the solver, which share its time."""
        self.solved: list[tuple[TileGraph, Solved]] = []
        """What the solver said, and of which tiling."""

    def run(self, pool: MappingPool, starts: Sequence[Candidate]) -> None:
        """Search; whatever ends this, `best` is the best so far."""
        name = f"{self.point.workload.model.name} as {self.point.scheme}"
        if self.cap is not None and self.cap < self.ideal:
            raise InfeasibleError(
                f"{name} takes at least {self.ideal:,} cycles on {self.point.accelerator.name}, whatever the tiling: "
                f"more than the latency cap of {self.cap:,}"
            )
        all_least_energy = self.point.objective is Objective.ENERGY and self.cap is None
        for start in starts:  # with the mappings that suit the objective
            least_energy_tiles = products(start.problem.tile_graph) if all_least_energy else frozenset[int]()
            self._consider(start if self.cap is not None else pool.remapped(start, least_energy_tiles))
        if self.point.objective is Objective.LATENCY:
            self._try_tilings(Objective.LATENCY, enough=self.ideal * (1 + max(NEAR, self.point.gap_limit)))
            self._improve()
        elif all_least_energy:
            self._try_tilings(Objective.ENERGY, enough=0)
            self._improve()
        else:
            self._under_cap(pool, starts)

    @gc_paused
    def _try_tilings(self, objective: Objective, enough: float) -> None:
        if objective is Objective.LATENCY:
            candidates = improving_candidates(self.point, self.graph, self.progress, enough)
        else:
            candidates = until_stagnation(
                greedy_candidates(self.point, self.graph, objective, self.progress), objective
            )
        for number, candidate in enumerate(candidates):
            self._consider(candidate)
            self._say(f"tiling {number}: {len(candidate.problem.tile_graph.tiles):,} tiles, ")
        self._try_variants(objective)

    @gc_paused
    def _try_variants(self, objective: Objective) -> None:
        """Try other orders and placements of the best tiling, where its bound leaves room for them."""
        if self.best is None or objective is not Objective.LATENCY:
            return
        wide, narrow = max(ROOM, self.point.gap_limit), self.point.gap_limit
        few = max(FEW, STEPS_PER_S * self.point.time_limit_s)
        if self.best.within(narrow if self.best.steps <= few else wide, objective):
            return
        for schedule in multi_start(self.best.problem, self._to_beat, self._tries()):
            self._consider(replace(self.best, schedule=schedule, found_by="greedy", checked=False))
            self._say("other orders, ")
            if self.best.within(narrow, objective):
                return
        if not self.best.within(wide, objective):
            self._forward_backward()

    def _tries(self) -> int:
        """How many other orders of the best tiling are worth their time."""
        assert self.best is not None
        return max(1, STEPS_TRIED // self.best.steps)

    def _forward_backward(self) -> None:
        """Put all steps off and let them move up again, as long as that gains and more is asked for."""
        assert self.best is not None
        if self.aim is not Objective.LATENCY or self.best.latency_cycles == self.settled:
            return
        for _ in range(min(MOST_ROUNDS, self._tries())):
            if self.best.within(self.point.gap_limit, self.aim):
                break
            before = self.best.latency_cycles
            later = replace(self.best, schedule=right_shifted(self.best.problem, self.best.schedule), checked=False)
            self._consider(self._checked(later))
            self._say("put off, ")
            if self.best.latency_cycles > before * (1 - SLIGHT):
                break
        self.settled = self.best.latency_cycles

    def _to_beat(self) -> float:
        """Cycles that a better schedule may take."""
        return inf if self.best is None else self.best.latency_cycles - 1

    def _under_cap(self, pool: MappingPool, starts: Sequence[Candidate]) -> None:
        """Least energy under the cap; without one, least latency first, and what is found is the cap."""
        fastest: Candidate | None = None
        for number, candidate in enumerate(pool.fast()):
            if fastest is None or candidate.latency_cycles < fastest.latency_cycles:
                fastest = candidate
            self._consider(candidate)
            self._say(f"tiling {number}: {len(candidate.problem.tile_graph.tiles):,} tiles, ")
        assert fastest is not None, "a search without any tiling that fits ends in an error"
        if self.cap is None:
            self._try_variants(Objective.LATENCY)
            self._improve()
            assert self.best is not None
            self.cap = int(self.best.latency_cycles * (1 + WITHIN))
            self.aim = Objective.ENERGY
            for start in starts:
                self._consider(start)
        elif self.best is None:
            self._hurry(fastest, self.cap)
        else:
            self._try_variants(Objective.LATENCY)
        self._save_energy(pool, self.cap)
        assert self.best is not None
        self.best = replace(self.best, limits=pool.limits(self.best))
        self._improve()

    def _hurry(self, fastest: Candidate, cap: int) -> None:
        """Look for a schedule under the cap with other orders and the solver, as greedy found none."""
        self.best, self.aim, self.cap = fastest, Objective.LATENCY, None
        try:
            self._try_variants(Objective.LATENCY)
            self._improve()
        finally:
            found, self.best, self.aim, self.cap = self.best, None, Objective.ENERGY, cap
            self._consider(found)
        if self.best is None:
            seconds = found.latency_cycles / self.point.accelerator.clock
            raise NoScheduleError(
                f"no schedule of {self.point.workload.model.name} as {self.point.scheme} on "
                f"{self.point.accelerator.name} within {cap:,} cycles was found: the fastest known takes "
                f"{found.latency_cycles:,} cycles ({seconds * 1e6:,.1f} us), and none can take less than {self.ideal:,}"
            )

    def _save_energy(self, pool: MappingPool, cap: int) -> None:
        """Try frugal mappings on the best schedule and on the tilings that promise most."""
        assert self.best is not None
        promising = sorted(
            (candidate for candidate in pool.fast() if candidate.latency_cycles <= cap),
            key=lambda candidate: pool.limits(candidate).energy_pj,
        )
        bases = [self.best, *(base for base in promising[:MOST_BLENDS] if base is not self.best)]
        for number, base in enumerate(bases, start=1):
            for cheaper in pool.under(base, cap):
                self._consider(cheaper)
                self._say(f"mappings of tiling {number} of {len(bases)}, ")

    def _consider(self, candidate: Candidate) -> None:
        """Keep a candidate that is better than the best, and not over the cap."""
        if self.cap is not None and candidate.latency_cycles > self.cap:
            return
        if self.best is None or candidate.beats(self.best, self.aim):
            self.best = candidate

    def _say(self, what: str) -> None:
        if self.best is None:
            self.progress(f"{what}none under the cap yet")
            return
        value, bound = self.best.value(self.aim), self.best.bound(self.aim)
        self.progress(what + standing(value, bound, self.aim))

    def _improve(self) -> None:
        """Check the best schedule, and look for a better one, at last with CP-SAT, where the bound leaves room."""
        assert self.best is not None
        self.best = self._checked(self.best)
        self.greedy_cycles = self.greedy_cycles or self.best.latency_cycles
        if self.point.time_limit_s == 0:
            return
        self._forward_backward()
        if self.best.within(self.point.gap_limit, self.aim):
            return
        budget_s = self.point.time_limit_s / self.solver_rounds
        if self.aim is Objective.LATENCY:
            large = self.best.steps > MOST_IN_WINDOWS
            self._climb(budget_s if large else budget_s * CLIMBING)
            budget_s *= 1 - CLIMBING
            if large or self.best.within(self.point.gap_limit, self.aim):
                return
        if self.best.steps <= MOST_ACTIVITIES:
            self._solve(self.best, budget_s)
        elif self.aim is Objective.LATENCY:
            self._improve_windows(self.best, budget_s)
        else:
            self._heard(f"skipped: {self.best.steps} tiles and moves", None, 0.0)

    def _climb(self, budget_s: float) -> None:
        """Change one decision after the other, and keep what is faster."""
        assert self.best is not None
        first, began = self.best, time.perf_counter()
        found = climb(
            first.problem,
            first.schedule,
            enough_cycles=self._enough(first),
            time_limit_s=budget_s,
            seed=self.point.seed,
            progress=self._teller("climbing", first),
        )
        if found.gains:
            self._consider(self._checked(replace(first, schedule=found.schedule, found_by="climbing", checked=False)))
        if found.rounds:
            self._heard(f"{found.gains} gains in {found.rounds} changes", None, time.perf_counter() - began)
        elif first.steps > MOST_IN_WINDOWS:
            self._heard(f"skipped: {first.steps} tiles and moves", None, 0.0)
        if found.interrupted:
            raise KeyboardInterrupt

    def _enough(self, candidate: Candidate) -> float:
        """Cycles at which the gap is as small as asked for."""
        return candidate.limits.lower_bound_cycles / max(1 - self.point.gap_limit, 1e-9)

    def _teller(self, what: str, candidate: Candidate) -> Callable[[int], None]:
        bound = candidate.limits.lower_bound_cycles
        return lambda value: self.progress(f"{what}: {standing(value, bound, Objective.LATENCY)}")

    def _solve(self, first: Candidate, budget_s: float) -> None:
        """Let CP-SAT decide everything."""
        if self.aim is Objective.ENERGY and first.energy_pj <= bounds(first.problem).energy_pj * (1 + 1e-12):
            self._heard("not needed: no placement takes less energy with these mappings", None, 0.0)
            return
        from stream_mla.solvers.cp_sat import solve  # loads OR-Tools, which only this needs

        found = solve.improve(
            replace(first.problem, objective=self.aim),
            first.schedule,
            lower_bound_cycles=first.limits.lower_bound_cycles,
            energy_bound_pj=first.limits.energy_pj,
            budget=solve.Budget(
                time_limit_s=budget_s,
                gap_limit=self.point.gap_limit,
                seed=self.point.seed,
                workers=self.point.workers,
            ),
            latency_cap_cycles=self.cap if self.aim is Objective.ENERGY else None,
            progress=lambda value, bound: self.progress(f"cp_sat: {standing(value, bound, self.aim)}"),
        )
        if found.schedule is not None:
            self._consider(self._checked(replace(first, schedule=found.schedule, found_by="cp_sat", checked=False)))
        self._heard(found.status, found.bound_cycles, found.seconds)
        if found.interrupted:
            raise KeyboardInterrupt

    def _improve_windows(self, first: Candidate, budget_s: float) -> None:
        """Let CP-SAT look at one window after the other, where the whole is too large."""
        from stream_mla.solvers.improvement import large_neighbourhood  # loads OR-Tools, which only this needs

        began = time.perf_counter()

        def settled(schedule: Schedule) -> Schedule:
            return self._checked(replace(first, schedule=schedule, found_by="windows", checked=False)).schedule

        found = large_neighbourhood.improve_windows(
            first.problem,
            first.schedule,
            settled,
            enough_cycles=self._enough(first),
            time_limit_s=budget_s,
            seed=self.point.seed,
            progress=self._teller("windows", first),
        )
        self._consider(replace(first, schedule=found.schedule, found_by="windows"))
        self._heard(f"{found.gains} gains in {found.rounds} windows", None, time.perf_counter() - began)
        if found.interrupted:
            raise KeyboardInterrupt

    def _heard(self, status: str, bound_cycles: int | None, seconds: float) -> None:
        assert self.best is not None
        said = Solved(objective=self.aim, status=status, bound_cycles=bound_cycles, seconds=seconds)
        self.solved.append((self.best.problem.tile_graph, said))

    @gc_paused
    def _checked(self, candidate: Candidate) -> Candidate:
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

    @gc_paused
    def settle(self, *, interrupted: bool) -> tuple[Candidate, Story]:
        """Return the best schedule, checked, and how it was found."""
        assert self.best is not None
        best = self._checked(self.best)
        return best, Story(
            solved=tuple(
                said if tile_graph is best.problem.tile_graph else replace(said, bound_cycles=None)
                for tile_graph, said in self.solved
            ),
            greedy_latency_cycles=self.greedy_cycles or best.latency_cycles,
            latency_cap_cycles=self.cap,
            start_sha256=best.origin,
            interrupted=interrupted,
        )
