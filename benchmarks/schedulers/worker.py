"""One scheduler on one instance in a process of its own, so that peak memory is its own: a JSON line on stdout.

    python -m benchmarks.schedulers.worker METHOD INSTANCE SECONDS WORKERS TILING

`ours` leaves the tiling it chose in the file TILING; `heft` and `annealing` start from it.
"""

import json
import pickle
import resource
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.schedulers.annealing import annealed
from benchmarks.schedulers.heft import heft
from benchmarks.schedulers.instances import INSTANCES
from benchmarks.schedulers.layer_by_layer import layer_by_layer
from stream_mla.errors import NoScheduleError, StreamMlaError
from stream_mla.evaluation import evaluate
from stream_mla.mapping.planning.planner import candidate_tilings
from stream_mla.mapping.tiling.tile_graph import Tiling, tile_count
from stream_mla.mapping.tiling.tiler import tile
from stream_mla.point import Point
from stream_mla.results.result import Result
from stream_mla.schedule.checker import violations
from stream_mla.schedule.problem import Problem, price
from stream_mla.schedule.replay import replay
from stream_mla.schedule.schedule import Schedule
from stream_mla.solvers.budget import Budget
from stream_mla.workload.lowering.attention import lower


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a scheduler left behind."""

    cycles: int
    """Of the replay, which passed the checker as the schedule did."""
    seconds: float
    """Wall clock from reading the files to the schedule; the checks come after."""
    peak_mib: float
    note: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What ours says about the instance besides."""

    tiles: int
    moves: int
    cores: int
    bound_cycles: int
    binding: str
    greedy_cycles: int
    traffic: float
    """DRAM bytes over the fewest possible."""


def checked(problem: Problem, schedule: Schedule) -> int:
    """Cycles of the replay; AssertionError where a rule is broken."""
    again = replay(problem, schedule)
    for what, candidate in (("schedule", schedule), ("replay", again)):
        if broken := violations(problem, candidate):
            raise AssertionError(f"the {what} breaks {len(broken)} rules: {'; '.join(broken[:3])}")
    if again.latency_cycles > schedule.latency_cycles:
        raise AssertionError(f"claims {schedule.latency_cycles} cycles, the replay takes {again.latency_cycles}")
    return again.latency_cycles


def _measured(began: float, problem: Problem, schedule: Schedule, note: str) -> Measured:
    seconds = time.perf_counter() - began
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return Measured(cycles=checked(problem, schedule), seconds=seconds, peak_mib=(own + children) / 1024, note=note)


def _facts(problem: Problem, result: Result) -> Facts:
    least = result.dram_minimum_read_bytes + result.dram_minimum_write_bytes
    return Facts(
        tiles=result.tiles,
        moves=result.moves,
        cores=len(problem.cores),
        bound_cycles=result.lower_bound_cycles,
        binding=result.binding_bound,
        greedy_cycles=result.greedy_latency_cycles,
        traffic=(result.dram_read_bytes + result.dram_write_bytes) / least,
    )


def _priced(point: Point, tiling: Tiling) -> Problem:
    return price(tile(lower(point.workload, point.scheme), tiling), point.accelerator, point.objective)


def _ours(point: Point, tiling: Path) -> tuple[Measured, Facts | None]:
    began = time.perf_counter()
    outcome = evaluate(point)
    tiling.write_bytes(pickle.dumps(outcome.problem.tile_graph.tiling))
    result = outcome.result
    measured = _measured(began, outcome.problem, outcome.schedule, f"{result.scheduler}; {result.solver_status}")
    return measured, _facts(outcome.problem, result)


def _heft(point: Point, tiling: Path) -> tuple[Measured, Facts | None]:
    began = time.perf_counter()
    problem = _priced(point, pickle.loads(tiling.read_bytes()))
    schedule, _, note = heft(problem)
    return _measured(began, problem, schedule, note), None


def _heft_first(point: Point, _tiling: Path) -> tuple[Measured, Facts | None]:
    """HEFT on the first tiling that fits: without our search for a tiling."""
    began = time.perf_counter()
    graph = lower(point.workload, point.scheme)
    why = "no tiling"
    for number, tiling in enumerate(candidate_tilings(graph, point.accelerator, {}, point.policy)):
        if tile_count(graph, tiling) > Budget.of(point).max_tiles:
            continue
        problem = _priced(point, tiling)
        try:
            schedule, _, note = heft(problem)
        except StreamMlaError as error:
            why = str(error)
            continue
        return _measured(began, problem, schedule, f"tiling {number}, {note}"), None
    raise NoScheduleError(why)


def _annealing(point: Point, tiling: Path) -> tuple[Measured, Facts | None]:
    """One walk per worker; the best counts."""
    began = time.perf_counter()
    problem = _priced(point, pickle.loads(tiling.read_bytes()))
    seconds = point.time_limit_s - (time.perf_counter() - began)
    with ProcessPoolExecutor(point.workers) as pool:
        walks = [pool.submit(annealed, problem, seconds, seed) for seed in range(point.workers)]
        found = [walk.result() for walk in walks]
    schedule, _ = min(found, key=lambda entry: entry[0].latency_cycles)
    return _measured(began, problem, schedule, f"{sum(steps for _, steps in found)} steps"), None


def _layers(point: Point, _tiling: Path) -> tuple[Measured, Facts | None]:
    began = time.perf_counter()
    problem, schedule = layer_by_layer(lower(point.workload, point.scheme), point.accelerator)
    return _measured(began, problem, schedule, f"{len(problem.tile_graph.tiles)} tiles"), None


METHODS: Mapping[str, Callable[[Point, Path], tuple[Measured, Facts | None]]] = {
    "ours": _ours,
    "heft": _heft,
    "heft_first": _heft_first,
    "annealing": _annealing,
    "layer_by_layer": _layers,
}
"""`ours` comes first: two of the others need its tiling."""


def main(method: str, name: str, seconds: str, workers: str, tiling: str) -> None:
    """Print a measurement, or the reason why there is none."""
    instance = next(entry for entry in INSTANCES if entry.name == name)
    point = instance.point(time_limit_s=float(seconds), workers=int(workers))
    try:
        measured, facts = METHODS[method](point, Path(tiling))
    except StreamMlaError as error:
        print(json.dumps({"error": str(error)}))
        return
    print(json.dumps({"measured": asdict(measured), "facts": asdict(facts) if facts else None}))


if __name__ == "__main__":
    main(*sys.argv[1:])
