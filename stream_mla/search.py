"""Tilings of one graph with their greedy schedules: what every objective chooses from.

Products may use their fastest mapping or the one of least energy. A candidate says for which tiles the latter is used
(`frugal`): for none where latency is wanted, for all where energy is, and for some under a latency cap.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import fsum

from stream_mla.accelerator import Accelerator
from stream_mla.bounds import Bounds, bounds
from stream_mla.cost import Objective
from stream_mla.errors import InfeasibleError, NoScheduleError
from stream_mla.graph import OperatorGraph
from stream_mla.planning import plans
from stream_mla.point import Point
from stream_mla.problem import Problem, price
from stream_mla.schedule import Schedule, energy_parts_pj
from stream_mla.schedulers.greedy import greedy
from stream_mla.simulate import replay
from stream_mla.tiling import TileGraph, tile, tile_count
from stream_mla.work import Gemm

ENOUGH_STEPS = 40_000
"""The search over tilings ends when those tried have this many tiles and moves together, and one of them fits."""
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

    def value(self, objective: Objective) -> tuple[float, float]:
        """What is minimised, and what breaks ties."""
        if objective is Objective.ENERGY:
            return self.energy_pj, self.latency_cycles
        return self.latency_cycles, self.energy_pj


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


def scheduled(problem: Problem, limits: Bounds | None = None) -> Candidate:
    """Return the greedy schedule of a problem, priced for one objective, as a candidate."""
    frugal = products(problem.cut) if problem.objective is Objective.ENERGY else frozenset[int]()
    return Candidate(
        problem=problem,
        limits=bounds(problem) if limits is None else limits,
        schedule=greedy(problem),
        frugal=frugal,
        found_by="greedy",
    )


def tried(
    point: Point,
    graph: OperatorGraph,
    objective: Objective,
    progress: Progress,
    promising: Callable[[Bounds], bool] = lambda _: True,
) -> Iterator[Candidate]:
    """Yield a candidate of every tiling that fits; NoScheduleError if none does.

    Once there is one, tilings whose bounds are not promising are not scheduled.
    """
    fits_not: list[str] = []
    too_many: list[str] = []
    steps, found = 0, False
    for number, tiling in enumerate(plans(graph, point.accelerator, point.tile_sizes, point.policy)):
        tiles = tile_count(graph, tiling)
        if found and steps + tiles > ENOUGH_STEPS:
            return
        if tiles > MOST_TILES:
            sram = min(core.type.sram.capacity for core in point.accelerator.cores) // 8
            too_many.append(f"an SRAM of {sram:,} B would cut it into {tiles:,} tiles, more than {MOST_TILES:,}")
            continue
        cut = tile(graph, tiling)
        problem = price(cut, point.accelerator, objective)
        limits = bounds(problem)
        if found and not promising(limits):
            steps += tiles
            progress(f"tiling {number}: {tiles:,} tiles, cannot be better")
            continue
        try:
            candidate = scheduled(problem, limits)
        except (InfeasibleError, NoScheduleError) as error:
            fits_not.append(str(error))
            steps += len(cut.tiles) + len(cut.blocks)
            progress(f"tiling {number}: {len(cut.tiles):,} tiles do not fit")
            continue
        found = True
        steps += candidate.steps
        yield candidate
    if not found:
        raise NoScheduleError(_why_none(point, graph, fits_not or too_many))


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
