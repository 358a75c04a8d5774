"""Schemes by name: orders of execution, each with its lowering and its line in lists.

`attention.py` lists those that are shipped; `stream_mla.register_scheme` adds one from outside the package.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from stream_mla.workload.operator_graph import OperatorGraph
from stream_mla.workload.spec import Attention, GroupedQueryAttention, LatentAttention, Model, Workload


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """One order of execution of an attention layer, by its name."""

    name: str
    lower: Callable[[Workload], OperatorGraph]
    """Builds the operator graph of one step; ValueError where the model does not fit."""
    order: str
    """The order of the products in q_latent (1) W_uq (2) W_uk^T (3) C^T, as `1-3-2`; empty where that says nothing."""
    description: str
    """One line for lists of schemes."""
    attention: tuple[type[Attention], ...]
    """The kinds of attention that the scheme can compute."""

    @property
    def line(self) -> str:
        """The description after the order of the products."""
        return f"{self.order}: {self.description}" if self.order else self.description

    def fits(self, model: Model) -> bool:
        """Return whether the scheme can compute the attention of a model."""
        return isinstance(model.attention, self.attention)


_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
"""Names of schemes are words, because they stand in command lines, tables and names of files."""


class Schemes(Mapping[str, Scheme]):
    """Schemes by name, in the order in which they were registered."""

    def __init__(self, schemes: Iterable[Scheme]) -> None:
        self._scheme_of = {scheme.name: scheme for scheme in schemes}

    def __getitem__(self, name: str) -> Scheme:
        return self._scheme_of[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._scheme_of)

    def __len__(self) -> int:
        return len(self._scheme_of)

    def register(
        self,
        name: str,
        lower: Callable[[Workload], OperatorGraph],
        description: str,
        *,
        order: str = "",
        attention: tuple[type[Attention], ...] = (LatentAttention, GroupedQueryAttention),
    ) -> Scheme:
        """Add a scheme, which then works wherever a shipped one does, and return it.

        ValueError where the name is taken or no word. Results are stored under the name of their scheme: a scheme that
        changes what it computes deserves another name. A registration holds for the process that makes it.

        >>> from stream_mla import SCHEMES, register_scheme
        >>> register_scheme("mla_rc", SCHEMES["mla_rc"].lower, "the composite once more")
        Traceback (most recent call last):
        ValueError: scheme 'mla_rc' is registered already: choose another name
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot name a scheme: use letters, digits, '_', '-' and '.', a letter first")
        if name in self:
            raise ValueError(f"scheme {name!r} is registered already: choose another name")
        scheme = Scheme(name=name, lower=lower, order=order, description=description, attention=attention)
        self._scheme_of[name] = scheme
        return scheme

    def fitting(self, model: Model) -> list[str]:
        """Return the names of the schemes that can compute the attention of a model."""
        return [scheme.name for scheme in self.values() if scheme.fits(model)]

    def problem(self, name: str, model: Model) -> str | None:
        """Return what is wrong with a scheme for a model, or None."""
        able = self.fitting(model)
        if name in able:
            return None
        kind = "latent" if isinstance(model.attention, LatentAttention) else "grouped-query"
        does_not_fit = f"does not fit {model.name}, which has {kind} attention"
        return f"{name} {does_not_fit if name in self else 'is no scheme'}: use {' or '.join(able)}"
