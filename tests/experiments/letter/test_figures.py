"""Every curve of figures 2 to 6 against the published points (stream_mla/letter/points.csv)."""

from dataclasses import replace
from functools import lru_cache
from math import isclose

import pytest

from stream_mla.experiments.letter.figures.counted import AS_DRAWN, figure2, figure3, figure4
from stream_mla.experiments.letter.figures.energy import figure6
from stream_mla.experiments.letter.figures.energy import runs as energy_runs
from stream_mla.experiments.letter.figures.scheduled import FIGURE, baseline, figure5
from stream_mla.experiments.letter.machine import (
    BASELINE_MACS,
    array_shape,
    compute_grid,
    compute_per_bandwidth,
    machine,
)
from stream_mla.experiments.letter.rows import Curve, Row, curves, deviations, published
from stream_mla.experiments.letter.runs import Measured, Run, Store, measure_all
from stream_mla.experiments.letter.setup import LETTER_SERIES, Step, dram_bytes
from stream_mla.experiments.letter.text.conclusions import (
    LEVEL,
    at_platforms,
    crossing,
    energy_crossing,
    throughput_crossings,
)

COUNTED = {"2": figure2, "3": figure3, "4": figure4}
SOME = [3276, 61503, 65536, 244499, 252817]
"""MACs of the machines of Fig 5 that the tests schedule: the smallest, and the neighbours of both crossovers."""

AT_1024 = replace(FIGURE, contexts=(1024,))


@lru_cache
def counted(figure: str) -> list[Row]:
    return COUNTED[figure]()


def names(*figures: str) -> list[Curve]:
    return sorted({row.curve for figure in figures for row in published(figure)})


@pytest.fixture(scope="module")
def results() -> dict[Run, Measured]:
    runs = [baseline(), *AT_1024.points(SOME).values(), *energy_runs(contexts=[1024]).values()]
    return measure_all(runs, Store(None), 1, lambda _: None)


@pytest.mark.parametrize("curve", names("2", "3", "4"), ids=lambda curve: f"{curve.panel} {curve.label}")
def test_counted_curves_lie_on_the_published_points(curve: Curve) -> None:
    off = deviations(counted(curve.figure), curve.figure)[curve]

    # the letter's path of the prefill operations of Fig 3 is simplified
    assert off.largest < (1e-2 if curve.panel == "prefill operations" else 1e-3)


def test_a_curve_that_is_missing_is_infinitely_far() -> None:
    rows = [row for row in published("6") if row.series != "mla_rc"]

    far = {curve.series: off.largest for curve, off in deviations(rows, "6").items()}
    assert far == {"mha_large": 0, "mha_scaled": 0, "mla_rc": float("inf"), "mla_ru": 0}


def test_the_two_curves_of_figure_2_that_are_drawn_otherwise() -> None:
    last = {(curve.series, curve.variant): y[-1] for curve, (_, y) in curves(counted("2")).items()}

    # counted at L = 3951: B (33,554,432 + 65,536 x 3952)
    assert last["1-2-3 counted", "B1"] == 33_554_432 + 65_536 * 3952
    assert last["1-2-3 counted", "B16"] == 16 * last["1-2-3 counted", "B1"]
    # as drawn: 25,165,824 + 2^30 + 8,388,608 x 3952
    assert last["1-2-3", "B1"] == 25_165_824 + 2**30 + 8_388_608 * 3952
    # 100,663,296 MACs of query and composite for each request but the first
    assert last["2-1-3 counted", "B1"] == last["2-1-3", "B1"]
    assert last["2-1-3 counted", "B16"] - last["2-1-3", "B16"] == 15 * 100_663_296


def test_the_grid_of_figure_5_is_the_published_one() -> None:
    x = [compute_per_bandwidth(macs) for macs in compute_grid()]
    theirs = [row.x for row in published("5") if row.series == "mla_rc"]

    assert len(x) == len(theirs) == 41
    assert all(isclose(mine, other, rel_tol=1e-4) for mine, other in zip(x, theirs, strict=True))


@pytest.mark.parametrize(
    ("macs", "shape"),
    [
        (3276, (63, 52)),  # the most square factors
        (53_184, (277, 192)),
        (202_909, (707, 287)),  # 2.46 : 1
        (11_594, (107, 107)),  # 187 x 62 would be 3.02 : 1
        (69_821, (264, 264)),  # a prime 6.5 % above 2^16
        (128_047, (512, 256)),  # 2.3 % below 2^17
        (277_771, (527, 527)),  # 5.96 % above 2^18
        (252_817, (512, 512)),  # 3.6 % below 2^18
    ],
)
def test_the_shape_of_an_array(macs: int, shape: tuple[int, int]) -> None:
    assert array_shape(macs) == shape


def test_the_rule_of_shapes_explains_every_step_of_mla_rc() -> None:
    """T = bytes / 400 + 128 heads x tiles x 128 cycles + attention, W_uv and W_uk left out of the bytes."""
    unit = dram_bytes(Step(series="mha_large", context=1024).graph) / 400
    rest = (dram_bytes(Step(series="mla_rc", context=1024).graph) - 2 * 8_388_608) / 400
    off: list[float] = []
    for macs, row in zip(compute_grid(), (row for row in published("5") if row.series == "mla_rc"), strict=True):
        rows, columns = array_shape(macs)
        tiles = -(-1536 // rows) * -(-512 // columns)
        cycles = rest + 128 * tiles * 128 + 2 * 128 * 512 * 1025 / macs
        off.append(abs(unit / cycles / row.y - 1))

    assert max(off) < 0.005  # a tile more or less is 0.8 % or more
    assert sum(off) / len(off) < 0.002


def test_the_machine_differs_from_flat_cloud_in_its_array_only() -> None:
    (core,) = machine(BASELINE_MACS).cores

    assert core.type.array is not None
    assert (core.type.array.rows, core.type.array.columns) == (256, 256)
    assert core.type.sram.read_bandwidth == 8 * 65_536  # a byte per MAC; flat_cloud has 8000 B per cycle
    assert machine(3276).cores[0].type.sram.read_bandwidth == 8 * 8000


@pytest.mark.parametrize("series", LETTER_SERIES)
def test_scheduled_throughput_lies_near_the_published_points(series: str, results: dict[Run, Measured]) -> None:
    theirs = [row.y for row in published("5") if row.series == series]
    ours = {row.x: row.y for row in figure5(AT_1024, results, SOME) if row.series == series}
    off = [
        abs(ours[compute_per_bandwidth(macs)] / theirs[number] - 1)
        for number, macs in enumerate(compute_grid())
        if macs in SOME
    ]

    assert len(off) == len(SOME)
    assert sum(off) / len(off) < 0.03
    assert max(off) < 0.07


def test_the_crossovers_lie_within_a_grid_step(results: dict[Run, Measured]) -> None:
    level, passes = throughput_crossings(figure5(AT_1024, results, SOME), "L1024")

    assert throughput_crossings(published("5"), "L1024") == pytest.approx((162.3, 619.3), rel=1e-3)
    assert level is not None
    assert passes is not None
    assert 153.8 < level <= 163.84  # the step before the baseline
    assert 611.2 < passes <= 632.1


@pytest.mark.parametrize("series", LETTER_SERIES)
def test_energy_lies_near_the_published_points(series: str, results: dict[Run, Measured]) -> None:
    off = deviations(figure6(results, energy_runs(contexts=[1024])), "6")

    found = {curve.series: deviation.mean for curve, deviation in off.items()}
    assert found[series] < 0.005  # 3 % are asked


def test_energies_of_the_mla_schemes_cross_at_3_tops_per_watt(results: dict[Run, Measured]) -> None:
    assert energy_crossing(published("6"), "L1024") == pytest.approx(3.0, rel=0.01)
    assert energy_crossing(figure6(results, energy_runs(contexts=[1024])), "L1024") == pytest.approx(3.0, rel=0.02)


def test_the_published_curves_at_the_platforms() -> None:
    found = {place.platform: place for place in at_platforms(published("5"), "L1024", AS_DRAWN)}

    # facts read off the published figure: ru / rc 1.38 and 1.18, rc / ru 1.06 and 1.17
    assert 1 / found["Edge TPU"].rc_over_ru == pytest.approx(1.38, abs=0.005)
    assert 1 / found["A100"].rc_over_ru == pytest.approx(1.18, abs=0.005)
    assert found["H800"].rc_over_ru == pytest.approx(1.06, abs=0.005)
    assert found["A17 Pro"].rc_over_ru == pytest.approx(1.17, abs=0.005)
    assert [place.best for place in found.values()] == ["mha_scaled"] * 4


def test_crossing() -> None:
    line = [0.0, 1.0, 2.0, 3.0], [0.0, 2.0, 1.0, 4.0]

    assert crossing(line, [1.0, 1.0, 2.0, 2.0]) == 2 + 1 / 3  # ahead at 1, behind at 2 by 1, ahead at 3 by 2
    assert crossing(line, [1.0, 1.0, 1.0, 1.0]) == 0.5
    assert crossing(line, [0.0, 0.0, 0.0, 0.0]) == 0.0
    assert crossing(line, [1.0, 1.0, 1.0, 5.0]) is None
    assert crossing(line, [1.0, 1.0, 1.0, 4.1], LEVEL) == pytest.approx(0.97 / 2)
