"""Markdown: tables, numbers, and the mark of a conclusion."""

from collections.abc import Sequence


def table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    lines = [heads, ["---"] * len(heads), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float | None) -> str:
    """Return three digits, or `never`."""
    if value is None:
        return "never"
    return f"{value:.3g}" if value < 1e4 else f"{value:.3e}"


def share(value: float) -> str:
    """Return a share in percent."""
    return f"{value:.2%}".replace("%", " %")


def mark(*, holds: bool) -> str:
    """Return whether a conclusion holds."""
    return "**Holds.**" if holds else "**Does not hold.**"
