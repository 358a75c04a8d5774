"""The examples in docstrings: all of them run, and the public functions have some."""

import doctest
import importlib.util
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest

import stream_mla

MODULES = [
    entry.name
    for entry in pkgutil.walk_packages(stream_mla.__path__, "stream_mla.")
    if not entry.ispkg and not entry.name.endswith("__main__")
]
EXPLAINED = {
    "bounds",
    "evaluate",
    "load_accelerator",
    "load_model",
    "lower",
    "parse",
    "Point.of",
    "price",
    "replay",
    "Schemes.register",
    "tile",
    "violations",
}
"""Functions that must have an example."""


def examples(module: ModuleType) -> list[doctest.DocTest]:
    """Return the docstrings of a module that have examples."""
    return [test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]


def with_examples() -> list[str]:
    """Return the names of modules that have examples, by their text: those that draw need not be imported."""
    found: list[str] = []
    for name in MODULES:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        text = Path(spec.origin).read_text(encoding="utf-8")
        found += [name] if ">>> " in text else []
    return found


@pytest.mark.parametrize("name", with_examples())
def test_examples_of_docstrings_run(name: str):
    module = importlib.import_module(name)
    tests = examples(module)
    assert tests, f"{name} has examples that doctest does not find"
    for test in tests:
        said: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF)
        runner.run(test, out=said.append)
        assert runner.summarize(verbose=False).failed == 0, "".join(said)


def test_public_functions_have_examples():
    tests = [test for name in with_examples() for test in examples(importlib.import_module(name))]
    names = {test.name.rpartition(".")[2] for test in tests} | {".".join(test.name.split(".")[-2:]) for test in tests}
    assert names >= EXPLAINED
    assert all(inspect.isroutine(getattr(stream_mla, name)) for name in ("evaluate", "lower", "register_scheme"))
