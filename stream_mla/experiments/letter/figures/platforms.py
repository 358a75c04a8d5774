"""c: which scheme is best on whole machines, by the bound that no tiling and no schedule can beat.

GPUs have hundreds of cores and 128 k tokens are many tiles, so the map is drawn from `ideal_cycles`: every DRAM byte
once at full bandwidth, or all MACs at the arrays' peak, whichever takes longer. Where one of them takes most of the
time a schedule comes close; it says nothing about on-chip bandwidth, vector units, or how well an array is filled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stream_mla.experiments.letter.rows import Row
from stream_mla.experiments.letter.setup import Step
from stream_mla.frontends.catalog import load_accelerator
from stream_mla.schedule.bounds.schedule_bounds import ideal_cycles

MACHINES: Mapping[str, str] = {
    "google_edge_tpu": "Edge TPU",
    "a100": "A100",
    "h200": "H200",
    "mi300x": "MI300X",
    "b200": "B200",
    "apple_a17_pro": "A17 Pro",
    "h800": "H800",
    "h100": "H100",
    "tpu_v7_ironwood": "TPU v7",
}
"""Shipped machine -> its name in the map, in the order of 8-bit MACs per byte of DRAM bandwidth: 50 to 313."""
BATCHES = (1, 32)
CONTEXTS = tuple(1024 * 2**power for power in range(8))
"""1k to 128k."""
LETTER_SCHEMES = ("mla_rc", "mla_ru")
SCHEMES = (*LETTER_SCHEMES, "mla_absorbed", "mla_naive")
FIGURE = "extra_platforms"


def platform_rows() -> list[Row]:
    """Least time of a step in microseconds, per machine (variant), batch (panel) and scheme (series)."""
    rows: list[Row] = []
    graphs = {
        (scheme, batch, context): Step(series=scheme, context=context, batch=batch).graph
        for scheme in SCHEMES
        for batch in BATCHES
        for context in CONTEXTS
    }
    for file, name in MACHINES.items():
        accelerator = load_accelerator(file)
        for (scheme, batch, context), graph in graphs.items():
            micros = ideal_cycles(graph, accelerator) / accelerator.clock * 1e6
            panel = f"least time (us), batch {batch}"
            rows.append(Row(figure=FIGURE, panel=panel, series=scheme, variant=name, x=context, y=micros))
    return rows


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One machine, batch and context of the map."""

    best: str
    """The faster of the letter's two schemes, `tie` within 1 %."""
    advantage: float
    """The better scheme is faster than the other one by this factor."""
    absorbed: float
    """It is by how much mla_absorbed is faster still."""


def platform_map(rows: Sequence[Row]) -> dict[tuple[str, str, int], Cell]:
    """Return the cells, by panel, machine and context."""
    times: dict[tuple[str, str, int], dict[str, float]] = {}
    for row in rows:
        times.setdefault((row.panel, row.variant, int(row.x)), {})[row.series] = row.y
    return {key: _cell(entry) for key, entry in times.items()}


def _cell(times: Mapping[str, float]) -> Cell:
    rc, ru = times["mla_rc"], times["mla_ru"]
    advantage = max(rc, ru) / min(rc, ru)
    best = "tie" if advantage < 1.01 else "mla_rc" if rc < ru else "mla_ru"
    return Cell(best=best, advantage=advantage, absorbed=min(rc, ru) / times["mla_absorbed"])
