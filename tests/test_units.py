"""Quantities: exact, with their unit, and back again."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_mla.units import (
    BITS,
    BITS_PER_CYCLE,
    BITS_PER_SECOND,
    HERTZ,
    PICOJOULES_PER_BIT,
    PICOJOULES_PER_MAC,
    PICOJOULES_PER_OPERATION,
    SECONDS,
    Unit,
    format_quantity,
    parse,
)

FLOAT_UNITS = [
    BITS_PER_CYCLE,
    BITS_PER_SECOND,
    HERTZ,
    SECONDS,
    PICOJOULES_PER_BIT,
    PICOJOULES_PER_MAC,
    PICOJOULES_PER_OPERATION,
]
OF_BITS = "bit, kbit, Mbit, Gbit, Tbit, Kibit, Mibit, Gibit, Tibit, B, kB, MB, GB, TB, KiB, MiB, GiB, TiB"


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("8 GB", BITS, 64_000_000_000),
        ("8 GiB", BITS, 8 * 8 * 2**30),
        ("0.3 kB", BITS, 2400),  # 0.3 * 8000 is 2400 exactly, though not in floats of 0.1 * 3
        ("1.1 Mbit", BITS, 1_100_000),
        ("64bit", BITS, 64),
        ("-0 bit", BITS, 0),
        ("1e3 bit", BITS, 1000),
        ("400 GB/s", BITS_PER_SECOND, 3.2e12),
        ("16 B/cycle", BITS_PER_CYCLE, 128.0),
        ("2 KiB/cycle", BITS_PER_CYCLE, 16384.0),
        ("1.41 GHz", HERTZ, 1.41e9),
        ("100 ns", SECONDS, 1e-7),
        (" 5 us ", SECONDS, 5e-6),
        ("8 pJ/B", PICOJOULES_PER_BIT, 1.0),
        ("10 fJ/bit", PICOJOULES_PER_BIT, 0.01),
        ("80 fJ/MAC", PICOJOULES_PER_MAC, 0.08),
        (".5 pJ/op", PICOJOULES_PER_OPERATION, 0.5),
    ],
)
def test_quantity_is_exact(text: str, unit: Unit, value: float):
    parsed = parse(text, unit)
    assert parsed == value
    assert isinstance(parsed, int) is unit.whole


@pytest.mark.parametrize(
    ("text", "unit", "message"),
    [
        (8, BITS, f"8 has no unit: write a number and one of {OF_BITS}"),
        ("8", BITS, f"'8' has no unit: write a number and one of {OF_BITS}"),
        ("8 KB", BITS, f"'8 KB' is not a quantity in bit: write a number and one of {OF_BITS}"),
        (2.5, HERTZ, "2.5 has no unit: write a number and one of Hz, kHz, MHz, GHz"),
        ("2 MB", HERTZ, "'2 MB' is not a quantity in Hz: write a number and one of Hz, kHz, MHz, GHz"),
        ("fast", HERTZ, "'fast' is not a quantity in Hz: write a number and one of Hz, kHz, MHz, GHz"),
        (True, HERTZ, "True is not a quantity in Hz: write a number and one of Hz, kHz, MHz, GHz"),
        (None, HERTZ, "None is not a quantity in Hz: write a number and one of Hz, kHz, MHz, GHz"),
        ("nan Hz", HERTZ, "'nan Hz' is not a finite quantity: write a number and one of Hz, kHz, MHz, GHz"),
        ("-inf Hz", HERTZ, "'-inf Hz' is not a finite quantity: write a number and one of Hz, kHz, MHz, GHz"),
        ("-1 GHz", HERTZ, "'-1 GHz' is negative: a quantity in Hz is 0 or more"),
        ("1e300 GHz", HERTZ, "'1e300 GHz' is too large: a quantity in Hz is below 1.8e308"),
        ("0.3 B", BITS, "'0.3 B' is 2.4 bit: it must be a whole number of bit"),
    ],
)
def test_wrong_quantity_is_refused_with_advice(text: object, unit: Unit, message: str):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse(text, unit)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, BITS, "0 bit"),
        (8, BITS, "8 bit"),
        (256_000_000, BITS, "32 MB"),
        (8 * 64 * 2**30, BITS, "64 GiB"),
        (3.2e12, BITS_PER_SECOND, "400 GB/s"),
        (128.0, BITS_PER_CYCLE, "128 bit/cycle"),
        (1e9, HERTZ, "1 GHz"),
        (1e-7, SECONDS, "100 ns"),
        (8.0, PICOJOULES_PER_BIT, "8 pJ/bit"),
        (0.08, PICOJOULES_PER_MAC, "80 fJ/MAC"),
    ],
)
def test_quantity_is_written_readably(value: float, unit: Unit, text: str):
    assert format_quantity(value, unit) == text


@given(st.integers(min_value=0, max_value=2**80))
def test_bits_survive_writing(value: int):
    assert parse(format_quantity(value, BITS), BITS) == value


@given(st.floats(min_value=0, allow_infinity=False), st.sampled_from(FLOAT_UNITS))
def test_floats_survive_writing(value: float, unit: Unit):
    assert parse(format_quantity(value, unit), unit) == value
