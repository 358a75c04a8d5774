"""Stream 2.1.1 from the package index, in an environment of its own, run block by block."""

import json
import os
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.blocks import Block

VERSION = "2.1.1"
REQUIREMENTS = (f"stream-dse=={VERSION}", "six", "onnx")
"""Stream needs six and does not say so; the blocks are written with onnx."""
WORKER = Path(__file__).with_name("stream_worker.py")
MOST_S = 900
KEPT = Path(__file__).with_name("results") / "stream_answers.json"
"""Answers of the last whole run, for where there is no Python 3.12."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """A fused group of Stream's."""

    operators: list[str]
    cycles: float
    dram_read_bits: int
    dram_write_bits: int


@dataclass(frozen=True, kw_only=True)
class Theirs:
    """What Stream said of one block."""

    fused: bool
    cycles: float | None
    cpu_s: float
    """Without the import of its packages."""
    error: str
    macs: int
    groups: list[Group]
    versions: dict[str, str]

    @property
    def dram_bits(self) -> int:
        """Bits it moves at the port of the DRAM."""
        return sum(group.dram_read_bits + group.dram_write_bits for group in self.groups)


def find_python() -> str | None:
    """Return a Python 3.12 that runs: from PATH, where a name may be an empty shim, or of pyenv."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [shutil.which("python3.12"), *(str(path) for path in sorted(root.glob("versions/3.12*/bin/python")))]
    return next((path for path in candidates if path and _runs(path)), None)


def _runs(python: str) -> bool:
    return subprocess.run([python, "-c", "import venv"], capture_output=True, check=False).returncode == 0


def cache_folder() -> Path:
    """Where the environment and the answers are kept."""
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "stream_mla" / f"stream-dse-{VERSION}"


def environment(python: str) -> Path:
    """Make the environment, unless it is there; return its interpreter. Raises CalledProcessError."""
    folder = cache_folder() / "venv"
    interpreter = folder / "bin" / "python"
    done = folder / "installed"
    if not done.exists():
        subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([interpreter, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
        done.write_text(" ".join(REQUIREMENTS))
    return interpreter


def key(machine: str, block: Block, *, fused: bool) -> str:
    """Name one answer."""
    return f"{machine}-{block.name}-{block.tokens}-{'fused' if fused else 'per_layer'}"


def kept() -> dict[str, Theirs]:
    """Return the answers kept beside the results."""
    if not KEPT.exists():
        return {}
    return {name: _theirs(data) for name, data in json.loads(KEPT.read_text(encoding="utf-8")).items()}


def keep(answers: dict[str, Theirs]) -> None:
    """Write the answers beside the results, one a line."""
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{json.dumps(name)}: {json.dumps(asdict(answers[name]))}" for name in sorted(answers)]
    KEPT.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def run(interpreter: Path, machine: str, block: Block, *, fused: bool, again: bool) -> Theirs:
    """Return Stream's answer, from the cache where it was asked before and not `again`."""
    file = cache_folder() / "answers" / f"{key(machine, block, fused=fused)}.json"
    if again or not file.exists():
        task: dict[str, Any] = {"machine": machine, "scheme": block.scheme, "core_only": block.core_only}
        task |= {"fused": fused, "sizes": block.sizes}
        answer = _ask(interpreter, task)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(answer), indent=1))
    return _theirs(json.loads(file.read_text()))


def _ask(interpreter: Path, task: dict[str, Any]) -> Theirs:
    # its results depend on the order of its sets: fix the seed, so that they repeat
    settings = {**os.environ, "PYTHONHASHSEED": "0", "MPLBACKEND": "Agg"}
    try:
        done = subprocess.run(
            [interpreter, "-P", WORKER],
            input=json.dumps(task),
            capture_output=True,
            text=True,
            env=settings,
            timeout=MOST_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Theirs(
            fused=task["fused"],
            cycles=None,
            cpu_s=MOST_S,
            error=f"no end after {MOST_S} s",
            macs=0,
            groups=[],
            versions={},
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise RuntimeError(f"Stream's process ended with {done.returncode}: {done.stderr[-2000:]}")
    return _theirs({"fused": task["fused"], **json.loads(lines[-1].removeprefix("RESULT "))})


def _theirs(data: dict[str, Any]) -> Theirs:
    return Theirs(
        fused=data["fused"],
        cycles=data["cycles"],
        cpu_s=data["cpu_s"],
        error=data["error"],
        macs=data["macs"],
        groups=[Group(**group) for group in data["groups"]],
        versions=data["versions"],
    )
