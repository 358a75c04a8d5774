"""Figure 6: energy over the average on-chip efficiency, E = operations x E_op + 8 pJ/bit x DRAM bits.

Operations and DRAM bits are those of the schedules on the baseline machine; the average on-chip energy per operation
is swept, as the letter does, so what a core's memories and registers take is not counted twice.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from stream_mla.experiments.letter.machine import BASELINE_MACS, machine
from stream_mla.experiments.letter.rows import Row
from stream_mla.experiments.letter.runs import Measured, Run
from stream_mla.experiments.letter.setup import CONTEXTS, LETTER_SERIES, Step

PANEL = "normalised energy"
UNIT_PJ = 0.2
"""On-chip energy per operation at which mha_large at L = 1024 has energy 1."""


def operation_grid_pj() -> list[float]:
    """Return the 20 on-chip energies per operation of Fig 6."""
    return [float(value) for value in np.linspace(0.066, 2.0, 20)]


def runs(
    series: Sequence[str] = LETTER_SERIES,
    contexts: Sequence[int] = CONTEXTS,
    *,
    policy: str = "letter",
    fetches_w_uv: bool = False,
) -> dict[tuple[str, int], Run]:
    """Return the runs that Fig 6 needs, by series and context."""
    return {
        (name, context): Run(
            step=Step(series=name, context=context, fetches_w_uv=fetches_w_uv),
            accelerator=machine(BASELINE_MACS),
            policy=policy,
        )
        for name in series
        for context in contexts
    }


def figure6(results: Mapping[Run, Measured], wanted: Mapping[tuple[str, int], Run], figure: str = "6") -> list[Row]:
    """Return energy over on-chip efficiency, in TOPS/W; `wanted` has mha_large at L = 1024, which is the unit."""
    unit_pj = results[wanted["mha_large", 1024]].energy_with(UNIT_PJ)
    return [
        Row(
            figure=figure,
            panel=PANEL,
            series=name,
            variant=f"L{context}",
            x=1 / mac_pj,
            y=results[run].energy_with(mac_pj) / unit_pj,
        )
        for (name, context), run in wanted.items()
        for mac_pj in operation_grid_pj()
    ]
