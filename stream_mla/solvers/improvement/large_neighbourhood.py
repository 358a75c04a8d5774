"""Large neighbourhood search over a checked schedule: windows of time, one after the other, given to CP-SAT.

Each round frees the steps that run between two instants, puts off what follows as far as it can wait (`postpone`), and
asks for times that let all of it begin sooner (`cp_sat_window`). A gain is settled by the replay, which lets everything
move up; so the schedule never gets worse. Windows begin at random. They grow while they are solved to the end without a
gain, and shrink where they are not solved in time.

All that decides is counted in steps and in the solver's deterministic time, so a seed repeats the search exactly
(unless the clock, as a last resort, ends it first). The cost of a round depends on the window and what follows it
within `REACH` times its steps, not on the whole; that of a gain does.
"""

from collections.abc import Callable

import numpy as np

from stream_mla.schedule.problem import Problem
from stream_mla.schedule.schedule import Schedule
from stream_mla.schedule.timing import Cycles, moved, read_steps, times
from stream_mla.solvers.budget import Budget
from stream_mla.solvers.cp_sat.window_model import Found, solve_window
from stream_mla.solvers.improvement.local_search import Improved, LocalSearch
from stream_mla.solvers.improvement.right_shift import right_shift_times

FEWEST, FIRST, MOST = 20, 60, 300
"""Steps of a window: at least, at first, at most. With more, CP-SAT rarely proves anything in `WORK`."""
REACH = 8
"""Steps that are put off behind a window, for each in it."""
WORK = 0.5
"""Deterministic time that a window may take."""
ROUND_S, STEP_S, REPLAY_S = 0.02, 4e-4, 1e-4
"""It is what a round costs besides, in about seconds: itself, each step of its window, and each step of the whole
where it
gains (measured)."""
GROW, SHRINK = 1.3, 0.7

Replayed = Callable[[Schedule], Schedule]
"""A function that returns the replay of a schedule, checked."""


def improve_windows(
    problem: Problem,
    schedule: Schedule,
    replayed: Replayed,
    budget: Budget,
    *,
    lower_bound_cycles: float,
    progress: Callable[[int], None] = lambda _: None,
) -> Improved:
    """Search until the budget is spent or the gap small enough; Ctrl-C ends it with the best schedule so far."""
    return _Windows(problem, schedule, replayed, budget).run(lower_bound_cycles, progress)


class _Windows(LocalSearch):
    """The search over windows, and the times of the best schedule."""

    def __init__(self, problem: Problem, schedule: Schedule, replayed: Replayed, budget: Budget) -> None:
        super().__init__(schedule, budget)
        self.problem, self.replayed = problem, replayed
        self.steps = read_steps(problem, schedule)
        self.width = float(FIRST)
        self.spent = REPLAY_S * len(self.steps.cycles)
        self._read(schedule)

    def affords_round(self) -> bool:
        return self.spent < self.budget.time_limit_s

    def _read(self, schedule: Schedule) -> None:
        self.times = times(schedule)
        self.order = np.argsort(self.times.start, kind="stable")

    def _choose(self) -> tuple[int, int, int]:
        """Two instants between which about `width` steps start, and the one up to which steps are put off."""
        count = len(self.order)
        width = min(int(self.width), count)
        first = self.random.randrange(max(1, count - width // 2))
        instants = [int(self.times.start[self.order[min(first + n, count - 1)]]) for n in (0, width, width * REACH)]
        end = self.cycles if first + width >= count else instants[1]
        return instants[0], end, self.cycles if first + width * REACH >= count else max(instants[2], end)

    def _moved(self, start: Cycles) -> Schedule:
        """Return the replay of the schedule with other starts."""
        self.spent += REPLAY_S * len(self.steps.cycles)
        found = self.replayed(moved(self.best, self.steps, start))
        self._read(found)
        return found

    def round(self) -> Schedule | None:
        """Solve a window."""
        begin, end, until = self._choose()
        found = Found(gain=0, proven=True, start=self.times.start, work=0.0)
        if begin < end:
            later = right_shift_times(self.problem, self.steps, self.times, end, until)
            found = solve_window(
                self.problem, self.steps, self.times, begin, end, later, work=WORK, seed=self.random.randrange(1 << 30)
            )
        self.spent += ROUND_S + STEP_S * self.width * (1 + REACH / 10) + found.work
        self.width *= GROW if found.proven and not found.gain else 1.0 if found.gain else SHRINK
        self.width = min(max(self.width, FEWEST), MOST)
        return self._moved(found.start) if found.gain else None
