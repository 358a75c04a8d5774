"""Output to a terminal: text without control characters, whatever names and values contain, and quiet failure."""

import contextlib
import io
import os
import sys
from collections.abc import Generator
from typing import TextIO

from stream_mla.errors import printable

CLEAR_LINE = "\x1b[K"
"""Progress erases the rest of its line with this, the one escape sequence that we write."""


class _Printable(io.TextIOBase):
    """Passes text on to a stream, with control characters written as their escape sequences."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text; a carriage return and the sequence that clears a line are ours."""
        parts = ["\r".join(map(printable, part.split("\r"))) for part in text.split(CLEAR_LINE)]
        self.stream.write(CLEAR_LINE.join(parts))
        return len(text)

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The encoding of the stream."""
        return self.stream.encoding

    def flush(self) -> None:
        """Flush the stream."""
        self.stream.flush()

    def isatty(self) -> bool:
        """Tell whether the stream is a terminal."""
        return self.stream.isatty()

    def fileno(self) -> int:
        """Return the number of the stream's file."""
        return self.stream.fileno()


@contextlib.contextmanager
def printable_output() -> Generator[bool]:
    """Make stdout and stderr safe to print to; gives whether anybody reads stdout.

    A stream that is closed becomes the null device, and a character that the terminal's encoding lacks is escaped.
    """
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as opened:
        streams: list[TextIO] = []
        for stream in before:
            if stream is None:  # pyright: ignore[reportUnnecessaryComparison]  it was closed before we started
                stream = opened.enter_context(open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123
            elif isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
            streams.append(stream)
        sys.stdout, sys.stderr = map(_Printable, streams)  # pyright: ignore[reportAttributeAccessIssue]
        try:
            yield before[0] is not None  # pyright: ignore[reportUnnecessaryComparison]
        finally:
            sys.stdout, sys.stderr = before


def say(text: object) -> None:
    """Print to stderr if it can be."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def give_up(stream: TextIO | None) -> None:
    """Send what is still to be written nowhere, or Python complains about it as it exits."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())  # pyright: ignore[reportOptionalMemberAccess]
        os.close(null)
