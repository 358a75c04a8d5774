"""Several arrays in one core: how products are dealt out to them, recounted by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stream_mla.errors import SpecError
from stream_mla.frontends.catalog import check, dump, load_accelerator
from stream_mla.hardware.accelerator import Array, CoreType, Dataflow, Delivery, OperandPrecision, Registers, Sram
from stream_mla.hardware.core_cost import Cost, Grid, Objective, gemm_cost, grids, minimum_gemm_cycles
from stream_mla.hardware.work import Gemm
from stream_mla.mapping.planning.analytical_model import estimate_machine
from stream_mla.results.render.descriptions import core_facts
from stream_mla.schedule.bounds.schedule_bounds import ideal_cycles
from stream_mla.workload.lowering.attention import lower
from tests.helpers import core_type, latent, machine, workload

OS, WS, IS = Dataflow.OUTPUT_STATIONARY, Dataflow.WEIGHT_STATIONARY, Dataflow.INPUT_STATIONARY
UNBOUNDED = 10**15
"""Bits per cycle: the SRAM never decides."""


def _core(
    dataflow: Dataflow, *, copies: int = 4, delivery: Delivery = Delivery.BROADCAST, bandwidth: float = UNBOUNDED
) -> CoreType:
    """Arrays of 4 x 8 with room for one operand of each kind and a sum; energies are exact in binary."""
    return CoreType(
        name="test_core",
        source="made up",
        array=Array(
            rows=4,
            columns=8,
            delivery=delivery,
            dataflows=(dataflow,),
            precisions=(OperandPrecision(operand=8, macs_per_element=1, mac_energy=0.125),),
            copies=copies,
        ),
        vector=None,
        registers=Registers(capacity=48, read_energy=0.25, write_energy=0.5),
        sram=Sram(
            capacity=2**30, read_bandwidth=bandwidth, write_bandwidth=bandwidth, read_energy=1.0, write_energy=2.0
        ),
    )


def _gemm(m: int, n: int, k: int, batch: int = 1) -> Gemm:
    return Gemm(batch=batch, m=m, n=n, k=k, a_bits=8, b_bits=8, out_bits=16, accumulates=False)


def _cost(core: CoreType, work: Gemm) -> Cost:
    return gemm_cost(core, work, Objective.LATENCY)


@pytest.mark.parametrize(
    ("batch", "m", "n", "found"),
    [
        (1, 1, 1, [(1, 1, 1)]),
        (9, 1, 1, [(4, 1, 1)]),
        (1, 2, 9, [(1, 1, 4), (1, 2, 2)]),
        (9, 9, 9, [(1, 1, 4), (1, 2, 2), (1, 4, 1), (2, 1, 2), (2, 2, 1), (4, 1, 1)]),
        (3, 3, 3, [(1, 1, 3), (1, 2, 2), (1, 3, 1), (2, 1, 2), (2, 2, 1), (3, 1, 1)]),
    ],
)
def test_grids_of_four_copies(batch: int, m: int, n: int, found: list[tuple[int, int, int]]) -> None:
    assert grids(4, batch, m, n) == tuple(Grid(*grid) for grid in found)


@pytest.mark.parametrize(
    ("dataflow", "batch", "shape", "cycles", "mapping"),
    [
        # (m, n, k) on four arrays of 4 x 8
        (WS, 1, (10, 32, 4), 10, "b1 m1 n4"),  # 8 columns each; one array of 4 x 32 would do as well
        (WS, 1, (10, 8, 4), 3, "b1 m4 n1"),  # the same weights in each, ceil(10 / 4) rows of A; 10 on 4 x 32
        (WS, 1, (10, 16, 4), 5, "b1 m2 n2"),
        (WS, 8, (1, 8, 4), 2, "b4 m1 n1"),  # 8 entries, two for each; 8 on 4 x 32
        (WS, 2, (2, 8, 4), 1, "b2 m2 n1"),
        (WS, 1, (1, 8, 16), 4, "b1 m1 n4"),  # four folds of k stay: sums are not added between arrays
        (OS, 1, (16, 8, 10), 10, "b1 m4 n1"),  # 4 rows each
        (OS, 1, (4, 32, 10), 10, "b1 m1 n4"),
        (OS, 6, (1, 1, 10), 20, "b4 m1 n1"),  # ceil(6 / 4) entries
        (IS, 1, (32, 10, 4), 10, "b1 m4 n1"),  # the first, transposed
        (IS, 1, (8, 10, 4), 3, "b1 m1 n4"),
    ],
)
def test_a_product_is_dealt_out(
    dataflow: Dataflow, batch: int, shape: tuple[int, int, int], cycles: int, mapping: str
) -> None:
    cost = _cost(_core(dataflow), _gemm(*shape, batch=batch))

    assert (cost.cycles, cost.mapping) == (cycles, f"{dataflow} 1x1 {mapping}")


@pytest.mark.parametrize(
    ("dataflow", "batch", "shape", "cycles"),
    [
        (WS, 1, (10, 16, 4), 19),  # m2 n2: 5 + 2 x 4 + 8 - 2 = 19; m4: 2 folds of 3 + 14 = 34; n4: 24
        (OS, 1, (16, 8, 10), 20),  # m4: 10 + 4 + 8 - 2
        (OS, 6, (1, 1, 10), 40),  # two entries one after the other, 20 each
        (IS, 1, (16, 10, 4), 19),  # the first, transposed
    ],
)
def test_each_array_fills_and_drains(dataflow: Dataflow, batch: int, shape: tuple[int, int, int], cycles: int) -> None:
    assert _cost(_core(dataflow, delivery=Delivery.SYSTOLIC), _gemm(*shape, batch=batch)).cycles == cycles


def test_what_copies_share_is_read_once_and_written_into_each() -> None:
    # C[10, 16] = A[10, 4] B[4, 16] as m2 n2: both column halves pass at once, so A (320 bit) and B (512 bit) are read
    # once. C is 160 x 16 = 2560 bit. SRAM: 832 x 1 + 2560 x 2 = 5952.
    # Registers, read: 640 MACs x 16 + one sum per column and row fold 160 x 32 = 10,240 + 5120 = 15,360
    # written: A into each of 16 columns 5120, B into the two halves of m 1024, sums 5120: 11,264
    # 15,360 / 4 + 11,264 / 2 = 9472
    cost = _cost(_core(WS), _gemm(10, 16, 4))

    assert cost == Cost(
        cycles=5,
        sram_read_bits=832,
        sram_write_bits=2560,
        mac_pj=80.0,  # 640 / 8
        register_pj=9472.0,
        sram_pj=5952.0,
        vector_pj=0.0,
        mapping="weight_stationary 1x1 b1 m2 n2",
    )


def test_copies_share_the_bandwidth() -> None:
    # 32 entries of 1 x 8 x 4, eight on each array. Read: 32 x (4 + 32) x 8 bit = 9216, at 256 bit per cycle 36
    work = _gemm(1, 8, 4, batch=32)

    assert [_cost(_core(WS, bandwidth=width), work).cycles for width in (UNBOUNDED, 256)] == [8, 36]


@pytest.mark.parametrize("dataflow", Dataflow)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1, 20, 16), (4, 7, 9, 11), (3, 6, 10, 2), (7, 1, 31, 2)])
def test_the_plan_estimates_the_cycles_of_the_cost_model(shape: tuple[int, int, int, int], dataflow: Dataflow) -> None:
    kind = replace(_core(dataflow, copies=6), vector=core_type().vector)
    batch, m, n, k = (np.array([size], dtype=np.int64) for size in shape)
    cycles = _cost(kind, _gemm(*shape[1:], batch=shape[0])).cycles

    assert estimate_machine(machine(kind)).tile_cycles(batch, m, n, k, 8).tolist() == [cycles]


def test_the_peak_is_that_of_all_copies() -> None:
    core = _core(WS)
    single = core_type()
    assert single.array is not None
    several = replace(single, array=replace(single.array, copies=3))
    graph = lower(workload(latent(heads=64)), "mla_rc")

    assert minimum_gemm_cycles(core, 1280, 8) == 10.0  # 4 x 32 MACs per cycle
    assert next(iter(core_facts(core))) == "peak at 8 bit: 128 MAC/cycle"
    one, three = (ideal_cycles(graph, machine(kind, bandwidth=10**9)) for kind in (single, several))
    assert three == one // 3


CORE = """\
name: small_core
source: test
array:
  copies: 4
  rows: 4
  columns: 8
  delivery: systolic
  dataflows: [output_stationary]
  precisions:
  - {operand: 8 bit, macs_per_element: 1, mac_energy: 0.08 pJ/MAC}
registers: {capacity: 64 bit, read_energy: 0.01 pJ/bit, write_energy: 0.01 pJ/bit}
sram: {capacity: 2 MiB, read_bandwidth: 64 B/cycle, write_bandwidth: 32 B/cycle, read_energy: 1 pJ/bit,
       write_energy: 1 pJ/bit}
"""


def _read(folder: Path, text: str) -> CoreType:
    file = folder / "core.yaml"
    file.write_text(text)
    found = check(str(file))
    assert isinstance(found, CoreType)
    return found


def test_copies_may_be_left_out_and_survive_writing(tmp_path: Path) -> None:
    one, four = _read(tmp_path, CORE.replace("  copies: 4\n", "")), _read(tmp_path, CORE)

    assert [core.array.copies for core in (one, four) if core.array] == [1, 4]
    assert ["copies" in dump(core) for core in (one, four)] == [False, True]
    assert [_read(tmp_path, dump(core)) for core in (one, four)] == [one, four]


@pytest.mark.parametrize(
    ("new", "problem"),
    [
        ("0", "copies must be at least 1, got 0 @ array"),
        ("two", "expected a whole number, got 'two': write digits alone, without unit or quotes @ array.copies"),
    ],
)
def test_no_copies_at_all(tmp_path: Path, new: str, problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        _read(tmp_path, CORE.replace("copies: 4", f"copies: {new}"))
    assert caught.value.problems == (problem,)


@pytest.mark.parametrize("name", ["a100", "mi300x", "tpu_v4i", "tpu_v7_ironwood"])
def test_shipped_machines_with_four_arrays_in_a_core(name: str) -> None:
    arrays = {core.type.array for core in load_accelerator(name).array_cores()}

    assert [array.copies for array in arrays if array] == [4]
