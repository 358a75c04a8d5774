"""The story: one point in, one result out.

lower -> plan and tile -> price -> schedule -> check -> replay -> check -> summarise
"""

from collections.abc import Sequence
from dataclasses import replace

from stream_mla.errors import TooManyTilesError
from stream_mla.mapping.requirements import require
from stream_mla.point import Point
from stream_mla.results.outcome import Interrupted, Outcome, SegmentOutcome
from stream_mla.results.segment_totals import segment_totals
from stream_mla.results.summary import summarise
from stream_mla.schedule.candidate import Candidate, Progress
from stream_mla.solvers.energy_mappings import MappingPool
from stream_mla.solvers.optimizer import Optimizer
from stream_mla.solvers.tiling_search import best_first_tile_count
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.operator_graph import OperatorGraph
from stream_mla.workload.segments import segments, stages_of, whole

PASS_TILES = 150_000
"""About as many tiles has a pass: it is scheduled within a minute, and what its start and end cost is little."""


def evaluate(point: Point, progress: Progress = lambda _: None, starts: Sequence[Candidate] = ()) -> Outcome:
    """Schedule one point, no worse than any of `starts`.

    InfeasibleError is a proof, NoScheduleError means that no tiling that was tried fits; both name tensor, bytes and
    memory. Interrupted, a KeyboardInterrupt, carries the best schedule found until then.

    >>> from stream_mla import Point, evaluate
    >>> outcome = evaluate(Point.of("llama_3_8b", "flat_cloud", context=64, time_limit=0))
    >>> result = outcome.result
    >>> result.ideal_cycles <= result.lower_bound_cycles <= result.latency_cycles
    True
    >>> result.macs  # W_q and W_o, W_k and W_v; 65 keys of 128 elements for 32 heads, scored and added up
    42475520
    """
    return evaluate_graph(point, lower(point.workload, point.scheme), progress, starts)


def evaluate_graph(
    point: Point, graph: OperatorGraph, progress: Progress = lambda _: None, starts: Sequence[Candidate] = ()
) -> Outcome:
    """Schedule an operator graph that need not be what the point's scheme lowers to.

    One with too many tiles for that is scheduled in passes: without `starts`, and not under a latency cap.
    """
    try:
        return evaluate_in(MappingPool(point, graph, progress), point, graph, progress, starts)
    except TooManyTilesError:
        if point.latency_cap_cycles is not None:
            raise
        progress("too many tiles to be scheduled as a whole")
        return _in_passes(point, graph, progress)


def _in_passes(point: Point, graph: OperatorGraph, progress: Progress) -> Outcome:
    """Schedule a layer pass by pass; the passes share the solver's time."""
    parts = [
        part
        for stage in stages_of(graph)
        for part in segments(graph, stage, -(-best_first_tile_count(point, whole(graph, stage)) // PASS_TILES))
    ]
    share = replace(point, time_limit_s=point.time_limit_s / len(parts))
    done: list[SegmentOutcome] = []
    interrupted = False
    for number, part in enumerate(parts, start=1):
        name = f"pass {number} of {len(parts)} (runs {part.times} x), "
        try:
            outcome = evaluate_in(MappingPool(share, part.graph, progress), share, part.graph, _named(name, progress))
        except Interrupted as interrupt:
            if number < len(parts):
                raise KeyboardInterrupt from None  # no schedule of the whole
            outcome, interrupted = interrupt.outcome, True
        done.append(SegmentOutcome(part=part, outcome=outcome))
    longest = max(done, key=lambda entry: entry.part.times * entry.outcome.result.latency_cycles)
    result = segment_totals(point, graph, [(entry.part, entry.outcome.result) for entry in done])
    found = Outcome(result=result, best=longest.outcome.best, segments=tuple(done))
    if interrupted:
        raise Interrupted(found)
    return found


def _named(name: str, progress: Progress) -> Progress:
    return lambda said: progress(name + said)


def evaluate_in(
    pool: MappingPool, point: Point, graph: OperatorGraph, progress: Progress, starts: Sequence[Candidate] = ()
) -> Outcome:
    """Schedule a graph whose tilings a pool keeps, for several points that differ in what is minimised."""
    require(graph, point.accelerator)
    optimizer = Optimizer(point, graph, progress)
    try:
        optimizer.run(pool, starts)
    except KeyboardInterrupt:
        if optimizer.best is None:
            raise
        progress("interrupted: checking the best schedule found")
        raise Interrupted(_outcome(point, graph, optimizer, interrupted=True)) from None
    return _outcome(point, graph, optimizer, interrupted=False)


def _outcome(point: Point, graph: OperatorGraph, optimizer: Optimizer, *, interrupted: bool) -> Outcome:
    """Return the best schedule that a search found, checked, with its result."""
    best, story = optimizer.settle(interrupted=interrupted)
    return Outcome(result=summarise(point, graph, best, story), best=best)
