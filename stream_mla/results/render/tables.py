"""Fronts as a table, and results as JSON. Text only, no files."""

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from stream_mla.results.render.comparison import label, subject_of
from stream_mla.results.render.notes import left_out
from stream_mla.results.result import Result, Row
from stream_mla.units import digits, with_prefix

if TYPE_CHECKING:
    from stream_mla.point import Point

WIDTH = 140
"""The characters that a line of a front may take."""

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


def as_json(rows: Sequence[Row]) -> str:
    """Return a JSON list with one object per row; the keys are the fields, whose names carry the units."""
    return json.dumps([asdict(row) for row in rows], indent=2, allow_nan=False)


def front_table(point: "Point", rows: Sequence[Result]) -> str:
    """Return the fronts of one or more schemes as a table, each from its fastest schedule to that of least energy."""
    subject = subject_of([point])
    lines: list[list[str]] = []
    several = len({row.accelerator for row in rows}) > 1
    for model, scheme, machine in dict.fromkeys((row.model, row.scheme, row.accelerator) for row in rows):
        front = [row for row in rows if (row.model, row.scheme, row.accelerator) == (model, scheme, machine)]
        name = f"{machine} " * several + label(model, scheme, subject.model)
        least_s, least_pj = min(row.latency_s for row in front), min(row.energy_pj for row in front)
        lines += [_front_cells(row, name, least_s, least_pj) for row in front]
    notes = textwrap.wrap(
        "cap: the latency allowed, empty at the ends (latency-then-energy, energy); x least: over the least of this "
        "front; EDP: energy times latency; frugal: tiles with the mapping of least energy, not the fastest; "
        "gap: by how much the energy of this tiling could be less.",
        WIDTH,
    )
    notes += [line for note in left_out(rows) for line in textwrap.wrap(note, WIDTH)]
    return "\n".join([*subject.title[:-1], "latency against energy", "", *_ruled(_FRONT_COLUMNS, lines), "", *notes])


def _front_cells(row: Result, name: str, least_s: float, least_pj: float) -> list[str]:
    capped = row.objective == "energy" and row.latency_cap_cycles is not None
    return [
        name,
        f"{row.latency_cap_cycles:,}" if capped else "",
        f"{row.latency_cycles:,}",
        with_prefix(row.latency_s, "s"),
        f"{row.latency_s / least_s:.3f}",
        digits(row.energy_pj / 1e9),
        f"{row.energy_pj / least_pj if least_pj else 1:.4f}",
        digits(row.energy_pj * 1e-6 * row.latency_s),
        f"{row.frugal_tiles:,}",
        f"{100 * row.energy_gap:.2f}",
        row.status,
        f"{row.tiles:,}",
        row.scheduler,
    ]


def _ruled(columns: Sequence[tuple[str, str, str]], lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield heading, rule and lines, aligned."""
    heads = [[column[line] for column in columns] for line in (0, 1)]
    widths = [max(map(len, column)) for column in zip(*heads, *lines, strict=True)]
    space = "  " if sum(widths) + 2 * (len(widths) - 1) <= WIDTH else " "
    for cells in (*heads, ["-" * width for width in widths], *lines):
        aligned = (f"{cell:{side}{w}}" for cell, (_, _, side), w in zip(cells, columns, widths, strict=True))
        yield space.join(aligned).rstrip()
