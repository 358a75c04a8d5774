"""Units: the aliases that types carry, and the one parser of quantities.

In YAML the unit is part of the value (`400 GB/s`); in Python a number has the unit of its alias. Texts are
converted in exact fractions and rounded once at the end, so `8 GB` is 64000000000 bit and nothing near it. What is only
to be read is written with few digits (`with_prefix`).
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated


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


_DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def _data_unit(per: str, *, whole: bool = False) -> Unit:
    """Bits and bytes with decimal and binary prefixes, `per` a time or alone."""
    prefixes = _DECIMAL | _BINARY
    in_bits = {f"{prefix}bit{per}": Fraction(factor) for prefix, factor in prefixes.items()}
    in_bytes = {f"{prefix}B{per}": Fraction(8 * factor) for prefix, factor in prefixes.items()}
    return Unit(f"bit{per}", in_bits | in_bytes, whole, (f"bit{per}", *in_bytes))


def _energy_unit(per: str, **more: Fraction) -> Unit:
    return Unit(f"pJ/{per}", {f"pJ/{per}": Fraction(1), f"fJ/{per}": Fraction(1, 1000)} | more)


BITS = _data_unit("", whole=True)
BITS_PER_CYCLE = _data_unit("/cycle")
BITS_PER_SECOND = _data_unit("/s")
HERTZ = Unit("Hz", {"Hz": Fraction(1), "kHz": Fraction(10**3), "MHz": Fraction(10**6), "GHz": Fraction(10**9)})
SECONDS = Unit("s", {"s": Fraction(1), "ms": Fraction(1, 10**3), "us": Fraction(1, 10**6), "ns": Fraction(1, 10**9)})
PICOJOULES_PER_BIT = Unit(
    "pJ/bit",
    {"pJ/bit": Fraction(1), "fJ/bit": Fraction(1, 1000), "pJ/B": Fraction(1, 8)},
    shown=("pJ/bit", "fJ/bit"),
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


def parse(text: object, unit: Unit) -> int | float:
    """Return the number that `text`, such as `400 GB/s`, says in `unit`; ValueError says what is wrong with it.

    >>> parse("400 GB/s", BITS_PER_SECOND), parse("0.5 ms", SECONDS)
    (3200000000000.0, 0.0005)
    >>> parse("400", BITS_PER_SECOND)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: '400' has no unit: write a number and one of bit/s, kbit/s, Mbit/s, ...
    """
    expected = f"write a number and one of {', '.join(unit.spellings)}"
    if isinstance(text, int | float) and not isinstance(text, bool):
        raise ValueError(f"{text!r} has no unit: {expected}")
    match = _QUANTITY.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r} is not a quantity in {unit.name}: {expected}")
    sign, digits, spelling = match.groups()
    if spelling is None:
        raise ValueError(f"{text!r} has no unit: {expected}")
    if spelling not in unit.spellings:
        raise ValueError(f"{text!r} is not a quantity in {unit.name}: {expected}")
    if digits.lower() in ("nan", "inf"):
        raise ValueError(f"{text!r} is not a finite quantity: {expected}")
    exact = Fraction(digits) * unit.spellings[spelling]
    if sign == "-" and exact:
        raise ValueError(f"{text!r} is negative: a quantity in {unit.name} is 0 or more")
    rounded = _float(exact)
    if math.isinf(rounded):
        raise ValueError(f"{text!r} is too large: a quantity in {unit.name} is below 1.8e308")
    if not unit.whole:
        return rounded
    if exact.denominator != 1:
        raise ValueError(f"{text!r} is {rounded:g} {unit.name}: it must be a whole number of {unit.name}")
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
    if value == 0 or (scale < 1 and unit != "s"):
        scale, prefix = 1.0, ""
    return f"{digits(value / scale)} {prefix}{unit}".rstrip()


def digits(value: float) -> str:
    """Write four digits, more only where the integer part has more, none of them as an exponent."""
    for decimals, limit in ((3, 10), (2, 100), (1, 1000)):
        if round(value, decimals) < limit:
            return f"{value:.{decimals}f}"
    return f"{value:,.0f}"
