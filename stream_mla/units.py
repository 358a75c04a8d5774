"""Units: the aliases that types carry, the one parser of quantities, and the range that each kind of quantity has.

In YAML the unit is part of the value (`400 GB/s`); in Python a number has the unit of its alias. Texts are converted in
exact fractions and rounded once at the end, so `8 GB` is 64000000000 bit and nothing near it. A number that is only to
be read is written with few digits (`with_prefix`).

The ranges are wider than anything that is built, and narrow enough that every number computed from them is finite and
of a size that integers and floats hold: a quantity outside of them is a slip, and is refused where a file is read.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated

from stream_mla.errors import quoted


@dataclass(frozen=True)
class Range:
    """The values that a kind of quantity may have in a file; 0 is left to the type that holds the quantity."""

    least: str
    most: str
    reason: str
    """Names what lies near the ends."""


@dataclass(frozen=True)
class Unit:
    """The unit a field is stored in, and the spellings a file may use for it."""

    name: str
    spellings: Mapping[str, Fraction] = field(hash=False)
    """Spelling -> factor to the stored unit; `name` itself is among them, with factor 1."""
    whole: bool = False
    """Whether the stored number is an integer."""
    shown: tuple[str, ...] = ()
    """The spellings to write quantities in; all of them where left empty."""
    range: Range | None = None
    """The values that a file may give; None where any is accepted."""


_DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def _data_unit(per: str, *, whole: bool = False, range: Range | None = None) -> Unit:
    """Return bits and bytes with decimal and binary prefixes, `per` a time or alone."""
    prefixes = _DECIMAL | _BINARY
    in_bits = {f"{prefix}bit{per}": Fraction(factor) for prefix, factor in prefixes.items()}
    in_bytes = {f"{prefix}B{per}": Fraction(8 * factor) for prefix, factor in prefixes.items()}
    return Unit(f"bit{per}", in_bits | in_bytes, whole, (f"bit{per}", *in_bytes), range)


def _energy_unit(per: str) -> Unit:
    """Return picojoules and femtojoules per operation of some kind."""
    return Unit(f"pJ/{per}", {f"pJ/{per}": Fraction(1), f"fJ/{per}": Fraction(1, 1000)}, range=ENERGY)


CAPACITY = Range("1 bit", "1000000 TB", "a register has a few bits, the DRAM of a whole data centre some 10^17 byte")
RATE_PER_CYCLE = Range(
    "0.001 bit/cycle", "1000 TB/cycle", "a serial flash beside a fast clock, and thousands of the largest wafers"
)
RATE = Range("1 kbit/s", "1000000 TB/s", "a sensor's serial line has some kbit/s, the SRAM of a wafer 21,000 TB/s")
CLOCK = Range("1 kHz", "1000 GHz", "sensors sleep at 32 kHz, and no logic in CMOS has reached 100 GHz")
LATENCY = Range("0 s", "1 s", "a disk takes 0.01 s; a link slower than 1 s is no part of a machine")
ENERGY = Range("0.000001 fJ", "1000000 pJ", "the thermal limit is 3e-9 pJ, a bit by radio takes some 10^5 pJ")

BITS = _data_unit("", whole=True, range=CAPACITY)
BITS_PER_CYCLE = _data_unit("/cycle", range=RATE_PER_CYCLE)
BITS_PER_SECOND = _data_unit("/s", range=RATE)
HERTZ = Unit(
    "Hz",
    {"Hz": Fraction(1), "kHz": Fraction(10**3), "MHz": Fraction(10**6), "GHz": Fraction(10**9)},
    range=CLOCK,
)
SECONDS = Unit(
    "s",
    {"s": Fraction(1), "ms": Fraction(1, 10**3), "us": Fraction(1, 10**6), "ns": Fraction(1, 10**9)},
    range=LATENCY,
)
PICOJOULES_PER_BIT = Unit(
    "pJ/bit",
    {"pJ/bit": Fraction(1), "fJ/bit": Fraction(1, 1000), "pJ/B": Fraction(1, 8)},
    shown=("pJ/bit", "fJ/bit"),
    range=ENERGY,
)
PICOJOULES_PER_MAC = _energy_unit("MAC")
PICOJOULES_PER_OPERATION = _energy_unit("op")

Bits = Annotated[int, BITS]
BitsPerCycle = Annotated[float, BITS_PER_CYCLE]
BitsPerSecond = Annotated[float, BITS_PER_SECOND]
Hertz = Annotated[float, HERTZ]
Seconds = Annotated[float, SECONDS]
PicojoulesPerBit = Annotated[float, PICOJOULES_PER_BIT]
PicojoulesPerMac = Annotated[float, PICOJOULES_PER_MAC]
PicojoulesPerOperation = Annotated[float, PICOJOULES_PER_OPERATION]

# Three digits of exponent reach beyond every float, and keep `1e999999999 B` from filling the memory.
_NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]{1,3})?|nan|inf"
_QUANTITY = re.compile(rf"([-+]?)({_NUMBER})\s*(\S.*)?", re.IGNORECASE)


LONGEST = 1200
"""A quantity has at most this many characters: in so many every float can be written exactly, and a text of a million
digits would take long to read."""


def within(value: float, unit: Unit, name: str) -> None:
    """Refuse a value that is outside the range of its kind; 0 is left to the type that holds it."""
    if unit.range is None or not value:
        return
    ends = [_end(text, unit) for text in (unit.range.least, unit.range.most)]
    if not ends[0] <= Fraction(value) <= ends[1]:
        per = unit.name.partition("/")[2] if unit.range is ENERGY else ""
        least, most = (f"{text}/{per}" if per else text for text in (unit.range.least, unit.range.most))
        raise ValueError(f"{name} must be from {least} to {most} ({unit.range.reason}), got {value:g} {unit.name}")


def _end(text: str, unit: Unit) -> Fraction:
    """Return an end of a range in the unit; energies are per whatever the unit is per."""
    number, spelling = text.split()
    factor = unit.spellings.get(spelling)
    if factor is None:
        factor = unit.spellings[f"{spelling}/{unit.name.partition('/')[2]}"]
    return Fraction(number) * factor


def _matched(text: object, unit: Unit, expected: str) -> re.Match[str]:
    """Return sign, digits and spelling of a quantity; ValueError where the text is none."""
    if isinstance(text, str) and len(text) > LONGEST:
        raise ValueError(f"{quoted(text)} has {len(text):,} characters: a quantity has at most {LONGEST:,}")
    if isinstance(text, int | float) and not isinstance(text, bool):
        raise ValueError(f"{quoted(text)} has no unit: {expected}")
    match = _QUANTITY.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{quoted(text)} is not a quantity in {unit.name}: {expected}")
    return match


def parse(text: object, unit: Unit) -> int | float:
    """Return the number that `text`, such as `400 GB/s`, says in `unit`; ValueError says what is wrong with it.

    >>> parse("400 GB/s", BITS_PER_SECOND), parse("0.5 ms", SECONDS)
    (3200000000000.0, 0.0005)
    >>> parse("400", BITS_PER_SECOND)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: '400' has no unit: write a number and one of bit/s, kbit/s, Mbit/s, ...
    """
    expected = f"write a number and one of {', '.join(unit.spellings)}"
    match = _matched(text, unit, expected)
    sign, digits, spelling = match.groups()
    if spelling is None:
        raise ValueError(f"{quoted(text)} has no unit: {expected}")
    if spelling not in unit.spellings:
        raise ValueError(f"{quoted(text)} is not a quantity in {unit.name}: {expected}")
    if digits.lower() in ("nan", "inf"):
        raise ValueError(f"{quoted(text)} is not a finite quantity: {expected}")
    exact = Fraction(digits) * unit.spellings[spelling]
    if sign == "-" and exact:
        raise ValueError(f"{quoted(text)} is negative: a quantity in {unit.name} is 0 or more")
    rounded = _float(exact)
    if math.isinf(rounded):
        raise ValueError(f"{quoted(text)} is too large: a quantity in {unit.name} is below 1.8e308")
    if not unit.whole:
        return rounded
    if exact.denominator != 1:
        raise ValueError(f"{quoted(text)} is {rounded:g} {unit.name}: it must be a whole number of {unit.name}")
    return exact.numerator


def format_quantity(value: float, unit: Unit) -> str:
    """Write `value` with a readable prefix, so that `parse` gives back exactly the same number."""
    candidates = [
        (_readability(number, spelling, unit), f"{number} {spelling}")
        for spelling in unit.shown or unit.spellings
        for number in _numbers(Fraction(value) / unit.spellings[spelling])
        if _stored(Fraction(number) * unit.spellings[spelling], unit) == value
    ]
    return min(candidates, key=lambda candidate: candidate[0])[1]


def _numbers(exact: Fraction) -> Iterator[str]:
    """Yield decimal texts near `exact`: all digits of an integer, and the shortest that rounds to its float."""
    if exact.denominator == 1:
        yield str(exact.numerator)
    if not math.isinf(_float(exact)):
        yield repr(_float(exact)).removesuffix(".0")


def _stored(exact: Fraction, unit: Unit) -> Fraction | float:
    return exact if unit.whole else _float(exact)


def _float(exact: Fraction) -> float:
    try:
        return float(exact)
    except OverflowError:
        return math.inf


def _readability(number: str, spelling: str, unit: Unit) -> tuple[bool, bool, bool, int]:
    """Rank a text, best first: no exponent, a number from 1 to 1023, no prefix, few digits."""
    return "e" in number, not 1 <= float(number) < 1024, spelling != unit.name, len(number)


def with_prefix(value: float, unit: str) -> str:
    """Write a number with four digits and an SI prefix, as `474.0 us`."""
    scales = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"))
    scale, prefix = next((entry for entry in scales if value >= 0.99995 * entry[0]), scales[-1])
    if value == 0 or (scale < 1 and unit not in ("s", "J")):
        scale, prefix = 1.0, ""
    return f"{digits(value / scale)} {prefix}{unit}".rstrip()


def digits(value: float) -> str:
    """Write four digits, more only where the integer part has more, none of them as an exponent."""
    for decimals, limit in ((3, 10), (2, 100), (1, 1000)):
        if round(value, decimals) < limit:
            return f"{value:.{decimals}f}"
    return f"{value:,.0f}"
