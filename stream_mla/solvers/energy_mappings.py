"""Which tiles take the mapping of least energy, under a latency cap."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from stream_mla.hardware.accelerator import Accelerator
from stream_mla.hardware.core_cost import Objective
from stream_mla.mapping.tiling.tile_graph import TileGraph
from stream_mla.point import Point
from stream_mla.schedule.bounds.schedule_bounds import Bounds, bounds
from stream_mla.schedule.candidate import Candidate, Progress
from stream_mla.schedule.problem import Problem, mix, price, products
from stream_mla.schedule.replay import replay
from stream_mla.solvers.budget import Budget
from stream_mla.solvers.tiling_search import TilingSearch
from stream_mla.workload.operator_graph import OperatorGraph

SMALL_SAVING = 1e-4
"""Operators that save less than this share of the energy keep their fastest mapping under a cap."""


HALVINGS = 5
"""A cap may allow only some tiles of an operator the mapping of least energy: the first ones, to the nearest 2^-5 of
them."""


class MappingPool:
    """Tilings of one point with their schedules and prices, kept while a front is drawn, whose points share them."""

    def __init__(self, point: Point, graph: OperatorGraph, progress: Progress, budget: Budget | None = None) -> None:
        """Search the tilings within a budget; without one, within that of the point."""
        search = TilingSearch(point, graph, Objective.LATENCY, budget or Budget.of(point), progress)
        self._tried = search.candidates()
        self._fast: list[Candidate] = []
        self._prices: dict[int, tuple[Problem, Problem, Bounds]] = {}
        self._under: dict[tuple[int, frozenset[int]], Candidate] = {}

    def fast(self) -> Iterator[Candidate]:
        """Yield the candidate of each tiling with the fastest mappings."""
        yield from self._fast
        for candidate in self._tried:
            self._fast.append(candidate)
            yield candidate

    def prices(self, tile_graph: TileGraph, accelerator: Accelerator) -> tuple[Problem, Problem, Bounds]:
        """Return a tiling priced for latency and for energy, and the bounds that hold whatever the mappings."""
        if id(tile_graph) not in self._prices:
            fast, least_energy = (
                price(tile_graph, accelerator, objective) for objective in (Objective.LATENCY, Objective.ENERGY)
            )
            limits = Bounds(cycles=bounds(fast).cycles, energy_pj=bounds(least_energy).energy_pj)
            self._prices[id(tile_graph)] = fast, least_energy, limits
        return self._prices[id(tile_graph)]

    def limits(self, candidate: Candidate) -> Bounds:
        """Return bounds on the schedules of a candidate's tiling, whatever the mappings."""
        return self.prices(candidate.problem.tile_graph, candidate.problem.accelerator)[2]

    def remapped(self, base: Candidate, least_energy_tiles: frozenset[int]) -> Candidate:
        """Return the decisions of a candidate with other mappings, and the times that follow."""
        key = id(base.schedule), least_energy_tiles
        if key not in self._under:
            fast, least_energy, limits = self.prices(base.problem.tile_graph, base.problem.accelerator)
            problem = mix(fast, least_energy, least_energy_tiles)
            self._under[key] = replace(
                base,
                problem=problem,
                limits=limits,
                schedule=replay(problem, base.schedule),
                least_energy_tiles=least_energy_tiles,
                checked=False,
            )
        return self._under[key]

    def under(self, base: Candidate, cap: int) -> Iterator[Candidate]:
        """Yield candidates that save energy and keep to a latency cap, each better than the one before.

        All products are frugal if that is fast enough; else those of one operator after the other, first of those
        that save most for the cycles they add: all of its tiles, or as many of the first as the cap allows.
        """
        if (all_least_energy := self.remapped(base, products(base.problem.tile_graph))).latency_cycles <= cap:
            yield all_least_energy
            return
        least_energy_tiles: frozenset[int] = frozenset()
        for tiles in self._savers(base):
            most, step = 0, len(tiles)
            for _ in range(HALVINGS + 1):
                candidate = self.remapped(base, least_energy_tiles.union(tiles[: most + step]))
                if candidate.latency_cycles <= cap:
                    most += step
                    yield candidate
                    if most == len(tiles):
                        break
                step = (step + 1) // 2
            least_energy_tiles = least_energy_tiles.union(tiles[:most])

    def _savers(self, base: Candidate) -> list[list[int]]:
        """Return the tiles of each operator that has energy to save, in the order in which they run."""
        saved: dict[str, float] = defaultdict(float)
        added: dict[str, int] = defaultdict(int)
        tiles: dict[str, list[int]] = defaultdict(list)
        fast, least_energy, _ = self.prices(base.problem.tile_graph, base.problem.accelerator)
        for run in sorted(base.schedule.runs, key=lambda run: (run.start, run.tile)):
            quick, slow = fast.cost(run.tile, run.core), least_energy.cost(run.tile, run.core)
            operator = fast.tile_graph.tiles[run.tile].operator
            saved[operator] += quick.energy_pj - slow.energy_pj
            added[operator] += slow.cycles - quick.cycles
            if slow != quick:
                tiles[operator].append(run.tile)
        worth = [name for name, saving in saved.items() if saving > SMALL_SAVING * base.energy_pj]
        return [tiles[name] for name in sorted(worth, key=lambda name: (-saved[name] / (1 + added[name]), name))]
