"""Frozen dataclasses to JSON and back, by their type hints: for what programs write and programs read.

A tuple of dataclasses is a table, one list per entry, so that the names of the fields are written once. Fields that
a file does not have take their defaults, so that files outlive new fields.
"""

import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Union, cast, get_args, get_origin, get_type_hints

from stream_mla.errors import quoted


def encode(value: Any) -> Any:
    """Return what `json.dumps` takes; sets are sorted."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, frozenset):
        return sorted(encode(item) for item in cast(Iterable[Any], value))
    if isinstance(value, tuple | list):
        items = list(cast(Iterable[Any], value))
        if items and all(is_dataclass(item) for item in items):
            names = [field.name for field in fields(items[0])]
            return {"fields": names, "rows": [[encode(getattr(item, name)) for name in names] for item in items]}
        return [encode(item) for item in items]
    return value


def decode(hint: Any, value: Any) -> Any:
    """Return `value` as the type that `hint` asks for; ValueError, TypeError or KeyError where it is none."""
    if is_dataclass(hint):
        return _dataclass(hint, value)
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return decode(inner[0], value)
    if origin in (Union, types.UnionType):
        return None if value is None else decode(next(kind for kind in inner if kind is not type(None)), value)
    if origin is tuple:
        if isinstance(value, dict):
            table = cast(dict[str, Any], value)
            return tuple(decode(inner[0], dict(zip(table["fields"], row, strict=True))) for row in table["rows"])
        if not isinstance(value, list):
            raise ValueError(f"expected a list, got {quoted(value)}")
        value = cast(list[Any], value)
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(decode(kind, item) for kind, item in zip(kinds, value, strict=True))
    if origin is frozenset:
        if not isinstance(value, list):
            raise ValueError(f"expected a list, got {quoted(value)}")
        return frozenset(decode(inner[0], item) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {_key(inner[0], key): decode(inner[1], item) for key, item in value.items()}
    return _plain(hint, value)


def _key(hint: Any, key: str) -> Any:
    """Return a key, which JSON has as text, as a whole number or text."""
    return int(key) if hint is int else _plain(hint, key)


def _plain(hint: Any, value: Any) -> Any:
    """Return a value that is no container; ValueError where JSON has one of another type, or a float that is none."""
    if hint is Any:
        return value
    kinds = {bool: bool, int: int, float: int | float}
    if not isinstance(value, kinds.get(hint, str)) or (hint is not bool and isinstance(value, bool)):
        raise ValueError(f"expected {hint.__name__}, got {quoted(value)}")
    if hint is float and not abs(value) < math.inf:
        raise ValueError(f"expected a finite number, got {quoted(value)}")
    return hint(value)


def _dataclass(cls: Any, value: Mapping[str, Any]) -> Any:
    hints = get_type_hints(cls)
    return cls(**{name: decode(hints[name], item) for name, item in value.items()})
