"""It says what a search may spend, and when it ends: one value, handed down from the optimizer to every method.

A method never widens the budget it is given; whoever hands one down may narrow it (`dataclasses.replace`).
Steps are tiles and transfers together: they are what scheduling, checking and improving a problem costs.
"""

from dataclasses import dataclass
from math import inf

from stream_mla.point import Point


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Time, gap and patience of a search, what makes it repeatable, and the sizes up to which work is worth it."""

    time_limit_s: float
    """Seconds for the methods that search without an end of their own: hill climbing, CP-SAT and windows."""
    gap_limit: float
    """A search ends when its schedule is proven to be within this share of the optimum."""
    seed: int
    """Random searches start from this number; with one worker it repeats them exactly."""
    workers: int
    """CP-SAT searches in so many threads."""
    clock_factor: float = 2.0
    """A search with one worker counts its work in steps, so that it repeats; by the clock it may take this multiple of
    its time limit, which slow or busy machines reach."""
    patience: int = 5
    """A search ends after so many tries in a row without a gain; the default is meant for tilings, which come most
    promising first, so that later ones are unlikely to do better."""
    near_gap: float = 5e-3
    """The search over tilings ends with a greedy schedule within this share of what no tiling can beat (or within the
    gap limit, if that is wider): the methods after it gain more than another tiling would."""
    wide_gap: float = 1e-2
    """Methods that cost as much as scheduling anew are tried on large schedules only where the gap exceeds this share
    (or the gap limit, if that is wider)."""
    small_steps: int = 5000
    """Up to so many steps a schedule is small: it is made anew within a second, so a method is tried on it wherever
    the gap exceeds the gap limit."""
    small_steps_per_s: int = 1500
    """A schedule also counts as small with so many steps for each second of the time limit."""
    retry_steps: int = 1_000_000
    """Making one schedule anew in other ways ends after so many steps together, about a minute; one way is always
    tried."""
    whole_steps: int = 3000
    """CP-SAT models a schedule as a whole up to so many steps: with more it would not improve it in time."""
    window_steps: int = 20_000
    """CP-SAT improves windows of a schedule up to so many steps: with more, windows gain nothing in half a minute, and
    hill climbing takes all of the time."""
    max_tiles: int = 500_000
    """Tilings of more tiles are refused: they would take tens of minutes and all memory."""
    enough_steps: int = 40_000
    """The search over tilings ends when those tried have so many steps together and one of them fits."""
    hopeless_tiles: int = 150_000
    """When the tilings tried have so many tiles together and none fits, those that need least memory are tried next."""
    total_tiles: float = inf
    """The search over tilings ends, whether or not one fits, when those tried have so many tiles together."""
    search_time_s: float = inf
    """The search over tilings ends, whether or not one fits, after so many seconds by the clock."""
    segment_tiles: int = 150_000
    """A layer with too many tiles is cut into segments of about this size: small enough to be scheduled within a
    minute, large enough that filling and draining the pipeline at their ends costs little."""

    @classmethod
    def of(cls, point: Point) -> "Budget":
        """Return the budget that a point asks for."""
        return cls(time_limit_s=point.time_limit_s, gap_limit=point.gap_limit, seed=point.seed, workers=point.workers)

    def enough_cycles(self, lower_bound_cycles: float) -> float:
        """Return the latency at which the gap is as small as asked for."""
        return lower_bound_cycles / max(1 - self.gap_limit, 1e-9)

    def counts_as_small(self, steps: int) -> bool:
        """Return whether a schedule of so many steps is made anew in little time."""
        return steps <= max(self.small_steps, self.small_steps_per_s * self.time_limit_s)

    def tries(self, steps: int) -> int:
        """Return how often a schedule of so many steps may be made anew."""
        return max(1, self.retry_steps // steps)
