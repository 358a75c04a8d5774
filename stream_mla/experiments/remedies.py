"""Changes that would make a point fit that does not, each tried and shown by a greedy schedule.

Each change is as small as the search for it finds: sizes are bisected, as if what fits one size fits all larger ones.
The search ends when its budget is spent; the changes it did not come to are not named.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from stream_mla.errors import StreamMlaError
from stream_mla.hardware.accelerator import Accelerator
from stream_mla.hardware.core_cost import Objective
from stream_mla.mapping.requirements import dram_bits, require
from stream_mla.mapping.tiling.tile_graph import Tiling
from stream_mla.point import Point
from stream_mla.schedule.candidate import Progress
from stream_mla.solvers.budget import Budget
from stream_mla.solvers.tiling_search import TilingSearch
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.split_k import KV_SPLITS

KIB = 8 * 1024
"""The bits of a KiB; memories grow in whole KiB, as datasheets count them."""
DOUBLINGS = 12
"""A memory is made at most 2^12 times as large: more than any core has."""
NARROW = 8
"""This width in bits is tried for wider tensors: the narrowest that all shipped arrays multiply."""


def remedies_budget(point: Point) -> Budget:
    """Return the budget for the changes of a point together: 400,000 tiles, which take about a minute, or 30 seconds.

    A single tiling may have a twentieth of that.
    """
    return replace(Budget.of(point), max_tiles=20_000, total_tiles=400_000, search_time_s=30.0)


class _SpentError(Exception):
    """The search for changes has used its steps or its time."""


class _Trials:
    """Points that are tried one after the other within one budget."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.deadline = time.perf_counter() + budget.search_time_s
        self.left_out = False
        """Whether a tiling was not tried because of its many tiles."""

    def fits(self, point: Point) -> Tiling | None:
        """Return the first tiling of a point that has a greedy schedule, None if there is none."""
        graph = lower(point.workload, point.scheme)
        left = replace(self.budget, search_time_s=self.deadline - time.perf_counter())
        search = TilingSearch(point, graph, Objective.LATENCY, left, progress=lambda _: None)
        try:
            require(graph, point.accelerator)
            return next(search.candidates()).problem.tile_graph.tiling
        except StreamMlaError:
            if search.spent:
                raise _SpentError from None
            return None
        finally:
            self.budget = replace(self.budget, total_tiles=self.budget.total_tiles - search.tiles)
            self.left_out |= bool(search.too_many)


def remedies(point: Point, progress: Progress = lambda _: None, *, budget: Budget | None = None) -> list[str] | None:
    """Return the changes that make a point fit, each with its number and as small as it was found.

    None where it fits as it is: then its memories are not why it has no schedule.
    """
    trials = _Trials(budget or remedies_budget(point))
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
            most = trials.budget.max_tiles
            beside = f"; smaller ones only with more than {most:,} tiles, if at all" if trials.left_out else ""
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
