"""Layer-fusion scheduling of attention on multi-core accelerators.

The names a program needs; heavy libraries load when they are used, not here.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream_mla.evaluation import evaluate, evaluate_graph
    from stream_mla.frontends.catalog import load_accelerator, load_model
    from stream_mla.hardware.core_cost import Objective
    from stream_mla.mapping.policy import POLICIES, Policy
    from stream_mla.point import Point
    from stream_mla.workload.lowering.attention import SCHEMES, lower, register_scheme
    from stream_mla.workload.spec import Precision, Workload

__all__ = [
    "POLICIES",
    "SCHEMES",
    "Objective",
    "Point",
    "Policy",
    "Precision",
    "Workload",
    "evaluate",
    "evaluate_graph",
    "load_accelerator",
    "load_model",
    "lower",
    "register_scheme",
]

_HOMES = {
    "POLICIES": "mapping.policy",
    "SCHEMES": "workload.lowering.attention",
    "Objective": "hardware.core_cost",
    "Point": "point",
    "Policy": "mapping.policy",
    "Precision": "workload.spec",
    "Workload": "workload.spec",
    "evaluate": "evaluation",
    "evaluate_graph": "evaluation",
    "load_accelerator": "frontends.catalog",
    "load_model": "frontends.catalog",
    "lower": "workload.lowering.attention",
    "register_scheme": "workload.lowering.attention",
}


def __getattr__(name: str) -> object:
    """Load a public name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
