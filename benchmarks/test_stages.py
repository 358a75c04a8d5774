"""Where the time of one point goes: each stage as a share of the whole, measured in one run.

    make benchmark

Seconds differ between machines; shares hardly do. Every row also asserts the result it timed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import pytest

from stream_mla.frontends import catalog
from stream_mla.hardware.core_cost import Objective
from stream_mla.mapping.planning.planner import candidate_tilings
from stream_mla.mapping.policy import POLICIES
from stream_mla.mapping.tiling.tiler import tile
from stream_mla.schedule.bounds.schedule_bounds import bounds
from stream_mla.schedule.checker import violations
from stream_mla.schedule.problem import price
from stream_mla.schedule.replay import replay
from stream_mla.solvers.list_scheduling.greedy import greedy
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.spec import Workload

T = TypeVar("T")


@dataclass
class Clock:
    """Seconds of named stages."""

    seconds: dict[str, float] = field(default_factory=dict[str, float])

    def time(self, stage: str, work: Callable[[], T]) -> T:
        began = time.perf_counter()
        result = work()
        self.seconds[stage] = time.perf_counter() - began
        return result


POINTS = [
    ("deepseek_v3_letter", "mla_rc", "flat_cloud", 0.20),
    ("deepseek_v3", "mla_absorbed", "tpu_like_quad_core", 0.01),
    ("deepseek_v3", "mla_absorbed", "h100", 0.25),
]
"""Model, scheme, machine, and the gap that the first tiling's greedy schedule may have at most."""


@pytest.mark.parametrize(("model", "scheme", "accelerator", "most"), POINTS)
def test_stages_of_decode_at_4096(
    model: str, scheme: str, accelerator: str, most: float, capsys: pytest.CaptureFixture[str]
) -> None:
    shape, machine = catalog.load_model(model), catalog.load_accelerator(accelerator)
    work = Workload(model=shape, batch=1, query_tokens=1, cached_tokens=4096, precision=shape.precision)
    clock = Clock()
    graph = clock.time("lower", lambda: lower(work, scheme))
    tiling = clock.time("plan", lambda: next(iter(candidate_tilings(graph, machine, {}, POLICIES["free"]))))
    tile_graph = clock.time("tile", lambda: tile(graph, tiling))
    problem = clock.time("price", lambda: price(tile_graph, machine, Objective.LATENCY))
    limits = clock.time("bounds", lambda: bounds(problem))
    schedule = clock.time("greedy", lambda: greedy(problem))
    broken = clock.time("check", lambda: violations(problem, schedule))
    again = clock.time("replay", lambda: replay(problem, schedule))

    assert broken == []
    assert limits.lower_bound_cycles <= again.latency_cycles <= schedule.latency_cycles
    assert again.latency_cycles - limits.lower_bound_cycles <= most * again.latency_cycles
    total = sum(clock.seconds.values())
    shares = "  ".join(f"{stage} {seconds / total:4.0%}" for stage, seconds in clock.seconds.items())
    per_step = total / (len(schedule.runs) + len(schedule.transfers)) * 1e6
    with capsys.disabled():
        print(
            f"\n{scheme} on {accelerator}, {len(tile_graph.tiles)} tiles: {shares}; {per_step:.0f} us per tile and move"
        )
