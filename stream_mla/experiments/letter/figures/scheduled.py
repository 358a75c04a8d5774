"""Figure 5: throughput over peak compute per DRAM bandwidth, from a schedule per point.

Policy `letter` stands for how the letter's runs behave: everything fused, one stack of fused operators after the
other, and the array idles while the first operand of a product is loaded. For mla_rc that is W_uq of each head, 491
cycles before each composite. `fetches_w_uv` is off for mla_rc and mla_ru, see `layers.without_w_uv`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stream_mla.experiments.letter.machine import BASELINE_MACS, compute_grid, compute_per_bandwidth, machine
from stream_mla.experiments.letter.rows import Row
from stream_mla.experiments.letter.runs import Measured, Run
from stream_mla.experiments.letter.setup import CONTEXTS, LETTER_SERIES, Step

PANEL = "normalised throughput"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Curves of throughput over compute, under one policy."""

    figure: str
    series: tuple[str, ...]
    policy: str
    fetches_w_uv: bool
    contexts: tuple[int, ...] = CONTEXTS
    panel: str = PANEL

    def run(self, series: str, context: int, macs: int) -> Run:
        """Return the run of one point."""
        step = Step(series=series, context=context, fetches_w_uv=self.fetches_w_uv)
        return Run(step=step, accelerator=machine(macs), policy=self.policy)

    def points(self, grid: Sequence[int]) -> dict[tuple[str, int, int], Run]:
        """Return all runs, by series, context and MACs."""
        return {
            (series, context, macs): self.run(series, context, macs)
            for series in self.series
            for context in self.contexts
            for macs in grid
        }


FIGURE = Sweep(figure="5", series=LETTER_SERIES, policy="letter", fetches_w_uv=False)
"""The letter's Fig 5."""


def baseline() -> Run:
    """Return the run that has throughput 1: mha_large at L = 1024 on an array of 256 x 256."""
    return FIGURE.run("mha_large", 1024, BASELINE_MACS)


def figure5(sweep: Sweep, results: Mapping[Run, Measured], grid: Sequence[int] = ()) -> list[Row]:
    """Return the curves of a sweep, normalised to the baseline under policy `letter`."""
    unit = results[baseline()].latency_s
    return [
        Row(
            figure=sweep.figure,
            panel=sweep.panel,
            series=series,
            variant=f"L{context}",
            x=compute_per_bandwidth(macs),
            y=unit / results[run].latency_s,
        )
        for (series, context, macs), run in sweep.points(grid or compute_grid()).items()
    ]
