"""The columns that a table of results can have: name, what a cell says, and how wide it is.

Widths are fixed before the first row is there, so that rows can be printed as they are done.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from stream_mla.results.result import Result
from stream_mla.units import digits, with_prefix

GAP = "  "
"""The space between two columns."""
NARROWEST = {"accelerator": 11, "scheme": 8, "bound by": 8}
"""Name of a column -> the characters to which it may shrink where the terminal is narrow; longer words are cut."""
SHORTENED = ("bound by", "accelerator", "scheme")
"""The columns that shrink, the first of them first."""
OPTIMAL_SHARE = 1e-9
"""Values whose distance to a bound is below this share of them are proven optimal: floats hold no more."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table."""

    name: str
    text: Callable[[Result], str]
    """It is what a cell says of a result."""
    width: int
    """Characters of a cell."""
    left: bool = False
    """Whether cells are aligned to the left."""

    def cell(self, text: str) -> str:
        """Return a text, aligned, and cut to the width where the column holds words."""
        return f"{shortened(text, self.width):{self.width}}" if self.left else f"{text:>{self.width}}"


def shortened(text: str, width: int) -> str:
    """Return a text, cut where it is longer than a width."""
    return text if len(text) <= width else f"{text[: max(width - 2, 1)]}.."


def moved_bytes(row: Result) -> float:
    """Return the bytes that pass the DRAM."""
    return row.dram_read_bytes + row.dram_write_bytes


def _traffic(row: Result) -> str:
    """Return the DRAM traffic over the least there can be."""
    return f"{moved_bytes(row) / (row.dram_minimum_read_bytes + row.dram_minimum_write_bytes):.2f}"


def _bound_by(row: Result) -> str:
    """Return the resource that is busy for the largest share of the latency, with that share."""
    return f"{row.bottleneck} {100 * row.bottleneck_share:.0f}%"


def _energy_split(row: Result) -> str:
    """Return the three components that take most energy, with their shares."""
    largest = sorted(row.energy_breakdown_pj.items(), key=lambda entry: -entry[1])[:3]
    return ", ".join(f"{name} {100 * energy / row.energy_pj:.0f}%" for name, energy in largest)


def _proven(row: Result) -> str:
    """Return of what the schedule is proven to be the best."""
    if row.latency_cycles <= row.ideal_cycles * (1 + OPTIMAL_SHARE):
        return "all tilings"
    return "this tiling" if row.status == "optimal" else row.status


def _to_ideal(row: Result) -> str:
    """Return how far the latency is from what no tiling can beat."""
    return f"{100 * (1 - row.ideal_cycles / row.latency_cycles):.2f} %"


def _tokens_per_s(row: Result) -> str:
    """Return the new tokens of all requests that pass the layer in a second."""
    return with_prefix(row.batch * row.query_tokens / row.latency_s, "")


COLUMNS = {
    column.name: column
    for column in (
        Column(name="accelerator", text=lambda row: row.accelerator, width=18, left=True),
        Column(name="scheme", text=lambda row: row.scheme, width=14, left=True),
        Column(name="cycles", text=lambda row: f"{row.latency_cycles:,}", width=13),
        Column(name="latency", text=lambda row: with_prefix(row.latency_s, "s"), width=8),
        Column(name="energy", text=lambda row: with_prefix(row.energy_pj * 1e-12, "J"), width=8),
        Column(name="energy split", text=_energy_split, width=34, left=True),
        Column(name="DRAM", text=lambda row: with_prefix(moved_bytes(row), "B"), width=8),
        Column(name="x min", text=_traffic, width=5),
        Column(name="MACs", text=lambda row: with_prefix(row.macs, ""), width=7),
        Column(name="MAC/B", text=lambda row: digits(row.operational_intensity_macs_per_byte), width=5),
        Column(name="MAC use", text=lambda row: f"{100 * row.mac_utilization:.1f} %", width=7),
        Column(name="tokens/s", text=_tokens_per_s, width=8),
        Column(name="bound by", text=_bound_by, width=17, left=True),
        Column(name="gap", text=lambda row: f"{100 * row.gap:.2f} %", width=7),
        Column(name="to ideal", text=_to_ideal, width=8),
        Column(name="proven", text=_proven, width=11, left=True),
        Column(name="tiles", text=lambda row: f"{row.tiles:,}", width=7),
        Column(name="cores", text=lambda row: f"{row.cores_used}", width=5),
        Column(name="found by", text=lambda row: row.scheduler, width=8, left=True),
        Column(name="search", text=lambda row: f"{row.solve_s:.1f} s", width=7),
    )
}
"""Name of a column -> the column, in the order of a wide table."""

DEFAULT = ("scheme", "latency", "energy", "DRAM", "bound by", "gap")
"""The columns of a table that fits 80 characters."""
WIDE = tuple(name for name in COLUMNS if name != "accelerator")
"""The columns of a wide table; the accelerator comes first where there are several."""


def chosen(names: Sequence[str], *, machines: Sequence[str], labels: Sequence[str], width: int) -> tuple[Column, ...]:
    """Return columns that fit a width, if they can: wide enough for the names of machines and rows, else shrunk."""
    longest = {"accelerator": max(map(len, machines), default=1), "scheme": max(map(len, labels), default=1)}
    if len(machines) > 1 and "accelerator" not in names:
        names = ("accelerator", *names)
    columns = [replace(COLUMNS[name], width=longest.get(name, COLUMNS[name].width)) for name in names]
    columns = [replace(column, width=max(column.width, len(column.name))) for column in columns]
    for name in SHORTENED:
        over = sum(column.width for column in columns) + len(GAP) * (len(columns) - 1) - width
        columns = [
            replace(column, width=min(column.width, max(column.width - over, NARROWEST[name])))
            if column.name == name and over > 0
            else column
            for column in columns
        ]
    return tuple(columns)
