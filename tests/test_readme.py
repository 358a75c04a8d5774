"""What the README promises: its commands run, and its examples print what it shows."""

import re
import shlex
from pathlib import Path

import pytest

from stream_mla.cli.main import main
from tests.pages import ROOT, blocks, page, run_commands, run_python, write_model

README = page("README.md")

Captured = pytest.CaptureFixture[str]


def readme_blocks(language: str) -> list[str]:
    """Return the texts of the README's blocks in a language."""
    return [block.text for block in blocks(README) if block.language == language]


def test_readme_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In the README's order, in one folder; without the solver and with few tokens."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path)
    assert sum(run_commands(text, tmp_path) for text in readme_blocks("bash")) >= 10


def test_readme_shows_what_make_run_prints(capsys: Captured, request: pytest.FixtureRequest):
    (line,) = re.findall(r"bin/stream-mla (run .*)", page("Makefile"))
    assert main([*shlex.split(line), "--time-limit", "0"]) == 0
    printed = capsys.readouterr().out
    (shown,) = readme_blocks("text")
    if request.config.getoption("--update-golden"):
        (ROOT / "README.md").write_text(README.replace(shown, printed), encoding="utf-8")
    else:
        assert printed == shown


def test_readme_python_runs():
    (example,) = readme_blocks("python")
    lines = run_python(example, {}).splitlines()
    assert lines[0] == "deepseek_v3 mla_rc on flat_cloud"
    assert len(lines) == 10
    assert len(example.splitlines()) == 5


def test_readme_is_short():
    assert len(README.splitlines()) <= 150
