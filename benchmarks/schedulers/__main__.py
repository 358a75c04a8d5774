"""All instances through all schedulers: a table, and whether it shows what it must.

    python -m benchmarks.schedulers            # 30 s each, two instances at a time on one core each; an hour
    python -m benchmarks.schedulers --quick    # a few instances, 5 s each

Exit code 1 where a figure is missed; stderr names all of them. Results go to benchmarks/schedulers/results.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.schedulers import results
from benchmarks.schedulers.instances import INSTANCES, QUICK, Instance
from benchmarks.schedulers.worker import METHODS, Facts, Measured

HERE = Path(__file__).parent


def _run(method: str, instance: Instance, seconds: float, workers: int, tiling: Path) -> dict[str, object]:
    """What the worker printed; a crash or an endless run is an error too."""
    command = [sys.executable, "-m", "benchmarks.schedulers.worker", method, instance.name]
    command += [str(seconds), str(workers), str(tiling)]
    try:
        done = subprocess.run(
            command, cwd=HERE.parents[1], capture_output=True, text=True, check=False, timeout=20 * seconds + 900
        )
    except subprocess.TimeoutExpired as error:
        return {"error": f"no end after {error.timeout:g} s"}
    if done.returncode:
        return {"error": f"crash: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"}
    return json.loads(done.stdout.splitlines()[-1])


def _row(instance: Instance, seconds: float, workers: int) -> results.Row:
    """All schedulers on one instance; the others get the seconds that ours took, where those are more."""
    measured: dict[str, Measured] = {}
    errors: dict[str, str] = {}
    facts: Facts | None = None
    with tempfile.TemporaryDirectory() as folder:
        for method in METHODS:
            given = seconds if method == "ours" or "ours" not in measured else max(seconds, measured["ours"].seconds)
            found = _run(method, instance, given, workers, Path(folder) / "tiling")
            if "error" in found:
                errors[method] = str(found["error"])
                if method == "ours":
                    break
                continue
            measured[method] = Measured(**found["measured"])  # pyright: ignore[reportCallIssue]
            if found["facts"] is not None:
                facts = Facts(**found["facts"])  # pyright: ignore[reportCallIssue]
    return results.Row(instance=instance, facts=facts, measured=measured, errors=errors)


def _tell(row: results.Row) -> None:
    cycles = "  ".join(f"{name} {entry.cycles:,} ({entry.seconds:.0f} s)" for name, entry in row.measured.items())
    errors = "  ".join(f"{name}: {why[:100]}" for name, why in row.errors.items())
    print(f"{row.instance.name}: gap {row.gap:.1%}  {cycles}  {errors}", flush=True)


def main() -> int:
    """Run, save, judge."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.schedulers", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--workers", type=int, default=1, help="cores of each scheduler")
    parser.add_argument("--jobs", type=int, default=2, help="instances at a time")
    parser.add_argument("--only", default="", help="instances whose name contains this")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    chosen = [entry for entry in (QUICK if arguments.quick else INSTANCES) if arguments.only in entry.name]
    seconds = arguments.seconds or (5.0 if arguments.quick else 30.0)
    name = "quick" if arguments.quick else "part" if arguments.only else "full"
    rows: list[results.Row] = []
    lines = results.setting(seconds, arguments.workers, arguments.jobs)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for row in pool.map(partial(_row, seconds=seconds, workers=arguments.workers), chosen):
            rows.append(row)
            _tell(row)
            results.save(rows, arguments.out, name, lines)
    missed = results.failures(rows)
    for sentence in missed:
        print(f"missed: {sentence}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
