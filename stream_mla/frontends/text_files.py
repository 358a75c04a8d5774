"""Text of files to plain data: YAML and JSON, of which nothing odd is let through.

Files come from anywhere. What is read is bounded before it is read: regular files only, of a size that a person may
have written; nesting, aliases and digits are counted before data are made of them. Every refusal is a problem that the
reader notes, with its place in the file.
"""

import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stream_mla.errors import quoted
from stream_mla.frontends.schema import FAILED, Failed, Reader, join

MOST_YAML_BYTES = 1 << 20
"""A YAML file has at most this many bytes: the largest shipped one has 3 KB, and 1 MB takes seconds to read."""
MOST_JSON_BYTES = 16 << 20
"""A config.json has at most this many bytes: those of published models have up to some 100 KB."""
MOST_NODES = 200_000
"""A YAML file stands for at most this many values, aliases counted as often as they are used."""
DEEPEST = 50
"""Values are nested at most so deep; models and systems have up to 5 levels, configs 6."""
MOST_DIGITS = 400
"""A number has at most this many characters; the largest float has 309 digits."""

MOST_SLOW_CHARACTERS = 100_000
"""A text of at most this many characters is parsed again by the slower parser, within some seconds."""

_TAG = "tag:yaml.org,2002:"
_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map", "merge", "value")
"""Data of ours have these tags."""


def read_text(file: Path, most_bytes: int, reader: Reader) -> str | Failed:
    """Return the text of a regular UTF-8 file of at most so many bytes, or FAILED after the problem was noted."""
    try:
        content = read_bytes(file, most_bytes)
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        return reader.add(f"not UTF-8 text ({error.reason}, byte {error.start}): save it as UTF-8", "")
    except FileNotFoundError:
        return reader.add(f"file not found, {quoted(str(file))}: check the path", "")
    except OSError as error:
        return reader.add(f"cannot read {quoted(str(file))} ({error.strerror}): check the path", "")
    except ValueError as error:  # a NUL or a lone surrogate in the path; or the size
        return reader.add(f"cannot read {quoted(str(file))} ({error}): check the path", "")


def read_bytes(file: Path, most_bytes: int) -> bytes:
    """Return what is in a regular file; ValueError where it is larger, or of another kind, which might never end."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO without a writer would block
    try:
        kind = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(kind):
            raise ValueError("it is a folder" if stat.S_ISDIR(kind) else "it is no regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as opened:
            content = opened.read(most_bytes + 1)
    finally:
        os.close(descriptor)
    if len(content) > most_bytes:
        raise ValueError(f"it has more than {most_bytes:,} bytes")
    return content


def read_json(text: str, reader: Reader) -> object:
    """Return the data in a JSON text, or FAILED; keys that are given twice are noted as problems."""

    def without_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            for twin, count in Counter(key for key, _ in pairs).items():
                if count > 1:
                    reader.add(f"key {quoted(twin)} is given {count} times in one object: keep one", twin)
        return found

    try:
        return json.loads(text, object_pairs_hook=without_twins)
    except json.JSONDecodeError as error:
        return reader.add(f"{error.msg}, column {error.colno}: correct the JSON", f"line {error.lineno}")
    except RecursionError:
        return reader.add("values are nested thousands deep: correct the JSON", "")
    except ValueError as error:  # an integer of too many digits
        return reader.add(f"{error}: correct the JSON", "")


def read_yaml(text: str, reader: Reader) -> Any:
    """Return the data in a YAML text, or FAILED; keys that are given twice are noted as problems."""
    try:
        loader, node = _composed(text)
        if node is None:
            return None
        if _expanded(node, {}).nodes > MOST_NODES:
            return reader.add(f"aliases make more than {MOST_NODES:,} values of this file: write out what is meant", "")
        unreadable = list(_unreadable(loader, node, "", set()))
        for problem, path in (*unreadable, *_duplicates(node, "", set())):
            reader.add(problem, path)
        return FAILED if unreadable else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        return reader.add(f"{error.problem}: correct the YAML", where)
    except (yaml.YAMLError, ValueError) as error:
        return reader.add(f"{' '.join(str(error).split())}: correct the YAML", "")


def _composed(text: str) -> tuple[Any, yaml.Node | None]:
    """Return a loader and the root of a YAML text.

    libyaml, where PyYAML has it, takes a tenth of the time. What is wrong with a text that is not too long for it is
    told in the words of the other parser.
    """
    fast: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _require_shallow(text, fast)
        loader = fast(text)
        return loader, loader.get_single_node()
    except (yaml.YAMLError, ValueError):
        if len(text) > MOST_SLOW_CHARACTERS:
            raise
    _require_shallow(text, yaml.SafeLoader)
    slow = yaml.SafeLoader(text)
    return slow, slow.get_single_node()


def _require_shallow(text: str, loader: Any) -> None:
    """Refuse deep nesting before nodes are made, which takes a call within a call for each level."""
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"nested more than {DEEPEST} deep", problem_mark=event.start_mark)


@dataclass(frozen=True)
class _Size:
    """How large a node is with its aliases written out."""

    nodes: int
    depth: int


def _expanded(node: yaml.Node, known: dict[int, _Size | None]) -> _Size:
    """Return the size of a node; ValueError where it contains itself or is too deep.

    What an alias stands for comes earlier in the text and is known, so that calls nest no deeper than the text.
    """
    if id(node) in known:
        size = known[id(node)]
        if size is None:
            raise ValueError("an alias stands for what contains it")
        return size
    known[id(node)] = None
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        inner = list(node.value)
    elif isinstance(node, yaml.MappingNode):
        inner = [part for pair in node.value for part in pair]
    sizes = [_expanded(part, known) for part in inner]
    size = _Size(1 + sum(entry.nodes for entry in sizes), 1 + max((entry.depth for entry in sizes), default=0))
    if size.depth > 2 * DEEPEST:
        raise ValueError(f"aliases nest values more than {2 * DEEPEST} deep")
    known[id(node)] = size
    return size


def _unreadable(loader: Any, node: yaml.Node, path: str, seen: set[int]) -> Iterator[tuple[str, str]]:
    """Yield what is no data of ours: foreign tags, dates, keys that are no text, and numbers that are none."""
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if problem := _unreadable_itself(loader, node):
        yield problem, path
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _unreadable(loader, item, f"{path}[{index}]", seen)
    elif isinstance(node, yaml.MappingNode):
        for key, item in node.value:
            if isinstance(key, yaml.ScalarNode):
                yield from _unreadable(loader, key, path, seen)
                yield from _unreadable(loader, item, join(path, key.value), seen)
            else:
                yield "a key must be text", path


def _unreadable_itself(loader: Any, node: yaml.Node) -> str | None:
    """Return what is wrong with a node, leaving aside what it contains; None where nothing is."""
    tag, value = node.tag.removeprefix(_TAG), node.value
    if tag == "timestamp":
        return f"{quoted(value)} is read as a date: write it in quotes"
    if tag not in _PLAIN:
        return f"the tag {quoted(node.tag)} is not used here: remove it"
    if not isinstance(node, yaml.ScalarNode):
        kind, wanted = ("list", "seq") if isinstance(node, yaml.SequenceNode) else ("mapping", "map")
        return None if tag == wanted else f"a {kind} is no {tag}: remove the tag"
    if tag in ("int", "float") and len(value) > MOST_DIGITS:
        return f"{quoted(value)} has more than {MOST_DIGITS} digits: correct it"
    if tag in ("null", "bool", "int", "float"):
        try:
            loader.yaml_constructors[node.tag](loader, node)
        except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, OverflowError):
            return f"{quoted(value)} is no {tag}: correct it, or remove the tag"
    return None


def _duplicates(node: yaml.Node, path: str, seen: set[int]) -> Iterator[tuple[str, str]]:
    """Yield the keys that a mapping gives twice, of which YAML would silently keep the last."""
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _duplicates(item, f"{path}[{index}]", seen)
    if isinstance(node, yaml.MappingNode):
        lines: dict[object, int] = {}
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            below = join(path, key.value)
            if key.value in lines:
                yield f"key {quoted(key.value)} is given on lines {lines[key.value]} and {line}: keep one", below
            lines[key.value] = line
            yield from _duplicates(item, below, seen)
