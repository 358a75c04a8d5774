"""Malformed input of every kind through the command line: a message and an exit code, never a traceback, never a hang.

A seed makes the inputs: `FUZZ_INPUTS` of them (300 in CI, 5,000 by `make fuzz`), from `FUZZ_SEED` on. Each is a shipped
file with mistakes put in, a stored result with mistakes put in, or an odd command line.
"""

import contextlib
import copy
import io
import json
import os
import random
import shutil
import signal
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import yaml  # noqa: TID251  mistakes are put into data, which are then written

from stream_mla.cli.main import main
from stream_mla.frontends import catalog

INPUTS = int(os.environ.get("FUZZ_INPUTS", "300"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
CODES = {0, 2, 3, 130, 141}
LONGEST_S = 60
"""No command may take longer, on a machine that is busy with other things too."""
LONGEST_MESSAGE = 20_000

CONFIG = {
    "model_type": "deepseek_v2", "architectures": ["DeepseekV2ForCausalLM"], "hidden_size": 64,
    "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 2, "q_lora_rank": None,
    "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "torch_dtype": "bfloat16",
}  # fmt: skip
MODEL = {
    "name": "tiny", "source": "made up", "layers": 2,
    "attention": {
        "kind": "latent", "model_dim": 64, "heads": 4, "query_rank": None, "kv_rank": 16, "nope_dim": 8, "rope_dim": 4,
        "value_dim": 8, "latent_norms": True,
    },
    "precision": {"weights": "8 bit", "cache": "8 bit", "activations": "8 bit", "partials": "32 bit"},
}  # fmt: skip
FILES = ("tiny.yaml", "flat_edge.yaml", "cores/flat_edge.yaml", "config.json")
SCALARS: list[Any] = [
    None, True, 0, -1, 3, 10**18, 10**400, 0.5, 1e308, 5e-324, float("nan"), float("inf"), "", " ", "0", "nan", "dram",
    "é", "名前", "a\nb", "\x1b[31mred", "\x07", "\u202e", "..", "/etc/passwd", "a" * 300, "a" * 5000, [], {}, [[]],
    {"a": 1}, [None], {"kind": "latent"}, ["dram", "dram"], "core[0]", "\0",
]  # fmt: skip
NUMBERS = [
    "0",
    "-1",
    "1",
    "0.1",
    "1e-300",
    "1e300",
    "1e999",
    "nan",
    "inf",
    "0x10",
    "٣",
    "1e",
    "9" * 400,
    "1e15",
    "1e-9",
]
UNITS = ["bit", "B", "KiB", "GB/s", "bit/cycle", "Hz", "GHz", "ns", "s", "pJ/bit", "pJ/MAC", "pJ/op", "W", "", "TB/s"]
TEXTS = [
    b"'", b"[", b"{", b"- ", b"&a ", b"*a ", b"!!python/object:os.system ", b"\x00", b"\xff", b"\x1b[2J", b"!!bool x",
    b"!!int ''", b"!!timestamp x", b"!!binary x", b"!!set ", b"<<: *q\n", b": ", b"\t", b"[" * 3000, b"\xed\xa0\x80",
]  # fmt: skip
VALUES = ["", "0", "-1", "1e3", "abc", "٣", "nan", "inf", "2147483648", "9" * 5000, "\x1b[2J", "a=0", "h=1", "parts=9"]
OPTIONS = [
    "--context", "--batch", "--query", "--bits", "--tile", "--seed", "--workers", "--time-limit", "--gap-limit",
    "--objective", "--policy", "--fusion", "--latency-cap", "--scheme", "--start", "--frob",
]  # fmt: skip


@dataclass
class Seen:
    """What a command did."""

    code: object
    out: str
    err: str


def call(*arguments: str) -> Seen:
    """Run one command in this process; what it raises beside SystemExit is the failure of the test."""

    def late(*_: object) -> None:
        raise AssertionError(f"longer than {LONGEST_S} s: {arguments}")

    out, err = io.StringIO(), io.StringIO()
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LONGEST_S)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code: object = main(arguments)
            except SystemExit as ended:
                code = ended.code or 0
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return Seen(code, out.getvalue(), err.getvalue())


def paths(data: Any, at: tuple[Any, ...] = ()) -> Generator[tuple[Any, ...]]:
    """Yield the places in data."""
    yield at
    entries: Iterable[tuple[Any, Any]] = ()
    if isinstance(data, dict):
        entries = cast("dict[Any, Any]", data).items()
    elif isinstance(data, list):
        entries = enumerate(cast("list[Any]", data))
    for key, value in entries:
        yield from paths(value, (*at, key))


def mistaken(rng: random.Random, data: Any) -> Any:
    """Return data with one mistake: another value, a wrong quantity, a missing, doubled, renamed or unknown key."""
    data = copy.deepcopy(data)
    *way, last = rng.choice([at for at in paths(data) if at] or [(None,)])
    parent = data
    for key in way:
        parent = parent[key]
    if last is None:
        return rng.choice(SCALARS)
    kind = rng.choice(["scalar", "quantity", "quantity", "delete", "rename", "twin", "wrap", "extra"])
    if kind == "scalar":
        parent[last] = copy.deepcopy(rng.choice(SCALARS))
    elif kind == "quantity":
        parent[last] = f"{rng.choice(NUMBERS)} {rng.choice([*UNITS, *str(parent[last]).split()[1:2]])}"
    elif kind == "delete":
        parent.pop(last)
    elif kind == "wrap":
        parent[last] = rng.choice([[parent[last]], {"a": parent[last]}, str(parent[last])])
    elif isinstance(parent, list):
        cast("list[Any]", parent).append(copy.deepcopy(cast("list[Any]", parent)[last]))
    else:
        parent[rng.choice([f"{last}s", "", "\x1b[2J", "kind", "name"])] = copy.deepcopy(parent[last])
        if kind == "rename":
            parent.pop(last, None)
    return data


def mutated(rng: random.Random, raw: bytes, json_too: bool) -> bytes:
    """Return a file with mistakes in its data, or in its text."""
    if rng.random() < 0.7:
        data = json.loads(raw) if json_too else yaml.safe_load(raw)
        for _ in range(rng.choice([1, 1, 2])):
            data = mistaken(rng, data)
        try:
            return json.dumps(data).encode() if json_too else yaml.safe_dump(data, sort_keys=False).encode()
        except ValueError:  # a number of more digits than Python writes
            return b"a: " + b"9" * 6000
    changed = bytearray(raw)
    place = rng.randrange(len(changed) + 1)
    match rng.choice(["flip", "cut", "insert", "end"]):
        case "flip" if place < len(changed):
            changed[place] ^= 1 << rng.randrange(8)
        case "cut":
            del changed[place : place + rng.choice([1, 3, 30])]
        case "end":
            del changed[place:]
        case _:
            changed[place:place] = rng.choice(TEXTS)
    return bytes(changed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound files: a model, a machine and its core, a config, and a stored result."""
    folder = tmp_path_factory.mktemp("fuzz")
    shipped = Path(catalog.__file__).parents[2] / "accelerators"
    (folder / "cores").mkdir()
    for name in ("flat_edge.yaml", "cores/flat_edge.yaml"):
        shutil.copy(shipped / name, folder / name)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(MODEL))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    sound = call(*run_of(folder), "--save", str(folder / "results"))
    assert sound.code == 0, sound.err
    return folder


def run_of(folder: Path, model: str = "tiny.yaml") -> list[str]:
    """Return a command that runs a small layer."""
    machine = str(folder / "flat_edge.yaml")
    limits = ["--context", "8", "--time-limit", "0", "--scheme", "mla_absorbed"]
    return ["run", str(folder / model), "--accelerator", machine, *limits]


def tried(rng: random.Random, folder: Path) -> list[tuple[list[str], Seen]]:
    """Put one mistake somewhere, run what meets it, and put things right again."""
    kind = rng.choice(["file", "file", "file", "stored", "line"])
    if kind == "line":
        values = [f"{rng.choice(OPTIONS)}={rng.choice(VALUES)}" for _ in range(rng.choice([1, 1, 2]))]
        commands = [[*run_of(folder), *values]]
        return [(command, call(*command)) for command in commands]
    if kind == "stored":
        file = next((folder / "results").glob("*.json"))
        commands = [[*run_of(folder), rng.choice(["--save", "--start"]), str(folder / "results")]]
    else:
        name = rng.choice(FILES)
        file = folder / name
        machine = name.endswith("flat_edge.yaml")
        commands = [["check", str(file)], ["show", str(file)]]
        commands += [run_of(folder, "tiny.yaml" if machine else name)] if rng.random() < 0.5 else []
    before = file.read_bytes()
    file.write_bytes(mutated(rng, before, json_too=file.suffix == ".json"))
    seen = [(command, call(*command)) for command in commands]
    file.write_bytes(before)
    return seen


@pytest.mark.parametrize("part", range(10))
def test_a_message_and_an_exit_code_whatever_comes(folder: Path, part: int) -> None:
    sound = call(*run_of(folder), "--json").out
    for number in range(part * INPUTS // 10, (part + 1) * INPUTS // 10):
        for command, seen in tried(random.Random(SEED * 10**6 + number), folder):
            said = f"input {number}, {command}: {seen.err[-2000:]}"
            assert seen.code in CODES, said
            assert len(seen.err) < LONGEST_MESSAGE, said
            assert not {*"\x1b\x07\0\u202e"} & {*seen.out, *seen.err}, said
            if "--save" in command and seen.code == 0:
                again = call(*command, "--json")
                assert rows(again.out) == rows(sound), said


def rows(text: str) -> list[dict[str, Any]]:
    """Return rows without what may differ between equal runs."""
    return [{key: value for key, value in row.items() if key != "solve_s"} for row in json.loads(text)]
