"""`pareto`: what latency costs in energy, for each scheme."""

import argparse
import sys
from typing import TYPE_CHECKING

from stream_mla.cli import options
from stream_mla.cli.progress import INTERRUPTED, patient, shown
from stream_mla.cli.values import not_negative
from stream_mla.errors import InfeasibleError, NoScheduleError

if TYPE_CHECKING:
    from stream_mla.point import Point
    from stream_mla.results.outcome import Outcome
    from stream_mla.results.result import Result

NO_SCHEDULE = 3


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    options.add_step(parser)
    options.add_search(parser)
    add = parser.add_argument
    add("--points", metavar="N", type=not_negative, default=5, help="latency caps between the ends (default: 5)")
    add("--json", action="store_true", help="print a JSON list instead of a table")
    add("--verbose", action="store_true", help="say on stderr what is tried")
    parser.set_defaults(handler=handle, objective="latency", latency_cap=None)


def handle(arguments: argparse.Namespace) -> int:
    """Draw the front of each scheme and print what is done, whatever ends it."""
    from stream_mla.results.render import tables

    points = options.points(arguments)
    rows: list[Result] = []
    code = 0
    with patient():
        try:
            for point in points:
                code = max(code, _front(point, rows, arguments))
        except KeyboardInterrupt:
            print(f"interrupted after {len(rows)} points", file=sys.stderr)
            code = INTERRUPTED
        if arguments.json and (rows or code == INTERRUPTED):
            print(tables.as_json(rows))
        elif rows:
            print(tables.front_table(points[0], rows))
    return code


def _front(point: "Point", rows: list["Result"], arguments: argparse.Namespace) -> int:
    """Append the points of one front that are done."""
    from stream_mla.experiments.pareto import front, non_dominated
    from stream_mla.results.outcome import Interrupted

    name = options.name_of(point, arguments)
    found: list[Outcome] = []
    try:
        with shown(name, verbose=arguments.verbose) as progress:
            for outcome in front(point, arguments.points, progress):
                found.append(outcome)  # one by one: what is done stays when the next is interrupted
    except InfeasibleError as error:
        print(f"{name}: infeasible: {error}", file=sys.stderr)
        return NO_SCHEDULE
    except NoScheduleError as error:
        print(f"{name}: no schedule was found, though one may exist: {error}", file=sys.stderr)
        return NO_SCHEDULE
    except Interrupted as interrupt:
        found.append(interrupt.outcome)
        raise
    finally:
        rows.extend(outcome.result for outcome in non_dominated(found))
    return 0
