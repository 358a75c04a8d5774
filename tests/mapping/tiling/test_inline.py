"""Inline expansion: keys and values of a chunk are made just before they are used, where they are used."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from stream_mla.hardware.interconnect import OFF_CHIP
from stream_mla.mapping.planning.attention_group import attention_groups, expanded_tensors
from stream_mla.mapping.planning.planner import candidate_tilings
from stream_mla.mapping.policy import POLICIES
from stream_mla.mapping.tiling.interpreter import execute
from stream_mla.mapping.tiling.tile_graph import Tiling
from stream_mla.mapping.tiling.tiler import tile
from stream_mla.schedule.activities import activities
from stream_mla.schedule.checker import violations
from stream_mla.solvers.list_scheduling.greedy import greedy
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.operator_graph import Role
from tests.helpers import core_type, latent, machine, small_problem, uncut, workload

NAIVE = lower(workload(latent()), "mla_naive")
FREE = POLICIES["free"]
INLINE = expanded_tensors(attention_groups(NAIVE))


def _plan(*, sharing: bool = True, **forced: int) -> Tiling:
    policy = replace(FREE, sharing=sharing)
    small = core_type(sram_bits=3300)  # a tenth is less than the cache of 336
    return next(iter(candidate_tilings(NAIVE, machine(small, small), forced, policy)))


def test_chunk_by_chunk_comes_first_where_the_cache_is_expanded() -> None:
    found = list(candidate_tilings(NAIVE, machine(core_type(sram_bits=4000)), {}, FREE))
    ways = [tiling.inline for tiling in found]
    assert ways[0] == INLINE
    assert frozenset[str]() in ways
    for tiling in found:
        assert tiling.inline <= tiling.local
        assert not tiling.inline & tiling.spilled
        for name in tiling.inline:
            tile_graph = {index: tiling.sizes["scores"].get(index) for index in ("b", "h", "k")}
            assert {index: tiling.sizes[name].get(index) for index in ("b", "h", "k")} == tile_graph
    absorbed = lower(workload(latent()), "mla_absorbed")
    assert not any(tiling.inline for tiling in candidate_tilings(absorbed, machine(core_type()), {}, FREE))


@pytest.mark.parametrize("query_tokens", [1, 5])
@pytest.mark.parametrize("forced", [{}, {"h": 1, "k": 2}, {"h": 2, "k": 2, "parts": 2}])
def test_inline_tilings_compute_what_the_uncut_layer_computes(forced: dict[str, int], query_tokens: int) -> None:
    graph = lower(workload(latent(heads=3), batch=2, query_tokens=query_tokens), "mla_naive")
    rng = np.random.default_rng(5)
    roles = (Role.INPUT, Role.WEIGHT, Role.CACHE)
    given = {name: rng.normal(size=t.shape) / 3 for name, t in graph.tensors.items() if t.role in roles}
    whole = execute(tile(graph, uncut(graph.local)), given)["y"]
    found = [p for p in candidate_tilings(graph, machine(*[core_type(sram_bits=8000)] * 2), forced, FREE) if p.inline]
    assert found
    for tiling in found:
        np.testing.assert_allclose(execute(tile(graph, tiling), given)["y"], whole, rtol=1e-9, atol=1e-9)


def test_a_chunk_is_used_before_the_next_one_is_expanded() -> None:
    names = ("keys", "values", "scores", "attend")
    order = [entry.name for entry in tile(NAIVE, _plan(h=2, k=3, parts=1)).tiles if entry.operator in names]
    first = ["keys[k=0:3]", "scores[k=0:3]", "values[k=0:3]", "attend[k=0:3]"]
    assert sorted(order[:4]) == sorted(first)
    assert sorted(order[4:]) == sorted(name.replace("0:3", "3:6") for name in first)


def _loads_bits(tiling: Tiling, *cores_of_attention: int) -> dict[str, int]:
    """Bits of each tensor that are loaded; the clusters that attend lie on these cores, the others on core0."""
    problem = small_problem(NAIVE, tiling, machine(core_type(), core_type()))
    attending = list(dict.fromkeys(entry.group for entry in problem.tile_graph.tiles if entry.operator == "attend"))
    cores = [0] * len(problem.group_tiles)
    for group, core in zip(attending, cores_of_attention, strict=True):
        cores[group] = core
    moved: dict[str, int] = defaultdict(int)
    for move in activities(problem, cores).transfers:
        if move.source == OFF_CHIP:
            block = problem.tile_graph.blocks[move.block]
            moved[block.tensor] += block.bits
    schedule = greedy(problem)
    assert violations(problem, schedule) == []
    return dict(moved)


def test_each_cluster_loads_the_cached_rows_and_each_core_the_weights_of_its_heads() -> None:
    # cached rows 6 x 7 B = 336 bit; w_uk 5 x 2 x 3 B = 240 bit; w_uv 5 x 2 x 6 B = 480 bit
    def loads(tiling: Tiling, *cores: int) -> tuple[int, int, int]:
        found = _loads_bits(tiling, *cores)
        assert "keys" not in found
        assert "values" not in found
        return found["kv_cache"], found["w_uk"], found["w_uv"]

    # a cluster per head, each with all rows, and its half of the weights
    heads = _plan(h=1, k=3, parts=1)
    assert loads(heads, 0, 0) == loads(heads, 0, 1) == (2 * 336, 240, 480)
    # a cluster per part, each with its half of the rows; weights once on each core
    parts = _plan(h=2, k=3, parts=2)
    assert loads(parts, 0, 0) == (336, 240, 480)
    assert loads(parts, 0, 1) == (336, 2 * 240, 2 * 480)
    # both: four clusters of one head and 3 rows
    both = _plan(h=1, k=3, parts=2)
    assert loads(both, 0, 0, 0, 0) == (2 * 336, 240, 480)
    assert loads(both, 0, 1, 0, 1)[0] == 2 * 336


def test_without_sharing_each_cluster_loads_its_weights() -> None:
    tiling = _plan(sharing=False, h=2, k=3, parts=2)
    assert tiling.inline == INLINE
    assert tiling.shared == frozenset()
    assert (found := _loads_bits(tiling, 0, 0))["w_uk"] == 2 * 240
    assert found["w_uv"] == 2 * 480


def test_weights_that_expand_are_shared_however_large_they_are() -> None:
    # a tenth of 2000 is 200 bit, less than either
    types = [core_type(sram_bits=2000)] * 2
    shared = {
        tiling.inline: tiling.shared & {"w_uk", "w_uv"}
        for tiling in candidate_tilings(NAIVE, machine(*types), {}, FREE)
    }
    assert shared == {INLINE: {"w_uk", "w_uv"}, frozenset(): frozenset()}
