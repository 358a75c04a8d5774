"""Scheduled points: many at once, in several processes, each stored as soon as it is there.

What is stored is known by all inputs of the run and by the text of this package's modules: after any change of the
program everything is scheduled anew.
"""

import gc
import hashlib
import json
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import stream_mla
from stream_mla.evaluation import evaluate_graph
from stream_mla.experiments.letter import setup
from stream_mla.experiments.letter.setup import Step
from stream_mla.hardware.accelerator import Accelerator
from stream_mla.hardware.core_cost import Objective
from stream_mla.mapping.policy import POLICIES
from stream_mla.point import Point

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One step to schedule on one machine, for latency, with the greedy scheduler."""

    step: Step
    accelerator: Accelerator
    policy: str
    """A name in `POLICIES`."""

    @property
    def point(self) -> Point:
        """The run as a point; that W_uv may be missing is not in it."""
        return Point(
            workload=self.step.workload,
            accelerator=self.accelerator,
            scheme=self.step.scheme,
            objective=Objective.LATENCY,
            policy=POLICIES[self.policy],
            time_limit_s=0.0,
            gap_limit=0.001,
            seed=0,
            workers=1,
            tile_sizes={},
        )

    @cached_property
    def key(self) -> str:
        """Fingerprint of all inputs and of the program."""
        parts = (self.point.sha256, str(self.step.fetches_w_uv), sources_sha256())
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Measured:
    """It is what is kept of a schedule."""

    latency_s: float
    lower_bound_s: float
    """This is the lower bound in seconds, for the tiling that was chosen."""
    dram_bytes: float
    macs: int
    """The whole layer has so many MACs, the product with W_uv included."""
    energy_pj: float
    tiles: int

    def energy_with(self, mac_pj: float) -> float:
        """Return the energy in pJ with an average on-chip energy per MAC, at 8 pJ per bit of DRAM traffic."""
        return self.macs * mac_pj + 64.0 * self.dram_bytes


@lru_cache
def sources_sha256() -> str:
    """Fingerprint of the modules that can move a result: all but those that only count, draw and write."""
    package, letter = Path(stream_mla.__file__).parent, Path(__file__).parent
    files = {*package.rglob("*.py"), *package.rglob("*.yaml")} - set(letter.rglob("*.py"))
    digest = hashlib.sha256(sys.version.encode())
    for file in sorted({*files, Path(__file__), Path(setup.__file__)}):
        digest.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def measure(run: Run) -> Measured:
    """Schedule one run."""
    result = evaluate_graph(run.point, run.step.graph).result
    whole = replace(run.step, fetches_w_uv=True)
    return Measured(
        latency_s=result.latency_s,
        lower_bound_s=result.lower_bound_cycles / run.accelerator.clock,
        dram_bytes=result.dram_read_bytes + result.dram_write_bytes,
        macs=whole.graph.total_macs,
        energy_pj=result.energy_pj,
        tiles=result.tiles,
    )


class Store:
    """Results in one file, a JSON object per line; without a file, in memory only."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.known: dict[str, Measured] = {}
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._take(line)

    def _take(self, line: str) -> None:
        try:
            entry = json.loads(line)
            if entry["program"] == sources_sha256():
                self.known[entry["key"]] = Measured(**entry["measured"])
        except (ValueError, KeyError, TypeError):
            return  # a line that an interrupted run left unfinished: the point is scheduled again

    def add(self, run: Run, measured: Measured) -> None:
        """Keep a result."""
        self.known[run.key] = measured
        if self.path is not None:
            entry = {"key": run.key, "program": sources_sha256(), "measured": asdict(measured)}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")


def measure_all(runs: Sequence[Run], store: Store, workers: int, progress: Progress) -> dict[Run, Measured]:
    """Schedule runs that are not stored yet, and return the results of all."""
    missing = {run.key: run for run in runs if run.key not in store.known}
    for done, (run, measured) in enumerate(_measured(list(missing.values()), workers), start=1):
        store.add(run, measured)
        bar = "#" * (20 * done // len(missing))
        progress(f"[{bar:20}] {done} of {len(missing)} points")
    return {run: store.known[run.key] for run in runs}


def _measured(runs: Sequence[Run], workers: int) -> Iterator[tuple[Run, Measured]]:
    """Yield results as they come."""
    if workers < 2 or len(runs) < 2:
        for run in runs:
            yield run, measure(run)
        return
    context = multiprocessing.get_context("spawn")  # what forks beside threads may hang
    with ProcessPoolExecutor(workers, mp_context=context, initializer=gc.disable) as pool:
        pending = {pool.submit(measure, run): run for run in runs}
        try:
            for future in as_completed(pending):
                yield pending[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
