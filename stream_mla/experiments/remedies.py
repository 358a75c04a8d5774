"""What would make a point fit that does not: changes that were tried, each shown by a greedy schedule.

Each change is as small as the search for it finds: sizes are bisected, as if what fits one size fits all larger ones.
The search ends after `MOST_STEPS` tiles or `MOST_SECONDS`; what it did not come to is not said.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from stream_mla.errors import StreamMlaError
from stream_mla.hardware.accelerator import Accelerator
from stream_mla.hardware.core_cost import Objective
from stream_mla.mapping.planning.planner import candidate_tilings
from stream_mla.mapping.requirements import dram_bits, require
from stream_mla.mapping.tiling.tile_graph import Tiling, tile_count
from stream_mla.mapping.tiling.tiler import tile
from stream_mla.point import Point
from stream_mla.schedule.candidate import Progress
from stream_mla.schedule.problem import price
from stream_mla.solvers.list_scheduling.greedy import greedy
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.operator_graph import OperatorGraph
from stream_mla.workload.split_k import KV_SPLITS

MOST_TILES = 20_000
"""Tilings of more tiles are not tried here."""
MOST_STEPS = 400_000
MOST_SECONDS = 30.0
KIB = 8 * 1024
"""Bits; memories grow in whole KiB."""
DOUBLINGS = 12
"""A memory is made at most 2^12 times as large."""
NARROW = 8
"""The width that is tried for wider tensors."""


class _SpentError(Exception):
    """The search for changes has used its steps or its time."""


class _Trials:
    """Points that were tried, within a budget."""

    def __init__(self, most_steps: int, most_seconds: float) -> None:
        self.steps_left, self.deadline = most_steps, time.perf_counter() + most_seconds
        self.left_out = False
        """Whether a tiling was not tried because of its many tiles."""

    def fits(self, point: Point) -> Tiling | None:
        """Return the first tiling of a point that has a greedy schedule."""
        graph = lower(point.workload, point.scheme)
        try:
            require(graph, point.accelerator)
            for tiling in candidate_tilings(graph, point.accelerator, point.tile_sizes, point.policy):
                if self._schedules(graph, point.accelerator, tiling):
                    return tiling
        except StreamMlaError:  # what no tiling can help
            return None
        return None

    def _schedules(self, graph: OperatorGraph, accelerator: Accelerator, tiling: Tiling) -> bool:
        tiles = tile_count(graph, tiling)
        if self.steps_left <= 0 or time.perf_counter() > self.deadline:
            raise _SpentError
        if tiles > MOST_TILES:
            self.left_out = True
            return False
        self.steps_left -= tiles
        try:
            greedy(price(tile(graph, tiling), accelerator, Objective.LATENCY))
        except StreamMlaError:
            return False
        return True


def remedies(
    point: Point,
    progress: Progress = lambda _: None,
    *,
    most_steps: int = MOST_STEPS,
    most_seconds: float = MOST_SECONDS,
) -> list[str] | None:
    """Return the changes that make a point fit, each with its number and as small as it was found.

    None where it fits as it is: then its memories are not why it has no schedule.
    """
    trials = _Trials(most_steps, most_seconds)
    found: list[str] = []
    try:
        if trials.fits(point):
            return None
        for what, search in _SEARCHES.items():
            progress(f"does not fit: trying {what}")
            for change in search(point, trials):
                found.append(change)
    except _SpentError:
        pass
    return found


def advice(changes: Sequence[str]) -> str:
    """Say what was found."""
    if not changes:
        return "No single change that was tried makes it fit"
    return f"What makes it fit, each tried and shown by a schedule: {'; '.join(changes)}"


def _without_sizes(point: Point, trials: _Trials) -> Iterator[str]:
    if not point.tile_sizes:
        return
    tiling = trials.fits(replace(point, tile_sizes={}))
    if tiling is not None:
        taken = {KV_SPLITS: max(tiling.kv_splits.values(), default=1)}
        for index in point.tile_sizes:
            cuts = [sizes[index] for sizes in tiling.sizes.values() if index in sizes]
            taken |= {index: min(cuts)} if cuts else {}
        used = ", ".join(f"{index}={taken[index]}" for index in point.tile_sizes if index in taken)
        yield "no --tile" + (f" (the search takes {used})" if used else "")


def _narrower(point: Point, trials: _Trials) -> Iterator[str]:
    precision = point.workload.precision
    wide = [name for name in ("weights", "cache", "activations") if getattr(precision, name) > NARROW]
    alone = [[name] for name in wide]
    for names in alone if len(wide) < 2 else [*alone, wide]:
        fewer = replace(precision, **dict.fromkeys(names, NARROW))
        if trials.fits(replace(point, workload=replace(point.workload, precision=fewer))):
            yield "--bits " + ",".join(f"{name}={NARROW}" for name in names)
            return


def _smaller_batch(point: Point, trials: _Trials) -> Iterator[str]:
    batch = point.workload.batch
    if size := _largest(batch, lambda n: trials.fits(replace(point, workload=replace(point.workload, batch=n)))):
        yield f"--batch {size} (now {batch})"


def _fewer_tokens(point: Point, trials: _Trials) -> Iterator[str]:
    tokens = point.workload.query_tokens
    if size := _largest(
        tokens, lambda n: trials.fits(replace(point, workload=replace(point.workload, query_tokens=n)))
    ):
        yield f"{size:,} new tokens per request (now {tokens:,})"


def _larger_dram(point: Point, trials: _Trials) -> Iterator[str]:
    dram = point.accelerator.dram
    need = dram_bits(lower(point.workload, point.scheme))
    if need > dram.capacity:
        capacity = -(-need // KIB) * KIB
        if trials.fits(_on(point, replace(point.accelerator, dram=replace(dram, capacity=capacity)))):
            yield f"a DRAM of {_kib(capacity)} (now {_kib(dram.capacity)})"


def _larger_sram(point: Point, trials: _Trials) -> Iterator[str]:
    """Bisect the memory of each type of core alone."""
    types = {core.type.name: core.type for core in point.accelerator.cores}
    for name, kind in types.items():
        now = kind.sram.capacity // KIB
        smallest = _smallest(
            now, lambda size, name=name: trials.fits(_on(point, _grown(point.accelerator, name, size)))
        )
        trials.left_out = False
        for size in smallest:
            beside = f"; smaller ones only with more than {MOST_TILES:,} tiles, if at all" if trials.left_out else ""
            yield f"an SRAM of {size:,} KiB in {name} (now {_kib(kind.sram.capacity)}{beside})"


def _grown(accelerator: Accelerator, name: str, kib: int) -> Accelerator:
    """Return a machine in which one type of core has a memory of another size."""
    cores = tuple(
        replace(core, type=replace(core.type, sram=replace(core.type.sram, capacity=kib * KIB)))
        if core.type.name == name
        else core
        for core in accelerator.cores
    )
    return replace(accelerator, cores=cores)


def _on(point: Point, accelerator: Accelerator) -> Point:
    return replace(point, accelerator=accelerator)


def _largest(now: int, fits: Callable[[int], object]) -> int:
    """Return the largest number below `now` that fits, 0 if not even 1 does."""
    if now == 1 or not fits(1):
        return 0
    low, high = 1, now
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _smallest(now: int, fits: Callable[[int], object]) -> Iterator[int]:
    """Yield the smallest number above `now` that fits; a larger one where the budget ends before."""
    low = high = max(1, now)
    for _ in range(DOUBLINGS):
        high *= 2
        if fits(high):
            break
        low = high
    else:
        return
    try:
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle) else (middle, high)
    except _SpentError:
        yield high
        raise
    yield high


def _kib(bits: int) -> str:
    return f"{bits // KIB:,} KiB" if bits % KIB == 0 else f"{bits / KIB:,.1f} KiB"


_SEARCHES: dict[str, Callable[[Point, _Trials], Iterator[str]]] = {
    "no --tile": _without_sizes,
    "fewer bits": _narrower,
    "a smaller batch": _smaller_batch,
    "fewer new tokens": _fewer_tokens,
    "a larger DRAM": _larger_dram,
    "a larger SRAM": _larger_sram,
}
