"""Models from `config.json`: what the config says, what its class leaves unsaid, and what this package leaves out.

A config is read in the words of its family. Sizes come under every common name; what a well-known class gives by
default is taken from a table and noted; what is nowhere said is asked for. What changes shapes and is not modelled is
refused, what changes the work is noted, and a key that is in no table is named, so that nothing is read out of
silence. The notes follow every result.
"""

from collections.abc import Sequence
from typing import cast

from stream_mla.errors import SpecError
from stream_mla.frontends.huggingface import families, key_table
from stream_mla.frontends.huggingface.attention import grouped_attention, is_latent, latent_attention
from stream_mla.frontends.huggingface.class_defaults import GROUPED, LATENT, VERSION
from stream_mla.frontends.huggingface.config import MOST_LAYERS, NAMES, NESTED, Config, Keys
from stream_mla.frontends.huggingface.layers import CHUNKED, FULL, Layer, attention_layers
from stream_mla.frontends.huggingface.quantization import precision_of
from stream_mla.workload.spec import Attention, LayerKind, Model


def model_of(config: Config, *, name: str, where: str) -> Model:
    """Return the model that a config describes; SpecError with all problems where it describes none."""
    inner, path, merged = _language_model(config)
    model_type = inner.get("model_type") or config.get("model_type")
    family = families.family_of(model_type)
    keys = Keys(inner, path, family)
    keys.get("model_type")
    if (reason := families.REFUSED.get(family)) is not None:
        raise SpecError(where, [f"model_type {model_type!r} is refused: {reason} @ {path}model_type"])
    known = family in GROUPED or family in LATENT
    if not known and not any(key in inner for part in ("model_dim", "heads", "kv_rank") for key in NAMES[part]):
        raise SpecError(where, [_no_family(model_type, path)])
    count = _layer_count(keys)
    layers = attention_layers(keys, count) if count else []
    latent = is_latent(keys)
    kinds = _kinds(keys, layers, count or 1, latent=latent)
    precision = precision_of(merged, keys, [layer.number for layer in layers], latent=latent)
    notes = _notes(keys, config, inner, kinds)
    if keys.problems or not kinds or precision is None:
        raise SpecError(where, keys.problems)
    shown = shown_of(kinds)
    several = len(kinds) > 1
    return Model(
        name=name,
        source=f"config.json of {name}",
        layers=sum(kind.layers for kind in kinds),
        attention=shown.attention,
        precision=precision,
        mask=shown.mask,
        layer=shown.name if several else "",
        layer_kinds=tuple(kinds) if several else (),
        notes=tuple(notes),
    )


def shown_of(kinds: Sequence[LayerKind]) -> LayerKind:
    """Return the kind that is simulated unless asked otherwise: full attention, which reads the most; else the most
    numerous.
    """
    return next((kind for kind in kinds if kind.name == FULL), max(kinds, key=lambda kind: kind.layers))


def _language_model(config: Config) -> tuple[Config, str, Config]:
    """Return the config of the language model, its path, and all configs around it with what it leaves out."""
    inner, path, merged = config, "", dict(config)
    while (key := next((name for name in NESTED if isinstance(inner.get(name), dict)), None)) is not None:
        inner = cast(Config, inner[key])
        path += f"{key}."
        merged |= inner
    return inner, path, merged


def _no_family(model_type: object, path: str) -> str:
    common = ", ".join(NAMES[part][0] for part in ("model_dim", "heads", "kv_heads", "layers"))
    latent = ", ".join(NAMES[part][0] for part in ("query_rank", "kv_rank", "nope_dim", "rope_dim", "value_dim"))
    return (
        f"model_type {model_type!r} is of no known family, and no sizes are given: a config needs {common}, and for "
        f"latent attention {latent}; write a model file instead @ {path or 'top level'}"
    )


def _layer_count(keys: Keys) -> int | None:
    """Return the attention layers that a config counts, those without attention among them."""
    found = GROUPED.get(keys.family) or LATENT.get(keys.family)
    blocks = next(
        (keys.config[k] for k in ("block_configs", "layers_block_type") if isinstance(keys.config.get(k), list)), None
    )
    default = found[2] if found else None
    pattern = keys.config.get("hybrid_override_pattern") or blocks
    if default is None and isinstance(pattern, list | str) and pattern:
        default = len(cast(list[object], pattern))
    times = families.ATTENTIONS_PER_LAYER.get(keys.family, 1)
    if times > 1 and isinstance(keys.config.get("num_layers"), int):
        count = keys.whole(keys.get("num_layers"), "num_layers")
        keys.get(*NAMES["layers"])
    else:
        count = keys.size("layers", default)
    if count is not None and count > MOST_LAYERS:
        keys.problem(f"expected at most {MOST_LAYERS:,} layers, got {count}", keys.given("layers"))
        return None
    return None if count is None else count * times


def _kinds(keys: Keys, layers: list[Layer], count: int, *, latent: bool) -> list[LayerKind]:
    """Return the kinds of layers: those alike in shape and mask, in the order of their first."""
    if latent:
        shape = latent_attention(keys)
        found: list[tuple[Layer, Attention]] = [(layer, shape) for layer in layers] if shape is not None else []
    else:
        attention_of = grouped_attention(keys, layers, count)
        attended = [(layer, attention_of(layer)) for layer in layers]
        found = [(layer, attention) for layer, attention in attended if attention is not None]
    grouped: dict[tuple[str, Attention, object], list[Layer]] = {}
    for layer, attention in found:
        grouped.setdefault((layer.label, attention, layer.mask), []).append(layer)
    names: dict[str, int] = {}
    kinds: list[LayerKind] = []
    for (label, attention, _), alike in grouped.items():
        stem = label if label not in names or alike[0].rotates else f"{label}_nope"
        names[stem] = names.get(stem, 0) + 1
        name = stem if names[stem] == 1 else f"{stem}_{names[stem]}"
        kinds.append(LayerKind(name=name, layers=len(alike), attention=attention, mask=alike[0].mask))
    return kinds


def _notes(keys: Keys, config: Config, inner: Config, kinds: list[LayerKind]) -> list[str]:
    """Return what was assumed and what is left out, each once."""
    notes: list[str] = []
    found = GROUPED.get(keys.family) or LATENT.get(keys.family)
    if keys.defaults:
        origin = (
            f"defaults of {found[0]} (transformers {VERSION})" if found else f"as the code of {keys.family} has them"
        )
        notes.append(f"not in the config, {origin}: {', '.join(dict.fromkeys(keys.defaults))}")
    if found is None and keys.family not in families.LIKE_LLAMA:
        named = keys.config.get("model_type") or config.get("model_type")
        notes.append(
            f"model_type {named!r} is not known: read as a decoder that rotates queries and keys as the config says"
        )
    if len(kinds) > 1:
        notes.append(_kinds_note(kinds))
    elif kinds and kinds[0].mask.window is not None:
        notes.append(
            f"sliding_window {kinds[0].mask.window:,}: no query sees more keys, in all {kinds[0].layers} layers"
        )
    notes += keys.notes
    notes += keys.classify()
    if (said := families.FAMILY_NOTES.get(keys.family)) is not None and not any(
        note.startswith(said) for note in notes
    ):
        notes.append(said)
    if inner is not config:
        unknown = [key for key, value in config.items() if _unknown_outside(keys, key, value)]
        notes += [f"keys not understood: {', '.join(unknown)}"] if unknown else []
    return list(dict.fromkeys(notes))


def _unknown_outside(keys: Keys, key: str, value: object) -> bool:
    """Whether a key around the language model's config speaks of attention and is in no table."""
    if isinstance(value, dict) or not key_table.SPEAKS_OF_ATTENTION.search(key) or value is None:
        return False
    return key not in keys.asked and not key_table.harmless(key) and "vision" not in key


def _kinds_note(kinds: list[LayerKind]) -> str:
    """Say which kinds of layers there are, and that one of them is computed."""

    def told(kind: LayerKind) -> str:
        seen = f", window {kind.mask.window:,}" if kind.mask.window else ""
        seen += f", {CHUNKED} by attention_chunk_size {kind.mask.chunk:,}" if kind.mask.chunk else ""
        return f"{kind.name} ({kind.layers} layers{seen})"

    shown = shown_of(kinds).name
    told_all = ", ".join(map(told, kinds))
    return f"layers of {len(kinds)} kinds, {shown} computed unless --layer chooses another: {told_all}"
