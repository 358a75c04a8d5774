"""Every number of a machine moves latency, energy, memory or what is feasible: a field without effect misleads."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from math import fsum
from typing import cast

import pytest

from stream_mla.errors import InfeasibleError, NoScheduleError, StreamMlaError
from stream_mla.evaluation import evaluate
from stream_mla.hardware.accelerator import Accelerator, Core, Dram, Link, OperandPrecision, Sram
from stream_mla.hardware.core_cost import Objective
from stream_mla.mapping.tiling.tiler import tile
from stream_mla.schedule.checker import violations
from stream_mla.schedule.problem import price
from stream_mla.schedule.schedule import energy_parts_pj, peak_sram_bits
from stream_mla.solvers.list_scheduling.greedy import greedy
from stream_mla.workload.lowering.attention import lower
from tests.helpers import bus, core_type, latent, machine, point_of, uncut, wire, workload


def _base() -> Accelerator:
    """Two cores on a bus with narrow ports and a wire between them; every bandwidth binds somewhere."""
    sram = Sram(capacity=4096, read_bandwidth=24, write_bandwidth=16, read_energy=1.0, write_energy=2.0)
    kind = replace(core_type(), sram=sram)
    links = [bus("dram", "core0", "core1", bandwidth=20, port=12, latency=2), wire("core0", "core1", latency=2)]
    return machine(kind, kind, links=links, bandwidth=16, latency=3)


STEP = workload(latent(heads=4))


@cache
def _outcome(accelerator: Accelerator) -> object:
    """Seconds, energy and peak of one layer cut by hand; or why there is no schedule."""
    graph = lower(STEP, "mla_rc")
    heads = ("composite", "query_absorbed", "scores", "softmax", "attend", "merge", "head_out")
    tiling = replace(uncut(graph.local), sizes={name: {"h": 1} for name in heads})
    try:
        problem = price(tile(graph, tiling), accelerator, Objective.LATENCY)
        schedule = greedy(problem)
    except (ValueError, InfeasibleError, NoScheduleError) as error:
        return str(error)
    assert violations(problem, schedule) == []
    seconds = schedule.latency_cycles / accelerator.clock
    energy = fsum(energy_parts_pj(problem, schedule).values())
    return seconds, energy, peak_sram_bits(problem, schedule)


def _evaluated(accelerator: Accelerator) -> object:
    """The same of the cut that `evaluate` chooses, which also looks at the capacity of the DRAM."""
    point = point_of(STEP, accelerator, "mla_rc")
    try:
        result = evaluate(point).result
    except StreamMlaError as error:
        return str(error)
    return result.latency_s, result.energy_pj


@dataclass(frozen=True)
class Part:
    """A dataclass inside a machine, and how to change one of its numbers."""

    name: str
    get: Callable[[Accelerator], object]
    put: Callable[[Accelerator, object], Accelerator]


def _with_type(accelerator: Accelerator, **parts: object) -> Accelerator:
    kind = replace(accelerator.cores[0].type, **parts)  # pyright: ignore[reportArgumentType]
    return replace(accelerator, cores=tuple(Core(name=core.name, type=kind) for core in accelerator.cores))


def _with_link(accelerator: Accelerator, number: int, link: object) -> Accelerator:
    assert isinstance(link, Link)
    links = list(accelerator.links)
    links[number] = link
    return replace(accelerator, links=tuple(links))


def _with_precision(accelerator: Accelerator, precision: object) -> Accelerator:
    assert isinstance(precision, OperandPrecision)
    array = accelerator.cores[0].type.array
    assert array is not None
    return _with_type(accelerator, array=replace(array, precisions=(precision,)))


def _with_dram(accelerator: Accelerator, dram: object) -> Accelerator:
    assert isinstance(dram, Dram)
    return replace(accelerator, dram=dram)


def _precision(accelerator: Accelerator) -> OperandPrecision:
    array = accelerator.cores[0].type.array
    assert array is not None
    return array.precisions[0]


PARTS = [
    Part("accelerator", lambda a: a, lambda _, new: new if isinstance(new, Accelerator) else _base()),
    Part("dram", lambda a: a.dram, _with_dram),
    Part("bus", lambda a: a.links[0], lambda a, new: _with_link(a, 0, new)),
    Part("wire", lambda a: a.links[1], lambda a, new: _with_link(a, 1, new)),
    Part("sram", lambda a: a.cores[0].type.sram, lambda a, new: _with_type(a, sram=new)),
    Part("vector", lambda a: a.cores[0].type.vector, lambda a, new: _with_type(a, vector=new)),
    Part("registers", lambda a: a.cores[0].type.registers, lambda a, new: _with_type(a, registers=new)),
    Part("array", lambda a: a.cores[0].type.array, lambda a, new: _with_type(a, array=new)),
    Part("precision", _precision, _with_precision),
]
"""Every dataclass of a machine that has numbers."""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _with(owner: object, name: str, value: float) -> object:
    return cast(object, replace(owner, **{name: value}))  # pyright: ignore[reportArgumentType]


def _value(owner: object, name: str) -> object:
    return getattr(owner, name)


def _numeric_fields() -> list[tuple[Part, str]]:
    found: list[tuple[Part, str]] = []
    for part in PARTS:
        owner = part.get(_base())
        found += [
            (part, field.name)
            for field in fields(owner)  # pyright: ignore[reportArgumentType]
            if _is_number(_value(owner, field.name))
        ]
    return found


def test_the_numbers_of_a_machine() -> None:
    """A new field comes under the test below by itself; this one shows that none has slipped away."""
    assert [f"{part.name}.{name}" for part, name in _numeric_fields()] == [
        "accelerator.clock",
        *(f"dram.{name}" for name in ("capacity", "bandwidth", "latency", "read_energy", "write_energy")),
        *(f"bus.{name}" for name in ("bandwidth", "port_bandwidth", "latency", "energy")),
        *(f"wire.{name}" for name in ("bandwidth", "port_bandwidth", "latency", "energy")),
        *(f"sram.{n}" for n in ("capacity", "read_bandwidth", "write_bandwidth", "read_energy", "write_energy")),
        *(f"vector.{name}" for name in ("operations_per_cycle", "operation_energy")),
        *(f"registers.{name}" for name in ("capacity", "read_energy", "write_energy")),
        *(f"array.{name}" for name in ("rows", "columns", "copies")),
        *(f"precision.{name}" for name in ("operand", "macs_per_element", "mac_energy")),
    ]


TO = {
    "array.copies": 2,
    "dram.capacity": 4096,
    "dram.latency": 100,
    "bus.latency": 100,
    "wire.latency": 100,
    "registers.capacity": 512,
    "precision.operand": 4,
    "precision.macs_per_element": 0.25,
    "sram.capacity": 256,
}
"""What a number is changed to where a quarter of it tells nothing: a small latency hides behind other work."""


@pytest.mark.parametrize(("part", "name"), _numeric_fields(), ids=lambda value: getattr(value, "name", value))
def test_every_number_of_a_machine_has_an_effect(part: Part, name: str) -> None:
    base = _base()
    owner = part.get(base)
    old: float = getattr(owner, name)
    new = TO.get(f"{part.name}.{name}", max(1, old // 4) if isinstance(old, int) else old / 4)

    changed = part.put(base, _with(owner, name, new))

    assert changed != base
    assert _outcome(changed) != _outcome(base) or _evaluated(changed) != _evaluated(base)
