"""Pages of documentation as programs: their commands and their Python run, and print what the page shows."""

import contextlib
import io
import json
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from stream_mla.cli.main import main

ROOT = Path(__file__).parents[1]
FEWER = ["--time-limit", "0", "--context", "64"]
"""What is added to commands that schedule something: no solver, few tokens."""

CONFIG = {
    "model_type": "deepseek_v2",
    "hidden_size": 2048,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "q_lora_rank": None,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "torch_dtype": "bfloat16",
}
"""The keys of DeepSeek-V2-Lite's config.json that say what its attention is."""


class Block(NamedTuple):
    """A fenced block of a page: its language, and its text."""

    language: str
    text: str


def page(name: str) -> str:
    """Return the text of a page, named by its path in the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page, in its order."""
    return [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


def run_python(text: str, names: dict[str, Any]) -> str:
    """Run a block of Python in a namespace that it adds to; return what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(text, "<page>", "exec"), names)
    return printed.getvalue()


def run_commands(text: str, folder: Path, *more: str) -> int:
    """Run the `stream-mla` lines of a block in a folder, with fewer tokens; return how many there are."""
    lines = [line for line in text.splitlines() if line.startswith("stream-mla ")]
    for line in lines:
        words, _, target = line.partition(" > ")
        schedules = words.startswith(("stream-mla run ", "stream-mla pareto "))
        arguments = shlex.split(words)[1:] + [*FEWER, *more] * schedules
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert main(arguments) == 0, line
        assert printed.getvalue(), line
        if target:
            (folder / target).write_text(printed.getvalue(), encoding="utf-8")
    return len(lines)


def write_model(folder: Path) -> None:
    """Write the folder of a Hugging Face model that pages name."""
    (folder / "DeepSeek-V2-Lite").mkdir()
    (folder / "DeepSeek-V2-Lite" / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
