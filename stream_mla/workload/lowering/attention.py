"""Attention schemes as lists of operators, in the letters of the papers.

MLA (arXiv 2405.04434, 2412.19437) scores a query against a cached latent:

    Z = q_latent (1) W_uq (2) W_uk^T (3) C^T        per head

and the schemes differ in the order of the three products (letter, arXiv 2506.02523):

    mla_naive     1-3-2  the cache is expanded to full keys and values
    mla_absorbed  1-2-3  the query goes up to the full space and down to the latent space, left to right
    mla_rc        2-1-3  the composite W_uq W_uk^T is recomputed every step and stays on chip
    mla_ru        2-1-3  the composite was computed once and is read from DRAM

Assumptions, for every scheme:
- New rows of the cache are written to DRAM, and all rows are read from there, the new ones included.
- The mask is work not done: see `key_mask`. Rows of the cache that no query of the step attends to are no part of the
  graph; a layer with a window need not keep them.
- W_uv and W_o are not merged; with a latent context the output path is (S C), then W_uv, then W_o.
- Gains of norms and the softmax scale are folded into neighbours; rows of W_uq are split into its
  no-position part (w_uq) and its rotary part (w_qr), columns of W_dkv into w_dkv and w_kr.
"""

from collections.abc import Callable
from math import sqrt

from stream_mla.workload.fusion_group import GroupRole
from stream_mla.workload.lowering.graph_builder import GraphBuilder
from stream_mla.workload.lowering.schemes import Scheme, Schemes
from stream_mla.workload.operator_graph import Kind, Operand, OperatorGraph, Role
from stream_mla.workload.spec import GroupedQueryAttention, LatentAttention, Workload


def grouped_query(workload: Workload) -> OperatorGraph:
    """MHA, GQA and MQA: keys and values per group g of j heads."""
    shape = workload.model.attention
    if not isinstance(shape, GroupedQueryAttention):
        raise ValueError(f"model {workload.model.name} has latent attention; scheme mha needs a grouped_query model")
    layer = GraphBuilder(workload, _grouped_extents(shape))
    x = layer.view(layer.tensor("x", "bqd", Role.INPUT), "bqd")
    partial = 0 < shape.rope_dim < shape.head_dim
    row = "u" if partial else "n"
    keys = layer.tensor("k_cache", "bkg" + row, Role.CACHE)
    values = layer.tensor("v_cache", "bkgv", Role.CACHE)
    query = _partly_rotated(layer, shape, x, keys) if partial else _rotated_or_not(layer, shape, x, keys)
    layer.einsum("value", x, layer.weight("w_v", "dgv"), layer.new_rows(values, "bqgv"))
    scores = layer.make("scores", query, layer.view(keys, "bkg" + row), "bqgjk")
    context = layer.softmax_attend(scores, layer.view(values, "bkgv"), "gj", "v", 1 / sqrt(shape.head_dim))
    if shape.output_gate:
        gate = layer.make("gate", x, layer.weight("w_g", "dgjv"), "bqgjv")
        gated = layer.whole("context_gated", "bqgjv", Role.ACTIVATION)
        context = layer.vector(Kind.GATE, "context_gated", context, gated, gate)
    layer.output(context, "gjv")
    return layer.graph("mha")


def _grouped_extents(shape: GroupedQueryAttention) -> dict[str, int]:
    """Return the extents of the indices; where only a part p of each head is rotated, n is the rest of it."""
    extents = {
        "d": shape.model_dim,
        "e": shape.model_dim,
        "g": shape.kv_heads,
        "j": shape.heads // shape.kv_heads,
        "n": shape.head_dim,
        "v": shape.value_dim,
    }
    if 0 < shape.rope_dim < shape.head_dim:
        extents |= {"n": shape.head_dim - shape.rope_dim, "p": shape.rope_dim, "u": shape.head_dim}
    return extents


def _rotated_or_not(layer: GraphBuilder, shape: GroupedQueryAttention, x: Operand, keys: str) -> Operand:
    """Project queries and keys, rotated as a whole or not at all; append the keys and return the query."""
    query = layer.make("query", x, layer.weight("w_q", "dgjn"), "bqgjn")
    new_keys = layer.new_rows(keys, "bqgn")
    if not shape.rope_dim:
        layer.einsum("key", x, layer.weight("w_k", "dgn"), new_keys)
        return query
    rotated = layer.view(layer.tensor("query_rope", "bqgjn", Role.ACTIVATION), "bqgjn")
    layer.vector(Kind.ROPE, "query_rope", query, rotated)
    raw = layer.make("key", x, layer.weight("w_k", "dgn"), "bqgn")
    layer.vector(Kind.ROPE, "key_rope", raw, new_keys)
    return rotated


def _partly_rotated(layer: GraphBuilder, shape: GroupedQueryAttention, x: Operand, keys: str) -> Operand:
    """Project queries and keys of which a part is rotated; append the keys and return the query.

    The dimensions of a head are numbered with those that are not rotated first; columns of W_q and W_k are split.
    """
    still = shape.head_dim - shape.rope_dim
    full = layer.tensor("query_full", "bqgju", Role.ACTIVATION)
    layer.einsum("query", x, layer.weight("w_q", "dgjn"), layer.view(full, "bqgjn"))
    raw_query = layer.make("query_rope_raw", x, layer.weight("w_qr", "dgjp"), "bqgjp")
    layer.vector(Kind.ROPE, "query_rope", raw_query, layer.view(full, "bqgjp", p=still))
    layer.einsum("key", x, layer.weight("w_k", "dgn"), layer.new_rows(keys, "bqgn"))
    raw_key = layer.make("key_rope_raw", x, layer.weight("w_kr", "dgp"), "bqgp")
    layer.vector(Kind.ROPE, "key_rope", raw_key, layer.new_rows(keys, "bqgp", p=still))
    return layer.view(full, "bqgju")


def _latent_layer(workload: Workload) -> tuple[GraphBuilder, LatentAttention]:
    shape = workload.model.attention
    if not isinstance(shape, LatentAttention):
        raise ValueError(f"model {workload.model.name} has no latent attention; use scheme mha")
    extents = {
        "d": shape.model_dim,
        "e": shape.model_dim,
        "h": shape.heads,
        "c": shape.kv_rank,
        "u": shape.kv_rank + shape.rope_dim,
        "n": shape.nope_dim,
        "v": shape.value_dim,
    }
    if shape.query_rank is not None:
        extents["r"] = shape.query_rank
    if shape.rope_dim:
        extents["p"] = shape.rope_dim
    return GraphBuilder(workload, extents), shape


def _latents(layer: GraphBuilder, shape: LatentAttention) -> tuple[Operand, str]:
    """Compute the query latent (the input itself where there is no query rank) and append to the cache.

    Returns the query latent and the name of the cache, whose rows are the kv latent, then the rotated key.
    """
    x = layer.view(layer.tensor("x", "bqd", Role.INPUT), "bqd")
    query = x
    if shape.query_rank is not None:
        query = layer.make("q_latent", x, layer.weight("w_dq", "dr"), "bqr")
        if shape.latent_norms:
            normed = layer.view(layer.tensor("q_latent_norm", "bqr", Role.ACTIVATION), "bqr")
            query = layer.vector(Kind.NORM, "q_latent_norm", query, normed)
    cache = layer.tensor("kv_cache", "bku", Role.CACHE)
    rows = layer.new_rows(cache, "bqc")
    if shape.latent_norms:
        latent = layer.make("kv_latent", x, layer.weight("w_dkv", "dc"), "bqc")
        layer.vector(Kind.NORM, "kv_latent_norm", latent, rows)
    else:
        layer.einsum("kv_latent", x, layer.weight("w_dkv", "dc"), rows)
    if shape.rope_dim:
        key = layer.make("key_rope_raw", x, layer.weight("w_kr", "dp"), "bqp")
        layer.vector(Kind.ROPE, "key_rope", key, layer.new_rows(cache, "bqp", p=shape.kv_rank))
    return query, cache


def _rank_index(shape: LatentAttention) -> str:
    return "d" if shape.query_rank is None else "r"


def _query_rope(layer: GraphBuilder, shape: LatentAttention, latent: Operand, out: Operand) -> None:
    """Project and rotate the rotary part of the query into `out`."""
    raw = layer.make("query_rope_raw", latent, layer.weight("w_qr", _rank_index(shape) + "hp"), "bqhp")
    layer.vector(Kind.ROPE, "query_rope", raw, out)


def _scale(shape: LatentAttention) -> float:
    return 1 / sqrt(shape.nope_dim + shape.rope_dim)


def mla_naive(workload: Workload) -> OperatorGraph:
    """1-3-2: expand the whole cache to keys and values of every head, then plain attention."""
    layer, shape = _latent_layer(workload)
    latent, cache = _latents(layer, shape)
    query = layer.make("query", latent, layer.weight("w_uq", _rank_index(shape) + "hn"), "bqhn")
    cached = layer.view(cache, "bkc")
    keys = layer.make("keys", cached, layer.weight("w_uk", "chn"), "bkhn", GroupRole.KEYS)
    addend = None
    if shape.rope_dim:
        rotated = layer.view(layer.tensor("query_rope", "bqhp", Role.ACTIVATION), "bqhp")
        _query_rope(layer, shape, latent, rotated)
        rope_keys = layer.view(cache, "bkp", p=shape.kv_rank)
        addend = layer.make("scores_rope", rotated, rope_keys, "bqhk", GroupRole.SCORE_ADDEND)
        layer.local.add("scores_rope")
    values = layer.make("values", cached, layer.weight("w_uv", "chv"), "bkhv", GroupRole.VALUES)
    out = layer.view(layer.tensor("scores", "bqhk", Role.ACTIVATION), "bqhk")
    scores = layer.einsum("scores", query, keys, out, addend)
    context = layer.softmax_attend(scores, values, "h", "v", _scale(shape))
    layer.output(context, "hv")
    return layer.graph("mla_naive")


def _latent_space_attention(layer: GraphBuilder, shape: LatentAttention, latent: Operand, cache: str) -> None:
    """Score against the cache itself, attend in the latent space, then W_uv and W_o."""
    if shape.rope_dim:
        _query_rope(layer, shape, latent, layer.view("query_full", "bqhp", p=shape.kv_rank))
    scores = layer.make("scores", layer.view("query_full", "bqhu"), layer.view(cache, "bku"), "bqhk")
    context = layer.softmax_attend(scores, layer.view(cache, "bkc"), "h", "c", _scale(shape))
    values = layer.make("head_out", context, layer.weight("w_uv", "chv"), "bqhv")
    layer.output(values, "hv")


def _absorbed_query(layer: GraphBuilder) -> Operand:
    """Declare the query in cache coordinates and return its no-position part."""
    return layer.view(layer.tensor("query_full", "bqhu", Role.ACTIVATION), "bqhc")


def mla_absorbed(workload: Workload) -> OperatorGraph:
    """1-2-3: W_uk is absorbed into the query, one factor after the other; what serving kernels do."""
    layer, shape = _latent_layer(workload)
    latent, cache = _latents(layer, shape)
    query = layer.make("query", latent, layer.weight("w_uq", _rank_index(shape) + "hn"), "bqhn")
    layer.einsum("query_absorbed", query, layer.weight("w_uk", "chn"), _absorbed_query(layer))
    _latent_space_attention(layer, shape, latent, cache)
    return layer.graph("mla_absorbed")


def mla_rc(workload: Workload) -> OperatorGraph:
    """2-1-3: the composite W_uq W_uk^T of each head is recomputed and used while it is on chip."""
    layer, shape = _latent_layer(workload)
    latent, cache = _latents(layer, shape)
    rank = _rank_index(shape)
    down, up = layer.weight("w_uq", rank + "hn"), layer.weight("w_uk", "chn")
    composite = layer.make("composite", down, up, f"h{rank}c", GroupRole.COMPOSITE)
    layer.local.add("composite")
    layer.einsum("query_absorbed", latent, composite, _absorbed_query(layer), role=GroupRole.COMPOSITE_USER)
    _latent_space_attention(layer, shape, latent, cache)
    return layer.graph("mla_rc")


def mla_ru(workload: Workload) -> OperatorGraph:
    """2-1-3: the composite was computed once and is a weight, `n_h x rank x kv_rank` elements."""
    layer, shape = _latent_layer(workload)
    latent, cache = _latents(layer, shape)
    composite = layer.weight("w_composite", f"h{_rank_index(shape)}c")
    layer.einsum("query_absorbed", latent, composite, _absorbed_query(layer))
    _latent_space_attention(layer, shape, latent, cache)
    return layer.graph("mla_ru")


def _latent_scheme(lowering: Callable[[Workload], OperatorGraph], order: str, description: str) -> Scheme:
    """Return a scheme for latent attention that has the name of its lowering."""
    attention = (LatentAttention,)
    return Scheme(name=lowering.__name__, lower=lowering, order=order, description=description, attention=attention)


SCHEMES = Schemes(
    [
        Scheme(
            name="mha",
            lower=grouped_query,
            order="",
            description="multi-head, grouped-query or multi-query attention on a cache of keys and values",
            attention=(GroupedQueryAttention,),
        ),
        _latent_scheme(mla_naive, "1-3-2", "the cached latents are expanded to keys and values of every head"),
        _latent_scheme(
            mla_absorbed,
            "1-2-3",
            "the query goes through W_uq, then W_uk, and is compared with the latents themselves",
        ),
        _latent_scheme(mla_rc, "2-1-3", "the composite W_uq W_uk^T is recomputed every step and stays on chip"),
        _latent_scheme(mla_ru, "2-1-3", "the composite W_uq W_uk^T was computed once and is read from DRAM"),
    ]
)
"""All schemes, by name."""

register_scheme = SCHEMES.register
"""Adds a scheme from outside the package; see `Schemes.register`."""


def lower(workload: Workload, scheme: str) -> OperatorGraph:
    """Lower one step of a layer to its operator graph; ValueError where scheme and model do not fit.

    >>> from stream_mla import Precision, Workload, load_model, lower
    >>> bits = Precision(weights=8, cache=8, activations=8, partials=32)
    >>> model = load_model("deepseek_v3_letter")
    >>> graph = lower(Workload(model=model, batch=1, query_tokens=1, cached_tokens=64, precision=bits), "mla_absorbed")
    >>> [operator.name for operator in graph.operators]  # doctest: +NORMALIZE_WHITESPACE
    ['q_latent', 'kv_latent', 'query', 'query_absorbed', 'scores', 'softmax', 'attend', 'merge', 'head_out', 'out']
    >>> graph.macs(graph.operators[0])  # 7168 x 1536
    11010048
    """
    if scheme not in SCHEMES:
        raise ValueError(f"no scheme {scheme!r}: use one of {', '.join(SCHEMES)}, or add it with register_scheme")
    return SCHEMES[scheme].lower(workload)
