"""`run` with what steers and keeps it, and `pareto`, as a user meets them."""

import importlib
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from stream_mla.cli import progress
from stream_mla.cli.main import main
from stream_mla.errors import NoScheduleError
from stream_mla.evaluation import evaluate
from stream_mla.mapping.policy import POLICIES, Policy
from stream_mla.point import Point
from stream_mla.results import store
from stream_mla.results.outcome import Interrupted, Outcome
from stream_mla.schedule.candidate import Candidate, Progress
from tests.helpers import without_progress

QUICK = ("deepseek_v2_lite", "--accelerator", "flat_cloud", "--context", "64", "--time-limit", "0")
RUN = ("run", *QUICK, "--scheme", "mla_ru")
NAME = "deepseek_v2_lite mla_ru"

Captured = pytest.CaptureFixture[str]


def ran(capsys: Captured, *arguments: str, code: int = 0) -> tuple[str, str]:
    """Run a command that ends with this code; return what it prints and what it says."""
    try:
        ended = main(arguments)
    except SystemExit as stopped:
        ended = stopped.code
    captured = capsys.readouterr()
    assert ended == code, captured.err
    return captured.out, without_progress(captured.err)


def rows(capsys: Captured, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    return json.loads(ran(capsys, *arguments, "--json", code=code)[0])


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        ("", POLICIES["free"]),
        ("--policy letter", POLICIES["letter"]),
        ("--policy layer_by_layer --sharing off", Policy(fusion="off", prefetch="on", sharing=False)),  # pyright: ignore[reportArgumentType]
        ("--fusion on --prefetch off", Policy(fusion="on", prefetch="off", sharing=True)),  # pyright: ignore[reportArgumentType]
        ("--policy letter --fusion auto --prefetch on --sharing on", POLICIES["free"]),
    ],
)
def test_policies_reach_the_point(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, options: str, policy: Policy
) -> None:
    seen: list[Point] = []

    def spy(point: Point, _progress: Progress, _starts: Sequence[Candidate]) -> Outcome:
        seen.append(point)
        raise NoScheduleError("spied")

    monkeypatch.setattr(importlib.import_module("stream_mla.evaluation"), "evaluate", spy)
    ran(capsys, *RUN, *options.split(), code=3)
    assert [point.policy for point in seen] == [policy]


def test_the_policy_is_part_of_the_result_and_of_the_title(capsys: Captured) -> None:
    options = ("--policy", "letter", "--sharing", "off")
    (row,) = rows(capsys, *RUN, *options)
    assert (row["fusion"], row["prefetch"], row["sharing"]) == ("on", "second", False)
    (free,) = rows(capsys, *RUN)
    assert (free["fusion"], free["prefetch"], free["sharing"]) == ("auto", "on", True)
    assert free["latency_cycles"] < row["latency_cycles"]
    assert "\nfusion on, prefetch second, sharing off\n" in ran(capsys, *RUN, *options)[0]
    assert "fusion" not in ran(capsys, *RUN)[0]


def test_a_cap_is_given_in_cycles_or_as_a_time(capsys: Captured) -> None:
    """1 GHz: 200,000 cycles are 200 us."""
    capped = ("--objective", "energy", "--latency-cap")
    (first,), (second,) = rows(capsys, *RUN, *capped, "200000"), rows(capsys, *RUN, *capped, "200 us")
    assert first["latency_cap_cycles"] == second["latency_cap_cycles"] == 200_000 >= first["latency_cycles"]
    assert first["point_sha256"] == second["point_sha256"]
    printed, _ = ran(capsys, *RUN, *capped, "0.2ms")
    assert "; scheduled for energy within 200,000 cycles\n" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--latency-cap 7", "argument --latency-cap: it needs --objective energy"),
        ("--objective energy --latency-cap 0", "argument --latency-cap: must be from 1 to 1000000000000000, got 0"),
        (
            "--objective energy --latency-cap 5m",
            "argument --latency-cap: expected cycles, or a time such as '0.5 ms': '5m' is not a quantity in s: "
            "write a number and one of s, ms, us, ns",
        ),
        (
            "--objective energy --latency-cap 0ms",
            "argument --latency-cap: must be more than 0 s and at most 2147483647 s, got '0ms'",
        ),
        ("--again", "argument --again: it needs --save"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(capsys: Captured, options: str, message: str) -> None:
    assert ran(capsys, *RUN, *options.split(), code=2) == ("", f"stream-mla run: error: {message}\n")


def test_a_cap_that_cannot_be_met_says_so_without_advice(capsys: Captured) -> None:
    (row,) = rows(capsys, *RUN)
    cap = str(row["ideal_cycles"])
    _, said = ran(capsys, *RUN, "--objective", "energy", "--latency-cap", cap, code=3)
    assert said == (
        f"{NAME}: no schedule was found, though one may exist: no schedule of deepseek_v2_lite as mla_ru on flat_cloud "
        f"within {int(cap):,} cycles was found: the fastest known takes {row['latency_cycles']:,} cycles "
        f"({row['latency_s'] * 1e6:,.1f} us), and none can take less than {int(cap):,}\n"
    )


def test_what_is_saved_is_reused_unless_asked_again(capsys: Captured, tmp_path: Path) -> None:
    saving = ("--save", str(tmp_path / "results"))
    first = rows(capsys, *RUN, *saving)
    (file,) = (tmp_path / "results").iterdir()
    assert json.loads(file.read_text())["result"] == first[0]
    before = file.stat().st_mtime_ns
    printed, said = ran(capsys, *RUN, *saving, "--json")
    assert (json.loads(printed), said) == (first, f"{NAME}: reused {file}\n")
    assert file.stat().st_mtime_ns == before
    _, said = ran(capsys, *RUN, *saving, "--again")
    assert said == ""
    assert file.stat().st_mtime_ns > before
    rows(capsys, *RUN, *saving, "--seed", "1")  # another point
    assert len(list((tmp_path / "results").iterdir())) == 2


def test_what_is_saved_but_broken_is_computed_again(capsys: Captured, tmp_path: Path) -> None:
    saving = ("--save", str(tmp_path))
    rows(capsys, *RUN, *saving)
    (file,) = tmp_path.iterdir()
    whole = file.read_text()
    file.write_text(whole.replace('"runs"', '"walks"'))
    _, said = ran(capsys, *RUN, *saving)
    assert said == (
        f"{NAME}: computed again. {file}: 1 problem\n"
        "  - it was changed since it was stored (its checksum differs): run its point again\n"
    )
    assert json.loads(file.read_text())["decisions"] == json.loads(whole)["decisions"]


def test_a_start_from_a_folder_serves_the_rows_it_fits(capsys: Captured, tmp_path: Path) -> None:
    (stored,) = rows(capsys, *RUN, "--save", str(tmp_path))
    both = ("run", *QUICK, "--scheme", "mla_ru", "mla_rc", "--start", str(tmp_path), "--tile", "h=1")
    said = ran(capsys, *both, code=2)[1]
    assert said.endswith("tile_sizes.h is missing there and 1 here\n")
    both = (*both[:-2], "--seed", "3", "--json")
    printed, said = ran(capsys, *both)
    assert said == f"deepseek_v2_lite mla_rc: nothing in {tmp_path} to start from\n"
    warm, cold = json.loads(printed)
    assert warm["latency_cycles"] <= stored["latency_cycles"]
    assert cold["start_sha256"] == ""


def changed(capsys: Captured, folder: Path, old: str, new: str) -> str:
    """Write a machine that differs from flat_cloud in one place; return its path."""
    text = ran(capsys, "show", "flat_cloud")[0]
    assert text.count(old) >= 1
    file = folder / "machine.yaml"
    file.write_text(text.replace(old, new, 1))
    return str(file)


def test_a_start_for_another_machine_is_refused(capsys: Captured, tmp_path: Path) -> None:
    rows(capsys, *RUN, "--save", str(tmp_path))
    (file,) = tmp_path.iterdir()
    arguments: list[str] = list(RUN)
    arguments[3] = changed(capsys, tmp_path, "bandwidth: 400 GB/s", "bandwidth: 200 GB/s")
    assert ran(capsys, *arguments, "--start", str(file), code=2) == (
        "",
        f"{file}: 1 problem\n  - stored for another point: accelerator.dram.bandwidth is 3200000000000.0 there and "
        "1600000000000.0 here\n",
    )


def test_an_interrupted_row_is_printed_and_stored(
    capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(point: Point, say: Progress, starts: Sequence[Candidate]) -> Outcome:
        def stop(text: str) -> None:
            say(text)
            if text.startswith("tiling 1"):
                raise KeyboardInterrupt

        return evaluate(point, stop, starts)

    monkeypatch.setattr(importlib.import_module("stream_mla.evaluation"), "evaluate", stopping)
    printed, said = ran(capsys, "run", *QUICK, "--save", str(tmp_path), "--json", code=130)
    (row,) = json.loads(printed)
    assert (row["scheme"], row["status"]) == ("mla_rc", "interrupted")
    assert said == "interrupted after 1 of 5 rows\n"
    (file,) = tmp_path.iterdir()
    assert not store.is_final(store.load(file))


def test_the_line_on_a_terminal_moves_on_by_itself(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(progress, "TICK_S", 0.02)
    with progress.shown("row", verbose=False) as say:
        time.sleep(0.1)  # nothing was said yet
        say("best 3")
        time.sleep(0.5)
    lines = capsys.readouterr().err.split("\r")
    assert lines[0] == ""
    assert all(line.startswith("row: best 3, ") and line.endswith(" s\x1b[K") for line in lines[1:-1])
    assert len(lines) > 4
    assert lines[-1] == "\x1b[K"


def test_verbose_shows_value_bound_gap_and_seconds(capsys: Captured) -> None:
    _, said = ran(capsys, *RUN[:-2], "--scheme", "mla_rc", "--time-limit", "8", "--gap-limit", "0", "--verbose")
    form = r"best [\d,]+ cycles, bound [\d,]+, gap \d+\.\d\d%, \d+\.\d s"
    lines = [line.removeprefix("deepseek_v2_lite mla_rc: ") for line in said.splitlines()]
    assert any(line.startswith("cp_sat: ") for line in lines)
    for line in lines:
        beaten = r"tiling \d+: [\d,]+ tiles, not faster, \d+\.\d s"
        found = rf"(tiling \d+: [\d,]+ tiles, |other orders, |put off, |climbing: |cp_sat: ){form}"
        done = r"\d+\.\d+ [mun]?s, gap \d+\.\d\d %, \d+\.\d s"
        assert re.fullmatch(rf"{found}|{beaten}|{done}", line), line


def test_a_front_as_a_table(capsys: Captured) -> None:
    printed, said = ran(capsys, "pareto", *QUICK, "--scheme", "mla_rc", "mla_absorbed", "--points", "2")
    lines = printed.splitlines()
    assert said == ""
    assert lines[2] == "latency against energy"
    ends = [line.split() for line in lines[6:] if line.startswith("mla_")]
    assert len(ends) >= 4
    assert ends[0][0] == "mla_rc"
    assert max(map(len, lines)) <= 140


def test_a_front_as_json_has_one_result_per_point(capsys: Captured) -> None:
    found = rows(capsys, "pareto", *QUICK, "--scheme", "mla_rc", "--points", "2")
    assert 2 <= len(found) <= 4
    assert found[0]["objective"] == "latency-then-energy"
    assert [row["latency_cycles"] for row in found] == sorted({row["latency_cycles"] for row in found})
    assert [row["energy_pj"] for row in found] == sorted({row["energy_pj"] for row in found}, reverse=True)


def test_a_front_without_schedule_does_not_hide_the_others(capsys: Captured, tmp_path: Path) -> None:
    """The composite of mla_ru alone, 16 x 2048 x 512 elements of 2 B, is 33.6 MB."""
    machine = changed(capsys, tmp_path, "capacity: 10000000000000000 bit", "capacity: 40 MB")
    arguments: list[str] = ["pareto", *QUICK, "--scheme", "mla_ru", "mla_absorbed", "--points", "0", "--json"]
    arguments[3] = machine
    printed, said = ran(capsys, *arguments, code=3)
    assert {row["scheme"] for row in json.loads(printed)} == {"mla_absorbed"}
    assert re.fullmatch(
        rf"{NAME}: infeasible: flat_cloud: weights, cache, input and output need [\d,]+ B, the DRAM has 40,000,000 B; "
        r"the largest is \w+ \(weight\) with [\d,]+ B\n",
        said,
    )


def test_a_front_that_is_interrupted_keeps_its_points(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("stream_mla.experiments.pareto")
    real, done = module.evaluate_in, list[Outcome]()

    def stopping(*arguments: Any) -> Outcome:
        if len(done) == 2:
            raise Interrupted(done[0])
        done.append(real(*arguments))
        return done[-1]

    monkeypatch.setattr(module, "evaluate_in", stopping)
    printed, said = ran(capsys, "pareto", *QUICK, "--scheme", "mla_rc", "--json", code=130)
    assert len(json.loads(printed)) == 2
    assert said == "interrupted after 2 points\n"
