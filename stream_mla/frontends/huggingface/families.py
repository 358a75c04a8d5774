"""This module is about what the code of a model family does and its config does not say.

Each table names families by their `model_type`, less a suffix such as `_text`. Where no source stands beside it, a fact
is from the family's modelling code in transformers 5.24.0 (src/transformers/models), or, for a family that transformers
does not have, from the modelling code in the repository of its published model.
"""

from collections.abc import Mapping


def names(text: str) -> list[str]:
    """Return the words of a text, for tables of names."""
    return text.split()


SUFFIXES = ("_text_model", "_text", "-text", "_language_model")
"""Ends of a model type that only say that it is the language model of a multimodal one."""

ALIASES: Mapping[str, str] = {
    "qwen2_5_vl": "qwen2_vl",
    "qwen2_5_omni": "qwen2_vl",
    "qwen3_omni_moe": "qwen3_moe",
    "qwen3_vl_moe": "qwen3_moe",
    "RefinedWeb": "falcon",
    "RefinedWebModel": "falcon",
    "kimi_k2": "deepseek_v3",
    "llava_llama": "llama",
    "llava_mistral": "mistral",
    "code_llama": "llama",
    "Yi": "llama",
    "decilm": "nemotron-nas",
    "gpt-oss": "gpt_oss",
    "phi-msft": "phi",
    "stablelm_epoch": "stablelm",
    "minimax_text_01": "minimax",
    "MiniMax-Text-01": "minimax",
}
"""Model types of other names whose attention is that of a family."""

LIKE_LLAMA = frozenset(
    names(
        "internlm2 orion exaone minicpm deepseek arctic grok-1 xverse nemotron-nas bailing bailing_moe minicpmv "
        "minicpmo openelm aquila3 telechat3 hunyuan internvl chatglm baichuan qwen internlm aquila persimmon bert "
        "roberta laguna doge csm moshi step3p5 ernie4_5_vl_moe glm4v glm4v_moe pangu solar skywork jais iquestcoder"
    )
)
"""Families beside those of `class_defaults`, whose keys are known: none of their sizes is assumed."""

ONE_PER_HEAD = frozenset(
    names(
        "baichuan qwen internlm aquila bert roberta persimmon jais skywork opt moshi doge gpt2 gpt_neox gptj codegen "
        "gpt_neo bloom xglm ctrl biogpt openai-gpt"
    )
)
"""Families that have keys and values for every head, and no key that says so."""

MULTI_QUERY = frozenset({"falcon", "gpt_bigcode"})
"""Families whose heads share one key and value unless `multi_query` is false."""

ROTARY_SHARE: Mapping[str, float] = {
    "chatglm": 0.5,
    "glm": 0.5,
    "glm4": 0.5,
    "glm4_moe": 0.5,
    "glm4v": 0.5,
    "glm4v_moe": 0.5,
    "phi": 0.5,
    "nemotron": 0.5,
    "persimmon": 0.5,
    "recurrent_gemma": 0.5,
    "bamba": 0.5,
    "stablelm": 0.25,
    "gpt_neox": 0.25,
    "qwen3_next": 0.25,
    "qwen3_5": 0.25,
    "qwen3_5_moe": 0.25,
    "mimo_v2_flash": 0.334,
}
"""Share of each head that is rotated where the config gives none; all other families with RoPE rotate whole heads."""

ROTARY_DIM: Mapping[str, int] = {"gptj": 64, "codegen": 64}
"""Dimensions of each head that are rotated where the config gives none (the defaults of the classes)."""

WITHOUT_ROPE = frozenset(
    names(
        "gpt2 gpt_bigcode gpt_neo opt xglm ctrl biogpt openai-gpt bloom mpt jamba nemotron_h granitemoehybrid bert "
        "roberta jais"
    )
)
"""Families that rotate nothing unless the config says so: positions are learned, ALiBi, or left to other layers."""

ROPE_IN_SLIDING_LAYERS_ONLY = frozenset({"cohere2", "exaone4", "exaone_moe", "afmoe"})
"""Families whose full-attention layers rotate nothing, where they have sliding layers beside them."""

FULL_EVERY: Mapping[str, int] = {
    "gemma2": 2,
    "vaultgemma": 2,
    "gpt_oss": 2,
    "gpt_neo": 2,
    "cohere2": 4,
    "exaone4": 4,
    "exaone_moe": 4,
    "olmo3": 4,
    "afmoe": 4,
    "gemma3n": 5,
    "gemma3": 6,
    "gemma4": 6,
}
"""Every so many layers, counted from 1, is one of full attention and the others slide, where the config has no list."""

FULL_FIRST_OF: Mapping[str, int] = {"cwm": 4, "granite_swa": 4}
"""As `FULL_EVERY`, with the layer of full attention the first of so many."""

LINEAR_BUT_EVERY: Mapping[str, int] = {"qwen3_next": 4, "qwen3_5": 4, "qwen3_5_moe": 4, "olmo_hybrid": 4}
"""Every so many layers, counted from 1, is one of full attention and the others are linear, where the config has no
list."""

LAYERS_TO_BE_STATED: Mapping[str, str] = {
    "minimax": "layer_types",
    "granitemoehybrid": "layer_types",
    "bamba": "attn_layer_indices",
    "kimi_linear": "linear_attn_config",
    "jamba": "attn_layer_period",
    "nemotron_h": "hybrid_override_pattern",
    "bailing_hybrid": "layer_group_size",
    "laguna": "layer_types",
}
"""Families that have attention in some layers only, and the key that says in which: it is asked for."""

WINDOW_UNLESS_OFF = frozenset({"qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen2_vl", "smollm3", "dots1"})
"""Families whose windows are off unless `use_sliding_window` is true."""

WITHOUT_WINDOW = frozenset(names("llama gemma deepseek_v3 deepseek_v2 granite glm glm4 cohere olmo olmo2"))
"""Families whose code has no window; a `sliding_window` in their config is modelled all the same, with a note."""

GATED = frozenset({"qwen3_next", "qwen3_5", "qwen3_5_moe", "afmoe"})
"""Families that multiply the context by the sigmoid of a gate as wide as itself."""

BIDIRECTIONAL = frozenset({"bert", "roberta"})
"""Families without a causal mask, unless `is_decoder` is true."""

ATTENTIONS_PER_LAYER: Mapping[str, int] = {"longcat_flash": 2}
"""Attention layers in each layer (LongCat-Flash's shortcut-connected experts, arXiv 2509.01322: two)."""

GLOBAL_HEAD_DIM: Mapping[str, int] = {"gemma4": 512}
"""Head dimension of full-attention layers where the config gives no `global_head_dim` (Gemma4TextConfig)."""

FAMILY_NOTES: Mapping[str, str] = {
    **dict.fromkeys(
        names(
            "qwen3 qwen3_moe qwen3_next qwen3_5 qwen3_5_moe gemma3 gemma3n gemma4 olmo2 olmo3 olmoe flex_olmo afmoe "
            "exaone4 exaone_moe apertus hunyuan_v1_dense hunyuan_v1_moe minimax_m2 lfm2 lfm2_moe nanochat"
        ),
        "norms of queries and keys left out",
    ),
    "gpt_oss": "attention sinks left out",
    "diffllama": "differential attention left out: scores and values are those of plain attention",
    "bloom": "ALiBi left out",
    "falcon_h1": "the Mamba mixer beside attention in each layer left out",
    "longcat_flash": "two attention layers in each layer",
}
"""Sentences on what a family computes and its config does not say."""

REFUSED: Mapping[str, str] = {
    **dict.fromkeys(
        names("mamba mamba2 falcon_mamba rwkv rwkv5 rwkv6 rwkv7 xlstm retnet hyena stripedhyena"),
        "it has no attention over cached keys",
    ),
    **dict.fromkeys(
        names(
            "t5 mt5 umt5 t5gemma bart mbart pegasus marian whisper m2m_100 blenderbot led longt5 switch_transformers "
            "encoder-decoder bigbird_pegasus prophetnet fsmt nllb_moe plbart speech_to_text seamless_m4t moonshine"
        ),
        "it is an encoder-decoder model, whose cross-attention this package does not model",
    ),
    **dict.fromkeys(
        names("zamba zamba2"),
        "its attention reads hidden state and embedding together, which this package does not model",
    ),
    "deepseek_v4": "its attention compresses keys and groups the output projection, which changes shapes",
    "jetmoe": "its attention is a mixture of experts, which this package does not model",
    "funnel": "its attention pools queries, which this package does not model",
    "reformer": "its attention is hashed, which this package does not model",
}
"""Families that are refused, with the reason."""


def family_of(model_type: object) -> str:
    """Return the name of a family as the tables here and in `class_defaults` have it."""
    name = model_type if isinstance(model_type, str) else ""
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return ALIASES.get(name, name)
