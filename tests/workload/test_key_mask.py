"""Which keys queries attend to, against the definition, key by key."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_mla.workload.key_mask import first_key, key_mask_of
from stream_mla.workload.spec import CAUSAL, NO_MASK, Mask, Workload
from tests.helpers import grouped, workload

LIMITS = st.sampled_from((None, 1, 2, 3, 5, 100))


def _attends(step: Workload, query: int, key: int) -> bool:
    """Whether a query attends to the key at a position, in the words of `Mask`."""
    position, mask = step.cached_tokens + query, step.mask
    return (
        (key <= position or not mask.causal)
        and (mask.window is None or position - key < mask.window)
        and (mask.chunk is None or position // mask.chunk == key // mask.chunk)
    )


@given(st.integers(1, 9), st.integers(0, 9), LIMITS, LIMITS)
def test_a_mask_hides_just_what_no_query_attends_to(
    queries: int, cached: int, window: int | None, chunk: int | None
) -> None:
    mask = Mask(causal=True, window=window, chunk=chunk)
    step = workload(grouped(), query_tokens=queries, cached_tokens=cached, mask=mask)
    seen = np.array([[_attends(step, query, key) for key in range(step.key_tokens)] for query in range(queries)])
    first = first_key(step)

    attended = np.flatnonzero(seen.any(axis=0)).tolist()
    assert attended == list(range(first, step.key_tokens))
    found = key_mask_of(step)
    if found is None:
        assert seen[:, first:].all()
        return
    hidden = found.hides(np.arange(queries), np.arange(step.key_tokens - first))
    assert (hidden == ~seen[:, first:]).all()
    assert found.pairs(queries) == seen.sum()
    for low in range(queries):
        for high in range(low + 1, queries + 1):
            keys = np.flatnonzero(seen[low:high, first:].any(axis=0))
            assert found.seen(low, high) == (keys[0], keys[-1] + 1)


@pytest.mark.parametrize("mask", [NO_MASK, CAUSAL])
def test_one_query_against_all_keys_has_no_mask(mask: Mask) -> None:
    assert key_mask_of(workload(grouped(), cached_tokens=7, mask=mask)) is None


@pytest.mark.parametrize("limit", [{"window": 4}, {"chunk": 4}])
def test_windows_and_chunks_need_a_causal_mask(limit: dict[str, int]) -> None:
    name = next(iter(limit))
    with pytest.raises(ValueError, match=f"^{name} needs a causal mask$"):
        Mask(causal=False, **limit)
    with pytest.raises(ValueError, match=f"^{name} must be at least 1, got 0$"):
        Mask(causal=True, **{name: 0})
