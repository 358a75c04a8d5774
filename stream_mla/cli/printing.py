"""Rows of results on stdout: as a table whose rows are printed as they are done, or as JSON at the end."""

import argparse
import difflib
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream_mla.point import Point
    from stream_mla.results.render.comparison import Comparison, Subject
    from stream_mla.results.result import Row


def terminal_width() -> int:
    """Return the characters of a line of the terminal, or of 80 where there is none."""
    return shutil.get_terminal_size((80, 24)).columns


def column_names(text: str) -> tuple[str, ...]:
    """Read names of columns, as `scheme,latency,tokens/s`."""
    from stream_mla.results.render.columns import COLUMNS

    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name[:40], COLUMNS, n=1, cutoff=0.5)
            advice = f"did you mean {near[0]}?" if near else f"use any of {', '.join(COLUMNS)}"
            raise argparse.ArgumentTypeError(f"no such column: {name[:40]!r}: {advice}")
    return names


def comparison_for(subject: "Subject", arguments: argparse.Namespace) -> "Comparison":
    """Return the table that the options ask for."""
    from stream_mla.results.render.comparison import comparison

    return comparison(subject, arguments.columns, width=terminal_width(), wide=arguments.wide)


class Rows:
    """The rows of a run: each is printed as it is done; nothing is, where none has a schedule."""

    def __init__(self, points: Sequence["Point"], arguments: argparse.Namespace) -> None:
        from stream_mla.results.render.comparison import subject_of

        self.table = comparison_for(subject_of(points), arguments)
        self.as_json: bool = arguments.json
        self.done: list[Row] = []
        self.printed = 0
        """Rows that are printed; those without a schedule wait for the first that has one."""

    def add(self, row: "Row") -> None:
        """Take a row, and print it."""
        from stream_mla.results.result import Result

        self.done.append(row)
        if self.as_json or not any(isinstance(entry, Result) for entry in self.done):
            return
        if not self.printed:
            print(self.table.heading())
        for entry in self.done[self.printed :]:
            print(self.table.line(entry), flush=True)
        self.printed = len(self.done)

    def close(self, *, interrupted: bool) -> None:
        """Print what stands under the table, or all rows as JSON."""
        if self.as_json and (self.done or interrupted):
            from stream_mla.results.render.tables import as_json

            print(as_json(self.done))
        elif self.printed:
            print(f"\n{self.table.footing(self.done)}".rstrip())
