"""Why a schedule in the making cannot go on."""

from collections.abc import Sequence

from stream_mla.errors import InfeasibleError, NoScheduleError, StreamMlaError
from stream_mla.schedule.activities import Activities, PlannedResidency
from stream_mla.schedule.problem import Problem


def deadlock(
    problem: Problem,
    acts: Activities,
    *,
    tile: int,
    wanted: PlannedResidency,
    kept: Sequence[PlannedResidency],
    now: int,
) -> StreamMlaError:
    """Say which tile waits for a copy, and which copies are kept on its core, so that there is too little room.

    Infeasible is only what is proven: that the tile does not even fit alone.
    """
    tiles, blocks, core = problem.tile_graph.tiles, problem.tile_graph.blocks, problem.cores[wanted.core]
    sram = core.type.sram.capacity
    free = sram - sum(residency.bits for residency in kept)
    largest = sorted(kept, key=lambda residency: -residency.bits)[:4]
    holders = ", ".join(f"{blocks[residency.block].name} {residency.bits // 8:,} B" for residency in largest)
    alone = sum(acts.residencies[residency].bits for residency in {*acts.reads[tile], *acts.writes[tile]})
    kind = InfeasibleError if alone > sram else NoScheduleError
    return kind(
        f"at cycle {now:,}, on {core.name}, {tiles[tile].name} waits for {blocks[wanted.block].name}, "
        f"which needs {wanted.bits // 8:,} B: {free // 8:,} B of {sram // 8:,} B are free, "
        f"{-(-(wanted.bits - free) // 8):,} B too few"
        + (f"; of {len(kept)} held, the largest are {holders}" if kept else "")
    )
