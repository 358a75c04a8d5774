"""Tiles in the order of their upward ranks, as HEFT has it (Topcuoglu, Hariri, Wu, IEEE TPDS 13(3), 2002).

The rank of a tile is the time from its start to the end of the last tile that needs it, without any contention: mean
cycles over the kinds of cores, and mean transfers over the routes.
"""

import heapq
from collections.abc import Collection, Sequence

import networkx as nx

from stream_mla.hardware.interconnect import OFF_CHIP, Route
from stream_mla.mapping.tiling.tile_graph import TileGraph
from stream_mla.schedule.problem import Problem


def _mean(routes: Collection[Route]) -> tuple[float, float]:
    """Cycles per bit, and latency."""
    count = max(1, len(routes))
    return sum(route.grid / route.demand for route in routes) / count, sum(
        route.latency_cycles for route in routes
    ) / count


def upward_ranks(problem: Problem) -> list[float]:
    """Return the rank of each tile; a tile always has a larger one than the tiles that need it."""
    tile_graph, routes = problem.tile_graph, problem.routes
    per_bit, latency = _mean([route for places, route in routes.items() if OFF_CHIP not in places])
    load, load_latency = _mean([route for (source, _), route in routes.items() if source == OFF_CHIP])
    store, store_latency = _mean([route for (_, target), route in routes.items() if target == OFF_CHIP])
    after = [0.0] * len(tile_graph.tiles)
    """Longest time from the end of each tile."""
    ranks = [0.0] * len(tile_graph.tiles)
    for number in reversed(range(len(tile_graph.tiles))):  # tiles stand after those they need
        costs = problem.costs[number].values()
        ranks[number] = after[number] + sum(cost.cycles for cost in costs) / len(costs)
        for before in tile_graph.predecessors[number]:
            after[before] = max(after[before], ranks[number])
        sent: dict[int, float] = {}
        """Cycles of all that each maker sends to this tile."""
        for block in tile_graph.tiles[number].reads:
            info, maker = tile_graph.blocks[block], tile_graph.maker[block]
            if maker >= 0:
                cycles = info.bits * per_bit + latency
                if info.via_dram:
                    cycles = info.bits * (store + load) + store_latency + load_latency
                sent[maker] = sent.get(maker, 0.0) + cycles
        for maker, cycles in sent.items():
            after[maker] = max(after[maker], ranks[number] + cycles)
    return ranks


def in_precedence(problem: Problem, keys: Sequence[float]) -> list[int]:
    """Phase by phase the tiles with the smallest keys first, none before those it needs; ties in tile order."""
    phases, successors = [tile.phase for tile in problem.tile_graph.tiles], problem.tile_graph.successors
    waiting = [len(before) for before in problem.tile_graph.predecessors]
    ready = [(phases[number], keys[number], number) for number, count in enumerate(waiting) if not count]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        number = heapq.heappop(ready)[-1]
        order.append(number)
        for other in successors[number]:
            waiting[other] -= 1
            if not waiting[other]:
                heapq.heappush(ready, (phases[other], keys[other], other))
    return order


def rank_order(problem: Problem) -> list[int]:
    """Phase by phase the tiles with the largest rank first, none before those it needs; ties in tile order."""
    return in_precedence(problem, [-round(rank, 6) for rank in upward_ranks(problem)])


def stages(tile_graph: TileGraph) -> dict[str, int]:
    """Number the stage of each operator: the most stages that must come before."""
    joined = tile_graph.graph.local | tile_graph.tiling.local | tile_graph.tiling.inline
    operator_of = [tile.operator for tile in tile_graph.tiles]
    made = [operator_of[maker] if maker >= 0 else "" for maker in tile_graph.maker]
    joins = [block.tensor in joined for block in tile_graph.blocks]
    pairs = {
        (made[block], operator_of[user], joins[block]): None
        for block, users in enumerate(tile_graph.users)
        if made[block]
        for user in users
    }
    feeds: nx.DiGraph[str] = nx.DiGraph()
    feeds.add_nodes_from(dict.fromkeys(operator_of))
    feeds.add_edges_from((before, after) for before, after, _ in pairs if before != after)
    together = feeds.copy()
    together.add_edges_from((after, before) for before, after, joined in pairs if joined and before != after)
    number: dict[str, int] = {}
    parts = nx.condensation(together)
    for part in nx.topological_sort(parts):
        members: set[str] = parts.nodes[part]["members"]
        needs = {before for name in members for before in feeds.predecessors(name)} - members
        number |= dict.fromkeys(members, max((number[before] + 1 for before in needs), default=0))
    return number


def stage_order(tile_graph: TileGraph) -> list[int]:
    """Return the tiles stage by stage within each phase, and within a stage in their order."""
    stage = stages(tile_graph)
    keys = [(tile.phase, stage[tile.operator]) for tile in tile_graph.tiles]
    return sorted(range(len(keys)), key=keys.__getitem__)
