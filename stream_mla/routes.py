"""How bits get from one place to another: the bandwidths of a machine, and the route between every two places.

Assumptions:
- A move takes bits / rate cycles at the lowest bandwidth along its route, and takes that share of each
  resource on the route for its whole time. Reads and writes share the DRAM's bandwidth.
- What a move brings is usable `latency` after its last bit; the resources are free by then.
- A route uses one link. Where several join two places, one with two ends serves before a bus (which the DRAM's
  traffic needs), then the fastest, then the one with least energy.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stream_mla.accelerator import DRAM, Accelerator, Link, LinkKind

OFF_CHIP = -1
"""The place of the DRAM in routes, and of copies that are in DRAM."""

SHARE = 1000
"""Bandwidth is counted in 1/SHARE bit per cycle, so that it is whole."""


@dataclass(frozen=True, kw_only=True)
class Resource:
    """Something with a bandwidth that moves share."""

    name: str
    capacity: int
    """1/SHARE bit per cycle."""


@dataclass(frozen=True, kw_only=True)
class Route:
    """How a move gets from one place to another."""

    link: str
    resources: tuple[int, ...]
    demand: int
    """Share of each resource taken while the move lasts; 1/SHARE bit per cycle."""
    latency_cycles: int
    energy_pj_per_bit: float
    """Of the link alone; memories at the ends are counted apart."""

    def cycles(self, bits: int) -> int:
        """Cycles the move holds its resources."""
        return max(1, -(-bits * SHARE // self.demand))


def _resources(accelerator: Accelerator) -> list[Resource]:
    def whole(bits_per_second: float) -> int:
        return math.floor(accelerator.per_cycle(bits_per_second) * SHARE + 1e-6)

    found = [Resource(name=DRAM, capacity=whole(accelerator.dram.bandwidth))]
    for link in accelerator.links:
        names, bandwidth = [link.name], link.bandwidth
        if link.kind is LinkKind.LINK:
            names = [f"{link.name}:{a}>{b}" for a, b in (link.ends, link.ends[::-1])]
            bandwidth = min(link.bandwidth, link.port_bandwidth)
        found += [Resource(name=name, capacity=whole(bandwidth)) for name in names]
        if link.kind is LinkKind.BUS and link.port_bandwidth < link.bandwidth:
            found += [
                Resource(name=f"{link.name}:{end}:{way}", capacity=whole(link.port_bandwidth))
                for end in link.ends
                if end != DRAM
                for way in ("in", "out")
            ]
    return found


def _route(
    accelerator: Accelerator, names: Mapping[str, int], capacities: Sequence[int], link: Link, a: str, b: str
) -> Route:
    used = [link.name] if link.kind is LinkKind.BUS else [f"{link.name}:{a}>{b}"]
    used += [port for port in (f"{link.name}:{a}:out", f"{link.name}:{b}:in") if port in names]
    latency = link.latency
    if DRAM in (a, b):
        used.append(DRAM)
        latency += accelerator.dram.latency
    resources = tuple(sorted(names[name] for name in used))
    return Route(
        link=link.name,
        resources=resources,
        demand=min(capacities[resource] for resource in resources),
        latency_cycles=accelerator.latency_cycles(latency),
        energy_pj_per_bit=link.energy,
    )


def find_routes(accelerator: Accelerator) -> tuple[tuple[Resource, ...], dict[tuple[int, int], Route]]:
    """Return the bandwidth resources of a machine and the route between every two places that a link joins."""
    resources = _resources(accelerator)
    names = {resource.name: number for number, resource in enumerate(resources)}
    capacities = [resource.capacity for resource in resources]
    places = {DRAM: OFF_CHIP} | {core.name: number for number, core in enumerate(accelerator.cores)}
    routes: dict[tuple[int, int], Route] = {}
    ranks: dict[tuple[int, int], tuple[bool, int, float]] = {}
    for link in accelerator.links:
        for a in link.ends:
            for b in link.ends:
                if a == b:
                    continue
                new = _route(accelerator, names, capacities, link, a, b)
                rank = (link.kind is LinkKind.BUS, -new.demand, new.energy_pj_per_bit)
                best = ranks.get((places[a], places[b]))
                if best is None or rank < best:
                    ranks[places[a], places[b]] = rank
                    routes[places[a], places[b]] = new
    return tuple(resources), routes
