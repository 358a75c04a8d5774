"""Layer-fusion scheduling of attention on multi-core accelerators.

The names a program needs; heavy libraries load when they are used, not here.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream_mla.cost import Objective
    from stream_mla.evaluate import Point, evaluate
    from stream_mla.io import load_accelerator, load_model
    from stream_mla.workload import Precision, Workload

__all__ = ["Objective", "Point", "Precision", "Workload", "evaluate", "load_accelerator", "load_model"]

_HOMES = {
    "Objective": "cost",
    "Point": "evaluate",
    "Precision": "workload",
    "Workload": "workload",
    "evaluate": "evaluate",
    "load_accelerator": "io",
    "load_model": "io",
}


class _Package(ModuleType):
    """Loads public names on first use, and lets `evaluate` be the function although a submodule has that name."""

    def __getattr__(self, name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        if name == "evaluate" and isinstance(value, ModuleType):  # the import system binds the submodule here
            value = value.evaluate
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
