"""The command line: parse, load, one public call, show. Nothing is computed here.

Exit codes: 0 done, 2 the input is at fault, 3 a point has no schedule, 130 interrupted, 141 nobody reads our output.
Libraries that take long to load are imported by the handlers that need them.
"""

import argparse
import difflib
import gc
import os
import shutil
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from stream_mla.errors import InfeasibleError, NoScheduleError, SpecError, StreamMlaError

if TYPE_CHECKING:
    from stream_mla.accelerator import Accelerator, CoreType
    from stream_mla.evaluation import Progress
    from stream_mla.point import Point
    from stream_mla.report import Row
    from stream_mla.workload import Model

FAULTY_INPUT = 2
NO_SCHEDULE = 3
INTERRUPTED = 130
BROKEN_PIPE = 141
LARGEST = 2**31 - 1
"""Of any whole number here: what the solver takes as a seed, and more than any sensible count."""
TENSORS = ("weights", "cache", "activations", "partials")
COMPARED = ("mla_rc", "mla_ru", "mla_absorbed")
"""The schemes of an MLA model that run without --scheme, before MHA of the same size."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parsed = _parser().parse_args(arguments)
    collects = gc.isenabled()
    gc.disable()  # millions of small objects and no cycles to speak of: collecting takes a quarter of the time
    try:
        code: int = parsed.handler(parsed)
        sys.stdout.flush()
    except StreamMlaError as error:
        print(error, file=sys.stderr)
        return FAULTY_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains as it exits
        return BROKEN_PIPE
    finally:
        if collects:
            gc.enable()
    return code


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(FAULTY_INPUT, f"{self.prog}: error: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="stream-mla", description="Latency and energy of attention on accelerators.")
    parser.add_argument("--version", action="version", version=f"stream-mla {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_run(commands.add_parser("run", help="schedule one attention layer"))
    lister = commands.add_parser("list", help="name what is shipped")
    lister.add_argument("what", choices=["models", "accelerators", "schemes"])
    lister.set_defaults(handler=_list)
    checker = commands.add_parser("check", help="check files of models, accelerators and cores")
    checker.add_argument("files", metavar="FILE", nargs="+")
    checker.set_defaults(handler=_check)
    shower = commands.add_parser("show", help="print a model or an accelerator, and what follows from it")
    shower.add_argument("name", metavar="MODEL|ACCELERATOR", help="a shipped name or a file")
    shower.set_defaults(handler=_show)
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", help="a shipped name, a YAML file, or a Hugging Face config.json or its folder")
    add("--accelerator", metavar="NAME|FILE", required=True, help="a shipped name or a YAML file")
    add("--scheme", metavar="SCHEME", nargs="+", action="extend", help="only these; see stream-mla list schemes")
    add("--context", metavar="N", type=_not_negative, default=4096, help="tokens in the cache (default: %(default)s)")
    step = parser.add_mutually_exclusive_group()
    step.add_argument("--query", metavar="N", type=_positive, default=1, help="new tokens per request (default: 1)")
    step.add_argument("--prefill", action="store_true", help="the tokens of --context are new, and nothing is cached")
    add("--batch", metavar="N", type=_positive, default=1, help="requests (default: 1)")
    add("--bits", metavar="TENSOR=N,...", type=_bits, default={}, help=f"of {', '.join(TENSORS)}")
    add("--objective", choices=["latency", "energy"], default="latency", help="what to minimise (default: latency)")
    add("--time-limit", metavar="S", type=_seconds, default=5.0, help="of the solver, per scheme; 0 leaves it out")
    add(
        "--gap-limit",
        metavar="SHARE",
        type=_share,
        default=0.001,
        help="gap at which the solver stops (default: 0.001)",
    )
    add("--seed", metavar="N", type=_not_negative, default=0, help="of the solver (default: 0)")
    add("--workers", metavar="N", type=_positive, default=1, help="of the solver; 1, the default, repeats exactly")
    add("--tile", metavar="INDEX=N,...", type=_sizes, default={}, help="sizes of pieces, e.g. h=16,k=512,parts=4")
    add("--json", action="store_true", help="print a JSON list instead of a table")
    add("--verbose", action="store_true", help="say on stderr what is tried")
    parser.set_defaults(handler=_run, fail=parser.error)


def _run(arguments: argparse.Namespace) -> int:
    from stream_mla import report

    points = _points(arguments)
    rows: list[Row] = []
    try:
        code = _evaluate(points, rows, verbose=arguments.verbose)
    except SpecError as error:
        print(error, file=sys.stderr)
        code = FAULTY_INPUT
    except KeyboardInterrupt:
        print(f"interrupted after {len(rows)} of {len(points)} rows", file=sys.stderr)
        code = INTERRUPTED
    if arguments.json and (rows or code == INTERRUPTED):
        print(report.as_json(rows))
    elif any(not isinstance(row, report.Failure) for row in rows):
        print(report.table(points[0], rows))
    return code


def _evaluate(points: Sequence["Point"], rows: list["Row"], *, verbose: bool) -> int:
    """Append a row per point as it is done; points without a schedule do not stop the others."""
    from stream_mla.evaluation import evaluate
    from stream_mla.report import failure

    code = 0
    for point in points:
        name = f"{point.workload.model.name} {point.scheme}"
        try:
            with _progress(name, verbose=verbose) as progress:
                rows.append(evaluate(point, progress).result)
        except InfeasibleError as error:
            print(f"{name}: infeasible: {error}", file=sys.stderr)
            rows.append(failure(point, "infeasible", error))
            code = NO_SCHEDULE
        except NoScheduleError as error:
            print(f"{name}: no schedule was found, though one may exist: {error}", file=sys.stderr)
            rows.append(failure(point, "no_schedule", error))
            code = NO_SCHEDULE
    return code


def _points(arguments: argparse.Namespace) -> list["Point"]:
    """Return the points of a run; what does not fit together ends it."""
    from stream_mla.cost import Objective
    from stream_mla.io import load_accelerator, load_model
    from stream_mla.point import Point
    from stream_mla.workload import Workload

    if arguments.prefill and arguments.context == 0:
        arguments.fail("argument --context: prefill needs at least 1 token, got 0")
    model, accelerator = load_model(arguments.model), load_accelerator(arguments.accelerator)
    points = [
        Point(
            workload=Workload(
                model=row_model,
                batch=arguments.batch,
                query_tokens=arguments.context if arguments.prefill else arguments.query,
                cached_tokens=0 if arguments.prefill else arguments.context,
                precision=replace(model.precision, **arguments.bits),
            ),
            accelerator=accelerator,
            scheme=scheme,
            objective=Objective(arguments.objective),
            time_limit_s=arguments.time_limit,
            gap_limit=arguments.gap_limit,
            seed=arguments.seed,
            workers=arguments.workers,
            tile_sizes=arguments.tile,
        )
        for row_model, scheme in _rows(model, arguments)
    ]
    _require_indices(points, arguments)
    return points


def _rows(model: "Model", arguments: argparse.Namespace) -> list[tuple["Model", str]]:
    """Return the models and schemes to compare."""
    from stream_mla.attention import SCHEMES, same_dimensions, same_parameters
    from stream_mla.workload import LatentAttention

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


def _require_indices(points: Sequence["Point"], arguments: argparse.Namespace) -> None:
    """Refuse sizes of indices that no row has."""
    from stream_mla.attention import lower
    from stream_mla.graph import COUNTERS

    extents = {index for point in points for index in lower(point.workload, point.scheme).extents}
    known = [*sorted(extents.difference(COUNTERS, "w")), "parts"]
    if unknown := [index for index in arguments.tile if index not in known]:
        arguments.fail(f"argument --tile: no operator has an index {' or '.join(unknown)}: use {', '.join(known)}")


@contextmanager
def _progress(name: str, *, verbose: bool) -> Generator["Progress"]:
    """Give a function that shows progress on stderr: on a line that is overwritten, as lines, or not at all."""
    rewritten = sys.stderr.isatty() and not verbose

    def show(text: str) -> None:
        if rewritten:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{f'{name}: {text}'[:width]}\x1b[K", end="", file=sys.stderr, flush=True)
        elif verbose:
            print(f"{name}: {text}", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if rewritten:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _list(arguments: argparse.Namespace) -> int:
    from stream_mla import io, report

    match arguments.what:
        case "models":
            lines = {name: report.model_line(io.load_model(name)) for name in io.model_names()}
        case "accelerators":
            lines = {name: report.accelerator_line(io.load_accelerator(name)) for name in io.accelerator_names()}
        case _:
            lines = report.SCHEME_DESCRIPTIONS
    width = max(map(len, lines))
    for name, line in lines.items():
        print(f"{name:{width}}  {line}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
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


def _show(arguments: argparse.Namespace) -> int:
    from stream_mla import io, report
    from stream_mla.accelerator import Accelerator
    from stream_mla.attention import parameters
    from stream_mla.workload import Model

    found = _load(arguments.name)
    if isinstance(found, Model):
        facts = report.model_facts(found, parameters(found))
    elif isinstance(found, Accelerator):
        facts = report.accelerator_facts(found)
    else:
        facts = report.core_facts(found)
    print(report.described(io.dump(found), facts))
    return 0


def _positive(text: str) -> int:
    """Read an option's value; argparse puts the option's name before the message."""
    return _whole(text, least=1)


def _not_negative(text: str) -> int:
    return _whole(text, least=0)


def _whole(text: str, *, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None
    if not least <= number <= LARGEST:
        raise argparse.ArgumentTypeError(f"must be from {least} to {LARGEST}, got {number}")
    return number


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number of seconds, got {text!r}") from None
    if not 0 <= seconds <= LARGEST:
        raise argparse.ArgumentTypeError(f"must be from 0 to {LARGEST} seconds, got {text}")
    return seconds


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a share, such as 0.001, got {text!r}") from None
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"must be at least 0 and less than 1, got {text}")
    return share


def _sizes(text: str) -> dict[str, int]:
    """Read `h=16,k=512`."""
    sizes: dict[str, int] = {}
    for entry in text.split(","):
        name, equals, size = entry.partition("=")
        if not equals:
            raise argparse.ArgumentTypeError(f"expected NAME=N, got {entry!r}")
        if name in sizes:
            raise argparse.ArgumentTypeError(f"{name} is given twice: keep one")
        sizes[name] = _positive(size)
    return sizes


def _bits(text: str) -> dict[str, int]:
    bits = _sizes(text)
    if unknown := [name for name in bits if name not in TENSORS]:
        raise argparse.ArgumentTypeError(f"no such tensor: {', '.join(unknown)}: use {', '.join(TENSORS)}")
    return bits


def _version() -> str:
    try:
        return version("stream-mla")
    except PackageNotFoundError:
        return "(not installed)"
