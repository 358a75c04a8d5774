"""Rows, what they must show, and the files they are kept in."""

import csv
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path

from benchmarks.schedulers.instances import Instance
from benchmarks.schedulers.worker import Facts, Measured

ALTERNATIVES = ("heft", "heft_first", "annealing", "layer_by_layer")
COMPUTE = ("arrays", "vector units")
"""Bounds that say that compute binds."""
MORE_TRAFFIC = 1.05
"""Memory capacity binds where DRAM traffic is more than the minimum by this factor: not everything reused is kept."""
BETTER = 1.10
"""What HEFT must take at least, in multiples of our time, where compute or memory binds: in the geometric mean, on the
tiling that it would start from. On the tiling that we searched for, it must only never be better."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One instance and all schedulers."""

    instance: Instance
    facts: Facts | None
    measured: Mapping[str, Measured] = field(default_factory=dict[str, Measured])
    errors: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def gap(self) -> float:
        """(cycles - bound) / cycles of ours; 1 where there is no schedule."""
        if self.facts is None or "ours" not in self.measured:
            return 1.0
        return 1 - self.facts.bound_cycles / self.measured["ours"].cycles

    @property
    def bound_by_compute_or_memory(self) -> bool:
        """Whether compute, or the capacity of the memories, binds."""
        return self.facts is not None and (self.facts.binding in COMPUTE or self.facts.traffic > MORE_TRAFFIC)

    def ratio(self, alternative: str) -> float | None:
        """Cycles of an alternative over ours."""
        if alternative not in self.measured or "ours" not in self.measured:
            return None
        return self.measured[alternative].cycles / self.measured["ours"].cycles


def geometric_mean(values: Iterable[float]) -> float:
    """NaN of nothing."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def _ratios(rows: Sequence[Row], alternative: str) -> list[float]:
    return [ratio for row in rows if (ratio := row.ratio(alternative)) is not None]


def failures(rows: Sequence[Row]) -> list[str]:
    """Every figure that is missed, as a sentence."""
    missed = [f"{row.instance.name}: no schedule by ours: {row.errors['ours']}" for row in rows if "ours" in row.errors]
    missed += [
        f"{row.instance.name}: {name} broke a rule: {why}"
        for row in rows
        for name, why in row.errors.items()
        if name != "ours" and why.startswith("crash")
    ]
    near = sum(row.gap <= 0.05 for row in rows)
    if near < 0.9 * len(rows):
        missed.append(f"gap at most 5 % on {near} of {len(rows)} instances, not on 90 %")
    missed += [f"{row.instance.name}: gap {row.gap:.1%}, more than 15 %" for row in rows if row.gap > 0.15]
    for row in rows:
        for name in ALTERNATIVES:
            ratio = row.ratio(name)
            if ratio is not None and ratio < 1:
                missed.append(f"{row.instance.name}: {name} is better by {1 / ratio - 1:.2%}")
    hard = _ratios([row for row in rows if row.bound_by_compute_or_memory], "heft_first")
    if hard and geometric_mean(hard) < BETTER:
        missed.append(
            f"where compute or memory capacity binds ({len(hard)} instances), HEFT takes {geometric_mean(hard):.3f} x "
            f"our time in the geometric mean, less than {BETTER}"
        )
    return missed


def _columns(row: Row) -> dict[str, object]:
    instance, facts = row.instance, row.facts
    columns: dict[str, object] = {
        "instance": instance.name,
        "tiles": facts.tiles if facts else "",
        "moves": facts.moves if facts else "",
        "cores": facts.cores if facts else "",
        "greedy_cycles": facts.greedy_cycles if facts else "",
        "bound_cycles": facts.bound_cycles if facts else "",
        "binding": facts.binding if facts else "",
        "gap": f"{row.gap:.4f}",
        "dram_traffic": f"{facts.traffic:.3f}" if facts else "",
    }
    for name in ("ours", *ALTERNATIVES):
        found = row.measured.get(name)
        columns[f"{name}_cycles"] = found.cycles if found else ""
        columns[f"{name}_seconds"] = f"{found.seconds:.1f}" if found else ""
        columns[f"{name}_peak_mib"] = f"{found.peak_mib:.0f}" if found else ""
        columns[f"{name}_note"] = found.note if found else row.errors.get(name, "")
    return columns


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def setting(seconds: float, workers: int, jobs: int) -> list[str]:
    """Machine and versions, a line each."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    packages = ", ".join(f"{name} {version(name)}" for name in ("stream-mla", "ortools", "numpy"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return [
        f"{date.today().isoformat()}, {seconds:g} s per scheduler and instance, {workers} core each, {jobs} at a time",
        f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB; {platform.platform()}",
        f"Python {platform.python_version()}, {packages}; commit {found.stdout.strip() or 'unknown'}",
    ]


def _cell(row: Row, name: str) -> str:
    ratio = row.ratio(name)
    return f"{ratio:.3f}" if ratio is not None else "none"


def markdown(rows: Sequence[Row], lines: Sequence[str]) -> str:
    """The table for readers: cycles of ours, the others as multiples of it."""
    heads = ["instance", "tiles", "cores", "greedy", "CP-SAT", "lower bound", "gap", "s", "MiB"]
    heads += ["HEFT", "HEFT first", "annealing", "layers"]
    text = [*(f"{line}  " for line in lines), "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        facts, ours = row.facts, row.measured.get("ours")
        cells = [row.instance.name, *["none"] * 8]
        if facts is not None and ours is not None:
            numbers = (facts.tiles, facts.cores, facts.greedy_cycles, ours.cycles, facts.bound_cycles)
            cells[1:] = [*(f"{number:,}" for number in numbers)]
            cells += [f"{row.gap:.2%}", f"{ours.seconds:.0f}", f"{ours.peak_mib:.0f}"]
        text.append(f"| {' | '.join([*cells, *(_cell(row, name) for name in ALTERNATIVES)])} |")
    hard = [row for row in rows if row.bound_by_compute_or_memory]
    for what, chosen in (("all", rows), ("compute or memory capacity binds", hard)):
        means = (f"{geometric_mean(_ratios(chosen, name)):.3f}" for name in ALTERNATIVES)
        text.append(f"| geometric mean, {what} ({len(chosen)}) |{' |' * 8} {' | '.join(means)} |")
    text += [
        "",
        "Cycles; the last four columns are multiples of ours. `greedy` and `CP-SAT` are ours before and after hill",
        "climbing and the solver; HEFT and annealing work on our tiling, `HEFT first` on the first tiling that fits,",
        "layers on a fixed one.",
    ]
    return "\n".join(text) + "\n"


def save(rows: Sequence[Row], folder: Path, name: str, lines: Sequence[str]) -> None:
    """Write NAME.csv and NAME.md."""
    folder.mkdir(parents=True, exist_ok=True)
    table = [_columns(row) for row in rows]
    with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        for line in lines:
            file.write(f"# {line}\n")
        writer = csv.DictWriter(file, fieldnames=list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    (folder / f"{name}.md").write_text(markdown(rows, lines), encoding="utf-8")
