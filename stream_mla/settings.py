"""The settings of one point by the names of the command line: one set of defaults and one reader for it and for Python.

A setting is what an option says, before model and machine are loaded and quantities are numbers. `point_fields` turns
settings into the arguments of `Point`, and raises one `SettingsError` with everything that is wrong with them. What
`argparse` reads from the command line comes here as values, so both sides refuse the same.

The command line wants the defaults before it knows whether it computes anything, so what takes long to import (files,
graphs) is imported where it is used.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from stream_mla.errors import SpecError
from stream_mla.hardware.accelerator import Accelerator
from stream_mla.hardware.core_cost import Objective
from stream_mla.mapping.policy import POLICIES, Fusion, Policy, Prefetch
from stream_mla.units import SECONDS, parse
from stream_mla.value_reader import MOST_WORKERS, ValueReader, nearest
from stream_mla.workload.spec import CAUSAL, MASKS, MOST_REQUESTS, MOST_TOKENS, NO_MASK, Mask, Model, Workload

if TYPE_CHECKING:
    from stream_mla.workload.operator_graph import OperatorGraph

_Loaded = TypeVar("_Loaded", Model, Accelerator)

LARGEST_CAP = 2**62
"""Largest latency cap in cycles: times are 64-bit integers in the solver, and a sum of two must be one as well."""

TENSORS = ("weights", "cache", "activations", "partials")
"""Kinds of tensors whose bits can be set."""

STORED = ("weights", "cache", "activations")
"""Kinds of tensors that one number of bits sets. Partial sums keep the width of the machine's accumulators."""

ROUNDING = 1e-12
"""Share by which a cap in seconds is raised before it becomes whole cycles, so that `0.5 ms` at 1 GHz, which no float
holds exactly, is 500,000 cycles and not one less."""

PLAIN = "mha"
"""Name of the scheme of models with grouped queries that is taken where none is named."""

DEFAULT_POLICY = "free"
"""Name of the policy that leaves every decision to the scheduler."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """It is what is asked of one point, as given; the values here are the defaults."""

    scheme: str | None = None
    """Name of the order of execution; models with grouped queries have a default, models with latents have none."""
    layer: str | None = None
    """Kind of attention layer, where the model has several; without it, the kind that the model has chosen."""
    context: int = 4096
    """Tokens in the cache before the step; with `prefill`, the new tokens."""
    query: int = 1
    """New tokens per request."""
    prefill: bool = False
    """Whether nothing is cached and the tokens of `context` are new."""
    batch: int = 1
    """Requests, each with a cache of its own."""
    bits: int | Mapping[str, int] | None = None
    """Bits per element of weights, cache and activations, or of each kind of tensor; what is missing is the model's."""
    mask: str | Mask | None = None
    """The keys that a query sees, by name or as it is; as the model says, and none under the letter's policy."""
    window: int | None = None
    """Keys that a query sees at most; a mask that is not set otherwise becomes causal."""
    objective: str | Objective = "latency"
    latency_cap: int | float | str | None = None
    """Longest latency allowed, in cycles or as a time with its unit; needs the objective energy."""
    policy: str | Policy = DEFAULT_POLICY
    """A named set of the next three, which override it."""
    fusion: str | Fusion | None = None
    prefetch: str | Prefetch | None = None
    sharing: bool | str | None = None
    time_limit: float | str = 5.0
    """Seconds of local search and solver, or a time with its unit; 0 leaves both out."""
    gap_limit: float = 0.001
    """Share of the value, within which of its bound the search ends."""
    seed: int = 0
    workers: int = 1
    tile: Mapping[str, int] = field(default_factory=dict[str, int], hash=False)
    """Sizes of tiles set by hand, per index."""


DEFAULTS = Settings()
"""The defaults of the command line and of `Point.of`."""

NAMES = tuple(entry.name for entry in fields(Settings))
"""Names of all settings."""


class SettingsError(SpecError):
    """Settings that cannot be used; `found` has each name with what is wrong."""

    def __init__(self, where: str, found: Sequence[tuple[str, str]]) -> None:
        self.found = tuple(found)
        super().__init__(where, [f"{name}: {text}" for name, text in found])


def point_fields(
    model: object,
    accelerator: object,
    settings: Settings,
    unknown: Iterable[str] = (),
    spell: Callable[[str], str] = str,
) -> dict[str, Any]:
    """Return the arguments of `Point` that settings stand for.

    `unknown` are names that are no settings; `spell` writes the name of a setting in a message as its user knows it.
    """
    from stream_mla.frontends.catalog import load_accelerator, load_model
    from stream_mla.workload.lowering.attention import lower

    reader = _Reader(spell)
    for name in unknown:
        reader.note(name, f"no such option: {nearest(name, NAMES)}")
    found_model = _layer_of(reader, reader.loaded("model", model, Model, load_model), settings)
    machine = reader.loaded("accelerator", accelerator, Accelerator, load_accelerator)
    query, cached = _tokens(reader, settings)
    batch = reader.whole("batch", settings.batch, 1, MOST_REQUESTS)
    bits = reader.bits(settings.bits)
    objective = reader.member("objective", settings.objective, Objective)
    cap = reader.cap(settings.latency_cap, objective, machine)
    read: dict[str, Any] = {
        "accelerator": machine,
        "scheme": reader.scheme(settings.scheme, found_model),
        "objective": objective,
        "policy": reader.policy(settings),
        "latency_cap_cycles": cap,
        "time_limit_s": reader.seconds("time_limit", settings.time_limit),
        "gap_limit": reader.share("gap_limit", settings.gap_limit),
        "seed": reader.whole("seed", settings.seed, 0),
        "workers": reader.whole("workers", settings.workers, 1, MOST_WORKERS),
        "tile_sizes": reader.sizes("tile", settings.tile),
    }
    mask = reader.mask(settings, found_model)
    reader.done()
    assert found_model is not None
    read["workload"] = Workload(
        model=found_model,
        batch=batch,
        query_tokens=query,
        cached_tokens=cached,
        precision=replace(found_model.precision, **bits),
        mask=mask,
    )
    if read["tile_sizes"] and (problem := unknown_sizes([lower(read["workload"], read["scheme"])], read["tile_sizes"])):
        raise SettingsError(WHERE, [("tile", problem)])
    return read


def _layer_of(reader: "_Reader", model: Model | None, settings: Settings) -> Model | None:
    """Return a model with the kind of layer that is asked for."""
    if model is None or settings.layer is None:
        return model
    try:
        return model.with_layer(str(settings.layer))
    except ValueError as error:
        reader.note("layer", str(error))
        return model


def _tokens(reader: "_Reader", settings: Settings) -> tuple[int, int]:
    """Return the new and the cached tokens of a request."""
    prefill = reader.flag("prefill", settings.prefill)
    context = reader.whole("context", settings.context, 0, MOST_TOKENS)
    query = reader.whole("query", settings.query, 1, MOST_TOKENS)
    if prefill and settings.query != DEFAULTS.query:
        new = f"the tokens of {reader.spell('context')} are new"
        reader.note("query", f"not allowed with {reader.spell('prefill')}: {new}")
    if prefill and context == 0 and settings.context == 0:
        reader.note("context", "prefill needs at least 1 token, got 0")
    return (context, 0) if prefill else (query, context)


WHERE = "Point.of"
"""Where a message says that the settings stand."""


def unknown_sizes(graphs: Sequence["OperatorGraph"], given: Iterable[str]) -> str | None:
    """Return what is wrong with the names of sizes set by hand, or None where some graph has each of them."""
    from stream_mla.workload.operator_graph import COUNTERS
    from stream_mla.workload.split_k import K_SPLITS, KV_SPLITS, can_spread

    extents = {index for graph in graphs for index in graph.extents}
    able = {f"{K_SPLITS}.{o.name}" for graph in graphs for o in graph.operators if can_spread(graph, o)}
    known = [*sorted(extents.difference(COUNTERS, "w")), KV_SPLITS, K_SPLITS]
    unknown = [name for name in given if name not in known and name not in able]
    if not unknown:
        return None
    known.append(f"{K_SPLITS}.OPERATOR")
    return f"no operator has an index {' or '.join(unknown)}: use {', '.join(known)}"


class _Reader(ValueReader):
    """Reads one setting after the other."""

    def done(self) -> None:
        """Raise everything that is wrong, if anything is."""
        if self.found:
            raise SettingsError(WHERE, self.found)

    def loaded(self, name: str, given: object, kind: type[_Loaded], load: Callable[[str], _Loaded]) -> _Loaded | None:
        """Return an object, or load it by its name or path; None after noting a problem."""
        if isinstance(given, kind):
            return given
        if not isinstance(given, str | os.PathLike):
            self.note(name, f"expected a name, a path or an object of type {kind.__name__}, got {given!r:.60}")
            return None
        try:
            return load(os.fspath(cast("str | os.PathLike[str]", given)))
        except SpecError as error:
            for problem in error.problems:
                self.note(name, f"{error.where}: {problem}")
            return None

    def bits(self, given: object) -> dict[str, int]:
        """Return bits per kind of tensor."""
        if given is None:
            return {}
        if isinstance(given, int):
            return dict.fromkeys(STORED, self.whole("bits", given, 1))
        found = self.sizes("bits", given)
        if unknown := [name for name in found if name not in TENSORS]:
            self.note("bits", f"no such tensor: {', '.join(unknown)}: use {', '.join(TENSORS)}")
        return found

    def mask(self, settings: Settings, model: Model | None) -> Mask:
        """Return the mask that is set, else none under the letter's policy, else that of the model; with the window."""
        given, mask = settings.mask, CAUSAL if model is None else model.mask
        if given is None and settings.policy in ("letter", POLICIES["letter"]):
            mask = NO_MASK
        elif isinstance(given, Mask):
            mask = given
        elif given is not None:
            if given not in MASKS:
                self.note("mask", f"no such choice: {given!r:.60}: {nearest(given, MASKS)}")
            mask = MASKS.get(given, CAUSAL)
        if settings.window is None:
            return mask
        if given is not None and not mask.causal:
            self.note("window", f"it needs a causal mask, which {self.spell('mask')} none takes away: leave out one")
            return mask
        return replace(mask, causal=True, window=self.whole("window", settings.window, 1))

    def scheme(self, given: object, model: Model | None) -> str:
        """Return the name of a scheme that fits the model; without one given, PLAIN, as the command line does."""
        from stream_mla.workload.lowering.attention import SCHEMES

        if model is None:
            return ""
        if given is None:
            able = SCHEMES.fitting(model)
            if PLAIN not in able:
                self.note("scheme", f"{model.name} can run in {len(able)} schemes: choose {' or '.join(able)}")
            return PLAIN
        if not isinstance(given, str):
            self.note("scheme", f"expected the name of a scheme, got {given!r:.60}")
            return ""
        if problem := SCHEMES.problem(given, model):
            self.note("scheme", problem)
        return given

    def policy(self, settings: Settings) -> Policy:
        """Return a policy: a named or given one, with what is set beside it."""
        base, sharing = cast(object, settings.policy), settings.sharing
        if not isinstance(base, Policy):
            if not isinstance(base, str) or base not in POLICIES:
                self.note("policy", f"no such choice: {base!r:.60}: {nearest(base, POLICIES)}")
            base = POLICIES.get(str(base), POLICIES[DEFAULT_POLICY])
        if sharing is not None and not isinstance(sharing, bool) and sharing not in ("on", "off"):
            self.note("sharing", f"no such choice: {sharing!r:.60}: use on, off, True or False")
        return Policy(
            fusion=base.fusion if settings.fusion is None else self.member("fusion", settings.fusion, Fusion),
            prefetch=base.prefetch
            if settings.prefetch is None
            else self.member("prefetch", settings.prefetch, Prefetch),
            sharing=base.sharing if sharing is None else sharing in (True, "on"),
        )

    def cap(self, given: object, objective: Objective, machine: Accelerator | None) -> int | None:
        """Return the latency cap in whole cycles; the last one that it allows may not be begun, but ended."""
        if given is None:
            return None
        if objective is not Objective.ENERGY and all(name != "objective" for name, _ in self.found):
            self.note("latency_cap", f"it needs {self.spell('objective')} energy")
        if isinstance(given, str) and given.isdecimal():
            given = int(given)
        cycles: float | None
        if isinstance(given, str):
            try:
                cycles = float(parse(given, SECONDS)) * (1.0 if machine is None else machine.clock) * (1 + ROUNDING)
            except ValueError as error:
                self.note("latency_cap", f"expected cycles, or a time such as '0.5 ms': {error}")
                return None
        else:
            cycles = self.number("latency_cap", given, "cycles, or a time such as '0.5 ms'")
        if cycles is not None and not 1 <= cycles <= LARGEST_CAP:
            self.note("latency_cap", f"must be from 1 to {LARGEST_CAP} cycles, got {given}")
            return None
        return None if cycles is None else int(cycles)
