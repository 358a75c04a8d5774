"""Tilings of one graph with their greedy schedules: what every objective chooses from.

Products may use their fastest mapping or the one of least energy. A candidate says for which tiles the latter is used
(`least_energy_tiles`): for none where latency is wanted, for all where energy is, and for some under a latency cap.
"""

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
from stream_mla.solvers.cutoff import CutoffError
from stream_mla.solvers.list_scheduling.greedy import greedy
from stream_mla.workload.operator_graph import OperatorGraph

ENOUGH_STEPS = 40_000
"""The search over tilings ends when those tried have this many tiles and moves together, and one of them fits."""
PATIENCE, WORTH = 5, 5e-3
"""And after so many tilings in a row that were not better by this share: first come those that promise most."""
GAIN = 1e-3
"""A tiling is left, before it is cut or later, when it is known not to be faster than the best by this share."""
EASY = 1e-2
"""Where so large a gap is allowed, the cheapest order of a tiling comes first: mostly its gap is smaller."""
ALIKE = 1e-2
"""Tilings whose floors differ by less than this share are tried in the order of the plans."""
TILE_PRICE = 2e-6
"""What a tile adds to the floor of its tiling when they are put in order: 5,000 more must promise 1 %."""
HOPELESS_TILES = 150_000
"""Where nothing has fitted after tilings with so many tiles together, what needs least memory is tried next."""
MOST_TILES = 500_000
"""Tilings of more tiles are refused: they would take tens of minutes and all memory."""


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


class _Trials:
    """Tilings of one point, cut and scheduled one after the other."""

    def __init__(self, point: Point, graph: OperatorGraph, objective: Objective, progress: Progress) -> None:
        self.point, self.graph, self.objective, self.progress = point, graph, objective, progress
        self.fits_not: list[str] = []
        self.too_many: list[str] = []
        self.steps = 0
        """Tiles and moves of those tried."""
        self.failed_tiles = 0
        """Of those that do not fit."""
        self.found = False

    def enough(self, tiling: Tiling) -> bool:
        """Whether there is a schedule, and one more would be too much work."""
        return self.found and self.steps + tile_count(self.graph, tiling) > ENOUGH_STEPS

    def hopeless(self) -> bool:
        """Whether much was tried and nothing fits."""
        return not self.found and self.failed_tiles > HOPELESS_TILES

    def schedule(self, number: int, tiling: Tiling, limit: float = inf) -> Candidate | None:
        """Return the candidate of a tiling, or None where it does not fit. BeatenError where a limit is passed."""
        tiles, accelerator = tile_count(self.graph, tiling), self.point.accelerator
        if tiles > MOST_TILES:
            sram = min(core.type.sram.capacity for core in accelerator.cores) // 8
            self.too_many.append(f"an SRAM of {sram:,} B would cut it into {tiles:,} tiles, more than {MOST_TILES:,}")
            return None
        self.steps += tiles
        tile_graph = tile(self.graph, tiling)
        problem = price(tile_graph, accelerator, self.objective)
        limits = bounds(problem)
        try:
            if limits.lower_bound_cycles > limit:
                raise CutoffError
            candidate = _scheduled(problem, limits, limit, self.point.gap_limit)
        except CutoffError:
            self.progress(f"tiling {number}: {tiles:,} tiles, not faster")
            raise
        except (InfeasibleError, NoScheduleError) as error:
            self.fits_not.append(str(error))
            self.steps += len(tile_graph.blocks)
            self.failed_tiles += tiles
            self.progress(f"tiling {number}: {tiles:,} tiles do not fit")
            return None
        self.found = True
        self.steps += candidate.steps - tiles
        return candidate

    def require_one(self) -> None:
        """Refuse a search that found nothing."""
        if not self.found:
            kind = TooManyTilesError if self.too_many else NoScheduleError
            raise kind(_why_none(self.point, self.graph, self.fits_not or self.too_many))


def greedy_candidates(
    point: Point, graph: OperatorGraph, objective: Objective, progress: Progress
) -> Iterator[Candidate]:
    """Yield a candidate of every tiling that fits, in the order of the plans; NoScheduleError if none does."""
    trials = _Trials(point, graph, objective, progress)
    for number, tiling in enumerate(candidate_tilings(graph, point.accelerator, point.tile_sizes, point.policy)):
        if trials.enough(tiling):
            break
        if candidate := trials.schedule(number, tiling):
            yield candidate
    trials.require_one()


def until_stagnation(values: Iterable[Candidate], objective: Objective) -> Iterator[Candidate]:
    """Yield candidates until some in a row were in vain."""
    least, vain = inf, 0
    for candidate in values:
        yield candidate
        value = candidate.value(objective)
        vain = vain + 1 if value > least * (1 - WORTH) else 0
        least = min(least, value)
        if vain == PATIENCE:
            return


def improving_candidates(point: Point, graph: OperatorGraph, progress: Progress, enough: float) -> Iterator[Candidate]:
    """Yield candidates, each faster than the one before, until one has `enough` cycles; NoScheduleError if none fits.

    Tilings come in the order of what they promise. Not even cut are those whose floor is not below the fastest, or,
    once its gap is as small as asked for, not by more than such a gap; and those that differ from one that fits just in
    what is shared or early. A schedule that falls behind is given up.
    """
    trials = _Trials(point, graph, Objective.LATENCY, progress)
    least, vain, worth = inf, 0, GAIN
    known: list[tuple[Tiling, int]] = []
    for number, (tiling, floor) in enumerate(best_first(point, graph, enough, trials.hopeless)):
        alike = replace(tiling, shared=frozenset(), eager=frozenset()), floor
        if floor > least * (1 - worth) or alike in known:
            continue
        if vain == PATIENCE or trials.enough(tiling):
            break
        try:
            candidate = trials.schedule(number, tiling, least * (1 - GAIN))
        except CutoffError:
            vain += 1
            known.append(alike)
            continue
        if candidate is None:
            continue
        known.append(alike)
        vain = vain + 1 if candidate.latency_cycles > least * (1 - WORTH) else 0
        least = candidate.latency_cycles
        if candidate.within(point.gap_limit, Objective.LATENCY):
            worth = max(GAIN, point.gap_limit)
        yield candidate
        if least <= enough:
            return
    trials.require_one()


def best_first(
    point: Point, graph: OperatorGraph, enough: float, hopeless: Callable[[], bool] = lambda: False
) -> Iterator[tuple[Tiling, int]]:
    """Yield tilings with their floors, the lowest first; at once, while no floor can be better than `enough` and tiles
    are few. Those that are not expected to fit come last. Once that is hopeless, those that spill most come first: they
    need least memory.
    """
    later: list[tuple[Tiling, int, float]] = []
    tight: list[tuple[Tiling, int, float]] = []
    for tiling in candidate_tilings(graph, point.accelerator, point.tile_sizes, point.policy):
        floor = tiling_lower_bound(graph, point.accelerator, tiling)
        work = TILE_PRICE * tile_count(graph, tiling)
        if peak_occupancy(graph, point.accelerator, tiling) > 1:
            tight.append((tiling, floor, floor * (1 + work)))
        elif not later and floor <= enough and work <= ALIKE:
            yield tiling, floor
        else:
            later.append((tiling, floor, floor * (1 + work)))
    while later := later or tight:
        if hopeless():
            place = min(range(len(later)), key=lambda place: (-len(later[place][0].spilled), later[place][2]))
        else:
            least = min(price for _, _, price in later)
            place = next(place for place, (_, _, price) in enumerate(later) if price <= least * (1 + ALIKE))
        tiling, floor, _ = later.pop(place)
        yield tiling, floor


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
