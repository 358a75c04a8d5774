"""The commands as a user meets them: text and exit codes."""

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import stream_mla
from stream_mla.cli.main import main
from stream_mla.errors import NoScheduleError
from stream_mla.evaluation import evaluate
from stream_mla.frontends.catalog import check, load_accelerator, load_model, model_names
from stream_mla.point import Point
from stream_mla.results.outcome import Outcome
from stream_mla.schedule.candidate import Candidate, Progress
from tests.helpers import without_progress

ROOT = Path(__file__).parents[2]
QUICK = ("run", "deepseek_v3", "--accelerator", "flat_cloud", "--context", "256", "--time-limit", "0")
KEYS = {
    *("model", "scheme", "accelerator", "context_tokens", "query_tokens", "batch", "latency_cycles", "latency_s"),
    *("energy_pj", "energy_breakdown_pj", "macs", "dram_read_bytes", "dram_write_bytes", "peak_sram_bytes", "gap"),
    *("operational_intensity_macs_per_byte", "lower_bound_cycles", "status", "tiles", "cores_used", "solve_s", "seed"),
    "versions",
}
HEAVY = ("numpy", "networkx", "ortools", "matplotlib")

Captured = pytest.CaptureFixture[str]


def refused(capsys: Captured, *arguments: str) -> str:
    """Run a command that must end with exit code 2 and without output; return what it says."""
    try:
        code = main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    return captured.err


def test_decode_of_one_scheme(capsys: Captured):
    assert main([*QUICK, "--scheme", "mla_absorbed", "--bits", "cache=8,activations=8"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[:3] == [
        "deepseek_v3 on flat_cloud, one attention layer",
        "decode of 1 token per request against 256 cached, batch 1",
        "8 bit; scheduled for latency",
    ]
    assert [line.split()[0] for line in lines[6:7]] == ["mla_absorbed"]
    assert max(map(len, lines)) <= 80
    assert re.fullmatch(r"deepseek_v3 mla_absorbed: 4\d\d\.\d us, gap 0\.\d\d %, \d+\.\d s\n", captured.err)


def test_comparison_without_a_scheme(capsys: Captured):
    assert main([*QUICK, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["model"], row["scheme"]) for row in rows] == [
        ("deepseek_v3", "mla_rc"),
        ("deepseek_v3", "mla_ru"),
        ("deepseek_v3", "mla_absorbed"),
        ("mha_large", "mha"),
        ("mha_scaled", "mha"),
    ]
    for row in rows:
        assert set(row) >= KEYS
        assert (row["weight_bits"], row["cache_bits"]) == (8, 16)  # as the model file says
        assert row["lower_bound_cycles"] <= row["latency_cycles"]
    assert rows[2]["context_tokens"] == 256


def test_model_with_grouped_queries_has_one_row(capsys: Captured):
    assert (
        main(["run", "llama_3_8b", "--accelerator", "flat_cloud", "--context", "64", "--time-limit", "0", "--json"])
        == 0
    )
    assert [row["scheme"] for row in json.loads(capsys.readouterr().out)] == ["mha"]


def test_options_reach_the_point(capsys: Captured, monkeypatch: pytest.MonkeyPatch):
    seen: list[Point] = []

    def spy(point: Point, progress: Progress, starts: Sequence[Candidate]) -> Outcome:
        seen.append(point)
        raise NoScheduleError("spied")

    monkeypatch.setattr(importlib.import_module("stream_mla.evaluation"), "evaluate", spy)
    options = "--prefill --context 96 --batch 3 --bits weights=4,partials=16 --objective energy --time-limit 1.5"
    more = "--gap-limit 0.25 --seed 7 --workers 2 --tile h=16,parts=4 --scheme mla_ru mla_ru"
    assert main(["run", "deepseek_v3", "--accelerator", "h100", *options.split(), *more.split()]) == 3
    assert capsys.readouterr().out == ""
    (point,) = seen
    workload, precision = point.workload, point.workload.precision
    assert (workload.query_tokens, workload.cached_tokens, workload.batch) == (96, 0, 3)
    assert (precision.weights, precision.cache, precision.activations, precision.partials) == (4, 16, 16, 16)
    assert (point.objective, point.time_limit_s, point.gap_limit) == ("energy", 1.5, 0.25)
    assert (point.seed, point.workers, point.tile_sizes) == (7, 2, {"h": 16, "parts": 4})
    assert (point.scheme, point.accelerator.name) == ("mla_ru", "h100")


@pytest.mark.parametrize(
    "order",
    [
        "--accelerator flat_cloud --scheme mla_rc deepseek_v2_lite",
        "deepseek_v2_lite --accelerator flat_cloud --scheme mla_rc",
        "--scheme mla_rc --accelerator flat_cloud deepseek_v2_lite",
        "--scheme mla_rc deepseek_v2_lite --accelerator flat_cloud",
    ],
)
def test_the_model_stands_before_or_after_options(capsys: Captured, order: str):
    assert main(["run", *order.split(), "--context", "64", "--time-limit", "0", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["model"], row["scheme"], row["accelerator"]) == ("deepseek_v2_lite", "mla_rc", "flat_cloud")


def test_no_model_is_refused(capsys: Captured):
    said = refused(capsys, "run", "--accelerator", "flat_cloud", "--scheme", "mla_rc")
    assert said == "stream-mla run: error: the following arguments are required: MODEL\n"


def test_figures_stand_before_or_after_options(capsys: Captured):
    said = refused(capsys, "reproduce", "letter", "--out", "x", "fig9")
    assert said.startswith("stream-mla reproduce: error: argument FIGURE: no figure 'fig9': use fig2, ")


def test_several_accelerators_are_compared_in_one_run(capsys: Captured):
    run = ["run", "deepseek_v2_lite", "--accelerator", "flat_cloud", "flat_edge", "flat_cloud"]
    assert main([*run, "--context", "64", "--time-limit", "0", "--scheme", "mla_ru", "mla_rc", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    machines = ["flat_cloud", "flat_edge"]
    assert [(row["scheme"], row["accelerator"]) for row in rows] == [
        (scheme, machine) for scheme in ("mla_ru", "mla_rc") for machine in machines
    ]


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("8", (8, 8, 8, 32)),
        ("all=8", (8, 8, 8, 32)),
        ("8,cache=16", (8, 16, 8, 32)),
        ("cache=16,all=8,partials=24", (8, 16, 8, 24)),
    ],
)
def test_one_number_of_bits_is_for_all_but_partial_sums(capsys: Captured, text: str, bits: tuple[int, ...]):
    options = ["--context", "64", "--time-limit", "0", "--scheme", "mla_ru", "--bits", text, "--json"]
    assert main(["run", "deepseek_v2_lite", "--accelerator", "flat_cloud", *options]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert tuple(row[f"{name}_bits"] for name in ("weight", "cache", "activation", "partial")) == bits


def test_query_tokens_come_on_top_of_the_cache(capsys: Captured):
    assert main([*QUICK, "--query", "4", "--scheme", "mla_absorbed", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["query_tokens"], row["cached_tokens"]) == (4, 256)


def test_verbose_says_what_is_tried(capsys: Captured):
    assert main([*QUICK, "--scheme", "mla_absorbed", "--verbose"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) > 1
    assert all(line.startswith("deepseek_v3 mla_absorbed: tiling ") for line in said[:-1])
    assert ", gap " in said[-1]


def test_progress_on_a_terminal_is_one_line_that_is_wiped(capsys: Captured, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main([*QUICK, "--scheme", "mla_absorbed"]) == 0
    said = capsys.readouterr().err
    assert "\n" not in said
    assert said.startswith("\rdeepseek_v3 mla_absorbed: tiling 0: ")
    assert said.endswith("\r\x1b[K")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--batch 0", "argument --batch: must be from 1 to 65536, got 0"),
        ("--context -1", "argument --context: must be from 0 to 16777216, got -1"),
        ("--context many", "argument --context: expected a whole number, got 'many'"),
        ("--query 0", "argument --query: must be from 1 to 16777216, got 0"),
        ("--seed 2147483648", "argument --seed: must be from 0 to 2147483647, got 2147483648"),
        ("--time-limit nan", "argument --time-limit: must be from 0 to 2147483647 seconds, got 'nan'"),
        ("--time-limit soon", "argument --time-limit: expected a number of seconds, got 'soon'"),
        ("--gap-limit 1", "argument --gap-limit: must be at least 0 and less than 1, got '1'"),
        ("--gap-limit small", "argument --gap-limit: expected a share, such as 0.001, got 'small'"),
        ("--bits 0", "argument --bits: must be from 1 to 2147483647, got 0"),
        ("--bits eight", "argument --bits: expected NAME=N, got 'eight'"),
        ("--bits weights=0", "argument --bits: must be from 1 to 2147483647, got 0"),
        ("--bits weights=8,weights=4", "argument --bits: weights is given twice: keep one"),
        (
            "--bits w=8",
            "argument --bits: no such tensor: w: use weights, cache, activations, partials, or all for the first three",
        ),
        ("--prefill --context 0", "argument --context: prefill needs at least 1 token, got 0"),
        ("--prefill --query 2", "argument --query: not allowed with argument --prefill"),
        (
            "--scheme mla_rc --tile j=2,z=1",
            "argument --tile: no operator has an index j or z: use b, c, d, e, h, k, n, p, q, r, u, v, parts, "
            "row_parts, row_parts.OPERATOR",
        ),
        (
            "--scheme mla",
            "argument --scheme: mla is no scheme: use mla_naive or mla_absorbed or mla_rc or mla_ru; "
            "mha_large and mha_scaled appear without --scheme",
        ),
        (
            "--scheme mha",
            "argument --scheme: mha does not fit deepseek_v3, which has latent attention: "
            "use mla_naive or mla_absorbed or mla_rc or mla_ru; mha_large and mha_scaled appear without --scheme",
        ),
    ],
)
def test_bad_options_are_refused_in_one_line(capsys: Captured, options: str, message: str):
    said = refused(capsys, "run", "deepseek_v3", "--accelerator", "flat_cloud", *options.split())
    assert said == f"stream-mla run: error: {message}\n"


def test_latent_scheme_on_grouped_queries_is_refused(capsys: Captured):
    said = refused(capsys, "run", "llama_3_8b", "--accelerator", "flat_cloud", "--scheme", "mla_rc")
    assert said == (
        "stream-mla run: error: argument --scheme: mla_rc does not fit llama_3_8b, "
        "which has grouped-query attention: use mha\n"
    )


def test_no_command_is_refused(capsys: Captured):
    assert refused(capsys) == "stream-mla: error: the following arguments are required: COMMAND\n"


def test_unknown_accelerator_is_refused(capsys: Captured):
    said = refused(capsys, "run", "deepseek_v3", "--accelerator", "flat_clout")
    assert said == (
        "flat_clout: 1 problem\n"
        "  - no shipped accelerator has this name: did you mean flat_cloud? "
        "The path of a file is accepted too\n"
    )


def test_operands_wider_than_the_arrays_are_refused(capsys: Captured):
    said = refused(capsys, *QUICK, "--scheme", "mla_absorbed", "--bits", "cache=32")
    assert said == (
        "flat_cloud: 2 problems\n"
        "  - scores multiplies query_full (16 bit) x kv_cache (32 bit), the widest array does 16 bit: set --bits\n"
        "  - attend multiplies probs (16 bit) x kv_cache (32 bit), the widest array does 16 bit: set --bits\n"
    )


def test_model_too_small_to_compare_is_refused(capsys: Captured, tmp_path: Path):
    file = tmp_path / "tiny.yaml"
    text = "{kind: latent, model_dim: 8, heads: 1, query_rank: 1, kv_rank: 1, nope_dim: 2, rope_dim: 2, value_dim: 2"
    file.write_text(
        f"name: tiny\nsource: none\nlayers: 1\nattention: {text}, latent_norms: false}}\n"
        "precision: {weights: 8 bit, cache: 8 bit, activations: 8 bit, partials: 32 bit}\n"
    )
    # 8 + 24 + 4 + 2 + 2 + 16 = 56 parameters against 4 x 8 x 2 = 64; 2 x sqrt(56 / 64) is 1 rounded down, 0 in pairs
    said = refused(capsys, "run", str(file), "--accelerator", "flat_cloud")
    assert said == (
        f"{file}: 1 problem\n"
        "  - no MHA to compare with, head_dim must be at least 1, got 0: choose rows with --scheme\n"
    )


def test_row_without_schedule_does_not_hide_the_others(capsys: Captured, tmp_path: Path):
    """mha_large has 470 MB of weights, the MLA rows at most 254 MB: only the former is too large."""
    accelerator = tmp_path / "small.yaml"
    assert main(["show", "flat_cloud"]) == 0
    text = capsys.readouterr().out.replace("capacity: 10000000000000000 bit", "capacity: 500 MB")
    accelerator.write_text(text)
    options = ["--context", "1023", "--bits", "cache=16", "--time-limit", "0"]
    assert main(["run", "deepseek_v3", "--accelerator", str(accelerator), *options, "--json"]) == 3
    captured = capsys.readouterr()
    rows = json.loads(captured.out)
    assert [row["status"] in ("optimal", "feasible") for row in rows] == [True, True, True, False, True]
    # weights 469,762,048, cache 2 x 2 x 16384 x 1024, input and output 2 x 2 x 7168
    message = (
        "flat_cloud: weights, cache, input and output need 536,899,584 B, the DRAM has 500,000,000 B; "
        "the largest is w_q (weight) with 117,440,512 B"
    )
    # 536,899,584 B are 524,316 KiB just; 500 MB are 488,281.25; with a cache of 8 bit 503 MB stay
    change = "a DRAM of 524,316 KiB (now 488,281.2 KiB)"
    assert without_progress(captured.err) == (
        f"mha_large mha: infeasible: {message}. What makes it fit, each tried and shown by a schedule: {change}\n"
    )
    assert rows[3] == {
        "model": "mha_large",
        "scheme": "mha",
        "accelerator": "flat_cloud",
        "context_tokens": 1023,
        "query_tokens": 1,
        "batch": 1,
        "status": "infeasible",
        "error": message,
        "fits_with": [change],
        "point_sha256": rows[3]["point_sha256"],
        "notes": [],
    }


def after(rows: int, error: BaseException) -> Callable[[Point, Progress, Sequence[Candidate]], Outcome]:
    """Return an `evaluate` that raises once a number of rows are done."""
    done: list[Point] = []

    def stopping(point: Point, progress: Progress, starts: Sequence[Candidate]) -> Outcome:
        if len(done) == rows:
            raise error
        done.append(point)
        return evaluate(point, progress, starts)

    return stopping


def test_interrupt_prints_the_rows_that_are_done(capsys: Captured, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.import_module("stream_mla.evaluation"), "evaluate", after(1, KeyboardInterrupt()))
    assert main([*QUICK, "--json"]) == 130
    captured = capsys.readouterr()
    assert [row["scheme"] for row in json.loads(captured.out)] == ["mla_rc"]
    assert without_progress(captured.err) == "interrupted after 1 of 5 rows\n"


def test_ended_budget_is_not_called_infeasible(capsys: Captured, monkeypatch: pytest.MonkeyPatch):
    error = NoScheduleError("0 s are too few")
    monkeypatch.setattr(importlib.import_module("stream_mla.evaluation"), "evaluate", after(1, error))
    assert main([*QUICK, "--scheme", "mla_ru", "mla_absorbed"]) == 3
    captured = capsys.readouterr()
    assert without_progress(captured.err) == (
        "deepseek_v3 mla_absorbed: no schedule was found, though one may exist: 0 s are too few\n"
    )
    assert "\nmla_absorbed  no schedule was found in the time given\n" in captured.out


def test_version(capsys: Captured):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert re.fullmatch(r"stream-mla (\d+\.\d+\.\d+|\(not installed\))\n", capsys.readouterr().out)


def test_check_reads_every_file(capsys: Captured, tmp_path: Path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("layers: 0\n")
    good = [ROOT / "workloads" / "kimi_k2.yaml", ROOT / "accelerators" / "h100.yaml"]
    core = ROOT / "accelerators" / "cores" / "flat_cloud.yaml"
    assert main(["check", str(good[0]), str(bad), "missing.yaml", str(good[1]), str(core)]) == 2
    captured = capsys.readouterr()
    assert "".join(line for line in captured.out.splitlines(keepends=True) if not line.startswith("  note: ")) == (
        f"{good[0]}: ok (model kimi_k2)\n{good[1]}: ok (accelerator h100)\n{core}: ok (core type flat_cloud_core)\n"
    )
    assert [line for line in captured.err.splitlines() if not line.startswith("  - ")] == [
        f"{bad}: 4 problems",
        "missing.yaml: 1 problem",
    ]


def test_list(capsys: Captured):
    assert main(["list", "models"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == model_names()
    assert main(["list", "accelerators"]) == 0
    assert re.search(r"^flat_cloud +1 core, 65\.54 TMAC/s at 8 bit, ", capsys.readouterr().out, re.MULTILINE)
    assert main(["list", "schemes"]) == 0
    assert "\nmla_naive     1-3-2: " in capsys.readouterr().out


def test_what_is_shown_can_be_loaded(capsys: Captured, tmp_path: Path):
    file = tmp_path / "shown.yaml"
    core = str(ROOT / "accelerators" / "cores" / "stream_simd.yaml")
    for name, value in (
        ("deepseek_v3", load_model("deepseek_v3")),
        ("h100", load_accelerator("h100")),
        (core, check(core)),
    ):
        assert main(["show", name]) == 0
        file.write_text(capsys.readouterr().out)
        assert check(str(file)) == value


def test_show_knows_models_and_accelerators(capsys: Captured):
    assert refused(capsys, "show", "deepseek_v4") == (
        "deepseek_v4: 1 problem\n"
        "  - no shipped model or accelerator has this name: did you mean deepseek_v3 or deepseek_v2 or "
        "deepseek_v2_lite? The path of a file is accepted too\n"
    )
    assert refused(capsys, "show", "zzz") == (
        "zzz: 1 problem\n"
        "  - no shipped model or accelerator has this name: see stream-mla list models and list accelerators. "
        "The path of a file is accepted too\n"
    )


def python(*arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.mark.parametrize(
    "code",
    [
        "import stream_mla",
        "import stream_mla.cli.main\ntry: stream_mla.cli.main.main(['--help'])\nexcept SystemExit: pass",
        "import stream_mla.cli.main\ntry: stream_mla.cli.main.main(['run', '--help'])\nexcept SystemExit: pass",
    ],
)
def test_heavy_libraries_load_only_when_used(code: str):
    done = python(
        "-c", f"{code}\nimport sys; print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_broken_pipe_is_quiet():
    run = [sys.executable, "-c", "import sys; from stream_mla.cli.main import main; sys.exit(main())", "list", "models"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait(60)) == ("", 141)


@pytest.mark.parametrize("first", ["import stream_mla.evaluation", "from stream_mla import Point", "pass"])
def test_public_names_survive_any_order_of_imports(first: str):
    use = "from stream_mla import *\nimport stream_mla\nprint(evaluate.__name__, stream_mla.evaluate is evaluate)"
    done = python("-c", f"{first}\n{use}")
    assert (done.stdout, done.stderr) == ("evaluate True\n", "")


def test_names_that_are_not_public_are_missing():
    with pytest.raises(AttributeError, match=re.escape("module 'stream_mla' has no attribute 'nothing'")):
        getattr(stream_mla, "nothing")  # noqa: B009
