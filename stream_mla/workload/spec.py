"""It says what is computed: the shape of one attention layer, the keys it sees, the tokens of one step, and the
precision.

Prefill and decode are not modes. A step computes `query_tokens` new tokens per request against
`cached_tokens` that are already in the cache; the keys attended are both together, as far as the mask lets a query
see them. Decode is `query_tokens=1`, prefill is `cached_tokens=0`, chunked prefill and speculative decode lie between.
"""

from dataclasses import dataclass, replace
from typing import cast

from stream_mla.errors import quoted
from stream_mla.units import Bits

MOST_TOKENS = 1 << 24
"""A request has at most this many tokens, 16.8 million: the longest contexts of published models have 10 million."""
MOST_REQUESTS = 1 << 16
"""A batch has at most this many requests: each has tiles of its own, and servers batch some thousands."""
_MOST = {
    **dict.fromkeys(("heads", "kv_heads", "layers"), 1 << 12),
    **dict.fromkeys(("query_tokens", "window", "chunk"), MOST_TOKENS),
    "batch": MOST_REQUESTS,
}
"""Counts are at most so large; published models have up to 256 heads and 200 layers."""
_MOST_SIZE = 1 << 20
"""Every other size is at most this: published models have up to 53,248 elements in any dimension."""


def _require_positive(owner: object, *names: str) -> None:
    """Refuse counts and sizes below 1, and those beyond anything published, which would take days to simulate."""
    for name in names:
        value = getattr(owner, name)
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {quoted(value)}")
        most = _MOST.get(name, _MOST_SIZE)
        if value > most:
            raise ValueError(f"{name} must be at most {most:,}, got {quoted(value)}")


@dataclass(frozen=True, kw_only=True)
class GroupedQueryAttention:
    """MHA (`kv_heads == heads`), GQA, or MQA (`kv_heads == 1`). All sizes in elements."""

    model_dim: int
    heads: int
    kv_heads: int
    head_dim: int
    """Dimensions of each head's queries and keys."""
    value_dim: int = cast(int, None)
    """Dimensions of each head's values; not given, it is `head_dim`, which is what MHA, GQA and MQA mean."""
    rope_dim: int
    """Dimensions of each head that are rotated, an even number: `head_dim` for Llama, less for partial RoPE, 0 for
    no RoPE.
    """
    output_gate: bool = False
    """Whether a gate is projected beside the query, by which the context is multiplied after a sigmoid
    (Gated Attention, arXiv 2505.06708)."""

    def __post_init__(self) -> None:
        if cast(int | None, self.value_dim) is None:
            object.__setattr__(self, "value_dim", self.head_dim)
        _require_positive(self, "model_dim", "heads", "kv_heads", "head_dim", "value_dim")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.rope_dim % 2 or not 0 <= self.rope_dim <= self.head_dim:
            raise ValueError(
                f"rope_dim must be an even number from 0 to head_dim ({self.head_dim}), got {self.rope_dim}"
            )

    @property
    def cache_elements(self) -> int:
        """Elements of the cache per token."""
        return self.kv_heads * (self.head_dim + self.value_dim)


@dataclass(frozen=True, kw_only=True)
class LatentAttention:
    """Multi-head Latent Attention (DeepSeek-V2, arXiv 2405.04434). All sizes in elements."""

    model_dim: int
    heads: int
    query_rank: int | None
    """Rank of the compressed query; None where the query is projected directly (DeepSeek-V2-Lite)."""
    kv_rank: int
    nope_dim: int
    rope_dim: int
    """Decoupled RoPE part per head; 0 leaves it out, as the letter does."""
    value_dim: int
    latent_norms: bool
    """RMSNorm on the query and key-value latents, as DeepSeek's models have; the letter leaves it out."""

    def __post_init__(self) -> None:
        _require_positive(self, "model_dim", "heads", "kv_rank", "nope_dim", "value_dim")
        if self.query_rank is not None:
            _require_positive(self, "query_rank")
        if self.rope_dim < 0 or self.rope_dim % 2:
            raise ValueError(f"rope_dim must be even and not negative, got {quoted(self.rope_dim)}")
        _require_positive(self, *(["rope_dim"] if self.rope_dim else []))

    @property
    def cache_elements(self) -> int:
        """Elements of the cache per token."""
        return self.kv_rank + self.rope_dim


Attention = GroupedQueryAttention | LatentAttention


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Bits per element of each kind of tensor."""

    weights: Bits
    cache: Bits
    activations: Bits
    partials: Bits
    """Unfinished sums and softmax statistics."""

    def __post_init__(self) -> None:
        _require_positive(self, "weights", "cache", "activations", "partials")


@dataclass(frozen=True, kw_only=True)
class Mask:
    """The keys that each query attends to. Query i of a step stands at position `cached_tokens + i` of its sequence."""

    causal: bool
    """Whether a query attends to no key behind its own position; without it, all keys of the step are attended."""
    window: int | None = None
    """Keys, its own among them, that a query attends to at most (sliding window); None where there is no window.
    A window needs `causal`."""
    chunk: int | None = None
    """Tokens of a chunk: a query attends to keys of its own chunk only (chunked attention); None for no chunks."""

    def __post_init__(self) -> None:
        for name in ("window", "chunk"):
            if getattr(self, name) is not None:
                _require_positive(self, name)
                if not self.causal:
                    raise ValueError(f"{name} needs a causal mask")


NO_MASK = Mask(causal=False)
"""Every query attends to every key, as the letter counts."""
CAUSAL = Mask(causal=True)
"""Every query attends to its own key and all before it, as in every decoder."""
MASKS = {"none": NO_MASK, "causal": CAUSAL}
"""Masks by the names that the command line knows them by."""


@dataclass(frozen=True, kw_only=True)
class LayerKind:
    """The attention layers of a model that are alike."""

    name: str
    layers: int
    """Layers of this kind in the whole model."""
    attention: Attention
    mask: Mask

    def __post_init__(self) -> None:
        _require_positive(self, "layers")


@dataclass(frozen=True, kw_only=True)
class Model:
    """One attention layer of a published model, with where its numbers come from."""

    name: str
    source: str
    layers: int
    """Attention layers in the whole model, of all kinds; one of them is simulated."""
    attention: Attention
    """The shape of the layer that is simulated."""
    precision: Precision
    """It is what the model is stored and run in; a run may override it."""
    mask: Mask = CAUSAL
    """The keys that each query of the simulated layer attends to; causal where a model does not say otherwise."""
    layer: str = ""
    """The kind of the layer that is simulated; empty where all layers are alike."""
    layer_kinds: tuple[LayerKind, ...] = ()
    """All kinds of attention layers, where there are several; empty where all layers are alike."""
    notes: tuple[str, ...] = ()
    """Sentences on what is left out or assumed of the published model; they follow every result."""

    def __post_init__(self) -> None:
        _require_positive(self, "layers")
        if not self.layer_kinds:
            if self.layer:
                raise ValueError(f"layer is {self.layer!r}, and there are no layer_kinds")
            return
        names = [kind.name for kind in self.layer_kinds]
        if len(set(names)) < len(names):
            raise ValueError(f"layer_kinds must have different names, got {', '.join(names)}")
        kinds = {kind.name: kind for kind in self.layer_kinds}
        if self.layer not in kinds:
            raise ValueError(f"layer must be one of layer_kinds ({', '.join(kinds)}), got {self.layer!r}")
        if (self.attention, self.mask) != (kinds[self.layer].attention, kinds[self.layer].mask):
            raise ValueError(f"attention and mask must be those of layer {self.layer}")
        if self.layers != (total := sum(kind.layers for kind in self.layer_kinds)):
            raise ValueError(f"layers must be the sum of layer_kinds ({total}), got {self.layers}")

    @property
    def kinds(self) -> tuple[LayerKind, ...]:
        """All kinds of attention layers, one at least."""
        alike = LayerKind(name=self.layer, layers=self.layers, attention=self.attention, mask=self.mask)
        return self.layer_kinds or (alike,)

    def with_layer(self, name: str) -> "Model":
        """Return the model with another kind of layer simulated; ValueError where there is none of this name."""
        kinds = {kind.name: kind for kind in self.layer_kinds}
        if name not in kinds:
            known = f"use one of {', '.join(kinds)}" if kinds else "all its layers are alike"
            raise ValueError(f"{self.name} has no layer kind {name!r}: {known}")
        return replace(self, layer=name, attention=kinds[name].attention, mask=kinds[name].mask)


_MASK_OF_MODEL = cast(Mask, None)
"""Stands in for the mask of a workload that is given none, until it takes its model's."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One step of one attention layer."""

    model: Model
    batch: int
    """Requests, each with a cache of its own."""
    query_tokens: int
    """New tokens per request."""
    cached_tokens: int
    """Tokens per request that are in the cache before the step."""
    precision: Precision
    mask: Mask = _MASK_OF_MODEL
    """The keys that each query attends to; not given, it is the model's. For one query token against all keys, causal
    is as good as no mask."""

    def __post_init__(self) -> None:
        if cast(Mask | None, self.mask) is None:
            object.__setattr__(self, "mask", self.model.mask)
        _require_positive(self, "batch", "query_tokens")
        if not 0 <= self.cached_tokens <= MOST_TOKENS:
            raise ValueError(f"cached_tokens must be from 0 to {MOST_TOKENS:,}, got {quoted(self.cached_tokens)}")

    @property
    def key_tokens(self) -> int:
        """Keys of the step: the cached tokens and the new ones. A mask may hide some of them from some queries."""
        return self.cached_tokens + self.query_tokens

    @property
    def context_tokens(self) -> int:
        """The N of `--context N`: the cached tokens; where nothing is cached (prefill), the new tokens."""
        return self.cached_tokens or self.query_tokens
