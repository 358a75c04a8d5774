"""The story: one point in, one result out.

    lower -> plan and tile -> price -> schedule -> check -> replay -> check -> summarise

Several tilings are tried with the greedy scheduler and the best is kept; the solver then improves its schedule.
What is returned is the replay of the better one, and both opinions passed the checker.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import fsum

from stream_mla.accelerator import Accelerator
from stream_mla.attention import lower
from stream_mla.bounds import Bounds, bounds, ideal_cycles
from stream_mla.cost import Objective
from stream_mla.errors import InfeasibleError, NoScheduleError, SpecError
from stream_mla.graph import CONTRACTIONS, Kind, OperatorGraph, Role
from stream_mla.planning import plans
from stream_mla.point import Point
from stream_mla.problem import Problem, price
from stream_mla.result import Result
from stream_mla.schedule import Schedule, energy_parts_pj, violations
from stream_mla.schedulers.greedy import greedy
from stream_mla.simulate import replay
from stream_mla.summary import Solved, summarise
from stream_mla.tiling import tile, tile_count

ENOUGH_STEPS = 60_000
"""The search over tilings ends when those tried have this many tiles and moves together, and one of them fits."""
MOST_TILES = 500_000
"""Tilings of more tiles are refused: they would take tens of minutes and all memory."""
NEAR = 1e-3
"""It also ends with a greedy schedule within this share of what no tiling can beat."""
MOST_ACTIVITIES = 3000
"""The solver is left out where tiles and moves are more than this: it would not improve them in useful time."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A result with the schedule it describes."""

    result: Result
    problem: Problem
    schedule: Schedule


Progress = Callable[[str], None]


def evaluate(point: Point, progress: Progress = lambda _: None) -> Outcome:
    """Schedule one point.

    InfeasibleError is a proof, NoScheduleError means that no tiling that was tried fits; both name tensor, bytes,
    memory, and what would help.
    """
    return evaluate_graph(point, lower(point.workload, point.scheme), progress)


def evaluate_graph(point: Point, graph: OperatorGraph, progress: Progress = lambda _: None) -> Outcome:
    """Schedule an operator graph that need not be what the point's scheme lowers to."""
    _require_precision(graph, point.accelerator)
    _require_dram(graph, point.accelerator)
    _require_sram(graph, point.accelerator)
    problem, limits, first = _best_tiling(point, graph, progress)
    schedule, solver = first, None
    value = _value(problem, first)
    if value - _floor(limits, point.objective) > value * point.gap_limit and point.time_limit_s > 0:
        schedule, solver = _solve(point, problem, limits, first, progress)
    result = summarise(point, graph, problem, limits, schedule, first, solver)
    return Outcome(result=result, problem=problem, schedule=schedule)


def _require_precision(graph: OperatorGraph, accelerator: Accelerator) -> None:
    """Refuse products that no array can do, all at once."""
    problems: list[str] = []
    arrays = [core.type.array for core in accelerator.array_cores() if core.type.array is not None]
    widest = max((entry.operand for array in arrays for entry in array.precisions), default=0)
    for operator in (operator for operator in graph.operators if operator.kind in CONTRACTIONS):
        tensors = [graph.tensors[operand.tensor] for operand in operator.inputs[:2]]
        bits = max(tensor.element_bits for tensor in tensors)
        if bits > widest:
            names = " x ".join(f"{tensor.name} ({tensor.element_bits} bit)" for tensor in tensors)
            problems.append(f"{operator.name} multiplies {names}, the widest array does {widest} bit: set --bits")
    if problems:
        raise SpecError(accelerator.name, problems)


def _require_dram(graph: OperatorGraph, accelerator: Accelerator) -> None:
    """Refuse a layer whose tensors the DRAM cannot hold."""
    tensors = [t for t in graph.tensors.values() if t.role in (Role.INPUT, Role.WEIGHT, Role.CACHE, Role.OUTPUT)]
    need, have = sum(tensor.bits for tensor in tensors), accelerator.dram.capacity
    if need > have:
        largest = max(tensors, key=lambda tensor: tensor.bits)
        raise InfeasibleError(
            f"{accelerator.name}: weights, cache, input and output need {need // 8:,} B, the DRAM has {have // 8:,} B; "
            f"the largest is {largest.name} ({largest.role}) with {largest.bits // 8:,} B: "
            "use a smaller batch or context, fewer --bits, or more DRAM"
        )


def _value(problem: Problem, schedule: Schedule) -> float:
    """What is minimised: cycles or pJ."""
    if problem.objective is Objective.LATENCY:
        return schedule.latency_cycles
    return fsum(energy_parts_pj(problem, schedule).values())


def _floor(limits: Bounds, objective: Objective) -> float:
    return limits.lower_bound_cycles if objective is Objective.LATENCY else limits.energy_pj


def _require_sram(graph: OperatorGraph, accelerator: Accelerator) -> None:
    """Refuse rows that no tiling may cut and no memory can hold."""
    core = max(accelerator.vector_cores(), key=lambda core: core.type.sram.capacity, default=None)
    if core is None:
        return  # that there is no vector unit at all is said where the tiling is planned
    for operator in (operator for operator in graph.operators if operator.kind in (Kind.NORM, Kind.ROPE)):
        source, target = (graph.tensors[operand.tensor] for operand in (operator.inputs[0], operator.outputs[0]))
        row = graph.extents[operator.inputs[0].indices[-1]]
        need = row * (source.element_bits + target.element_bits)
        if need > core.type.sram.capacity:
            raise InfeasibleError(
                f"{operator.name} takes whole rows of {row:,} elements: one of {source.name} and its result need "
                f"{need // 8:,} B, the SRAM of {core.name} has {core.type.sram.capacity // 8:,} B: "
                f"make it {(need - core.type.sram.capacity + 7) // 8:,} B larger, or use fewer --bits"
            )


def _why_none(point: Point, graph: OperatorGraph, reasons: list[str]) -> str:
    work = point.workload
    sizes = ", ".join(f"{index}={size}" for index, size in point.tile_sizes.items())
    largest = max(graph.tensors.values(), key=lambda tensor: tensor.bits)
    helps = ["a larger SRAM", "fewer --bits"]
    helps += ["a smaller --batch"] * (work.batch > 1) + ["fewer new tokens"] * (work.query_tokens > 1)
    helps += ["smaller pieces in --tile"] * bool(sizes)
    return (
        f"none of {len(reasons)} tilings of {work.model.name} as {point.scheme} fits {point.accelerator.name}"
        + (f" with --tile {sizes}" if sizes else "")
        + f". In the last, {reasons[-1]}. The largest tensor is {largest.name} ({largest.role}), "
        f"{largest.bits // 8:,} B. What helps: {', '.join(helps[:-1])} or {helps[-1]}"
    )


def _checked(problem: Problem, schedule: Schedule, scheduler: str) -> Schedule:
    """Return the replay of a schedule; both must obey all rules, and the replay may not be later."""
    for what, candidate in (("schedule", schedule), ("replay", again := replay(problem, schedule))):
        if broken := violations(problem, candidate):
            raise AssertionError(f"the {what} of {scheduler} breaks {len(broken)} rules: {'; '.join(broken[:5])}")
    if again.latency_cycles > schedule.latency_cycles:
        raise AssertionError(
            f"{scheduler} claims {schedule.latency_cycles} cycles, the replay takes {again.latency_cycles}"
        )
    return again


def _best_tiling(point: Point, graph: OperatorGraph, progress: Progress) -> tuple[Problem, Bounds, Schedule]:
    """Try tilings with the greedy scheduler; keep the best schedule."""
    best: tuple[float, Problem, Bounds, Schedule] | None = None
    fits_not: list[str] = []
    too_many: list[str] = []
    steps = 0
    ideal = ideal_cycles(graph, point.accelerator) if point.objective is Objective.LATENCY else 0
    for number, tiling in enumerate(plans(graph, point.accelerator, point.tile_sizes)):
        tiles = tile_count(graph, tiling)
        if best is not None and steps + tiles > ENOUGH_STEPS:
            break
        if tiles > MOST_TILES:
            sram = min(core.type.sram.capacity for core in point.accelerator.cores) // 8
            too_many.append(f"an SRAM of {sram:,} B would cut it into {tiles:,} tiles, more than {MOST_TILES:,}")
            continue
        cut = tile(graph, tiling)
        problem = price(cut, point.accelerator, point.objective)
        try:
            schedule = greedy(problem)
        except (InfeasibleError, NoScheduleError) as error:
            fits_not.append(str(error))
            steps += len(cut.tiles) + len(cut.blocks)
            progress(f"tiling {number}: {len(cut.tiles)} tiles do not fit")
            continue
        limits = bounds(problem)
        value = _value(problem, schedule)
        progress(f"tiling {number}: {len(cut.tiles)} tiles, {schedule.latency_cycles} cycles")
        if best is None or value < best[0]:
            best = (value, problem, limits, schedule)
        steps += len(schedule.runs) + len(schedule.moves)
        if value <= ideal * (1 + NEAR):
            break
    if best is None:
        raise NoScheduleError(_why_none(point, graph, fits_not or too_many))
    _, problem, limits, schedule = best
    return problem, limits, _checked(problem, schedule, "greedy")


def _solve(
    point: Point, problem: Problem, limits: Bounds, first: Schedule, progress: Progress
) -> tuple[Schedule, Solved]:
    """Improve a schedule with CP-SAT; the schedule given is returned where nothing better is found."""
    activities = len(first.runs) + len(first.moves)
    if activities > MOST_ACTIVITIES:
        return first, Solved(
            status=f"skipped: {activities} tiles and moves", bound_cycles=None, seconds=0, better=False
        )
    from stream_mla.schedulers import cp_sat  # loads OR-Tools, which only this needs

    found = cp_sat.improve(
        problem,
        first,
        lower_bound_cycles=limits.lower_bound_cycles,
        budget=cp_sat.Budget(
            time_limit_s=point.time_limit_s, gap_limit=point.gap_limit, seed=point.seed, workers=point.workers
        ),
        progress=progress,
    )
    best = first
    if found.schedule is not None:
        schedule = _checked(problem, found.schedule, "cp_sat")
        best = min(first, schedule, key=lambda candidate: (_value(problem, candidate), candidate.latency_cycles))
    return best, Solved(
        status=found.status, bound_cycles=found.bound_cycles, seconds=found.seconds, better=best is not first
    )
