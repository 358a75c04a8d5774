"""A schedule as plain facts."""

from collections import defaultdict
from dataclasses import dataclass
from itertools import accumulate
from math import fsum

from stream_mla.hardware.interconnect import OFF_CHIP, Route
from stream_mla.schedule.problem import Problem


@dataclass(frozen=True, kw_only=True)
class Residency:
    """A block in the memory of a core, from `start` to `end`."""

    block: int
    core: int
    bits: int
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class TileRun:
    """A tile on a core."""

    tile: int
    core: int
    start: int
    end: int
    reads: tuple[int, ...]
    """Positions in `Schedule.held`."""
    writes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """A transfer; usable at `arrival`, its resources are free at `end`."""

    block: int
    source: int
    """Position in `Schedule.held`, or OFF_CHIP."""
    target: int
    start: int
    end: int
    arrival: int
    also: tuple[int, ...] = ()
    """Further copies, on other cores, that the same bits fill: a multicast."""

    @property
    def filled(self) -> tuple[int, ...]:
        """All copies that it fills."""
        return () if self.target == OFF_CHIP else (self.target, *self.also)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Decisions with times, all in cycles."""

    runs: tuple[TileRun, ...]
    transfers: tuple[Transfer, ...]
    residencies: tuple[Residency, ...]

    @property
    def latency_cycles(self) -> int:
        """When the last tile has run and the last move has arrived."""
        return max([run.end for run in self.runs] + [transfer.arrival for transfer in self.transfers])


def route_of(problem: Problem, schedule: Schedule, transfer: Transfer) -> Route | None:
    """Return the route of a move, or None where no link joins its ends (all of them at once)."""
    source = OFF_CHIP if transfer.source == OFF_CHIP else schedule.residencies[transfer.source].core
    target = OFF_CHIP if transfer.target == OFF_CHIP else schedule.residencies[transfer.target].core
    if not transfer.also:
        return problem.routes.get((source, target))
    return problem.multicast(source, (target, *(schedule.residencies[residency].core for residency in transfer.also)))


def energy_parts_pj(problem: Problem, schedule: Schedule) -> dict[str, float]:
    """Energy of everything the schedule does, by component, in pJ."""
    costs = [problem.cost(run.tile, run.core) for run in schedule.runs]
    parts = {
        "mac": [cost.mac_pj for cost in costs],
        "registers": [cost.register_pj for cost in costs],
        "vector": [cost.vector_pj for cost in costs],
        "sram": [cost.sram_pj for cost in costs],
        "links": list[float](),
        "dram": list[float](),
    }
    dram = problem.accelerator.dram
    for transfer in schedule.transfers:
        bits = problem.tile_graph.blocks[transfer.block].bits
        route = route_of(problem, schedule, transfer)
        assert route is not None
        parts["links"].append(bits * route.energy_pj_per_bit)
        if transfer.source == OFF_CHIP:
            parts["dram"].append(bits * dram.read_energy)
        else:
            sram = problem.cores[schedule.residencies[transfer.source].core].type.sram
            parts["sram"].append(bits * sram.read_energy)
        if transfer.target == OFF_CHIP:
            parts["dram"].append(bits * dram.write_energy)
        for residency in transfer.filled:
            sram = problem.cores[schedule.residencies[residency].core].type.sram
            parts["sram"].append(bits * sram.write_energy)
    return {name: fsum(entries) for name, entries in parts.items()}


def residency_changes(schedule: Schedule) -> list[tuple[int, list[tuple[int, int]]]]:
    """Return (time, bits more or less) of each core that holds any."""
    changes: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for residency in schedule.residencies:
        changes[residency.core] += ((residency.start, residency.bits), (residency.end, -residency.bits))
    return sorted(changes.items())


def peak_sram_bits(problem: Problem, schedule: Schedule) -> dict[str, int]:
    """Most bits held at any instant, of each core that holds any."""
    return {
        problem.cores[number].name: max(accumulate([change for _, change in sorted(entries)]))
        for number, entries in residency_changes(schedule)
    }
