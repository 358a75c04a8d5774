"""The scripts in `examples/` run, from any folder, and show what they say."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = sorted(file.stem for file in EXAMPLES.glob("*.py"))

Captured = pytest.CaptureFixture[str]


def printed(name: str, capsys: Captured) -> str:
    """Run a script and return what it prints."""
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


def cycles(text: str) -> list[int]:
    """Return all numbers of cycles in a text."""
    return [int(number.replace(",", "")) for number in re.findall(r"([\d,]+) cycles", text)]


def test_all_examples_are_listed():
    assert NAMES == ["compare_schemes", "five_lines", "own_graph", "own_scheme"]
    listed = re.findall(r"\]\((\w+)\.py\)", (EXAMPLES / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == NAMES


def test_five_lines(capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    lines = printed("five_lines", capsys).splitlines()
    assert lines[0] == "deepseek_v3 mla_rc on flat_cloud"
    assert [line.split()[0] for line in lines[1:4]] == ["step", "latency", "energy"]


def test_twice_the_bandwidth_is_faster_and_at_most_twice_as_fast(capsys: Captured):
    said = printed("compare_schemes", capsys)
    before, after = cycles(said)[:4], cycles(said)[4:]
    assert all(2 * new >= old > new for old, new in zip(before, after, strict=True))
    assert said.count("flat_cloud") == said.count("my_machine") == 4


def test_a_kernel_alone_takes_less_than_its_layer(capsys: Captured):
    said = printed("own_graph", capsys)
    layer, kernel = cycles(said)
    # beside the kernel the layer loads weights of 4096 x (2 x 4096 + 2 x 1024), 2 B each, at 400 B per cycle
    assert layer - kernel >= 4096 * (2 * 4096 + 2 * 1024) * 2 / 400
    assert "\nscores, softmax, attend, merge\n" in said


@pytest.mark.usefixtures("registry")
def test_a_scheme_of_ones_own_reads_less(capsys: Captured):
    said = printed("own_scheme", capsys)
    assert re.findall(r"^llama_3_8b (\w+) on flat_cloud$", said, re.MULTILINE) == ["mha", "cross_attention"]
    read = [float(size) for size in re.findall(r"DRAM +([\d.]+) MB", said)]
    # without W_k and W_v: 2 x 4096 x 1024 x 2 B
    assert read[0] - read[1] == pytest.approx(2 * 4096 * 1024 * 2 / 1e6, abs=0.02)
