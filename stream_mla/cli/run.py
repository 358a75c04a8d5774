"""`run`: schedule one layer in several schemes and compare them."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stream_mla.cli import options
from stream_mla.cli.progress import INTERRUPTED, patient, shown
from stream_mla.errors import InfeasibleError, NoScheduleError, SpecError

if TYPE_CHECKING:
    from stream_mla.point import Point
    from stream_mla.results.render.tables import Failure, Row
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
    add("--json", action="store_true", help="print a JSON list instead of a table")
    add("--verbose", action="store_true", help="say on stderr what is tried")
    parser.set_defaults(handler=handle)


def handle(arguments: argparse.Namespace) -> int:
    """Evaluate the rows and print those that are done, whatever ends the run."""
    from stream_mla.results.render import tables

    for name in ("save", "start"):
        if getattr(arguments, name) == "":
            arguments.fail(f"argument --{name}: expected a path, got ''")
    if arguments.again and not arguments.save:
        arguments.fail("argument --again: it needs --save")
    points = options.points(arguments)
    if arguments.save:
        from stream_mla.results import store

        store.prepare(Path(arguments.save))
    rows: list[Row] = []
    with patient():
        try:
            code = _evaluate(points, rows, arguments)
        except SpecError as error:
            print(error, file=sys.stderr)
            code = FAULTY_INPUT
        except KeyboardInterrupt:
            print(f"interrupted after {len(rows)} of {len(points)} rows", file=sys.stderr)
            code = INTERRUPTED
        if arguments.json and (rows or code == INTERRUPTED):
            print(tables.as_json(rows))
        elif any(not isinstance(row, tables.Failure) for row in rows):
            print(tables.table(points[0], rows))
    return code


def _evaluate(points: Sequence["Point"], rows: list["Row"], arguments: argparse.Namespace) -> int:
    """Append a row per point as it is done; points without a schedule do not stop the others."""
    starts: Sequence[Stored | None] = [None] * len(points)
    if arguments.start:
        from stream_mla.results import store

        starts = store.starts(Path(arguments.start), points, lambda said: print(said, file=sys.stderr))
    code = 0
    for point, start in zip(points, starts, strict=True):
        name = options.name_of(point, arguments)
        if arguments.start and start is None:
            print(f"{name}: nothing in {arguments.start} to start from", file=sys.stderr)
        try:
            _row(point, start, rows, name, arguments)
        except (InfeasibleError, NoScheduleError) as error:
            rows.append(_explained(point, error, name, arguments))
            code = NO_SCHEDULE
    return code


def _explained(
    point: "Point", error: InfeasibleError | NoScheduleError, name: str, arguments: argparse.Namespace
) -> "Failure":
    """Say why a point has no schedule, and which changes were seen to help."""
    from stream_mla.experiments.remedies import advice, remedies
    from stream_mla.results.render.tables import failure

    proven = isinstance(error, InfeasibleError)
    what = "infeasible" if proven else "no schedule was found, though one may exist"
    with shown(name, verbose=arguments.verbose) as progress:
        changes = remedies(point, progress)
    said = f"{name}: {what}: {error}" + (f". {advice(changes)}" if changes is not None else "")
    print(said, file=sys.stderr)
    return failure(point, "infeasible" if proven else "no_schedule", error, changes or ())


def _row(point: "Point", start: "Stored | None", rows: list["Row"], name: str, arguments: argparse.Namespace) -> None:
    """Append the row of a point: what is stored of it, or what a search finds, which is then stored."""
    from stream_mla import evaluation
    from stream_mla.results import store
    from stream_mla.results.outcome import Interrupted

    folder = Path(arguments.save) if arguments.save else None
    stored = None if folder is None or arguments.again else _stored(folder, point, name)
    if stored is not None and store.is_final(stored):
        print(f"{name}: reused {stored.path}", file=sys.stderr)
        rows.append(stored.result)
        return
    if stored is not None and not stored.result.passes:
        print(f"{name}: goes on from {stored.path}, which was interrupted", file=sys.stderr)
    sources = [source for source in (stored, start) if source is not None]
    # what was scheduled in passes is no start: there is no schedule of the whole to go on from
    candidates = [store.rebuilt(source, point)[0] for source in sources if not source.result.passes]
    interrupted = False
    with shown(name, verbose=arguments.verbose) as progress:
        try:
            outcome = evaluation.evaluate(point, progress, candidates)
        except Interrupted as interrupt:
            outcome, interrupted = interrupt.outcome, True
    rows.append(outcome.result)
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
