"""Figures of a machine that are possible but unlikely: noted beside results, never refused.

The energy of an SRAM grows with its size, as bit lines and the wires between banks grow with its edge. Between the two
memories of TPU v4i (7 nm; examples/arches/tpu_v4i.yaml of AccelForge 1.0.467), 4 MB at 0.249 and 0.293 pJ/bit and
128 MB at 1.88 and 2.36 pJ/bit (reading, writing), it grows with the power 0.58 and 0.60 of the capacity: a little more
than the square root that CACTI's wires give. That power carries the estimate to other sizes.
"""

import math

from stream_mla.hardware.accelerator import Accelerator, CoreType

BYTE = 8
SMALL_BITS, LARGE_BITS = 4 * 10**6 * BYTE, 128 * 10**6 * BYTE
PUBLISHED = {"read": (0.249, 1.88), "write": (0.293, 2.36)}
"""The energy per bit in pJ of TPU v4i's 4 MB and 128 MB, see above."""
FACTOR = 3.0
"""An energy this many times the estimate, or less than the estimate over this, is noted: processes from 3 to 16 nm, and
wide or narrow banks, make less of a difference than that."""


def estimated_pj_per_bit(capacity_bits: int, way: str) -> float:
    """Return the energy of reading or writing (`way`) one bit of an SRAM in 7 nm."""
    small, large = PUBLISHED[way]
    power = math.log(large / small) / math.log(LARGE_BITS / SMALL_BITS)
    return small * (capacity_bits / SMALL_BITS) ** power


def accelerator_notes(accelerator: Accelerator) -> tuple[str, ...]:
    """Return what a reader of results should know of the machine's figures, one sentence for each type of core."""
    types = {core.type.name: core.type for core in accelerator.cores}
    return tuple(note for kind in types.values() if (note := core_note(kind)))


def core_note(kind: CoreType) -> str:
    """Return what is unlikely of a type of core; empty where nothing is."""
    given = {"read": kind.sram.read_energy, "write": kind.sram.write_energy}
    estimates = {way: estimated_pj_per_bit(kind.sram.capacity, way) for way in given}
    if all(estimates[way] / FACTOR <= given[way] <= estimates[way] * FACTOR for way in given):
        return ""
    size, given_read, given_write = kind.sram.capacity / BYTE / 2**20, given["read"], given["write"]
    return (
        f"the SRAM of {kind.name} ({size:.3g} MiB) reads at {given_read:.3g} and writes at {given_write:.3g} pJ/bit, "
        f"where its size suggests about {estimates['read']:.2g} and {estimates['write']:.2g} (7 nm, from the memories "
        "of TPU v4i in AccelForge): energies of SRAM may be off by as much"
    )
