"""The one door to files: YAML and `config.json` to models and accelerators, and back to YAML text.

A name is a file shipped with the package, in `workloads/` or `accelerators/`; anything else is a path. All
problems of a file, and of the core files it refers to, come in one `SpecError`.
"""

import difflib
import os
from pathlib import Path
from typing import Any, cast

import yaml

from stream_mla.errors import SpecError, cut, printable, quoted
from stream_mla.frontends.huggingface import model_of
from stream_mla.frontends.schema import FAILED, LONGEST_NAME, Failed, Reader, unstructure, words
from stream_mla.frontends.system_file import SystemReader, unstructure_system
from stream_mla.frontends.text_files import MOST_JSON_BYTES, MOST_YAML_BYTES, read_json, read_text, read_yaml
from stream_mla.hardware.accelerator import Accelerator, CoreType
from stream_mla.workload.spec import GroupedQueryAttention, LatentAttention, Model

KINDS = {"latent": LatentAttention, "grouped_query": GroupedQueryAttention}
"""`attention.kind` in a model file has one of these values, and gives the class that holds the sizes."""

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


def is_path(text: str) -> bool:
    """Tell whether a text that is no shipped name is meant as a path; never fails, however odd the text."""
    try:
        return os.path.exists(text) or bool(Path(text).suffix) or len(Path(text).parts) > 1  # noqa: PTH110  never fails
    except ValueError:
        return True  # no file can have such a name, which is said where it is opened


def _find(name_or_path: str, kind: str) -> Path:
    """Return the file of a shipped name, or the path as given."""
    names = _names(kind)
    if name_or_path in names:
        return _shipped(kind) / f"{name_or_path}.yaml"
    if is_path(name_or_path):
        return Path(name_or_path)
    near = difflib.get_close_matches(name_or_path[:LONGEST_NAME], names)
    advice = f"did you mean {' or '.join(near)}?" if near else f"use one of {', '.join(names)}."
    what = "model" if kind == _MODELS else "accelerator"
    raise SpecError(name_or_path, [f"no shipped {what} has this name: {advice} The path of a file is accepted too"])


def _load(cls: type, file: Path) -> Model | Accelerator | CoreType:
    """Return what the file describes; SpecError with all problems of it and of the files it names."""
    reader = Reader(KINDS)
    if cls is Accelerator:
        reader = SystemReader(lambda name, core_reader: _core_file(file, name, core_reader))
    data = _yaml(file, reader)
    value: Any = FAILED if data is FAILED else reader.read(cls, data, "")
    if reader.problems:
        raise SpecError(str(file), reader.problems)
    assert value is not FAILED, f"{file} failed without a problem"
    return value


def _core_file(system: Path, name: str, reader: Reader) -> Any:
    """Return the data in a core file that a system file names: one in the system file's folder or below, or shipped.

    Other files are refused unread: a system file from elsewhere is no reason to open, and quote, any file there is.
    """
    folders = [system.parent, _shipped(_ACCELERATORS)]
    try:
        file = Path(os.path.realpath(system.parent / name))
        inside = any(file.is_relative_to(os.path.realpath(folder)) for folder in folders)
    except ValueError:
        return reader.add(f"{quoted(name)} is no path: correct it", "")
    if not inside:
        where = f"the folder of the system file ({folders[0]}), below it, or with the shipped accelerators"
        return reader.add(f"a core file must lie in {where}: copy it there", "")
    return _yaml(system.parent / name, reader)


def _is_hugging_face(path: Path) -> bool:
    """Tell whether a path is that of a model's repository or its config."""
    return path.suffix == ".json" or _is_folder(path)


def _is_folder(path: Path) -> bool:
    """Tell whether there is a folder; of a path that no file can have, that there is none."""
    return os.path.isdir(path)  # noqa: PTH112  never fails


def _hugging_face(path: Path) -> Model:
    """Return the model that a `config.json`, or the one in a folder, describes."""
    file = path / "config.json" if _is_folder(path) else path
    reader = Reader(KINDS)
    text = read_text(file, MOST_JSON_BYTES, reader)
    config: object = None
    if not isinstance(text, Failed):
        config = read_json(text, reader)
    if not reader.problems and not isinstance(config, dict):
        reader.add(f"expected a JSON object, got {quoted(config)}: give the config.json of a model", "")
    if reader.problems:
        raise SpecError(str(file), reader.problems)
    config = cast(dict[str, object], config)
    given = config.get("_name_or_path")
    origin = Path(given).name if isinstance(given, str) and given else file.stem
    folder = Path(os.path.realpath(file)).parent.name
    name = folder if file.name == "config.json" and folder else origin or file.stem
    return model_of(config, name=printable(cut(name, LONGEST_NAME - 30)), where=str(file))


def _yaml(file: Path, reader: Reader) -> Any:
    """Return the data in a YAML file, or FAILED after the problem was noted."""
    text = read_text(file, MOST_YAML_BYTES, reader)
    return text if isinstance(text, Failed) else read_yaml(text, reader)
