"""The letter's machine of Fig 5: one array of P MACs, one vector unit, one memory, 400 GB/s.

Everything but the array and the bandwidth of the memory is that of the shipped `flat_cloud`. The letter states no
such bandwidth, and the memory never bounds its points: a product with one query row occupies all MACs only if each
gets a weight per cycle. So the memory reads and writes a byte per MAC and cycle where that is more than flat_cloud's.

The letter gives x = peak operations per second over
DRAM bandwidth, with one operation per MAC; its points lie at x = P / 400 for a clock of 1 GHz.

The letter does not say which array of rows x columns has P MACs. The steps of its mla_rc curve do: above what all
other bytes take, a step lasts 128 heads x ceil(1536 / rows) ceil(512 / columns) x 128 cycles. One rule gives the
number of tiles of all 41 points:

1. a P within 5 % of a power of two is taken for that power of two: 2^n = 2^ceil(n/2) x 2^floor(n/2);
2. else the most square pair of factors of P, if it is not longer than 3 : 1;
3. else the largest square in P.

The longer side lies along the 1536. The points leave some room: for 5 %, anything from 4.1 % to 5.9 % (136,365 is
taken for 131,072, 277,771 is not taken for 262,144); for 3 : 1, anything from 2.47 to 3.01 (202,909 = 707 x 287 is
used, 11,594 = 187 x 62 is not).
"""

from dataclasses import replace
from functools import cache
from math import isqrt

import numpy as np

from stream_mla.frontends.catalog import load_accelerator
from stream_mla.hardware.accelerator import Accelerator

SNAP = 0.05
"""A number of MACs this close to a power of two is taken for it."""
LONGEST = 3
"""The most elongated pair of factors that is used."""
BASELINE_MACS = 256 * 256
"""The machine to which Fig 5 is normalised has so many MACs: an array of 256 x 256."""


def compute_grid() -> list[int]:
    """Return the MACs of the 41 machines of Fig 5: 40 evenly spaced, and the baseline."""
    return sorted({*(int(macs) for macs in np.linspace(3276.8, 327680, 40)), BASELINE_MACS})


def array_shape(macs: int) -> tuple[int, int]:
    """Return rows and columns of an array of about `macs` MACs."""
    exponent = round(np.log2(macs))
    if abs(macs / 2**exponent - 1) <= SNAP:
        return 2 ** (exponent - exponent // 2), 2 ** (exponent // 2)
    side = isqrt(macs)
    columns = next(width for width in range(side, 0, -1) if macs % width == 0)
    rows = macs // columns
    return (rows, columns) if rows <= LONGEST * columns else (side, side)


@cache
def _flat_cloud() -> Accelerator:
    return load_accelerator("flat_cloud")


@cache
def machine(macs: int) -> Accelerator:
    """Return the letter's machine with an array of about `macs` MACs."""
    base = _flat_cloud()
    (core,) = base.cores
    rows, columns = array_shape(macs)
    assert core.type.array is not None
    array = replace(core.type.array, rows=rows, columns=columns)
    bandwidth = max(core.type.sram.read_bandwidth, 8.0 * rows * columns)
    sram = replace(core.type.sram, read_bandwidth=bandwidth, write_bandwidth=bandwidth)
    kind = replace(core.type, name=f"letter_{rows}x{columns}_core", array=array, sram=sram)
    return replace(base, name=f"letter_{rows}x{columns}", cores=(replace(core, type=kind),))


def compute_per_bandwidth(macs: int) -> float:
    """Return x of Fig 5, in operations per byte with one operation per MAC."""
    return macs * _flat_cloud().clock / (_flat_cloud().dram.bandwidth / 8)
