"""Options that say what to compute, and the points they stand for."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from stream_mla.cli.values import TENSORS, bits, cycles_or_seconds, not_negative, positive, seconds, share, sizes
from stream_mla.errors import SpecError
from stream_mla.mapping.policy import POLICIES, Fusion, Policy, Prefetch

if TYPE_CHECKING:
    from stream_mla.hardware.accelerator import Accelerator
    from stream_mla.point import Point
    from stream_mla.workload.spec import Mask, Model

COMPARED = ("mla_rc", "mla_ru", "mla_absorbed")
"""The schemes of an MLA model that run without --scheme, before MHA of the same size."""
OBJECTIVES = ("latency", "energy", "latency-then-energy")


def add_step(parser: argparse.ArgumentParser) -> None:
    """Add what is computed, and on what."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="a shipped name, a YAML file, or a Hugging Face config.json or its folder")
    add("--accelerator", metavar="NAME|FILE", required=True, help="a shipped name or a YAML file")
    add("--scheme", metavar="SCHEME", nargs="+", action="extend", help="only these; see stream-mla list schemes")
    add("--context", metavar="N", type=not_negative, default=4096, help="tokens in the cache (default: %(default)s)")
    step = parser.add_mutually_exclusive_group()
    step.add_argument("--query", metavar="N", type=positive, default=1, help="new tokens per request (default: 1)")
    step.add_argument("--prefill", action="store_true", help="the tokens of --context are new, and nothing is cached")
    add("--batch", metavar="N", type=positive, default=1, help="requests (default: 1)")
    add(
        "--mask", choices=("none", "causal"), help="which keys a query sees (default: as the model says, mostly causal)"
    )
    add("--window", metavar="N", type=positive, help="keys that a query sees at most, its own and those before it")
    add("--bits", metavar="TENSOR=N,...", type=bits, default={}, help=f"of {', '.join(TENSORS)}")
    parser.set_defaults(fail=parser.error)


def add_objective(parser: argparse.ArgumentParser) -> None:
    """Add what is minimised."""
    parser.add_argument(
        "--objective", choices=OBJECTIVES, default="latency", help="what to minimise (default: latency)"
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
    add("--policy", choices=tuple(POLICIES), default="free", help="a named set of the next three (default: free)")
    add("--fusion", choices=tuple(Fusion), help="intermediate tensors on chip, through DRAM, or whichever is better")
    add("--prefetch", choices=tuple(Prefetch), help="what is loaded while a core computes")
    add("--sharing", choices=("on", "off"), help="whether one load may serve several that read the same")
    add("--time-limit", metavar="S", type=seconds, default=5.0, help="of the solver, per scheme; 0 leaves it out")
    add("--gap-limit", metavar="SHARE", type=share, default=0.001, help="gap at which the search ends (default: 0.001)")
    add("--seed", metavar="N", type=not_negative, default=0, help="of the solver (default: 0)")
    add("--workers", metavar="N", type=positive, default=1, help="of the solver; 1, the default, repeats exactly")
    add(
        "--tile",
        metavar="INDEX=N,...",
        type=sizes,
        default={},
        help="sizes of pieces, e.g. h=16,k=512,parts=4,row_parts=2",
    )


def points(arguments: argparse.Namespace) -> list["Point"]:
    """Return the points of a run; what does not fit together ends it."""
    from stream_mla.frontends.catalog import load_accelerator, load_model
    from stream_mla.hardware.core_cost import Objective
    from stream_mla.point import Point
    from stream_mla.workload.spec import Workload

    if arguments.prefill and arguments.context == 0:
        arguments.fail("argument --context: prefill needs at least 1 token, got 0")
    model, accelerator = load_model(arguments.model), load_accelerator(arguments.accelerator)
    found = [
        Point(
            workload=Workload(
                model=row_model,
                batch=arguments.batch,
                query_tokens=arguments.context if arguments.prefill else arguments.query,
                cached_tokens=0 if arguments.prefill else arguments.context,
                precision=replace(model.precision, **arguments.bits),
                mask=_mask(row_model, arguments),
            ),
            accelerator=accelerator,
            scheme=scheme,
            objective=Objective(arguments.objective),
            policy=_policy(arguments),
            latency_cap_cycles=_cap(arguments, accelerator),
            time_limit_s=arguments.time_limit,
            gap_limit=arguments.gap_limit,
            seed=arguments.seed,
            workers=arguments.workers,
            tile_sizes=arguments.tile,
        )
        for row_model, scheme in _rows(model, arguments)
    ]
    _require_indices(found, arguments.tile, arguments)
    return found


def _mask(model: "Model", arguments: argparse.Namespace) -> "Mask":
    """Return the mask of a run: what the options say, else none under the letter's policy, else that of the model."""
    from stream_mla.workload.spec import CAUSAL, NO_MASK

    if arguments.mask == "none" and arguments.window is not None:
        arguments.fail(
            "argument --window: it needs a causal mask, which --mask none takes away: leave out one of the two"
        )
    if arguments.mask is not None:
        mask = CAUSAL if arguments.mask == "causal" else NO_MASK
    else:
        mask = NO_MASK if arguments.policy == "letter" else model.mask
    return mask if arguments.window is None else replace(mask, causal=True, window=arguments.window)


def _policy(arguments: argparse.Namespace) -> Policy:
    base = POLICIES[arguments.policy]
    return Policy(
        fusion=Fusion(arguments.fusion or base.fusion),
        prefetch=Prefetch(arguments.prefetch or base.prefetch),
        sharing=base.sharing if arguments.sharing is None else arguments.sharing == "on",
    )


def _cap(arguments: argparse.Namespace, accelerator: "Accelerator") -> int | None:
    """Return the latency cap in cycles, of which the last may not be begun."""
    cap = arguments.latency_cap
    if cap is None:
        return None
    if arguments.objective != "energy":
        arguments.fail("argument --latency-cap: it needs --objective energy")
    return cap if isinstance(cap, int) else int(cap * accelerator.clock * (1 + 1e-12))


def _rows(model: "Model", arguments: argparse.Namespace) -> list[tuple["Model", str]]:
    """Return the models and schemes to compare."""
    from stream_mla.workload.lowering.attention import SCHEMES
    from stream_mla.workload.lowering.mha_baselines import same_dimensions, same_parameters
    from stream_mla.workload.spec import LatentAttention

    latent = isinstance(model.attention, LatentAttention)
    fitting = [scheme for scheme in SCHEMES if scheme.startswith("mla_") == latent]
    also = "; mha_large and mha_scaled appear without --scheme" if latent else ""
    for scheme in arguments.scheme or ():
        if scheme not in fitting:
            kind = f"does not fit {model.name}, which has {'latent' if latent else 'grouped-query'} attention"
            wrong = kind if scheme in SCHEMES else "is no scheme"
            arguments.fail(f"argument --scheme: {scheme} {wrong}: use {' or '.join(fitting)}{also}")
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


def _require_indices(rows: Sequence["Point"], given: Mapping[str, int], arguments: argparse.Namespace) -> None:
    """Refuse sizes of indices that no row has."""
    from stream_mla.workload.lowering.attention import lower
    from stream_mla.workload.operator_graph import COUNTERS
    from stream_mla.workload.split_k import ROW_PARTS, can_spread

    graphs = [lower(point.workload, point.scheme) for point in rows]
    extents = {index for graph in graphs for index in graph.extents}
    able = {f"{ROW_PARTS}.{o.name}" for graph in graphs for o in graph.operators if can_spread(graph, o)}
    known = [*sorted(extents.difference(COUNTERS, "w")), "parts", ROW_PARTS]
    if unknown := [name for name in given if name not in known and name not in able]:
        known.append(f"{ROW_PARTS}.OPERATOR")
        arguments.fail(f"argument --tile: no operator has an index {' or '.join(unknown)}: use {', '.join(known)}")
