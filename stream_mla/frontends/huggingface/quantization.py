"""The precision of a checkpoint: of what is not quantised, and of weights that are, where those of attention are.

Cache and activations have the precision of the config's dtype unless the config quantises the cache; scales and zero
points beside quantised weights (a few per cent) are not counted.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import cast

from stream_mla.frontends.huggingface.config import Config, Keys, shortened
from stream_mla.workload.spec import Precision

BITS_OF_DTYPE = {"bfloat16": 16, "float16": 16, "float32": 32, "half": 16, "float": 32}
PARTIAL_BITS = 32
"""Width of unfinished sums: matrix units that multiply 16 bit accumulate in 32 (NVIDIA H100 whitepaper)."""

_METHOD_BITS: Mapping[str, int] = {
    "fp8": 8,
    "fbgemm_fp8": 8,
    "finegrained_fp8": 8,
    "eetq": 8,
    "mxfp4": 4,
    "nvfp4": 4,
    "bitnet": 2,
    "int8": 8,
}
"""Method -> bits of a weight, where the method has one width only (transformers, utils/quantization_config.py)."""
_BIT_KEYS = ("bits", "w_bit", "nbits", "wbits", "num_bits", "weight_bits", "q_group_bits")
_SKIP_KEYS = (
    "modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules", "llm_int8_skip_modules", "skip_modules",
    "modules_not_to_convert", "exclude", "ignored_modules", "modules_to_exclude", "unquantized_modules",
    "exclude_layers",
)  # fmt: skip
"""Keys that list the modules whose weights stay as they were."""

_BLOCKS = ("self_attn", "attn", "attention", "self_attention", "mixer")
"""Names of attention in the modules of a layer."""
_PROJECTIONS = {
    "grouped": (
        ("q_proj", "qkv_proj", "query_key_value", "Wqkv", "c_attn", "wqkv"),
        ("k_proj", "qkv_proj", "query_key_value", "Wqkv", "c_attn", "wqkv"),
        ("v_proj", "qkv_proj", "query_key_value", "Wqkv", "c_attn", "wqkv"),
        ("o_proj", "out_proj", "dense", "c_proj", "wo"),
    ),
    "latent": (
        ("q_a_proj", "q_proj", "fused_qkv_a_proj_with_mqa"),
        ("q_b_proj", "q_proj"),
        ("kv_a_proj_with_mqa", "fused_qkv_a_proj_with_mqa"),
        ("kv_b_proj",),
        ("o_proj",),
    ),
}
"""The products of attention that have weights, each with the names of its module."""


def precision_of(merged: Config, keys: Keys, layers: Sequence[int], *, latent: bool) -> Precision | None:
    """Return the precision of a model whose attention lies in `layers`; None after noting what is wrong."""
    bits = _dtype_bits(merged, keys)
    config = merged.get("quantization_config") or merged.get("compression_config")
    weights, cache = bits, bits
    if isinstance(config, dict) and bits is not None:
        quantization = cast(Config, config)
        weights = _weight_bits(quantization, keys, layers, bits, latent=latent)
        cache = _cache_bits(quantization, keys) or bits
        if note := _activation_note(quantization, bits):
            keys.notes.append(note)
    if weights is None or bits is None or cache is None:
        return None
    return Precision(weights=weights, cache=cache, activations=bits, partials=PARTIAL_BITS)


def _dtype_bits(config: Config, keys: Keys) -> int | None:
    key = "dtype" if config.get("dtype") is not None else "torch_dtype"
    value = config.get(key)
    if value is None:
        keys.problems.append(f"required key 'torch_dtype' is missing: add it @ {key}")
        return None
    dtype = str(value).removeprefix("torch.")
    bits = 8 if dtype.startswith("float8") else BITS_OF_DTYPE.get(dtype)
    if bits is None:
        known = "bfloat16, float16, float32"
        keys.problems.append(f"{shortened(value)} is not a known dtype: use one of {known}, float8... @ {key}")
    return bits


def _weight_bits(config: Config, keys: Keys, layers: Sequence[int], bits: int, *, latent: bool) -> int | None:
    """Return the bits of attention weights: quantised, or those of the dtype where attention is left out."""
    method = str(config.get("quant_method") or config.get("quant_type") or config.get("quant_algo") or "")
    quantised = _quantised_bits(config, method)
    if quantised is None:
        keys.notes.append(
            f"weights in the dtype of the config ({bits} bit), quantization {method or 'of no name'} left out"
        )
        return bits
    kept = list(_kept(config, layers, "latent" if latent else "grouped"))
    if all(kept):
        return bits
    if not any(kept):
        return quantised
    share = sum(kept) / len(kept)
    chosen = bits if share >= 0.5 else quantised
    keys.notes.append(
        f"{share:.0%} of the projections of attention stay in {bits} bit, the others have {quantised}: "
        f"all are taken with {chosen} bit"
    )
    return chosen


def _quantised_bits(config: Config, method: str) -> int | None:
    """Return the bits of a quantised weight, or None where they cannot be told."""
    groups = config.get("config_groups")
    if isinstance(groups, dict):
        for group in cast(dict[str, Config], groups).values():
            weights = group.get("weights") if isinstance(cast(object, group), dict) else None
            if isinstance(weights, dict) and _targets_attention(group.get("targets")):
                return _whole(cast(Config, weights).get("num_bits"))
        return 0 if groups else None  # no group has attention: see `_kept`
    if method.startswith("bitsandbytes"):
        return 4 if config.get("load_in_4bit") or config.get("_load_in_4bit") else 8
    return _stated_bits(config) or _METHOD_BITS.get(method) or _bits_in_name(config, method)


def _stated_bits(config: Config) -> int | None:
    """Return the bits that a config gives as a number, by itself or in a part on weights."""
    nested = _part(config, "quant_config")
    for found in (config, _part(nested, "weight_quant_params"), nested, _part(config, "weight")):
        if found:
            bits = next((_whole(found.get(key)) for key in _BIT_KEYS if key in found), None)
            if bits is not None:
                return bits
    return None


def _part(config: Config, key: str) -> Config:
    """Return the mapping under a key, or an empty one."""
    value = config.get(key)
    return cast(Config, value) if isinstance(value, dict) else {}


def _bits_in_name(config: Config, method: str) -> int | None:
    """Return the bits that the name of a method or of its algorithm tells, as `W4A16` or `int8` do."""
    algorithm = str(config.get("quant_algo") or "").upper()
    for name, width in (("FP4", 4), ("W4", 4), ("FP8", 8), ("INT8", 8), ("W8", 8)):
        if name in algorithm:
            return width
    named = re.search(r"(?:int|fp|nf|w|float)_?([1-8])(?!\d)", f"{method} {config.get('weights') or ''}".lower())
    return int(named.group(1)) if named else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 32 else None


def _targets_attention(targets: object) -> bool:
    """Whether the targets of a group of compressed-tensors are all linear layers, or those of attention."""
    if not isinstance(targets, list):
        return True
    names = [
        f"model.layers.0.{block}.{name}" for block in _BLOCKS for name in ("q_proj", "qkv_proj", "o_proj", "kv_b_proj")
    ]
    found = cast(list[object], targets)
    return any(str(target) == "Linear" or any(_matches(str(target), name) for name in names) for target in found)


def _kept(config: Config, layers: Sequence[int], kind: str) -> Iterator[bool]:
    """Yield, for each layer and each projection of attention, whether its weights stay as they were."""
    groups = config.get("config_groups")
    if isinstance(groups, dict) and _quantised_bits(config, "") == 0:
        yield True
        return
    lists = (config.get(key) for key in _SKIP_KEYS)
    patterns = [str(item) for found in lists if isinstance(found, list) for item in cast(list[object], found)]
    modules = _module_names(config)
    # patterns without a digit say the same of all layers, and most others name one layer
    of_all = [pattern for pattern in patterns if not any(sign.isdigit() for sign in pattern)]
    of_one: dict[int, list[str]] = {}
    others: list[str] = []
    for pattern in (pattern for pattern in patterns if any(sign.isdigit() for sign in pattern)):
        named = _ONE_LAYER.search(pattern)
        if named is not None and not pattern.startswith("re:"):
            of_one.setdefault(int(named.group(1)), []).append(pattern)
        else:
            others.append(pattern)
    everywhere = [_found(of_all, _names_of(0, aliases)) for aliases in _PROJECTIONS[kind]]
    for number in layers:
        own = [*of_one.get(number, ()), *others]
        for aliases, always in zip(_PROJECTIONS[kind], everywhere, strict=True):
            names = _names_of(number, aliases)
            yield always or _found(own, names) or (bool(modules) and not _found(modules, names))


_ONE_LAYER = re.compile(r"layers\.(\d{1,6})(?:\.|$)")
"""The number of a layer in the path of a module."""


def _names_of(number: int, aliases: Sequence[str]) -> list[str]:
    """Return the paths that a projection of one layer may have."""
    return [f"model.layers.{number}.{block}.{alias}" for block in _BLOCKS for alias in aliases]


def _found(patterns: Sequence[str], names: Sequence[str]) -> bool:
    """Whether any pattern means any of the modules."""
    return any(_matches(pattern, name) for pattern in patterns for name in names)


def _module_names(config: Config) -> list[str]:
    """Return the modules that are quantised, where only these are listed (GPTQ's `modules_in_block_to_quantize`)."""
    listed = config.get("modules_in_block_to_quantize")
    if not isinstance(listed, list):
        return []
    return [
        str(name)
        for entry in cast(list[object], listed)
        for name in (cast(list[object], entry) if isinstance(entry, list) else [entry])
    ]


def _matches(pattern: str, name: str) -> bool:
    """Whether a pattern means a module: a regex after `re:`, a glob, or components of its path."""
    if pattern.startswith("re:"):
        return _regex(pattern[3:], name)
    if (
        any(sign in pattern for sign in "*?[")
        and ".*" not in pattern
        and not any(sign in pattern for sign in "\\^$()|")
    ):
        wide = pattern if pattern.startswith("*") else f"*{_tail(pattern)}"
        return fnmatchcase(name, wide) or fnmatchcase(name, f"{wide}.*") or fnmatchcase(f"{name}.weight", wide)
    if any(sign in pattern for sign in "\\^$()|*+"):
        return _regex(pattern, name)
    wanted, parts = _tail(pattern).removesuffix(".weight").split("."), name.split(".")
    return any(parts[start : start + len(wanted)] == wanted for start in range(len(parts) - len(wanted) + 1))


def _regex(pattern: str, name: str) -> bool:
    """Whether a regular expression finds a module, whatever stands before its layers; a broken one finds none."""
    starts = (name, f"language_model.{name}", f"model.language_model.{name.removeprefix('model.')}")
    try:
        return any(re.match(pattern, start) is not None for start in starts)
    except re.error:
        return False


def _tail(pattern: str) -> str:
    """Return a path of modules from its layers on, for models nest them under different names."""
    index = pattern.find("layers.")
    return pattern[index:] if index >= 0 else pattern


def _cache_bits(config: Config, keys: Keys) -> int | None:
    """Return the bits of a cache that the config quantises, or None."""
    scheme = config.get("kv_cache_scheme")
    algorithm = str(config.get("kv_cache_quant_algo") or "")
    bits = _whole(cast(Config, scheme).get("num_bits")) if isinstance(scheme, dict) else None
    if bits is None and (found := re.search(r"(?:FP|INT)(\d)", algorithm)):
        bits = int(found.group(1))
    if bits is not None:
        keys.notes.append(f"cache in {bits} bit, as quantization_config asks for")
    return bits


def _activation_note(config: Config, bits: int) -> str | None:
    """Say that activations are quantised before products, where they are; the model multiplies them in full width."""
    groups = config.get("config_groups")
    inputs = [
        group.get("input_activations")
        for group in cast(dict[str, Config], groups).values()
        if isinstance(cast(object, group), dict)
    ] if isinstance(groups, dict) else []  # fmt: skip
    if config.get("activation_scheme") or any(inputs):
        return f"activations are multiplied in {bits} bit, their quantization before each product left out"
    return None
