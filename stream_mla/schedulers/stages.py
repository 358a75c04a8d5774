"""The order of tiles that works off one stage of the layer after the other, with all cores at once.

A stage is what operators do together that a tensor joins which had better not leave its core; it follows all stages
that it needs. In this order all cores stream what a stage reads while the stage before ends, so the DRAM does not wait
for one group of heads after the other to get through the layer; but all intermediates of a stage are alive at once,
where the order of the tiles, which takes group after group, keeps those of one group.
"""

import networkx as nx

from stream_mla.tiling import TileGraph


def stages(cut: TileGraph) -> dict[str, int]:
    """Number the stage of each operator: the most stages that must come before."""
    joined = cut.graph.local | cut.tiling.local | cut.tiling.inline
    operator_of = [tile.operator for tile in cut.tiles]
    made = [operator_of[maker] if maker >= 0 else "" for maker in cut.maker]
    joins = [block.tensor in joined for block in cut.blocks]
    pairs = {
        (made[block], operator_of[user], joins[block]): None
        for block, users in enumerate(cut.users)
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


def stage_order(cut: TileGraph) -> list[int]:
    """Return the tiles stage by stage within each phase, and within a stage in their order."""
    stage = stages(cut)
    keys = [(tile.phase, stage[tile.operator]) for tile in cut.tiles]
    return sorted(range(len(keys)), key=keys.__getitem__)
