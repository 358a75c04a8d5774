"""The table, as CSV and as Markdown."""

import csv
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.peers.compare import Row, explanation, missed, slower, speedup

COLUMNS = (
    "machine",
    "block",
    "tokens",
    "cycles",
    "bound_cycles",
    "ideal_cycles",
    "gap",
    "binding_bound",
    "energy_mj",
    "dram_mb",
    "least_dram_mb",
    "cpu_s",
    "scheduler",
    "stream_cycles",
    "stream_schedule",
    "stream_cpu_s",
    "stream_recorded_cycles",
    "stream_recorded_cpu_s",
    "latency_ratio",
    "cpu_ratio",
    "dram_enlarged",
    "explanation",
)


def cells(row: Row) -> dict[str, object]:
    """Return the columns of a row; what is not there is empty."""
    result, best = row.ours.result, row.best
    found: dict[str, object] = {"machine": row.machine, "block": row.block.name, "tokens": row.block.tokens}
    found |= {"cpu_s": round(row.ours.cpu_s, 2), "dram_enlarged": row.ours.dram_enlarged}
    if result is not None:
        found |= {
            "cycles": result.latency_cycles,
            "bound_cycles": result.lower_bound_cycles,
            "ideal_cycles": result.ideal_cycles,
            "gap": round(result.gap, 4),
            "binding_bound": result.binding_bound,
            "energy_mj": round(result.energy_pj / 1e9, 2),
            "dram_mb": round(row.ours.dram_bits / 8e6, 1),
            "least_dram_mb": round(row.ours.minimum_dram_bits / 8e6, 1),
            "scheduler": result.scheduler,
            "explanation": explanation(row),
        }
    if row.theirs:
        found["stream_schedule"] = "infeasible" if best is None else "fused" if best.fused else "layer by layer"
    if row.stream_cycles is not None:
        found["stream_cycles"] = round(row.stream_cycles)
        if result is not None:
            found["latency_ratio"] = round(result.latency_cycles / row.stream_cycles, 3)
    if row.stream_cpu_s is not None:
        found |= {"stream_cpu_s": round(row.stream_cpu_s, 2), "cpu_ratio": round(row.stream_cpu_s / row.ours.cpu_s, 1)}
    known = [(cell.cycles, cell.cpu_s) for cell in row.recorded if cell.cycles is not None]
    if known:
        found["stream_recorded_cycles"] = round(min(cycles for cycles, _ in known))
        found["stream_recorded_cpu_s"] = min(seconds for _, seconds in known if seconds is not None)
    elif row.recorded:
        found["stream_recorded_cycles"] = "infeasible"
    return found


def setting(rows: Sequence[Row], time_limit_s: float) -> str:
    """Say where, when and with what."""
    ran = [answer.versions for row in rows for answer in row.theirs if answer.versions]
    versions = ", ".join(f"{name} {number}" for name, number in ran[0].items()) if ran else "recorded figures, not run"
    return (
        f"{datetime.now(tz=UTC):%Y-%m-%d}; {platform.machine()}, {os.cpu_count()} cores, {platform.system()}; "
        f"stream-mla {version('stream-mla')}, Python {platform.python_version()}, ortools {version('ortools')}, "
        f"at most {time_limit_s:g} s of solver. Stream: {versions}."
    )


def save(rows: Sequence[Row], folder: Path, name: str, time_limit_s: float) -> None:
    """Write NAME.csv and NAME.md."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            found = cells(row)
            writer.writerow([found.get(column, "") for column in COLUMNS])
    (folder / f"{name}.md").write_text(markdown(rows, time_limit_s), encoding="utf-8")


def markdown(rows: Sequence[Row], time_limit_s: float) -> str:
    """Return the table, the explanations, and what is missed."""
    ratio, compared = speedup(rows)
    lines = [setting(rows, time_limit_s), ""]
    lines += [
        "| machine | block | tokens | cycles | bound | gap | energy (mJ) | CPU s | Stream | its CPU s | ours / its |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        found = cells(row)
        mark = " *" if row.ours.dram_enlarged else ""
        stream = "infeasible" if row.stream_cycles is None else f"{row.stream_cycles:,.0f}"
        if row.stream_cycles is None and not row.theirs and not row.recorded:
            stream = "not run"
        numbers = ("cycles", "bound_cycles", "gap", "energy_mj", "cpu_s")
        shown = [_shown(found.get(name, "none")) for name in numbers]
        shown += [stream, _shown(found.get("stream_cpu_s", "")), _shown(found.get("latency_ratio", ""))]
        lines.append(f"| {row.machine}{mark} | {row.block.name} | {row.block.tokens} | {' | '.join(shown)} |")
    lines += ["", "\\* DRAM enlarged: the block does not fit the DRAM of the file, which Stream does not check.", ""]
    lines += [f"CPU seconds: {ratio:.1f} x fewer than Stream, geometric mean of {compared} cells.", ""]
    lines += ["## Differences of more than 10 %, and where Stream is faster", ""]
    lines += [f"- {row.title}: {text}" for row in rows if (text := explanation(row))]
    faster = ", ".join(f"{row.title} ({cells(row)['latency_ratio']} x)" for row in slower(rows))
    lines += ["", f"Stream is faster at: {faster or 'nothing'}."]
    lines += ["", "## Missed", "", *([f"- {sentence}" for sentence in missed(rows)] or ["Nothing."]), ""]
    return "\n".join(lines)


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)
