"""What the README promises: its commands run, and its examples print what it shows."""

import contextlib
import io as standard_io
import json
import re
import shlex
from pathlib import Path

import pytest

from stream_mla.cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FEWER = ["--time-limit", "0", "--context", "64"]

Captured = pytest.CaptureFixture[str]


def readme_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_readme_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In the README's order, in one folder; without the solver and with few tokens."""
    monkeypatch.chdir(tmp_path)
    config = {
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
    (tmp_path / "DeepSeek-V2-Lite").mkdir()
    (tmp_path / "DeepSeek-V2-Lite" / "config.json").write_text(json.dumps(config))
    lines = [line for block in readme_blocks("bash") for line in block.splitlines() if line.startswith("stream-mla ")]
    assert len(lines) >= 10
    for line in lines:
        words, _, target = line.partition(" > ")
        arguments = shlex.split(words)[1:] + FEWER * words.startswith(("stream-mla run ", "stream-mla pareto "))
        printed = standard_io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert main(arguments) == 0, line
        assert printed.getvalue(), line
        if target:
            (tmp_path / target).write_text(printed.getvalue())


def test_readme_shows_what_make_run_prints(capsys: Captured, request: pytest.FixtureRequest):
    (line,) = re.findall(r"bin/stream-mla (run .*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert main([*shlex.split(line), "--time-limit", "0"]) == 0
    printed = capsys.readouterr().out
    (shown,) = readme_blocks("text")
    if request.config.getoption("--update-golden"):
        (ROOT / "README.md").write_text(README.replace(shown, printed), encoding="utf-8")
    else:
        assert printed == shown


def test_readme_python_runs(capsys: Captured):
    (example,) = readme_blocks("python")
    exec(example.replace("time_limit_s=5.0", "time_limit_s=0.0"), {})
    latency, bound, tiles = map(int, capsys.readouterr().out.split())
    assert tiles > 0
    assert 0 < bound <= latency
