"""Both answers to one block side by side: how they differ, why, and what the table must show."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.blocks import Block
from benchmarks.peers.ours import GAP, Ours, Port
from benchmarks.peers.stream_tool import Group, Theirs

RECORDED = Path(__file__).with_name("stream_2_1_1.csv")
EXPLAIN = 0.10
"""Differences of more than this share are explained."""
FASTER = 5.0
"""Times fewer CPU seconds than Stream, in the geometric mean."""
SCALE = 1e6


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One cell of the table of an earlier run, `stream_2_1_1.csv`."""

    fused: bool
    cycles: float | None
    cpu_s: float | None
    needs_kb: float | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One block on one machine."""

    machine: str
    block: Block
    ours: Ours
    theirs: Sequence[Theirs]
    """Fused and layer by layer, run here; empty where Stream was not run."""
    recorded: Sequence[Recorded]

    @property
    def best(self) -> Theirs | None:
        """Stream's faster schedule, of those run here."""
        found = [answer for answer in self.theirs if answer.cycles is not None]
        return min(found, key=lambda answer: answer.cycles or math.inf, default=None)

    @property
    def stream_cycles(self) -> float | None:
        """Stream's latency: run here, else recorded."""
        source = self.theirs or self.recorded
        return min((answer.cycles for answer in source if answer.cycles is not None), default=None)

    @property
    def stream_cpu_s(self) -> float | None:
        """CPU seconds of the quicker of its runs that gave a schedule."""
        source = self.theirs or self.recorded
        return min((answer.cpu_s or math.inf for answer in source if answer.cycles is not None), default=None)

    @property
    def title(self) -> str:
        """Machine, block and tokens."""
        return f"{self.machine}, {self.block.name}, {self.block.tokens}"


def recorded(machine: str, block: Block) -> list[Recorded]:
    """Return the recorded cells of a block."""

    def number(text: str) -> float | None:
        return float(text) if text else None

    with RECORDED.open(encoding="utf-8") as file:
        return [
            Recorded(
                fused=line["fused"] == "yes",
                cycles=number(line["cycles"]),
                cpu_s=number(line["cpu_s"]),
                needs_kb=number(line["needs_kb"]),
            )
            for line in csv.DictReader(file)
            if (line["machine"], line["block"], int(line["tokens"])) == (machine, block.name, block.tokens)
        ]


def explanation(row: Row) -> str:
    """Return why the two differ; empty where Stream was not run here, or takes 0 to 10 % (`EXPLAIN`) longer."""
    if row.ours.result is None or not row.theirs:
        return ""
    if row.best is None:
        return _infeasible(row)
    assert row.best.cycles is not None
    if 0 <= row.best.cycles - row.ours.result.latency_cycles <= EXPLAIN * row.best.cycles:
        return ""
    return _parts(row, row.best, row.best.cycles, row.ours.result.latency_cycles)


def _infeasible(row: Row) -> str:
    why = "; ".join(f"{'fused' if answer.fused else 'layer by layer'}: {_short(answer.error)}" for answer in row.theirs)
    return f"No schedule by Stream ({why})."


def _short(error: str) -> str:
    text = error.split(" -- ")[0].split(" The auto-generated")[0]
    return " ".join(text.split())[:220]


def _parts(row: Row, theirs: Theirs, their_cycles: float, our_cycles: float) -> str:
    """Split the difference: DRAM traffic at full rate, and what each needs beyond that."""
    ours = row.ours
    rest = {group_name(group): group.cycles - _dram_cycles(group, ours.port) for group in theirs.groups}
    their_rest, our_rest = sum(rest.values()), our_cycles - ours.dram_cycles
    traffic = their_cycles - their_rest - ours.dram_cycles
    most = ", ".join(f"{name} {rest[name]:,.0f}" for name in sorted(rest, key=lambda name: -rest[name])[:3])
    ending = "one group" if len(theirs.groups) == 1 else f"{len(theirs.groups)} groups one after another"
    parts = {
        f"{traffic:+,.0f} DRAM traffic, {theirs.dram_bits / 8 / SCALE:,.1f} MB against "
        f"{ours.dram_bits / 8 / SCALE:,.1f} MB where {ours.minimum_dram_bits / 8 / SCALE:,.1f} MB is least": traffic,
        f"{their_rest:+,.0f} what Stream needs beyond its DRAM traffic ({ending}: {most})": their_rest,
        f"{-our_rest:+,.0f} what ours needs beyond its own": our_rest,
    }
    ordered = sorted(parts, key=lambda part: -abs(parts[part]))
    return f"Stream - ours = {their_cycles - our_cycles:+,.0f} cycles = " + "; ".join(ordered)


def _dram_cycles(group: Group, port: Port) -> float:
    return port.cycles(group.dram_read_bits, group.dram_write_bits)


def group_name(group: Group) -> str:
    """Return the operator of a group, or its first and last."""
    names = [name.rsplit("_", 1)[0] if name.endswith("_matmul") else name for name in group.operators]
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def speedup(rows: Sequence[Row]) -> tuple[float, int]:
    """Return the geometric mean of Stream's CPU seconds over ours, and over how many cells."""
    ratios = [row.stream_cpu_s / row.ours.cpu_s for row in rows if row.stream_cpu_s is not None]
    return (math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else math.nan), len(ratios)


def missed(rows: Sequence[Row]) -> list[str]:
    """Return what the table should show and does not."""
    sentences: list[str] = []
    for row in rows:
        result = row.ours.result
        if any(answer.macs not in (0, row.ours.macs) for answer in row.theirs):
            sentences.append(f"{row.title}: the two blocks differ in their MACs")
        if result is None:
            sentences.append(f"{row.title}: no schedule: {row.ours.error}")
            continue
        if result.gap > GAP:
            sentences.append(f"{row.title}: gap {result.gap:.1%}, bound by {result.binding_bound}")
        floor, cycles = max(row.ours.floors, key=lambda name: row.ours.floors[name]), result.latency_cycles
        if cycles < row.ours.floors[floor]:
            sentences.append(f"{row.title}: {cycles:,} cycles are under the {floor} floor")
        if row.stream_cycles is not None and cycles > row.stream_cycles and not explanation(row):
            sentences.append(f"{row.title}: {cycles / row.stream_cycles:.2f} x Stream's latency, unexplained")
    ratio, cells = speedup(rows)
    if cells and ratio < FASTER:
        sentences.append(f"CPU seconds: {ratio:.1f} x fewer than Stream in the geometric mean of {cells} cells")
    return sentences


def slower(rows: Sequence[Row]) -> list[Row]:
    """Return the rows where Stream's latency is lower than ours."""
    return [
        row
        for row in rows
        if row.ours.result is not None
        and row.stream_cycles is not None
        and row.ours.result.latency_cycles > row.stream_cycles
    ]
