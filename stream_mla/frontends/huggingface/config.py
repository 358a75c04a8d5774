"""One config as the reader asks it: sizes under all their names, what was asked for, and what is wrong."""

from collections.abc import Iterator, Mapping
from typing import cast

from stream_mla.frontends.huggingface import key_table

Config = dict[str, object]

NESTED = (
    "text_config", "language_config", "llm_config", "thinker_config", "language_model_config", "text_model_config",
)  # fmt: skip
"""Where multimodal models keep the config of their language model; one may lie in another."""

FLATTENED = ("attn_config", "linear_attn_config")
"""Mappings whose keys are read as `attn_config.key`."""

NAMES: Mapping[str, tuple[str, ...]] = {
    "model_dim": ("hidden_size", "n_embd", "d_model", "n_embed", "model_dim"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_transformer_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads", "num_query_heads"),
    "kv_heads": (
        "num_key_value_heads", "num_kv_heads", "n_head_kv", "n_kv_heads", "n_kv_head", "multi_query_group_num",
        "num_query_groups", "num_attention_groups", "kv_n_heads", "kv_heads", "num_kv_attention_heads",
        "num_key_value_groups_heads", "num_key_value_heads_per_layer", "attn_config.kv_n_heads",
    ),
    "head_dim": ("head_dim", "kv_channels", "attention_head_dim", "head_size", "d_head", "attention_head_size"),
    "value_dim": ("v_head_dim", "value_head_dim", "v_channels"),
    "query_rank": ("q_lora_rank", "q_lora_dim", "q_compression_dim"),
    "kv_rank": ("kv_lora_rank", "kv_lora_dim", "kv_latent_dim", "kv_compression_dim", "kv_latent_rank"),
    "nope_dim": ("qk_nope_head_dim", "qk_nope_dim"),
    "rope_dim": ("qk_rope_head_dim", "qk_rope_dim"),
    "window": (
        "sliding_window", "sliding_window_size", "window_size", "attention_window_size", "attn_window_size",
        "sliding_window_length", "attn_config.sliding_window_size",
    ),
    "chunk": ("attention_chunk_size",),
}  # fmt: skip
"""Quantity -> the keys that give it, the usual one first."""

MOST_LAYERS = 1000
"""A model has at most this many layers, several times what the deepest published ones have; each is looked at."""
LARGEST = 10**9
"""No size of a layer is larger than this; it keeps products of sizes in range."""


class Keys:
    """Takes values out of a config, and notes what was asked for, what is wrong, and what was assumed."""

    def __init__(self, config: Config, path: str, family: str) -> None:
        self.path = path
        self.family = family
        self.config: Config = {}
        for key, value in config.items():
            self.config[key] = value
            if key in FLATTENED and isinstance(value, dict):
                self.config |= {f"{key}.{name}": item for name, item in cast(Config, value).items()}
        self.asked: set[str] = set(FLATTENED)
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.defaults: list[str] = []
        """Sizes that came from the defaults of the class, as `key value`."""

    def problem(self, problem: str, key: str) -> None:
        """Note a problem of one key."""
        if (said := f"{problem} @ {self.path}{key}") not in self.problems:
            self.problems.append(said)

    def get(self, *names: str) -> object:
        """Return the value of the first of some keys that is given and not null, or None."""
        self.asked.update(names)
        return next((self.config[name] for name in names if self.config.get(name) is not None), None)

    def given(self, quantity: str) -> str:
        """Return the key under which a quantity is given, or else its usual one."""
        names = NAMES[quantity]
        return next((name for name in names if self.config.get(name) is not None), names[0])

    def size(self, quantity: str, default: int | None = None, least: int = 1) -> int | None:
        """Return a whole number, or the default of the class where none is given; None after noting what is wrong."""
        value = self.get(*NAMES[quantity])
        key = self.given(quantity)
        self.agree(quantity)
        if value is None and default is not None:
            self.defaults.append(f"{key} {default:,}")
            return default
        if value is None:
            self.problem(f"required key {key!r} is missing: add it", key)
            return None
        return self.whole(value, key, least)

    def optional(self, quantity: str, least: int = 1) -> int | None:
        """Return a whole number that may be null or absent."""
        self.agree(quantity)
        value = self.get(*NAMES[quantity])
        return None if value is None else self.whole(value, self.given(quantity), least)

    def whole(self, value: object, key: str, least: int = 1) -> int | None:
        """Return a value as a whole number of at least `least`; None after noting that it is none."""
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= LARGEST:
            return value
        limit = f" and at most {LARGEST:,}" if isinstance(value, int) and value > LARGEST else ""
        self.problem(f"expected a whole number of at least {least}{limit}, got {shortened(value)}", key)
        return None

    def numbers(self, key: str) -> list[int] | None:
        """Return a list of whole numbers, or None where there is none."""
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, list):
            items = cast(list[object], value)
            if all(isinstance(item, int) for item in items):
                return [int(cast(int, item)) for item in items]
        self.problem(f"expected a list of whole numbers, got {shortened(cast(object, value))}", key)
        return None

    def mappings(self, key: str) -> list[Config] | None:
        """Return a list of mappings, or None where there is none."""
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, list):
            items = cast(list[object], value)
            if all(isinstance(item, dict) for item in items):
                return [cast(Config, item) for item in items]
        self.problem(f"expected a list of mappings, got {shortened(cast(object, value))}", key)
        return None

    def share(self, value: object, key: str) -> float | None:
        """Return a value as a share above 0 and up to 1; None after noting that it is none."""
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1:
            return float(value)
        self.problem(f"expected a share of the head above 0 and up to 1, got {shortened(value)}", key)
        return None

    def agree(self, quantity: str) -> None:
        """Refuse a quantity that two keys give differently."""
        names = [name for name in NAMES[quantity] if isinstance(self.config.get(name), int)]
        if len({self.config[name] for name in names}) > 1:
            said = " and ".join(f"{name} {self.config[name]}" for name in names)
            self.problem(f"{said} do not agree: keep one of them", names[0])

    def classify(self) -> Iterator[str]:
        """Yield notes on what is left out and on keys in no table; refuse what changes shapes."""
        live = {key: value for key, value in self.config.items() if key_table.active(value)}
        known: set[str] = set()
        for reason, pattern in key_table.REFUSED.items():
            for key in (key for key in live if pattern.fullmatch(key) and key not in self.asked):
                self.problem(f"{key} is {shortened(live[key])}: {reason}", key)
                known.add(key)
        for text, pattern in key_table.NOTED.items():
            known.update(key for key in self.config if pattern.fullmatch(key))
            if keys := [key for key in live if pattern.fullmatch(key)]:
                values = (f"{key} {shortened(live[key])}" for key in keys)
                yield f"{text} ({', '.join(values)})"
        unknown = [key for key in self.config if self._unknown(key) and key not in known]
        if unknown:
            yield f"keys not understood: {', '.join(unknown)}"

    def _unknown(self, key: str) -> bool:
        """Whether a key was not asked for and is in no table; nor is one of which nothing is set."""
        value = self.config[key]
        if key in self.asked or value is None or key_table.harmless(key):
            return False
        if any(pattern.fullmatch(key) for pattern in key_table.REFUSED.values()):
            return False
        return key_table.SPEAKS_OF_ATTENTION.search(key) is not None or key_table.active(value)


def shortened(value: object) -> str:
    """Write a value in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]} ..."
