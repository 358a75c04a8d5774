"""The pages in `docs/` run: commands, Python, and what it prints; and they leave nothing out."""

import re
from pathlib import Path
from typing import Any

import pytest

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
