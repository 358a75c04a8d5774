"""The result of a layer that runs in passes, from the results of its passes."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import fsum
from typing import Any

from stream_mla.hardware.core_cost import Objective
from stream_mla.point import Point
from stream_mla.results.result import Result, SegmentResult, Status
from stream_mla.schedule.bounds.schedule_bounds import ideal_cycles
from stream_mla.workload.operator_graph import OperatorGraph, Role
from stream_mla.workload.segments import Segment, handed_over

SUMMED = ("dram_read_bytes", "dram_write_bytes")
"""Fields of a result that are summed over all runs of all segments."""
COUNTED = ("greedy_latency_cycles", "tiles", "moves", "frugal_tiles")
"""Fields that are summed likewise, and are whole numbers."""


def segment_totals(point: Point, graph: OperatorGraph, parts: Sequence[tuple[Segment, Result]]) -> Result:
    """Return the result of passes that run one after the other: sums, and the largest of what is held at a time."""

    def total(value: str) -> float:
        return fsum(part.times * getattr(result, value) for part, result in parts)

    def totals(value: str) -> dict[str, float]:
        found: dict[str, float] = defaultdict(float)
        for part, result in parts:
            for name, amount in getattr(result, value).items():
                found[name] += part.times * amount
        return dict(found)

    latency, energy = int(total("latency_cycles")), total("energy_pj")
    lower, energy_lower = int(total("lower_bound_cycles")), total("energy_lower_bound_pj")
    cycles = {name: int(amount) for name, amount in totals("bounds_cycles").items() if name != "solver"}
    binding = max(cycles, key=lambda reason: cycles[reason])
    if lower > cycles[binding]:
        cycles["passes"] = lower
    busy = totals("busy_cycles")
    bottleneck = max(busy, key=lambda resource: busy[resource])
    gap, energy_gap = (latency - lower) / latency, max(0.0, (energy - energy_lower) / energy) if energy else 0.0
    bytes_moved = total("dram_read_bytes") + total("dram_write_bytes")
    macs = sum(part.times * result.macs for part, result in parts)
    first, results = parts[0][1], [result for _, result in parts]
    caps = [part.times * result.latency_cap_cycles for part, result in parts if result.latency_cap_cycles is not None]
    return replace(
        first,
        **{name: total(name) for name in SUMMED},
        **{name: int(total(name)) for name in COUNTED},
        **_merged(results),
        latency_cap_cycles=sum(caps) if caps else None,
        latency_cycles=latency,
        latency_s=latency / point.accelerator.clock,
        energy_pj=energy,
        energy_breakdown_pj=totals("energy_breakdown_pj"),
        macs=macs,
        dram_minimum_read_bytes=graph.dram_read_bits / 8,
        dram_minimum_write_bytes=graph.dram_write_bits / 8,
        operational_intensity_macs_per_byte=macs / bytes_moved,
        mac_utilization=fsum(p.times * r.mac_utilization * r.latency_cycles for p, r in parts) / latency,
        busy_cycles=busy,
        bottleneck=bottleneck,
        bottleneck_share=busy[bottleneck] / latency,
        cache_reads=fsum(p.times * r.cache_reads * _cache_bits(p.graph) for p, r in parts) / max(1, _cache_bits(graph)),
        lower_bound_cycles=lower,
        ideal_cycles=ideal_cycles(graph, point.accelerator),
        bounds_cycles=cycles,
        binding_bound=binding,
        gap=energy_gap if point.objective is Objective.ENERGY else gap,
        latency_gap=gap,
        energy_lower_bound_pj=energy_lower,
        energy_gap=energy_gap,
        solver_bound_cycles=None,
        spilled=tuple(sorted({*handed_over([p for p, _ in parts]), *(n for r in results for n in r.spilled)})),
        time_limit_s=point.time_limit_s,
        point_sha256=point.sha256,
        passes=tuple(_pass_result(part, result) for part, result in parts),
    )


def _merged(results: Sequence[Result]) -> dict[str, Any]:
    """Return the fields that hold for the segments together, however often each of them runs."""
    return {
        "peak_sram_bytes": _largest([result.peak_sram_bytes for result in results]),
        "status": _status(results),
        "scheduler": " and ".join(dict.fromkeys(result.scheduler for result in results)),
        "solver_status": "; ".join(dict.fromkeys(result.solver_status for result in results)),
        "cores_used": max(result.cores_used for result in results),
        "tiling": {name: sizes for result in results for name, sizes in result.tiling.items()},
        "context_parts": max(result.context_parts for result in results),
        "row_parts": {name: count for result in results for name, count in result.row_parts.items()},
        "solve_s": fsum(result.solve_s for result in results),
    }


def _largest(entries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for entry in entries for name in entry)
    return {name: max(entry.get(name, 0.0) for entry in entries) for name in names}


def _cache_bits(graph: OperatorGraph) -> int:
    return graph.bits_by_role().get(Role.CACHE, 0)


def _status(results: Sequence[Result]) -> Status:
    """Return what is proven of the passes together: no more than of each of them."""
    order = (Status.INTERRUPTED, Status.FEASIBLE, Status.OPTIMAL)
    return min((result.status for result in results), key=order.index)


def _pass_result(part: Segment, result: Result) -> SegmentResult:
    return SegmentResult(
        operators=tuple(operator.name for operator in part.graph.operators),
        sizes=part.sizes,
        times=part.times,
        latency_cycles=result.latency_cycles,
        lower_bound_cycles=result.lower_bound_cycles,
        tiles=result.tiles,
        bottleneck=result.bottleneck,
    )
