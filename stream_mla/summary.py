"""From a schedule to the result that is kept."""

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from math import fsum

from stream_mla.bounds import Bounds, ideal_cycles
from stream_mla.cost import Objective
from stream_mla.graph import OperatorGraph
from stream_mla.point import Point
from stream_mla.problem import Problem
from stream_mla.result import Result, Status
from stream_mla.routes import OFF_CHIP
from stream_mla.schedule import Schedule, energy_parts_pj, peak_sram_bits, route_of
from stream_mla.work import Gemm


@dataclass(frozen=True, kw_only=True)
class Solved:
    """What the solver said, whether or not its schedule was the better one."""

    status: str
    bound_cycles: int | None
    seconds: float
    better: bool


def summarise(
    point: Point,
    graph: OperatorGraph,
    problem: Problem,
    limits: Bounds,
    schedule: Schedule,
    first: Schedule,
    solver: Solved | None,
) -> Result:
    """Gather what is to be kept of a schedule; `first` is the greedy one."""
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
        partial_bits=precision.partials,
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
        latency_gap=max(0.0, gaps[Objective.LATENCY]),
        energy_lower_bound_pj=limits.energy_pj,
        energy_gap=max(0.0, gaps[Objective.ENERGY]),
        status=Status.OPTIMAL if gap <= 1e-9 else Status.FEASIBLE,
        scheduler="cp_sat" if solver and solver.better else "greedy",
        greedy_latency_cycles=first.latency_cycles,
        solver_status=_solver_status(point, solver),
        solver_bound_cycles=solver.bound_cycles if solver else None,
        tiles=len(schedule.runs),
        moves=len(schedule.moves),
        cores_used=len({run.core for run in schedule.runs}),
        tiling=problem.cut.tiling.sizes,
        context_parts=problem.cut.tiling.parts,
        spilled=tuple(sorted(problem.cut.tiling.spilled)),
        solve_s=solver.seconds if solver else 0.0,
        time_limit_s=point.time_limit_s,
        gap_limit=point.gap_limit,
        seed=point.seed,
        workers=point.workers,
        tile_sizes=dict(point.tile_sizes),
        point_sha256=point.sha256,
        versions=versions(),
    )


def _solver_status(point: Point, solver: Solved | None) -> str:
    if solver is not None:
        return solver.status
    if point.time_limit_s > 0:
        return f"not needed: greedy is within {point.gap_limit:g} of the bound"
    return "not asked for: time limit 0"


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
