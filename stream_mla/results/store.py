"""Results on disk: one JSON file per point, with all that is needed to rebuild the schedule and to check it again.

A file's name starts as the fingerprint of its point. Writing is atomic: a file is whole or not there.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from stream_mla.errors import SpecError
from stream_mla.hardware.core_cost import Objective
from stream_mla.mapping.tiling.tile_graph import Tiling
from stream_mla.mapping.tiling.tiler import tile
from stream_mla.point import Point
from stream_mla.results.codec import decode, encode
from stream_mla.results.outcome import Outcome
from stream_mla.results.result import Result, Status
from stream_mla.schedule.bounds.schedule_bounds import bounds
from stream_mla.schedule.candidate import Candidate
from stream_mla.schedule.checker import violations
from stream_mla.schedule.problem import price_mixed
from stream_mla.schedule.schedule import Schedule
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.operator_graph import OperatorGraph
from stream_mla.workload.segments import part

FORMAT = 3
DIGITS = 16
"""Of the fingerprint in a file's name."""
FREE = ("objective", "latency_cap_cycles", "time_limit_s", "gap_limit", "seed", "workers")
"""In these a point may differ from the one whose schedule it starts from."""
MOST_DIFFERENCES = 5


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """A schedule of a layer, or of a pass of it, and what it rests on."""

    tiling: Tiling
    least_energy_tiles: frozenset[int]
    schedule: Schedule


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A result with the decisions of its schedule, or of those of its passes."""

    path: Path
    point: Mapping[str, Any]
    """As JSON."""
    result: Result
    decisions: tuple[Decisions, ...]


def path_of(folder: Path, point: Point) -> Path:
    """Return where the result of a point is stored."""
    return folder / f"{point.sha256[:DIGITS]}.json"


def save(folder: Path, point: Point, outcome: Outcome) -> Path:
    """Store a result; what was there before is replaced in one step."""
    bests = [entry.outcome.best for entry in outcome.segments] or [outcome.best]
    decisions = [
        Decisions(
            tiling=best.problem.tile_graph.tiling, least_energy_tiles=best.least_energy_tiles, schedule=best.schedule
        )
        for best in bests
    ]
    content = {
        "format": FORMAT,
        "point": asdict(point),
        "result": encode(outcome.result),
        "decisions": [encode(entry) for entry in decisions],
    }
    path = path_of(folder, point)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with new.open("w", encoding="utf-8") as file:
                json.dump(content, file, allow_nan=False)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
    except OSError as error:
        raise SpecError(str(folder), [f"cannot store a result here: {error.strerror}"]) from error
    return path


def load(path: Path) -> Stored:
    """Read a stored result; SpecError where it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise SpecError(str(path), [f"stored in format {content['format']}, this version reads {FORMAT}"])
        return Stored(
            path=path,
            point=content["point"],
            result=decode(Result, content["result"]),
            decisions=tuple(decode(Decisions, entry) for entry in content["decisions"]),
        )
    except OSError as error:
        raise SpecError(str(path), [f"cannot read it: {error.strerror}"]) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        said = f"{type(error).__name__}: {error}"
        raise SpecError(str(path), [f"not a stored result of this version ({said}): run its point again"]) from error


def rebuilt(stored: Stored, point: Point) -> list[Candidate]:
    """Build problem and schedule again, of each pass; SpecError where a schedule breaks a rule today."""
    graph = lower(point.workload, point.scheme)
    if not stored.result.passes:
        return [_rebuilt(stored, point, graph, stored.decisions[0])]
    operators = {operator.name: operator for operator in graph.operators}
    return [
        _rebuilt(stored, point, part(graph, [operators[name] for name in entry.operators], entry.sizes), decisions)
        for entry, decisions in zip(stored.result.passes, stored.decisions, strict=True)
    ]


def _rebuilt(stored: Stored, point: Point, graph: OperatorGraph, decisions: Decisions) -> Candidate:
    try:
        tile_graph = tile(graph, decisions.tiling)
        problem = price_mixed(tile_graph, point.accelerator, decisions.least_energy_tiles)
        broken = violations(problem, decisions.schedule)
    except (LookupError, ValueError) as error:
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
    return repr(leaves[path]) if path in leaves else "missing"


def reusable(folder: Path, point: Point) -> Stored | None:
    """Return what is stored of a point, if anything; SpecError where it cannot be used."""
    path = path_of(folder, point)
    if not path.exists():
        return None
    stored = load(path)
    if found := differences(stored, point):
        raise SpecError(str(path), [f"stored for another point: {_few(found)}"])
    return stored


def is_final(stored: Stored) -> bool:
    """Whether a search ended by itself; else what it found is only a start."""
    return stored.result.status is not Status.INTERRUPTED


def starts(path: Path, points: Sequence[Point]) -> list[Stored | None]:
    """Return, of a file or a folder, the best stored result that fits each point; SpecError where none fits any."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise SpecError(str(path), ["nothing is stored here"])
    found: list[Stored | None] = [None] * len(points)
    nearest: tuple[list[str], Path] | None = None
    for file in files:
        stored = load(file)
        for number, point in enumerate(points):
            differs, before = differences(stored, point), found[number]
            if not differs:
                better = before is None or _value(stored.result, point) < _value(before.result, point)
                found[number] = stored if better else before
            elif nearest is None or len(differs) < len(nearest[0]):
                nearest = differs, file
    if not any(found):
        assert nearest is not None
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
