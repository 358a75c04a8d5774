"""The pages in `docs/` run: commands, Python, and what it prints; and they leave nothing out."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from stream_mla.cli.main import main
from stream_mla.settings import NAMES
from tests.pages import ROOT, blocks, page, run_commands, run_python, write_model

PAGES = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.usefixtures("registry")
def test_a_page_runs_from_top_to_bottom(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path)
    names: dict[str, Any] = {}
    printed = ""
    for block in blocks(page(name)):
        if block.language == "python":
            printed = run_python(block.text, names)
        elif block.language == "bash":
            run_commands(block.text, tmp_path)
        elif block.language == "text" and printed:
            assert printed == block.text
            printed = ""


@pytest.mark.parametrize("name", [*PAGES, "README.md", "CONTRIBUTING.md", "examples/README.md"])
def test_links_lead_somewhere(name: str):
    """Links to files of the repository, and to headings of the page itself."""
    text = page(name)
    headings = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.M)
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("http"):
            assert ((ROOT / name).parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("name", ["docs/assumptions.md", "docs/extending.md", "CONTRIBUTING.md"])
def test_modules_that_a_page_names_exist(name: str):
    for path in re.findall(r"`([\w/]+/[\w/]*\.(?:py|yaml|toml))`", page(name)):
        assert (ROOT / path).exists() or (ROOT / "stream_mla" / path).exists(), path


COMMANDS = (["run"], ["pareto"], ["reproduce"], ["list"], ["show"], ["check"])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_option_is_explained(command: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    options = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}
    explained = set(re.findall(r"--[a-z][a-z-]+", page("docs/command-line.md")))
    assert options <= explained


def test_every_option_of_a_run_is_in_the_table():
    rows = [line for line in page("docs/command-line.md").splitlines() if line.startswith("| `--")]
    listed = {name for row in rows for name in re.findall(r"`--([a-z-]+)", row.split(" | ")[0])}
    assert {name.replace("_", "-") for name in NAMES} <= listed


def test_the_citation_is_what_the_package_says():
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    cited = dict(re.findall(r"^([a-z-]+): ([^\n]+)$", page("CITATION.cff"), re.MULTILINE))
    assert cited["cff-version"] == "1.2.0"
    assert (cited["version"], cited["license"], cited["type"]) == (project["version"], project["license"], "software")
    assert project["name"] in cited["title"]
