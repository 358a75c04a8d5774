"""What it runs on: cores with their arrays and memories, DRAM, links.

On-chip quantities are per cycle, off-chip ones per second, as datasheets give them; the two meet only in
the properties of `Accelerator`. Every number is required: physics has no defaults.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from stream_mla.hardware.work import UnitKind
from stream_mla.units import (
    Bits,
    BitsPerCycle,
    BitsPerSecond,
    Hertz,
    PicojoulesPerBit,
    PicojoulesPerMac,
    PicojoulesPerOperation,
    Seconds,
)

DRAM = "dram"
"""The name by which links reach the DRAM."""


class Dataflow(StrEnum):
    """Which GEMM dimensions (C[M,N] = A[M,K] B[K,N]) are unrolled over (rows, columns) of the array."""

    OUTPUT_STATIONARY = "output_stationary"
    """(M, N): each element keeps one output."""
    WEIGHT_STATIONARY = "weight_stationary"
    """(K, N): each element keeps one element of B."""
    INPUT_STATIONARY = "input_stationary"
    """(K, M): each element keeps one element of A."""


class Delivery(StrEnum):
    """How operands reach the elements of the array."""

    SYSTOLIC = "systolic"
    """From neighbour to neighbour: skewed, with fill and drain (SCALE-Sim's model)."""
    BROADCAST = "broadcast"
    """Along rows and columns at once, with reduction trees: bounded by the SRAM's bandwidth alone."""


class LinkKind(StrEnum):
    """How the bandwidth of a link is shared."""

    BUS = "bus"
    """All transfers between any of its ends share the bandwidth."""
    LINK = "link"
    """Two ends; each direction has the bandwidth to itself."""
    MULTICAST_BUS = "multicast_bus"
    """A bus on which what the DRAM gives goes to several cores at once, for the time of one transfer."""


@dataclass(frozen=True, kw_only=True)
class OperandPrecision:
    """What one element of the array does at one operand width."""

    operand: Bits
    macs_per_element: float
    """MACs per element and cycle: 2 where two narrow products are packed, 0.25 where a wide one takes 4 cycles."""
    mac_energy: PicojoulesPerMac


@dataclass(frozen=True, kw_only=True)
class Array:
    """A two-dimensional array of multiply-accumulate elements, or several alike that share one SRAM."""

    rows: int
    columns: int
    delivery: Delivery
    dataflows: tuple[Dataflow, ...]
    precisions: tuple[OperandPrecision, ...]
    copies: int = 1
    """Arrays of rows x columns that work side by side in one core: how it is built, not a quantity."""

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise ValueError(f"rows and columns must be at least 1, got {self.rows} x {self.columns}")
        if self.copies < 1:
            raise ValueError(f"copies must be at least 1, got {self.copies}")
        if not self.dataflows:
            raise ValueError("dataflows must name at least one dataflow")
        if not self.precisions:
            raise ValueError("precisions must have at least one entry")
        for precision in self.precisions:
            if precision.macs_per_element <= 0:
                raise ValueError(f"macs_per_element must be > 0, got {precision.macs_per_element:g}")

    @property
    def elements(self) -> int:
        """Of all copies."""
        return self.copies * self.rows * self.columns

    def precision(self, operand_bits: int) -> OperandPrecision | None:
        """Return the narrowest precision that holds `operand_bits`, or None where all are narrower."""
        wide_enough = [entry for entry in self.precisions if entry.operand >= operand_bits]
        return min(wide_enough, key=lambda entry: entry.operand, default=None)


@dataclass(frozen=True, kw_only=True)
class VectorUnit:
    """Lanes for softmax, norms, RoPE and merges."""

    operations_per_cycle: int
    operation_energy: PicojoulesPerOperation

    def __post_init__(self) -> None:
        if self.operations_per_cycle < 1:
            raise ValueError(f"operations_per_cycle must be at least 1, got {self.operations_per_cycle}")


@dataclass(frozen=True, kw_only=True)
class Registers:
    """The storage inside each element of the array."""

    capacity: Bits
    """Per element; bounds how many outputs and operands an element keeps (register blocking)."""
    read_energy: PicojoulesPerBit
    write_energy: PicojoulesPerBit


@dataclass(frozen=True, kw_only=True)
class Sram:
    """The memory of one core, which tiles, loads and residencies share."""

    capacity: Bits
    read_bandwidth: BitsPerCycle
    write_bandwidth: BitsPerCycle
    read_energy: PicojoulesPerBit
    write_energy: PicojoulesPerBit

    def __post_init__(self) -> None:
        for name in ("capacity", "read_bandwidth", "write_bandwidth"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name):g}")


@dataclass(frozen=True, kw_only=True)
class CoreType:
    """One kind of core: an array, a vector unit, or both, around one SRAM."""

    name: str
    source: str
    array: Array | None
    vector: VectorUnit | None
    registers: Registers | None
    """Required with an array."""
    sram: Sram

    def __post_init__(self) -> None:
        if self.array is None and self.vector is None:
            raise ValueError("a core needs an array, a vector unit, or both; it has neither")
        if (self.array is None) != (self.registers is None):
            raise ValueError("array and registers go together: give both or neither")


@dataclass(frozen=True, kw_only=True)
class Core:
    """One core of a system: `name` is unique, e.g. `core[2]`."""

    name: str
    type: CoreType


@dataclass(frozen=True, kw_only=True)
class Dram:
    """The memory behind the chip. Reads and writes share its bandwidth."""

    capacity: Bits
    bandwidth: BitsPerSecond
    latency: Seconds
    """From the last bit on the channel to the data being usable; later transfers overlap with it."""
    read_energy: PicojoulesPerBit
    write_energy: PicojoulesPerBit

    def __post_init__(self) -> None:
        for name in ("capacity", "bandwidth"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name):g}")


@dataclass(frozen=True, kw_only=True)
class Link:
    """A named connection between cores, or between cores and DRAM."""

    name: str
    kind: LinkKind
    ends: tuple[str, ...]
    """Core names, or `dram`."""
    bandwidth: BitsPerSecond
    """Of all transfers together (bus), or of each direction (link)."""
    port_bandwidth: BitsPerSecond
    """The most that one core's port takes or gives; equal to `bandwidth` where one core may use all of it."""
    latency: Seconds
    energy: PicojoulesPerBit

    def __post_init__(self) -> None:
        if self.kind is LinkKind.LINK and len(self.ends) != 2:
            raise ValueError(f"a link has two ends, got {len(self.ends)}: make it a bus")
        if len(set(self.ends)) != len(self.ends) or len(self.ends) < 2:
            raise ValueError(f"ends must name at least two different ends, got {', '.join(self.ends)}")
        for name in ("bandwidth", "port_bandwidth"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name):g}")


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """A whole machine."""

    name: str
    source: str
    clock: Hertz
    cores: tuple[Core, ...]
    dram: Dram
    links: tuple[Link, ...]

    def __post_init__(self) -> None:
        if not self.cores:
            raise ValueError("cores must name at least one core")
        if self.clock <= 0:
            raise ValueError(f"clock must be > 0, got {self.clock:g}")
        names = [core.name for core in self.cores]
        for link in self.links:
            for end in link.ends:
                if end != DRAM and end not in names:
                    known = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
                    raise ValueError(
                        f"link {link.name!r} ends at {end!r}, which is neither a core ({known}) nor 'dram'"
                    )
        if len({link.name for link in self.links}) != len(self.links):
            raise ValueError("two links have the same name; a link is known by its name")
        reached = self._reached_from_dram()
        for name in names:
            if name not in reached:
                raise ValueError(f"no path of links joins core {name!r} with 'dram'; every core needs one")

    def _reached_from_dram(self) -> set[str]:
        """Return the ends of all links that hang together with the DRAM."""
        reached, before = {DRAM}, 0
        while len(reached) > before:
            before = len(reached)
            for link in self.links:
                if not reached.isdisjoint(link.ends):
                    reached.update(link.ends)
        return reached

    def per_cycle(self, bits_per_second: BitsPerSecond) -> BitsPerCycle:
        """Convert a bandwidth to bits per cycle of the clock."""
        return bits_per_second / self.clock

    def latency_cycles(self, seconds: Seconds) -> int:
        """Convert a latency to whole cycles, rounded up."""
        cycles = seconds * self.clock
        return -int(-cycles // 1) if abs(cycles - round(cycles)) > 1e-6 else round(cycles)

    def count(self, kind: UnitKind) -> int:
        """Return how many cores have a unit of a kind."""
        match kind:
            case UnitKind.ARRAY:
                return len(list(self.array_cores()))
            case UnitKind.VECTOR:
                return len(list(self.vector_cores()))

    def array_cores(self) -> Iterator[Core]:
        """Yield the cores that have a MAC array."""
        return (core for core in self.cores if core.type.array is not None)

    def vector_cores(self) -> Iterator[Core]:
        """Yield the cores that have a vector unit."""
        return (core for core in self.cores if core.type.vector is not None)
