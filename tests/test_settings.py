"""Points from the names of the command line: the same settings, defaults and refusals in Python and in the shell."""

import argparse
import importlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from stream_mla import POLICIES, Objective, Point, Policy, load_accelerator, load_model
from stream_mla.cli import options
from stream_mla.cli.main import main
from stream_mla.errors import NoScheduleError, SpecError
from stream_mla.mapping.policy import Fusion, Prefetch
from stream_mla.results.outcome import Outcome
from stream_mla.schedule.candidate import Candidate, Progress
from stream_mla.settings import DEFAULTS, NAMES, SettingsError
from stream_mla.workload.spec import CAUSAL, NO_MASK, Mask


def refused(**given: Any) -> list[str]:
    """Return the problems of settings that must be refused."""
    with pytest.raises(SettingsError) as caught:
        Point.of(given.pop("model", "deepseek_v3"), given.pop("accelerator", "flat_cloud"), **given)
    assert isinstance(caught.value, SpecError)
    return list(caught.value.problems)


def no_remedies(point: Point, progress: Progress) -> None:
    """Stand for the search of changes that help."""


def of_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Point:
    """Return the point that a command of one row computes."""
    seen: list[Point] = []

    def spy(point: Point, progress: Progress, starts: Sequence[Candidate]) -> Outcome:
        seen.append(point)
        raise NoScheduleError("spied")

    monkeypatch.setattr(importlib.import_module("stream_mla.evaluation"), "evaluate", spy)
    monkeypatch.setattr(importlib.import_module("stream_mla.experiments.remedies"), "remedies", no_remedies)
    assert main(["run", *arguments]) == 3
    (point,) = seen
    return point


def test_five_lines_are_enough():
    point = Point.of("deepseek_v3", "flat_cloud", context=4096, scheme="mla_rc")
    workload = point.workload
    assert (workload.model, point.accelerator) == (load_model("deepseek_v3"), load_accelerator("flat_cloud"))
    assert (workload.batch, workload.query_tokens, workload.cached_tokens) == (1, 1, 4096)
    assert workload.precision == workload.model.precision
    assert (point.scheme, point.objective, point.policy) == ("mla_rc", Objective.LATENCY, POLICIES["free"])
    assert (point.latency_cap_cycles, point.time_limit_s, point.gap_limit) == (None, 5.0, 0.001)
    assert (point.seed, point.workers, point.tile_sizes) == (0, 1, {})


LLAMA = {"model": "llama_3_8b", "accelerator": "flat_cloud"}


@pytest.mark.parametrize(
    ("given", "mask"),
    [
        ({}, CAUSAL),
        ({"mask": "none"}, NO_MASK),
        ({"policy": "letter"}, NO_MASK),
        ({"policy": "letter", "mask": "causal"}, CAUSAL),
        ({"window": 128}, Mask(causal=True, window=128)),
        ({"window": 128, "mask": "causal"}, Mask(causal=True, window=128)),
        ({"mask": Mask(causal=True, chunk=8)}, Mask(causal=True, chunk=8)),
        ({"model": "mha_large"}, NO_MASK),  # the letter's
        ({"model": "mha_large", "window": 4}, Mask(causal=True, window=4)),
    ],
)
def test_the_mask_is_that_of_the_model_unless_it_is_set(given: dict[str, Any], mask: Mask):
    settings: dict[str, Any] = {**LLAMA, "prefill": True, **given}
    assert Point.of(**settings).workload.mask == mask


def test_masks_that_cannot_be():
    assert refused(**LLAMA, mask="casual") == ["mask: no such choice: 'casual': did you mean causal?"]
    assert refused(**LLAMA, mask="none", window=4) == [
        "window: it needs a causal mask, which mask none takes away: leave out one"
    ]
    assert refused(**LLAMA, window=0) == ["window: must be from 1 to 2147483647, got 0"]


def test_the_command_sets_the_mask(monkeypatch: pytest.MonkeyPatch):
    row = ("llama_3_8b", "--accelerator", "flat_cloud", "--prefill")
    assert of_command(monkeypatch, *row).workload.mask == CAUSAL
    assert of_command(monkeypatch, *row, "--mask", "none").workload.mask == NO_MASK
    assert of_command(monkeypatch, *row, "--window", "9").workload.mask == Mask(causal=True, window=9)


def test_defaults_are_the_same_everywhere():
    parser = argparse.ArgumentParser()
    for add in (options.add_step, options.add_objective, options.add_search):
        add(parser)
    of_shell = vars(parser.parse_args(["deepseek_v3", "--accelerator", "flat_cloud"]))
    of_python = inspect.signature(Point.of).parameters
    assert set(NAMES) <= set(of_python)
    for name in NAMES:
        assert of_python[name].default == getattr(DEFAULTS, name), name
        assert (of_shell[name] or None) == (getattr(DEFAULTS, name) or None), name


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("", {}),
        ("--prefill --context 96 --batch 3", {"prefill": True, "context": 96, "batch": 3}),
        ("--query 4 --seed 7 --workers 2", {"query": 4, "seed": 7, "workers": 2}),
        ("--bits weights=4,partials=16", {"bits": {"weights": 4, "partials": 16}}),
        ("--objective energy --latency-cap 500000", {"objective": "energy", "latency_cap": 500_000}),
        ("--objective energy --latency-cap 0.5ms", {"objective": "energy", "latency_cap": "0.5 ms"}),
        ("--policy letter --fusion off", {"policy": "letter", "fusion": "off"}),
        ("--prefetch second --sharing off", {"prefetch": Prefetch.SECOND, "sharing": False}),
        ("--time-limit 0.5 --gap-limit 0.02", {"time_limit": "500 ms", "gap_limit": 0.02}),
        ("--tile h=16,row_parts.out=2", {"tile": {"h": 16, "row_parts.out": 2}}),
    ],
)
def test_python_and_the_shell_compute_the_same_point(
    words: str, given: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
):
    of_shell = of_command(
        monkeypatch, "deepseek_v3", "--accelerator", "flat_cloud", "--scheme", "mla_ru", *words.split()
    )
    assert of_shell == Point.of("deepseek_v3", "flat_cloud", scheme="mla_ru", **given)


def test_models_and_machines_are_names_paths_or_objects():
    files = (Path("workloads/deepseek_v3.yaml"), Path("accelerators/flat_cloud.yaml"))
    root = Path(__file__).parents[1]
    named = Point.of("deepseek_v3", "flat_cloud", scheme="mla_rc")
    by_path = Point.of(*(root / file for file in files), scheme="mla_rc")
    by_object = Point.of(load_model("deepseek_v3"), load_accelerator("flat_cloud"), scheme="mla_rc")
    assert named == by_object == by_path


def test_a_model_with_one_scheme_needs_none():
    assert Point.of("llama_3_8b", "flat_cloud").scheme == "mha"
    assert refused(accelerator="flat_cloud") == [
        "scheme: deepseek_v3 can run in 4 schemes: choose mla_naive or mla_absorbed or mla_rc or mla_ru"
    ]


def test_one_number_of_bits_leaves_the_partial_sums():
    precision = Point.of("deepseek_v3", "flat_cloud", scheme="mla_rc", bits=8).workload.precision
    assert (precision.weights, precision.cache, precision.activations, precision.partials) == (8, 8, 8, 32)


def test_a_cap_in_seconds_is_whole_cycles_of_the_machine():
    # flat_cloud runs at 1 GHz: 0.5 ms are 500,000 cycles; 1.5 cycles allow one
    given: dict[str, Any] = {"scheme": "mla_rc", "objective": Objective.ENERGY}
    assert Point.of("deepseek_v3", "flat_cloud", latency_cap="0.5 ms", **given).latency_cap_cycles == 500_000
    assert Point.of("deepseek_v3", "flat_cloud", latency_cap="500000", **given).latency_cap_cycles == 500_000
    assert Point.of("deepseek_v3", "flat_cloud", latency_cap=1.5, **given).latency_cap_cycles == 1


def test_a_policy_is_a_name_or_an_object_and_may_be_overridden():
    own = Policy(fusion=Fusion.ON, prefetch=Prefetch.OFF, sharing=False)
    assert Point.of("llama_3_8b", "flat_cloud", policy=own).policy == own
    changed = Point.of("llama_3_8b", "flat_cloud", policy=own, fusion="auto", sharing="on").policy
    assert changed == Policy(fusion=Fusion.AUTO, prefetch=Prefetch.OFF, sharing=True)


def test_everything_that_is_wrong_is_said_at_once():
    with pytest.raises(SettingsError) as caught:
        Point.of(
            "deepseek_v4",
            3,  # pyright: ignore[reportArgumentType]
            context="4096",  # pyright: ignore[reportArgumentType]
            batch=0,
            seed=True,
            prefill=1,  # pyright: ignore[reportArgumentType]
            objective="energie",
            latency_cap="5m",
            policy="free_",
            fusion="of",
            sharing="yes",
            time_limit="soon",
            gap_limit=1,
            workers=2.0,  # pyright: ignore[reportArgumentType]
            bits={"w": 8, "cache": 0},
            tile=[1],  # pyright: ignore[reportArgumentType]
            contxt=1,  # pyright: ignore[reportArgumentType]
            colour="red",  # pyright: ignore[reportArgumentType]
        )
    with pytest.raises(SpecError) as of_model:
        load_model("deepseek_v4")
    names = ", ".join(NAMES)
    times = "write a number and one of s, ms, us, ns"
    assert str(caught.value) == (
        "Point.of: 19 problems\n"
        "  - contxt: no such option: did you mean context?\n"
        f"  - colour: no such option: use one of {names}\n"
        f"  - model: deepseek_v4: {of_model.value.problems[0]}\n"
        "  - accelerator: expected a name, a path or an object of type Accelerator, got 3\n"
        "  - prefill: expected True or False, got 1\n"
        "  - context: expected a whole number, got '4096'\n"
        "  - batch: must be from 1 to 65536, got 0\n"
        "  - bits['cache']: must be from 1 to 2147483647, got 0\n"
        "  - bits: no such tensor: w: use weights, cache, activations, partials\n"
        "  - objective: no such choice: 'energie': did you mean energy?\n"
        f"  - latency_cap: expected cycles, or a time such as '0.5 ms': '5m' is not a quantity in s: {times}\n"
        "  - policy: no such choice: 'free_': did you mean free?\n"
        "  - sharing: no such choice: 'yes': use on, off, True or False\n"
        "  - fusion: no such choice: 'of': did you mean off?\n"
        f"  - time_limit: expected seconds, or a time such as '500 ms': 'soon' is not a quantity in s: {times}\n"
        "  - gap_limit: must be at least 0 and less than 1, got 1\n"
        "  - seed: expected a whole number, got True\n"
        "  - workers: expected a whole number, got 2.0\n"
        "  - tile: expected a mapping of names to whole numbers, got [1]"
    )


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"prefill": True, "context": 0}, "context: prefill needs at least 1 token, got 0"),
        ({"prefill": True, "query": 2}, "query: not allowed with prefill: the tokens of context are new"),
        ({"latency_cap": 7}, "latency_cap: it needs objective energy"),
        ({"latency_cap": 0, "objective": "energy"}, f"latency_cap: must be from 1 to {2**62} cycles, got 0"),
        ({"latency_cap": "0 ms", "objective": "energy"}, f"latency_cap: must be from 1 to {2**62} cycles, got 0 ms"),
        (
            {"latency_cap": [], "objective": "energy"},
            "latency_cap: expected cycles, or a time such as '0.5 ms', got []",
        ),
        ({"time_limit": -1}, "time_limit: must be from 0 to 2147483647 seconds, got -1"),
        ({"time_limit": float("nan")}, "time_limit: must be from 0 to 2147483647 seconds, got nan"),
        ({"gap_limit": "1 %"}, "gap_limit: expected a share, such as 0.001, got '1 %'"),
        ({"bits": True}, "bits: expected a whole number, got True"),
        ({"scheme": 5}, "scheme: expected the name of a scheme, got 5"),
        (
            {"scheme": "mha"},
            "scheme: mha does not fit deepseek_v3, which has latent attention: "
            "use mla_naive or mla_absorbed or mla_rc or mla_ru",
        ),
        ({"policy": []}, "policy: no such choice: []: use one of free, letter, layer_by_layer"),
        ({"policy": 1}, "policy: no such choice: 1: use one of free, letter, layer_by_layer"),
        (
            {"tile": {"z": 2}},
            "tile: no operator has an index z: use b, c, d, e, h, k, n, p, q, r, u, v, parts, row_parts, "
            "row_parts.OPERATOR",
        ),
    ],
)
def test_each_refusal_says_what_to_do(given: dict[str, Any], problem: str):
    assert refused(**{"scheme": "mla_rc", **given}) == [problem]


@pytest.mark.parametrize(
    "given",
    [
        {"context": -1},
        {"query": 0},
        {"batch": 0},
        {"seed": 2**31},
        {"workers": 0},
        {"time_limit": -1},
        {"gap_limit": 1},
    ],
)
def test_the_shell_refuses_the_same_values(given: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    ((name, value),) = given.items()
    with pytest.raises(SystemExit):
        main(["run", "deepseek_v3", "--accelerator", "flat_cloud", f"--{name.replace('_', '-')}={value}"])
    said = capsys.readouterr().err
    (problem,) = refused(scheme="mla_rc", **given)
    assert problem.removeprefix(f"{name}: ") in said.replace("'", "")
