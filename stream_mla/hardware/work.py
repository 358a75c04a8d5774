"""Units of work that a core prices: what a tile does, without the machine that does it."""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from stream_mla.units import Bits

SUM_BITS = 32
"""The least width in which sums are kept."""


class UnitKind(Enum):
    """A kind of execution unit that a core may have; each unit runs one tile at a time.

    The value is the word that messages use. A tile's work says which kind runs it (`unit_kind`).
    """

    ARRAY = "array"
    VECTOR = "vector unit"

    @property
    def plural(self) -> str:
        """The name of all units of this kind together."""
        return f"{self.value}s"


def _require_at_least(least: int, owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


@dataclass(frozen=True, kw_only=True)
class Gemm:
    """`batch` independent products C[m, n] (+)= A[m, k] B[k, n]."""

    unit_kind: ClassVar[UnitKind] = UnitKind.ARRAY
    batch: int
    m: int
    n: int
    k: int
    a_bits: Bits
    """Per element, as `b_bits` and `out_bits`."""
    b_bits: Bits
    out_bits: Bits
    """An element of C has so many bits as it is stored in SRAM."""
    accumulates: bool
    """C already holds a partial result that is added to."""

    def __post_init__(self) -> None:
        _require_at_least(1, self, "batch", "m", "n", "k", "a_bits", "b_bits", "out_bits")

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole batch."""
        return self.batch * self.m * self.n * self.k

    @property
    def operand_bits(self) -> Bits:
        """The width the array has to multiply at."""
        return max(self.a_bits, self.b_bits)

    @property
    def sum_bits(self) -> Bits:
        """The width of an unfinished sum."""
        return max(SUM_BITS, self.out_bits)

    def transposed(self) -> "Gemm":
        """Return the same work as C' = B' A'."""
        return Gemm(
            batch=self.batch,
            m=self.n,
            n=self.m,
            k=self.k,
            a_bits=self.b_bits,
            b_bits=self.a_bits,
            out_bits=self.out_bits,
            accumulates=self.accumulates,
        )


@dataclass(frozen=True, kw_only=True)
class VectorWork:
    """Elementwise work: softmax, norms, RoPE, merges."""

    unit_kind: ClassVar[UnitKind] = UnitKind.VECTOR
    operations: int
    read_bits: Bits
    write_bits: Bits

    def __post_init__(self) -> None:
        _require_at_least(0, self, "operations", "read_bits", "write_bits")
