"""A comparison of results as a table: a title, a row per result as it is done, and a few lines under it."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stream_mla.mapping.policy import POLICIES
from stream_mla.results.render import columns as columns_
from stream_mla.results.render.descriptions import mask_words
from stream_mla.results.render.notes import footing, wide_notes
from stream_mla.results.result import Failure, Result, Row
from stream_mla.units import with_prefix

if TYPE_CHECKING:
    from stream_mla.point import Point

BASELINES = ("mha_large", "mha_scaled")
"""The names of the models that a latent model is compared with."""
NO_TERMINAL = 80
"""The characters of a line where there is no terminal to ask."""
WITHOUT = {"infeasible": "infeasible: there is no schedule", "no_schedule": "no schedule was found in the time given"}
"""It is what a row says that has no schedule."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """It is what all rows of a table have in common: the lines of its title."""

    model: str
    machines: tuple[str, ...]
    labels: tuple[str, ...]
    """The names of the rows, as far as they are known."""
    title: tuple[str, ...]

    def label(self, row: Row) -> str:
        """Return the name of a row."""
        return label(row.model, row.scheme, self.model)


def label(model: str, scheme: str, base: str) -> str:
    """Return the name of a row in a table about the model `base`."""
    return scheme if model == base else f"{model}/{scheme}"


def subject_of(points: Sequence["Point"]) -> Subject:
    """Return the subject of points that are about to be scheduled."""
    first = points[0]
    workload, precision, cap = first.workload, first.workload.precision, first.latency_cap_cycles
    model = workload.model.name
    machines = tuple(dict.fromkeys(point.accelerator.name for point in points))
    return Subject(
        model=model,
        machines=machines,
        labels=tuple(label(point.workload.model.name, point.scheme, model) for point in points),
        title=tuple(
            _title(
                model=model,
                machines=machines,
                layer=workload.model.layer,
                step=_step(workload.query_tokens, workload.cached_tokens, workload.batch) + mask_words(workload),
                bits=(precision.weights, precision.cache, precision.activations),
                aim=aim(first.objective, cap),
                decisions=(first.policy.fusion, first.policy.prefetch, first.policy.sharing),
            )
        ),
    )


def subject_of_results(rows: Sequence[Result]) -> Subject:
    """Return the subject of results that differ in model baseline, scheme and accelerator only."""
    first = rows[0]
    model = next((row.model for row in rows if row.model not in BASELINES), first.model)
    machines = tuple(dict.fromkeys(row.accelerator for row in rows))
    cap = first.latency_cap_cycles if first.objective == "energy" else None
    return Subject(
        model=model,
        machines=machines,
        labels=tuple(label(row.model, row.scheme, model) for row in rows),
        title=tuple(
            _title(
                model=model,
                machines=machines,
                layer=first.layer,
                step=_step(first.query_tokens, first.cached_tokens, first.batch) + _mask_of(first),
                bits=(first.weight_bits, first.cache_bits, first.activation_bits),
                aim=aim(first.objective, cap),
                decisions=(first.fusion, first.prefetch, first.sharing),
            )
        ),
    )


def aim(objective: str, cap: int | None) -> str:
    """Say what is minimised."""
    return f"scheduled for {objective}" + (f" within {cap:,} cycles" if cap is not None else "")


def _title(
    *,
    model: str,
    machines: Sequence[str],
    layer: str,
    step: str,
    bits: tuple[int, int, int],
    aim: str,
    decisions: tuple[str, str, bool],
) -> Iterator[str]:
    """Yield the lines of a title, each short enough for 80 characters with the names of what is shipped."""
    yield f"{model} on {', '.join(machines)}, one {f'{layer} ' if layer else ''}attention layer"
    yield step
    weights, cache, activations = bits
    widths = (
        f"{weights} bit" if len({*bits}) == 1 else f"weights {weights}, cache {cache}, activations {activations} bit"
    )
    yield f"{widths}; {aim}"
    fusion, prefetch, sharing = decisions
    free = POLICIES["free"]
    if decisions != (free.fusion, free.prefetch, free.sharing):
        yield f"fusion {fusion}, prefetch {prefetch}, sharing {'on' if sharing else 'off'}"


def _step(new: int, cached: int, batch: int) -> str:
    """Say which tokens are computed."""
    tokens = f"{new:,} token{'s' * (new > 1)} per request"
    against = f" against {cached:,} cached" if cached else ", nothing cached"
    return f"{'decode' if cached else 'prefill'} of {tokens}{against}, batch {batch:,}"


def _mask_of(row: Result) -> str:
    """Name the mask of a stored result, with a comma before it; one new token sees all keys without a window."""
    limits = (("window of", row.window, "keys"), ("chunks of", row.chunk, "tokens"))
    named = [f", {words} {size:,} {unit}" for words, size, unit in limits if size is not None]
    kind = "" if row.query_tokens == 1 and not named else ", no mask" if row.mask == "none" else ", causal mask"
    return kind + "".join(named)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A table whose rows come one after the other."""

    subject: Subject
    columns: tuple[columns_.Column, ...]
    width: int
    """Characters that a line may take."""
    wide: bool = False
    """Whether more is said under the table."""

    def heading(self) -> str:
        """Return the title, the names of the columns, and a rule."""
        names = columns_.GAP.join(column.cell(column.name) for column in self.columns).rstrip()
        rule = columns_.GAP.join("-" * column.width for column in self.columns)
        title = [line for text in self.subject.title for line in textwrap.wrap(text, self.width)]
        return "\n".join([*title, "", names, rule])

    def line(self, row: Row) -> str:
        """Return the line of a row."""
        texts = {"scheme": self.subject.label(row), "accelerator": row.accelerator}
        if isinstance(row, Failure):
            named = [column.cell(texts[column.name]) for column in self.columns if column.name in texts]
            return columns_.GAP.join([*(named or [self.subject.label(row)]), WITHOUT[row.status]])
        cells = (column.cell(texts.get(column.name) or column.text(row)) for column in self.columns)
        return columns_.GAP.join(cells).rstrip()

    def footing(self, rows: Sequence[Row]) -> str:
        """Return what is said under the table: at most three lines and what is left out, or more where it is wide."""
        results = [row for row in rows if isinstance(row, Result)]
        if not results:
            return ""
        several = len(self.subject.machines) > 1

        def name(row: Result) -> str:
            return f"{row.accelerator} {self.subject.label(row)}" if several else self.subject.label(row)

        said = [*footing(results, name), *(wide_notes(results, name) if self.wide else ())]
        return "\n".join(line for text in said for line in textwrap.wrap(text, self.width))


def comparison(
    subject: Subject, names: Sequence[str] = (), *, width: int = NO_TERMINAL, wide: bool = False
) -> Comparison:
    """Return a table with these columns, the default ones or all that fit no terminal (`wide`)."""
    names = tuple(names) or (columns_.WIDE if wide else columns_.DEFAULT)
    limit = max(width, 10_000) if wide else width
    columns = columns_.chosen(names, machines=subject.machines, labels=subject.labels, width=limit)
    return Comparison(subject=subject, columns=columns, width=width, wide=wide)


def table_of(points: Sequence["Point"], rows: Sequence[Row], *, width: int = NO_TERMINAL, wide: bool = False) -> str:
    """Return a whole table of the rows of points."""
    return table(subject_of(points), rows, width=width, wide=wide)


def table(
    subject: Subject, rows: Sequence[Row], names: Sequence[str] = (), *, width: int = NO_TERMINAL, wide: bool = False
) -> str:
    """Return a whole table."""
    labels = dict.fromkeys((*subject.labels, *(label(row.model, row.scheme, subject.model) for row in rows)))
    shown = comparison(replace(subject, labels=tuple(labels)), names, width=width, wide=wide)
    lines = [shown.heading(), *(shown.line(row) for row in rows), "", shown.footing(rows)]
    return "\n".join(lines).rstrip()


def row_done(row: Result) -> str:
    """Say in a few words how a row ended."""
    return f"{with_prefix(row.latency_s, 's')}, gap {100 * row.gap:.2f} %"
