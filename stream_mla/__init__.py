"""Layer-fusion scheduling of attention on multi-core accelerators.

The names a program needs; heavy libraries load when they are used, not here.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream_mla.evaluation import evaluate
    from stream_mla.frontends.catalog import load_accelerator, load_model
    from stream_mla.hardware.core_cost import Objective
    from stream_mla.mapping.policy import POLICIES, Policy
    from stream_mla.point import Point
    from stream_mla.workload.spec import Precision, Workload

__all__ = [
    "POLICIES",
    "Objective",
    "Point",
    "Policy",
    "Precision",
    "Workload",
    "evaluate",
    "load_accelerator",
    "load_model",
]

_HOMES = {
    "POLICIES": "mapping.policy",
    "Objective": "hardware.core_cost",
    "Point": "point",
    "Policy": "mapping.policy",
    "Precision": "workload.spec",
    "Workload": "workload.spec",
    "evaluate": "evaluation",
    "load_accelerator": "frontends.catalog",
    "load_model": "frontends.catalog",
}


def __getattr__(name: str) -> object:
    """Load a public name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
