"""Tables, JSON and the facts that follow from models and machines."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from stream_mla.errors import InfeasibleError
from stream_mla.frontends.catalog import load_accelerator, load_model
from stream_mla.frontends.huggingface.reader import model_of
from stream_mla.hardware.core_cost import Objective
from stream_mla.mapping.policy import POLICIES
from stream_mla.results.render.columns import COLUMNS
from stream_mla.results.render.comparison import subject_of, table, table_of
from stream_mla.results.render.descriptions import (
    accelerator_facts,
    accelerator_line,
    core_facts,
    described,
    model_facts,
    model_line,
    peak_macs,
    with_prefix,
)
from stream_mla.results.render.notes import left_out
from stream_mla.results.render.tables import as_json, front_table
from stream_mla.results.result import Result, Status, failure
from stream_mla.workload.lowering.mha_baselines import parameters
from stream_mla.workload.spec import Precision, Workload
from tests.helpers import point_of

POINT = point_of(
    Workload(
        model=load_model("deepseek_v3"),
        batch=2,
        query_tokens=1,
        cached_tokens=4096,
        precision=Precision(weights=8, cache=16, activations=16, partials=32),
    ),
    load_accelerator("flat_cloud"),
    "mla_rc",
)

RESULT = Result(
    model="deepseek_v3",
    scheme="mla_rc",
    accelerator="flat_cloud",
    batch=2,
    query_tokens=1,
    context_tokens=4096,
    cached_tokens=4096,
    weight_bits=8,
    cache_bits=16,
    activation_bits=16,
    partial_bits=32,
    objective="latency",
    latency_cap_cycles=None,
    fusion="auto",
    prefetch="on",
    sharing=True,
    latency_cycles=500_000,
    latency_s=5e-4,
    energy_pj=3.2e10,
    energy_breakdown_pj={"mac": 2e10, "dram": 1.2e10},
    macs=13_710_000_000,
    dram_read_bytes=199e6,
    dram_write_bytes=1e6,
    dram_minimum_read_bytes=189e6,
    dram_minimum_write_bytes=1e6,
    operational_intensity_macs_per_byte=68.55,
    mac_utilization=0.4,
    peak_sram_bytes={"core": 1e6},
    busy_cycles={"dram": 495_000.0},
    bottleneck="dram",
    bottleneck_share=0.99,
    cache_reads=1.0,
    lower_bound_cycles=495_000,
    ideal_cycles=475_000,
    bounds_cycles={"dram": 495_000, "dram_bus": 495_000, "arrays": 99_000, "critical path": 4_000},
    binding_bound="dram",
    gap=0.01,
    latency_gap=0.01,
    energy_lower_bound_pj=3e10,
    energy_gap=0.0625,
    status=Status.FEASIBLE,
    scheduler="cp_sat",
    start_sha256="",
    greedy_latency_cycles=510_000,
    solver_status="FEASIBLE",
    solver_bound_cycles=490_000,
    tiles=347,
    moves=194,
    cores_used=1,
    tiling={"out": {"e": 512}},
    context_parts=1,
    frugal_tiles=0,
    spilled=(),
    solve_s=4.96,
    time_limit_s=5.0,
    gap_limit=0.001,
    seed=0,
    workers=1,
    tile_sizes={},
    point_sha256="0" * 64,
    versions={"python": "3.11"},
)
LARGE = replace(
    RESULT,
    model="mha_large",
    scheme="mha",
    latency_cycles=1_500_000,
    latency_s=1.5e-3,
    energy_pj=2.4e10,
    dram_read_bytes=189e6,
    status=Status.OPTIMAL,
    gap=0.0,
    scheduler="greedy",
    solve_s=0.0,
)
FAILED = failure(replace(POINT, scheme="mla_ru"), "infeasible", InfeasibleError("too large"), ("--batch 1 (now 2)",))


def test_table_of_a_comparison(golden: Callable[[str], None]):
    # fastest 1.5 ms / 0.5 ms = 3.00; mha_large itself uses least energy
    golden(table_of([POINT], [RESULT, FAILED, LARGE]) + "\n")


def test_table_of_a_prefill_for_energy(golden: Callable[[str], None]):
    workload = replace(POINT.workload, query_tokens=4096, cached_tokens=0)
    point = replace(POINT, workload=workload, objective=Objective.ENERGY)
    rows = [replace(RESULT, dram_write_bytes=3.5e6), replace(RESULT, scheme="mla_ru", latency_s=6e-4)]
    golden(table_of([point], rows) + "\n")  # without mha_large, the worst row is the measure: 6e-4 / 5e-4 = 1.20


def test_wide_table_of_two_machines(golden: Callable[[str], None]):
    # x min: 200 MB / 190 MB = 1.05; to ideal: 1 - 475 / 500 = 5 %; tokens/s: 2 requests / 0.5 ms = 4,000
    points = [POINT, replace(POINT, accelerator=replace(POINT.accelerator, name="other"))]
    rows = [RESULT, replace(RESULT, accelerator="other", cache_reads=2.0)]
    golden(table(subject_of(points), rows, wide=True) + "\n")


def test_title_names_the_cap_and_the_decisions_that_are_taken():
    point = replace(POINT, objective=Objective.ENERGY, latency_cap_cycles=600_000, policy=POLICIES["letter"])
    lines = table_of([point], [RESULT]).splitlines()
    assert " ".join(lines[2:4]) == (
        "weights 8, cache 16, activations 16 bit; scheduled for energy within 600,000 cycles"
    )
    assert lines[4].startswith("fusion ")


@pytest.mark.parametrize(
    ("gap", "said"),
    [
        # the slower row may come down to 0.55 ms x (1 - gap): 0.506 ms is more than 0.5 ms, 0.495 ms is less
        (0.08, "fastest: mla_rc; 1.10x faster than mla_ru."),
        (0.10, "fastest: mla_rc, mla_ru within the gaps; 1.10x faster than mla_ru."),
    ],
)
def test_fastest_is_said_where_the_lead_is_more_than_the_gaps(gap: float, said: str):
    slower = replace(RESULT, scheme="mla_ru", latency_s=5.5e-4, latency_gap=gap)
    assert said in table_of([POINT], [RESULT, slower]).splitlines()


@pytest.mark.parametrize(
    ("cycles", "status", "said"),
    [
        (475_000, Status.OPTIMAL, "all tilings"),  # as many as no tiling can beat
        (495_000, Status.OPTIMAL, "this tiling"),
        (500_000, Status.FEASIBLE, "feasible"),
    ],
)
def test_optimal_is_said_of_what_is_proven(cycles: int, status: Status, said: str):
    assert COLUMNS["proven"].text(replace(RESULT, latency_cycles=cycles, status=status)) == said


def test_table_of_fronts(golden: Callable[[str], None]):
    # 500 and 650 us, 32 and 24 mJ: 1.3 and 1.3333 of the least; 500 us x 32 mJ = 16 uJ s
    capped = replace(RESULT, objective="energy", latency_cap_cycles=700_000, latency_cycles=650_000, latency_s=6.5e-4)
    rows = [
        replace(RESULT, objective="latency-then-energy", latency_cap_cycles=500_500),
        replace(capped, energy_pj=2.4e10, frugal_tiles=100),
        replace(RESULT, scheme="mla_ru", objective="energy", frugal_tiles=347, status=Status.INTERRUPTED),
    ]
    golden(front_table(POINT, rows) + "\n")


def test_fronts_of_two_machines_are_apart():
    # each front is measured by its own least: 500 us beside 500 us, 1 ms beside 1 ms
    slow = replace(RESULT, accelerator="other", latency_s=1e-3)
    lines = front_table(POINT, [RESULT, slow]).splitlines()
    found = [line.split()[:6] for line in lines if " mla_rc " in line]
    assert [(line[0], line[5]) for line in found] == [("flat_cloud", "1.000"), ("other", "1.000")]


@pytest.mark.parametrize("machines", [["h100"], ["h100", "tpu_like_quad_core_as_stream_computes"]])
def test_table_keeps_to_its_width(machines: list[str]):
    points = [replace(POINT, accelerator=load_accelerator(name)) for name in machines]
    wide = replace(
        RESULT, latency_s=599.9, energy_pj=9.9999e14, dram_read_bytes=9.9999e11, bottleneck="a long link name"
    )
    rows = [replace(wide, accelerator=name, model="mha_scaled", scheme="mha", gap=0.9999) for name in machines]
    lines = table_of(points, rows).splitlines()
    assert max(map(len, lines)) <= 80
    if len(machines) > 1:
        assert any(line.startswith("tpu_like_") and ".." in line for line in lines)


def test_rows_without_schedule_keep_their_reason():
    assert json.loads(as_json([RESULT, FAILED]))[1] == {
        "model": "deepseek_v3",
        "scheme": "mla_ru",
        "accelerator": "flat_cloud",
        "context_tokens": 4096,
        "query_tokens": 1,
        "batch": 2,
        "status": "infeasible",
        "error": "too large",
        "fits_with": ["--batch 1 (now 2)"],
        "point_sha256": replace(POINT, scheme="mla_ru").sha256,
        "notes": [],
    }


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (4.74034e-4, "s", "474.0 us"),
        (9.9999e-4, "s", "1.000 ms"),
        (1.5, "s", "1.500 s"),
        (12_345.0, "s", "12.35 ks"),
        (2.5e-10, "s", "0.250 ns"),
        (0, "s", "0.000 s"),
        (757_700_000, "", "757.7 M"),
        (999_999, "", "1.000 M"),
        (12, "", "12.00"),
        (1.25e15, "B", "1,250 TB"),
    ],
)
def test_prefixes(value: float, unit: str, text: str):
    assert with_prefix(value, unit) == text


def test_models_in_one_line():
    # H heads of nope + rope dimensions; ranks of query and cache
    assert model_line(load_model("deepseek_v3")) == (
        "MLA, 61 layers, model dim 7168, 128 heads of 128 + 64, query rank 1536, kv rank 512, "
        "8/16/16 bit weights/cache/activations"
    )
    assert model_line(load_model("llama_3_8b")) == (
        "GQA, 32 layers, model dim 4096, 32 heads of 128, 8 kv heads, 16/16/16 bit weights/cache/activations"
    )
    assert model_line(load_model("mha_large")).startswith("MHA, ")


def test_facts_of_a_model():
    model = load_model("deepseek_v3")
    assert list(model_facts(model, [parameters(model)])) == [
        # 7168 x (1536 + 576) + 1536 x 128 x 192 + 2 x 512 x 128 x 128 + 128 x 128 x 7168, one byte each
        "parameters: 187,105,280 in one attention layer, 187.1 MB",
        "cache: 576 elements per token and layer, 1,152 B",  # 512 + 64, 2 B each
        "all 61 layers: 11.41 GB of weights, 70.27 kB of cache per token",
    ]
    llama = load_model("llama_3_8b")
    assert list(model_facts(llama, [1000]))[1] == "cache: 2,048 elements per token and layer, 4,096 B"  # 2 x 8 x 128


def test_facts_of_a_model_with_kinds_of_layers():
    # 2 x 8 x 128 elements in each; 2 B each, 40 and 8 layers
    extra: dict[str, object] = {"model_type": "own", "attention_chunk_size": None, "sliding_window": 1024}
    config: dict[str, object] = {
        "hidden_size": 5120,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_hidden_layers": 48,
        "torch_dtype": "bfloat16",
        "layer_types": [*["sliding_attention"] * 5, "full_attention"] * 8,
    }
    model = model_of(config | extra, name="mixed", where="config.json")
    assert model_line(model) == (
        "GQA, 48 layers, model dim 5120, 40 heads of 128, 8 kv heads, 16/16/16 bit weights/cache/activations"
    )
    assert ", window 1,024, 16/16/16 bit" in model_line(model.with_layer("sliding"))
    assert list(model_facts(model, [1000, 2000])) == [
        "parameters: 2,000 in one attention layer, 4.000 kB",
        "cache: 2,048 elements per token and full layer, 4,096 B",
        "all 48 layers: 112.0 kB of weights, 196.6 kB of cache per token",  # 40 x 2 kB + 8 x 4 kB; 48 x 4,096 B
        "sliding layers read at most 1,024 tokens of their cache per query",
    ]


def test_what_is_left_out_is_said_once_under_the_table():
    notes = ("soft capping left out", "norms left out")
    rows = [replace(RESULT, notes=notes), replace(RESULT, notes=notes[:1])]
    said = "note: soft capping left out; norms left out."
    assert left_out(rows) == [said]
    assert left_out([RESULT]) == []
    assert table_of([POINT], rows).splitlines()[-1] == said
    assert front_table(POINT, rows).splitlines()[-1] == said
    assert json.loads(as_json(rows))[1]["notes"] == ["soft capping left out"]


def test_facts_of_an_accelerator():
    accelerator = load_accelerator("flat_cloud")
    assert peak_macs(accelerator) == {8: 65536e9, 16: 16384e9}  # 256 x 256 at 1 GHz; 16 bit at a quarter of the rate
    assert accelerator_line(accelerator) == (
        "1 core, 65.54 TMAC/s at 8 bit, 16.38 TMAC/s at 16 bit, DRAM 400.0 GB/s, 1,250 TB"
    )
    assert list(accelerator_facts(accelerator)) == [
        "cores: 1, of which 1 with an array and 1 with a vector unit",
        "peak at 8 bit: 65.54 TMAC/s; ridge: 163.8 MAC/B of DRAM traffic",  # 65536 / 400
        "peak at 16 bit: 16.38 TMAC/s; ridge: 40.96 MAC/B of DRAM traffic",
        "vector units: 256.0 Gop/s",
        "SRAM: 33.55 MB in all cores",  # 32 MiB
        "DRAM: 400.0 B/cycle",
    ]
    assert list(core_facts(accelerator.cores[0].type)) == [
        "peak at 8 bit: 65,536 MAC/cycle",
        "peak at 16 bit: 16,384 MAC/cycle",
        "vector unit: 256 op/cycle",
        "SRAM: 33,554,432 B, 8,000 B/cycle read",
    ]


def test_facts_are_comments():
    assert described("a: 1\n", iter(["one", "two"])) == "a: 1\n# one\n# two"


def test_cores_without_arrays_do_not_count_in_the_peak():
    accelerator = load_accelerator("tpu_like_quad_core")
    arrays = [core.type.array for core in accelerator.cores if core.type.array]
    assert 0 < len(arrays) < len(accelerator.cores)
    macs = sum(array.rows * array.columns for array in arrays)
    assert peak_macs(accelerator)[8] == macs * accelerator.clock
