"""A wheel brings the models and accelerators along, and its licence."""

import json
import os
import subprocess
import sys
from importlib.metadata import PathDistribution
from pathlib import Path

from stream_mla.frontends.catalog import accelerator_names, model_names

ROOT = Path(__file__).parents[1]
LOAD_ALL = """
import json
from stream_mla.frontends import catalog
models = [catalog.load_model(name).name for name in catalog.model_names()]
accelerators = [catalog.load_accelerator(name).name for name in catalog.accelerator_names()]
print(json.dumps([catalog.__file__, models, accelerators]))
"""


def run(*arguments: str, folder: Path, **environment: str) -> str:
    """Run this Python in a folder; return what it prints."""
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_installed_wheel_finds_what_is_shipped(tmp_path: Path):
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", "wheels", str(ROOT), folder=tmp_path)
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    run(*pip, "install", "--no-deps", "--target", "installed", str(wheel), folder=tmp_path)
    installed = tmp_path / "installed"
    printed = run("-c", LOAD_ALL, folder=tmp_path, PYTHONPATH=str(installed))
    assert json.loads(printed) == [
        str(installed / "stream_mla" / "frontends" / "catalog.py"),
        model_names(),
        accelerator_names(),
    ]
    assert model_names()
    assert accelerator_names()
    (information,) = installed.glob("*.dist-info")
    assert PathDistribution(information).metadata["License-Expression"] == "MIT"
    assert (information / "licenses" / "LICENSE").read_text(encoding="utf-8") == (ROOT / "LICENSE").read_text()
