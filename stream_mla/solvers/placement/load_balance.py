"""Even out what cores have to do, by moving clusters that any core may as well run.

`assign` looks at one cluster at a time, in tile order, and cannot know what a core is given later. Here all is known:
no schedule of an assignment is shorter than the cycles of its busiest array, or than the loads of the core that loads
most. Only clusters whose data all pass the DRAM are moved, so a move costs no transfer.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from stream_mla.hardware.interconnect import OFF_CHIP
from stream_mla.schedule.problem import Problem

_Kind = tuple[int, float, tuple[int, ...]]
"""Array cycles and load cycles of a cluster, and the cores it may move to: clusters of a kind are interchangeable."""


class _Balance:
    def __init__(self, problem: Problem, core_of_group: Sequence[int]) -> None:
        self.problem, self.core_of = problem, list(core_of_group)
        share = problem.resources[0].capacity / max(1, len(list(problem.accelerator.array_cores())))
        grid = problem.resources[0].grid
        self.rates = [min(problem.routes[OFF_CHIP, core].demand, share) / grid for core in range(len(problem.cores))]
        self.arrays = np.zeros(len(problem.cores))
        self.loads = np.zeros(len(problem.cores))
        self.movable: list[dict[_Kind, list[int]]] = [defaultdict(list) for _ in problem.cores]
        shared: set[tuple[int, int]] = set()
        for group, core in enumerate(self.core_of):
            kind = self._kind(group)
            self._give(kind, core, 1)
            if kind[2] and self._is_apart(group):
                self.movable[core][kind].append(group)
            shared |= {(block, core) for block in self._loaded(group, shared=True)}
        for block, core in shared:
            self.loads[core] += problem.tile_graph.blocks[block].bits / self.rates[core]

    def _loaded(self, group: int, *, shared: bool) -> set[int]:
        """Blocks that a cluster loads, for itself or for its whole core."""
        tile_graph = self.problem.tile_graph
        reads = {block for tile in self.problem.group_tiles[group] for block in tile_graph.tiles[tile].reads}
        return {
            block for block in reads if tile_graph.blocks[block].via_dram and tile_graph.blocks[block].shared is shared
        }

    def _kind(self, group: int) -> _Kind:
        problem, core = self.problem, self.core_of[group]
        on_array = (tile for tile in problem.group_tiles[group] if problem.unit(tile, core) % 2 == 0)
        bits = sum(problem.tile_graph.blocks[block].bits for block in self._loaded(group, shared=False))
        name = problem.cores[core].type.name
        alike = tuple(n for n in problem.candidates[group] if problem.cores[n].type.name == name)
        cycles = sum(problem.cost(tile, core).cycles for tile in on_array)
        return cycles, bits / self.rates[core], alike

    def _is_apart(self, group: int) -> bool:
        """Whether all that a cluster has from others, and gives to others, passes the DRAM."""
        tile_graph = self.problem.tile_graph

        def is_inside(block: int) -> bool:
            """Whether no other cluster has to do with a block."""
            makers = () if tile_graph.maker[block] < 0 else (tile_graph.maker[block],)
            return all(tile_graph.tiles[tile].group == group for tile in (*makers, *tile_graph.users[block]))

        members = self.problem.group_tiles[group]
        blocks = {
            block for tile in members for block in (*tile_graph.tiles[tile].reads, *tile_graph.tiles[tile].writes)
        }
        return all(tile_graph.blocks[block].via_dram or is_inside(block) for block in blocks)

    def _give(self, kind: _Kind, core: int, times: int) -> None:
        self.arrays[core] += times * kind[0]
        self.loads[core] += times * kind[1]

    def run(self) -> list[int]:
        """Take from the busiest core what leaves the least to do on it and on the core that gets it, while it helps."""
        while True:
            total = np.maximum(self.arrays, self.loads)
            busiest = int(np.argmax(total))
            found: list[tuple[float, int, _Kind]] = []
            for kind, groups in self.movable[busiest].items():
                cycles, loads, cores = kind
                others = np.array([core for core in cores if core != busiest])
                if not groups or not len(others):
                    continue
                after = np.maximum(self.arrays[others] + cycles, self.loads[others] + loads)
                left = max(self.arrays[busiest] - cycles, self.loads[busiest] - loads)
                found.append((max(left, float(after.min())), int(others[np.argmin(after)]), kind))
            if not found or min(found)[0] >= total[busiest]:
                return self.core_of
            _, core, kind = min(found)
            group = self.movable[busiest][kind].pop()
            self.core_of[group] = core
            self._give(kind, busiest, -1)
            self._give(kind, core, 1)
            self.movable[core][kind].append(group)


def balanced(problem: Problem, core_of_group: Sequence[int]) -> list[int]:
    """Return the assignment with less to do for the busiest core, if moving clusters helps."""
    return _Balance(problem, core_of_group).run()
