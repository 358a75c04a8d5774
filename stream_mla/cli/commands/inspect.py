"""`list`, `check` and `show`: what is shipped, what a file says, and what follows from it."""

import argparse
import difflib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from stream_mla.cli.printing import comparison_for
from stream_mla.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stream_mla.hardware.accelerator import Accelerator, CoreType
    from stream_mla.results.result import Result
    from stream_mla.workload.spec import Model

FAULTY_INPUT = 2


def list_shipped(arguments: argparse.Namespace) -> int:
    """Name models, accelerators or schemes, with a line on each."""
    from stream_mla.frontends import catalog
    from stream_mla.results.render import descriptions
    from stream_mla.workload.lowering.attention import SCHEMES

    match arguments.what:
        case "models":
            lines = {name: descriptions.model_line(catalog.load_model(name)) for name in catalog.model_names()}
        case "accelerators":
            lines = {
                name: descriptions.accelerator_line(catalog.load_accelerator(name))
                for name in catalog.accelerator_names()
            }
        case _:
            lines = {scheme.name: scheme.line for scheme in SCHEMES.values()}
    width = max(map(len, lines))
    for name, line in lines.items():
        print(f"{name:{width}}  {line}")
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Say of each file that it is sound, or all that is wrong with it."""
    from stream_mla.frontends import catalog
    from stream_mla.frontends.schema import words

    code = 0
    for file in arguments.files:
        try:
            found = catalog.check(file)
            print(f"{file}: ok ({words(type(found).__name__)} {found.name})")
            for note in _notes(found):
                print(f"  note: {note}")
        except SpecError as error:
            print(error, file=sys.stderr)
            code = FAULTY_INPUT
    return code


def _notes(found: "Model | Accelerator | CoreType") -> tuple[str, ...]:
    """Return what is unlikely of a machine or a core."""
    from stream_mla.hardware.accelerator import Accelerator, CoreType
    from stream_mla.hardware.plausibility import accelerator_notes, core_note

    if isinstance(found, Accelerator):
        return accelerator_notes(found)
    return tuple(filter(None, [core_note(found)])) if isinstance(found, CoreType) else ()


def _load(name: str) -> "Model | Accelerator | CoreType":
    """Load what has a shipped name, or else the file at a path."""
    from stream_mla.frontends import catalog

    if name in catalog.model_names():
        return catalog.load_model(name)
    if name in catalog.accelerator_names():
        return catalog.load_accelerator(name)
    if catalog.is_path(name):
        return catalog.check(name)
    near = difflib.get_close_matches(name[:200], [*catalog.model_names(), *catalog.accelerator_names()])
    advice = f"did you mean {' or '.join(near)}?" if near else "see stream-mla list models and list accelerators."
    raise SpecError(
        name, [f"no shipped model or accelerator has this name: {advice} The path of a file is accepted too"]
    )


def _results(name: str) -> "list[Result]":
    """Return the results that are stored in a file or a folder; none where it is something else."""
    from stream_mla.frontends import catalog

    path = Path(name)
    if name in (*catalog.model_names(), *catalog.accelerator_names()) or not os.path.lexists(path):
        return []
    from stream_mla.results import store

    if path.is_dir():
        found: list[Result] = []
        for file in () if (path / "config.json").exists() else store.results_in(path):
            try:
                found.append(store.load(file).result)
            except SpecError as error:
                print(f"left out {error}", file=sys.stderr)
        return found
    return [store.load(path).result] if store.looks_sealed(path) else []


def _tables(results: "Sequence[Result]", arguments: argparse.Namespace) -> str:
    """Return a table for each group of results that differ in model baseline, scheme and accelerator only."""
    from stream_mla.results.render.comparison import BASELINES, subject_of_results

    models = dict.fromkeys(row.model for row in results if row.model not in BASELINES)
    groups: dict[tuple[object, ...], list[Result]] = {}
    for row in sorted(results, key=lambda row: (row.context_tokens, row.batch, row.accelerator, row.scheme)):
        about = row.model if row.model not in BASELINES or len(models) != 1 else next(iter(models))
        step = (row.batch, row.query_tokens, row.cached_tokens, row.mask, row.window, row.chunk, row.layer)
        bits = (row.weight_bits, row.cache_bits, row.activation_bits)
        search = (row.objective, row.latency_cap_cycles, row.fusion, row.prefetch, row.sharing)
        groups.setdefault((about, *step, *bits, *search), []).append(row)
    texts: list[str] = []
    for rows in groups.values():
        shown = comparison_for(subject_of_results(rows), arguments)
        texts.append("\n".join([shown.heading(), *map(shown.line, rows), "", shown.footing(rows)]).rstrip())
    return "\n\n".join(texts)


def show(arguments: argparse.Namespace) -> int:
    """Print a model, an accelerator or a core as a file, with what follows from it; or stored results as tables."""
    from stream_mla.frontends import catalog
    from stream_mla.hardware.accelerator import Accelerator
    from stream_mla.results.render import descriptions
    from stream_mla.workload.lowering.mha_baselines import parameters
    from stream_mla.workload.spec import Model

    if results := _results(arguments.name):
        print(_tables(results, arguments))
        return 0
    found = _load(arguments.name)
    if isinstance(found, Model):
        kinds = [found.with_layer(kind.name) if kind.name else found for kind in found.kinds]
        facts = descriptions.model_facts(found, [parameters(kind) for kind in kinds])
    elif isinstance(found, Accelerator):
        facts = descriptions.accelerator_facts(found)
    else:
        facts = descriptions.core_facts(found)
    print(descriptions.described(catalog.dump(found), facts))
    return 0
