"""How bits get from one place to another: the bandwidths of a machine, and the route between every two places.

Assumptions:
- A move takes bits / rate cycles at the lowest bandwidth along its route, and takes that share of each
  resource on the route for its whole time (cut-through: all links of a route carry it at once). Reads and writes
  share the DRAM's bandwidth. Where one link joins many cores with it, a move takes a little less than its port
  could carry, so that a whole number of moves fills the DRAM: no part of its bandwidth is left over.
- What a move brings is usable `latency` after its last bit; the resources are free by then. Latencies and energies of
  the links on a route add.
- Where a link joins two places, their route is that link. Where several do, one with two ends serves before a bus
  (which the DRAM's traffic needs), then the fastest, then the one with least energy, then the first in the file.
- Other places are joined by a path of such links: the fewest, then the highest rate, then the least energy, then the
  first in the file, link by link. A mesh lists the links along its rows before those along its columns: all paths
  of a uniform mesh go along the row first (XY routing).
- A path may pass through cores, without touching their memories, but not through the DRAM.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from stream_mla.hardware.accelerator import DRAM, Accelerator, LinkKind

OFF_CHIP = -1
"""The place of the DRAM in routes, and of copies that are in DRAM."""

SHARE = 1000
"""Bandwidth is counted in 1/SHARE bit per cycle, so that it is whole."""

MANY = 16
"""From so many moves beside each other on, each gives way: for the n-th of them by less than 1/n of its rate."""


@dataclass(frozen=True, kw_only=True)
class Resource:
    """Something with a bandwidth that moves share."""

    name: str
    capacity: int
    """1/SHARE bit per cycle."""


@dataclass(frozen=True, kw_only=True)
class Route:
    """How a move gets from one place to another."""

    links: tuple[str, ...]
    """Along the way."""
    resources: tuple[int, ...]
    demand: int
    """Share of each resource taken while the move lasts; 1/SHARE bit per cycle."""
    latency_cycles: int
    energy_pj_per_bit: float
    """Of the links alone; memories at the ends are counted apart."""
    multicast: bool = False
    """It is one bus that can bring the same bits to other cores at the same time."""

    def cycles(self, bits: int) -> int:
        """Cycles the move holds its resources."""
        return max(1, -(-bits * SHARE // self.demand))


@dataclass(frozen=True, kw_only=True)
class _Hop:
    """The way from one place to another over one link."""

    link: str
    position: int
    """Of the link, in the file."""
    resources: tuple[int, ...]
    capacity: int
    """Of the narrowest resource."""
    latency: float
    energy: float
    multicast: bool


_Path = tuple[_Hop, ...]
_Hops = Mapping[int, Mapping[int, _Hop]]
"""Place -> each place that a link joins with it -> how to get there."""


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
        if link.kind is not LinkKind.LINK and link.port_bandwidth < link.bandwidth:
            found += [
                Resource(name=f"{link.name}:{end}:{way}", capacity=whole(link.port_bandwidth))
                for end in link.ends
                if end != DRAM
                for way in ("in", "out")
            ]
    return found


def _hops(accelerator: Accelerator, resources: Sequence[Resource]) -> _Hops:
    """Return the best single link between every two places that one joins."""
    numbers = {resource.name: number for number, resource in enumerate(resources)}
    places = {DRAM: OFF_CHIP} | {core.name: number for number, core in enumerate(accelerator.cores)}
    hops: dict[int, dict[int, _Hop]] = {place: {} for place in places.values()}
    ranks: dict[tuple[int, int], tuple[bool, int, float]] = {}
    for position, link in enumerate(accelerator.links):
        for a, b in ((a, b) for a in link.ends for b in link.ends if a != b):
            names = [f"{link.name}:{a}>{b}"] if link.kind is LinkKind.LINK else [link.name]
            names += [port for port in (f"{link.name}:{a}:out", f"{link.name}:{b}:in") if port in numbers]
            names += [DRAM] if DRAM in (a, b) else []
            used = tuple(numbers[name] for name in names)
            capacity = min(resources[number].capacity for number in used)
            rank = (link.kind is not LinkKind.LINK, -capacity, link.energy)
            ends = places[a], places[b]
            if ends not in ranks or rank < ranks[ends]:
                ranks[ends] = rank
                hops[ends[0]][ends[1]] = _Hop(
                    link=link.name,
                    position=position,
                    resources=used,
                    capacity=capacity,
                    latency=link.latency + (accelerator.dram.latency if DRAM in (a, b) else 0),
                    energy=link.energy,
                    multicast=link.kind is LinkKind.MULTICAST_BUS,
                )
    return hops


def _tie(path: _Path) -> tuple[float, list[int]]:
    """Rank paths of one rate."""
    return sum(hop.energy for hop in path), [hop.position for hop in path]


def _rate(path: _Path) -> int:
    return min(hop.capacity for hop in path)


def _not_beaten(paths: Iterable[_Path]) -> list[_Path]:
    """Drop paths to one place that are no faster than another and lose to it in a tie; the fastest comes first.

    A slower path is kept where it wins: a later hop may be slower still, and then it is the better start.
    """
    kept: list[_Path] = []
    for path in sorted(paths, key=lambda path: (-_rate(path), _tie(path))):
        if not kept or _tie(path) < _tie(kept[-1]):
            kept.append(path)
    return kept


def _paths(hops: _Hops, source: int) -> Iterator[tuple[int, _Path]]:
    """Yield the best path from a place to each place that can be reached: those of one hop, of two hops, ..."""
    level: dict[int, list[_Path]] = {target: [(hop,)] for target, hop in hops[source].items()}
    seen = {source}
    while level:
        seen.update(level)
        reached: dict[int, list[_Path]] = {}
        for place, paths in level.items():
            yield place, paths[0]
            if place == OFF_CHIP or len(seen) == len(hops):
                continue
            for target, hop in hops[place].items():
                if target not in seen:
                    reached.setdefault(target, []).extend((*path, hop) for path in paths)
        level = {place: _not_beaten(paths) for place, paths in reached.items()}


def _demand(path: _Path, resources: Sequence[Resource]) -> int:
    """Return the rate of a move: that of the path, or what lets a whole number of moves fill the DRAM."""
    rate, dram = _rate(path), resources[0].capacity
    if len(path) > 1 or not any(0 in hop.resources for hop in path) or not 0 < MANY * rate <= dram:
        return rate
    return dram // -(-dram // rate)


@lru_cache(maxsize=16)
def find_routes(accelerator: Accelerator) -> tuple[tuple[Resource, ...], Mapping[tuple[int, int], Route]]:
    """Return the bandwidth resources of a machine and the route between every two places that links join."""
    resources = _resources(accelerator)
    hops = _hops(accelerator, resources)
    routes = {
        (source, target): Route(
            links=tuple(hop.link for hop in path),
            resources=tuple(sorted({number for hop in path for number in hop.resources})),
            demand=_demand(path, resources),
            latency_cycles=accelerator.latency_cycles(sum(hop.latency for hop in path)),
            energy_pj_per_bit=sum(hop.energy for hop in path),
            multicast=len(path) == 1 and path[0].multicast,
        )
        for source in hops
        for target, path in _paths(hops, source)
    }
    return tuple(resources), routes


@lru_cache(maxsize=4096)
def joint(routes: tuple[Route, ...]) -> Route | None:
    """Return the route by which the DRAM reaches the ends of all these routes at once; None unless one bus can.

    The bits pass the DRAM and the bus once, and the port of every core. The link's energy counts once for each core.
    """
    first = routes[0]
    if not all(route.multicast and route.links == first.links for route in routes):
        return None
    return Route(
        links=first.links,
        resources=tuple(sorted({resource for route in routes for resource in route.resources})),
        demand=min(route.demand for route in routes),
        latency_cycles=max(route.latency_cycles for route in routes),
        energy_pj_per_bit=sum(route.energy_pj_per_bit for route in routes),
        multicast=True,
    )


def usable(resource: Resource, number: int, routes: Mapping[tuple[int, int], Route]) -> int:
    """Return the most of a resource that moves can take at once: each takes the rate of its route, or waits."""
    step = math.gcd(*(route.demand for route in routes.values() if number in route.resources))
    return resource.capacity // step * step if step else resource.capacity
