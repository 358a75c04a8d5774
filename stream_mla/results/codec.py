"""Frozen dataclasses to JSON and back, by their type hints: for what programs write and programs read.

A tuple of dataclasses is a table, one list per entry, so that the names of the fields are written once. Fields that
a file does not have take their defaults, so that files outlive new fields.
"""

import types
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Union, cast, get_args, get_origin, get_type_hints


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
    if origin in (Union, types.UnionType):
        return None if value is None else decode(next(kind for kind in inner if kind is not type(None)), value)
    if origin is tuple:
        if isinstance(value, dict):
            table = cast(dict[str, Any], value)
            return tuple(decode(inner[0], dict(zip(table["fields"], row, strict=True))) for row in table["rows"])
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(decode(kind, item) for kind, item in zip(kinds, value, strict=True))
    if origin is frozenset:
        return frozenset(decode(inner[0], item) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {decode(inner[0], key): decode(inner[1], item) for key, item in value.items()}
    if hint is bool and not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {value!r}")
    return hint(value)


def _dataclass(cls: Any, value: Mapping[str, Any]) -> Any:
    hints = get_type_hints(cls)
    return cls(**{name: decode(hints[name], item) for name, item in value.items()})
