"""Cycles and energy of one tile, recounted by hand."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_mla.hardware.accelerator import (
    Array,
    CoreType,
    Dataflow,
    Delivery,
    OperandPrecision,
    Registers,
    Sram,
    VectorUnit,
)
from stream_mla.hardware.core_cost import Cost, Gemm, Objective, VectorWork, gemm_cost, minimum_gemm_cycles, vector_cost

OS, WS, IS = Dataflow.OUTPUT_STATIONARY, Dataflow.WEIGHT_STATIONARY, Dataflow.INPUT_STATIONARY
EVERY = (OS, WS, IS)
UNBOUNDED = 10**15
"""Bits per cycle: the SRAM never decides."""
PRECISIONS = (
    OperandPrecision(operand=4, macs_per_element=2, mac_energy=0.0625),
    OperandPrecision(operand=8, macs_per_element=1, mac_energy=0.125),
    OperandPrecision(operand=16, macs_per_element=0.25, mac_energy=0.5),
)
VECTOR_WORK = VectorWork(operations=100, read_bits=64, write_bits=32)


def _core(
    rows: int,
    columns: int,
    *,
    dataflows: Sequence[Dataflow] = EVERY,
    delivery: Delivery = Delivery.BROADCAST,
    registers: int = 64,
    bandwidth: float = UNBOUNDED,
) -> CoreType:
    """Return a core whose energies are exact in binary."""
    return CoreType(
        name="test_core",
        source="made up",
        array=Array(rows=rows, columns=columns, delivery=delivery, dataflows=tuple(dataflows), precisions=PRECISIONS),
        vector=VectorUnit(operations_per_cycle=16, operation_energy=0.5),
        registers=Registers(capacity=registers, read_energy=0.25, write_energy=0.5),
        sram=Sram(
            capacity=2**30, read_bandwidth=bandwidth, write_bandwidth=bandwidth, read_energy=1.0, write_energy=2.0
        ),
    )


def _gemm(m: int, n: int, k: int, *, batch: int = 1, bits: int = 8, accumulates: bool = False) -> Gemm:
    return Gemm(batch=batch, m=m, n=n, k=k, a_bits=bits, b_bits=bits, out_bits=16, accumulates=accumulates)


def _cost(core: CoreType, work: Gemm) -> Cost:
    return gemm_cost(core, work, Objective.LATENCY)


@pytest.mark.parametrize(
    ("dataflow", "shape", "cycles"),
    [
        # 4 rows, 8 columns; (m, n, k)
        (OS, (4, 8, 16), 26),  # 1 fold: 16 + 4 + 8 - 2
        (OS, (9, 17, 5), 135),  # ceil(9/4) 3 x ceil(17/8) 3 = 9 folds of 5 + 10 = 15
        (WS, (16, 8, 4), 30),  # 1 fold: 16 + 8 + 8 - 2
        (WS, (10, 20, 9), 216),  # ceil(9/4) 3 x ceil(20/8) 3 = 9 folds of 10 + 14 = 24
        (IS, (8, 16, 4), 30),  # 1 fold: 16 + 8 + 8 - 2
        (IS, (20, 1, 5), 90),  # ceil(5/4) 2 x ceil(20/8) 3 = 6 folds of 1 + 14 = 15
    ],
)
def test_systolic_cycles_fill_stream_and_drain(dataflow: Dataflow, shape: tuple[int, int, int], cycles: int) -> None:
    core = _core(4, 8, dataflows=[dataflow], delivery=Delivery.SYSTOLIC)

    cost = _cost(core, _gemm(*shape))

    assert (cost.cycles, cost.mapping) == (cycles, f"{dataflow} 1x1")


def test_systolic_batches_and_slow_precisions_repeat_the_fill_and_drain() -> None:
    core = _core(4, 8, dataflows=[OS], delivery=Delivery.SYSTOLIC)

    assert _cost(core, _gemm(4, 8, 16, batch=3)).cycles == 78  # 3 x (16 + 4 + 8 - 2)
    assert _cost(core, _gemm(4, 8, 16, bits=16)).cycles == 104  # the same 26 steps, 4 cycles each


def test_systolic_one_by_one_does_not_beat_its_peak() -> None:
    core = _core(1, 1, dataflows=[OS], delivery=Delivery.SYSTOLIC)

    assert _cost(core, _gemm(2, 3, 5)).cycles == 30  # 6 x (5 + 1 + 1 - 2)


@pytest.mark.parametrize(("batch", "cycles"), [(1, 10), (10, 100)])
def test_a_systolic_product_ends_when_its_last_element_does(batch: int, cycles: int) -> None:
    # operands reach element (i, j) in cycles i + j + 1 to i + j + 4: the last one, (3, 3), in cycle 10
    core = _core(4, 4, dataflows=[OS], delivery=Delivery.SYSTOLIC)

    assert _cost(core, _gemm(4, 4, 4, batch=batch)).cycles == cycles


def test_decode_gemv_is_bound_by_the_sram() -> None:
    # Steps: ceil(7168/256) 28 x ceil(16384/256) 64 folds of one row each.
    # Registers for 1 weight, 1 input, 1 sum (8 + 8 + 32). Reads: B 7168 x 16384 x 8 bit = 939,524,096;
    # A 7168 x 8 x 64 passes = 3,670,016; sums 16384 x 27 x 32 = 14,155,776; together 957,349,888,
    # at 65,536 bit per cycle 14,608.0 cycles
    free, bound = (_core(256, 256, dataflows=[WS], registers=48, bandwidth=width) for width in (UNBOUNDED, 65536))
    work = _gemm(1, 16384, 7168)

    assert _cost(free, work).cycles == 1792
    assert (_cost(bound, work).sram_read_bits, _cost(bound, work).cycles) == (957_349_888, 14_608)


@pytest.mark.parametrize(
    ("dataflows", "cycles"),
    [(EVERY, 1536), ([OS], 6 * 2 * 128), ([WS], 1 * 2 * 1536), ([IS], 1 * 6 * 512)],
)
def test_composite_product_is_fastest_output_stationary(dataflows: Sequence[Dataflow], cycles: int) -> None:
    assert _cost(_core(256, 256, dataflows=dataflows), _gemm(1536, 512, 128)).cycles == cycles


@pytest.mark.parametrize(
    ("a_bits", "b_bits", "cycles"),
    [
        (3, 2, 4),  # 2 MACs at up to 4 bit: ceil(7 / 2)
        (4, 4, 4),
        (8, 4, 7),
        (4, 16, 28),  # a quarter MAC: 7 / 0.25
    ],
)
def test_the_wider_operand_sets_the_rate(a_bits: int, b_bits: int, cycles: int) -> None:
    work = replace(_gemm(2, 2, 7), a_bits=a_bits, b_bits=b_bits)

    assert _cost(_core(2, 2, dataflows=[OS]), work).cycles == cycles


def test_packing_shortens_the_rows_of_a_weight_stationary_array() -> None:
    # 2 MACs per element: ceil(9 / 2) = 5 packed, on 4 rows 2 folds, x 1 column fold x 3 rows of A
    assert _cost(_core(4, 4, dataflows=[WS]), _gemm(3, 4, 9, bits=4)).cycles == 6


def test_output_stationary_energy_recounted() -> None:
    # C[3, 5] = A[3, 4] B[4, 5] on 2 x 2 elements, 8 bit operands, 32 bit sums, 16 bit results, no block:
    # one block needs 32 + 8 + 8 = 48 bit, two sums would need 64 + 16 + 8 = 88.
    # 60 MACs x 0.125 pJ = 7.5
    # A (96 bit) is read for ceil(5/2) = 3 passes, B (160 bit) for ceil(3/2) = 2, C (240 bit) is written
    # SRAM: read 3 x 96 + 2 x 160 = 608; write 240; 608 x 1 + 240 x 2 = 1088
    # Registers, read: 60 x (8 + 8 + 32) = 2880; written: 60 x (8 + 8 + 32) = 2880;
    # 2880 x 0.25 + 2880 x 0.5 = 2160
    cost = _cost(_core(2, 2, dataflows=[OS]), _gemm(3, 5, 4))

    assert cost == Cost(
        cycles=24,  # 2 x 3 x 4
        sram_read_bits=608,
        sram_write_bits=240,
        mac_pj=7.5,
        register_pj=2160.0,
        sram_pj=1088.0,
        vector_pj=0.0,
        mapping="output_stationary 1x1",
    )
    assert cost.energy_pj == 3255.5


def test_weight_stationary_spills_sums() -> None:
    # C[3, 5] += A[3, 7] B[7, 5] on 2 x 2, no block: ceil(7/2) = 4 row folds, ceil(5/2) = 3 column folds.
    # read: A 168 bit x 3, B 280 x 1, sums 15 x 32 bit x 3, C 240 once as it accumulates: 504+280+1440+240 = 2464
    # written: sums 1440, C 240: 1680
    # Registers, read: 105 x 16 + one sum per column and row fold 15 x 4 x 32 = 1680 + 1920 = 3600
    # written: A 168 x 5 columns = 840, B 280, sums 1920: 3040. 3600 x 0.25 + 3040 x 0.5 = 2420
    cost = _cost(_core(2, 2, dataflows=[WS], registers=48), _gemm(3, 5, 7, accumulates=True))

    assert (cost.mapping, cost.register_pj) == ("weight_stationary 1x1", 2420.0)
    assert cost.cycles == 36  # 4 x 3 folds x 3 rows of A
    assert (cost.sram_read_bits, cost.sram_write_bits) == (2464, 1680)


@pytest.mark.parametrize(
    ("dataflow", "registers", "shape", "block"),
    [
        (OS, 1, (3, 5, 4), "1x1"),  # too small for anything
        (OS, 160, (3, 5, 4), "2x2"),  # 4 sums, 2 of A, 2 of B: 128 + 16 + 16 bit; 1 x 4 needs 128 + 8 + 32
        (OS, 168, (2, 8, 4), "1x4"),  # one row fold, four column folds
        (WS, 96, (3, 5, 7), "4x1"),  # 4 of B, 4 of A, 1 sum: no spills, while 1 x 4 saves two passes over A
    ],
)
def test_best_block_that_fits(dataflow: Dataflow, registers: int, shape: tuple[int, int, int], block: str) -> None:
    core = _core(2, 2, dataflows=[dataflow], registers=registers)

    assert gemm_cost(core, _gemm(*shape), Objective.ENERGY).mapping == f"{dataflow} {block}"


@pytest.mark.parametrize(
    ("dataflow", "delivery", "registers", "energy"),
    [
        # C[3, 5] over 7 of 4 bit, as 4 pairs, on 2 x 2: 105 x 8 = 840 operand bits are read, A is written
        # 84 x 5 = 420. A block of 2 never fits: operands count double.
        (OS, Delivery.BROADCAST, 80, 2070.0),  # B 140 x 3 = 420, sums 15 x 4 x 32 = 1920: 2760 / 4 + 2760 / 2
        (WS, Delivery.BROADCAST, 48, 1210.0),  # B 140, sums 15 x 2 folds x 32 = 960: 1800 / 4 + 1520 / 2
        (WS, Delivery.SYSTOLIC, 48, 1930.0),  # B 140, sums as the first: 2760 / 4 + 2480 / 2
    ],
)
def test_packed_macs_share_sums(dataflow: Dataflow, delivery: Delivery, registers: int, energy: float) -> None:
    core = _core(2, 2, dataflows=[dataflow], delivery=delivery, registers=registers)

    assert _cost(core, _gemm(3, 5, 7, bits=4)).register_pj == energy


def test_sums_are_as_wide_as_the_output() -> None:
    # one MAC: 8 + 8 + 64 bit read and written
    assert _cost(_core(1, 1), replace(_gemm(1, 1, 1), out_bits=64)).register_pj == 80 * 0.25 + 80 * 0.5


def test_batch_multiplies_everything_but_the_mapping() -> None:
    core, one = _core(2, 2), _gemm(3, 5, 7, accumulates=True)

    single, triple = _cost(core, one), _cost(core, replace(one, batch=3))

    assert triple.mapping == single.mapping
    for part in ("cycles", "sram_read_bits", "sram_write_bits", "mac_pj", "register_pj", "sram_pj"):
        assert getattr(triple, part) == 3 * getattr(single, part)


def test_objective_decides_between_time_and_energy() -> None:
    # C[64, 2] over k = 3 on 2 x 2. OS: 32 x 1 x 3 = 96 cycles. WS: ceil(3/2) 2 x 1 x 64 = 128 cycles, but OS reads
    # and writes a sum for each MAC, WS for each pair of rows. Over k = 2 both take 64 cycles.
    core, work = _core(2, 2, dataflows=[OS, WS], registers=96), _gemm(64, 2, 3)

    assert gemm_cost(core, work, Objective.LATENCY).cycles == 96
    assert gemm_cost(core, work, Objective.ENERGY).cycles == 128
    assert _cost(core, replace(work, k=2)).mapping.startswith(WS)


def test_vector_work() -> None:
    # ceil(100 / 16) = 7 cycles; 100 x 0.5 + 64 x 1 + 32 x 2 = 178 pJ
    cost = vector_cost(_core(2, 2), VECTOR_WORK)

    assert (cost.cycles, cost.energy_pj, cost.mapping) == (7, 178.0, "vector")


@pytest.mark.parametrize(
    ("read_bits", "write_bits", "cycles"),
    [(0, 0, 1), (80, 0, 10), (81, 8, 11), (8, 97, 13)],  # 8 bit per cycle each way; never 0 cycles
)
def test_vector_work_waits_for_the_sram(read_bits: int, write_bits: int, cycles: int) -> None:
    work = VectorWork(operations=0, read_bits=read_bits, write_bits=write_bits)

    assert vector_cost(_core(2, 2, bandwidth=8), work).cycles == cycles


def test_minimum_is_macs_over_peak() -> None:
    assert minimum_gemm_cycles(_core(4, 8), 1000, 8) == 31.25
    assert minimum_gemm_cycles(_core(4, 8), 1000, 3) == 15.625
    assert minimum_gemm_cycles(_core(4, 8), 1000, 16) == 125.0


TOO_WIDE = (
    "core 'test_core' cannot multiply 32 bit operands: its array has 4 bit, 8 bit, 16 bit; "
    "narrow the operands or give the array a wider precision"
)
NO_ARRAY = "core 'test_core' has no array, so it cannot multiply matrices; use one that has"
NO_VECTOR = "core 'test_core' has no vector unit, so it cannot do vector work; use one that has"


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: _cost(_core(2, 2), _gemm(2, 2, 2, bits=32)), TOO_WIDE),
        (lambda: minimum_gemm_cycles(_core(2, 2), 1, 32), TOO_WIDE),
        (lambda: _cost(replace(_core(2, 2), array=None, registers=None), _gemm(2, 2, 2)), NO_ARRAY),
        (lambda: vector_cost(replace(_core(2, 2), vector=None), VECTOR_WORK), NO_VECTOR),
        (lambda: _gemm(2, 2, 0), "k must be at least 1, got 0"),
        (lambda: replace(VECTOR_WORK, operations=-1), "operations must be at least 0, got -1"),
    ],
)
def test_impossible_work_is_refused(attempt: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        attempt()


def _recount(dataflow: Dataflow, array: Array, height: int, width: int, work: Gemm) -> tuple[int, int]:
    """Walk the loop nest; return the bits read from SRAM and the operand bits written to registers."""
    reads = writes = 0
    down = work.m if dataflow is OS else work.k
    for top in range(0, down, array.rows * height):
        for left in range(0, work.n, array.columns * width):
            rows = range(top, min(top + array.rows * height, down))
            ns = range(left, min(left + array.columns * width, work.n))
            a_latches = len({(row, n % array.columns) for row in rows for n in ns})
            c_bits = work.out_bits * work.accumulates
            if dataflow is OS:
                reads += work.k * (len(rows) + len(ns)) * 8 + len(rows) * len(ns) * c_bits
                b_latches = len({(row % array.rows, n) for row in rows for n in ns})
                writes += work.k * (a_latches + b_latches) * 8
            else:
                reads += len(rows) * (len(ns) + work.m) * 8 + work.m * len(ns) * (32 if top else c_bits)
                writes += (len(rows) * len(ns) + work.m * a_latches) * 8
    return reads, writes


@given(
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    registers=st.integers(0, 600),
    extents=st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40)),
    accumulates=st.booleans(),
    dataflow=st.sampled_from([OS, WS]),
)
def test_traffic_equals_the_loop_nest(
    size: tuple[int, int], registers: int, extents: tuple[int, int, int], accumulates: bool, dataflow: Dataflow
) -> None:
    rows, columns = size
    core = _core(rows, columns, dataflows=[dataflow], registers=registers)
    work = _gemm(*extents, accumulates=accumulates)
    cost = gemm_cost(core, work, Objective.ENERGY)
    height, width = (int(part) for part in cost.mapping.split()[1].split("x"))

    assert core.array is not None
    reads, writes = _recount(dataflow, core.array, height, width, work)
    sums = work.macs if dataflow is OS else work.m * work.n * math.ceil(work.k / rows)
    block_bits = 8 * (height + width) + 32 * height * width if dataflow is OS else 8 * height * (width + 1) + 32

    assert (height, width) == (1, 1) or block_bits <= registers
    assert cost.sram_read_bits == reads
    # 0.25 pJ per bit read: 16 bit of operands per MAC and the sums; 0.5 per bit written
    assert cost.register_pj == (work.macs * 16 + sums * 32) * 0.25 + (writes + sums * 32) * 0.5


_extents = st.integers(1, 300)
_gemms = st.builds(
    Gemm,
    batch=st.integers(1, 4),
    m=_extents,
    n=_extents,
    k=_extents,
    a_bits=st.sampled_from([4, 8, 16]),
    b_bits=st.sampled_from([4, 8, 16]),
    out_bits=st.sampled_from([8, 16, 32]),
    accumulates=st.booleans(),
)
_arrays = st.builds(
    _core,
    st.integers(1, 20),
    st.integers(1, 20),
    dataflows=st.lists(st.sampled_from(EVERY), min_size=1, unique=True),
    delivery=st.sampled_from(Delivery),
    registers=st.integers(0, 2000),
    bandwidth=st.integers(8, 4096),
)


@given(core=_arrays, work=_gemms, objective=st.sampled_from(Objective))
def test_no_product_beats_peak_or_sram(core: CoreType, work: Gemm, objective: Objective) -> None:
    cost = gemm_cost(core, work, objective)
    a_bits = work.batch * work.m * work.k * work.a_bits
    b_bits = work.batch * work.k * work.n * work.b_bits
    c_bits = work.batch * work.m * work.n * work.out_bits

    assert cost.cycles >= minimum_gemm_cycles(core, work.macs, work.operand_bits) * (1 - 1e-12)
    assert cost.cycles >= max(cost.sram_read_bits, cost.sram_write_bits) / core.sram.read_bandwidth
    assert cost.sram_read_bits >= a_bits + b_bits + c_bits * work.accumulates
    assert cost.sram_write_bits >= c_bits
    assert cost.sram_pj == cost.sram_read_bits * 1.0 + cost.sram_write_bits * 2.0
    assert cost.energy_pj == math.fsum((cost.mac_pj, cost.register_pj, cost.sram_pj, cost.vector_pj))


@given(core=_arrays, work=_gemms)
def test_each_objective_wins_its_own_contest(core: CoreType, work: Gemm) -> None:
    fast, least_energy_tiles = gemm_cost(core, work, Objective.LATENCY), gemm_cost(core, work, Objective.ENERGY)

    assert fast.cycles <= least_energy_tiles.cycles
    assert least_energy_tiles.energy_pj <= fast.energy_pj


@given(core=_arrays, work=_gemms, factors=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)))
def test_more_of_a_broadcast_core_is_never_slower(core: CoreType, work: Gemm, factors: tuple[int, int, int]) -> None:
    assert core.array is not None
    rows, columns, bandwidth = factors
    array = replace(core.array, delivery=Delivery.BROADCAST)
    small = replace(core, array=array)
    large = replace(
        small,
        array=replace(array, rows=rows * array.rows, columns=columns * array.columns),
        sram=replace(
            core.sram,
            read_bandwidth=bandwidth * core.sram.read_bandwidth,
            write_bandwidth=bandwidth * core.sram.write_bandwidth,
        ),
    )

    assert _cost(large, work).cycles <= _cost(small, work).cycles


@given(core=_arrays, work=_gemms)
def test_input_stationary_mirrors_weight_stationary(core: CoreType, work: Gemm) -> None:
    assert core.array is not None
    weights = replace(core, array=replace(core.array, dataflows=(WS,)))
    inputs = replace(core, array=replace(core.array, dataflows=(IS,)))

    mirrored = _cost(weights, work.transposed())

    assert replace(_cost(inputs, work), mapping=mirrored.mapping) == mirrored
