"""The kinds of faulty input, how each is told to the caller, and how foreign text is made fit to be shown.

Every message is complete without a traceback: it names what is wrong, the numbers, and what to do. A bug of this
package is an `AssertionError` and keeps its traceback.
"""

import re
from collections.abc import Sequence

LONGEST_VALUE = 80
"""A value that a message quotes is cut to this many characters: enough to recognise it by."""
LONGEST_MESSAGE = 2000
"""One message is cut to this many characters, about a screen: a longer one hides what it says."""
MOST_PROBLEMS = 50
"""A message lists this many problems of one file and counts the others: a file of 10^5 mistakes is no file of ours."""

UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""These characters move a terminal's cursor, turn text around or cannot be encoded; line feed and tab are not among
them."""


def printable(text: str) -> str:
    """Return the text with every character that is not safe to print written as its escape sequence."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def cut(text: str, most: int) -> str:
    """Return the text, or its start and its length where it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}… ({len(text):,} characters)"


def quoted(value: object) -> str:
    """Return a value of a file or an option as a message quotes it: as Python writes it, cut, on one line."""
    try:
        written = repr(value[:LONGEST_MESSAGE] if isinstance(value, str) else value)
    except ValueError:  # an integer of more digits than Python writes
        written = "an integer of thousands of digits"
    return printable(cut(written, LONGEST_VALUE))


class StreamMlaError(Exception):
    """Everything that is the input's fault."""


class SpecError(StreamMlaError):
    """A file or an option that cannot be used; carries every problem found, each with its path."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.where = printable(cut(where, LONGEST_MESSAGE))
        self.problems = tuple(printable(cut(problem, LONGEST_MESSAGE)) for problem in problems[:MOST_PROBLEMS])
        count = f"{len(problems):,} problem" + ("s" if len(problems) != 1 else "")
        more = len(problems) - len(self.problems)
        listed = [*self.problems, f"and {more:,} more"] if more else self.problems
        super().__init__("\n".join([f"{self.where}: {count}", *(f"  - {problem}" for problem in listed)]))


class InfeasibleError(StreamMlaError):
    """A proof that there is no schedule; the message names tensor, bytes, memory and what would help."""


class NoScheduleError(StreamMlaError):
    """The budget ended before a schedule was found; one may exist."""


class TooManyTilesError(NoScheduleError):
    """Tilings that may fit have more tiles than can be scheduled as a whole."""
