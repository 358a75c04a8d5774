"""Which layers have attention, and which keys each of them sees.

A config says it in one of many ways: a list of layer types, a pattern, a period and an offset, indices of layers. Each
rule below reads one of them and returns the label of every layer, or None where the config does not use it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from stream_mla.frontends.huggingface import families
from stream_mla.frontends.huggingface.class_defaults import WINDOWS
from stream_mla.frontends.huggingface.config import NAMES, Config, Keys, shortened
from stream_mla.workload.spec import CAUSAL, NO_MASK, Mask

FULL, SLIDING, CHUNKED, CROSS = "full", "sliding", "chunked", "cross-attention"
ATTENDING = (FULL, SLIDING, CHUNKED)
"""Labels of layers that attend to the cache of their own tokens; other labels say what a layer does instead."""

_LABELS = {
    **dict.fromkeys(
        families.names(
            "full_attention attention full global global_attention hybrid hybrid_attention softmax_attention softmax "
            "attn indexed_attention deepseek_sparse_attention self_attention * A"
        ),
        FULL,
    ),
    **dict.fromkeys(
        families.names(
            "sliding_attention sliding local local_attention swa sliding_window sliding_window_attention "
            "window_attention L S"
        ),
        SLIDING,
    ),
    **dict.fromkeys(families.names("chunked_attention chunked"), CHUNKED),
    **dict.fromkeys(families.names("cross_attention cross"), CROSS),
    **{
        name: name
        for name in families.names("linear_attention mamba mamba2 conv recurrent ssm rglru gdn kda mlp moe rwkv")
    },
    **dict.fromkeys(("lightning_attention", "linear", "gated_deltanet", "short_conv", "no_op"), "linear_attention"),
    "M": "mamba",
    "-": "mlp",
    "E": "moe",
}
"""It is what configs call a layer -> its label."""

_PLACES = (
    "layer_types", "layers_block_type", "layer_block_types", "block_types", "hybrid_override_pattern", "layer_pattern",
    "full_attention_interval", "layer_group_size", "attn_layer_period", "attn_layer_offset", "attn_layer_indices",
    "full_attn_idxs", "hybrid_layer_ids", "hybrid_layer_pattern", "sliding_window_pattern", "_sliding_window_pattern",
    "global_attn_every_n_layers", "no_rope_layers", "no_rope_layer_interval", "use_sliding_window", "max_window_layers",
    "attn_type_list",
)  # fmt: skip
"""Keys that say where layers of a kind are; where several are given, the rule that is tried first decides."""

Labels = list[str]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer that has attention: its label, its mask, and whether it rotates queries and keys."""

    number: int
    label: str
    mask: Mask
    rotates: bool


def attention_layers(keys: Keys, count: int) -> list[Layer]:
    """Return the layers that have attention; the others are named in the notes."""
    keys.asked.update(_PLACES)
    rotated = _rotated(keys, count)
    labels = next((found for rule in _RULES if (found := rule(keys, count)) is not None), None)
    if labels is None:
        labels = _by_family(keys, count)
    if len(labels) != count:
        key = NAMES["layers"][0]
        keys.problem(f"the types of {len(labels)} layers are given, and there are {count}: make them agree", key)
        return []
    labels = _without_cross(keys, labels)
    masks = {label: _mask(keys, label, labels) for label in dict.fromkeys(labels) if label in ATTENDING}
    _note_others(keys, labels)
    if not masks:
        keys.problem("no layer has attention", keys.given("layers"))
    if SLIDING in masks and FULL in masks and keys.family in families.ROPE_IN_SLIDING_LAYERS_ONLY:
        rotated = [label != FULL for label in labels]
    return [
        Layer(number=number, label=label, mask=masks[label], rotates=rotated[number])
        for number, label in enumerate(labels)
        if label in masks
    ]


def _note_others(keys: Keys, labels: Labels) -> None:
    """Note the layers that have no attention of the kind modelled."""
    others: dict[str, int] = {}
    for label in labels:
        if label not in ATTENDING:
            others[label] = others.get(label, 0) + 1
    if others:
        told = ", ".join(f"{number} {label}" for label, number in others.items())
        keys.notes.append(f"{sum(others.values())} of {len(labels)} layers have no such attention, left out: {told}")


def window_of(keys: Keys) -> int | None:
    """Return the keys that a query of a sliding layer sees, or None where no window is given; -1 stands for none."""
    value = keys.get(*NAMES["window"])
    if value in (0, -1, False):
        return None
    return keys.optional("window")


def _mask(keys: Keys, label: str, labels: Labels) -> Mask:
    """Return the mask of the layers of one label."""
    if not _causal(keys):
        if label != FULL:
            keys.notes.append(f"{label} layers without a causal mask: every query attends to all keys")
        return NO_MASK
    if label == SLIDING:
        window, default = window_of(keys), WINDOWS.get(keys.family)
        if window is None and default is not None:
            keys.defaults.append(f"sliding_window {default:,}")
            window = default
        if window is None:
            number = labels.count(SLIDING)
            keys.problem(f"required key 'sliding_window' is missing: {number} layers slide, add it", "sliding_window")
        return Mask(causal=True, window=window)
    if label == CHUNKED:
        return Mask(causal=True, chunk=keys.size("chunk"))
    return CAUSAL


def _causal(keys: Keys) -> bool:
    """Whether queries see no keys behind them."""
    both = keys.get("use_bidirectional_attention")
    if both in (True, "all") or False in (keys.get("is_causal"), keys.get("causal"), keys.get("use_causal_mask")):
        return False
    return keys.family not in families.BIDIRECTIONAL or keys.get("is_decoder") is True


def _rotated(keys: Keys, count: int) -> list[bool]:
    """Return, for each layer, whether it rotates queries and keys as far as lists of layers say."""
    given = keys.get("no_rope_layers")  # 1 stands for a layer with RoPE, in spite of the name
    interval = keys.get("no_rope_layer_interval", "nope_layer_interval")
    if isinstance(given, list) and len(cast(list[object], given)) == count:
        return [bool(item) for item in cast(list[object], given)]
    if isinstance(interval, int) and interval > 0:
        return [bool((number + 1) % interval) for number in range(count)]
    if keys.family in ("llama4", "smollm3"):
        return [bool((number + 1) % 4) for number in range(count)]  # no_rope_layer_interval 4 of both classes
    return [True] * count


def _type_lists(keys: Keys, count: int) -> Labels | None:
    """Lists of layer types, which some configs repeat, and patterns of letters."""
    for key in ("layer_types", "layers_block_type", "layer_block_types", "block_types", "attn_type_list", "attn_types"):
        value = keys.get(key)
        if isinstance(value, list) and value:
            names = cast(list[object], value)
            if key == "block_types":  # of RecurrentGemma, whose attention has a window
                names = [SLIDING if name == "attention" else name for name in (names * count)[:count]]
            if key == "attn_type_list":  # of MiniMax-Text-01: 0 is lightning attention
                names = ["full" if name == 1 else "linear" for name in names]
            return _labelled(keys, key, names)
    pattern = keys.get("hybrid_override_pattern", "layer_pattern")
    if isinstance(pattern, str):
        return _labelled(keys, "hybrid_override_pattern", list(pattern))
    return None


def _labelled(keys: Keys, key: str, names: Sequence[object]) -> Labels:
    """Return the labels of layer types; one that is not known is refused."""
    if unknown := [str(name) for name in dict.fromkeys(map(str, names)) if name not in _LABELS]:
        known = ", ".join(name for name in _LABELS if len(name) > 1)
        keys.problem(f"{' and '.join(unknown)} is no known type of layer: use {known}", key)
    return [_LABELS.get(str(name), FULL) for name in names]


def _periods(keys: Keys, count: int) -> Labels | None:
    """One layer of attention in so many."""
    interval, grouped = keys.get("full_attention_interval"), keys.get("layer_group_size")
    every = interval if interval is not None else grouped
    if isinstance(every, int) and every > 0:
        return [FULL if (number + 1) % every == 0 else "linear_attention" for number in range(count)]
    period, offset = keys.get("attn_layer_period"), keys.get("attn_layer_offset")
    if isinstance(period, int) and period > 0:
        offset = offset if isinstance(offset, int) else 0
        return [FULL if number % period == offset else "mamba" for number in range(count)]
    return None


def _indices(keys: Keys, count: int) -> Labels | None:
    """Indices of the layers with attention."""
    for key, other in (
        ("attn_layer_indices", "mamba"),
        ("full_attn_idxs", "conv"),
        ("full_attention_layers", "linear_attention"),
        ("hybrid_layer_ids", "mamba"),
    ):
        if (numbers := keys.numbers(key)) is not None:
            return [FULL if number in numbers else other for number in range(count)]
    if (numbers := keys.numbers("linear_attn_config.full_attn_layers")) is not None:  # counted from 1
        return [FULL if number + 1 in numbers else "linear_attention" for number in range(count)]
    if (numbers := keys.numbers("linear_attn_config.kda_layers")) is not None:
        return ["linear_attention" if number + 1 in numbers else FULL for number in range(count)]
    return None


def _blocks(keys: Keys, count: int) -> Labels | None:
    """Blocks of their own kind each (nemotron-nas): some have no attention, or a linear layer in its place."""
    blocks = keys.mappings("block_configs")
    if blocks is None:
        return None
    labels: Labels = []
    for number, block in enumerate(blocks):
        value = block.get("attention")
        attention = cast(Config, value) if isinstance(value, dict) else {"no_op": True}
        if attention.get("no_op") or attention.get("replace_with_linear"):
            labels.append("no_op" if attention.get("no_op") else "linear")
        else:
            labels.append(FULL)
        for key in ("window_length", "sparsify", "llama4", "num_sink_tokens"):
            if attention.get(key):
                said = f"{key} {shortened(attention[key])} is not read: write a model file instead"
                keys.problem(said, f"block_configs[{number}].attention.{key}")
    return labels


def _windows(keys: Keys, count: int) -> Labels | None:
    """Patterns of sliding and full layers."""
    hybrid = keys.numbers("hybrid_layer_pattern")
    if hybrid is not None:  # of MiMo: 1 is a sliding layer
        return [SLIDING if item else FULL for item in hybrid]
    types = keys.get("attention_types")  # of GPT-Neo: pairs of types and how often they come
    if isinstance(types, list):
        try:
            pairs = [(list(names), int(times)) for names, times in cast(list[tuple[list[object], int]], types)]
        except (TypeError, ValueError):
            keys.problem(
                f"expected pairs of types and a number, got {shortened(cast(object, types))}", "attention_types"
            )
            return [FULL] * count
        names = [name for names, times in pairs for _ in range(min(times, count)) for name in names]
        return _labelled(keys, "attention_types", names)
    pattern = keys.get("sliding_window_pattern", "_sliding_window_pattern", "global_attn_every_n_layers")
    if isinstance(pattern, str) and pattern:
        repeated = (pattern * count)[:count]
        return [SLIDING if letter == "L" else FULL for letter in repeated]
    if isinstance(pattern, int) and pattern > 0 and (window_of(keys) or keys.family in WINDOWS):
        return _full_every(pattern, count)
    return None


def _chunks(keys: Keys, count: int) -> Labels | None:
    """Chunked attention: of the layers that rotate, as in Llama 4, where every fourth does not."""
    if keys.optional("chunk") is None:
        return None
    rotated = _rotated(keys, count)
    if all(rotated):
        keys.notes.append("every 4th layer is taken as one of full attention, as in Llama 4 (no_rope_layer_interval 4)")
        rotated = [bool((number + 1) % 4) for number in range(count)]
    return [CHUNKED if item else FULL for item in rotated]


def _full_every(every: int, count: int) -> Labels:
    return [SLIDING if (number + 1) % every else FULL for number in range(count)]


_RULES: tuple[Callable[[Keys, int], Labels | None], ...] = (_blocks, _type_lists, _periods, _indices, _windows, _chunks)
"""Ways to say which layers have which attention, in the order in which they are looked for."""


def _by_family(keys: Keys, count: int) -> Labels:
    """Return what the code of the family does, or layers that are all alike."""
    family = keys.family
    if family in families.LINEAR_BUT_EVERY:
        every = families.LINEAR_BUT_EVERY[family]
        keys.defaults.append(f"one layer of full attention in {every}")
        return [FULL if (number + 1) % every == 0 else "linear_attention" for number in range(count)]
    if family in families.LAYERS_TO_BE_STATED:
        key = families.LAYERS_TO_BE_STATED[family]
        keys.problem(f"required key {key!r} is missing, which says what layers have attention: add it", key)
        return [FULL] * count
    window = window_of(keys)
    off = keys.get("use_sliding_window")
    first = keys.get("max_window_layers")
    if off is False or (off is None and family in families.WINDOW_UNLESS_OFF):
        return [FULL] * count
    stated = any(name in keys.config for name in NAMES["window"])
    if window is None and (stated or family not in WINDOWS):
        return [FULL] * count
    if family in families.FULL_EVERY:
        every = families.FULL_EVERY[family]
        keys.defaults.append(f"one layer of full attention in {every}")
        labels = _full_every(every, count)
        return [*labels[:-1], FULL] if family == "gemma4" else labels
    if family in families.FULL_FIRST_OF:
        every = families.FULL_FIRST_OF[family]
        keys.defaults.append(f"one layer of full attention in {every}")
        return [SLIDING if number % every else FULL for number in range(count)]
    if family == "mimo_v2_flash":  # the layer_types of MiMoV2FlashConfig
        keys.defaults.append("full attention in layer 0 and in every 6th")
        return [FULL, *_full_every(6, count)[1:]]
    if family in families.WINDOW_UNLESS_OFF and isinstance(first, int):
        return [SLIDING if number >= first else FULL for number in range(count)]
    if family in families.WITHOUT_WINDOW:
        keys.notes.append(f"the code of {family} has no window: sliding_window {window} is taken for all layers")
    return [SLIDING] * count


def _without_cross(keys: Keys, labels: Labels) -> Labels:
    """Label the layers that attend to an image instead of the tokens."""
    numbers = keys.numbers("cross_attention_layers")
    if numbers is None and keys.family == "mllama":
        numbers = list(range(3, len(labels), 5))
        keys.defaults.append(f"cross_attention_layers {numbers}")
    if not numbers:
        return labels
    keys.notes.append(f"cross_attention_layers {shortened(numbers)} attend to an image, not to the context")
    return [CROSS if number in numbers else label for number, label in enumerate(labels)]
