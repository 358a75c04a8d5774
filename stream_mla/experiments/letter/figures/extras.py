"""This module is about what the letter leaves out: prefetch, two more schemes, RoPE and 16 bit."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from stream_mla.experiments.letter.figures import energy
from stream_mla.experiments.letter.figures.scheduled import Sweep
from stream_mla.experiments.letter.machine import compute_grid, compute_per_bandwidth, machine
from stream_mla.experiments.letter.rows import Row
from stream_mla.experiments.letter.runs import Measured, Run
from stream_mla.experiments.letter.setup import LETTER_SERIES, MLA, Step
from stream_mla.hardware.accelerator import Accelerator, OperandPrecision

SCHEMES = ("mla_naive", "mla_absorbed", "mla_rc", "mla_ru")
ALL_SERIES = (*LETTER_SERIES, "mla_naive", "mla_absorbed")

FREE = Sweep(figure="extra_fig5_free", series=LETTER_SERIES, policy="free", fetches_w_uv=True)
"""a: the machines of Fig 5 with prefetch across heads and the scheduler's freedom; W_uv is read."""
WITH_W_UV = Sweep(
    figure="extra_fig5_w_uv", series=("mla_rc", "mla_ru"), policy="letter", fetches_w_uv=True, contexts=(1024,)
)
"""The letter's policy with W_uv read: what leaving it out is worth, and what `FREE` is to be compared with."""
FOUR_SCHEMES = Sweep(
    figure="extra_fig5_schemes",
    series=SCHEMES,
    policy="free",
    fetches_w_uv=True,
    contexts=(1024, 4096),
    panel="policy free, W_uv read",
)
"""b: all four schemes of MLA, free."""
THREE_SCHEMES = Sweep(
    figure="extra_fig5_schemes",
    series=("mla_absorbed", "mla_rc", "mla_ru"),
    policy="letter",
    fetches_w_uv=False,
    contexts=(1024, 4096),
    panel="policy letter, W_uv not read",
)
"""b: three of them under the letter's policy. (mla_naive is only run free: it takes a minute a point
to find tilings of it that idle as the policy says.)"""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """d: what Fig 5 would be with other numbers of the model."""

    name: str
    model: str
    bits: int

    def machine(self, macs: int) -> Accelerator:
        """Return a machine of Fig 5 whose elements do one product of the setting's width per cycle.

        A product of 16 bit takes four times the energy of one of 8 bit (as in `flat_cloud`).
        """
        base = machine(macs)
        (core,) = base.cores
        array = core.type.array
        assert array is not None
        mac_energy = next(entry.mac_energy for entry in array.precisions if entry.operand == self.bits)
        rate = OperandPrecision(operand=self.bits, macs_per_element=1, mac_energy=mac_energy)
        return replace(base, cores=(replace(core, type=replace(core.type, array=replace(array, precisions=(rate,)))),))

    def run(self, series: str, macs: int) -> Run:
        """Return the run of one point, free, at L = 1024."""
        step = Step(series=series, context=1024, model=self.model, bits=self.bits)
        return Run(step=step, accelerator=self.machine(macs), policy="free")


SETTINGS = (
    Setting(name="letter: no RoPE, 8 bit", model=MLA, bits=8),
    Setting(name="RoPE, 8 bit", model="deepseek_v3", bits=8),
    Setting(name="no RoPE, 16 bit", model=MLA, bits=16),
    Setting(name="RoPE, 16 bit", model="deepseek_v3", bits=16),
)
SETTING_GRID = (*compute_grid()[:8], *compute_grid()[8::4])
"""MACs of d: dense where the curves cross, every fourth beyond."""
SETTING_SERIES = ("mha_scaled", "mla_rc", "mla_ru", "mla_absorbed")


def setting_points() -> dict[tuple[str, str, int], Run]:
    """Return the runs of all settings, by setting, series and MACs."""
    return {
        (setting.name, series, macs): setting.run(series, macs)
        for setting in SETTINGS
        for series in SETTING_SERIES
        for macs in SETTING_GRID
    }


def setting_rows(results: Mapping[Run, Measured]) -> list[Row]:
    """Throughput of each scheme over that of mla_ru, per setting."""
    points = setting_points()
    return [
        Row(
            figure="extra_rope_bits",
            panel="throughput over mla_ru",
            series=series,
            variant=name,
            x=compute_per_bandwidth(macs),
            y=results[points[name, "mla_ru", macs]].latency_s / results[run].latency_s,
        )
        for (name, series, macs), run in points.items()
    ]


def energy_runs() -> dict[tuple[str, int], Run]:
    """Return the runs of Fig 6 with all schemes, free, W_uv read."""
    return energy.runs(ALL_SERIES, policy="free", fetches_w_uv=True)


def all_runs() -> Iterator[Run]:
    """Yield every run that the extras need, of which many are the same."""
    sweeps: Sequence[Sweep] = (FREE, WITH_W_UV, FOUR_SCHEMES, THREE_SCHEMES)
    for sweep in sweeps:
        yield from sweep.points(compute_grid()).values()
    yield from setting_points().values()
    yield from energy_runs().values()
