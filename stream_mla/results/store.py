"""Results on disk: one JSON file per point, with all that is needed to rebuild the schedule and to check it again.

A file's name starts as the fingerprint of its point. Writing is atomic: a file is whole or not there. A file carries a
checksum of all it says, so that one that was edited or damaged is refused. What the same code stored is believed; what
another version of it stored must prove itself again: its schedule must keep today's rules and take what is said of it.
"""

import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NoReturn, cast

from stream_mla.errors import SpecError, quoted
from stream_mla.frontends.text_files import read_bytes
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

FORMAT = 4
DIGITS = 16
"""A file's name has so many digits of the fingerprint."""
FREE = ("objective", "latency_cap_cycles", "time_limit_s", "gap_limit", "seed", "workers")
"""In these a point may differ from the one whose schedule it starts from."""
MOST_DIFFERENCES = 5
MOST_BYTES = 1 << 30
"""A file has at most this many bytes: a schedule of 10^6 tiles and moves takes some 100 MB."""

_HEAD = re.compile(r'\{"format": (\d{1,9}), "sha256": "([0-9a-f]{64})", ')
"""A file starts with this; the checksum is of all that follows."""


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """A schedule of a layer, or of a pass of it, and what it rests on."""

    tiling: Tiling
    least_energy_tiles: frozenset[int]
    schedule: Schedule

    def __post_init__(self) -> None:
        cut = [*(size for sizes in self.tiling.sizes.values() for size in sizes.values()), self.tiling.parts]
        if min(cut) < 1 or min(self.tiling.k_splits.values(), default=1) < 1:
            raise ValueError("a size or a number of parts is below 1")
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
        with _refusing(self.path):
            found = tuple(decode(Decisions, entry) for entry in _json(self.text_of_decisions))
            if len(found) != max(1, len(self.result.passes)):
                raise ValueError(f"{len(found)} schedules of {max(1, len(self.result.passes))} passes")
            return found


class _refusing:  # noqa: N801  a context manager
    """Turns what decoding raises into a SpecError that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError | TypeError | KeyError | AttributeError | IndexError | RecursionError):
            said = f"{type(error).__name__}: {error}"
            raise SpecError(
                str(self.path), [f"not a stored result of this version ({said}): run its point again"]
            ) from error


def path_of(folder: Path, point: Point) -> Path:
    """Return where the result of a point is stored."""
    return folder / f"{point.sha256[:DIGITS]}.json"


@lru_cache(maxsize=1)
def code_sha256() -> str:
    """Return the fingerprint of this package's code."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def sealed(record: Mapping[str, Any]) -> str:
    """Return the text of a file: the format, the checksum, and what it is of."""
    body = json.dumps(record, allow_nan=False)[1:]
    return f'{{"format": {FORMAT}, "sha256": "{hashlib.sha256(body.encode()).hexdigest()}", {body}'


def prepare(folder: Path) -> None:
    """Make the folder and try to write in it, so that it is known before anything is computed whether one can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _new_file(folder / "try", "").unlink()
    except (OSError, ValueError) as error:
        _cannot_store(folder, error)


def save(folder: Path, point: Point, outcome: Outcome) -> Path:
    """Store a result; what was there before is replaced in one step."""
    bests = [entry.outcome.best for entry in outcome.segments] or [outcome.best]
    decisions = [
        Decisions(
            tiling=best.problem.tile_graph.tiling, least_energy_tiles=best.least_energy_tiles, schedule=best.schedule
        )
        for best in bests
    ]
    text = sealed(
        {
            "code_sha256": code_sha256(),
            "point": asdict(point),
            "result": encode(outcome.result),
            "decisions": [encode(entry) for entry in decisions],
        }
    )
    path = path_of(folder, point)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        new = _new_file(path, text)
        try:
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        _cannot_store(folder, error)
    return path


def _new_file(path: Path, text: str) -> Path:
    """Return a new file beside a path, with a name that nobody can foresee; what is there already is not followed."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    return new


def _cannot_store(folder: Path, error: OSError | ValueError) -> NoReturn:
    said = error.strerror if isinstance(error, OSError) else str(error)
    raise SpecError(str(folder), [f"cannot store a result here: {said}"]) from error


def load(path: Path) -> Stored:
    """Read a stored result; SpecError where it is none, or is not as it was stored."""
    try:
        content = read_bytes(path, MOST_BYTES)
    except OSError as error:
        raise SpecError(str(path), [f"cannot read it: {error.strerror}"]) from error
    except ValueError as error:
        raise SpecError(str(path), [f"cannot read it: {error}"]) from error
    with _refusing(path):
        text = content.decode("utf-8")
        head = _HEAD.match(text)
        if head is None:
            return _of_another_format(path, text)
        if int(head[1]) != FORMAT:
            raise SpecError(str(path), [f"stored in format {head[1]}, this version reads {FORMAT}"])
        if hashlib.sha256(content[head.end() :]).hexdigest() != head[2]:
            raise SpecError(
                str(path), ["it was changed since it was stored (its checksum differs): run its point again"]
            )
        record, decisions = _opened(text, head.end())
        return Stored(
            path=path,
            code_sha256=str(record["code_sha256"]),
            point=record["point"],
            result=decode(Result, record["result"]),
            text_of_decisions=decisions,
        )


def _of_another_format(path: Path, text: str) -> NoReturn:
    """Say of a file that does not start as ours do which format it has, if any."""
    found = _json(text)
    known = cast(dict[str, object], found).get("format") if isinstance(found, dict) else None
    if known is None:
        raise ValueError("it has no format")
    if known == FORMAT:
        raise ValueError("it is not written as it was stored")
    raise SpecError(str(path), [f"stored in format {quoted(known)}, this version reads {FORMAT}"])


def _opened(text: str, start: int) -> tuple[dict[str, Any], str]:
    """Return what a file says before its decisions, and the text of these, which come last."""
    decoder = json.JSONDecoder(parse_constant=_no_number)
    record: dict[str, Any] = {}
    while True:
        key, end = decoder.raw_decode(text, start)
        if key == "decisions":
            return record, text[end + 2 : text.rindex("}")]
        record[key], end = decoder.raw_decode(text, end + 2)
        start = end + 2


def _json(text: str) -> Any:
    return json.loads(text, parse_constant=_no_number)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


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
        with _refusing(stored.path):
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
        if path.rpartition(".")[2] != "source" and there.get(path, Ellipsis) != here.get(path, Ellipsis)
    ]


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


def starts(path: Path, points: Sequence[Point], note: Callable[[str], None] = lambda _: None) -> list[Stored | None]:
    """Return, of a file or a folder, the best stored result that fits each point; SpecError where none fits any.

    Of a folder, files that are no stored results are left out, with a note.
    """
    whole = os.path.isdir(path)  # noqa: PTH112  never fails, however odd the path
    files = sorted(path.glob("*.json")) if whole else [path]
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
