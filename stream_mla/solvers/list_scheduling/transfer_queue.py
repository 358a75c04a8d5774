"""Moves that are ready and wait for bandwidth, each in line for its way: the resources and the share that it takes.

Of one way only the first can start, so only the first is looked at, and while a resource has too little left for a way,
none of it is: with 132 cores, each of which loads far ahead, nearly all ready moves wait like that.
"""

import heapq
from collections.abc import Callable, Sequence

from stream_mla.hardware.interconnect import Resource, Route


class TransferQueue:
    """Ready moves by their urgency (a small number is urgent), and what is left of each resource."""

    def __init__(self, resources: Sequence[Resource]) -> None:
        self._free = [resource.capacity for resource in resources]
        self._strategies: dict[tuple[tuple[int, ...], int], int] = {}
        self._routes: list[Route] = []
        """One of each way."""
        self._lines: list[list[tuple[int, int]]] = []
        """It holds, for each way: a heap of the moves in line, by urgency and number."""
        self._stuck: list[int] = []
        """It holds, for each way: the resource that has too little left for it, or -1."""
        self._blocked: list[list[tuple[int, int, int]]] = [[] for _ in resources]
        """It holds, for each resource: a heap of the first moves of the ways that are stuck there, and the ways. What
        is no longer
        first, or stuck elsewhere, does not count."""
        self._freed: set[int] = set()
        """Resources of which more is left than when moves were started last."""
        self._tried: set[int] = set()
        """Ways that have moves in line and are not stuck."""

    def offer(self, urgency: int, number: int, route: Route) -> None:
        """Let a move stand in line."""
        way = self._strategies.setdefault((route.resources, route.demand), len(self._lines))
        if way == len(self._lines):
            self._routes.append(route)
            self._lines.append([])
            self._stuck.append(-1)
        line, stuck = self._lines[way], self._stuck[way]
        heapq.heappush(line, (urgency, number))
        if stuck < 0:
            self._tried.add(way)
        elif line[0] == (urgency, number):
            heapq.heappush(self._blocked[stuck], (urgency, number, way))

    def end(self, route: Route) -> None:
        """Give back what a move took."""
        for resource in route.resources:
            self._free[resource] += route.demand
        self._freed.update(route.resources)

    def start(self, holds_back: Callable[[int], bool], begin: Callable[[int], None]) -> None:
        """Begin all moves that find enough bandwidth, the most urgent first; who is held back leaves the line."""
        pool = [(*self._lines[way][0], way, -1) for way in self._tried]
        pool += [(*first, resource) for resource in self._freed if (first := self._first_blocked(resource))]
        self._tried.clear()
        self._freed.clear()
        heapq.heapify(pool)
        while pool:
            _, _, way, resource = heapq.heappop(pool)
            if resource >= 0:
                first = self._first_blocked(resource)  # another may have come to the front, or started, since
                if first is None:
                    continue
                heapq.heappop(self._blocked[resource])
                way = first[-1]
                self._stuck[way] = -1
            short = self._start_first(way, holds_back, begin)
            if short < 0 and self._lines[way]:
                heapq.heappush(pool, (*self._lines[way][0], way, -1))
            more = resource >= 0 and resource != short and self._free[resource] > 0
            if more and (first := self._first_blocked(resource)):
                heapq.heappush(pool, (*first, resource))

    def _start_first(self, way: int, holds_back: Callable[[int], bool], begin: Callable[[int], None]) -> int:
        """Begin the first move of a way, or take it out of the line, or return the resource where it is stuck."""
        line, route = self._lines[way], self._routes[way]
        number = line[0][1]
        if not holds_back(number):
            for resource in route.resources:
                if self._free[resource] < route.demand:
                    self._stuck[way] = resource
                    heapq.heappush(self._blocked[resource], (*line[0], way))
                    return resource
            for resource in route.resources:
                self._free[resource] -= route.demand
            begin(number)
        heapq.heappop(line)
        return -1

    def _first_blocked(self, resource: int) -> tuple[int, int, int] | None:
        """Return the most urgent move that is stuck at a resource, and its way."""
        heap = self._blocked[resource]
        while heap:
            urgency, number, way = heap[0]
            if self._stuck[way] == resource and self._lines[way][0] == (urgency, number):
                return heap[0]
            heapq.heappop(heap)
        return None
