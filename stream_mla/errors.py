"""What can be wrong with the input, and what each kind of wrong means to the caller.

Every message is complete without a traceback: what, the numbers, what to do. A bug of ours is an
`AssertionError` and keeps its traceback.
"""

from collections.abc import Sequence


class StreamMlaError(Exception):
    """The input's fault."""


class SpecError(StreamMlaError):
    """A file or an option that cannot be used; carries every problem found, each with its path."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.where = where
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem" + ("s" if len(self.problems) != 1 else "")
        super().__init__("\n".join([f"{where}: {count}", *(f"  - {problem}" for problem in self.problems)]))


class InfeasibleError(StreamMlaError):
    """Proven: there is no schedule. The message names tensor, bytes, memory and what would help."""


class NoScheduleError(StreamMlaError):
    """The budget ended before a schedule was found; one may exist."""


class TooManyTilesError(NoScheduleError):
    """Tilings that may fit have more tiles than can be scheduled as a whole."""
