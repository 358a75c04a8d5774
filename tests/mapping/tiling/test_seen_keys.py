"""What plans expect a mask to save, against the tiles that it leaves; and that they save it."""

from collections import defaultdict
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_mla.frontends import catalog
from stream_mla.hardware.core_cost import Objective
from stream_mla.hardware.work import Gemm
from stream_mla.mapping.planning.planner import candidate_tilings
from stream_mla.mapping.policy import POLICIES
from stream_mla.mapping.tiling.seen_pieces import seen_keys, seen_pieces
from stream_mla.mapping.tiling.tiler import tile
from stream_mla.schedule.problem import price
from stream_mla.workload.key_mask import KeyMask
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.spec import CAUSAL, NO_MASK, Mask, Workload
from tests.helpers import BYTES

ATTENTION = ("scores", "softmax", "attend", "merge")


@given(
    st.integers(1, 40),
    st.sampled_from((CAUSAL, Mask(causal=True, window=5), Mask(causal=True, chunk=7))),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from((1, 2, 4)),
)
def test_estimates_are_the_counts_where_splits_are_even(
    quarters: int, mask: Mask, query_size: int, chunk: int, splits: int
) -> None:
    tokens = 4 * quarters  # so that 1, 2 and 4 splits are equal
    masked = KeyMask(mask=mask, first_query=0, first_key=0)
    chunk = min(chunk, tokens // splits)
    ways = (np.array([size]) for size in (query_size, splits, chunk))
    found = seen_keys(masked, tokens, tokens, *ways)
    exact = seen_pieces(masked, tokens, query_size, tokens, splits, chunk)

    assert found.chunks[0] == pytest.approx(exact.chunks.mean())
    assert found.splits[0] == pytest.approx(exact.splits.mean())
    assert found.most_keys[0] == exact.most_keys


def _attention(mask: Mask) -> tuple[int, dict[str, int]]:
    """MACs and cycles of attention in the first plan for a prefill of 4,096 tokens of Llama 3 8B on FLAT's cloud."""
    step = Workload(
        model=catalog.load_model("llama_3_8b"),
        batch=1,
        query_tokens=4096,
        cached_tokens=0,
        precision=BYTES,
        mask=mask,
    )
    graph, accelerator = lower(step, "mha"), catalog.load_accelerator("flat_cloud")
    (tiling,) = islice(candidate_tilings(graph, accelerator, {}, POLICIES["free"]), 1)
    problem = price(tile(graph, tiling), accelerator, Objective.LATENCY)
    macs, cycles = 0, defaultdict[str, int](int)
    for entry, least in zip(problem.tile_graph.tiles, problem.minimum_cycles, strict=True):
        if entry.operator in ATTENTION:
            macs += entry.work.macs if isinstance(entry.work, Gemm) else 0
            cycles[entry.operator] += least
    return macs, cycles


def test_a_causal_prefill_takes_little_more_than_half() -> None:
    # 4096 x 4097 / 2 pairs of 4096 x 4096 are seen: 0.5001; the rest is of tiles that are hidden in part
    whole, masked = _attention(NO_MASK), _attention(CAUSAL)

    assert whole[0] == 2 * 32 * 128 * 4096**2
    assert 0.5 * whole[0] < masked[0] < 0.6 * whole[0]
    for operator in ("scores", "softmax", "attend"):
        assert masked[1][operator] < 0.6 * whole[1][operator]


@pytest.mark.parametrize("mask", [Mask(causal=True, window=128), Mask(causal=True, chunk=128)])
def test_a_prefill_in_a_window_takes_a_band(mask: Mask) -> None:
    # at most 128 keys a query, 1/32 of all: with tiles of 128 x 128 no more than twice that
    assert _attention(mask)[0] <= 3 / 32 * 2 * 32 * 128 * 4096**2
