"""The ways of bits: the bandwidths of a machine, and the route between every two places.

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

from stream_mla.hardware.accelerator import DRAM, Accelerator, Link, LinkKind

OFF_CHIP = -1
"""The DRAM has this place in routes, and so have copies that are in DRAM."""

SHARE = 1000
"""Bandwidths are counted in whole steps of 1/SHARE bit per cycle, or finer ones where that would round too much."""

MOST_ROUNDED = 1e-6
"""No bandwidth of a machine is rounded by more than this share of it: the steps are made ten times finer until then."""

MANY = 16
"""From so many moves beside each other on, each gives way: for the n-th of them by less than 1/n of its rate."""


@dataclass(frozen=True, kw_only=True)
class Resource:
    """Something with a bandwidth that moves share."""

    name: str
    capacity: int
    """The bandwidth, in 1/grid bit per cycle."""
    grid: int = SHARE
    """Steps of one bit per cycle; all resources and routes of a machine have the same."""

    def cycles(self, bits: int) -> int:
        """Return the cycles in which so many bits can pass at the earliest."""
        return -(-bits * self.grid // self.capacity)

    @property
    def bits_per_cycle(self) -> float:
        """The bandwidth as a float."""
        return self.capacity / self.grid


@dataclass(frozen=True, kw_only=True)
class Route:
    """The way of a move from one place to another."""

    links: tuple[str, ...]
    """The names of the links along the way."""
    resources: tuple[int, ...]
    demand: int
    """The share of each resource that is taken while the move lasts, in 1/grid bit per cycle."""
    latency_cycles: int
    energy_pj_per_bit: float
    """The energy of the links alone; memories at the ends are counted apart."""
    multicast: bool = False
    """Whether it is one bus that can bring the same bits to other cores at the same time."""
    grid: int = SHARE
    """Steps of one bit per cycle, as in `Resource`."""

    def cycles(self, bits: int) -> int:
        """Return the cycles for which the move holds its resources."""
        return max(1, -(-bits * self.grid // self.demand))

    @property
    def bits_per_cycle(self) -> float:
        """The rate as a float."""
        return self.demand / self.grid


@dataclass(frozen=True, kw_only=True)
class _Hop:
    """The way from one place to another over one link."""

    link: str
    position: int
    """The number of the link in the file."""
    resources: tuple[int, ...]
    capacity: int
    """The bandwidth of the narrowest resource."""
    latency: float
    energy: float
    multicast: bool


_Path = tuple[_Hop, ...]
_Hops = Mapping[int, Mapping[int, _Hop]]
"""Place -> each place that a link joins with it -> the way there."""


@dataclass(frozen=True, kw_only=True)
class _Numbers:
    """The numbers of the resources of one link."""

    wires: Mapping[str, int]
    ports: Mapping[str, int]


def _bandwidths(accelerator: Accelerator) -> list[tuple[str, float]]:
    """Return names and bits per second of all resources: the DRAM's first, then those of each link."""
    found = [(DRAM, accelerator.dram.bandwidth)]
    for link in accelerator.links:
        narrow = min(link.bandwidth, link.port_bandwidth)
        wires = narrow if link.kind is LinkKind.LINK else link.bandwidth
        found += [(name, wires) for name in link.wire_names]
        found += [(name, link.port_bandwidth) for name in link.port_names]
    return found


def _numbered(accelerator: Accelerator) -> list[_Numbers]:
    """Return the numbers of the resources of each link, in the order of `_bandwidths`."""
    found: list[_Numbers] = []
    first = 1
    for link in accelerator.links:
        ports = first + len(link.wire_names)
        found.append(
            _Numbers(
                wires={name: number for number, name in enumerate(link.wire_names, start=first)},
                ports={name: number for number, name in enumerate(link.port_names, start=ports)},
            )
        )
        first = ports + len(link.port_names)
    return found


def _resources(accelerator: Accelerator) -> list[Resource]:
    """Return the resources with their bandwidths in whole steps, rounded down, and by `MOST_ROUNDED` at most."""
    per_cycle = {rate: accelerator.per_cycle(rate) for _, rate in _bandwidths(accelerator)}

    def whole(rate: float) -> int:
        return math.floor(per_cycle[rate] * grid + 1e-6)

    grid = SHARE
    while any(whole(rate) < per_cycle[rate] * grid * (1 - MOST_ROUNDED) for rate in per_cycle):
        grid *= 10
    return [Resource(name=name, capacity=whole(rate), grid=grid) for name, rate in _bandwidths(accelerator)]


def _hops(accelerator: Accelerator, resources: Sequence[Resource]) -> _Hops:
    """Return the best single link between every two places that one joins."""
    places = {DRAM: OFF_CHIP} | {core.name: number for number, core in enumerate(accelerator.cores)}
    hops: dict[int, dict[int, _Hop]] = {place: {} for place in places.values()}
    ranks: dict[tuple[int, int], tuple[bool, int, float]] = {}
    for position, (link, numbers) in enumerate(zip(accelerator.links, _numbered(accelerator), strict=True)):
        leaving, entering = (_ports(link, numbers, way) for way in ("out", "in"))
        for a, b in ((a, b) for a in link.ends for b in link.ends if a != b):
            wire = link.direction(a, b) if link.kind is LinkKind.LINK else link.name
            to_dram = DRAM in (a, b)
            used = (numbers.wires[wire], *leaving[a], *entering[b], *((0,) if to_dram else ()))
            capacity = min([resources[number].capacity for number in used])
            rank = (link.kind is not LinkKind.LINK, -capacity, link.energy)
            ends = places[a], places[b]
            if ends not in ranks or rank < ranks[ends]:
                ranks[ends] = rank
                hops[ends[0]][ends[1]] = _Hop(
                    link=link.name,
                    position=position,
                    resources=used,
                    capacity=capacity,
                    latency=link.latency + (accelerator.dram.latency if to_dram else 0),
                    energy=link.energy,
                    multicast=link.kind is LinkKind.MULTICAST_BUS,
                )
    return hops


def _ports(link: Link, numbers: _Numbers, way: str) -> dict[str, tuple[int, ...]]:
    """Return the resources that a move passes as it leaves, or enters, each end of a link: none or a port."""
    names = {end: link.port(end, way) for end in link.ends}
    return {end: (numbers.ports[name],) if name in numbers.ports else () for end, name in names.items()}


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
            grid=resources[0].grid,
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
        grid=first.grid,
    )


def usable_cycles(resource: Resource, number: int, routes: Mapping[tuple[int, int], Route], bits: int) -> int:
    """Return the cycles in which so many bits can pass a resource at the earliest, given the rates of the routes."""
    return -(-bits * resource.grid // usable(resource, number, routes))


def usable(resource: Resource, number: int, routes: Mapping[tuple[int, int], Route]) -> int:
    """Return the most of a resource that moves can take at once: each takes the rate of its route, or waits."""
    step = math.gcd(*(route.demand for route in routes.values() if number in route.resources))
    return resource.capacity // step * step if step else resource.capacity
