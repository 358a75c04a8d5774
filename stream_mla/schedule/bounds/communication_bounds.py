"""This module is about what must pass between cores that cannot do each other's work, and how long that takes at least.

Where no core that can make a block can also read it, the block is **sent**: whatever the cores, one copy leaves a core
that can make it and enters one that can read it. Bounds that follow, for every schedule of the tiling:

- a **cut** is a set of resources. A move of b bits over a route with n of them takes at least b n of what they carry
  together in the latency. So the bits of all moves that must be made, loads and stores among them, each times the
  fewest resources of the cut on any route it may take, are no more than that;
- a **memory** holds what is sent to its core, or from it, while it is moved, and while its maker or a reader runs. The
  bits of each copy times the least of these times, over all copies that must be on some cores, are no more than what
  these hold in the latency (Little's law).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from stream_mla.errors import InfeasibleError
from stream_mla.hardware.interconnect import OFF_CHIP, Route, usable
from stream_mla.schedule.problem import Problem

Places = tuple[int, ...]
"""Cores, or OFF_CHIP."""


@dataclass(frozen=True, kw_only=True)
class Sends:
    """The sends that every schedule of a problem makes."""

    problem: Problem

    @cached_property
    def places(self) -> tuple[Places, ...]:
        """Cores that each cluster may run on; all of them where it can run on none."""
        try:
            return self.problem.candidates
        except InfeasibleError:
            return (tuple(range(len(self.problem.cores))),) * len(self.problem.group_tiles)

    @cached_property
    def transfers(self) -> Mapping[tuple[int, Places], Places]:
        """(Block, cores to one of which it is sent) -> cores from one of which it comes.

        Of those that go to cores in common, which one send may serve, it has only the first.
        """
        tile_graph, found = self.problem.tile_graph, dict[tuple[int, Places], Places]()
        if len(set(self.places)) == 1:
            return found
        for number, (block, maker) in enumerate(zip(tile_graph.blocks, tile_graph.maker, strict=True)):
            if block.via_dram or maker < 0:
                continue
            sources = self.places[tile_graph.tiles[maker].group]
            taken = set(sources)
            for targets in dict.fromkeys(
                self.places[tile_graph.tiles[user].group] for user in tile_graph.users[number]
            ):
                if taken.isdisjoint(targets):
                    found[number, targets] = sources
                    taken.update(targets)
        return found

    def routes(self, sources: Places, targets: Places) -> list[Route]:
        """All routes between some places and others."""
        between = ((source, target) for source in sources for target in targets)
        return [self.problem.routes[ends] for ends in between if ends in self.problem.routes]

    @cached_property
    def _least(self) -> dict[tuple[Places, Places, int], int]:
        return {}

    def least_cycles(self, sources: Places, targets: Places, bits: int) -> int:
        """Fewest cycles from the start of a move to its arrival."""
        key = sources, targets, bits
        if key not in self._least:
            routes = self.routes(sources, targets)
            self._least[key] = min((route.cycles(bits) + route.latency_cycles for route in routes), default=0)
        return self._least[key]

    def sent_cycles(self, block: int, group: int) -> int:
        """Fewest cycles from the end of a block's maker until a cluster has it that cannot run beside it; else 0."""
        targets = self.places[group]
        sources = self.transfers.get((block, targets))
        return 0 if sources is None else self.least_cycles(sources, targets, self.problem.tile_graph.blocks[block].bits)

    def cut_cycles(self, dram_bits: Mapping[bool, int]) -> dict[str, int]:
        """Return what each cut takes; `dram_bits` are loaded (True) and stored (False) by some core."""
        problem = self.problem
        cores = tuple(range(len(problem.cores)))
        bits: dict[tuple[Places, Places], int] = defaultdict(int)
        for (block, targets), sources in self.transfers.items():
            bits[sources, targets] += problem.tile_graph.blocks[block].bits
        cuts = {tile_graph for ends in bits for tile_graph in self._cuts(*ends)}
        bits[(OFF_CHIP,), cores] += dram_bits[True]
        bits[cores, (OFF_CHIP,)] += dram_bits[False]
        found: dict[str, int] = {}
        for tile_graph in cuts:
            carried = sum(
                size * min((len(tile_graph.intersection(route.resources)) for route in self.routes(*ends)), default=0)
                for ends, size in bits.items()
            )
            capacity = sum(usable(problem.resources[number], number, problem.routes) for number in tile_graph)
            first, *others = sorted(problem.resources[number].name for number in tile_graph)
            found[f"{first} and {len(others)} alike" if others else first] = -(
                -carried * problem.resources[0].grid // capacity
            )
        return found

    def _cuts(self, sources: Places, targets: Places) -> Iterable[frozenset[int]]:
        """Yield cuts that every move from some places to others passes: one resource of each source or target."""
        for ends, here in ((sources, True), (targets, False)):
            chosen: set[int] = set()
            for end in ends:
                routes = self.routes((end,), targets) if here else self.routes(sources, (end,))
                common = set[int].intersection(*(set(route.resources) for route in routes)) if routes else set[int]()
                if routes and not common:
                    break
                if common:
                    chosen.add(min(common, key=lambda number: (self.problem.resources[number].capacity, number)))
            else:
                yield frozenset(chosen)

    def memory_cycles(self) -> dict[str, int]:
        """Return what holding all that is sent takes, of each set of cores that receives or sends."""
        problem, tile_graph = self.problem, self.problem.tile_graph
        held: dict[Places, int] = defaultdict(int)
        left: dict[int, int] = defaultdict(int)
        for (block, targets), sources in self.transfers.items():
            if not self.routes(sources, targets):
                continue
            moving = self.least_cycles(sources, targets, tile_graph.blocks[block].bits)
            # a source is free when its last bit has left
            latency = max(route.latency_cycles for route in self.routes(sources, targets))
            left[block] = max(left[block], problem.minimum_cycles[tile_graph.maker[block]] + moving - latency)
            users = [user for user in tile_graph.users[block] if self.places[tile_graph.tiles[user].group] == targets]
            held[targets] += tile_graph.blocks[block].bits * (
                moving + min(problem.minimum_cycles[user] for user in users)
            )
        for block, cycles in left.items():
            held[self.places[tile_graph.tiles[tile_graph.maker[block]].group]] += (
                tile_graph.blocks[block].held_bits * cycles
            )
        found: dict[str, int] = {}
        for places in held:
            inside = sum(bits for others, bits in held.items() if set(others) <= set(places))
            capacity = sum(problem.cores[core].type.sram.capacity for core in places)
            name = problem.cores[places[0]].name + (f" and {len(places) - 1} alike" if len(places) > 1 else "")
            found[f"memory of {name}"] = -(-inside // capacity)
        return found
