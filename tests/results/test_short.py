"""How results print: a short table, one line, and HTML."""

from dataclasses import replace

import pytest

from stream_mla import Point, evaluate
from stream_mla.results.outcome import Outcome
from stream_mla.results.result import Result, SegmentResult, Status
from stream_mla.results.short import step


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    """Return the outcome of a small layer, with every value that is shown set by hand."""
    found = evaluate(Point.of("llama_3_8b", "flat_cloud", context=64, time_limit=0))
    return replace(
        found,
        result=replace(
            found.result,
            model="llama_3_8b",
            scheme="mha",
            accelerator="flat_cloud",
            batch=2,
            query_tokens=1,
            cached_tokens=4096,
            latency_cycles=500_000,
            latency_s=5e-4,
            energy_pj=3.2e10,
            energy_lower_bound_pj=3e10,
            macs=13_710_000_000,
            dram_read_bytes=199e6,
            dram_write_bytes=1e6,
            dram_minimum_read_bytes=189e6,
            dram_minimum_write_bytes=1e6,
            mac_utilization=0.4375,
            bottleneck="dram",
            bottleneck_share=0.99,
            lower_bound_cycles=495_000,
            binding_bound="dram_bus",
            gap=0.01,
            status=Status.FEASIBLE,
            scheduler="greedy",
            tiles=1234,
        ),
    )


TABLE = """\
llama_3_8b mha on flat_cloud
  step     decode of 1 token, 4,096 cached, batch 2
  latency  500,000 cycles, 500.0 us
  energy   32.00 mJ
  DRAM     200.0 MB, 1.05 x the least
  MACs     13.71 G, 43.8 % of what the arrays could do
  binds    dram, busy 99.0 % of the time
  bound    495,000 cycles, by dram_bus
  gap      1.00 % of the latency, to the best of this tiling
  status   feasible, found by greedy, 1,234 tiles"""


def html(value: Outcome | Result) -> str:
    """Return what a notebook shows, by the name under which it looks for it."""
    return getattr(value, "_repr_html_")()  # noqa: B009


def test_results_and_outcomes_print_as_a_short_table(outcome: Outcome):
    assert str(outcome) == str(outcome.result) == TABLE
    said = "llama_3_8b mha on flat_cloud: 500,000 cycles, 32.00 mJ, gap 1.00 %, feasible"
    assert repr(outcome) == f"<Outcome {said}>"
    assert repr(outcome.result) == f"<Result {said}>"


def test_energy_is_shown_beside_its_own_bound(outcome: Outcome):
    lines = str(replace(outcome.result, objective="energy", gap=0.0625)).splitlines()
    assert lines[7:9] == ["  bound    30.00 mJ", "  gap      6.25 % of the energy, to the best of this tiling"]


def test_passes_are_counted(outcome: Outcome):
    entry = SegmentResult(
        operators=("q",), sizes={}, times=2, latency_cycles=1, lower_bound_cycles=1, tiles=1, bottleneck="dram"
    )
    assert str(replace(outcome.result, passes=(entry, entry))).endswith("1,234 tiles in 2 passes")


def test_notebooks_get_the_same_with_what_it_says_escaped(outcome: Outcome):
    shown = html(outcome)
    assert shown == html(outcome.result)
    assert shown.startswith("<table><caption>llama_3_8b mha on flat_cloud</caption><tr><th ")
    assert shown.count("<tr>") == len(TABLE.splitlines()) - 1
    hostile = html(replace(outcome.result, model="<script>", bottleneck='a"b&c'))
    assert "<caption>&lt;script&gt; mha on flat_cloud</caption>" in hostile
    assert "a&quot;b&amp;c, busy" in hostile
    assert "<script>" not in hostile


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((1, 4096, 1), "decode of 1 token, 4,096 cached"),
        ((4, 16, 2), "decode of 4 tokens, 16 cached, batch 2"),
        ((2048, 0, 1), "prefill of 2,048 tokens"),
    ],
)
def test_steps_in_words(counts: tuple[int, int, int], words: str):
    assert step(*counts) == words
