"""From a schedule to the result that is kept."""

import platform
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version
from math import fsum
from typing import Any

from stream_mla.hardware.core_cost import Objective
from stream_mla.hardware.interconnect import OFF_CHIP
from stream_mla.hardware.plausibility import accelerator_notes
from stream_mla.hardware.work import Gemm, UnitKind
from stream_mla.point import Point
from stream_mla.results.result import Result, Status
from stream_mla.schedule.bounds.schedule_bounds import ideal_cycles
from stream_mla.schedule.candidate import Candidate, Story
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.schedule import Schedule, energy_parts_pj, peak_sram_bits, route_of
from stream_mla.workload.operator_graph import OperatorGraph, Role
from stream_mla.workload.split_k import found_k_splits


def summarise(point: Point, graph: OperatorGraph, best: Candidate, story: Story) -> Result:
    """Gather what is to be kept of a schedule."""
    problem, schedule = best.problem, best.schedule
    return Result(
        **_asked(point),
        **_proven(point, graph, best, story),
        **_moved(graph, best),
        **_found(best, story),
        latency_cap_cycles=story.latency_cap_cycles,
        latency_s=schedule.latency_cycles / point.accelerator.clock,
        mac_utilization=_mac_utilization(problem, schedule),
        peak_sram_bytes={name: peak / 8 for name, peak in peak_sram_bits(problem, schedule).items()},
        cache_reads=_cache_reads(problem, schedule),
        solver_status=_solver_status(point, story),
        versions=versions(),
        notes=(*point.workload.model.notes, *accelerator_notes(point.accelerator)),
    )


def _asked(point: Point) -> dict[str, Any]:
    """Return the fields that repeat what was asked for."""
    workload, precision = point.workload, point.workload.precision
    return {
        "model": workload.model.name,
        "scheme": point.scheme,
        "accelerator": point.accelerator.name,
        "batch": workload.batch,
        "query_tokens": workload.query_tokens,
        "context_tokens": workload.context_tokens,
        "cached_tokens": workload.cached_tokens,
        "mask": "causal" if workload.mask.causal else "none",
        "window": workload.mask.window,
        "chunk": workload.mask.chunk,
        "weight_bits": precision.weights,
        "cache_bits": precision.cache,
        "activation_bits": precision.activations,
        "partial_bits": precision.partials,
        "objective": point.objective,
        "fusion": point.policy.fusion,
        "prefetch": point.policy.prefetch,
        "sharing": point.policy.sharing,
        "time_limit_s": point.time_limit_s,
        "gap_limit": point.gap_limit,
        "seed": point.seed,
        "workers": point.workers,
        "tile_sizes": dict(point.tile_sizes),
        "point_sha256": point.sha256,
        "layer": workload.model.layer,
        "source": workload.model.source,
    }


def _proven(point: Point, graph: OperatorGraph, best: Candidate, story: Story) -> dict[str, Any]:
    """Return latency and energy with their bounds and gaps."""
    latency, limits = best.schedule.latency_cycles, best.limits
    breakdown = energy_parts_pj(best.problem, best.schedule)
    energy = fsum(breakdown.values())
    cycles = dict(limits.cycles)
    solver_bound = max((run.bound_cycles for run in story.solved if run.bound_cycles is not None), default=None)
    if solver_bound is not None:
        cycles["solver"] = solver_bound
    lower = max(cycles.values())
    latency_gap = (latency - lower) / latency
    energy_gap = (energy - limits.energy_pj) / energy if energy else 0.0  # a machine may have no energies
    gap = max(0.0, energy_gap if point.objective is Objective.ENERGY else latency_gap)
    return {
        "latency_cycles": latency,
        "energy_pj": energy,
        "energy_breakdown_pj": breakdown,
        "lower_bound_cycles": lower,
        "bounds_cycles": cycles,
        "ideal_cycles": ideal_cycles(graph, point.accelerator),
        "binding_bound": limits.binding,
        "gap": gap,
        "latency_gap": max(0.0, latency_gap),
        "energy_lower_bound_pj": limits.energy_pj,
        "energy_gap": max(0.0, energy_gap),
        "status": _status(point, (gap, energy_gap), interrupted=story.interrupted),
        "solver_bound_cycles": solver_bound,
    }


def _moved(graph: OperatorGraph, best: Candidate) -> dict[str, Any]:
    """Return the MACs, the DRAM traffic beside the least, and what is busy."""
    problem, schedule = best.problem, best.schedule
    bits = {
        way: sum(problem.tile_graph.blocks[m.block].bits for m in schedule.transfers if getattr(m, way) == OFF_CHIP)
        for way in ("source", "target")
    }
    macs = sum(tile.work.macs for tile in problem.tile_graph.tiles if isinstance(tile.work, Gemm))
    busy = _busy_cycles(problem, schedule)
    bottleneck = max(busy, key=lambda resource: busy[resource])
    return {
        "macs": macs,
        "dram_read_bytes": bits["source"] / 8,
        "dram_write_bytes": bits["target"] / 8,
        "dram_minimum_read_bytes": graph.dram_read_bits / 8,
        "dram_minimum_write_bytes": graph.dram_write_bits / 8,
        "operational_intensity_macs_per_byte": macs / (sum(bits.values()) / 8),
        "busy_cycles": busy,
        "bottleneck": bottleneck,
        "bottleneck_share": busy[bottleneck] / schedule.latency_cycles,
    }


def _found(best: Candidate, story: Story) -> dict[str, Any]:
    """Return how the schedule was found, and of which tiling it is."""
    tile_graph, schedule = best.problem.tile_graph, best.schedule
    return {
        "scheduler": best.found_by,
        "start_sha256": story.start_sha256,
        "greedy_latency_cycles": story.greedy_latency_cycles,
        "tiles": len(schedule.runs),
        "moves": len(schedule.transfers),
        "cores_used": len({run.core for run in schedule.runs}),
        "tiling": tile_graph.tiling.sizes,
        "context_parts": max(tile_graph.tiling.kv_splits.values(), default=1),
        "row_parts": found_k_splits(tile_graph.graph),
        "frugal_tiles": len(best.least_energy_tiles),
        "spilled": tuple(sorted(tile_graph.tiling.spilled)),
        "solve_s": fsum(run.seconds for run in story.solved),
    }


def _status(point: Point, gaps: tuple[float, float], *, interrupted: bool) -> Status:
    """Say what is proven; latency-then-energy is optimal only if both gaps are closed."""
    open_gap = max(gaps) if point.objective is Objective.LATENCY_THEN_ENERGY else gaps[0]
    if interrupted:
        return Status.INTERRUPTED
    return Status.OPTIMAL if open_gap <= 1e-9 else Status.FEASIBLE


def _solver_status(point: Point, story: Story) -> str:
    said: dict[Objective, list[str]] = defaultdict(list)
    for run in story.solved:
        said[run.objective].append(run.status)
    if len(said) > 1:
        return "; ".join(f"{objective}: {', '.join(statuses)}" for objective, statuses in said.items())
    if said:
        return ", ".join(run.status for run in story.solved)
    if story.interrupted:
        return "not reached"
    if point.time_limit_s > 0:
        return f"not needed: greedy is within {point.gap_limit:g} of the bound"
    return "not asked for: time limit 0"


def _mac_utilization(problem: Problem, schedule: Schedule) -> float:
    """Cycles of every array at full rate that the MACs need, over the cycles there are."""
    elements = sum(core.type.array.elements for core in problem.cores if core.type.array)
    used = 0.0
    for run in schedule.runs:
        work, array = problem.tile_graph.tiles[run.tile].work, problem.cores[run.core].type.array
        if isinstance(work, Gemm) and array is not None and (precision := array.precision(work.operand_bits)):
            used += work.macs / precision.macs_per_element
    return used / (elements * schedule.latency_cycles)


def _busy_cycles(problem: Problem, schedule: Schedule) -> dict[str, float]:
    """Cycles that arrays and vector units run (mean), and that each bandwidth would need at its full rate."""
    counts = {kind.plural: problem.accelerator.count(kind) for kind in UnitKind}
    busy: dict[str, float] = dict.fromkeys(counts, 0.0)
    for run in schedule.runs:
        kind = problem.units[problem.unit(run.tile, run.core)].kind
        busy[kind.plural] += (run.end - run.start) / counts[kind.plural]
    for transfer in schedule.transfers:
        route = route_of(problem, schedule, transfer)
        assert route is not None
        for number in route.resources:
            resource = problem.resources[number]
            share = (transfer.end - transfer.start) * route.demand / resource.capacity
            busy[resource.name] = busy.get(resource.name, 0.0) + share
    return busy


def _cache_reads(problem: Problem, schedule: Schedule) -> float:
    """Bits of the cache that are read from DRAM, over the bits of the cache."""
    tensors = problem.tile_graph.graph.tensors
    caches = {name for name, tensor in tensors.items() if tensor.role is Role.CACHE}
    blocks = [
        problem.tile_graph.blocks[transfer.block] for transfer in schedule.transfers if transfer.source == OFF_CHIP
    ]
    read = sum(block.bits for block in blocks if block.tensor in caches)
    return read / max(1, sum(tensors[name].bits for name in caches))


def versions() -> dict[str, str]:
    """Versions of what can move a result."""
    found = {"python": platform.python_version()}
    for package in ("stream-mla", "ortools", "numpy", "networkx"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
