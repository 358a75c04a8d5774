"""Reads values that are given by name, and notes what is wrong with each, so that all of it is said at once."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import TypeVar, cast

from stream_mla.units import SECONDS, parse

_Choice = TypeVar("_Choice", bound=StrEnum)

MOST_WORKERS = 256
"""The solver gets at most this many threads: it has no use for more, and each takes memory."""
LARGEST = 2**31 - 1
"""Largest whole number that a setting may be: what the solver takes as a seed, and more than any sensible count."""


def nearest(name: object, known: Iterable[str]) -> str:
    """Return advice on a name that is not known: the nearest known one, or all."""
    known = list(known)
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.5) if isinstance(name, str) else []
    return f"did you mean {found[0]}?" if found else f"use one of {', '.join(known)}"


class ValueReader:
    """Reads one value after the other and notes what is wrong; a wrong value is read as some right one."""

    def __init__(self, spell: Callable[[str], str]) -> None:
        """`spell` writes a name in a message as its user knows it."""
        self.spell = spell
        self.found: list[tuple[str, str]] = []

    def note(self, name: str, problem: str) -> None:
        """Note a problem of a setting."""
        self.found.append((name, problem))

    def whole(self, name: str, given: object, least: int, most: int = LARGEST) -> int:
        """Return a count in a range."""
        if not isinstance(given, int) or isinstance(given, bool):
            self.note(name, f"expected a whole number, got {given!r:.60}")
        elif not least <= given <= most:
            self.note(name, f"must be from {least} to {most}, got {given}")
        else:
            return given
        return least

    def flag(self, name: str, given: object) -> bool:
        """Return a truth value."""
        if not isinstance(given, bool):
            self.note(name, f"expected True or False, got {given!r:.60}")
            return False
        return given

    def number(self, name: str, given: object, expected: str) -> float | None:
        """Return a number, or None after noting that there is none."""
        if isinstance(given, int | float) and not isinstance(given, bool):
            return float(given)
        self.note(name, f"expected {expected}, got {given!r:.60}")
        return None

    def share(self, name: str, given: object) -> float:
        """Return a share of the whole."""
        number = self.number(name, given, "a share, such as 0.001")
        if number is not None and not 0 <= number < 1:
            self.note(name, f"must be at least 0 and less than 1, got {given}")
        return number or 0.0

    def seconds(self, name: str, given: object) -> float:
        """Return a time in seconds: a number, or a text with a unit."""
        if isinstance(given, str):
            try:
                given = float(parse(given, SECONDS))
            except ValueError as error:
                self.note(name, f"expected seconds, or a time such as '500 ms': {error}")
                return 0.0
        number = self.number(name, given, "a number of seconds")
        if number is not None and not 0 <= number <= LARGEST:
            self.note(name, f"must be from 0 to {LARGEST} seconds, got {given}")
        return number or 0.0

    def member(self, name: str, given: object, kind: type[_Choice]) -> _Choice:
        """Return a member of an enumeration by its value; the first one after noting a problem."""
        values = [str(member) for member in kind]
        if isinstance(given, str) and given in values:
            return kind(given)
        self.note(name, f"no such choice: {given!r:.60}: {nearest(given, values)}")
        return next(iter(kind))

    def sizes(self, name: str, given: object) -> dict[str, int]:
        """Return whole numbers by name."""
        if not isinstance(given, Mapping):
            self.note(name, f"expected a mapping of names to whole numbers, got {given!r:.60}")
            return {}
        entries = cast("Mapping[object, object]", given)
        return {str(key): self.whole(f"{name}[{key!r:.40}]", size, 1) for key, size in entries.items()}
