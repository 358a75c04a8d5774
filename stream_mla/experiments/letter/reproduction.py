"""The letter's figures from this simulator, written to a folder: CSV, pictures and a summary."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stream_mla.errors import SpecError
from stream_mla.experiments.letter.figures import extras
from stream_mla.experiments.letter.figures.counted import figure2, figure3, figure4, left_out_intensities
from stream_mla.experiments.letter.figures.energy import figure6
from stream_mla.experiments.letter.figures.energy import runs as energy_runs
from stream_mla.experiments.letter.figures.platforms import platform_rows
from stream_mla.experiments.letter.figures.scheduled import FIGURE, baseline, figure5
from stream_mla.experiments.letter.machine import compute_grid
from stream_mla.experiments.letter.rows import Row, write
from stream_mla.experiments.letter.runs import Measured, Progress, Run, Store, measure_all

Results = Mapping[Run, Measured]
FIGURES = ("fig2", "fig3", "fig4", "fig5", "fig6")
EXTRAS = "extras"
STORED = "results.jsonl"
"""The file with what was scheduled; a later run into the same folder takes it from there."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One figure, or all extras: what must be scheduled, and the rows that follow, by the name of their file."""

    runs: Callable[[], Sequence[Run]]
    rows: Callable[[Results], Mapping[str, list[Row]]]


def _extra_rows(results: Results) -> Mapping[str, list[Row]]:
    return {
        "extra_fig4": left_out_intensities(),
        "extra_fig5_free": figure5(extras.FREE, results),
        "extra_fig5_w_uv": figure5(extras.WITH_W_UV, results),
        "extra_fig5_schemes": [*figure5(extras.THREE_SCHEMES, results), *figure5(extras.FOUR_SCHEMES, results)],
        "extra_fig6": figure6(results, extras.energy_runs(), "extra_fig6"),
        "extra_platforms": platform_rows(),
        "extra_rope_bits": extras.setting_rows(results),
    }


PARTS: Mapping[str, Part] = {
    "fig2": Part(runs=list, rows=lambda _: {"fig2": figure2()}),
    "fig3": Part(runs=list, rows=lambda _: {"fig3": figure3()}),
    "fig4": Part(runs=list, rows=lambda _: {"fig4": figure4()}),
    "fig5": Part(
        runs=lambda: [baseline(), *FIGURE.points(compute_grid()).values()],
        rows=lambda results: {"fig5": figure5(FIGURE, results)},
    ),
    "fig6": Part(
        runs=lambda: list(energy_runs().values()), rows=lambda results: {"fig6": figure6(results, energy_runs())}
    ),
    EXTRAS: Part(runs=lambda: [baseline(), *extras.all_runs()], rows=_extra_rows),
}
"""Name of a figure -> how it is made."""


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """It is what was written."""

    rows: Mapping[str, list[Row]]
    """It is ordered by the name of the file."""
    seconds: Mapping[str, float]
    """It is ordered by the name of the part."""
    points: Mapping[str, int]
    """Scheduled points of each part, stored ones included."""


def reproduce(figures: Sequence[str], out: Path, progress: Progress, *, workers: int, pictures: bool) -> Reproduction:
    """Make figures and extras, and write them with a summary to a folder."""
    from stream_mla.experiments.letter.text.summary import summary

    if pictures:
        from stream_mla.experiments.letter.figures.frame import require_matplotlib

        require_matplotlib()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(str(out), [f"cannot make this folder ({error.strerror}): give another --out"]) from error
    store = Store(out / STORED)
    rows: dict[str, list[Row]] = {}
    seconds: dict[str, float] = {}
    points: dict[str, int] = {}
    for name in figures:
        began = time.perf_counter()
        part = PARTS[name]
        progress(f"{name}: counting")
        runs = part.runs()
        results = measure_all(runs, store, workers, lambda text, name=name: progress(f"{name}: {text}"))
        made = part.rows(results)
        for file, entries in made.items():
            write(out / f"{file}.csv", entries)
            if pictures:
                _picture(file, entries, out)
        rows.update(made)
        seconds[name], points[name] = time.perf_counter() - began, len({run.key for run in runs})
    made_all = Reproduction(rows=rows, seconds=seconds, points=points)
    (out / "summary.md").write_text(summary(rows), encoding="utf-8")
    return made_all


def _picture(name: str, rows: Sequence[Row], out: Path) -> None:
    from stream_mla.experiments.letter.figures.pictures import PICTURES, draw

    if name in PICTURES:
        draw(name, rows, out)
