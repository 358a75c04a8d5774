"""What `reproduce` stores, draws and writes."""

import builtins
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stream_mla.cli.main import main
from stream_mla.errors import SpecError
from stream_mla.experiments.letter.figures.counted import figure2, figure3, figure4
from stream_mla.experiments.letter.figures.extras import (
    FOUR_SCHEMES,
    FREE,
    SETTING_SERIES,
    SETTINGS,
    THREE_SCHEMES,
    WITH_W_UV,
)
from stream_mla.experiments.letter.figures.pictures import PICTURES, draw
from stream_mla.experiments.letter.figures.platforms import platform_map, platform_rows
from stream_mla.experiments.letter.machine import machine
from stream_mla.experiments.letter.reproduction import PARTS, STORED, reproduce
from stream_mla.experiments.letter.rows import Row, published, read, write
from stream_mla.experiments.letter.runs import Measured, Run, Store, measure, measure_all
from stream_mla.experiments.letter.setup import MLA, Step, dram_bytes, without_w_uv
from stream_mla.experiments.letter.text.summary import summary

W_UV = 128 * 512 * 128
RUN = Run(
    step=Step(series="mla_absorbed", context=64, model="deepseek_v3_letter"), accelerator=machine(65536), policy="free"
)
MEASURED = Measured(latency_s=1.0, lower_bound_s=0.5, dram_bytes=10.0, macs=100, energy_pj=7.0, tiles=3)


@pytest.mark.parametrize("series", ["mla_rc", "mla_ru", "mla_absorbed"])
def test_without_w_uv_its_bytes_and_its_product_are_gone(series: str) -> None:
    whole = Step(series=series, context=100).graph
    graph = without_w_uv(whole)

    assert dram_bytes(whole) - dram_bytes(graph) == W_UV
    assert whole.total_macs - graph.total_macs == W_UV
    assert {operator.name for operator in whole.operators} - {o.name for o in graph.operators} == {"head_out"}


@pytest.mark.parametrize("series", ["mha_large", "mla_naive"])
def test_other_graphs_keep_what_they_have(series: str) -> None:
    graph = Step(series=series, context=100).graph

    assert without_w_uv(graph) is graph


def test_operations_are_those_of_the_whole_layer() -> None:
    step = Step(series="mla_absorbed", context=64, fetches_w_uv=False)
    measured = measure(replace(RUN, step=step))

    assert measured.macs == replace(step, fetches_w_uv=True).graph.total_macs == step.graph.total_macs + W_UV
    assert measured.dram_bytes == dram_bytes(step.graph)
    # 100 MACs of 0.5 pJ, 10 B of 64 pJ
    assert MEASURED.energy_with(0.5) == 50 + 640


def test_stored_results_are_not_scheduled_again(tmp_path: Path) -> None:
    path = tmp_path / STORED
    store = Store(path)
    store.add(RUN, MEASURED)
    path.write_text(path.read_text() + '{"key": "half a li')  # an interrupted run

    said: list[str] = []
    assert measure_all([RUN], Store(path), 1, said.append) == {RUN: MEASURED}
    assert said == []


def test_results_of_another_program_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / STORED
    Store(path).add(RUN, MEASURED)
    monkeypatch.setattr("stream_mla.experiments.letter.runs.sources_sha256", lambda: "after a change")

    assert Store(path).known == {}


def test_rows_survive_csv(tmp_path: Path) -> None:
    row = Row(figure="5", panel="p", series="mla_rc", variant="L1024", x=163.84, y=1 / 3)
    write(tmp_path / "rows.csv", [row])

    assert (tmp_path / "rows.csv").read_text() == (
        "figure,panel,series,variant,x,y\n5,p,mla_rc,L1024,163.84,0.3333333333\n"
    )
    assert read(tmp_path / "rows.csv") == [replace(row, y=0.3333333333)]


def _sweep(figure: str, series: tuple[str, ...], variants: tuple[str, ...], panel: str = "p") -> list[Row]:
    """Curves that differ, from Fig 5's ends."""
    return [
        Row(figure=figure, panel=panel, series=name, variant=variant, x=x, y=1 + number + x / 1000)
        for number, name in enumerate(series)
        for variant in variants
        for x in (8.19, 819.2)
    ]


@pytest.fixture(scope="module")
def all_rows() -> dict[str, list[Row]]:
    """Counted rows, the published ones for figures 5 and 6, and made-up extras."""
    contexts = ("L1024", "L2048", "L4096")
    schemes = ("mla_naive", "mla_absorbed", "mla_rc", "mla_ru")
    return {
        "fig2": figure2(),
        "fig3": figure3(),
        "fig4": figure4(),
        "fig5": list(published("5")),
        "fig6": list(published("6")),
        "extra_fig4": [row for row in figure4() if row.series == "mla_rc"],
        "extra_fig5_free": _sweep("extra_fig5_free", FREE.series, contexts),
        "extra_fig5_w_uv": _sweep("extra_fig5_w_uv", WITH_W_UV.series, ("L1024",)),
        "extra_fig5_schemes": [
            *_sweep("extra_fig5_schemes", schemes[1:], contexts, THREE_SCHEMES.panel),
            *_sweep("extra_fig5_schemes", schemes, contexts, FOUR_SCHEMES.panel),
        ],
        "extra_fig6": _sweep("extra_fig6", ("mha_large", "mha_scaled", *schemes), contexts),
        "extra_platforms": platform_rows(),
        "extra_rope_bits": _sweep("extra_rope_bits", SETTING_SERIES, tuple(entry.name for entry in SETTINGS)),
    }


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_is_drawn(name: str, all_rows: dict[str, list[Row]], tmp_path: Path) -> None:
    draw(name, all_rows[name], tmp_path)

    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / f"{name}.png").stat().st_size < 200_000


def test_the_summary_of_the_published_curves(all_rows: dict[str, list[Row]]) -> None:
    text = summary(all_rows)

    assert "| 5 | normalised throughput | mla_rc L1024 | 41 | 0.00e+00 | 0.00e+00 |" in text
    assert "45.3 times below 2-1-3" in text  # 12.885e9 + 0.1007e9 + 0.259e9 over 0.0336e9 + 0.259e9
    assert "| Edge TPU | 100 | DRAM | 50 | compute |" in text
    assert "| ours, L1024 | 162 | 619 |" in text
    assert "| as drawn | ours, L1024 | 0.72 (mha_scaled) |" in text  # 1 / 1.38
    assert "**Does not hold.** At L = 1024 mla_ru is faster on 2 of the letter's own 4 platforms" in text
    assert "below 3 TOPS/W:\n  **Holds.**" in text


def test_the_map_of_platforms() -> None:
    cells = platform_map(platform_rows())

    # the A100 at batch 1 is DRAM bound: (241,172,480 + 512 x 1026 + 14,336) / (174,063,616 + the same) bytes
    cell = cells["least time (us), batch 1", "A100", 1024]
    assert cell.best == "mla_rc"
    assert cell.advantage == pytest.approx(1.384, abs=1e-3)
    assert cell.absorbed == pytest.approx(1, abs=1e-3)
    # the Edge TPU has 50 MAC/B: mla_rc computes 13.26 G
    assert cells["least time (us), batch 1", "Edge TPU", 1024].best == "mla_ru"
    assert len(cells) == 9 * 2 * 8


def test_parts_need_the_points_of_the_issue() -> None:
    assert len(PARTS["fig5"].runs()) == 1 + 4 * 3 * 41
    assert len(PARTS["fig6"].runs()) == 4 * 3
    assert all(run.step.model in (MLA, "deepseek_v3") for run in PARTS["extras"].runs())


def test_the_command_writes_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "letter", "fig2", "--out", str(tmp_path / "new" / "folder"), "--no-pictures"]) == 0

    assert sorted(file.name for file in (tmp_path / "new" / "folder").iterdir()) == ["fig2.csv", "summary.md"]
    assert capsys.readouterr().out.endswith(f"written to {tmp_path}/new/folder/summary.md and beside it\n")


def test_a_figure_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["reproduce", "letter", "fig7", "--out", "x"])

    assert capsys.readouterr().err == (
        "stream-mla reproduce: error: argument FIGURE: no figure 'fig7': use fig2, fig3, fig4, fig5, fig6, extras\n"
    )


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(SpecError) as raised:
        reproduce(["fig2"], tmp_path / "file", lambda _: None, workers=1, pictures=False)
    assert raised.value.problems == ("cannot make this folder (File exists): give another --out",)


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(SpecError) as raised:
        reproduce(["fig2"], tmp_path, lambda _: None, workers=1, pictures=True)
    assert raised.value.problems == (
        "pictures need matplotlib: pip install 'stream-mla[figures]', or use --no-pictures",
    )
