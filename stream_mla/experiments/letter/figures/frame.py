"""The frame of every picture: style, colours, curves, published points and legends.

Matplotlib is imported only when a picture is drawn. Pictures are in the style of the letter, one column wide, with
published points as small open markers. The colours are those of Okabe and Ito, which people with any colour vision tell
apart; every curve also differs in its line or its marker.
"""
# matplotlib's stubs leave its keyword arguments untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stream_mla.errors import SpecError
from stream_mla.experiments.letter.figures.counted import COUNTED
from stream_mla.experiments.letter.rows import Curve, Row, curves, published

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PIXELS_PER_INCH = 200
"""The resolution of PNG files: sharp on screens, and small enough to commit."""
COLUMN = 3.5
"""Width of a column of the letter, in inches."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How one series looks everywhere."""

    colour: str
    marker: str
    name: str
    width: float = 1.1
    """Wider where another curve may lie on top."""


LOOKS: Mapping[str, Look] = {
    "mha_large": Look(colour="#000000", marker="s", name="MHA, same dimensions"),
    "mha_scaled": Look(colour="#E69F00", marker="D", name="MHA, same parameters"),
    "mla_rc": Look(colour="#0072B2", marker="o", name="MLA, recompute (rc)"),
    "mla_ru": Look(colour="#D55E00", marker="^", name="MLA, reuse (ru)", width=1.6),
    "mla_naive": Look(colour="#CC79A7", marker="v", name="MLA, naive (1-3-2)"),
    "mla_absorbed": Look(colour="#009E73", marker="P", name="MLA, absorbed (1-2-3)"),
    "1-3-2": Look(colour="#CC79A7", marker="v", name="1-3-2"),
    "1-2-3": Look(colour="#009E73", marker="P", name="1-2-3, as drawn"),
    "2-1-3": Look(colour="#0072B2", marker="o", name="2-1-3, as drawn"),
    "1-2-3 counted": Look(colour="#009E73", marker="", name="1-2-3, counted"),
    "2-1-3 counted": Look(colour="#0072B2", marker="", name="2-1-3, counted"),
}
DASHES = ("solid", (0, (4, 1.5)), (0, (1, 1.2)))
"""The line styles of the first, second and third variant of a series."""


def require_matplotlib() -> None:
    """Refuse to start without matplotlib, and say how to get it, before anything is computed."""
    try:
        import matplotlib.figure  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise SpecError(
            "reproduce", ["pictures need matplotlib: pip install 'stream-mla[figures]', or use --no-pictures"]
        ) from None


Group = Literal["font", "axes", "grid", "xtick", "ytick", "legend", "lines"]
STYLE: Mapping[Group, Mapping[str, object]] = {
    "font": {"size": 7.5},
    "axes": {"labelsize": 7.5, "titlesize": 7.5, "linewidth": 0.6, "grid": True, "axisbelow": True},
    "grid": {"linewidth": 0.3, "color": "0.85"},
    "xtick": {"labelsize": 7},
    "ytick": {"labelsize": 7},
    "legend": {"fontsize": 6.5, "frameon": False},
    "lines": {"linewidth": 1.1},
}
"""The settings of matplotlib, by group."""


def save(name: str, figure: "Callable[[], Figure]", folder: Path) -> None:
    """Write a picture as PNG and PDF; neither carries a date, so that equal pictures are equal files."""
    from matplotlib import rc, rc_context

    with rc_context():
        for group, settings in STYLE.items():
            rc(group, **settings)
        drawn = figure()
        drawn.savefig(folder / f"{name}.png", dpi=PIXELS_PER_INCH, metadata={"Software": None})
        drawn.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> "tuple[Figure, list[Axes]]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, number + 1) for number in range(rows * columns)]


def draw_curves(axes: "Axes", rows: Sequence[Row], *, scale: float = 1.0, figure: str = "") -> None:
    """Draw the curves of a panel, and the published points of the same name in `figure`."""
    drawn = dict(sorted(curves(rows).items(), key=lambda entry: -LOOKS[entry[0].series].width))
    variants = list(dict.fromkeys(curve.variant for curve in drawn))
    for curve, (x, y) in drawn.items():
        look = LOOKS[curve.series]
        dash = "dashdot" if curve.series.endswith(COUNTED) else DASHES[variants.index(curve.variant) % len(DASHES)]
        axes.plot(x, [value * scale for value in y], color=look.colour, linestyle=dash, linewidth=look.width)
    names = {(curve.panel, curve.series, curve.variant) for curve in drawn}
    for curve, (x, y) in curves(published(figure) if figure else ()).items():
        if (curve.panel, curve.series, curve.variant) in names:
            _draw_points(axes, curve, x, [value * scale for value in y])


def _draw_points(axes: "Axes", curve: Curve, x: Sequence[float], y: Sequence[float]) -> None:
    """Draw the published points of a curve, about forty of them at most."""
    look, every = LOOKS[curve.series], max(1, len(x) // 40)
    axes.plot(
        x[::every],
        y[::every],
        linestyle="none",
        marker=look.marker,
        markersize=2.6,
        markerfacecolor="white",
        markeredgecolor=look.colour,
        markeredgewidth=0.6,
    )


def add_legend(figure: "Figure", series: Sequence[str], variants: Sequence[str], *, points: bool, columns: int) -> None:
    """Put the legend above the panels: a colour per series, a line per variant, a marker for what was published."""
    from matplotlib.lines import Line2D

    entries = [
        Line2D(
            [],
            [],
            color=LOOKS[name].colour,
            linestyle="dashdot" if name.endswith(COUNTED) else "solid",
            marker=LOOKS[name].marker if points else "",
            markersize=3,
            markerfacecolor="white",
            markeredgewidth=0.6,
            label=LOOKS[name].name,
        )
        for name in series
    ]
    entries += [
        Line2D([], [], color="0.4", linestyle=dash, label=name) for dash, name in zip(DASHES, variants, strict=False)
    ]
    if points:
        entries.append(
            Line2D(
                [],
                [],
                color="0.4",
                linestyle="none",
                marker="o",
                markersize=3,
                markerfacecolor="white",
                markeredgewidth=0.6,
                label="published point",
            )
        )
    figure.legend(handles=entries, loc="outside upper center", ncols=columns, handlelength=2.6, columnspacing=1.2)


def marker_entry(series: str, label: str) -> "Artist":
    from matplotlib.lines import Line2D

    look = LOOKS[series]
    return Line2D([], [], color=look.colour, linestyle="none", marker=look.marker, markersize=4, label=label)


def swatch(colour: str, label: str) -> "Artist":
    """Return an entry of a legend: a field of a colour."""
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)


def fill_cell(axes: "Axes", x: int, y: int, colour: str) -> None:
    """Fill the unit square whose lower corner is (x, y)."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, edgecolor="white", linewidth=1))
