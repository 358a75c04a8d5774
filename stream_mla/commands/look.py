"""`list`, `check` and `show`: what is shipped, what a file says, and what follows from it."""

import argparse
import difflib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from stream_mla.errors import SpecError

if TYPE_CHECKING:
    from stream_mla.accelerator import Accelerator, CoreType
    from stream_mla.workload import Model

FAULTY_INPUT = 2


def list_shipped(arguments: argparse.Namespace) -> int:
    """Name models, accelerators or schemes, with a line on each."""
    from stream_mla import describe, io, report

    match arguments.what:
        case "models":
            lines = {name: describe.model_line(io.load_model(name)) for name in io.model_names()}
        case "accelerators":
            lines = {name: describe.accelerator_line(io.load_accelerator(name)) for name in io.accelerator_names()}
        case _:
            lines = report.SCHEME_DESCRIPTIONS
    width = max(map(len, lines))
    for name, line in lines.items():
        print(f"{name:{width}}  {line}")
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Say of each file that it is sound, or all that is wrong with it."""
    from stream_mla import io
    from stream_mla.structure import words

    code = 0
    for file in arguments.files:
        try:
            found = io.check(file)
            print(f"{file}: ok ({words(type(found).__name__)} {found.name})")
        except SpecError as error:
            print(error, file=sys.stderr)
            code = FAULTY_INPUT
    return code


def _load(name: str) -> "Model | Accelerator | CoreType":
    """Load what has a shipped name, or else the file at a path."""
    from stream_mla import io

    if name in io.model_names():
        return io.load_model(name)
    if name in io.accelerator_names():
        return io.load_accelerator(name)
    if Path(name).exists() or Path(name).suffix or len(Path(name).parts) > 1:
        return io.check(name)
    near = difflib.get_close_matches(name, [*io.model_names(), *io.accelerator_names()])
    advice = f"did you mean {' or '.join(near)}?" if near else "see stream-mla list models and list accelerators."
    raise SpecError(
        name, [f"no shipped model or accelerator has this name: {advice} The path of a file is accepted too"]
    )


def show(arguments: argparse.Namespace) -> int:
    """Print a model, an accelerator or a core as a file, with what follows from it as comments."""
    from stream_mla import describe, io
    from stream_mla.accelerator import Accelerator
    from stream_mla.attention import parameters
    from stream_mla.workload import Model

    found = _load(arguments.name)
    if isinstance(found, Model):
        facts = describe.model_facts(found, parameters(found))
    elif isinstance(found, Accelerator):
        facts = describe.accelerator_facts(found)
    else:
        facts = describe.core_facts(found)
    print(describe.described(io.dump(found), facts))
    return 0
