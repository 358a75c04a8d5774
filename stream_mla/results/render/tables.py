"""What people read of results: tables and JSON. Text only, no files."""

import json
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from stream_mla.errors import StreamMlaError
from stream_mla.mapping.policy import POLICIES
from stream_mla.results.render.descriptions import digits, mask_words, with_prefix
from stream_mla.results.result import Result, SegmentResult
from stream_mla.workload.spec import Workload

if TYPE_CHECKING:
    from stream_mla.point import Point

REFERENCE = "mha_large"
"""The model that the best rows are compared with, where it is among them."""

WIDTH = 140
"""Columns that a table may take."""

_COLUMNS = (
    ("scheme", "", "<"),
    ("latency", "cycles", ">"),
    ("", "time", ">"),
    ("energy", "mJ", ">"),
    ("DRAM", "MB", ">"),
    ("", "x min", ">"),
    ("MACs", "", ">"),
    ("MAC/B", "", ">"),
    ("bottleneck", "busy %", "<"),
    ("gap", "%", ">"),
    ("status", "", "<"),
    ("tiles", "", ">"),
    ("cores", "used", ">"),
    ("found", "by", "<"),
    ("solver", "s", ">"),
)
"""Two lines of heading, and the side to which cells are aligned."""
_FRONT_COLUMNS = (
    ("scheme", "", "<"),
    ("cap", "cycles", ">"),
    ("latency", "cycles", ">"),
    ("", "time", ">"),
    ("", "x least", ">"),
    ("energy", "mJ", ">"),
    ("", "x least", ">"),
    ("EDP", "uJ s", ">"),
    ("frugal", "", ">"),
    ("gap", "%", ">"),
    ("status", "", "<"),
    ("tiles", "", ">"),
    ("found", "by", "<"),
)
_LONGEST_NAME = 13
"""Of a resource: longer names are cut, so that a table keeps to its width."""
_MOST_LIMITS = 3
_WITHOUT = {"infeasible": "infeasible: there is no schedule", "no_schedule": "no schedule was found in the time given"}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What stays of a point that has no schedule."""

    model: str
    scheme: str
    accelerator: str
    context_tokens: int
    query_tokens: int
    batch: int
    status: Literal["infeasible", "no_schedule"]
    error: str
    fits_with: tuple[str, ...]
    """Changes that make it fit, each shown by a schedule."""


Row = Result | Failure


def failure(
    point: "Point",
    status: Literal["infeasible", "no_schedule"],
    error: StreamMlaError,
    changes: Sequence[str] = (),
) -> Failure:
    """Describe a point without a schedule."""
    return Failure(
        model=point.workload.model.name,
        scheme=point.scheme,
        accelerator=point.accelerator.name,
        context_tokens=point.workload.context_tokens,
        query_tokens=point.workload.query_tokens,
        batch=point.workload.batch,
        status=status,
        error=str(error),
        fits_with=tuple(changes),
    )


def as_json(rows: Sequence[Row]) -> str:
    """Return a JSON list with one object per row; the keys are the fields, whose names carry the units."""
    return json.dumps([asdict(row) for row in rows], indent=2, allow_nan=False)


def table(point: "Point", rows: Sequence[Row]) -> str:
    """Return the rows as a table, under a title that says what `point`, the first of them, computes."""
    results = [row for row in rows if isinstance(row, Result)]
    names = [label(row.model, row.scheme, point) for row in rows]
    lines = [
        _cells(row, name, len(point.accelerator.cores)) if isinstance(row, Result) else [name, _WITHOUT[row.status]]
        for name, row in zip(names, rows, strict=True)
    ]
    said = (*_notes(point, results), *left_out(results))
    notes = [text for note in said for text in textwrap.wrap(note, WIDTH)]
    return "\n".join([*_title(point, _aim(point)), "", *_ruled(_COLUMNS, lines), "", *notes])


def front_table(point: "Point", rows: Sequence[Result]) -> str:
    """Return the fronts of one or more schemes as a table, each from its fastest schedule to that of least energy."""
    lines: list[list[str]] = []
    for scheme in dict.fromkeys((row.model, row.scheme) for row in rows):
        front = [row for row in rows if (row.model, row.scheme) == scheme]
        least_s, least_pj = min(row.latency_s for row in front), min(row.energy_pj for row in front)
        lines += [_front_cells(row, label(*scheme, point), least_s, least_pj) for row in front]
    notes = textwrap.wrap(
        "cap: the latency allowed, empty at the ends (latency-then-energy, energy); x least: over the least of this "
        "front; EDP: energy times latency; frugal: tiles with the mapping of least energy, not the fastest; "
        "gap: by how much the energy of this tiling could be less.",
        WIDTH,
    )
    notes += [text for note in left_out(rows) for text in textwrap.wrap(note, WIDTH)]
    return "\n".join([*_title(point, "latency against energy"), "", *_ruled(_FRONT_COLUMNS, lines), "", *notes])


def left_out(results: Sequence[Result]) -> Iterator[str]:
    """Yield one line with what the results leave out or assume of the published model, if anything."""
    if notes := dict.fromkeys(note for row in results for note in row.notes):
        yield f"Of the model: {'; '.join(notes)}."


def _front_cells(row: Result, name: str, least_s: float, least_pj: float) -> list[str]:
    capped = row.objective == "energy" and row.latency_cap_cycles is not None
    return [
        name,
        f"{row.latency_cap_cycles:,}" if capped else "",
        f"{row.latency_cycles:,}",
        with_prefix(row.latency_s, "s"),
        f"{row.latency_s / least_s:.3f}",
        digits(row.energy_pj / 1e9),
        f"{row.energy_pj / least_pj:.4f}",
        digits(row.energy_pj * 1e-6 * row.latency_s),
        f"{row.frugal_tiles:,}",
        f"{100 * row.energy_gap:.2f}",
        row.status,
        f"{row.tiles:,}",
        row.scheduler,
    ]


def _ruled(columns: Sequence[tuple[str, str, str]], lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield heading, rule and lines, aligned; a line with two cells says in the second what is wrong."""
    heads = [[column[line] for column in columns] for line in (0, 1)]
    full = [line for line in lines if len(line) == len(columns)]
    widths = [max(map(len, column)) for column in zip(*heads, *full, strict=True)]
    widths[0] = max(widths[0], *(len(line[0]) for line in lines))
    space = "  " if sum(widths) + 2 * (len(widths) - 1) <= WIDTH else " "
    for cells in (*heads, ["-" * width for width in widths], *lines):
        if len(cells) < len(widths):
            yield f"{cells[0]:{widths[0]}}{space}{cells[1]}"
            continue
        aligned = (f"{cell:{side}{w}}" for cell, (_, _, side), w in zip(cells, columns, widths, strict=True))
        yield space.join(aligned).rstrip()


def label(model: str, scheme: str, point: "Point") -> str:
    """Name a row of the table that `point` begins."""
    return scheme if model == point.workload.model.name else f"{model}/{scheme}"


def _aim(point: "Point") -> str:
    cap = point.latency_cap_cycles
    return f"scheduled for {point.objective}" + (f" within {cap:,} cycles" if cap is not None else "")


def _title(point: "Point", aim: str) -> Iterator[str]:
    workload = point.workload
    precision = workload.precision
    yield (
        f"{workload.model.name} on {point.accelerator.name}: one {_layer(workload)}, {_step(workload)}, "
        f"batch {workload.batch}{mask_words(workload)}"
    )
    yield (
        f"weights {precision.weights} bit, cache {precision.cache} bit, activations {precision.activations} bit; {aim}"
    )
    policy = point.policy
    if policy != POLICIES["free"]:
        yield f"fusion {policy.fusion}, prefetch {policy.prefetch}, sharing {'on' if policy.sharing else 'off'}"


def _layer(workload: Workload) -> str:
    """Name the layer that is computed, by its kind where the model has several."""
    model = workload.model
    number = next((kind.layers for kind in model.layer_kinds if kind.name == model.layer), 0)
    return f"{model.layer} attention layer ({number} of {model.layers})" if number else "attention layer"


def _step(workload: Workload) -> str:
    new, cached = workload.query_tokens, workload.cached_tokens
    if not cached:
        return f"prefill of {new:,} token{'s' * (new > 1)} per request, nothing cached"
    return f"decode of {new:,} token{'s' * (new > 1)} per request against {cached:,} cached"


def _cells(row: Result, name: str, cores: int) -> list[str]:
    moved = row.dram_read_bytes + row.dram_write_bytes
    minimum = row.dram_minimum_read_bytes + row.dram_minimum_write_bytes
    return [
        name,
        f"{row.latency_cycles:,}",
        with_prefix(row.latency_s, "s"),
        digits(row.energy_pj / 1e9),
        digits(moved / 1e6),
        f"{moved / minimum:.2f}",
        with_prefix(row.macs, ""),
        digits(row.operational_intensity_macs_per_byte),
        f"{_cut(row.bottleneck)} {100 * row.bottleneck_share:.1f}",
        f"{100 * row.gap:.2f}",
        row.status,
        f"{row.tiles:,}",
        f"{row.cores_used}/{cores}",
        row.scheduler,
        f"{row.solve_s:.1f}" if row.solve_s else "-",
    ]


def _notes(point: "Point", results: Sequence[Result]) -> Iterator[str]:
    least = "energy" if point.objective == "energy" else "latency"
    yield (
        f"gap: how far the schedule can be from the best of its tiling, ({least} - lower bound) / {least}; "
        f"bottleneck: what is busy for the largest share of the latency{_bounds(point, results)}."
    )
    again = [f"{label(row.model, row.scheme, point)} {extra}" for row in results if (extra := _extra_traffic(row))]
    compared = "x min: DRAM traffic over the least, everything read and written once"
    yield f"{compared}; above it: {', '.join(again)}." if again else f"{compared}."
    reads = dict.fromkeys(f"{row.cache_reads:.2f}" for row in results)
    if len(reads) == 1:
        yield f"The cache is read {_times(next(iter(reads)))}."
    elif reads:
        yield (
            "The cache is read: "
            + ", ".join(f"{label(row.model, row.scheme, point)} {_times(f'{row.cache_reads:.2f}')}" for row in results)
            + "."
        )
    yield from (_passes(label(row.model, row.scheme, point), row.passes) for row in results if row.passes)
    fastest = min(results, key=lambda row: row.latency_s, default=None)
    if fastest is not None:
        yield _limits(point, fastest)
    if fastest is not None and len(results) > 1:
        thriftiest = min(results, key=lambda row: row.energy_pj)
        yield (
            f"Fastest: {label(fastest.model, fastest.scheme, point)}, {with_prefix(fastest.latency_s, 's')}"
            f"{_against(results, fastest, lambda row: row.latency_s, 'faster')}. "
            f"Least energy: {label(thriftiest.model, thriftiest.scheme, point)}, "
            f"{digits(thriftiest.energy_pj / 1e9)} mJ"
            f"{_against(results, thriftiest, lambda row: row.energy_pj, 'less')}."
        )


def _passes(name: str, passes: Sequence[SegmentResult]) -> str:
    """Say how a layer is cut into passes."""

    def told(entry: SegmentResult) -> str:
        first, last = entry.operators[0], entry.operators[-1]
        what = first if first == last else f"{first} to {last}"
        sizes = ", ".join(f"{index}={size}" for index, size in entry.sizes.items())
        often = f"{entry.times} times{f' with {sizes} each' if sizes else ''}, " if entry.times > 1 else ""
        return f"{what} {often}{entry.latency_cycles:,} cycles"

    return (
        f"{name} has too many tiles to be scheduled as a whole. It runs in passes, one after the other, and its gap is "
        f"that of schedules in these passes: {'; '.join(told(entry) for entry in passes)}."
    )


def _limits(point: "Point", row: Result) -> str:
    """Say what would relieve a row: what binds it, and what binds then."""
    names: dict[int, list[str]] = {}
    for name, cycles in row.bounds_cycles.items():
        names.setdefault(cycles, []).append(name)
    limits = sorted(names.items(), reverse=True)[:_MOST_LIMITS]
    told = ", ".join(f"{' and '.join(together)} {cycles:,}" for cycles, together in limits)
    relief = f"; with more of the first, {100 * limits[1][0] / limits[0][0]:.0f} % of that" if len(limits) > 1 else ""
    return f"What no schedule of {label(row.model, row.scheme, point)} can beat, in cycles: {told}{relief}."


def _bounds(point: "Point", results: Sequence[Result]) -> str:
    """Name the bounds on the latency that come from elsewhere than the bottleneck."""
    other = [
        f"{label(row.model, row.scheme, point)} {row.binding_bound}"
        for row in results
        if row.binding_bound != row.bottleneck
    ]
    return f"; what bounds it from below is the same, but for {', '.join(other)}" if other else ""


def _times(count: str) -> str:
    return {"1.00": "once", "2.00": "twice"}.get(count, f"{count.removesuffix('.00')} times")


def _extra_traffic(row: Result) -> str:
    """Say how much is moved beyond the minimum, from 1 B on."""
    extra = {
        "re-read": row.dram_read_bytes - row.dram_minimum_read_bytes,
        "written": row.dram_write_bytes - row.dram_minimum_write_bytes,
    }
    return " and ".join(f"+{with_prefix(size, 'B')} {what}" for what, size in extra.items() if size >= 1)


def _against(results: Sequence[Result], best: Result, value: Callable[[Result], float], how: str) -> str:
    """Compare the best row with MHA of the same inner dimensions, or else with the worst row."""
    reference = next((row for row in results if row.model == REFERENCE), max(results, key=value))
    if reference is best:
        return ""
    name = reference.model if reference.model == REFERENCE else reference.scheme
    return f", {value(reference) / value(best):.2f}x {how} than {name}"


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 2]}.."
