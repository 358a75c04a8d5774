"""The shape of attention in each layer: grouped-query, or latent, from the sizes of a config and of its class."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from stream_mla.frontends.huggingface import families
from stream_mla.frontends.huggingface.class_defaults import GROUPED, LATENT
from stream_mla.frontends.huggingface.config import NAMES, Config, Keys
from stream_mla.frontends.huggingface.layers import FULL, SLIDING, Layer
from stream_mla.workload.spec import Attention, GroupedQueryAttention, LatentAttention

_OVERRIDES: Mapping[str, Mapping[str, str]] = {
    SLIDING: {
        "heads": "swa_num_attention_heads",
        "kv_heads": "swa_num_key_value_heads",
        "head_dim": "swa_head_dim",
        "value_dim": "swa_v_head_dim",
    },
    FULL: {"head_dim": "global_head_dim", "kv_heads": "num_global_key_value_heads"},
}
"""Label of a layer -> quantity -> the key that gives it for these layers alone."""

_SHARES = (
    "partial_rotary_factor",
    "rotary_pct",
    "rope_pct",
    "rotary_percentage",
    "rotary_emb_fraction",
    "rope_percent",
)
_ROTARY_DIMS = ("rotary_dim", "rotary_emb_dim", "rope_dim", "rotary_ndims")


def is_latent(keys: Keys) -> bool:
    """Whether a config describes latent attention: it gives a rank of keys and values, or parts of a head's keys."""
    stated = any(keys.config.get(name) is not None for part in ("kv_rank", "nope_dim") for name in NAMES[part])
    return stated or (keys.family in LATENT and not any(name in keys.config for name in NAMES["kv_heads"]))


def latent_attention(keys: Keys) -> LatentAttention | None:
    """Return latent attention, or None after noting what is wrong."""
    found = LATENT.get(keys.family)
    default = (
        dict(zip(("model_dim", "layers", "heads", "q", "c", "n", "p", "v"), found[1:], strict=True)) if found else {}
    )
    model_dim, heads = keys.size("model_dim", default.get("model_dim")), keys.size("heads", default.get("heads"))
    query_rank = keys.optional("query_rank")
    if not any(name in keys.config for name in NAMES["query_rank"]):
        if found is None:
            said = "required key 'q_lora_rank' is missing: add it, null where queries are not compressed"
            keys.problem(said, "q_lora_rank")
        else:
            query_rank = default.get("q")
            keys.defaults.append(f"q_lora_rank {'null' if query_rank is None else f'{query_rank:,}'}")
    value_default = default.get("v")
    if found and value_default is None and model_dim and heads:
        value_default = model_dim // heads
    sizes = {
        "kv_rank": keys.size("kv_rank", default.get("c")),
        "nope_dim": keys.size("nope_dim", default.get("n")),
        "rope_dim": keys.size("rope_dim", default.get("p"), least=0),
        "value_dim": keys.size("value_dim", value_default),
    }
    rope_dim = sizes["rope_dim"]
    if rope_dim is not None and rope_dim % 2:
        keys.problem(f"expected an even number, for RoPE rotates pairs, got {rope_dim}", keys.given("rope_dim"))
    keys.get(*NAMES["kv_heads"], *NAMES["head_dim"], "qk_head_dim", "num_key_value_heads", *_SHARES)
    if keys.problems:
        return None
    return LatentAttention(
        model_dim=cast(int, model_dim),
        heads=cast(int, heads),
        query_rank=query_rank,
        latent_norms=True,
        **cast(dict[str, int], sizes),
    )


@dataclass
class Grouped:
    """The sizes of grouped-query attention, of all layers and of those that have others."""

    keys: Keys
    model_dim: int | None
    heads: list[int | None]
    """Each layer has its own number of heads; the next three are per layer as well."""
    kv_heads: list[int | None]
    head_dim: list[int | None]
    value_dim: list[int | None]
    gate: bool
    made: dict[tuple[int, bool], Attention] = field(default_factory=dict[tuple[int, bool], Attention])

    def attention(self, layer: Layer) -> Attention | None:
        """Return the attention of one layer, or None after noting what is wrong."""
        number = layer.number
        heads, kv_heads, head_dim = self.heads[number], self.kv_heads[number], self.head_dim[number]
        value_dim = self.value_dim[number]
        if self.model_dim is None or heads is None or kv_heads is None or head_dim is None:
            return None
        if heads % kv_heads:
            self.keys.problem(
                f"expected a divisor of num_attention_heads ({heads}), got {kv_heads}", self.keys.given("kv_heads")
            )
        rope_dim = rope_dim_of(self.keys, head_dim, layer.label) if layer.rotates else 0
        if rope_dim is None or self.keys.problems:
            return None
        return GroupedQueryAttention(
            model_dim=self.model_dim,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            value_dim=value_dim or head_dim,
            rope_dim=rope_dim,
            output_gate=self.gate,
        )


def grouped_attention(keys: Keys, layers: Sequence[Layer], count: int) -> Callable[[Layer], Attention | None]:
    """Return the attention of each layer, as a function of the layer."""
    found = GROUPED.get(keys.family)
    names = ("model_dim", "layers", "heads", "kv_heads", "head_dim")
    default = dict(zip(names, found[1:], strict=True)) if found else {}
    model_dim = keys.size("model_dim", default.get("model_dim"))
    heads: list[int | None] = _per_layer(keys, "heads", count, lambda: keys.size("heads", default.get("heads")))
    per_layer = keys.numbers("num_attention_heads_per_layer")
    if per_layer is not None and len(per_layer) == count:
        heads = [*per_layer]
    kv_heads = _kv_heads(keys, heads, count, known=found is not None, default=default.get("kv_heads"))
    default_dim = default.get("head_dim")

    def head_dim() -> int | None:
        if default_dim is not None:
            return keys.size("head_dim", default_dim)
        given = keys.optional("head_dim")
        return given if given is not None else _divided(keys, model_dim, heads[0])

    value_dim = keys.optional("value_dim")
    grouped = Grouped(
        keys=keys,
        model_dim=model_dim,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=[head_dim()] * count,
        value_dim=[value_dim] * count,
        gate=_gate(keys),
    )
    _override(keys, grouped, layers)
    return grouped.attention


def _per_layer(keys: Keys, quantity: str, count: int, one: Callable[[], int | None]) -> list[int | None]:
    """Return a quantity for each layer, from a list of them or from one for all."""
    value = keys.get(*NAMES[quantity])
    if not isinstance(value, list):
        return [one()] * count
    key = keys.given(quantity)
    items = cast(list[object], value)
    if len(items) != count:
        keys.problem(f"expected one number for each of {count} layers, got {len(items)}", key)
        return [None] * count
    return [None if item == 0 else keys.whole(item, f"{key}[{number}]") for number, item in enumerate(items)]


def _kv_heads(
    keys: Keys, heads: Sequence[int | None], count: int, *, known: bool, default: int | None
) -> list[int | None]:
    """Return the key-value heads of each layer: never one per head where nothing says so."""
    blocks = keys.mappings("block_configs")
    if blocks is not None:
        return _kv_heads_of_blocks(keys, blocks, heads)
    given, shared = keys.get(*NAMES["kv_heads"]), _multi_query(keys)
    if shared is True:
        return [1] * count
    if shared is False:
        return list(heads)
    if given is not None:
        return _per_layer(keys, "kv_heads", count, lambda: keys.size("kv_heads"))
    if default is not None:
        return [keys.size("kv_heads", default)] * count
    if keys.family in families.ONE_PER_HEAD:
        return list(heads)
    if known:
        keys.defaults.append("num_key_value_heads as num_attention_heads")
        return list(heads)
    key = NAMES["kv_heads"][0]
    keys.problem(
        f"required key {key!r} is missing, and model_type {keys.config.get('model_type')!r} is not known to have one "
        "key-value head per head: add it, num_attention_heads for MHA",
        key,
    )
    return [None] * count


def _multi_query(keys: Keys) -> bool | None:
    """Return whether all heads share one key and value (True), each has its own (False), or numbers decide (None)."""
    several, new = keys.get("multi_query", "multi_query_attention"), keys.get("new_decoder_architecture")
    given = keys.get(*NAMES["kv_heads"]) is not None
    match keys.get("attn_config.attn_type"):
        case "multiquery_attention":
            return True
        case "multihead_attention":
            return False
        case _:
            pass
    if keys.family == "falcon" or new is not None:  # num_kv_heads counts in the new architecture only
        if new is not True and several is None:
            keys.defaults.append("multi_query true")
        return None if new is True else several is not False
    if several is False:
        return False
    if several is None and not given and keys.family in families.MULTI_QUERY:
        keys.defaults.append("multi_query true")
        return True
    return True if several is True and not given else None


def _kv_heads_of_blocks(keys: Keys, blocks: Sequence[Config], heads: Sequence[int | None]) -> list[int | None]:
    """Return the key-value heads of blocks that give the heads of a group (nemotron-nas); None without attention."""
    found: list[int | None] = []
    for number, block in enumerate(blocks):
        value = block.get("attention")
        attention = cast(Config, value) if isinstance(value, dict) else {"no_op": True}
        group, all_heads = attention.get("n_heads_in_group"), heads[min(number, len(heads) - 1)]
        kv_heads = attention.get("num_key_value_heads")
        path = f"block_configs[{number}].attention.n_heads_in_group"
        if attention.get("no_op") or attention.get("replace_with_linear") or all_heads is None:
            found.append(None)
        elif isinstance(kv_heads, int):
            found.append(keys.whole(kv_heads, path))
        elif (size := keys.whole(group, path)) is None:
            found.append(None)
        elif all_heads % size:
            keys.problem(f"expected a divisor of num_attention_heads ({all_heads}), got {size}", path)
            found.append(None)
        else:
            found.append(all_heads // size)
    return found


def _divided(keys: Keys, model_dim: int | None, heads: int | None) -> int | None:
    """Return the head dimension that transformers derives, or None after noting that it cannot be."""
    if model_dim is None or heads is None:
        return None
    if model_dim < heads:
        keys.problem(f"hidden_size ({model_dim}) is below num_attention_heads ({heads}): give head_dim", "head_dim")
        return None
    if model_dim % heads:
        said = f"hidden_size ({model_dim}) is not a multiple of num_attention_heads ({heads}): give head_dim"
        keys.problem(said, "head_dim")
        return None
    return model_dim // heads


def _gate(keys: Keys) -> bool:
    """Whether a gate as wide as the context multiplies it."""
    stated = keys.get(
        "attn_output_gate", "elementwise_attn_output_gate", "use_attn_output_gate", "attention_output_gate"
    )
    return keys.family in families.GATED if stated is None else stated is True


def _override(keys: Keys, grouped: Grouped, layers: Sequence[Layer]) -> None:
    """Give layers of one label the sizes that only they have; refuse these where no list says which layers they are."""
    labels = {layer.label for layer in layers}
    for label, names in _OVERRIDES.items():
        for quantity, key in names.items():
            value = keys.get(key)
            if value is None and key == "global_head_dim":
                value = families.GLOBAL_HEAD_DIM.get(keys.family)
            if value is None or (size := keys.whole(value, key)) is None:
                continue
            if key == "num_global_key_value_heads" and keys.config.get("attention_k_eq_v") is False:
                continue
            if SLIDING not in labels and getattr(grouped, quantity) != [size] * len(getattr(grouped, quantity)):
                keys.problem(
                    f"{key} is {size}, other than the size of the other layers, and nothing says which layers these "
                    "are: add layer_types",
                    key,
                )
                continue
            for layer in layers:
                if layer.label == label:
                    getattr(grouped, quantity)[layer.number] = size


def rope_dim_of(keys: Keys, head_dim: int, label: str) -> int | None:
    """Return the dimensions of a head that are rotated, an even number; None after noting that they cannot be."""
    rotary = keys.get(*_ROTARY_DIMS)
    kind = keys.get("position_embedding_type", "pos_emb", "position_encoding_type")
    alibi = keys.get("alibi", "use_alibi", "attn_config.alibi")
    rotates = keys.get("attn_config.rope")
    without = keys.family in families.WITHOUT_ROPE and rotates is not True and kind not in ("rope", "rotary")
    wide = keys.config.get("hidden_size")
    if keys.family == "baichuan" and isinstance(wide, int) and wide > 4096:
        alibi = True  # Baichuan-13B, whose config is that of the 7B model in all but sizes
        keys.notes.append("ALiBi left out") if "ALiBi left out" not in keys.notes else None
    if alibi is True or without or kind in ("nope", "alibi", "learned_absolute", "absolute", "learned", "none"):
        return 0
    if rotary is None and keys.family in families.ROTARY_DIM and not any(name in keys.config for name in _SHARES):
        rotary = families.ROTARY_DIM[keys.family]
        keys.defaults.append(f"rotary_dim {rotary}")
    key = next((name for name in (*_ROTARY_DIMS, *_SHARES) if keys.config.get(name) is not None), "head_dim")
    dimensions = _share_of(keys, head_dim, label) if rotary is None else keys.whole(rotary, key, least=0)
    if dimensions is None:
        return None
    if dimensions % 2 or dimensions > head_dim:
        keys.problem(
            f"RoPE rotates pairs: expected an even number of rotated dimensions of at most {head_dim}, "
            f"got {dimensions} of a head of {head_dim}",
            key,
        )
        return None
    return dimensions


def _share_of(keys: Keys, head_dim: int, label: str) -> int | None:
    """Return the rotated dimensions that a share of the head gives, rounded down as transformers does."""
    value, key = keys.get(*_SHARES), next((name for name in _SHARES if keys.config.get(name) is not None), _SHARES[0])
    for name in ("rope_parameters", "rope_scaling"):
        rope = keys.config.get(name)
        if value is None and isinstance(rope, dict):
            own = cast(Config, rope).get({FULL: "full_attention", SLIDING: "sliding_attention"}.get(label, ""))
            for source in (cast(Config, rope), own):
                if isinstance(source, dict) and cast(Config, source).get("partial_rotary_factor") is not None:
                    value, key = cast(Config, source)["partial_rotary_factor"], f"{name}.partial_rotary_factor"
    if value is None:
        family = keys.family
        share = families.ROTARY_SHARE.get(family, 0.25 if family == "gemma4" and label == FULL else 1.0)
        if share != 1.0 and (said := f"partial_rotary_factor {share:g}") not in keys.defaults:
            keys.defaults.append(said)
    elif (share := keys.share(value, key)) is None:
        return None
    return int(head_dim * share)
