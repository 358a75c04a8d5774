"""Every scheme, cut or not, is plain attention."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from stream_mla.mapping.tiling.interpreter import execute, rms_norm, rope
from stream_mla.mapping.tiling.tile_graph import Tiling
from stream_mla.mapping.tiling.tiler import tile
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.operator_graph import OperatorGraph
from stream_mla.workload.spec import Attention, GroupedQueryAttention, LatentAttention, Model, Precision, Workload

Floats = NDArray[np.float64]

PRECISION = Precision(weights=8, cache=8, activations=8, partials=32)
UNCUT = Tiling(sizes={}, spilled=frozenset(), shared=frozenset(), local=frozenset())


def workload(attention: Attention, batch: int, query_tokens: int, cached_tokens: int) -> Workload:
    model = Model(name="small", source="test", layers=1, attention=attention, precision=PRECISION)
    return Workload(
        model=model, batch=batch, query_tokens=query_tokens, cached_tokens=cached_tokens, precision=PRECISION
    )


def latent(
    query_rank: int | None, rope_dim: int, norms: bool, heads: int = 4, kv_rank: int = 6, value_dim: int = 5
) -> LatentAttention:
    return LatentAttention(
        model_dim=12,
        heads=heads,
        query_rank=query_rank,
        kv_rank=kv_rank,
        nope_dim=8,
        rope_dim=rope_dim,
        value_dim=value_dim,
        latent_norms=norms,
    )


def grouped(
    kv_heads: int, rope_dim: int, head_dim: int = 4, value_dim: int = 4, gate: bool = False
) -> GroupedQueryAttention:
    return GroupedQueryAttention(
        model_dim=12,
        heads=6,
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_dim=value_dim,
        rope_dim=rope_dim,
        output_gate=gate,
    )


def random_inputs(graph: OperatorGraph, cached_tokens: int) -> dict[str, Floats]:
    """Random weights, input and old cache rows; new cache rows are NaN until an operator writes them."""
    rng = np.random.default_rng(7)
    given: dict[str, Floats] = {}
    for name, tensor in graph.tensors.items():
        if tensor.role in ("weight", "input"):
            given[name] = rng.normal(size=tensor.shape) / np.sqrt(max(tensor.shape[0], 1))
        if tensor.role == "cache":
            given[name] = rng.normal(size=tensor.shape)
            given[name][:, cached_tokens:] = np.nan
    return given


def masked_softmax(scores: Floats, cached_tokens: int) -> Floats:
    """Causal softmax of [b, h, q, k]."""
    queries, keys = scores.shape[-2:]
    visible = np.tri(queries, keys, cached_tokens, dtype=bool)
    scores = np.where(visible, scores, -np.inf)
    numerators = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return numerators / numerators.sum(axis=-1, keepdims=True)


def _same(x: Floats) -> Floats:
    return x


def plain_latent(work: Workload, given: dict[str, Floats]) -> Floats:
    """Multi-head attention over keys and values expanded from the latent, as in arXiv 2405.04434 section 2.1."""
    shape = work.model.attention
    assert isinstance(shape, LatentAttention)
    x = given["x"]
    norm = rms_norm if shape.latent_norms else _same
    query_latent = norm(x @ given["w_dq"]) if shape.query_rank is not None else x
    cache = given["kv_cache"].copy()
    cache[:, work.cached_tokens :, : shape.kv_rank] = norm(x @ given["w_dkv"])
    query = np.einsum("bqr,rhn->bhqn", query_latent, given["w_uq"])
    keys = np.einsum("bkc,chn->bhkn", cache[..., : shape.kv_rank], given["w_uk"])
    if shape.rope_dim:
        positions = (np.arange(work.query_tokens) + work.cached_tokens).astype(float)
        cache[:, work.cached_tokens :, shape.kv_rank :] = rope(x @ given["w_kr"], positions[None, :])
        rotary = rope(np.einsum("bqr,rhp->bhqp", query_latent, given["w_qr"]), positions[None, None, :])
        query = np.concatenate([query, rotary], axis=-1)
        shared = np.broadcast_to(cache[:, None, :, shape.kv_rank :], (*keys.shape[:-1], shape.rope_dim))
        keys = np.concatenate([keys, shared], axis=-1)
    values = np.einsum("bkc,chv->bhkv", cache[..., : shape.kv_rank], given["w_uv"])
    scores = query @ keys.swapaxes(-1, -2) / np.sqrt(shape.nope_dim + shape.rope_dim)
    context = masked_softmax(scores, work.cached_tokens) @ values
    return np.einsum("bhqv,hve->bqe", context, given["w_o"])


def plain_grouped(work: Workload, given: dict[str, Floats]) -> Floats:
    """Multi-head attention with every group's keys and values repeated for its heads.

    Where a part of each head is rotated, the part that is not comes first.
    """
    shape = work.model.attention
    assert isinstance(shape, GroupedQueryAttention)
    x = given["x"]
    positions = (np.arange(work.query_tokens) + work.cached_tokens).astype(float)
    partial = 0 < shape.rope_dim < shape.head_dim
    w_q = np.concatenate([given["w_q"], given["w_qr"]], axis=-1) if partial else given["w_q"]
    w_k = np.concatenate([given["w_k"], given["w_kr"]], axis=-1) if partial else given["w_k"]
    assert w_q.shape[-1] == w_k.shape[-1] == shape.head_dim
    query = np.einsum("bqd,dgjn->bgjqn", x, w_q)
    new_keys = np.einsum("bqd,dgn->bqgn", x, w_k)
    if shape.rope_dim:
        still = shape.head_dim - shape.rope_dim
        query[..., still:] = rope(query[..., still:], positions[None, None, None, :])
        new_keys[..., still:] = rope(new_keys[..., still:], positions[None, :, None])
    keys, values = given["k_cache"].copy(), given["v_cache"].copy()
    keys[:, work.cached_tokens :] = new_keys
    values[:, work.cached_tokens :] = np.einsum("bqd,dgv->bqgv", x, given["w_v"])
    scores = np.einsum("bgjqn,bkgn->bgjqk", query, keys) / np.sqrt(shape.head_dim)
    context = np.einsum("bgjqk,bkgv->bqgjv", masked_softmax(scores, work.cached_tokens), values)
    if shape.output_gate:
        context = context / (1 + np.exp(-np.einsum("bqd,dgjv->bqgjv", x, given["w_g"])))
    return np.einsum("bqgjv,gjve->bqe", context, given["w_o"])


TOKENS = [(1, 1, 9), (2, 3, 8), (2, 7, 0)]
"""Batch, query tokens, cached tokens: decode, several tokens per request, prefill."""

LATENT_SCHEMES = ["mla_naive", "mla_absorbed", "mla_rc", "mla_ru"]
CUTS = [
    UNCUT,
    Tiling(
        sizes={
            name: {"h": 3, "k": 2, "q": 2, "b": 1, "c": 4, "r": 3, "d": 5, "e": 7, "n": 3, "v": 2, "j": 2, "g": 2}
            for name in (
                "q_latent", "kv_latent", "query", "key", "value", "query_absorbed", "composite", "keys", "values",
                "head_out", "out", "query_rope_raw", "key_rope_raw", "gate", "context_gated",
            )
        }
        | {name: {"h": 2, "k": 3, "q": 2, "b": 1, "j": 1} for name in ("scores", "softmax", "attend", "scores_rope")},
        kv_splits={"attention": 2},
        spilled=frozenset(),
        shared=frozenset(),
        local=frozenset(),
    ),
]  # fmt: skip
PRODUCTS = ["q_latent", "kv_latent", "query", "key", "value", "query_absorbed", "keys", "values", "head_out", "out",
            "gate"]  # fmt: skip
CUTS.append(replace(CUTS[1], k_splits={**dict.fromkeys(PRODUCTS, 3), "query_rope_raw": 2, "key_rope_raw": 2}))
"""Rows in as many parts as their pieces allow: two pieces of 5 d, three of r, c and n, more of (h, v)."""


@pytest.mark.parametrize("tile_graph", CUTS, ids=["uncut", "cut", "parts"])
@pytest.mark.parametrize(("batch", "query_tokens", "cached_tokens"), TOKENS)
@pytest.mark.parametrize("attention", [latent(7, 4, True), latent(7, 0, False), latent(None, 4, True)])
@pytest.mark.parametrize("scheme", LATENT_SCHEMES)
def test_latent_schemes_are_plain_attention(
    scheme: str, attention: LatentAttention, batch: int, query_tokens: int, cached_tokens: int, tile_graph: Tiling
) -> None:
    work = workload(attention, batch, query_tokens, cached_tokens)
    graph = lower(work, scheme)
    given = random_inputs(lower(work, "mla_absorbed"), cached_tokens)
    if scheme == "mla_ru":
        rank = "d" if attention.query_rank is None else "r"
        given["w_composite"] = np.einsum(f"{rank}hn,chn->h{rank}c", given["w_uq"], given["w_uk"])
    result = execute(tile(graph, tile_graph), given)["y"]
    np.testing.assert_allclose(result, plain_latent(work, given), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("tile_graph", CUTS, ids=["uncut", "cut", "parts"])
@pytest.mark.parametrize(("batch", "query_tokens", "cached_tokens"), TOKENS)
@pytest.mark.parametrize(
    "attention",
    [
        grouped(6, 4),
        grouped(2, 4),
        grouped(1, 0),
        grouped(2, 4, value_dim=7),
        grouped(3, 6, head_dim=8),
        grouped(2, 2, head_dim=6, value_dim=3),
        grouped(2, 4, gate=True),
        grouped(1, 2, head_dim=6, value_dim=5, gate=True),
    ],
)
def test_grouped_query_is_plain_attention(
    attention: GroupedQueryAttention, batch: int, query_tokens: int, cached_tokens: int, tile_graph: Tiling
) -> None:
    work = workload(attention, batch, query_tokens, cached_tokens)
    graph = lower(work, "mha")
    given = random_inputs(graph, cached_tokens)
    result = execute(tile(graph, tile_graph), given)["y"]
    np.testing.assert_allclose(result, plain_grouped(work, given), rtol=1e-9, atol=1e-9)
