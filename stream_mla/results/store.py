"""Results on disk: one JSON file per point, with all that is needed to rebuild the schedule and to check it again.

A file's name says model, machine, scheme and context, and ends in the fingerprint of its point. A file that was edited
or damaged is refused. What the same code stored is believed; what another version of it stored must prove itself again:
its schedule must keep today's rules and take what is said of it. A point without a schedule has a file of its own.
"""

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from stream_mla.errors import SpecError, quoted
from stream_mla.hardware.core_cost import Objective
from stream_mla.mapping.tiling.tile_graph import Tiling
from stream_mla.mapping.tiling.tiler import tile
from stream_mla.point import Point
from stream_mla.results.codec import decode, encode
from stream_mla.results.outcome import Outcome
from stream_mla.results.result import Failure, Result, Status
from stream_mla.results.sealed_files import code_sha256, looks_sealed, prepare, read, read_json, refusing, write
from stream_mla.schedule.bounds.schedule_bounds import bounds
from stream_mla.schedule.candidate import Candidate
from stream_mla.schedule.checker import violations
from stream_mla.schedule.problem import price_mixed
from stream_mla.schedule.schedule import Schedule
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.operator_graph import OperatorGraph
from stream_mla.workload.segments import part

__all__ = ["looks_sealed", "prepare"]

DIGITS = 16
"""A file's name has so many digits of the fingerprint: 2^64 points before two are likely to share them."""
LONGEST_WORD = 40
"""A name in a file's name has at most this many characters: four of them stay below the 255 that a folder takes."""
FREE = ("objective", "latency_cap_cycles", "time_limit_s", "gap_limit", "seed", "workers")
"""In these a point may differ from the one whose schedule it starts from."""
MOST_DIFFERENCES = 5
"""A message names so many differences between two points; the others are counted."""


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """A schedule of a layer, or of a pass of it, and what it rests on."""

    tiling: Tiling
    least_energy_tiles: frozenset[int]
    schedule: Schedule

    def __post_init__(self) -> None:
        tiling = self.tiling
        sizes = (size for sizes in tiling.sizes.values() for size in sizes.values())
        if min((*sizes, *tiling.kv_splits.values(), *tiling.k_splits.values()), default=1) < 1:
            raise ValueError("a size or a number of splits is below 1")
        if min(self.tiling.phases.values(), default=0) < 0:
            raise ValueError("a phase is below 0")


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A result with the decisions of its schedule, or of those of its passes."""

    path: Path
    code_sha256: str
    """The fingerprint of the code that stored it."""
    point: Mapping[str, Any]
    """The point as JSON."""
    result: Result
    text_of_decisions: str
    """The decisions as JSON; they are large, and most readers want the result only."""

    @cached_property
    def decisions(self) -> tuple[Decisions, ...]:
        """The decisions of the schedule, or of those of the passes; SpecError where they are none."""
        with refusing(self.path):
            found = tuple(decode(Decisions, entry) for entry in read_json(self.text_of_decisions))
            if len(found) != max(1, len(self.result.passes)):
                raise ValueError(f"{len(found)} schedules of {max(1, len(self.result.passes))} passes")
            return found


def path_of(folder: Path, point: Point) -> Path:
    """Return where the result of a point is stored."""
    workload = point.workload
    words = (workload.model.name, point.accelerator.name, point.scheme, str(workload.context_tokens))
    safe = [re.sub(r"[^A-Za-z0-9_.]+", "_", word)[:LONGEST_WORD].lstrip(".") for word in words]
    return folder / f"{'-'.join(safe)}-{point.sha256[:DIGITS]}.json"


def _path_of_failure(folder: Path, point: Point) -> Path:
    return path_of(folder, point).with_suffix(".failed.json")


def save(folder: Path, point: Point, outcome: Outcome) -> Path:
    """Store a result; what was there before is replaced in one step."""
    bests = [entry.outcome.best for entry in outcome.segments] or [outcome.best]
    decisions = [
        Decisions(
            tiling=best.problem.tile_graph.tiling, least_energy_tiles=best.least_energy_tiles, schedule=best.schedule
        )
        for best in bests
    ]
    path = path_of(folder, point)
    record = {
        "code_sha256": code_sha256(),
        "point": asdict(point),
        "result": encode(outcome.result),
        "decisions": [encode(entry) for entry in decisions],
    }
    write(path, record)
    _path_of_failure(folder, point).unlink(missing_ok=True)
    return path


def save_failure(folder: Path, point: Point, failed: Failure) -> Path:
    """Store that a point has no schedule, and why."""
    path = _path_of_failure(folder, point)
    write(path, {"code_sha256": code_sha256(), "point": asdict(point), "failure": asdict(failed)})
    return path


def failed_before(folder: Path, point: Point) -> Failure | None:
    """Return what is stored of a point that had no schedule, if the same code found that.

    SpecError where the file is damaged.
    """
    path = _path_of_failure(folder, point)
    if not os.path.lexists(path):
        return None
    record, failed = read(path, "failure")
    with refusing(path):
        found = decode(Failure, read_json(failed))
    return found if found.point_sha256 == point.sha256 and record["code_sha256"] == code_sha256() else None


def load(path: Path) -> Stored:
    """Read a stored result; SpecError where it is none, or is not as it was stored."""
    record, decisions = read(path, "decisions")
    with refusing(path):
        return Stored(
            path=path,
            code_sha256=str(record["code_sha256"]),
            point=record["point"],
            result=decode(Result, record["result"]),
            text_of_decisions=decisions,
        )


def made_by_this_code(stored: Stored) -> bool:
    """Tell whether the same code stored it, so that its schedule need not be checked again."""
    return stored.code_sha256 == code_sha256()


def rebuilt(stored: Stored, point: Point) -> list[Candidate]:
    """Return problem and schedule again, of each pass.

    SpecError where a schedule breaks a rule today, or does not take what the result says.
    """
    graph = lower(point.workload, point.scheme)
    passes = stored.result.passes
    if passes:
        operators = {operator.name: operator for operator in graph.operators}
        with refusing(stored.path):
            parts = [part(graph, [operators[name] for name in entry.operators], entry.sizes) for entry in passes]
    else:
        parts = [graph]
    found = [_rebuilt(stored, point, one, decided) for one, decided in zip(parts, stored.decisions, strict=True)]
    times = [entry.times for entry in passes] or [1]
    taken = {
        "cycles": (
            sum(n * one.latency_cycles for n, one in zip(times, found, strict=True)),
            stored.result.latency_cycles,
        ),
        "pJ": (math.fsum(n * one.energy_pj for n, one in zip(times, found, strict=True)), stored.result.energy_pj),
    }
    for unit, (is_now, said) in taken.items():
        if not math.isclose(is_now, said, rel_tol=1e-9):
            raise SpecError(
                str(stored.path),
                [f"the result says {said:,} {unit}, its schedule takes {is_now:,}: run its point again"],
            )
    return found


def _rebuilt(stored: Stored, point: Point, graph: OperatorGraph, decisions: Decisions) -> Candidate:
    try:
        tile_graph = tile(graph, decisions.tiling)
        problem = price_mixed(tile_graph, point.accelerator, decisions.least_energy_tiles)
        broken = violations(problem, decisions.schedule)
    except (LookupError, ValueError, ArithmeticError, TypeError) as error:
        said = f"{type(error).__name__}: {error}"
        raise SpecError(str(stored.path), [f"the stored tiles are not those of this version ({said})"]) from error
    if broken:
        raise SpecError(
            str(stored.path),
            [f"the stored schedule breaks {len(broken)} rules of this version, the first: {broken[0]}"],
        )
    return Candidate(
        problem=problem,
        limits=bounds(problem),
        schedule=decisions.schedule,
        least_energy_tiles=decisions.least_energy_tiles,
        found_by="start",
        origin=stored.result.point_sha256,
    )


def differences(stored: Stored, point: Point) -> list[str]:
    """Say in what a point differs from the stored one, beyond what a start may differ in."""
    there, here = (
        {path: value for path, value in _leaves(part, "") if path.split(".")[0] not in FREE}
        for part in (stored.point, json.loads(json.dumps(asdict(point))))
    )
    paths = [*there, *(path for path in here if path not in there)]
    return [
        f"{path.removeprefix('.')} is {_shown(there, path)} there and {_shown(here, path)} here"
        for path in paths
        if not _only_said(path) and there.get(path, Ellipsis) != here.get(path, Ellipsis)
    ]


def _only_said(path: str) -> bool:
    """Whether a leaf says something of a model that its result does not depend on."""
    return path.rpartition(".")[2] == "source" or path.startswith(
        ("workload.model.notes", "workload.model.layer_kinds")
    )


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the path and the value of everything that is no container."""
    if isinstance(value, dict):
        for key, item in cast(dict[str, Any], value).items():
            yield from _leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for number, item in enumerate(cast(list[Any], value)):
            yield from _leaves(item, f"{path}[{number}]")
    else:
        yield path, value


def _shown(leaves: Mapping[str, Any], path: str) -> str:
    """Return a value as a message quotes it."""
    return quoted(leaves[path]) if path in leaves else "missing"


def reusable(folder: Path, point: Point) -> Stored | None:
    """Return what is stored of a point, if anything; SpecError where it cannot be used."""
    path = path_of(folder, point)
    if not os.path.lexists(path):
        return None
    stored = load(path)
    if stored.result.point_sha256 != point.sha256:
        found = [*differences(stored, point), *_other_search(stored, point)]
        raise SpecError(str(path), [f"stored for another point: {_few(found) or 'its fingerprint differs'}"])
    return stored


def _other_search(stored: Stored, point: Point) -> list[str]:
    """Say in what the search differs, in which a start may differ."""
    here = json.loads(json.dumps(asdict(point)))
    return [
        f"{name} is {quoted(stored.point.get(name))} there and {quoted(here[name])} here"
        for name in FREE
        if stored.point.get(name) != here[name]
    ]


def is_final(stored: Stored) -> bool:
    """Whether a search ended by itself; else what it found is only a start."""
    return stored.result.status is not Status.INTERRUPTED


def results_in(folder: Path) -> list[Path]:
    """Return the files of a folder that should hold results."""
    return sorted(file for file in folder.glob("*.json") if not file.name.endswith(".failed.json"))


def starts(path: Path, points: Sequence[Point], note: Callable[[str], None] = lambda _: None) -> list[Stored | None]:
    """Return, of a file or a folder, the best stored result that fits each point; SpecError where none fits any.

    Of a folder, files that are no stored results are left out, with a note.
    """
    whole = os.path.isdir(path)  # noqa: PTH112  never fails, however odd the path
    files = results_in(path) if whole else [path]
    found: list[Stored | None] = [None] * len(points)
    nearest: tuple[list[str], Path] | None = None
    for file in files:
        try:
            stored = load(file)
        except SpecError as error:
            if not whole:
                raise
            note(f"left out {error}")
            continue
        for number, point in enumerate(points):
            differs, before = differences(stored, point), found[number]
            if not differs:
                better = before is None or _value(stored.result, point) < _value(before.result, point)
                found[number] = stored if better else before
            elif nearest is None or len(differs) < len(nearest[0]):
                nearest = differs, file
    if not any(found):
        if nearest is None:
            raise SpecError(str(path), ["nothing is stored here"])
        where = f" (the nearest is {nearest[1].name})" if len(files) > 1 else ""
        raise SpecError(str(path), [f"stored for another point{where}: {_few(nearest[0])}"])
    return found


def _few(differs: Sequence[str]) -> str:
    more = len(differs) - MOST_DIFFERENCES
    return "; ".join(differs[:MOST_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")


def _value(result: Result, point: Point) -> tuple[bool, float, float]:
    """Rank stored results for a point: what a cap allows, then what is minimised."""
    over = point.latency_cap_cycles is not None and result.latency_cycles > point.latency_cap_cycles
    if point.objective is Objective.ENERGY:
        return over, result.energy_pj, result.latency_cycles
    return over, result.latency_cycles, result.energy_pj
