"""Options that say what to compute, and the points they stand for."""

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from stream_mla.cli.values import (
    TENSORS,
    bits,
    cycles_or_seconds,
    new_tokens,
    not_negative,
    requests,
    seconds,
    share,
    tile_sizes,
    tokens,
    workers,
)
from stream_mla.errors import SpecError
from stream_mla.mapping.policy import POLICIES, Fusion, Prefetch
from stream_mla.settings import DEFAULTS, NAMES, Settings, SettingsError, point_fields, unknown_sizes
from stream_mla.workload.spec import MASKS

if TYPE_CHECKING:
    from stream_mla.point import Point
    from stream_mla.workload.spec import Model

COMPARED = ("mla_rc", "mla_ru", "mla_absorbed")
"""The schemes of an MLA model that run without --scheme, before MHA of the same size."""
OBJECTIVES = ("latency", "energy", "latency-then-energy")


def add_step(parser: argparse.ArgumentParser) -> None:
    """Add what is computed, and on what."""
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        nargs="?",
        help="a shipped name, a YAML file, or a Hugging Face config.json or its folder",
    )
    add(
        "--accelerator",
        metavar="NAME|FILE",
        required=True,
        nargs="+",
        action="extend",
        help="shipped names or YAML files; several are compared",
    )
    add("--scheme", metavar="SCHEME", nargs="+", action="extend", help="only these; see stream-mla list schemes")
    add(
        "--context",
        metavar="N",
        type=tokens,
        default=DEFAULTS.context,
        help="tokens in the cache (default: %(default)s)",
    )
    step = parser.add_mutually_exclusive_group()
    step.add_argument(
        "--query", metavar="N", type=new_tokens, default=DEFAULTS.query, help="new tokens per request (default: 1)"
    )
    step.add_argument("--prefill", action="store_true", help="the tokens of --context are new, and nothing is cached")
    add("--layer", metavar="KIND", help="which kind of attention layer, where the model has several; see show MODEL")
    add("--batch", metavar="N", type=requests, default=DEFAULTS.batch, help="requests (default: 1)")
    add("--mask", choices=tuple(MASKS), help="the keys that a query sees (default: as the model says)")
    add("--window", metavar="N", type=tokens, help="keys that a query sees at most, its own and those before it")
    add(
        "--bits",
        metavar="N|TENSOR=N,...",
        type=bits,
        default={},
        help=f"of weights, cache and activations, or of any of {', '.join(TENSORS)}",
    )
    parser.set_defaults(fail=parser.error)


def add_objective(parser: argparse.ArgumentParser) -> None:
    """Add what is minimised."""
    parser.add_argument(
        "--objective", choices=OBJECTIVES, default=DEFAULTS.objective, help="what to minimise (default: latency)"
    )
    parser.add_argument(
        "--latency-cap",
        metavar="CYCLES|TIME",
        type=cycles_or_seconds,
        help="with --objective energy: the longest that is allowed, as 500000 or '0.5 ms'",
    )


def add_search(parser: argparse.ArgumentParser) -> None:
    """Add what the scheduler may do, and for how long."""
    add = parser.add_argument
    add(
        "--policy",
        choices=tuple(POLICIES),
        default=DEFAULTS.policy,
        help="a named set of the next three (default: free)",
    )
    add("--fusion", choices=tuple(Fusion), help="intermediate tensors on chip, through DRAM, or whichever is better")
    add("--prefetch", choices=tuple(Prefetch), help="what is loaded while a core computes")
    add("--sharing", choices=("on", "off"), help="whether one load may serve several that read the same")
    add(
        "--time-limit",
        metavar="S",
        type=seconds,
        default=DEFAULTS.time_limit,
        help="of the solver, per scheme; 0 leaves it out",
    )
    add(
        "--gap-limit",
        metavar="SHARE",
        type=share,
        default=DEFAULTS.gap_limit,
        help="gap at which the search ends (default: 0.001)",
    )
    add("--seed", metavar="N", type=not_negative, default=DEFAULTS.seed, help="of the solver (default: 0)")
    add(
        "--workers",
        metavar="N",
        type=workers,
        default=DEFAULTS.workers,
        help="of the solver; 1, the default, repeats exactly",
    )
    add(
        "--tile",
        metavar="INDEX=N,...",
        type=tile_sizes,
        default={},
        help="sizes of pieces, e.g. h=16,k=512,parts=4,row_parts=2",
    )


def points(arguments: argparse.Namespace) -> list["Point"]:
    """Return the points of a run; what does not fit together ends it."""
    from stream_mla.frontends.catalog import load_accelerator, load_model
    from stream_mla.point import Point
    from stream_mla.workload.lowering.attention import lower

    _find_model(arguments)
    model = load_model(arguments.model)
    if arguments.layer is not None:
        try:
            model = model.with_layer(arguments.layer)
        except ValueError as error:
            arguments.fail(f"argument --layer: {error}")
    accelerators = [load_accelerator(name) for name in dict.fromkeys(arguments.accelerator)]
    own = ("scheme", "layer", "tile", "latency_cap")
    given = {name: getattr(arguments, name) for name in NAMES if name not in own}
    cap = arguments.latency_cap
    given["latency_cap"] = f"{cap!r} s" if isinstance(cap, float) else cap
    try:
        found = [
            Point(**point_fields(row_model, accelerator, Settings(scheme=scheme, **given), spell=_spelled))
            for row_model, scheme in _rows(model, arguments)
            for accelerator in accelerators
        ]
    except SettingsError as error:
        arguments.fail("; ".join(f"argument {_spelled(name)}: {text}" for name, text in error.found))
        raise  # not reached: to fail is to exit
    if arguments.tile:  # an index that one of the rows has is enough
        graphs = [lower(point.workload, point.scheme) for point in found]
        if problem := unknown_sizes(graphs, arguments.tile):
            arguments.fail(f"argument --tile: {problem}")
    return [replace(point, tile_sizes=arguments.tile) for point in found]


def _find_model(arguments: argparse.Namespace) -> None:
    """Take the model from the values of an option that takes several, where it stands right behind them."""
    from stream_mla.frontends.catalog import model_names
    from stream_mla.workload.lowering.attention import SCHEMES

    if arguments.model is not None:
        return
    schemes: list[str] = arguments.scheme or []
    accelerators: list[str] = arguments.accelerator
    no_schemes = [name for name in schemes if name not in SCHEMES]
    shipped = [name for name in accelerators if name in model_names()]
    if len(schemes) > 1 and len(no_schemes) == 1:
        arguments.model = no_schemes[0]
        schemes.remove(arguments.model)
    elif len(accelerators) > 1:
        arguments.model = (shipped or accelerators)[-1]
        accelerators.remove(arguments.model)
    else:
        arguments.fail("the following arguments are required: MODEL")


def _spelled(name: str) -> str:
    """Return a setting as its option is written."""
    return f"--{name.replace('_', '-')}"


def _rows(model: "Model", arguments: argparse.Namespace) -> list[tuple["Model", str]]:
    """Return the models and schemes to compare."""
    from stream_mla.workload.lowering.attention import SCHEMES
    from stream_mla.workload.lowering.mha_baselines import same_dimensions, same_parameters
    from stream_mla.workload.spec import LatentAttention

    latent = isinstance(model.attention, LatentAttention)
    also = "; mha_large and mha_scaled appear without --scheme" if latent else ""
    for scheme in arguments.scheme or ():
        if problem := SCHEMES.problem(scheme, model):
            arguments.fail(f"argument --scheme: {problem}{also}")
    if arguments.scheme:
        return [(model, scheme) for scheme in dict.fromkeys(arguments.scheme)]
    if not latent:
        return [(model, "mha")]
    try:
        return [
            *((model, scheme) for scheme in COMPARED),
            (same_dimensions(model), "mha"),
            (same_parameters(model), "mha"),
        ]
    except ValueError as error:
        raise SpecError(arguments.model, [f"no MHA to compare with, {error}: choose rows with --scheme"]) from error


def name_of(point: "Point", arguments: argparse.Namespace) -> str:
    """Return what messages call a point: its model and scheme, and its accelerator where there are several."""
    where = f" on {point.accelerator.name}" if len(arguments.accelerator) > 1 else ""
    return f"{point.workload.model.name} {point.scheme}{where}"
