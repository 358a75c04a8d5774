"""Short tables of what is kept: a title and some lines of name and value, as text, in one line, and for notebooks."""

from collections.abc import Sequence
from html import escape

Facts = Sequence[tuple[str, str]]
"""Names and values, one line each."""


class ShortTable:
    """Prints as a title and a few facts instead of all its fields."""

    def title(self) -> str:
        """Return what this is about."""
        raise NotImplementedError

    def facts(self) -> Facts:
        """Return names and values, the most important first."""
        raise NotImplementedError

    def headline(self) -> str:
        """Return the most important values in a few words."""
        raise NotImplementedError

    def __str__(self) -> str:
        """Return a table of about ten lines, without an end of line."""
        facts = self.facts()
        width = max(len(name) for name, _ in facts)
        return "\n".join([self.title(), *(f"  {name:{width}}  {value}" for name, value in facts)])

    def __repr__(self) -> str:
        """Return one line."""
        return f"<{type(self).__name__} {self.title()}: {self.headline()}>"

    def _repr_html_(self) -> str:
        """Return the table for notebooks; what stands in it is escaped."""
        left = 'style="text-align: left"'
        rows = "".join(
            f"<tr><th {left}>{escape(name)}</th><td {left}>{escape(value)}</td></tr>" for name, value in self.facts()
        )
        return f"<table><caption>{escape(self.title())}</caption>{rows}</table>"


def step(query_tokens: int, cached_tokens: int, batch: int) -> str:
    """Describe one step in words."""
    new = f"{query_tokens:,} token{'s' * (query_tokens > 1)}"
    requests = f", batch {batch:,}" if batch > 1 else ""
    return f"decode of {new}, {cached_tokens:,} cached{requests}" if cached_tokens else f"prefill of {new}{requests}"
