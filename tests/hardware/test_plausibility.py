"""Unlikely figures of a machine are noted."""

from dataclasses import replace

import pytest

from stream_mla.frontends.catalog import load_accelerator
from stream_mla.hardware.plausibility import accelerator_notes, estimated_pj_per_bit
from tests.helpers import core_type, machine

MIB = 8 * 2**20


@pytest.mark.parametrize(
    ("megabytes", "read", "write"),
    [
        (4, 0.249, 0.293),  # TPU v4i, as published
        (128, 1.88, 2.36),
        (32, 0.8366, 1.0395),  # 0.249 x 8^0.58326 = 0.249 x 3.3637; 0.293 x 8^0.60197 = 0.293 x 3.4971 (ln 8 = 2.0794)
    ],
)
def test_the_estimate_goes_through_what_is_published(megabytes: int, read: float, write: float) -> None:
    bits = megabytes * 8 * 10**6
    assert estimated_pj_per_bit(bits, "read") == pytest.approx(read, rel=0.02)
    assert estimated_pj_per_bit(bits, "write") == pytest.approx(write, rel=0.02)


@pytest.mark.parametrize(("mib", "noted"), [(1, True), (4, True), (32, False), (1024, True)])
def test_one_picojoule_does_not_fit_every_size(mib: int, noted: bool) -> None:
    kind = core_type(sram_bits=mib * MIB)
    kind = replace(kind, sram=replace(kind.sram, read_energy=1.0, write_energy=1.0))
    assert bool(accelerator_notes(machine(kind, kind))) is noted


def test_the_note_says_figure_estimate_and_source() -> None:
    assert accelerator_notes(load_accelerator("fusemax")) == (
        "the SRAM of fusemax_core (2 MiB) reads at 1 and writes at 1 pJ/bit, where its size suggests about 0.17 and "
        "0.2 (7 nm, from the memories of TPU v4i in AccelForge): energies of SRAM may be off by as much",
    )
    assert accelerator_notes(load_accelerator("tpu_v4i")) == ()
