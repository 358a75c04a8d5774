"""Fixtures of all tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)  # a slow or busy machine is no fault of an example
settings.load_profile("any machine")

from stream_mla import SCHEMES


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden; review the diff in git")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Compare a text with the golden file of the test."""
    path = Path(__file__).parent / "golden" / f"{request.node.name}.txt"

    def check(text: str) -> None:
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"no golden {path.name}: run pytest --update-golden and review it"
        assert text == path.read_text(encoding="utf-8")

    return check


@pytest.fixture
def registry() -> Iterator[None]:
    """Forget, after the test, the schemes that it registers."""
    known: dict[str, object] = vars(SCHEMES)["_scheme_of"]
    before = dict(known)
    yield
    known.clear()
    known.update(before)
