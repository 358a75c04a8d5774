"""MHA of the same dimensions or of as many parameters, and the count of parameters."""

from math import sqrt

from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.operator_graph import Role
from stream_mla.workload.spec import GroupedQueryAttention, LatentAttention, Model, Workload


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
    return Model(
        name=name,
        source=source,
        layers=model.layers,
        attention=attention,
        precision=model.precision,
        mask=model.mask,
    )
