"""It says what is said under a table of results: what its words mean, which row is ahead, and what would relieve it."""

from collections.abc import Callable, Iterator, Sequence

from stream_mla.results.result import Result, SegmentResult
from stream_mla.units import with_prefix

Name = Callable[[Result], str]
"""Names a row."""

REFERENCE = "mha_large"
"""The model that the best rows are compared with, where it is among them."""
MOST_LIMITS = 3
"""Bounds that are named of the fastest row: what binds it, and what would bind it then."""
PREFIX_BYTES = 1
"""Traffic above the least is named from this many bytes on: below lies the rounding of bits to bytes."""


def footing(results: Sequence[Result], name: Name) -> Iterator[str]:
    """Yield at most three lines: what a gap is, which row is ahead, and what is left out of the model."""
    notes, cut_short = left_out(results), [name(row) for row in results if row.status == "interrupted"]
    if not notes or len(results) == 1:
        yield f"gap: what a better schedule of the same tiling could save at most{_of_segments(results, name)}."
    if cut_short:
        yield f"interrupted: {', '.join(cut_short)}; longer searches may find more."
    elif len(results) > 1:
        yield from _ahead(results, name)
    else:
        yield _relief(results[0], name)
    yield from notes


def _of_segments(results: Sequence[Result], name: Name) -> str:
    """Say which rows are scheduled in segments, whose gap holds for these only."""
    found = [f"{name(row)} in {sum(entry.times for entry in row.passes):,} segments" for row in results if row.passes]
    return f" ({', '.join(found)})" if found else ""


def _ahead(results: Sequence[Result], name: Name) -> Iterator[str]:
    """Yield which row is fastest and which takes least energy, as far as the gaps allow."""
    fastest = _best(results, lambda row: row.latency_s, lambda row: row.latency_gap)
    thriftiest = _best(results, lambda row: row.energy_pj, lambda row: row.energy_gap)
    yield f"fastest: {_named(fastest, name)}{_against(results, fastest[0], lambda row: row.latency_s, 'faster')}."
    less = _against(results, thriftiest[0], lambda row: row.energy_pj, "less")
    yield f"least energy: {_named(thriftiest, name)}{less}."


def _best(results: Sequence[Result], value: Callable[[Result], float], gap: Callable[[Result], float]) -> list[Result]:
    """Return the best row, and after it the others that may be as good: their bounds are no worse than its value."""
    ordered = sorted(results, key=value)
    return [ordered[0], *(row for row in ordered[1:] if value(row) * (1 - gap(row)) <= value(ordered[0]))]


def _named(rows: Sequence[Result], name: Name) -> str:
    """Name the best row, with those that may be as good."""
    return ", ".join(map(name, rows)) + (" within the gaps" if len(rows) > 1 else "")


def _against(results: Sequence[Result], best: Result, value: Callable[[Result], float], how: str) -> str:
    """Compare the best row with MHA of the same inner dimensions, or else with the worst row, on its machine."""
    beside = [row for row in results if row.accelerator == best.accelerator]
    reference = next((row for row in beside if row.model == REFERENCE), max(beside, key=value))
    if reference is best:
        return ""
    other = reference.model if reference.model == REFERENCE else reference.scheme
    return f"; {value(reference) / value(best):.2f}x {how} than {other}"


def _relief(row: Result, name: Name) -> str:
    """Say what binds a row from below, and what would bind it if that were gone."""
    names: dict[int, list[str]] = {}
    for bound, cycles in row.bounds_cycles.items():
        names.setdefault(cycles, []).append(bound)
    (most, first), *others = sorted(names.items(), reverse=True)[:MOST_LIMITS]
    then = f", then by {' and '.join(others[0][1])} at {100 * others[0][0] / most:.0f} % of it" if others else ""
    return (
        f"{name(row)} is held at {100 * most / row.latency_cycles:.0f} % of its latency by {' and '.join(first)}{then}."
    )


def left_out(results: Sequence[Result]) -> list[str]:
    """Return one line with what the results leave out or assume of model and machine; nothing where that is nothing."""
    notes = dict.fromkeys(note.rstrip(".") for row in results for note in row.notes)
    return [f"note: {'; '.join(notes)}."] if notes else []


def wide_notes(results: Sequence[Result], name: Name) -> Iterator[str]:
    """Yield what a wide table says beyond that."""
    if len(results) > 1:
        yield _relief(min(results, key=lambda row: row.latency_s), name)
    yield "bound by: what is busy for the largest share of the latency; to ideal: how far from what no tiling can beat."
    again = [f"{name(row)} {extra}" for row in results if (extra := _extra_traffic(row))]
    if again:
        yield f"DRAM traffic above the least: {', '.join(again)}."
    reads = dict.fromkeys(f"{row.cache_reads:.2f}" for row in results)
    if len(reads) == 1:
        yield f"The cache is read {_times(next(iter(reads)))}."
    else:
        told = (f"{name(row)} {_times(f'{row.cache_reads:.2f}')}" for row in results)
        yield f"The cache is read: {', '.join(told)}."
    yield from (_segments(name(row), row.passes) for row in results if row.passes)


def _segments(name: str, segments: Sequence[SegmentResult]) -> str:
    """Say how a layer is cut into segments."""

    def told(entry: SegmentResult) -> str:
        first, last = entry.operators[0], entry.operators[-1]
        what = first if first == last else f"{first} to {last}"
        sizes = ", ".join(f"{index}={size}" for index, size in entry.sizes.items())
        often = f"{entry.times} times{f' with {sizes} each' if sizes else ''}, " if entry.times > 1 else ""
        return f"{what} {often}{entry.latency_cycles:,} cycles"

    return (
        f"{name} has too many tiles to be scheduled as a whole. It runs in segments, one after the other, and its gap "
        f"is that of schedules in these segments: {'; '.join(told(entry) for entry in segments)}."
    )


def _times(count: str) -> str:
    return {"1.00": "once", "2.00": "twice"}.get(count, f"{count.removesuffix('.00')} times")


def _extra_traffic(row: Result) -> str:
    """Say how much is moved beyond the minimum."""
    extra = {
        "re-read": row.dram_read_bytes - row.dram_minimum_read_bytes,
        "written": row.dram_write_bytes - row.dram_minimum_write_bytes,
    }
    found = {what: size for what, size in extra.items() if size >= PREFIX_BYTES}
    return " and ".join(f"+{with_prefix(size, 'B')} {what}" for what, size in found.items())
