"""The one door to files: YAML and `config.json` to models and accelerators, and back to YAML text.

A name is a file shipped with the package, in `workloads/` or `accelerators/`; anything else is a path. All
problems of a file, and of the core files it refers to, come in one `SpecError`.
"""

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import yaml

from stream_mla.errors import SpecError
from stream_mla.frontends.huggingface import model_of
from stream_mla.frontends.schema import FAILED, Failed, Reader, join, unstructure, words
from stream_mla.frontends.system_file import SystemReader, unstructure_system
from stream_mla.hardware.accelerator import Accelerator, CoreType
from stream_mla.workload.spec import GroupedQueryAttention, LatentAttention, Model

KINDS = {"latent": LatentAttention, "grouped_query": GroupedQueryAttention}
"""The value of `attention.kind` in a model file."""

_MODELS = "workloads"
_ACCELERATORS = "accelerators"
_OWN_KEYS = {
    Model: ("layers", "attention", "precision"),
    Accelerator: ("clock", "cores", "dram", "links"),
    CoreType: ("array", "vector", "registers", "sram"),
}
"""The keys by which `check` knows what a file describes."""


def model_names() -> list[str]:
    """Return the names of the shipped models."""
    return _names(_MODELS)


def accelerator_names() -> list[str]:
    """Return the names of the shipped accelerators."""
    return _names(_ACCELERATORS)


def load_model(name_or_path: str) -> Model:
    """Load a shipped model, a model file, or the Hugging Face `config.json` at (or in the folder at) a path.

    >>> from stream_mla import load_model
    >>> model = load_model("deepseek_v3")
    >>> model.layers, model.attention.heads, model.attention.kv_rank, model.precision.weights
    (61, 128, 512, 8)
    >>> load_model("deepseek_v33")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    stream_mla.errors.SpecError: deepseek_v33: 1 problem
      - no shipped model has this name: did you mean deepseek_v3 or ...
    """
    path = _find(name_or_path, _MODELS)
    return _hugging_face(path) if _is_hugging_face(path) else cast(Model, _load(Model, path))


def load_accelerator(name_or_path: str) -> Accelerator:
    """Load a shipped accelerator or an accelerator file.

    >>> from stream_mla import load_accelerator
    >>> machine = load_accelerator("tpu_like_quad_core")
    >>> [core.name for core in machine.cores]
    ['core[0]', 'core[1]', 'core[2]', 'core[3]', 'simd']
    """
    return cast(Accelerator, _load(Accelerator, _find(name_or_path, _ACCELERATORS)))


def check(path: str) -> Model | Accelerator | CoreType:
    """Load whatever the file at `path` describes; its keys tell."""
    file = Path(path)
    if _is_hugging_face(file):
        return _hugging_face(file)
    reader = Reader(KINDS)
    data = _yaml(file, reader)
    if data is FAILED:
        raise SpecError(path, reader.problems)
    keys: set[object] = set(cast(dict[object, object], data)) if isinstance(data, dict) else set()
    cls = max(_OWN_KEYS, key=lambda candidate: len(keys.intersection(_OWN_KEYS[candidate])))
    if not keys.intersection(_OWN_KEYS[cls]):
        known = "; ".join(f"{', '.join(own)} ({words(candidate.__name__)})" for candidate, own in _OWN_KEYS.items())
        reader.add(f"cannot tell what this file describes: give it the keys of one of {known}", "")
        raise SpecError(path, reader.problems)
    return _load(cls, file)


LINE_BREAKS = "\x85\u2028\u2029"
"""Line breaks in YAML, which are written as they are but not read as they were."""


def dump(value: Model | Accelerator | CoreType) -> str:
    """Return YAML text, complete in itself, that loads as `value` again."""
    data = unstructure_system(value) if isinstance(value, Accelerator) else unstructure(value, type(value), KINDS)

    def text(*, escape: bool) -> str:
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=not escape, default_flow_style=None, width=200)

    written = text(escape=False)
    return written if set(written).isdisjoint(LINE_BREAKS) else text(escape=True)


def _names(kind: str) -> list[str]:
    return sorted(file.stem for file in _shipped(kind).glob("*.yaml"))


def _shipped(kind: str) -> Path:
    """Return the folder of shipped files: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).parents[1]
    return package / kind if (package / kind).is_dir() else package.parent / kind


def _find(name_or_path: str, kind: str) -> Path:
    names = _names(kind)
    if name_or_path in names:
        return _shipped(kind) / f"{name_or_path}.yaml"
    path = Path(name_or_path)
    if path.exists() or path.suffix or len(path.parts) > 1:
        return path
    near = difflib.get_close_matches(name_or_path, names)
    advice = f"did you mean {' or '.join(near)}?" if near else f"use one of {', '.join(names)}."
    what = "model" if kind == _MODELS else "accelerator"
    raise SpecError(name_or_path, [f"no shipped {what} has this name: {advice} The path of a file is accepted too"])


def _load(cls: type, file: Path) -> Model | Accelerator | CoreType:
    reader = Reader(KINDS)
    if cls is Accelerator:
        reader = SystemReader(lambda name, core_reader: _yaml(file.parent / name, core_reader))
    data = _yaml(file, reader)
    value: Any = FAILED if data is FAILED else reader.read(cls, data, "")
    if reader.problems:
        raise SpecError(str(file), reader.problems)
    assert value is not FAILED, f"{file} failed without a problem"
    return value


def _is_hugging_face(path: Path) -> bool:
    return path.is_dir() or path.suffix == ".json"


def _hugging_face(path: Path) -> Model:
    file = path / "config.json" if path.is_dir() else path
    reader = Reader(KINDS)
    text = _text(file, reader)
    config: object = None
    try:
        config = None if isinstance(text, Failed) else json.loads(text)
    except json.JSONDecodeError as error:
        reader.add(f"{error.msg}, column {error.colno}: correct the JSON", f"line {error.lineno}")
    if not reader.problems and not isinstance(config, dict):
        reader.add(f"expected a JSON object, got {config!r}: give the config.json of a model", "")
    if reader.problems:
        raise SpecError(str(file), reader.problems)
    config = cast(dict[str, object], config)
    origin = Path(str(config.get("_name_or_path") or file.stem)).name
    folder = file.resolve().parent.name
    return model_of(config, name=folder if file.name == "config.json" and folder else origin, where=str(file))


def _text(file: Path, reader: Reader) -> str | Failed:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return reader.add(f"file not found, {str(file)!r}: check the path", "")
    except OSError as error:
        return reader.add(f"cannot read {str(file)!r} ({error.strerror}): check the path", "")
    except UnicodeDecodeError as error:
        return reader.add(f"not UTF-8 text ({error.reason}, byte {error.start}): save it as UTF-8", "")


def _yaml(file: Path, reader: Reader) -> Any:
    """Return the data in a YAML file, or FAILED; keys that are given twice are noted as problems."""
    text = _text(file, reader)
    if isinstance(text, Failed):
        return text
    try:
        node, data = _parsed(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        return reader.add(f"{error.problem}: correct the YAML", where)
    except (yaml.YAMLError, ValueError) as error:
        return reader.add(f"{error}: correct the YAML", "")
    for problem, path in _duplicates(node, "", set()):
        reader.add(problem, path)
    return data


def _parsed(text: str) -> tuple[yaml.Node | None, Any]:
    """Return the root of a YAML text, and its data.

    libyaml, where PyYAML has it, takes a tenth of the time. What is wrong is told in the words of the other parser.
    """
    try:
        return _composed(getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text))
    except (yaml.YAMLError, ValueError):
        return _composed(yaml.SafeLoader(text))


def _composed(loader: Any) -> tuple[yaml.Node | None, Any]:
    node = loader.get_single_node()
    return node, None if node is None else loader.construct_document(node)


def _duplicates(node: yaml.Node | None, path: str, seen: set[int]) -> Iterator[tuple[str, str]]:
    """Yield the keys that a mapping gives twice, of which YAML would silently keep the last."""
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _duplicates(item, f"{path}[{index}]", seen)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, item in node.value:
            line = key.start_mark.line + 1
            below = join(path, key.value)
            if key.value in lines:
                yield f"key {key.value!r} is given on lines {lines[key.value]} and {line}: keep one", below
            lines[key.value] = line
            yield from _duplicates(item, below, seen)
