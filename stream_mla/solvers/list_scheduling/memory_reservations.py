"""The memory of each core, reserved in the order in which its tiles first need it.

Memory is reserved as far ahead as it lasts, so that loads run ahead of their tiles. A residency keeps its memory from
the reservation to the end of its last use; then the next residencies in line may be granted theirs.
"""

from collections.abc import Callable, Sequence

from stream_mla.errors import InfeasibleError, NoScheduleError, StreamMlaError
from stream_mla.schedule.activities import Activities
from stream_mla.schedule.problem import Problem


class MemoryReservations:
    """The residencies that hold memory or wait for it, core by core."""

    def __init__(
        self, problem: Problem, acts: Activities, order: Sequence[int], on_grant: Callable[[int], None]
    ) -> None:
        """`order` lists the tiles; `on_grant` is called with each residency that gets its memory."""
        self.problem, self.acts, self.on_grant = problem, acts, on_grant
        self.granted = [False] * len(acts.residencies)
        """Whether each residency has got its memory, and may have given it back."""
        self._released = [False] * len(acts.residencies)
        self._free_bits = [core.type.sram.capacity for core in problem.cores]
        self._uses_left = [len(residency.users) + len(residency.transfers_out) for residency in acts.residencies]
        for writes in acts.writes:
            for residency in writes:
                self._uses_left[residency] += 1
        self._lines: list[list[int]] = [[] for _ in problem.cores]
        """The residencies of each core, in the order in which its tiles first need them."""
        self._heads = [0] * len(problem.cores)
        """The place in each core's line of the first residency without memory."""
        seen: set[int] = set()
        for tile in order:
            for residency in acts.reads[tile] + acts.writes[tile]:
                if residency not in seen:
                    seen.add(residency)
                    self._lines[acts.residencies[residency].core].append(residency)

    def reserve(self, core: int) -> None:
        """Grant memory to the residencies of a core, in their order, as long as it lasts."""
        line = self._lines[core]
        while self._heads[core] < len(line):
            residency = line[self._heads[core]]
            bits = self.acts.residencies[residency].bits
            if bits > self._free_bits[core]:
                return
            self._free_bits[core] -= bits
            self.granted[residency] = True
            self._heads[core] += 1
            self.on_grant(residency)

    def end_use(self, residency: int) -> None:
        """Note that one use of a residency has ended; after the last one its memory goes to those in line."""
        self._uses_left[residency] -= 1
        if not self._uses_left[residency]:
            core = self.acts.residencies[residency].core
            self._released[residency] = True
            self._free_bits[core] += self.acts.residencies[residency].bits
            self.reserve(core)

    def deadlock(self, tile: int, core: int, now: int) -> StreamMlaError:
        """Return the error of a tile that never gets its memory: what it waits for, and what holds the memory.

        It is infeasible only if that is proven: if the tile does not even fit alone.
        """
        acts, tiles, blocks = self.acts, self.problem.tile_graph.tiles, self.problem.tile_graph.blocks
        if self._heads[core] == len(self._lines[core]):
            raise AssertionError("the list scheduler stopped with memory for all tiles")
        wanted = acts.residencies[self._lines[core][self._heads[core]]]
        kept = [
            residency
            for number, residency in enumerate(acts.residencies)
            if residency.core == core and self.granted[number] and not self._released[number]
        ]
        sram = self.problem.cores[core].type.sram.capacity
        free = sram - sum(residency.bits for residency in kept)
        largest = sorted(kept, key=lambda residency: -residency.bits)[:4]
        holders = ", ".join(f"{blocks[residency.block].name} {residency.bits // 8:,} B" for residency in largest)
        alone = sum(acts.residencies[residency].bits for residency in {*acts.reads[tile], *acts.writes[tile]})
        kind = InfeasibleError if alone > sram else NoScheduleError
        return kind(
            f"at cycle {now:,}, on {self.problem.cores[core].name}, {tiles[tile].name} waits for "
            f"{blocks[wanted.block].name}, which needs {wanted.bits // 8:,} B: {free // 8:,} B of {sram // 8:,} B are "
            f"free, {-(-(wanted.bits - free) // 8):,} B too few"
            + (f"; of {len(kept)} held, the largest are {holders}" if kept else "")
        )
