"""Why a schedule in the making cannot go on."""

from collections.abc import Sequence

from stream_mla.errors import InfeasibleError, NoScheduleError, StreamMlaError
from stream_mla.schedule.activities import Activities, Copy
from stream_mla.schedule.problem import Problem


def no_room(
    problem: Problem, acts: Activities, *, tile: int, wanted: Copy, kept: Sequence[Copy], now: int
) -> StreamMlaError:
    """Say which tile waits for a copy, and which copies are kept on its core, so that there is too little room.

    Infeasible is only what is proven: that the tile does not even fit alone.
    """
    blocks, core = problem.cut.blocks, problem.cores[wanted.core]
    sram = core.type.sram.capacity
    free = sram - sum(copy.bits for copy in kept)
    largest = sorted(kept, key=lambda copy: -copy.bits)[:4]
    holders = ", ".join(f"{blocks[copy.block].name} {copy.bits // 8:,} B" for copy in largest)
    alone = sum(acts.copies[copy].bits for copy in {*acts.reads[tile], *acts.writes[tile]})
    kind = InfeasibleError if alone > sram else NoScheduleError
    return kind(
        f"at cycle {now:,}, on {core.name}, {problem.cut.tiles[tile].name} waits for {blocks[wanted.block].name}, "
        f"which needs {wanted.bits // 8:,} B: {free // 8:,} B of {sram // 8:,} B are free, "
        f"{-(-(wanted.bits - free) // 8):,} B too few"
        + (f"; of {len(kept)} held, the largest are {holders}" if kept else "")
    )
