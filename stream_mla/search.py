"""Tilings of one graph with their greedy schedules: what every objective chooses from.

Products may use their fastest mapping or the one of least energy. A candidate says for which tiles the latter is used
(`frugal`): for none where latency is wanted, for all where energy is, and for some under a latency cap.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import fsum, inf

from stream_mla.accelerator import Accelerator
from stream_mla.bounds import Bounds, bounds
from stream_mla.cost import Objective
from stream_mla.errors import InfeasibleError, NoScheduleError, TooManyTilesError
from stream_mla.floors import floor_cycles
from stream_mla.graph import OperatorGraph
from stream_mla.holding import fullest
from stream_mla.planning import plans
from stream_mla.point import Point
from stream_mla.problem import Problem, price
from stream_mla.schedule import Schedule, energy_parts_pj
from stream_mla.schedulers.greedy import greedy
from stream_mla.schedulers.remaining import BeatenError
from stream_mla.simulate import replay
from stream_mla.tiling import TileGraph, Tiling, tile, tile_count
from stream_mla.work import Gemm

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
SMALL_SAVING = 1e-4
"""Operators that save less than this share of the energy keep their fastest mapping under a cap."""
HALVINGS = 5
"""Of the tiles of an operator that cannot all be frugal, the first are, to the nearest 2^-5 of them."""

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A schedule, with what it is a schedule of."""

    problem: Problem
    limits: Bounds
    schedule: Schedule
    frugal: frozenset[int]
    """Tiles whose products use the mapping of least energy."""
    found_by: str
    origin: str = ""
    """Fingerprint of the point of a stored result that this is, or stems from."""
    checked: bool = False
    """Whether it is a replay that passed the checker, as did what was replayed."""

    @property
    def steps(self) -> int:
        """Tiles and moves: what it costs to find and check."""
        return len(self.schedule.runs) + len(self.schedule.moves)

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


def products(cut: TileGraph) -> frozenset[int]:
    """Return the tiles that have several mappings: all are frugal where only energy counts."""
    return frozenset(number for number, entry in enumerate(cut.tiles) if isinstance(entry.work, Gemm))


def priced(cut: TileGraph, accelerator: Accelerator, frugal: frozenset[int]) -> Problem:
    """Price each tile for latency, or for energy where it is frugal."""
    fast = price(cut, accelerator, Objective.LATENCY)
    return _mixed(fast, price(cut, accelerator, Objective.ENERGY), frugal) if frugal else fast


def _mixed(fast: Problem, thrifty: Problem, frugal: frozenset[int]) -> Problem:
    costs = enumerate(zip(fast.costs, thrifty.costs, strict=True))
    return replace(fast, costs=tuple(slow if number in frugal else quick for number, (quick, slow) in costs))


def _scheduled(problem: Problem, limits: Bounds, limit: float, gap: float) -> Candidate:
    """Return the greedy schedule of a problem, priced for one objective, as a candidate: one of this gap is enough."""
    frugal = products(problem.cut) if problem.objective is Objective.ENERGY else frozenset[int]()
    return Candidate(
        problem=problem,
        limits=limits,
        schedule=greedy(problem, limit, limits.lower_bound_cycles * (1 + gap), easy=gap >= EASY),
        frugal=frugal,
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
        cut = tile(self.graph, tiling)
        problem = price(cut, accelerator, self.objective)
        limits = bounds(problem)
        try:
            if limits.lower_bound_cycles > limit:
                raise BeatenError
            candidate = _scheduled(problem, limits, limit, self.point.gap_limit)
        except BeatenError:
            self.progress(f"tiling {number}: {tiles:,} tiles, not faster")
            raise
        except (InfeasibleError, NoScheduleError) as error:
            self.fits_not.append(str(error))
            self.steps += len(cut.blocks)
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


def tried(point: Point, graph: OperatorGraph, objective: Objective, progress: Progress) -> Iterator[Candidate]:
    """Yield a candidate of every tiling that fits, in the order of the plans; NoScheduleError if none does."""
    trials = _Trials(point, graph, objective, progress)
    for number, tiling in enumerate(plans(graph, point.accelerator, point.tile_sizes, point.policy)):
        if trials.enough(tiling):
            break
        if candidate := trials.schedule(number, tiling):
            yield candidate
    trials.require_one()


def improving(values: Iterable[Candidate], objective: Objective) -> Iterator[Candidate]:
    """Yield candidates until some in a row were in vain."""
    least, vain = inf, 0
    for candidate in values:
        yield candidate
        value = candidate.value(objective)
        vain = vain + 1 if value > least * (1 - WORTH) else 0
        least = min(least, value)
        if vain == PATIENCE:
            return


def faster(point: Point, graph: OperatorGraph, progress: Progress, enough: float) -> Iterator[Candidate]:
    """Yield candidates, each faster than the one before, until one has `enough` cycles; NoScheduleError if none fits.

    Tilings come in the order of what they promise. Not even cut are those whose floor is not below the fastest, or,
    once its gap is as small as asked for, not by more than such a gap; and those that differ from one that fits just in
    what is shared or early. A schedule that falls behind is given up.
    """
    trials = _Trials(point, graph, Objective.LATENCY, progress)
    least, vain, worth = inf, 0, GAIN
    known: list[tuple[Tiling, int]] = []
    for number, (tiling, floor) in enumerate(promising_first(point, graph, enough, trials.hopeless)):
        alike = replace(tiling, shared=frozenset(), early=frozenset()), floor
        if floor > least * (1 - worth) or alike in known:
            continue
        if vain == PATIENCE or trials.enough(tiling):
            break
        try:
            candidate = trials.schedule(number, tiling, least * (1 - GAIN))
        except BeatenError:
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


def promising_first(
    point: Point, graph: OperatorGraph, enough: float, hopeless: Callable[[], bool] = lambda: False
) -> Iterator[tuple[Tiling, int]]:
    """Yield tilings with their floors, the lowest first; at once, while no floor can be better than `enough` and tiles
    are few. Those that are not expected to fit come last. Once that is hopeless, those that spill most come first: they
    need least memory.
    """
    later: list[tuple[Tiling, int, float]] = []
    tight: list[tuple[Tiling, int, float]] = []
    for tiling in plans(graph, point.accelerator, point.tile_sizes, point.policy):
        floor = floor_cycles(graph, point.accelerator, tiling)
        work = TILE_PRICE * tile_count(graph, tiling)
        if fullest(graph, point.accelerator, tiling) > 1:
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


def promised_tiles(point: Point, graph: OperatorGraph) -> int:
    """Return the tiles of the tiling that promises most."""
    tiling, _ = next(promising_first(point, graph, enough=0))
    return tile_count(graph, tiling)


def _why_none(point: Point, graph: OperatorGraph, reasons: Sequence[str]) -> str:
    sizes = ", ".join(f"{index}={size}" for index, size in point.tile_sizes.items())
    largest = max(graph.tensors.values(), key=lambda tensor: tensor.bits)
    return (
        f"none of {len(reasons)} tilings of {point.workload.model.name} as {point.scheme} fits "
        f"{point.accelerator.name}" + (f" with --tile {sizes}" if sizes else "") + f". In the last, {reasons[-1]}. "
        f"The largest tensor is {largest.name} ({largest.role}), {largest.bits // 8:,} B"
    )


class Pool:
    """Tilings of one point with their schedules and prices, kept while a front is drawn, whose points share them."""

    def __init__(self, point: Point, graph: OperatorGraph, progress: Progress) -> None:
        self._tried = tried(point, graph, Objective.LATENCY, progress)
        self._fast: list[Candidate] = []
        self._prices: dict[int, tuple[Problem, Problem, Bounds]] = {}
        self._under: dict[tuple[int, frozenset[int]], Candidate] = {}

    def fast(self) -> Iterator[Candidate]:
        """Yield the candidate of each tiling with the fastest mappings."""
        yield from self._fast
        for candidate in self._tried:
            self._fast.append(candidate)
            yield candidate

    def prices(self, cut: TileGraph, accelerator: Accelerator) -> tuple[Problem, Problem, Bounds]:
        """Return a tiling priced for latency and for energy, and the bounds that hold whatever the mappings."""
        if id(cut) not in self._prices:
            fast, thrifty = (price(cut, accelerator, objective) for objective in (Objective.LATENCY, Objective.ENERGY))
            limits = Bounds(cycles=bounds(fast).cycles, energy_pj=bounds(thrifty).energy_pj)
            self._prices[id(cut)] = fast, thrifty, limits
        return self._prices[id(cut)]

    def limits(self, candidate: Candidate) -> Bounds:
        """Return bounds on the schedules of a candidate's tiling, whatever the mappings."""
        return self.prices(candidate.problem.cut, candidate.problem.accelerator)[2]

    def remapped(self, base: Candidate, frugal: frozenset[int]) -> Candidate:
        """Return the decisions of a candidate with other mappings, and the times that follow."""
        key = id(base.schedule), frugal
        if key not in self._under:
            fast, thrifty, limits = self.prices(base.problem.cut, base.problem.accelerator)
            problem = _mixed(fast, thrifty, frugal)
            self._under[key] = replace(
                base,
                problem=problem,
                limits=limits,
                schedule=replay(problem, base.schedule),
                frugal=frugal,
                checked=False,
            )
        return self._under[key]

    def under(self, base: Candidate, cap: int) -> Iterator[Candidate]:
        """Yield candidates that save energy and keep to a latency cap, each better than the one before.

        All products are frugal if that is fast enough; else those of one operator after the other, first of those
        that save most for the cycles they add: all of its tiles, or as many of the first as the cap allows.
        """
        if (all_frugal := self.remapped(base, products(base.problem.cut))).latency_cycles <= cap:
            yield all_frugal
            return
        frugal: frozenset[int] = frozenset()
        for tiles in self._savers(base):
            most, step = 0, len(tiles)
            for _ in range(HALVINGS + 1):
                candidate = self.remapped(base, frugal.union(tiles[: most + step]))
                if candidate.latency_cycles <= cap:
                    most += step
                    yield candidate
                    if most == len(tiles):
                        break
                step = (step + 1) // 2
            frugal = frugal.union(tiles[:most])

    def _savers(self, base: Candidate) -> list[list[int]]:
        """Return the tiles of each operator that has energy to save, in the order in which they run."""
        saved: dict[str, float] = defaultdict(float)
        added: dict[str, int] = defaultdict(int)
        tiles: dict[str, list[int]] = defaultdict(list)
        fast, thrifty, _ = self.prices(base.problem.cut, base.problem.accelerator)
        for run in sorted(base.schedule.runs, key=lambda run: (run.start, run.tile)):
            quick, slow = fast.cost(run.tile, run.core), thrifty.cost(run.tile, run.core)
            operator = fast.cut.tiles[run.tile].operator
            saved[operator] += quick.energy_pj - slow.energy_pj
            added[operator] += slow.cycles - quick.cycles
            if slow != quick:
                tiles[operator].append(run.tile)
        worth = [name for name, saving in saved.items() if saving > SMALL_SAVING * base.energy_pj]
        return [tiles[name] for name in sorted(worth, key=lambda name: (-saved[name] / (1 + added[name]), name))]
