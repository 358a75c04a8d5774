"""Models from the `config.json` of a Hugging Face repository.

Two families are understood: DeepSeek's (`kv_lora_rank`) and Llama's, alone or nested in the config of a
multimodal model. Cache and activations have the precision of the checkpoint's dtype, and so have the weights,
unless they are stored in fp8; partial sums are 32 bit. What a config says beyond that and this package does not
model is named in the `source` of the model, so that no result hides it.
"""

from collections.abc import Iterator
from typing import cast

from stream_mla.errors import SpecError
from stream_mla.workload.spec import Attention, GroupedQueryAttention, LatentAttention, Model, Precision

Config = dict[str, object]

_NESTED = ("text_config", "language_config", "llm_config")
"""Where multimodal models keep the config of their language model."""
_LATENT_KEYS = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
_COMMON = ("hidden_size", "num_attention_heads", "num_hidden_layers")
_BITS_OF_DTYPE = {"bfloat16": 16, "float16": 16, "float32": 32}
_PARTIAL_BITS = 32


class _Keys:
    """Takes sizes out of a config and notes what is wrong with them."""

    def __init__(self, config: Config, path: str) -> None:
        self.config = config
        self.path = path
        self.problems: list[str] = []

    def note(self, problem: str, key: str) -> None:
        """Note a problem of one key."""
        self.problems.append(f"{problem} @ {self.path}{key}")

    def size(self, key: str, least: int = 1) -> int:
        """Return a required whole number, or `least` after noting what is wrong."""
        if key not in self.config:
            self.note(f"required key {key!r} is missing: add it", key)
            return least
        value = self.config[key]
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return value
        self.note(f"expected a whole number of at least {least}, got {value!r}", key)
        return least

    def optional_size(self, key: str) -> int | None:
        """Return a size that may be null or absent."""
        return None if self.config.get(key) is None else self.size(key)


def model_of(config: Config, *, name: str, where: str) -> Model:
    """Return the model that a config describes; SpecError with all problems where it describes none."""
    nested = next((key for key in _NESTED if isinstance(config.get(key), dict)), None)
    inner = config if nested is None else cast(Config, config[nested])
    keys = _Keys(inner, f"{nested}." if nested else "")
    # The outer config of a multimodal model says what the inner one leaves out, such as the dtype.
    merged = config | inner
    latent = inner.get("kv_lora_rank") is not None
    if not latent and not any(key in inner for key in _COMMON):
        raise SpecError(where, [_no_family(merged, nested)])
    layers = keys.size("num_hidden_layers")
    precision = _precision(merged, keys)
    attention = _latent(keys) if latent else _grouped_query(keys)
    if attention is None:
        raise SpecError(where, keys.problems)
    source = "; ".join([f"config.json of {name}", *_not_modelled(merged)])
    return Model(name=name, source=source, layers=layers, attention=attention, precision=precision)


def _no_family(config: Config, nested: str | None) -> str:
    return (
        f"model_type {config.get('model_type')!r} is of no known family: a config needs {', '.join(_COMMON)}, and for "
        f"latent attention {', '.join(_LATENT_KEYS)}; write a model file instead @ {nested or 'top level'}"
    )


def _latent(keys: _Keys) -> Attention | None:
    if "q_lora_rank" not in keys.config:
        keys.note("required key 'q_lora_rank' is missing: add it, null where queries are not compressed", "q_lora_rank")
    sizes = {
        "model_dim": keys.size("hidden_size"),
        "heads": keys.size("num_attention_heads"),
        "kv_rank": keys.size("kv_lora_rank"),
        "nope_dim": keys.size("qk_nope_head_dim"),
        "rope_dim": keys.size("qk_rope_head_dim", least=0),
        "value_dim": keys.size("v_head_dim"),
    }
    query_rank = keys.optional_size("q_lora_rank")
    if sizes["rope_dim"] % 2:
        keys.note(f"expected an even number, got {sizes['rope_dim']}", "qk_rope_head_dim")
    return None if keys.problems else LatentAttention(query_rank=query_rank, latent_norms=True, **sizes)


def _grouped_query(keys: _Keys) -> Attention | None:
    """As in transformers: one key-value head per head, and a head of hidden_size // heads, where the config is mute."""
    model_dim = keys.size("hidden_size")
    heads = keys.size("num_attention_heads")
    kv_heads = keys.optional_size("num_key_value_heads") or heads
    head_dim = keys.optional_size("head_dim") or model_dim // heads
    if not keys.problems and heads % kv_heads:
        keys.note(f"expected a divisor of num_attention_heads ({heads}), got {kv_heads}", "num_key_value_heads")
    if not keys.problems and head_dim < 1:
        keys.note(f"hidden_size ({model_dim}) is below num_attention_heads ({heads}): give head_dim", "head_dim")
    if keys.problems:
        return None
    return GroupedQueryAttention(
        model_dim=model_dim, heads=heads, kv_heads=kv_heads, head_dim=head_dim, rope_dim=head_dim
    )


def _precision(config: Config, keys: _Keys) -> Precision:
    key = "dtype" if "dtype" in config else "torch_dtype"
    dtype = str(config.get(key)).removeprefix("torch.")
    bits = 8 if dtype.startswith("float8") else _BITS_OF_DTYPE.get(dtype)
    if bits is None:
        keys.problems.append(
            f"required key 'torch_dtype' is missing: add it @ {key}"
            if key not in config
            else f"{config[key]!r} is not a known dtype: use one of {', '.join(_BITS_OF_DTYPE)}, float8... @ {key}"
        )
    bits = bits or _PARTIAL_BITS
    weights = 8 if _quantization(config) == "fp8" else bits
    return Precision(weights=weights, cache=bits, activations=bits, partials=_PARTIAL_BITS)


def _quantization(config: Config) -> object:
    quantization = config.get("quantization_config")
    return cast(Config, quantization).get("quant_method") if isinstance(quantization, dict) else None


def _not_modelled(config: Config) -> Iterator[str]:
    """Yield what the config says about attention and the model leaves out."""
    if (method := _quantization(config)) not in (None, "fp8"):
        yield f"weights in the dtype of the config, quantization {method} left out"
    if config.get("index_topk"):
        yield "every query attends to all keys, index_topk left out"
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        yield "every query attends to all keys, sliding_window left out"
    if config.get("partial_rotary_factor", 1) not in (None, 1):
        yield "RoPE on whole heads, partial_rotary_factor left out"
