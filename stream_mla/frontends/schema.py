"""Mappings to frozen dataclasses and back, guided by type hints alone.

The reader goes on after a mistake, so that one run reports every problem of a file, each with its path in the
terms of the file. A part (a dataclass or None) may be left out, and what has a default (how many there are of
something); a physical quantity never, for physics has no defaults.
"""

import difflib
import sys
import types
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Union, cast, get_args, get_origin, get_type_hints

from stream_mla.errors import MOST_PROBLEMS, UNPRINTABLE, quoted
from stream_mla.units import Unit, format_quantity, parse, within

LONGEST_NAME = 200
"""A name has at most this many characters: names are columns of tables and parts of file names, which end at 255."""


class Failed:
    """A reader returns this after it noted a problem, so that nothing is said twice about one mistake."""


FAILED: Final = Failed()


class Reader:
    """Reads values by type hint and gathers the problems. Subclasses give single types a form of their own."""

    def __init__(self, kinds: Mapping[str, type], file: str = "") -> None:
        """`kinds`: names of the members of unions, which files choose by the key `kind`; `file`: starts each path."""
        self.kinds = kinds
        self.problems: list[str] = []
        self._file = file

    def add(self, problem: str, path: str) -> Failed:
        """Note a problem at a path of the file."""
        place = path or "top level"
        self.problems.append(f"{problem} @ {self._file}: {place}" if self._file else f"{problem} @ {place}")
        return FAILED

    def closest(self, word: str, known: Iterable[str]) -> str | None:
        """Return the known word that a misspelt one was meant to be, if any is near; not for problems that are only
        counted in the end, as comparing thousands of words takes long.
        """
        if len(self.problems) >= MOST_PROBLEMS:
            return None
        return next(iter(difflib.get_close_matches(word[:LONGEST_NAME], sorted(known), n=1)), None)

    def read(self, hint: Any, value: object, path: str) -> Any:
        """Return `value` as the type that `hint` asks for, or FAILED."""
        origin = get_origin(hint)
        if origin is Annotated:
            return self._quantity(hint.__metadata__[0], value, path)
        if origin is tuple:
            return self._sequence(get_args(hint)[0], value, path)
        if origin in (Union, types.UnionType):
            return self._union(get_args(hint), value, path)
        if is_dataclass(hint):
            return self.dataclass(hint, value, path)
        if issubclass(hint, StrEnum):
            return self._choice(hint, value, path)
        return self._plain(hint, value, path)

    def dataclass(self, cls: Any, value: object, path: str) -> Any:
        """Read the fields of a dataclass and construct it; what its constructor refuses is a problem at `path`."""
        hints = get_type_hints(cls, include_extras=True)
        optional = {field.name for field in fields(cls) if field.default is not MISSING}
        values = self._fields({field.name: hints[field.name] for field in fields(cls)}, value, path, optional)
        return values if isinstance(values, Failed) else self.construct(cls, values, path)

    def construct(self, cls: Any, values: Mapping[str, object], path: str) -> Any:
        """Return what a constructor makes of the values, or FAILED; what it refuses is a problem at `path`."""
        try:
            return cls(**values)
        except ValueError as error:
            return self.add(str(error), path)

    def _fields(
        self, hints: Mapping[str, Any], value: object, path: str, optional: Collection[str] = ()
    ) -> dict[str, object] | Failed:
        """Read each field of a mapping; FAILED where one is missing, unknown or wrong."""
        if not isinstance(value, dict):
            return self.add(f"expected a mapping with the keys {', '.join(hints)}, got {quoted(value)}", path)
        given = {key_text(key): item for key, item in cast(dict[object, object], value).items()}
        missing = [name for name in hints if name not in given]
        failed = False
        for key in [key for key in given if key not in hints]:
            failed = True
            near = self.closest(key, missing) or self.closest(key, hints)
            advice = f"did you mean {near!r}?" if near else f"remove it, or use one of {', '.join(hints)}"
            self.add(f"unknown key {quoted(key)}: {advice}", join(path, key))
            # A misspelt key is one mistake: the key it should have been is not reported as missing too.
            missing = [name for name in missing if name != near]
        values: dict[str, object] = {}
        for name, hint in hints.items():
            if name in given:
                values[name] = self.read(hint, given[name], join(path, name))
            elif is_part(hint):
                values[name] = None
            elif name in missing and name not in optional:
                values[name] = self.add(f"required key {name!r} is missing: add it", join(path, name))
        return FAILED if failed or FAILED in values.values() else values

    def _quantity(self, unit: Unit, value: object, path: str) -> Any:
        """Read a quantity, whose number must lie in the range of its kind."""
        try:
            number = parse(value, unit)
            within(number, unit, path.rpartition(".")[2])
            return number
        except ValueError as error:
            return self.add(str(error), path)

    def _sequence(self, hint: Any, value: object, path: str) -> Any:
        if not isinstance(value, list):
            return self.add(f"expected a list, got {quoted(value)}: write [...], or lines that start with '-'", path)
        items = [self.read(hint, item, f"{path}[{i}]") for i, item in enumerate(cast(list[object], value))]
        return FAILED if any(item is FAILED for item in items) else tuple(items)

    def _union(self, members: tuple[Any, ...], value: object, path: str) -> Any:
        """Read `X | None`, or one of several dataclasses, which the key `kind` names."""
        if value is None and types.NoneType in members:
            return None
        options = [member for member in members if member is not types.NoneType]
        if len(options) == 1:
            return self.read(options[0], value, path)
        kinds = {name: cls for name, cls in self.kinds.items() if cls in options}
        if not isinstance(value, dict):
            return self.add(f"expected a mapping with the key 'kind' ({' or '.join(kinds)}), got {quoted(value)}", path)
        rest = dict(cast(dict[object, object], value))
        if "kind" not in rest:
            return self.add(f"required key 'kind' is missing: add it, one of {', '.join(kinds)}", join(path, "kind"))
        kind = rest.pop("kind")
        if not isinstance(kind, str) or kind not in kinds:
            return self.add(f"{quoted(kind)} is not a kind: use one of {', '.join(kinds)}", join(path, "kind"))
        return self.dataclass(kinds[kind], rest, path)

    def _choice(self, cls: type[StrEnum], value: object, path: str) -> Any:
        try:
            return cls(cast(str, value))
        except (ValueError, TypeError):  # TypeError: a list, which no set contains
            return self.add(f"{quoted(value)} is not a {words(cls.__name__)}: use one of {', '.join(cls)}", path)

    def _plain(self, cls: type, value: object, path: str) -> Any:
        """Read a bool, an integer, a number without unit, or text. To Python True is an int; here it is not."""
        if isinstance(value, bool) is not (cls is bool) or not isinstance(value, int | float if cls is float else cls):
            return self.add(f"expected {_EXPECTED[cls][0]}, got {quoted(value)}: {_EXPECTED[cls][1]}", path)
        if cls is str:
            return self._text(cast(str, value), path)
        if cls is float and not abs(cast(float, value)) <= sys.float_info.max:
            return self.add(f"{quoted(value)} is not a finite number: write digits", path)
        return cast(Any, cls)(value)

    def _text(self, text: str, path: str) -> Any:
        """Read text that is safe to print; a name is short, is not empty, and has no line breaks."""
        if found := UNPRINTABLE.search(text):
            return self.add(f"{quoted(text)} has the character {quoted(found[0])}, which is not text: remove it", path)
        if path.rpartition(".")[2] != "name":
            return text
        if not text.strip() or "\n" in text or "\t" in text or len(text) > LONGEST_NAME:
            return self.add(f"a name has 1 to {LONGEST_NAME} characters on one line, got {quoted(text)}", path)
        return text


_EXPECTED: Mapping[type, tuple[str, str]] = {
    bool: ("true or false", "write one of the two, without quotes"),
    int: ("a whole number", "write digits alone, without unit or quotes"),
    float: ("a number", "write digits with a decimal point, without unit or quotes"),
    str: ("text", "write it in quotes"),
}


def key_text(key: object) -> str:
    """Return a key as text; a huge integer, which Python does not write, in words."""
    return key if isinstance(key, str) else quoted(key)


def join(path: str, key: str) -> str:
    """Return the path of a key below `path`."""
    return f"{path}.{key}" if path else key


def is_part(hint: Any) -> bool:
    """Tell whether a hint is a dataclass or None."""
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else ()
    return types.NoneType in members and all(member is types.NoneType or is_dataclass(member) for member in members)


def unstructure(value: Any, hint: Any, kinds: Mapping[str, type]) -> Any:
    """Return what `Reader` reads as `value`: mappings, lists, and quantities with their units."""
    origin = get_origin(hint)
    if value is None:
        return None
    if origin is Annotated:
        return format_quantity(value, hint.__metadata__[0])
    if origin is tuple:
        return [unstructure(item, get_args(hint)[0], kinds) for item in value]
    if is_dataclass(value):
        hints = get_type_hints(type(value), include_extras=True)
        data: dict[str, Any] = {}
        if kind := next((name for name, cls in kinds.items() if cls is type(value)), None):
            data["kind"] = kind
        for field in fields(value):
            item, of = getattr(value, field.name), hints[field.name]
            if (item is not None or not is_part(of)) and item != field.default:
                data[field.name] = unstructure(item, of, kinds)
        return data
    if origin in (Union, types.UnionType):
        return unstructure(value, next(of for of in get_args(hint) if of is not types.NoneType), kinds)
    return str(value) if isinstance(value, StrEnum) else value


def words(name: str) -> str:
    """Return the name of a class as words: `LinkKind` is `link kind`."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()
