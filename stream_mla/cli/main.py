"""The command line: parse, load, one public call, show. Nothing is computed here.

Exit codes: 0 done; 2 the input is at fault, or the output cannot be written; 3 a point has no schedule; 130
interrupted; 141 nobody reads our output. Libraries that take long to load are imported by the handlers that need them.
"""

import argparse
import gc
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

from stream_mla.cli.commands import inspect, pareto, reproduce, run
from stream_mla.cli.output import give_up, printable_output, say
from stream_mla.cli.progress import INTERRUPTED
from stream_mla.errors import LONGEST_MESSAGE, StreamMlaError, cut, printable

FAULTY_INPUT = 2
BROKEN_PIPE = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    with printable_output() as read:
        code = _run(arguments)
    if code != BROKEN_PIPE and read:
        return code
    give_up(sys.stdout)
    return code or BROKEN_PIPE


def _run(arguments: Sequence[str] | None) -> int:
    """Run one command and return its exit code, whatever ends it."""
    collects = gc.isenabled()
    try:
        parsed = _parser().parse_args(arguments)
        gc.disable()  # millions of small objects and no cycles to speak of: collecting takes a quarter of the time
        code: int = parsed.handler(parsed)
        sys.stdout.flush()
    except SystemExit:  # help, the version, or a mistake in the command line: argparse printed it
        try:
            sys.stdout.flush()
        except OSError:
            give_up(sys.stdout)
        raise
    except StreamMlaError as error:
        say(error)
        return FAULTY_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return BROKEN_PIPE
    except OSError as error:
        file = f" {error.filename!r}" if error.filename else " the output"
        say(f"cannot read or write{file}: {error.strerror}")
        give_up(sys.stdout)
        return FAULTY_INPUT
    except MemoryError:
        say("this takes more memory than there is: use a smaller layer, or larger pieces with --tile")
        return FAULTY_INPUT
    finally:
        if collects:
            gc.enable()
    return code


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line, and takes positional arguments before and after options."""

    _inside = False
    """Whether argparse parses options and positional arguments one after the other, for which it calls us again."""

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]  of two overloads, ours is the general one
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as argparse does; a command's own arguments in any order."""
        namespace = argparse.Namespace() if namespace is None else namespace
        if self._inside or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        self._inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._inside = False

    def error(self, message: str) -> NoReturn:
        self.exit(FAULTY_INPUT, f"{self.prog}: error: {printable(cut(message, LONGEST_MESSAGE))}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="stream-mla", description="Latency and energy of attention on accelerators.")
    parser.add_argument("--version", action="version", version=f"stream-mla {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    run.add(commands.add_parser("run", help="schedule one attention layer"))
    pareto.add(commands.add_parser("pareto", help="trade latency for energy"))
    reproduce.add(commands.add_parser("reproduce", help="make the figures of a publication, and compare"))
    lister = commands.add_parser("list", help="name what is shipped")
    lister.add_argument("what", choices=["models", "accelerators", "schemes"])
    lister.set_defaults(handler=inspect.list_shipped)
    checker = commands.add_parser("check", help="check files of models, accelerators and cores")
    checker.add_argument("files", metavar="FILE", nargs="+")
    checker.set_defaults(handler=inspect.check)
    shower = commands.add_parser("show", help="print a model, an accelerator, or stored results")
    shower.add_argument(
        "name", metavar="NAME|FILE|FOLDER", help="a shipped name, a file, or a folder of stored results"
    )
    run.add_table(shower)
    shower.set_defaults(handler=inspect.show)
    return parser


def _version() -> str:
    try:
        return version("stream-mla")
    except PackageNotFoundError:
        return "(not installed)"
