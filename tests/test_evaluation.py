"""From a point to its result, on the machines and models that are shipped."""

import re
from dataclasses import replace
from typing import Any

import pytest

from stream_mla.errors import InfeasibleError, NoScheduleError, SpecError
from stream_mla.evaluation import evaluate
from stream_mla.frontends import catalog
from stream_mla.hardware.accelerator import Accelerator
from stream_mla.hardware.core_cost import Objective
from stream_mla.hardware.interconnect import OFF_CHIP
from stream_mla.point import Point
from stream_mla.results.result import Status
from stream_mla.schedule.checker import violations
from stream_mla.solvers.budget import Budget
from stream_mla.workload.spec import Precision, Workload
from tests.helpers import point_of

EIGHT = Precision(weights=8, cache=8, activations=8, partials=32)


def point(
    model: str,
    scheme: str,
    accelerator: str | Accelerator,
    *,
    cached: int,
    query: int = 1,
    precision: Precision | None = None,
    **changes: Any,
) -> Point:
    shape = catalog.load_model(model)
    return point_of(
        Workload(
            model=shape, batch=1, query_tokens=query, cached_tokens=cached, precision=precision or shape.precision
        ),
        catalog.load_accelerator(accelerator) if isinstance(accelerator, str) else accelerator,
        scheme,
        **changes,
    )


def with_sram(accelerator: str, capacity_bits: int) -> Accelerator:
    machine = catalog.load_accelerator(accelerator)
    cores = tuple(
        replace(core, type=replace(core.type, sram=replace(core.type.sram, capacity=capacity_bits)))
        for core in machine.cores
    )
    return replace(machine, cores=cores)


R = 128 * 1536 * 128 * 512
"""MACs of the composite product of all heads."""
RC, RU = 174_063_616, 241_172_480
"""Parameters that mla_rc and mla_ru read (letter, Table 1)."""


@pytest.mark.parametrize(
    ("model", "scheme", "macs", "dram_bytes"),
    [
        # the letter's closed forms for L cached tokens; the new one makes it L + 1 keys
        ("deepseek_v3_letter", "mla_rc", R + RU + 131072 * 1025, RC + 512 * 1025 + 512 + 14336),
        ("deepseek_v3_letter", "mla_ru", RU + 131072 * 1025, RU + 512 * 1025 + 512 + 14336),
        ("mha_large", "mha", 469762048 + 32768 * 1025, 469762048 + 32768 * 1025 + 32768 + 14336),
        ("mha_scaled", "mha", 172006912 + 19712 * 1025, 172006912 + 19712 * 1025 + 19712 + 8726),
    ],
)
def test_the_letters_machine_moves_just_the_letters_bytes(model: str, scheme: str, macs: int, dram_bytes: int) -> None:
    result = evaluate(point(model, scheme, "flat_cloud", cached=1024)).result
    assert result.macs == macs
    assert result.dram_read_bytes + result.dram_write_bytes == dram_bytes
    assert result.dram_minimum_read_bytes + result.dram_minimum_write_bytes == dram_bytes
    assert result.ideal_cycles <= result.lower_bound_cycles <= result.latency_cycles
    assert result.gap < 0.01
    # 400 B per cycle
    assert result.lower_bound_cycles >= dram_bytes / 400


@pytest.mark.parametrize("scheme", ["mla_rc", "mla_ru", "mla_absorbed"])
def test_four_cores_share_the_work_and_the_cache_is_read_once(scheme: str) -> None:
    outcome = evaluate(point("deepseek_v3", scheme, "tpu_like_quad_core", cached=4096))
    ran = {outcome.problem.cores[run.core].name for run in outcome.schedule.runs}
    assert ran == {"core[0]", "core[1]", "core[2]", "core[3]", "simd"}
    assert violations(outcome.problem, outcome.schedule) == []
    assert outcome.result.gap < 0.01
    tile_graph = outcome.problem.tile_graph
    read = sum(
        tile_graph.blocks[move.block].bits
        for move in outcome.schedule.transfers
        if move.source == OFF_CHIP and tile_graph.blocks[move.block].tensor == "kv_cache"
    )
    cache = tile_graph.graph.tensors["kv_cache"].bits
    assert read == cache
    # above the minimum is only the input, 14,336 B, that each core may fetch for itself
    result = outcome.result
    assert result.cache_reads == 1
    assert result.bottleneck_share == max(result.busy_cycles.values()) / result.latency_cycles > 0.99
    assert result.busy_cycles[result.bottleneck] == max(result.busy_cycles.values())
    assert result.dram_read_bytes - result.dram_minimum_read_bytes <= 3 * 14336


SMALL = [name for name in catalog.accelerator_names() if len(catalog.load_accelerator(name).cores) < 40]
"""What tests/hardware/test_machines.py does for the others takes long enough."""


@pytest.mark.parametrize("accelerator", SMALL)
def test_every_small_machine_decodes_and_prefills(accelerator: str) -> None:
    bits = {"precision": Precision(weights=8, cache=8, activations=8, partials=32)}
    for cached, query in ((512, 1), (0, 64)):
        given = point("deepseek_v2_lite", "mla_absorbed", accelerator, cached=cached, query=query)
        result = evaluate(replace(given, workload=replace(given.workload, **bits))).result
        assert result.ideal_cycles <= result.lower_bound_cycles <= result.latency_cycles
        assert result.energy_lower_bound_pj <= result.energy_pj * (1 + 1e-12)
        assert result.energy_pj == pytest.approx(sum(result.energy_breakdown_pj.values()), rel=1e-12)


def test_the_solver_is_never_worse_than_greedy_and_repeats_exactly() -> None:
    settings = point("deepseek_v2_lite", "mla_rc", "flat_cloud", cached=512, precision=EIGHT, time_limit_s=2.0)
    patient = replace(Budget.of(settings), clock_factor=100.0)  # a busy machine takes its time
    first, second = (evaluate(settings, budget=patient).result for _ in range(2))
    assert first.solver_status.endswith(("OPTIMAL", "FEASIBLE"))
    assert first.lower_bound_cycles <= first.latency_cycles <= first.greedy_latency_cycles
    assert replace(first, solve_s=0.0) == replace(second, solve_s=0.0)


def test_energy_costs_time_and_latency_costs_energy() -> None:
    results = {
        objective: evaluate(
            point("deepseek_v3_letter", "mla_absorbed", "flat_cloud", cached=1024, objective=objective)
        ).result
        for objective in Objective
    }
    assert results[Objective.ENERGY].energy_pj < results[Objective.LATENCY].energy_pj
    assert results[Objective.ENERGY].latency_cycles > results[Objective.LATENCY].latency_cycles


def test_a_point_has_one_fingerprint_and_it_covers_the_machine() -> None:
    first = point("deepseek_v3_letter", "mla_rc", "flat_cloud", cached=1024)
    again = point("deepseek_v3_letter", "mla_rc", "flat_cloud", cached=1024)
    assert first.sha256 == again.sha256
    dram = replace(first.accelerator.dram, read_energy=9.0)
    assert replace(first, accelerator=replace(first.accelerator, dram=dram)).sha256 != first.sha256


def test_sizes_set_by_hand_are_taken() -> None:
    result = evaluate(
        point(
            "deepseek_v3_letter", "mla_absorbed", "flat_cloud", cached=1024, tile_sizes={"h": 16, "k": 256, "parts": 2}
        )
    ).result
    assert result.context_parts == 2
    assert result.tiling["scores"] == {"b": 1, "h": 16, "k": 256}
    assert result.tile_sizes == {"h": 16, "k": 256, "parts": 2}


def test_status_is_optimal_only_where_the_gap_is_closed() -> None:
    settings = point("deepseek_v3_letter", "mla_rc", "flat_cloud", cached=1024, time_limit_s=10.0)
    result = evaluate(settings).result
    assert (result.status is Status.OPTIMAL) == (result.latency_cycles == result.lower_bound_cycles)
    assert result.solver_bound_cycles is not None
    assert result.lower_bound_cycles == max(*result.bounds_cycles.values(), result.solver_bound_cycles)


def test_what_no_tiling_fits_says_tensor_bytes_memory_and_help() -> None:
    whole = {"h": 128, "v": 128, "e": 7168}
    with pytest.raises(NoScheduleError) as caught:
        evaluate(point("deepseek_v3_letter", "mla_ru", "flat_cloud", cached=1024, tile_sizes=whole))
    # w_o is 16,384 x 7,168 B, the SRAM 32 MiB
    assert re.fullmatch(
        r"none of \d+ tilings of deepseek_v3_letter as mla_ru fits flat_cloud with --tile h=128, v=128, e=7168\. "
        r"In the last, at cycle [\d,]+, on core, out waits for w_o, which needs 117,440,512 B: "
        r"[\d,]+ B of 33,554,432 B are free, [\d,]+ B too few(; of \d+ held, the largest are .+)?\. "
        r"The largest tensor is w_o \(weight\), 117,440,512 B",
        str(caught.value),
    )


def test_rows_that_cannot_be_cut_are_proven_infeasible() -> None:
    # a row of the query latent: 1536 elements of 16 bit and as many of the result, 6,144 B
    with pytest.raises(InfeasibleError) as caught:
        evaluate(point("deepseek_v3", "mla_rc", with_sram("flat_cloud", 4096 * 8), cached=1024))
    assert str(caught.value) == (
        "q_latent_norm takes whole rows of 1,536 elements: one of q_latent and its result need 6,144 B, "
        "the SRAM of core has 4,096 B, 2,048 B too few"
    )


def test_a_machine_without_a_vector_unit_is_infeasible() -> None:
    machine = catalog.load_accelerator("flat_cloud")
    cores = tuple(replace(core, type=replace(core.type, vector=None)) for core in machine.cores)
    with pytest.raises(InfeasibleError) as caught:
        evaluate(point("deepseek_v3", "mla_absorbed", replace(machine, cores=cores), cached=1024))
    assert str(caught.value) == "flat_cloud needs at least one MAC array and one vector unit for attention"


def test_a_layer_larger_than_the_dram_is_proven_infeasible() -> None:
    machine = catalog.load_accelerator("flat_cloud")
    machine = replace(machine, dram=replace(machine.dram, capacity=8 * 10**8))
    # weights 174,063,616, cache 1025 x 512, input and output 7168 each: 174,602,752 B
    with pytest.raises(InfeasibleError) as caught:
        evaluate(point("deepseek_v3_letter", "mla_rc", machine, cached=1024))
    assert str(caught.value) == (
        "flat_cloud: weights, cache, input and output need 174,602,752 B, the DRAM has 100,000,000 B; the largest is "
        "w_o (weight) with 117,440,512 B"
    )


def test_too_wide_operands_are_all_named() -> None:
    wide = Precision(weights=32, cache=8, activations=8, partials=32)
    with pytest.raises(SpecError) as caught:
        evaluate(point("deepseek_v3_letter", "mla_absorbed", "flat_cloud", cached=1024, precision=wide))
    assert caught.value.where == "flat_cloud"
    assert caught.value.problems == tuple(
        f"{name} multiplies {first} (8 bit) x {second} (32 bit), the widest array does 16 bit: set --bits"
        for name, first, second in [
            ("q_latent", "x", "w_dq"),
            ("kv_latent", "x", "w_dkv"),
            ("query", "q_latent", "w_uq"),
            ("query_absorbed", "query", "w_uk"),
            ("head_out", "context", "w_uv"),
            ("out", "head_out", "w_o"),
        ]
    )
