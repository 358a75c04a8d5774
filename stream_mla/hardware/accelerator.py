"""The machine that a layer runs on: cores with their arrays and memories, DRAM, links.

On-chip quantities are per cycle, off-chip ones per second, as datasheets give them; the two meet only in
the properties of `Accelerator`. Every number is required: physics has no defaults. Quantities have their ranges in
`stream_mla.units`, which hold for files; the ranges of counts are here, and hold for all. The file is long because a
machine is one form: each type is a few fields with their docstrings and checks, and the types read best together.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from stream_mla.errors import quoted
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
"""Links reach the DRAM by this name."""

RESERVED = ("arrays", "vector units", "arrays and late loads", "critical path", "solver")
"""Results count these beside links, by name: no link may be called so."""

MOST_ROWS = 100_000
"""An array has at most this many rows, and as many columns: 390 times those of the largest that were built (TPU v1)."""
MOST_COPIES = 4096
"""A core has at most this many arrays: the SM of a GPU has 4, the largest engines of phones 16."""
MOST_OPERATIONS = 10**9
"""A vector unit does at most this many operations per cycle: a whole wafer does some 10^7."""
MACS_PER_ELEMENT = (1e-4, 1e4)
"""An element does so many MACs per cycle: from a bit-serial product of 64 bit, 1 in 4,096, to a tensor core as a whole,
some 10^3."""


def _require_count(name: str, value: int, most: int) -> None:
    """Refuse a count of something that there is, or is more of than was ever built."""
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    if value > most:
        raise ValueError(f"{name} must be at most {most:,}, got {quoted(value)}")


class Dataflow(StrEnum):
    """A choice of the GEMM dimensions (C[M,N] = A[M,K] B[K,N]) that are unrolled over (rows, columns) of the array."""

    OUTPUT_STATIONARY = "output_stationary"
    """(M, N): each element keeps one output."""
    WEIGHT_STATIONARY = "weight_stationary"
    """(K, N): each element keeps one element of B."""
    INPUT_STATIONARY = "input_stationary"
    """(K, M): each element keeps one element of A."""


class Delivery(StrEnum):
    """The way in which operands reach the elements of the array."""

    SYSTOLIC = "systolic"
    """From neighbour to neighbour: skewed, with fill and drain (SCALE-Sim's model)."""
    BROADCAST = "broadcast"
    """Along rows and columns at once, with reduction trees: bounded by the SRAM's bandwidth alone."""


class LinkKind(StrEnum):
    """The way in which the bandwidth of a link is shared."""

    BUS = "bus"
    """All transfers between any of its ends share the bandwidth."""
    LINK = "link"
    """Two ends; each direction has the bandwidth to itself."""
    MULTICAST_BUS = "multicast_bus"
    """A bus on which what the DRAM gives goes to several cores at once, for the time of one transfer."""


@dataclass(frozen=True, kw_only=True)
class OperandPrecision:
    """The rate and energy of one element of the array at one operand width."""

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
        _require_count("rows", self.rows, MOST_ROWS)
        _require_count("columns", self.columns, MOST_ROWS)
        _require_count("copies", self.copies, MOST_COPIES)
        if not self.dataflows:
            raise ValueError("dataflows must name at least one dataflow")
        if not self.precisions:
            raise ValueError("precisions must have at least one entry")
        for precision in self.precisions:
            if precision.macs_per_element <= 0:
                raise ValueError(f"macs_per_element must be > 0, got {precision.macs_per_element:g}")
            if not MACS_PER_ELEMENT[0] <= precision.macs_per_element <= MACS_PER_ELEMENT[1]:
                least, most = MACS_PER_ELEMENT
                raise ValueError(
                    f"macs_per_element must be from {least:g} to {most:g}, got {precision.macs_per_element:g}"
                )
            if precision.operand < 1:
                raise ValueError(f"operand must be at least 1 bit, got {precision.operand}")

    @property
    def elements(self) -> int:
        """The elements of all copies."""
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
        _require_count("operations_per_cycle", self.operations_per_cycle, MOST_OPERATIONS)


@dataclass(frozen=True, kw_only=True)
class Registers:
    """The storage inside each element of the array."""

    capacity: Bits
    """The bits per element; they bound how many outputs and operands an element keeps (register blocking)."""
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
    """The time from the last bit on the channel to the data being usable; later transfers overlap with it."""
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
    """Names of cores, or `dram`."""
    bandwidth: BitsPerSecond
    """The rate of all transfers together (bus), or of each direction (link)."""
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

    @property
    def wire_names(self) -> tuple[str, ...]:
        """The names of what all its transfers share: the bus, or each direction of the link."""
        if self.kind is LinkKind.LINK:
            return tuple(self.direction(a, b) for a, b in (self.ends, self.ends[::-1]))
        return (self.name,)

    @property
    def port_names(self) -> tuple[str, ...]:
        """The names of the ports of cores, where they are narrower than the bus."""
        if self.kind is LinkKind.LINK or self.port_bandwidth >= self.bandwidth:
            return ()
        return tuple(self.port(end, way) for end in self.ends if end != DRAM for way in ("in", "out"))

    @property
    def resource_names(self) -> tuple[str, ...]:
        """The names of all bandwidths that it has; no other link of a machine may have the same."""
        return self.wire_names + self.port_names

    def direction(self, source: str, target: str) -> str:
        """Return the name of one direction of a link."""
        return f"{self.name}:{source}>{target}"

    def port(self, end: str, way: str) -> str:
        """Return the name of the port of a core, `in` or `out`."""
        return f"{self.name}:{end}:{way}"


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
        known_ends = {DRAM, *names}
        self._require_different_types()
        for link in self.links:
            for end in link.ends:
                if end not in known_ends:
                    known = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
                    raise ValueError(
                        f"link {link.name!r} ends at {end!r}, which is neither a core ({known}) nor 'dram'"
                    )
        if len({link.name for link in self.links}) != len(self.links):
            raise ValueError("two links have the same name; a link is known by its name")
        self._require_different_resources()
        reached = self._reached_from_dram()
        for name in names:
            if name not in reached:
                raise ValueError(f"no path of links joins core {name!r} with 'dram'; every core needs one")

    def _require_different_types(self) -> None:
        """Refuse two types of one name: what work costs on a core is known by the name of its type."""
        types: dict[str, CoreType] = {}
        for core in self.cores:
            other = types.setdefault(core.type.name, core.type)
            if other is not core.type and other != core.type:
                raise ValueError(
                    f"core {core.name!r} has a type called {core.type.name!r}, and so has another core whose type is "
                    "not the same: give the two types different names"
                )

    def _require_different_resources(self) -> None:
        """Refuse links of which one has a name that results use for something else that is busy."""
        counts = Counter(name for link in self.links for name in link.resource_names)
        for link in self.links:
            for name in link.resource_names:
                if name in (DRAM, *RESERVED) or counts[name] > 1:
                    raise ValueError(
                        f"the link {link.name!r} makes a resource {name!r}, which something else is called in results: "
                        "rename the link"
                    )

    def _reached_from_dram(self) -> set[str]:
        """Return the ends of all links that hang together with the DRAM."""
        links_of: dict[str, list[Link]] = defaultdict(list)
        for link in self.links:
            for end in link.ends:
                links_of[end].append(link)
        reached, waiting = {DRAM}, [DRAM]
        while waiting:
            for link in links_of.pop(waiting.pop(), ()):
                new = set(link.ends) - reached
                reached |= new
                waiting += new
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
