"""`list`, `check` and `show`: what is shipped, what a file says, and what follows from it."""

import argparse
import difflib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from stream_mla.errors import SpecError

if TYPE_CHECKING:
    from stream_mla.hardware.accelerator import Accelerator, CoreType
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
        except SpecError as error:
            print(error, file=sys.stderr)
            code = FAULTY_INPUT
    return code


def _load(name: str) -> "Model | Accelerator | CoreType":
    """Load what has a shipped name, or else the file at a path."""
    from stream_mla.frontends import catalog

    if name in catalog.model_names():
        return catalog.load_model(name)
    if name in catalog.accelerator_names():
        return catalog.load_accelerator(name)
    if Path(name).exists() or Path(name).suffix or len(Path(name).parts) > 1:
        return catalog.check(name)
    near = difflib.get_close_matches(name, [*catalog.model_names(), *catalog.accelerator_names()])
    advice = f"did you mean {' or '.join(near)}?" if near else "see stream-mla list models and list accelerators."
    raise SpecError(
        name, [f"no shipped model or accelerator has this name: {advice} The path of a file is accepted too"]
    )


def show(arguments: argparse.Namespace) -> int:
    """Print a model, an accelerator or a core as a file, with what follows from it as comments."""
    from stream_mla.frontends import catalog
    from stream_mla.hardware.accelerator import Accelerator
    from stream_mla.results.render import descriptions
    from stream_mla.workload.lowering.mha_baselines import parameters
    from stream_mla.workload.spec import Model

    found = _load(arguments.name)
    if isinstance(found, Model):
        facts = descriptions.model_facts(found, parameters(found))
    elif isinstance(found, Accelerator):
        facts = descriptions.accelerator_facts(found)
    else:
        facts = descriptions.core_facts(found)
    print(descriptions.described(catalog.dump(found), facts))
    return 0
