"""`run`: schedule one layer in several schemes and compare them."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stream_mla.cli import options
from stream_mla.cli.printing import Rows, column_names
from stream_mla.cli.progress import INTERRUPTED, patient, shown
from stream_mla.errors import InfeasibleError, NoScheduleError, SpecError

if TYPE_CHECKING:
    from stream_mla.point import Point
    from stream_mla.results.result import Failure
    from stream_mla.results.store import Stored

FAULTY_INPUT = 2
NO_SCHEDULE = 3


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    options.add_step(parser)
    options.add_objective(parser)
    options.add_search(parser)
    add = parser.add_argument
    add("--save", metavar="DIR", help="store each result here; what is stored already is not computed again")
    add("--again", action="store_true", help="with --save: compute and store anew")
    add("--start", metavar="FILE|DIR", help="start from a stored result of the same layer, scheme and machine")
    add_table(parser)
    add("--json", action="store_true", help="print a JSON list instead of a table")
    add("--verbose", action="store_true", help="say on stderr what is tried")
    parser.set_defaults(handler=handle)


def add_table(parser: argparse.ArgumentParser) -> None:
    """Add what a table shows."""
    add = parser.add_argument
    add("--columns", metavar="NAME,...", type=column_names, default=(), help="columns of the table, in this order")
    add("--wide", action="store_true", help="all columns, and more lines under the table")


def handle(arguments: argparse.Namespace) -> int:
    """Evaluate the rows and print each as it is done, whatever ends the run."""
    for name in ("save", "start"):
        if getattr(arguments, name) == "":
            arguments.fail(f"argument --{name}: expected a path, got ''")
    if arguments.again and not arguments.save:
        arguments.fail("argument --again: it needs --save")
    points = options.points(arguments)
    if arguments.save:
        from stream_mla.results import store

        store.prepare(Path(arguments.save))
    rows = Rows(points, arguments)
    with patient():
        try:
            code = _evaluate(points, rows, arguments)
        except SpecError as error:
            print(error, file=sys.stderr)
            code = FAULTY_INPUT
        except KeyboardInterrupt:
            print(f"interrupted after {len(rows.done)} of {len(points)} rows", file=sys.stderr)
            code = INTERRUPTED
        rows.close(interrupted=code == INTERRUPTED)
    return code


def _evaluate(points: Sequence["Point"], rows: Rows, arguments: argparse.Namespace) -> int:
    """Add a row per point as it is done; points without a schedule do not stop the others."""
    starts: Sequence[Stored | None] = [None] * len(points)
    if arguments.start:
        from stream_mla.results import store

        starts = store.starts(Path(arguments.start), points, lambda said: print(said, file=sys.stderr))
    code = 0
    reasons: dict[str, tuple[str, Failure]] = {}
    for point, start in zip(points, starts, strict=True):
        name = options.name_of(point, arguments)
        if arguments.start and start is None:
            print(f"{name}: nothing in {arguments.start} to start from", file=sys.stderr)
        if known := _known_failure(point, name, arguments):
            rows.add(known)
            code = NO_SCHEDULE
            continue
        try:
            _row(point, start, rows, name, arguments)
        except (InfeasibleError, NoScheduleError) as error:
            rows.add(_explained(point, error, name, reasons, arguments))
            code = NO_SCHEDULE
    return code


def _known_failure(point: "Point", name: str, arguments: argparse.Namespace) -> "Failure | None":
    """Return what is stored of a point that had no schedule, unless it is to be tried again."""
    if not arguments.save or arguments.again:
        return None
    from stream_mla.results import store

    try:
        found = store.failed_before(Path(arguments.save), point)
    except SpecError as error:
        print(f"{name}: tried again. {error}", file=sys.stderr)
        return None
    if found is not None:
        print(f"{name}: {found.status} when it was tried before, see --again: {found.error}", file=sys.stderr)
    return found


def _explained(
    point: "Point",
    error: InfeasibleError | NoScheduleError,
    name: str,
    reasons: "dict[str, tuple[str, Failure]]",
    arguments: argparse.Namespace,
) -> "Failure":
    """Say why a point has no schedule, and which changes were seen to help; a reason that was said is not repeated."""
    from stream_mla.experiments.remedies import advice, remedies
    from stream_mla.results.result import failure

    proven = isinstance(error, InfeasibleError)
    what = "infeasible" if proven else "no schedule was found, though one may exist"
    reason = str(error).replace(point.workload.model.name, "").replace(point.scheme, "")
    if reason in reasons:
        first, told = reasons[reason]
        print(f"{name}: {what}, for the same reason as {first}", file=sys.stderr)
        failed = failure(point, told.status, error, told.fits_with)
    else:
        with shown(name, verbose=arguments.verbose) as progress:
            changes = remedies(point, progress)
        said = f"{name}: {what}: {error}" + (f". {advice(changes)}" if changes is not None else "")
        print(said, file=sys.stderr)
        failed = failure(point, "infeasible" if proven else "no_schedule", error, tuple(changes or ()))
        reasons[reason] = name, failed
    if arguments.save:
        from stream_mla.results import store

        store.save_failure(Path(arguments.save), point, failed)
    return failed


def _row(point: "Point", start: "Stored | None", rows: Rows, name: str, arguments: argparse.Namespace) -> None:
    """Append the row of a point: what is stored of it, or what a search finds, which is then stored."""
    from stream_mla import evaluation
    from stream_mla.results import store
    from stream_mla.results.outcome import Interrupted
    from stream_mla.results.render.comparison import row_done

    folder = Path(arguments.save) if arguments.save else None
    stored = None if folder is None or arguments.again else _stored(folder, point, name)
    if stored is not None and store.is_final(stored):
        print(f"{name}: reused {stored.path}", file=sys.stderr)
        rows.add(stored.result)
        return
    if stored is not None and not stored.result.passes:
        print(f"{name}: goes on from {stored.path}, which was interrupted", file=sys.stderr)
    sources = [source for source in (stored, start) if source is not None]
    # what was scheduled in passes is no start: there is no schedule of the whole to go on from
    candidates = [store.rebuilt(source, point)[0] for source in sources if not source.result.passes]
    interrupted, began = False, time.perf_counter()
    with shown(name, verbose=arguments.verbose) as progress:
        try:
            outcome = evaluation.evaluate(point, progress, candidates)
        except Interrupted as interrupt:
            outcome, interrupted = interrupt.outcome, True
    rows.add(outcome.result)
    if not sys.stderr.isatty():  # there, the line that is overwritten has said it
        print(f"{name}: {row_done(outcome.result)}, {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
    if folder is not None:
        store.save(folder, point, outcome)
    if interrupted:
        raise KeyboardInterrupt


def _stored(folder: Path, point: "Point", name: str) -> "Stored | None":
    """Return what is stored of a point, if it can be used: what other code stored must obey today's rules."""
    from stream_mla.results import store

    try:
        stored = store.reusable(folder, point)
        if stored is not None and not store.made_by_this_code(stored):
            store.rebuilt(stored, point)
    except SpecError as error:
        print(f"{name}: computed again. {error}", file=sys.stderr)
        return None
    return stored
