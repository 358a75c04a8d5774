"""`reproduce`: the figures of a publication from this simulator."""

import argparse
import os
import sys
from pathlib import Path

from stream_mla.cli.progress import shown
from stream_mla.cli.values import positive

FIGURES = ("fig2", "fig3", "fig4", "fig5", "fig6", "extras")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("publication", choices=["letter"], help="Geens & Verhelst, arXiv 2506.02523")
    add("figures", metavar="FIGURE", nargs="*", type=_figure, help=f"of {', '.join(FIGURES)} (default: all)")
    add("--out", metavar="DIR", type=Path, required=True, help="folder for CSV, pictures, summary and stored results")
    add("--workers", metavar="N", type=positive, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    add("--no-pictures", action="store_true", help="without matplotlib")
    add("--verbose", action="store_true", help="show progress as lines")
    parser.set_defaults(handler=handle)


def handle(arguments: argparse.Namespace) -> int:
    """Reproduce what is asked for and say where it is."""
    from stream_mla.experiments.letter.reproduction import reproduce

    figures = [name for name in FIGURES if name in (arguments.figures or FIGURES)]
    with shown("reproduce", verbose=arguments.verbose) as progress:
        made = reproduce(
            figures, arguments.out, progress, workers=arguments.workers, pictures=not arguments.no_pictures
        )
    for name in figures:
        points = f"{made.points[name]:,} scheduled points, " if made.points[name] else ""
        sys.stdout.write(f"{name:7} {points}{made.seconds[name]:.1f} s\n")
    sys.stdout.write(f"written to {arguments.out}/summary.md and beside it\n")
    return 0


def _figure(text: str) -> str:
    if text not in FIGURES:
        raise argparse.ArgumentTypeError(f"no figure {text!r}: use {', '.join(FIGURES)}")
    return text
