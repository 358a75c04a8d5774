"""The cost of one tile on one core, in cycles and energy. This docstring is the model.

Arithmetic
  * The width of a product is the wider of its two operands; the narrowest precision of the array that holds
    it gives rate and energy. A core whose precisions are all narrower refuses.
  * An element that does p >= 1 MACs per cycle takes p successive k at once: the array sees ceil(k / p) of
    them. With p < 1 every step of the array takes 1 / p cycles, fill and drain included.
  * Sums are kept in max(32, output width) bit until the product is complete; the finished C is stored in SRAM
    at its output width. Partial results of an earlier tile that C adds to are read at the output width.
  * The entries of a batch run one after another; only two of m, n, k are unrolled over the array (`Dataflow`),
    and real extents are rounded up to the axes. MACs and bits count real elements, never padding.

Copies (several R x C arrays in one core)
  * A product is dealt out as a grid: `batch` over s_b copies, m over s_m, n over s_n, with s_b s_m s_n at most the
    number of copies. Each copy runs a product of ceil(m / s_m) by ceil(n / s_n) by k, for ceil(batch / s_b) entries
    one after another: below, m, n and batch are these in cycles, and in how often an operand is read. Bits and MACs
    are those of the whole product. Every grid that no other contains is tried.
  * k is not dealt out: sums of different arrays would have to be added outside of them.
  * Copies that share a row or column of the grid work in step, and what they share is one read of the SRAM, broadcast
    to them: cores of several arrays feed them from one register file (the MXUs of a TPU) or one read of the shared
    memory (the tensor cores of an SM). Each copy writes it into its own registers. All share the SRAM's bandwidth.

Cycles
  * Broadcast: ceil over each unrolled extent, times the one that is left. No fill and no drain.
  * Systolic: operands reach element (i, j) i + j cycles after element (0, 0), so that for each entry of the batch
    output stationary takes  ceil(m/R) ceil(n/C) (k + R + C - 2)  cycles,
    weight stationary        ceil(k/R) ceil(n/C) (m + 2R + C - 2),
    input stationary         ceil(k/R) ceil(m/C) (n + 2R + C - 2),
    the last two with R cycles in which the stationary operand is shifted in. The folds do not overlap. These are the
    forms of SCALE-Sim's cycle-accurate simulator, plus 1: it reports the zero-based number of the last cycle, and a run
    from cycle 0 to cycle 9 takes 10. Its analytical model has 2R in all three; its simulator, which we follow, drains
    outputs during the wavefront. Draining them afterwards would add R cycles to output stationary: not modelled.
  * Reads, writes and arithmetic overlap perfectly and the slowest sets the time, rounded up once, at least 1.
    Bank conflicts, and tiles and transfers that use the same SRAM at the same time, are not modelled.

SRAM traffic (R x C array; an operand broadcast, or passed, along an axis is one read)
  * Broadcast elements may hold a block in their registers: h along the rows' index, w along the columns'.
    Blocks change traffic, never compute cycles. Systolic elements hold no more than 1 x 1.
  * Output stationary: A is read ceil(n / (C w)) times, B ceil(m / (R h)) times, C is written once.
    A block needs h w sums, h of A, w of B.
  * Weight stationary: B is read once, A ceil(n / (C w)) times. With s = ceil(k / (R h)) C is written s times
    and read s - 1 times, all but the last time as sums. A block needs h w of B, h of A, one sum.
  * Input stationary: the same of the transposed product (A and B, m and n change places).
  * A C that accumulates is read once more. Operands of packed MACs count p-fold in a block.
  * A 1 x 1 block is always possible, even in registers too small for it: they are then the pipeline's. Room in
    SRAM for spilled sums is not checked here.

Energy
  * MACs: real MACs times the energy of the precision, which includes adder trees. Padded elements are gated.
  * Registers: each MAC reads both operands. A moving operand is written once into each element that uses it (by
    broadcast or from its neighbour), once per block; a stationary one once. Sums are read and written once
    per step where an element keeps or passes them (output stationary, systolic), once per column and step where
    a tree adds up the rows (broadcast, weight and input stationary). Packed MACs share one sum.
    Not counted: the shifting in of stationary operands, pipeline registers of broadcasts and trees.
  * SRAM: bits read and written times the energy per bit. No leakage, no clock, no control.
  * Vector work: operations times their energy, and SRAM.

Search: every dataflow the array has, every grid of copies, with blocks that are powers of two and fit the registers. A
larger block never moves more, so for each height only the widest is priced. Equal candidates: the one named first.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from stream_mla.hardware.accelerator import Array, CoreType, Dataflow, Delivery, OperandPrecision, Registers
from stream_mla.hardware.work import Gemm, VectorWork
from stream_mla.units import Bits


@dataclass(frozen=True, kw_only=True)
class Cost:
    """It is what a tile takes of its core."""

    cycles: int
    sram_read_bits: Bits
    sram_write_bits: Bits
    mac_pj: float
    register_pj: float
    sram_pj: float
    vector_pj: float
    mapping: str
    """Dataflow and block, `weight_stationary 2x4`, and the grid of copies where there are several, `b1 m2 n2`;
    `vector` for vector work."""

    @property
    def energy_pj(self) -> float:
        """The sum of the parts."""
        return math.fsum((self.mac_pj, self.register_pj, self.sram_pj, self.vector_pj))


class Objective(StrEnum):
    """It is what is minimised; the other one breaks ties."""

    LATENCY = "latency"
    ENERGY = "energy"
    LATENCY_THEN_ENERGY = "latency-then-energy"
    """The same as latency for a mapping; for a schedule, see `stream_mla.evaluation`."""


@lru_cache(maxsize=2**16)
def gemm_cost(core: CoreType, work: Gemm, objective: Objective) -> Cost:
    """Return the cost of the best mapping. ValueError where the core cannot multiply at this width."""
    array, registers, precision = _array_for(core, work.operand_bits)
    candidates = [
        _price(core, registers, precision, work, mapping)
        for dataflow in array.dataflows
        for grid in grids(array.copies, work.batch, work.m, work.n)
        for mapping in _mappings(array, registers, precision, dataflow, work, grid)
    ]
    if objective is Objective.ENERGY:
        return min(candidates, key=lambda cost: (cost.energy_pj, cost.cycles))
    return min(candidates, key=lambda cost: (cost.cycles, cost.energy_pj))


def vector_cost(core: CoreType, work: VectorWork) -> Cost:
    """Return the cost of vector work. ValueError where the core has no vector unit."""
    if core.vector is None:
        raise ValueError(f"core {core.name!r} has no vector unit, so it cannot do vector work; use one that has")
    return Cost(
        cycles=_cycles(
            core, _ceil_div(work.operations, core.vector.operations_per_cycle), work.read_bits, work.write_bits
        ),
        sram_read_bits=work.read_bits,
        sram_write_bits=work.write_bits,
        mac_pj=0.0,
        register_pj=0.0,
        sram_pj=_sram_pj(core, work.read_bits, work.write_bits),
        vector_pj=work.operations * core.vector.operation_energy,
        mapping="vector",
    )


def minimum_gemm_cycles(core: CoreType, macs: int, operand_bits: Bits) -> float:
    """Return the cycles of `macs` with every element busy: no product on this core takes fewer."""
    array, _, precision = _array_for(core, operand_bits)
    return macs / (array.elements * precision.macs_per_element)


def _array_for(core: CoreType, operand_bits: Bits) -> tuple[Array, Registers, OperandPrecision]:
    if core.array is None or core.registers is None:
        raise ValueError(f"core {core.name!r} has no array, so it cannot multiply matrices; use one that has")
    precision = core.array.precision(operand_bits)
    if precision is None:
        widths = ", ".join(f"{bits} bit" for bits in sorted({entry.operand for entry in core.array.precisions}))
        raise ValueError(
            f"core {core.name!r} cannot multiply {operand_bits} bit operands: its array has {widths}; "
            "narrow the operands or give the array a wider precision"
        )
    return core.array, core.registers, precision


class Grid(NamedTuple):
    """How a product is dealt out to the copies of an array."""

    batch: int
    m: int
    n: int

    def transposed(self) -> "Grid":
        """Return the grid of the transposed product."""
        return Grid(self.batch, self.n, self.m)


@lru_cache
def grids(copies: int, batch: int, m: int, n: int) -> tuple[Grid, ...]:
    """Return the grids of at most `copies` that none contains, no wider than the product."""
    batch, m = min(batch, copies), min(m, copies)
    found = [
        Grid(b, rows, min(n, copies // (b * rows)))
        for b in range(1, batch + 1)
        for rows in range(1, min(copies // b, m) + 1)
    ]
    # what grids contain are grids too, so that one is contained in another if and only if one more of an axis fits
    return tuple(
        grid
        for grid in found
        if (grid.batch == batch or (grid.batch + 1) * grid.m * grid.n > copies)
        and (grid.m == m or grid.batch * (grid.m + 1) * grid.n > copies)
    )


class _Mapping(NamedTuple):
    """One way to run a product: steps of the busiest copy, and bits that one entry of the batch moves."""

    name: str
    steps: int
    sram_read_bits: int
    sram_write_bits: int
    register_read_bits: int
    register_write_bits: int


def _price(core: CoreType, registers: Registers, precision: OperandPrecision, work: Gemm, mapping: _Mapping) -> Cost:
    steps = mapping.steps
    rate = precision.macs_per_element
    read_bits = work.batch * mapping.sram_read_bits
    write_bits = work.batch * mapping.sram_write_bits
    return Cost(
        cycles=_cycles(core, math.ceil(steps / rate) if rate < 1 else steps, read_bits, write_bits),
        sram_read_bits=read_bits,
        sram_write_bits=write_bits,
        mac_pj=work.macs * precision.mac_energy,
        register_pj=work.batch
        * (mapping.register_read_bits * registers.read_energy + mapping.register_write_bits * registers.write_energy),
        sram_pj=_sram_pj(core, read_bits, write_bits),
        vector_pj=0.0,
        mapping=mapping.name,
    )


def _cycles(core: CoreType, compute: int, read_bits: Bits, write_bits: Bits) -> int:
    sram = core.sram
    return max(1, math.ceil(max(compute, read_bits / sram.read_bandwidth, write_bits / sram.write_bandwidth)))


def _sram_pj(core: CoreType, read_bits: Bits, write_bits: Bits) -> float:
    return read_bits * core.sram.read_energy + write_bits * core.sram.write_energy


def _mappings(
    array: Array, registers: Registers, precision: OperandPrecision, dataflow: Dataflow, work: Gemm, grid: Grid
) -> Iterator[_Mapping]:
    pack = max(1.0, precision.macs_per_element)
    capacity = 0 if array.delivery is Delivery.SYSTOLIC else registers.capacity
    match dataflow:
        case Dataflow.OUTPUT_STATIONARY:
            return _output_stationary(array, capacity, pack, work, grid)
        case Dataflow.WEIGHT_STATIONARY:
            return _operand_stationary(array, capacity, pack, work, grid, dataflow)
        case Dataflow.INPUT_STATIONARY:
            return _operand_stationary(array, capacity, pack, work.transposed(), grid.transposed(), dataflow)


def _name(array: Array, dataflow: Dataflow, height: int, width: int, grid: Grid) -> str:
    given = grid.transposed() if dataflow is Dataflow.INPUT_STATIONARY else grid
    over = f" b{given.batch} m{given.m} n{given.n}" if array.copies > 1 else ""
    return f"{dataflow} {height}x{width}{over}"


def _output_stationary(array: Array, capacity: Bits, pack: float, work: Gemm, grid: Grid) -> Iterator[_Mapping]:
    """(m, n) on (rows, columns); k in time."""
    depth = math.ceil(work.k / pack)
    rows, columns = array.rows * grid.m, array.columns * grid.n
    row_folds, column_folds = _ceil_div(work.m, rows), _ceil_div(work.n, columns)
    steps = row_folds * column_folds * depth
    if array.delivery is Delivery.SYSTOLIC:
        steps = row_folds * column_folds * (depth + array.rows + array.columns - 2)
    a_bits, b_bits = work.m * work.k * work.a_bits, work.k * work.n * work.b_bits
    c_bits = work.m * work.n * work.out_bits
    sums_bits = work.m * work.n * depth * work.sum_bits
    a_slot, b_slot = math.ceil(pack * work.a_bits), math.ceil(pack * work.b_bits)

    def fits(height: int, width: int) -> bool:
        return height * width * work.sum_bits + height * a_slot + width * b_slot <= capacity

    for height, width in _blocks(row_folds, column_folds, fits):
        yield _Mapping(
            name=_name(array, Dataflow.OUTPUT_STATIONARY, height, width, grid),
            steps=steps * _ceil_div(work.batch, grid.batch),
            sram_read_bits=a_bits * _ceil_div(column_folds, width)
            + b_bits * _ceil_div(row_folds, height)
            + c_bits * work.accumulates,
            sram_write_bits=c_bits,
            register_read_bits=work.m * work.n * work.k * (work.a_bits + work.b_bits) + sums_bits,
            register_write_bits=a_bits * _users(work.n, columns, width)
            + b_bits * _users(work.m, rows, height)
            + sums_bits,
        )


def _operand_stationary(
    array: Array, capacity: Bits, pack: float, work: Gemm, grid: Grid, dataflow: Dataflow
) -> Iterator[_Mapping]:
    """(k, n) on (rows, columns), B stays; m in time. Input stationary passes the transposed product."""
    depth = math.ceil(work.k / pack)
    columns = array.columns * grid.n
    row_folds, column_folds = _ceil_div(depth, array.rows), _ceil_div(work.n, columns)
    streamed = _ceil_div(work.m, grid.m)
    steps, sums = row_folds * column_folds * streamed, row_folds
    if array.delivery is Delivery.SYSTOLIC:
        steps = row_folds * column_folds * (streamed + 2 * array.rows + array.columns - 2)
        sums = depth
    a_bits, b_bits = work.m * work.k * work.a_bits, work.k * work.n * work.b_bits
    outputs = work.m * work.n
    sums_bits = outputs * sums * work.sum_bits
    a_slot, b_slot = math.ceil(pack * work.a_bits), math.ceil(pack * work.b_bits)

    def fits(height: int, width: int) -> bool:
        return height * width * b_slot + height * a_slot + work.sum_bits <= capacity

    for height, width in _blocks(row_folds, column_folds, fits):
        spilled_bits = outputs * (_ceil_div(row_folds, height) - 1) * work.sum_bits
        yield _Mapping(
            name=_name(array, dataflow, height, width, grid),
            steps=steps * _ceil_div(work.batch, grid.batch),
            sram_read_bits=a_bits * _ceil_div(column_folds, width)
            + b_bits
            + spilled_bits
            + outputs * work.out_bits * work.accumulates,
            sram_write_bits=spilled_bits + outputs * work.out_bits,
            register_read_bits=outputs * work.k * (work.a_bits + work.b_bits) + sums_bits,
            register_write_bits=a_bits * _users(work.n, columns, width)
            + b_bits * _ceil_div(work.m, streamed)
            + sums_bits,
        )


def _blocks(row_folds: int, column_folds: int, fits: Callable[[int, int], bool]) -> Iterator[tuple[int, int]]:
    """Yield, for each power of two as height, the widest block that fits; 1 x 1 at least."""
    height = 1
    while height == 1 or fits(height, 1):
        width = 1
        while width < column_folds and fits(height, 2 * width):
            width *= 2
        yield height, width
        if height >= row_folds:
            return
        height *= 2


def _users(extent: int, axis: int, block: int) -> int:
    """How often an operand is written along an axis: once for each element at work in each pass over the axis."""
    passes, rest = divmod(extent, axis * block)
    return passes * axis + min(axis, rest)


def _ceil_div(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)
