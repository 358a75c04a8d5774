"""The content of each picture: its panels, curves, axes and legend.

A picture is a function from rows to a figure. `draw` writes one to a folder.
"""
# matplotlib's stubs leave its keyword arguments untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from stream_mla.experiments.letter.figures.counted import AS_DRAWN, CORNERS, COUNTED, IN_MACS, PLATFORMS, figure4
from stream_mla.experiments.letter.figures.frame import (
    COLUMN,
    LOOKS,
    add_legend,
    draw_curves,
    fill_cell,
    marker_entry,
    new_figure,
    save,
    swatch,
)
from stream_mla.experiments.letter.figures.platforms import CONTEXTS, platform_map
from stream_mla.experiments.letter.rows import Row, curves
from stream_mla.experiments.letter.setup import LEFT_OUT, LETTER_SERIES

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(name: str, rows: Sequence[Row], folder: Path) -> None:
    """Write the picture of this name as PNG and PDF."""
    save(name, lambda: PICTURES[name](rows), folder)


def _panel(rows: Sequence[Row], panel: str) -> list[Row]:
    return [row for row in rows if row.panel == panel]


def _figure2(rows: Sequence[Row]) -> "Figure":
    figure, (axes,) = new_figure(COLUMN, 3.3)
    draw_curves(axes, rows, scale=1e-9, figure="2")
    for curve, (_, y) in curves(rows).items():
        if curve.series.endswith(COUNTED):
            crowded = curve.series.startswith("2") and curve.variant != "B16"  # both lie on the curves as drawn
            label = "" if crowded else curve.variant
            axes.annotate(label, (4040, y[-1] * 1e-9), fontsize=6, va="center", annotation_clip=False)
    axes.set(
        xlim=(0, 4000), ylim=(0, 52), xlabel="tokens in the cache, L", ylabel="operations up to the scores ($10^9$ MAC)"
    )
    series = ["1-3-2", "1-2-3", "2-1-3", "1-2-3 counted", "2-1-3 counted"]
    add_legend(figure, series, ["batch 1", "batch 4", "batch 16"], points=True, columns=3)
    return figure


def _figure3(rows: Sequence[Row]) -> "Figure":
    figure, panels = new_figure(2 * COLUMN, 4.2, 2, 2)
    for axes, (phase, what) in zip(panels, product(("prefill", "decode"), ("operations", "bytes")), strict=True):
        scale, unit = (1e-6, "MB") if what == "bytes" else (1e-12, "$10^{12}$ MAC")
        if (phase, what) == ("decode", "operations"):
            scale, unit = 1e-9, "$10^9$ MAC"
        draw_curves(axes, _panel(rows, f"{phase} {what}"), scale=scale, figure="3")
        name = "DRAM accesses" if what == "bytes" else "operations"
        axes.set(xlim=(0, 8192), ylim=(0, None), xlabel="tokens, L", ylabel=f"{name} ({unit})", title=phase)
        axes.set_xticks(range(0, 8193, 2048))
    add_legend(figure, LETTER_SERIES, [], points=True, columns=5)
    return figure


def _figure4(rows: Sequence[Row]) -> "Figure":
    return _intensities(rows, LETTER_SERIES, "4")


def _intensities(rows: Sequence[Row], series: Sequence[str], published_as: str) -> "Figure":
    """Draw the corners twice: in the unit of the vendors, as the letter does, and in that of the workload."""
    figure, panels = new_figure(2 * COLUMN, 3.1, 1, 2)
    titles = {
        AS_DRAWN: "as drawn: corners with 2 operations per MAC",
        IN_MACS: "in one unit: corners with 1 operation per MAC",
    }
    for axes, (reading, title) in zip(panels, titles.items(), strict=True):
        draw_curves(axes, [row for row in rows if row.panel != CORNERS], figure=published_as)
        for platform, y in {row.series: row.y for row in rows if row.variant == reading}.items():
            axes.axhline(y, color="0.45", linewidth=0.6)
            axes.annotate(platform, (4040, y), fontsize=6, va="center", annotation_clip=False)
        axes.set(xlim=(0, 4000), xlabel="tokens, L", ylabel="operational intensity (MAC/B)", yscale="log", title=title)
    add_legend(figure, series, ["prefill", "decode"], points=bool(published_as), columns=4)
    return figure


def _figure5(rows: Sequence[Row]) -> "Figure":
    return _throughput(rows, "5")


def _throughput(rows: Sequence[Row], published_as: str = "") -> "Figure":
    figure, (axes,) = new_figure(COLUMN, 3.3)
    draw_curves(axes, rows, figure=published_as)
    _throughput_axes(axes)
    add_legend(figure, _series(rows), _contexts(rows), points=bool(published_as), columns=2)
    return figure


def _throughput_axes(axes: "Axes") -> None:
    """Label the axes of Fig 5, and mark the corners of the platforms below the curves."""
    axes.set(
        xlim=(0, 830),
        ylim=(0, None),
        xlabel="peak compute over DRAM bandwidth (MAC/B)",
        ylabel="throughput (mha_large, L = 1024: 1)",
    )
    for platform in PLATFORMS:
        axes.axvline(platform.operations_per_byte, ymax=0.02, color="0.35", linewidth=0.8)
        axes.annotate(
            platform.name,
            (platform.operations_per_byte, 0.025),
            xycoords=("data", "axes fraction"),
            rotation=90,
            fontsize=5.5,
            ha="center",
            va="bottom",
            color="0.35",
        )


def _figure6(rows: Sequence[Row]) -> "Figure":
    return _energy(rows, "6")


def _energy(rows: Sequence[Row], published_as: str = "") -> "Figure":
    figure, (axes,) = new_figure(COLUMN, 3.3)
    draw_curves(axes, rows, figure=published_as)
    axes.set(
        xscale="log",
        ylim=(0, None),
        xlabel="average on-chip efficiency (tera-MAC/s per W)",
        ylabel="energy (mha_large, L = 1024, 5 TOPS/W: 1)",
    )
    ticks = [0.5, 1, 2, 5, 10]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    add_legend(figure, _series(rows), _contexts(rows), points=bool(published_as), columns=2)
    return figure


def _series(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.series for row in rows))


def _contexts(rows: Sequence[Row]) -> list[str]:
    return [f"L = {variant[1:]}" for variant in dict.fromkeys(row.variant for row in rows)]


def _extra_figure4(rows: Sequence[Row]) -> "Figure":
    return _intensities([*rows, *(row for row in figure4() if row.panel == CORNERS)], LEFT_OUT, "")


def _extra_figure6(rows: Sequence[Row]) -> "Figure":
    figure = _energy([row for row in rows if row.variant != "L2048"])
    figure.axes[0].set(yscale="log", ylim=(0.3, 6))
    ticks = [0.3, 0.5, 1, 2, 5]
    figure.axes[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    figure.axes[0].minorticks_off()
    return figure


def _schemes(rows: Sequence[Row]) -> "Figure":
    figure, panels = new_figure(2 * COLUMN, 3.3, 1, 2)
    for axes, panel in zip(panels, dict.fromkeys(row.panel for row in rows), strict=True):
        draw_curves(axes, _panel(rows, panel))
        _throughput_axes(axes)
        axes.set(title=panel, ylim=(0, 3.2))
    add_legend(figure, _series(rows[::-1]), _contexts(rows), points=False, columns=4)
    return figure


def _settings(rows: Sequence[Row]) -> "Figure":
    """Draw a panel per setting."""
    settings = list(dict.fromkeys(row.variant for row in rows))
    figure, panels = new_figure(2 * COLUMN, 4.4, 2, 2)
    for axes, setting in zip(panels, settings, strict=True):
        draw_curves(axes, [row for row in rows if row.variant == setting])
        axes.set(
            xlim=(0, 830),
            ylim=(0, 1.5),
            title=setting,
            xlabel="peak compute over DRAM bandwidth (MAC/B)",
            ylabel="throughput over mla_ru",
        )
    add_legend(figure, _series(rows), [], points=False, columns=4)
    return figure


MAP_COLOURS = {"mla_rc": "#9CC9E8", "mla_ru": "#F3B58A", "tie": "#E8E8E8"}
MAP_SIGNS = {"mla_rc": "rc", "mla_ru": "ru", "tie": "="}


def _platforms(rows: Sequence[Row]) -> "Figure":
    """Draw a map: colour and sign say which of the letter's schemes is faster, the number by how much."""
    cells = platform_map(rows)
    batches = list(dict.fromkeys(panel for panel, _, _ in cells))
    names = list(dict.fromkeys(name for _, name, _ in cells))
    figure, panels = new_figure(2 * COLUMN, 3.3, 1, 2)
    for axes, panel in zip(panels, batches, strict=True):
        for (batch, name, context), cell in cells.items():
            if batch != panel:
                continue
            x, y = CONTEXTS.index(context), names.index(name)
            fill_cell(axes, x, y, MAP_COLOURS[cell.best])
            sign = f"{MAP_SIGNS[cell.best]}\n{cell.advantage:.2f}" if cell.best != "tie" else "="
            axes.text(x + 0.5, y + 0.5, sign, ha="center", va="center", fontsize=5.5, linespacing=0.95)
            if cell.absorbed >= 1.05:
                axes.plot(x + 0.88, y + 0.16, marker="P", markersize=3, color=LOOKS["mla_absorbed"].colour)
        axes.set(xlim=(0, len(CONTEXTS)), ylim=(len(names), 0), xlabel="tokens in the cache")
        axes.set_title(f"{panel.split(', ')[1]}, by bound, not scheduled")
        axes.set_xticks([number + 0.5 for number in range(len(CONTEXTS))], [f"{c // 1024}k" for c in CONTEXTS])
        axes.set_yticks([number + 0.5 for number in range(len(names))], names)
        axes.grid(visible=False)
        axes.tick_params(length=0)
    handles: list[Artist] = [
        swatch(MAP_COLOURS["mla_rc"], "rc: recomputing is faster, times"),
        swatch(MAP_COLOURS["mla_ru"], "ru: reusing is faster, times"),
        swatch(MAP_COLOURS["tie"], "=: within 1 %"),
        marker_entry("mla_absorbed", "absorbed beats both by 5 % or more"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, handlelength=1.4, columnspacing=1.2)
    return figure


PICTURES: "Mapping[str, Callable[[Sequence[Row]], Figure]]" = {
    "fig2": _figure2,
    "fig3": _figure3,
    "fig4": _figure4,
    "fig5": _figure5,
    "fig6": _figure6,
    "extra_fig4": _extra_figure4,
    "extra_fig5_free": _throughput,
    "extra_fig5_schemes": _schemes,
    "extra_fig6": _extra_figure6,
    "extra_platforms": _platforms,
    "extra_rope_bits": _settings,
}
"""The name of a picture -> the function that draws it."""
