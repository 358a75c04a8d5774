"""Values of options; argparse puts the option's name before the message."""

import argparse

from stream_mla.errors import quoted
from stream_mla.settings import STORED, TENSORS
from stream_mla.value_reader import LARGEST, MOST_WORKERS
from stream_mla.workload.spec import MOST_REQUESTS, MOST_TOKENS

LONGEST_CYCLES = 10**15
"""A latency cap has at most this many cycles: ten days at 1 GHz."""


def positive(text: str) -> int:
    """Read a count."""
    return _whole(text, least=1)


def not_negative(text: str) -> int:
    """Read a count that may be 0."""
    return _whole(text, least=0)


def tokens(text: str) -> int:
    """Read a count of tokens that may be 0."""
    return _whole(text, least=0, most=MOST_TOKENS)


def new_tokens(text: str) -> int:
    """Read a count of tokens of which there is at least one."""
    return _whole(text, least=1, most=MOST_TOKENS)


def requests(text: str) -> int:
    """Read a size of a batch."""
    return _whole(text, least=1, most=MOST_REQUESTS)


def workers(text: str) -> int:
    """Read a number of threads."""
    return _whole(text, least=1, most=MOST_WORKERS)


def _whole(text: str, *, least: int, most: int = LARGEST) -> int:
    """Return a whole number in a range."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {quoted(text)}") from None
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"must be from {least} to {most}, got {quoted(number)}")
    return number


def seconds(text: str) -> float:
    """Read a time limit."""
    number = _number(text, "a number of seconds")
    if not 0 <= number <= LARGEST:
        raise argparse.ArgumentTypeError(f"must be from 0 to {LARGEST} seconds, got {quoted(text)}")
    return number


def share(text: str) -> float:
    """Read a share of the whole."""
    number = _number(text, "a share, such as 0.001")
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 0 and less than 1, got {quoted(text)}")
    return number


def _number(text: str, expected: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {expected}, got {quoted(text)}") from None


def cycles_or_seconds(text: str) -> int | float:
    """Read `500000` as cycles (an int) and `0.5 ms` as seconds (a float)."""
    from stream_mla.units import SECONDS, parse

    if text.isascii() and text.isdecimal():
        return _whole(text, least=1, most=LONGEST_CYCLES)
    try:
        number = float(parse(text, SECONDS))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected cycles, or a time such as '0.5 ms': {error}") from None
    if not 0 < number <= LARGEST:
        raise argparse.ArgumentTypeError(f"must be more than 0 s and at most {LARGEST} s, got {quoted(text)}")
    return number


def sizes(text: str) -> dict[str, int]:
    """Read `h=16,k=512`."""
    found: dict[str, int] = {}
    for entry in text.split(","):
        name, equals, size = entry.partition("=")
        if not equals:
            raise argparse.ArgumentTypeError(f"expected NAME=N, got {quoted(entry)}")
        if name in found:
            raise argparse.ArgumentTypeError(f"{name} is given twice: keep one")
        found[name] = positive(size)
    return found


SPLITS = {"kv_splits": "parts", "k_splits": "row_parts"}
"""The field's names for splits of keys and of contractions -> those under which points and stored results have them."""


def tile_sizes(text: str) -> dict[str, int]:
    """Read `h=16,kv_splits=4,k_splits.out=2`."""
    found: dict[str, int] = {}
    for name, size in sizes(text).items():
        kind, dot, operator = name.partition(".")
        known = SPLITS.get(kind, kind) + dot + operator
        if known in found:
            raise argparse.ArgumentTypeError(f"{name} and {known} are one: keep one")
        found[known] = size
    return found


def bits(text: str) -> dict[str, int]:
    """Read `8` or `all=8` (weights, cache and activations), `weights=8,cache=8`, or both, of which the latter wins."""
    first, comma, rest = text.partition(",")
    found = sizes(f"all={first}{comma}{rest}" if first.isascii() and first.isdecimal() else text)
    if unknown := [name for name in found if name not in (*TENSORS, "all")]:
        raise argparse.ArgumentTypeError(
            f"no such tensor: {', '.join(unknown)}: use {', '.join(TENSORS)}, or all for the first three"
        )
    every = found.pop("all", None)
    return found if every is None else dict.fromkeys(STORED, every) | found
