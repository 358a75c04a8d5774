"""Rows of the figures: what is written to CSV, what was published, and how far the two are apart."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import lru_cache
from math import inf
from pathlib import Path

import numpy as np

PUBLISHED = Path(__file__).with_name("points.csv")
"""The published figures of arXiv 2506.02523v1, digitised from its vector graphics to about 1e-5."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One point of one curve."""

    figure: str
    """`2` to `6`, or the name of an extra."""
    panel: str
    series: str
    variant: str
    x: float
    y: float

    @property
    def curve(self) -> "Curve":
        """The curve that the point lies on."""
        return Curve(figure=self.figure, panel=self.panel, series=self.series, variant=self.variant)


@dataclass(frozen=True, kw_only=True, order=True)
class Curve:
    """It is what a figure draws as one line."""

    figure: str
    panel: str
    series: str
    variant: str

    @property
    def label(self) -> str:
        """Series and variant, for a legend."""
        return f"{self.series} {self.variant}".strip()


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """How far a curve is from the published one, relative to the published values."""

    points: int
    largest: float
    mean: float


def curves(rows: Iterable[Row]) -> dict[Curve, tuple[list[float], list[float]]]:
    """Group rows into curves: x and y, in ascending x."""
    grouped: dict[Curve, list[tuple[float, float]]] = {}
    for row in rows:
        grouped.setdefault(row.curve, []).append((row.x, row.y))
    return {
        curve: ([x for x, _ in ordered], [y for _, y in ordered])
        for curve, ordered in ((curve, sorted(points)) for curve, points in grouped.items())
    }


@lru_cache
def published(figure: str) -> tuple[Row, ...]:
    """Return the published points of a figure."""
    return tuple(row for row in read(PUBLISHED) if row.figure == figure)


def deviations(rows: Iterable[Row], figure: str) -> Mapping[Curve, Deviation]:
    """Compare every published curve of a figure with ours of the same name, interpolated at its points.

    A curve that we do not have is infinitely far.
    """
    ours, theirs = curves(rows), curves(published(figure))
    found: dict[Curve, Deviation] = {}
    for curve, (x, y) in theirs.items():
        if curve not in ours:
            found[curve] = Deviation(points=len(x), largest=inf, mean=inf)
            continue
        off = np.abs(np.interp(x, *ours[curve]) / np.array(y) - 1)
        found[curve] = Deviation(points=len(x), largest=float(off.max()), mean=float(off.mean()))
    return found


def read(path: Path) -> list[Row]:
    """Read the rows of a CSV file; lines that begin with # are comments."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(
                figure=entry["figure"],
                panel=entry["panel"],
                series=entry["series"],
                variant=entry["variant"],
                x=float(entry["x"]),
                y=float(entry["y"]),
            )
            for entry in csv.DictReader(line for line in file if not line.startswith("#"))
        ]


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV, with the columns of the published points and numbers to 10 digits."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(Row))
        for row in rows:
            *names, x, y = astuple(row)
            writer.writerow([*names, f"{x:.10g}", f"{y:.10g}"])
