"""Tilings of one graph with their greedy schedules: what every objective chooses from.

Products may use their fastest mapping or the one of least energy. A candidate says for which tiles the latter is used
(`least_energy_tiles`): for none where latency is wanted, for all where energy is, and for some under a latency cap.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from math import inf

from stream_mla.errors import InfeasibleError, NoScheduleError, TooManyTilesError
from stream_mla.hardware.core_cost import Objective
from stream_mla.mapping.planning.memory_footprint import peak_occupancy
from stream_mla.mapping.planning.planner import candidate_tilings
from stream_mla.mapping.tiling.tile_graph import Tiling, tile_count
from stream_mla.mapping.tiling.tiler import tile
from stream_mla.point import Point
from stream_mla.schedule.bounds.schedule_bounds import Bounds, bounds
from stream_mla.schedule.bounds.tiling_bounds import tiling_lower_bound
from stream_mla.schedule.candidate import Candidate, Progress
from stream_mla.schedule.problem import Problem, price, products
from stream_mla.solvers.budget import Budget
from stream_mla.solvers.cutoff import CutoffError
from stream_mla.solvers.list_scheduling.greedy import greedy
from stream_mla.workload.operator_graph import OperatorGraph

WORTH = 5e-3
"""A tiling counts as a gain, for the patience of the search, if it improves the best value by this share: smaller gains
rarely lead to larger ones."""
GAIN = 1e-3
"""A tiling is given up, before it is cut or later, when it is known not to be faster than the best by this share: less
is not worth its time."""
EASY = 1e-2
"""If the allowed gap is at least this share, greedy first tries the tiles in their given order, which is the cheapest
to compute and usually within such a gap."""
ALIKE = 1e-2
"""Tilings whose lower bounds differ by less than this share are tried in the planner's order: the bounds are no more
exact than that."""
TILE_PRICE = 2e-6
"""Each tile adds this share to the lower bound of its tiling when tilings are put in order: 5,000 more tiles, which
take about a second, must promise 1 %."""


def _scheduled(problem: Problem, limits: Bounds, limit: float, gap: float) -> Candidate:
    """Return the greedy schedule of a problem, priced for one objective, as a candidate: one of this gap is enough."""
    least_energy_tiles = products(problem.tile_graph) if problem.objective is Objective.ENERGY else frozenset[int]()
    return Candidate(
        problem=problem,
        limits=limits,
        schedule=greedy(problem, limit, limits.lower_bound_cycles * (1 + gap), easy=gap >= EASY),
        least_energy_tiles=least_energy_tiles,
        found_by="greedy",
    )


class TilingSearch:
    """The search over tilings of one point, cut and scheduled one after the other within a budget."""

    def __init__(
        self, point: Point, graph: OperatorGraph, objective: Objective, budget: Budget, progress: Progress
    ) -> None:
        self.point, self.graph, self.objective = point, graph, objective
        self.budget, self.progress = budget, progress
        self.deadline = time.perf_counter() + budget.search_time_s
        self.do_not_fit: list[str] = []
        """The reasons why tilings do not fit."""
        self.too_many: list[str] = []
        """The reasons why tilings were refused for their number of tiles."""
        self.tiles = 0
        """The tiles of all tilings tried."""
        self.steps = 0
        """The tiles and transfers of all tilings tried."""
        self.failed_tiles = 0
        """The tiles of the tilings that do not fit."""
        self.found = False
        """Whether a tiling fits."""
        self.spent = False
        """Whether the search was ended by its limits on tiles or time, whether or not a tiling fits."""

    def _ends_before(self, tiling: Tiling) -> bool:
        """Return whether the budget ends the search before a tiling is tried."""
        self.spent = self.tiles >= self.budget.total_tiles or time.perf_counter() > self.deadline
        return self.spent or (self.found and self.steps + tile_count(self.graph, tiling) > self.budget.enough_steps)

    def _hopeless(self) -> bool:
        """Return whether much was tried and nothing fits."""
        return not self.found and self.failed_tiles > self.budget.hopeless_tiles

    def _schedule(self, number: int, tiling: Tiling, limit: float = inf) -> Candidate | None:
        """Return the candidate of a tiling, or None where it does not fit. CutoffError where it passes a limit."""
        tiles, accelerator, most = tile_count(self.graph, tiling), self.point.accelerator, self.budget.max_tiles
        if tiles > most:
            sram = min(core.type.sram.capacity for core in accelerator.cores) // 8
            self.too_many.append(f"an SRAM of {sram:,} B would cut it into {tiles:,} tiles, more than {most:,}")
            return None
        self.steps += tiles
        self.tiles += tiles
        tile_graph = tile(self.graph, tiling)
        problem = price(tile_graph, accelerator, self.objective)
        limits = bounds(problem)
        try:
            if limits.lower_bound_cycles > limit:
                raise CutoffError
            candidate = _scheduled(problem, limits, limit, self.budget.gap_limit)
        except CutoffError:
            self.progress(f"tiling {number}: {tiles:,} tiles, not faster")
            raise
        except (InfeasibleError, NoScheduleError) as error:
            self.do_not_fit.append(str(error))
            self.steps += len(tile_graph.blocks)
            self.failed_tiles += tiles
            self.progress(f"tiling {number}: {tiles:,} tiles do not fit")
            return None
        self.found = True
        self.steps += candidate.steps - tiles
        return candidate

    def _require_one(self) -> None:
        """Refuse a search that found nothing."""
        if not self.found and not self.do_not_fit and not self.too_many:
            raise NoScheduleError(
                f"the search over tilings of {self.point.workload.model.name} as {self.point.scheme} on "
                f"{self.point.accelerator.name} ended before one was tried: its budget has {self.budget.total_tiles:g} "
                f"tiles and {self.budget.search_time_s:g} s"
            )
        if not self.found:
            kind = TooManyTilesError if self.too_many else NoScheduleError
            raise kind(_why_none(self.point, self.graph, self.do_not_fit or self.too_many))

    def candidates(self) -> Iterator[Candidate]:
        """Yield a candidate of every tiling that fits, in the planner's order; NoScheduleError if none does."""
        point = self.point
        tilings = candidate_tilings(self.graph, point.accelerator, point.tile_sizes, point.policy)
        for number, tiling in enumerate(tilings):
            if self._ends_before(tiling):
                break
            if candidate := self._schedule(number, tiling):
                yield candidate
        self._require_one()

    def improving_candidates(self, enough: float) -> Iterator[Candidate]:
        """Yield candidates, each faster than the one before, until one has `enough` cycles; NoScheduleError if none
        fits.

        Tilings come in the order of what they promise. A tiling is not even cut if its lower bound is not below the
        fastest schedule (once the gap of that is as small as asked for, not below it by more than such a gap), or if it
        differs from one that was scheduled only in what is shared or eager. A schedule that falls behind is given up.
        """
        least, vain, worth = inf, 0, GAIN
        known: list[tuple[Tiling, int]] = []
        for number, (tiling, least_cycles) in enumerate(best_first(self.point, self.graph, enough, self._hopeless)):
            alike = replace(tiling, shared=frozenset(), eager=frozenset()), least_cycles
            if least_cycles > least * (1 - worth) or alike in known:
                continue
            if vain == self.budget.patience or self._ends_before(tiling):
                break
            try:
                candidate = self._schedule(number, tiling, least * (1 - GAIN))
            except CutoffError:
                vain += 1
                known.append(alike)
                continue
            if candidate is None:
                continue
            known.append(alike)
            vain = vain + 1 if candidate.latency_cycles > least * (1 - WORTH) else 0
            least = candidate.latency_cycles
            if candidate.within(self.budget.gap_limit, Objective.LATENCY):
                worth = max(GAIN, self.budget.gap_limit)
            yield candidate
            if least <= enough:
                return
        self._require_one()


def until_stagnation(candidates: Iterable[Candidate], objective: Objective, patience: int) -> Iterator[Candidate]:
    """Yield candidates until so many in a row did not improve the best value by the share `WORTH`."""
    least, vain = inf, 0
    for candidate in candidates:
        yield candidate
        value = candidate.value(objective)
        vain = vain + 1 if value > least * (1 - WORTH) else 0
        least = min(least, value)
        if vain == patience:
            return


def best_first(
    point: Point, graph: OperatorGraph, enough: float, hopeless: Callable[[], bool] = lambda: False
) -> Iterator[tuple[Tiling, int]]:
    """Yield tilings with their lower bounds in cycles, the lowest bound first.

    A tiling whose bound is at most `enough`, and which has few tiles, is yielded without waiting for the others.
    Tilings that are not expected to fit come last. Once the search is `hopeless()`, the tilings that spill most tensors
    come first: they need least memory.
    """
    later: list[tuple[Tiling, int, float]] = []
    tight: list[tuple[Tiling, int, float]] = []
    for tiling in candidate_tilings(graph, point.accelerator, point.tile_sizes, point.policy):
        least = tiling_lower_bound(graph, point.accelerator, tiling)
        work = TILE_PRICE * tile_count(graph, tiling)
        if peak_occupancy(graph, point.accelerator, tiling) > 1:
            tight.append((tiling, least, least * (1 + work)))
        elif not later and least <= enough and work <= ALIKE:
            yield tiling, least
        else:
            later.append((tiling, least, least * (1 + work)))
    while later := later or tight:
        if hopeless():
            place = min(range(len(later)), key=lambda place: (-len(later[place][0].spilled), later[place][2]))
        else:
            lowest = min(price for _, _, price in later)
            place = next(place for place, (_, _, price) in enumerate(later) if price <= lowest * (1 + ALIKE))
        tiling, least, _ = later.pop(place)
        yield tiling, least


def best_first_tile_count(point: Point, graph: OperatorGraph) -> int:
    """Return the tiles of the tiling that promises most."""
    tiling, _ = next(best_first(point, graph, enough=0))
    return tile_count(graph, tiling)


def _why_none(point: Point, graph: OperatorGraph, reasons: Sequence[str]) -> str:
    sizes = ", ".join(f"{index}={size}" for index, size in point.tile_sizes.items())
    largest = max(graph.tensors.values(), key=lambda tensor: tensor.bits)
    return (
        f"none of {len(reasons)} tilings of {point.workload.model.name} as {point.scheme} fits "
        f"{point.accelerator.name}" + (f" with --tile {sizes}" if sizes else "") + f". In the last, {reasons[-1]}. "
        f"The largest tensor is {largest.name} ({largest.role}), {largest.bits // 8:,} B"
    )
