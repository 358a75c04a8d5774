"""The story: one point in, one result out.

    lower -> plan and tile -> price -> schedule -> check -> replay -> check -> summarise

Several tilings are tried with the greedy scheduler and the best is kept; the solver then improves its schedule.
What is returned is the replay of the better one, and both opinions passed the checker.
"""

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from math import fsum

from stream_mla.accelerator import Accelerator
from stream_mla.attention import lower
from stream_mla.bounds import Bounds, bounds, ideal_cycles
from stream_mla.cost import Objective
from stream_mla.errors import InfeasibleError, SpecError
from stream_mla.graph import CONTRACTIONS, OperatorGraph, Role
from stream_mla.planning import plans
from stream_mla.problem import OFF_CHIP, Problem, price
from stream_mla.result import Result, Status
from stream_mla.schedule import Schedule, energy_parts_pj, peak_sram_bits, route_of, violations
from stream_mla.schedulers.greedy import greedy
from stream_mla.simulate import replay
from stream_mla.tiling import tile, tile_count
from stream_mla.work import Gemm
from stream_mla.workload import Workload

ENOUGH_STEPS = 60_000
"""The search over tilings ends when those tried have this many tiles and moves together, and one of them fits."""
MOST_TILES = 500_000
"""Tilings of more tiles are refused: they would take tens of minutes and all memory."""
NEAR = 1e-3
"""It also ends with a greedy schedule within this share of what no tiling can beat."""
MOST_ACTIVITIES = 3000
"""The solver is left out where tiles and moves are more than this: it would not improve them in useful time."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """Everything that determines a result, and nothing else."""

    workload: Workload
    accelerator: Accelerator
    scheme: str
    objective: Objective
    time_limit_s: float
    """Of the solver; 0 leaves it out."""
    gap_limit: float
    """The solver stops, or is not started, within this share of the proven bound."""
    seed: int
    workers: int
    tile_sizes: Mapping[str, int] = field(hash=False)
    """Sizes set by hand, per index; `parts` is the number of parts of the keys."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A result with the schedule it describes."""

    result: Result
    problem: Problem
    schedule: Schedule


Progress = Callable[[str], None]


def evaluate(point: Point, progress: Progress = lambda _: None) -> Outcome:
    """Schedule one point. InfeasibleError says which memory is too small for what."""
    graph = lower(point.workload, point.scheme)
    _require_precision(graph, point.accelerator)
    _require_dram(graph, point.accelerator)
    problem, limits, first = _best_tiling(point, graph, progress)
    schedule, solver = first, None
    value = _value(problem, first)
    if value - _floor(limits, point.objective) > value * point.gap_limit and point.time_limit_s > 0:
        schedule, solver = _solve(point, problem, limits, first, progress)
    result = _summarise(point, graph, problem, limits, schedule, first, solver)
    return Outcome(result=result, problem=problem, schedule=schedule)


@dataclass(frozen=True, kw_only=True)
class _Solved:
    """What the solver said, whether or not its schedule was the better one."""

    status: str
    bound_cycles: int | None
    seconds: float
    better: bool


def _require_precision(graph: OperatorGraph, accelerator: Accelerator) -> None:
    """Refuse products that no array can do, all at once."""
    problems: list[str] = []
    arrays = [core.type.array for core in accelerator.array_cores() if core.type.array is not None]
    widest = max((entry.operand for array in arrays for entry in array.precisions), default=0)
    for operator in (operator for operator in graph.operators if operator.kind in CONTRACTIONS):
        tensors = [graph.tensors[operand.tensor] for operand in operator.inputs[:2]]
        bits = max(tensor.element_bits for tensor in tensors)
        if bits > widest:
            names = " x ".join(f"{tensor.name} ({tensor.element_bits} bit)" for tensor in tensors)
            problems.append(f"{operator.name} multiplies {names}, the widest array does {widest} bit: set --bits")
    if problems:
        raise SpecError(accelerator.name, problems)


def _require_dram(graph: OperatorGraph, accelerator: Accelerator) -> None:
    """Refuse a layer whose tensors the DRAM cannot hold."""
    tensors = [t for t in graph.tensors.values() if t.role in (Role.INPUT, Role.WEIGHT, Role.CACHE, Role.OUTPUT)]
    need, have = sum(tensor.bits for tensor in tensors), accelerator.dram.capacity
    if need > have:
        largest = max(tensors, key=lambda tensor: tensor.bits)
        raise InfeasibleError(
            f"{accelerator.name}: weights, cache, input and output need {need // 8:,} B, the DRAM has {have // 8:,} B; "
            f"the largest is {largest.name} ({largest.role}) with {largest.bits // 8:,} B: "
            "use a smaller batch or context, fewer --bits, or more DRAM"
        )


def _value(problem: Problem, schedule: Schedule) -> float:
    """What is minimised: cycles or pJ."""
    if problem.objective is Objective.LATENCY:
        return schedule.latency_cycles
    return fsum(energy_parts_pj(problem, schedule).values())


def _floor(limits: Bounds, objective: Objective) -> float:
    return limits.lower_bound_cycles if objective is Objective.LATENCY else limits.energy_pj


def _why_infeasible(point: Point, graph: OperatorGraph, reasons: list[str]) -> str:
    tried = "with the sizes you set" if point.tile_sizes else f"in any of {len(reasons)} tilings"
    largest = max(graph.tensors.values(), key=lambda tensor: tensor.bits)
    return (
        f"{point.workload.model.name} as {point.scheme} does not fit {point.accelerator.name} {tried}: {reasons[-1]}. "
        f"The largest tensor is {largest.name} ({largest.role}), {largest.bits // 8:,} B. "
        "What helps: a larger SRAM, fewer --bits, a smaller --batch or --query, or smaller pieces (--tile h=1,k=64)"
    )


def _checked(problem: Problem, schedule: Schedule, scheduler: str) -> Schedule:
    """Return the replay of a schedule; both must obey all rules, and the replay may not be later."""
    for what, candidate in (("schedule", schedule), ("replay", again := replay(problem, schedule))):
        if broken := violations(problem, candidate):
            raise AssertionError(f"the {what} of {scheduler} breaks {len(broken)} rules: {'; '.join(broken[:5])}")
    if again.latency_cycles > schedule.latency_cycles:
        raise AssertionError(
            f"{scheduler} claims {schedule.latency_cycles} cycles, the replay takes {again.latency_cycles}"
        )
    return again


def _best_tiling(point: Point, graph: OperatorGraph, progress: Progress) -> tuple[Problem, Bounds, Schedule]:
    """Try tilings with the greedy scheduler; keep the best schedule."""
    best: tuple[float, Problem, Bounds, Schedule] | None = None
    fits_not: list[str] = []
    too_many: list[str] = []
    steps = 0
    ideal = ideal_cycles(graph, point.accelerator) if point.objective is Objective.LATENCY else 0
    for number, tiling in enumerate(plans(graph, point.accelerator, point.tile_sizes)):
        tiles = tile_count(graph, tiling)
        if best is not None and steps + tiles > ENOUGH_STEPS:
            break
        if tiles > MOST_TILES:
            sram = min(core.type.sram.capacity for core in point.accelerator.cores) // 8
            too_many.append(f"an SRAM of {sram:,} B would cut it into {tiles:,} tiles, more than {MOST_TILES:,}")
            continue
        cut = tile(graph, tiling)
        problem = price(cut, point.accelerator, point.objective)
        try:
            schedule = greedy(problem)
        except InfeasibleError as error:
            fits_not.append(str(error))
            steps += len(cut.tiles) + len(cut.blocks)
            progress(f"tiling {number}: {len(cut.tiles)} tiles do not fit")
            continue
        limits = bounds(problem)
        value = _value(problem, schedule)
        progress(f"tiling {number}: {len(cut.tiles)} tiles, {schedule.latency_cycles} cycles")
        if best is None or value < best[0]:
            best = (value, problem, limits, schedule)
        steps += len(schedule.runs) + len(schedule.moves)
        if value <= ideal * (1 + NEAR):
            break
    if best is None:
        raise InfeasibleError(_why_infeasible(point, graph, fits_not or too_many))
    _, problem, limits, schedule = best
    return problem, limits, _checked(problem, schedule, "greedy")


def _solve(
    point: Point, problem: Problem, limits: Bounds, first: Schedule, progress: Progress
) -> tuple[Schedule, _Solved]:
    """Improve a schedule with CP-SAT; the schedule given is returned where nothing better is found."""
    activities = len(first.runs) + len(first.moves)
    if activities > MOST_ACTIVITIES:
        return first, _Solved(
            status=f"skipped: {activities} tiles and moves", bound_cycles=None, seconds=0, better=False
        )
    from stream_mla.schedulers import cp_sat  # loads OR-Tools, which only this needs

    found = cp_sat.improve(
        problem,
        first,
        lower_bound_cycles=limits.lower_bound_cycles,
        budget=cp_sat.Budget(
            time_limit_s=point.time_limit_s, gap_limit=point.gap_limit, seed=point.seed, workers=point.workers
        ),
        progress=progress,
    )
    best = first
    if found.schedule is not None:
        schedule = _checked(problem, found.schedule, "cp_sat")
        best = min(first, schedule, key=lambda candidate: (_value(problem, candidate), candidate.latency_cycles))
    return best, _Solved(
        status=found.status, bound_cycles=found.bound_cycles, seconds=found.seconds, better=best is not first
    )


def _summarise(
    point: Point,
    graph: OperatorGraph,
    problem: Problem,
    limits: Bounds,
    schedule: Schedule,
    first: Schedule,
    solver: _Solved | None,
) -> Result:
    latency = schedule.latency_cycles
    breakdown = energy_parts_pj(problem, schedule)
    energy = fsum(breakdown.values())
    cycles = dict(limits.cycles)
    if solver and solver.bound_cycles is not None:
        cycles["solver"] = solver.bound_cycles
    lower = max(cycles.values())
    gaps = {Objective.LATENCY: (latency - lower) / latency, Objective.ENERGY: (energy - limits.energy_pj) / energy}
    gap = max(0.0, gaps[point.objective])
    bits = {
        way: sum(problem.cut.blocks[m.block].bits for m in schedule.moves if getattr(m, way) == OFF_CHIP)
        for way in ("source", "target")
    }
    precision = point.workload.precision
    return Result(
        model=point.workload.model.name,
        scheme=point.scheme,
        accelerator=point.accelerator.name,
        batch=point.workload.batch,
        query_tokens=point.workload.query_tokens,
        context_tokens=point.workload.context_tokens,
        cached_tokens=point.workload.cached_tokens,
        weight_bits=precision.weights,
        cache_bits=precision.cache,
        activation_bits=precision.activations,
        objective=point.objective,
        latency_cycles=latency,
        latency_s=latency / point.accelerator.clock,
        energy_pj=energy,
        energy_breakdown_pj=breakdown,
        macs=graph.total_macs,
        dram_read_bytes=bits["source"] / 8,
        dram_write_bytes=bits["target"] / 8,
        dram_minimum_read_bytes=graph.dram_read_bits / 8,
        dram_minimum_write_bytes=graph.dram_write_bits / 8,
        operational_intensity_macs_per_byte=graph.total_macs / (sum(bits.values()) / 8),
        mac_utilization=_mac_utilization(problem, schedule),
        peak_sram_bytes={name: peak / 8 for name, peak in peak_sram_bits(problem, schedule).items()},
        busy_cycles=_busy_cycles(problem, schedule),
        lower_bound_cycles=lower,
        bounds_cycles=cycles,
        ideal_cycles=ideal_cycles(graph, point.accelerator),
        binding_bound=limits.binding,
        gap=gap,
        energy_lower_bound_pj=limits.energy_pj,
        energy_gap=max(0.0, gaps[Objective.ENERGY]),
        status=Status.OPTIMAL if gap <= 1e-9 else Status.FEASIBLE,
        scheduler="cp_sat" if solver and solver.better else "greedy",
        greedy_latency_cycles=first.latency_cycles,
        solver_status=solver.status
        if solver
        else "not needed: the greedy schedule meets the bound"
        if point.time_limit_s > 0
        else "not asked for: time limit 0",
        solver_bound_cycles=solver.bound_cycles if solver else None,
        tiles=len(schedule.runs),
        moves=len(schedule.moves),
        cores_used=len({run.core for run in schedule.runs}),
        tiling=problem.cut.tiling.sizes,
        context_parts=problem.cut.tiling.parts,
        spilled=tuple(sorted(problem.cut.tiling.spilled)),
        solve_s=solver.seconds if solver else 0.0,
        time_limit_s=point.time_limit_s,
        seed=point.seed,
        workers=point.workers,
        versions=versions(),
    )


def _mac_utilization(problem: Problem, schedule: Schedule) -> float:
    """Cycles of every array at full rate that the MACs need, over the cycles there are."""
    elements = {
        n: core.type.array.rows * core.type.array.columns for n, core in enumerate(problem.cores) if core.type.array
    }
    used = 0.0
    for run in schedule.runs:
        work, array = problem.cut.tiles[run.tile].work, problem.cores[run.core].type.array
        if isinstance(work, Gemm) and array is not None and (precision := array.precision(work.operand_bits)):
            used += work.macs / precision.macs_per_element
    return used / (sum(elements.values()) * schedule.latency_cycles)


def _busy_cycles(problem: Problem, schedule: Schedule) -> dict[str, float]:
    """Cycles that arrays and vector units run (mean), and that each bandwidth would need at its full rate."""
    counts = {
        "arrays": len(list(problem.accelerator.array_cores())),
        "vector units": len(list(problem.accelerator.vector_cores())),
    }
    busy: dict[str, float] = dict.fromkeys(counts, 0.0)
    for run in schedule.runs:
        unit = "vector units" if problem.unit(run.tile, run.core) % 2 else "arrays"
        busy[unit] += (run.end - run.start) / counts[unit]
    for move in schedule.moves:
        route = route_of(problem, schedule, move)
        assert route is not None
        for number in route.resources:
            resource = problem.resources[number]
            share = (move.end - move.start) * route.demand / resource.capacity
            busy[resource.name] = busy.get(resource.name, 0.0) + share
    return busy


def versions() -> dict[str, str]:
    """Versions of what can move a result."""
    found = {"python": platform.python_version()}
    for package in ("stream-mla", "ortools", "numpy", "networkx"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
