"""The shipped accelerators: each schedules a layer, computes what its maker says, and has a source for every number."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stream_mla.errors import SpecError
from stream_mla.evaluation import evaluate
from stream_mla.frontends.catalog import accelerator_names, load_accelerator, load_model
from stream_mla.hardware.accelerator import Accelerator
from stream_mla.hardware.interconnect import OFF_CHIP, find_routes
from stream_mla.point import Point
from stream_mla.schedule.checker import violations
from stream_mla.solvers import tiling_search
from stream_mla.workload.spec import Precision, Workload
from tests.helpers import point_of

FOLDER = Path(__file__).parents[2] / "accelerators"
MANY_CORES = ("a100", "h100", "h200", "b200", "mi300x")
"""Above a hundred, where DeepSeek-V3 takes tens of seconds."""


def _point(accelerator: Accelerator, model: str, cached_tokens: int) -> Point:
    workload = Workload(
        model=load_model(model),
        batch=1,
        query_tokens=1,
        cached_tokens=cached_tokens,
        precision=Precision(weights=8, cache=8, activations=8, partials=32),
    )
    return point_of(workload, accelerator, "mla_absorbed", gap_limit=1)


@pytest.mark.parametrize("name", [name for name in accelerator_names() if name != "h800"])
def test_a_shipped_accelerator_schedules_a_layer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling_search, "ENOUGH_STEPS", 1)  # the first tiling that fits will do
    accelerator = load_accelerator(name)
    outcome = evaluate(
        _point(accelerator, *(("deepseek_v2_lite", 128) if name in MANY_CORES else ("deepseek_v3", 1024)))
    )
    result = outcome.result

    assert violations(outcome.problem, outcome.schedule) == []
    assert result.ideal_cycles <= result.lower_bound_cycles <= result.latency_cycles
    # small layers on many cores wait for latencies, but no port or path throttles a machine by mistake
    assert result.latency_cycles <= 6 * result.ideal_cycles


def test_an_h800_schedules_as_an_h100() -> None:
    h100, h800 = load_accelerator("h100"), load_accelerator("h800")

    assert replace(h800, name=h100.name, source=h100.source) == h100


def test_simba_is_fed_column_by_column() -> None:
    _, routes = find_routes(load_accelerator("simba_mesh"))
    far = routes[OFF_CHIP, 35]

    down = ("5]-chiplet[11", "11]-chiplet[17", "17]-chiplet[23", "23]-chiplet[29", "29]-chiplet[35")
    assert far.links == ("dram_5", *(f"nop:chiplet[{pair}]" for pair in down))
    assert far.latency_cycles == 576  # (200 + 6 x 20 ns) x 1.8 GHz
    assert far.energy_pj_per_bit == 10.5  # 6 x 1.75
    assert (far.demand, far.grid) == (555_555, 10_000)  # 12.5 GB/s / 1.8 GHz = 55.6 bit per cycle
    assert len(routes[0, 35].links) == 10


def _peak_tops(accelerator: Accelerator, operand_bits: int) -> float:
    """Return 10^12 operations per second over all arrays, 2 per MAC."""
    arrays = [core.type.array for core in accelerator.array_cores() if core.type.array is not None]
    entries = [(array.elements, array.precision(operand_bits)) for array in arrays]
    return sum(n * entry.macs_per_element for n, entry in entries if entry) * accelerator.clock * 2 / 1e12


@pytest.mark.parametrize(
    ("name", "tops_8_bit", "tops_16_bit", "gigabytes_per_second"),
    [  # dense, as the makers publish them
        ("a100", 624, 312, 2039),
        ("h100", 1979, 989.4, 3350),
        ("h200", 1979, 989.4, 4800),
        ("b200", 4500, 2250, 8000),
        ("mi300x", 2614.9, 1307.4, 5300),
        ("tpu_v4i", 138, 138, 614),
        ("tpu_v7_ironwood", 2 * 4614, 2 * 2307, 4 * 3690),
        ("google_edge_tpu", 4, 0, 40),
        ("apple_a17_pro", 35, 17.5, 60),
    ],
)
def test_peaks_are_those_of_the_datasheets(
    name: str, tops_8_bit: float, tops_16_bit: float, gigabytes_per_second: float
) -> None:
    accelerator = load_accelerator(name)
    peaks = [_peak_tops(accelerator, bits) for bits in (8, 16)]

    assert peaks == pytest.approx([tops_8_bit, tops_16_bit], rel=3e-3)
    assert accelerator.dram.bandwidth / 8e9 == pytest.approx(gigabytes_per_second, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "operand_bits", "corner", "tolerance"),
    [
        ("google_edge_tpu", 8, 100, 1e-9),
        ("a100", 16, 156, 0.02),  # the letter: 312 / 2.0; the datasheet of the 80 GB card: 312 / 2.039
        ("h800", 16, 295.22, 1e-3),
        ("apple_a17_pro", 8, 583.33, 1e-3),
    ],
)
def test_corners_are_those_of_the_letters_fig_4(name: str, operand_bits: int, corner: float, tolerance: float) -> None:
    accelerator = load_accelerator(name)
    operations_per_byte = _peak_tops(accelerator, operand_bits) * 1e12 / (accelerator.dram.bandwidth / 8)

    assert operations_per_byte == pytest.approx(corner, rel=tolerance)


@pytest.mark.parametrize("name", ["google_edge_tpu", "simba_mesh"])
def test_machines_of_8_bit_refuse_16_bit(name: str) -> None:
    point = _point(load_accelerator(name), "deepseek_v3", 1024)
    wide = replace(point, workload=replace(point.workload, precision=replace(point.workload.precision, weights=16)))

    with pytest.raises(SpecError) as caught:
        evaluate(wide)
    problem = "q_latent multiplies x (8 bit) x w_dq (16 bit), the widest array does 8 bit: set --bits"
    assert caught.value.problems[0] == problem


def _unsourced(text: str) -> Iterator[str]:
    """Yield the lines with a number that has no comment: on its line, or above it with nothing but numbers between.

    A name may contain digits; what a source is called is text.
    """
    covered, text_below = False, -1
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if text_below >= 0 and indent > text_below:
            continue
        text_below = -1
        data, _, comment = re.sub(r'"[^"]*"', "text", line).partition("#")
        if data.lstrip().startswith("source:"):
            text_below = indent
        elif not data.strip():
            covered = bool(comment.strip())
        elif re.search(r"(?<![\w./\[])[0-9]", data):
            if not comment.strip() and not covered:
                yield line
            covered = covered and not comment.strip()
        elif data.strip().endswith(":"):
            covered = False


@pytest.mark.parametrize("file", sorted(FOLDER.rglob("*.yaml")), ids=lambda file: file.stem)
def test_every_number_has_its_source_beside_it(file: Path) -> None:
    assert list(_unsourced(file.read_text())) == []


def test_a_number_without_source_is_found() -> None:
    text = """\
name: m3
source: >-
  Paper of 1999
clock: 1 GHz
# one figure for both
a: 1
b: 2
c: 3  # its own
d: 4
part:
  e: 5
  # source of the list
  list:
  - {f: 6}
"""
    assert list(_unsourced(text)) == ["clock: 1 GHz", "d: 4", "  e: 5", "  - {f: 6}"]
