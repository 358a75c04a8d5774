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
- Every query is compared with every key; the causal mask is applied, but nothing is halved for it.
- W_uv and W_o are not merged; with a latent context the output path is (S C), then W_uv, then W_o.
- Gains of norms and the softmax scale are folded into neighbours; rows of W_uq are split into its
  no-position part (w_uq) and its rotary part (w_qr), columns of W_dkv into w_dkv and w_kr.
"""

from collections.abc import Callable, Mapping
from math import sqrt

from stream_mla.graph import Kind, Operand, Operator, OperatorGraph, Role, Tensor
from stream_mla.workload import GroupedQueryAttention, LatentAttention, Model, Workload


class _Layer:
    """Collects tensors and operators; each method adds one operator and returns its product's name."""

    def __init__(self, workload: Workload, extents: Mapping[str, int]) -> None:
        self.workload = workload
        self.extents: dict[str, int] = {
            "b": workload.batch,
            "q": workload.query_tokens,
            "k": workload.key_tokens,
            "t": 1,
            "s": 1,
            "w": 2,
            **extents,
        }
        self.tensors: dict[str, Tensor] = {}
        self.operators: list[Operator] = []
        self.local: set[str] = set()

    def tensor(self, name: str, indices: str, role: Role) -> str:
        """Declare a tensor that spans `indices` once each."""
        precision = self.workload.precision
        bits = {
            Role.WEIGHT: precision.weights,
            Role.CACHE: precision.cache,
            Role.PARTIAL: precision.partials,
        }.get(role, precision.activations)
        shape = tuple(self.extents[index] for index in indices)
        self.tensors[name] = Tensor(name=name, shape=shape, role=role, element_bits=bits)
        return name

    def weight(self, name: str, indices: str) -> Operand:
        """Declare a weight and return the whole of it."""
        return self.view(self.tensor(name, indices, Role.WEIGHT), indices)

    def view(self, tensor: str, indices: str, **offsets: int) -> Operand:
        """View a tensor through `indices`, some of them shifted."""
        return Operand(tensor, tuple(indices), tuple(offsets.get(index, 0) for index in indices))

    def new_rows(self, cache: str, indices: str, **offsets: int) -> Operand:
        """View the rows of a cache that this step appends; index q runs along its token axis."""
        return self.view(cache, indices, q=self.workload.cached_tokens, **offsets)

    def einsum(
        self, name: str, first: Operand, second: Operand, out: Operand, addend: Operand | None = None
    ) -> Operand:
        """Contract two operands."""
        self.operators.append(
            Operator(name=name, kind=Kind.EINSUM, inputs=(first, second), outputs=(out,), addend=addend)
        )
        return out

    def make(self, name: str, first: Operand, second: Operand, indices: str) -> Operand:
        """Contract two operands into a new activation of the operator's name."""
        return self.einsum(name, first, second, self.view(self.tensor(name, indices, Role.ACTIVATION), indices))

    def vector(self, kind: Kind, name: str, source: Operand, out: Operand) -> Operand:
        """Apply a norm or RoPE."""
        position = self.workload.cached_tokens
        self.operators.append(Operator(name=name, kind=kind, inputs=(source,), outputs=(out,), first_position=position))
        return out

    def softmax_attend(self, scores: Operand, values: Operand, heads: str, value: str, scale: float) -> Operand:
        """Add softmax, the product with the values, and the merge of context parts; return the context."""
        rows = f"bq{heads}"
        numerators = self.view(self.tensor("probs", rows + "k", Role.ACTIVATION), rows + "k")
        statistics = self.view(self.tensor("probs_stats", rows + "tw", Role.PARTIAL), rows + "tw")
        part = self.view(self.tensor("context_part", rows + "s" + value, Role.PARTIAL), rows + "s" + value)
        part_stats = self.view(self.tensor("context_stats", rows + "sw", Role.PARTIAL), rows + "sw")
        context = self.view(self.tensor("context", rows + value, Role.ACTIVATION), rows + value)
        self.local |= {"scores", "probs", "probs_stats"}
        self.operators += [
            Operator(
                name="softmax",
                kind=Kind.SOFTMAX,
                inputs=(scores,),
                outputs=(numerators, statistics),
                scale=scale,
                first_position=self.workload.cached_tokens,
                state_width=self.extents[value],
            ),
            Operator(
                name="attend",
                kind=Kind.ATTEND,
                inputs=(numerators, values, statistics),
                outputs=(part, part_stats),
            ),
            Operator(name="merge", kind=Kind.MERGE, inputs=(part, part_stats), outputs=(context,)),
        ]
        return context

    def output(self, context: Operand, inner: str) -> None:
        """Project the context of all heads to the model dimension and write it out."""
        weight = self.weight("w_o", inner + "e")
        self.einsum("out", context, weight, self.view(self.tensor("y", "bqe", Role.OUTPUT), "bqe"))

    def graph(self, scheme: str) -> OperatorGraph:
        """Freeze what was collected."""
        return OperatorGraph(
            scheme=scheme,
            extents=self.extents,
            tensors=self.tensors,
            operators=tuple(self.operators),
            partial_bits=self.workload.precision.partials,
            local=frozenset(self.local),
        )


def grouped_query(workload: Workload) -> OperatorGraph:
    """MHA, GQA and MQA: keys and values per group g of j heads."""
    shape = workload.model.attention
    if not isinstance(shape, GroupedQueryAttention):
        raise ValueError(f"model {workload.model.name} has latent attention; scheme mha needs a grouped_query model")
    group = shape.heads // shape.kv_heads
    layer = _Layer(
        workload,
        {
            "d": shape.model_dim,
            "e": shape.model_dim,
            "g": shape.kv_heads,
            "j": group,
            "n": shape.head_dim,
            "v": shape.head_dim,
        },
    )
    x = layer.view(layer.tensor("x", "bqd", Role.INPUT), "bqd")
    keys = layer.tensor("k_cache", "bkgn", Role.CACHE)
    values = layer.tensor("v_cache", "bkgv", Role.CACHE)
    query = layer.make("query", x, layer.weight("w_q", "dgjn"), "bqgjn")
    new_keys = layer.new_rows(keys, "bqgn")
    if shape.rope_dim:
        rotated = layer.view(layer.tensor("query_rope", "bqgjn", Role.ACTIVATION), "bqgjn")
        query = layer.vector(Kind.ROPE, "query_rope", query, rotated)
        raw = layer.make("key", x, layer.weight("w_k", "dgn"), "bqgn")
        layer.vector(Kind.ROPE, "key_rope", raw, new_keys)
    else:
        layer.einsum("key", x, layer.weight("w_k", "dgn"), new_keys)
    layer.einsum("value", x, layer.weight("w_v", "dgv"), layer.new_rows(values, "bqgv"))
    scores = layer.make("scores", query, layer.view(keys, "bkgn"), "bqgjk")
    context = layer.softmax_attend(scores, layer.view(values, "bkgv"), "gj", "v", 1 / sqrt(shape.head_dim))
    layer.output(context, "gjv")
    return layer.graph("mha")


def _latent_layer(workload: Workload) -> tuple[_Layer, LatentAttention]:
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
    return _Layer(workload, extents), shape


def _latents(layer: _Layer, shape: LatentAttention) -> tuple[Operand, str]:
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


def _query_rope(layer: _Layer, shape: LatentAttention, latent: Operand, out: Operand) -> None:
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
    keys = layer.make("keys", cached, layer.weight("w_uk", "chn"), "bkhn")
    addend = None
    if shape.rope_dim:
        rotated = layer.view(layer.tensor("query_rope", "bqhp", Role.ACTIVATION), "bqhp")
        _query_rope(layer, shape, latent, rotated)
        rope_keys = layer.view(cache, "bkp", p=shape.kv_rank)
        addend = layer.make("scores_rope", rotated, rope_keys, "bqhk")
        layer.local.add("scores_rope")
    values = layer.make("values", cached, layer.weight("w_uv", "chv"), "bkhv")
    out = layer.view(layer.tensor("scores", "bqhk", Role.ACTIVATION), "bqhk")
    scores = layer.einsum("scores", query, keys, out, addend)
    context = layer.softmax_attend(scores, values, "h", "v", _scale(shape))
    layer.output(context, "hv")
    return layer.graph("mla_naive")


def _latent_space_attention(layer: _Layer, shape: LatentAttention, latent: Operand, cache: str) -> None:
    """Score against the cache itself, attend in the latent space, then W_uv and W_o."""
    if shape.rope_dim:
        _query_rope(layer, shape, latent, layer.view("query_full", "bqhp", p=shape.kv_rank))
    scores = layer.make("scores", layer.view("query_full", "bqhu"), layer.view(cache, "bku"), "bqhk")
    context = layer.softmax_attend(scores, layer.view(cache, "bkc"), "h", "c", _scale(shape))
    values = layer.make("head_out", context, layer.weight("w_uv", "chv"), "bqhv")
    layer.output(values, "hv")


def _absorbed_query(layer: _Layer) -> Operand:
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
    composite = layer.make("composite", down, up, f"h{rank}c")
    layer.local.add("composite")
    layer.einsum("query_absorbed", latent, composite, _absorbed_query(layer))
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


SCHEMES: Mapping[str, Callable[[Workload], OperatorGraph]] = {
    "mha": grouped_query,
    "mla_naive": mla_naive,
    "mla_absorbed": mla_absorbed,
    "mla_rc": mla_rc,
    "mla_ru": mla_ru,
}
"""Scheme name -> lowering."""


def lower(workload: Workload, scheme: str) -> OperatorGraph:
    """Lower one step of a layer to its operator graph; ValueError where scheme and model do not fit."""
    return SCHEMES[scheme](workload)


def parameters(model: Model) -> int:
    """Weights of one attention layer, as `mla_absorbed` and `mha` read them."""
    precision = model.precision
    step = Workload(model=model, batch=1, query_tokens=1, cached_tokens=0, precision=precision)
    graph = lower(step, "mla_absorbed" if isinstance(model.attention, LatentAttention) else "mha")
    return graph.bits_by_role()[Role.WEIGHT] // precision.weights


def same_dimensions(model: Model) -> Model:
    """Return the MHA with the inner dimensions of an MLA model (the letter's `mha_large`)."""
    shape = model.attention
    assert isinstance(shape, LatentAttention)
    return _mha_like(model, "mha_large", shape.model_dim, shape.nope_dim)


def same_parameters(model: Model) -> Model:
    """Return the MHA scaled down to the parameters of an MLA model (the letter's `mha_scaled`).

    Model and head dimension shrink by one factor, each rounded down; on the letter's model this gives its
    Table 1 (4363 and 77).
    """
    shape = model.attention
    assert isinstance(shape, LatentAttention)
    factor = sqrt(parameters(model) / parameters(same_dimensions(model)))
    return _mha_like(model, "mha_scaled", int(shape.model_dim * factor), int(shape.nope_dim * factor))


def _mha_like(model: Model, name: str, model_dim: int, head_dim: int) -> Model:
    shape = model.attention
    assert isinstance(shape, LatentAttention)
    if shape.rope_dim:
        head_dim -= head_dim % 2  # RoPE rotates pairs
    rope_dim = head_dim if shape.rope_dim else 0
    attention = GroupedQueryAttention(
        model_dim=model_dim, heads=shape.heads, kv_heads=shape.heads, head_dim=head_dim, rope_dim=rope_dim
    )
    source = f"derived from {model.name} as the letter derives its Table 1 (arXiv 2506.02523)"
    return Model(name=name, source=source, layers=model.layers, attention=attention, precision=model.precision)
