"""Configs that were misread: the right sizes of each, its notes, and messages of those that are refused.

Each config holds the fields of a published family that matter; the arithmetic of an expected value stands beside it.
"""

import pytest

from stream_mla.errors import SpecError
from stream_mla.evaluation import evaluate
from stream_mla.frontends.huggingface import key_table
from stream_mla.frontends.huggingface.reader import model_of
from stream_mla.point import Point
from stream_mla.workload.lowering.mha_baselines import parameters
from stream_mla.workload.spec import CAUSAL, NO_MASK, GroupedQueryAttention, LatentAttention, Mask, Model

Config = dict[str, object]

BF16: Config = {"torch_dtype": "bfloat16"}
PLAIN: Config = {
    "hidden_size": 5120,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_hidden_layers": 48,
    **BF16,
}
LLAMA: Config = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    **BF16,
}
QWEN35: Config = {
    "model_type": "qwen3_5_text",
    "dtype": "bfloat16",
    "hidden_size": 5120,
    "num_attention_heads": 24,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "num_hidden_layers": 64,
}


def read(config: Config) -> Model:
    """Read a config."""
    return model_of(config, name="case", where="config.json")


def refusal(config: Config) -> list[str]:
    """Return the problems of a config that is refused."""
    with pytest.raises(SpecError) as error:
        read(config)
    return list(error.value.problems)


KV_HEADS: dict[str, tuple[Config, int, int]] = {
    # new_decoder_architecture: num_kv_heads counts; 2 x 8 x 64 = 1,024
    "falcon_40b": (
        {"model_type": "falcon", "hidden_size": 8192, "num_attention_heads": 128, "num_kv_heads": 8,
         "multi_query": True, "new_decoder_architecture": True, "num_hidden_layers": 60, **BF16}, 8, 1024,
    ),
    # multi_query without it: one head, whatever num_kv_heads says; 2 x 1 x 64 = 128
    "falcon_7b": (
        {"model_type": "falcon", "hidden_size": 4544, "num_attention_heads": 71, "num_kv_heads": 71,
         "multi_query": True, "new_decoder_architecture": False, "num_hidden_layers": 32, **BF16}, 1, 128,
    ),
    # neither: one per head; 2 x 64 x 64 = 8,192
    "falcon_rw": (
        {"model_type": "falcon", "hidden_size": 4096, "num_attention_heads": 64, "multi_query": False,
         "new_decoder_architecture": False, "num_hidden_layers": 32, "alibi": True, **BF16}, 64, 8192,
    ),
    # multi_query_group_num; 2 x 2 x 128 = 512
    "chatglm3": (
        {"model_type": "chatglm", "hidden_size": 4096, "num_attention_heads": 32, "kv_channels": 128,
         "multi_query_attention": True, "multi_query_group_num": 2, "num_layers": 28, **BF16}, 2, 512,
    ),
    # attn_config.kv_n_heads; 48 heads of 128: 2 x 8 x 128 = 2,048
    "dbrx": (
        {"model_type": "dbrx", "d_model": 6144, "n_heads": 48, "n_layers": 40,
         "attn_config": {"kv_n_heads": 8, "clip_qkv": 8, "rope_theta": 500000}, **BF16}, 8, 2048,
    ),
    # multi_query of the class; 48 heads of 128: 2 x 1 x 128 = 256
    "gpt_bigcode": (
        {"model_type": "gpt_bigcode", "n_embd": 6144, "n_head": 48, "n_layer": 40, **BF16}, 1, 256,
    ),
    # no key, and none needed; 2 x 12 x 64 = 1,536
    "gpt2": ({"model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12, **BF16}, 12, 1536),
    # 40 heads of 128, one key each; 2 x 40 x 128 = 10,240
    "baichuan": (
        {"model_type": "baichuan", "hidden_size": 5120, "num_attention_heads": 40, "num_hidden_layers": 40, **BF16},
        40, 10240,
    ),
    # 8 of 64 heads share a key in layer 0; layer 1 has no attention; 2 x 8 x 128 = 2,048
    "nemotron_nas": (
        {"model_type": "nemotron-nas", "hidden_size": 8192, "num_attention_heads": 64, "num_key_value_heads": None,
         "num_hidden_layers": 2, "block_configs": [
             {"attention": {"n_heads_in_group": 8, "no_op": False}},
             {"attention": {"n_heads_in_group": None, "no_op": True}}], **BF16}, 8, 2048,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("config", "kv_heads", "elements"), KV_HEADS.values(), ids=KV_HEADS)
def test_key_value_heads_under_every_key(config: Config, kv_heads: int, elements: int) -> None:
    attention = read(config).attention
    assert isinstance(attention, GroupedQueryAttention)
    assert (attention.kv_heads, attention.cache_elements) == (kv_heads, elements)


def test_never_one_per_head_out_of_silence() -> None:
    config = {key: value for key, value in PLAIN.items() if key != "num_key_value_heads"} | {"model_type": "own"}
    assert refusal(config) == [
        "required key 'num_key_value_heads' is missing, and model_type 'own' is not known to have one key-value head "
        "per head: add it, num_attention_heads for MHA @ num_key_value_heads"
    ]


LAYERS: dict[str, tuple[Config, int, str]] = {
    "qwen_interval": (QWEN35 | {"full_attention_interval": 4}, 16, "48 linear_attention"),
    "qwen_list": (
        QWEN35 | {"layer_types": [*["linear_attention"] * 3, "full_attention"] * 16}, 16, "48 linear_attention",
    ),
    "jamba": (
        LLAMA | {"model_type": "jamba", "attn_layer_offset": 4, "attn_layer_period": 8}, 4, "28 mamba",
    ),
    "nemotron_h": (
        LLAMA | {"model_type": "nemotron_h", "num_hidden_layers": 6, "hybrid_override_pattern": "M-M*-M"}, 1,
        "3 mamba, 2 mlp",
    ),
    "bamba": (LLAMA | {"model_type": "bamba", "attn_layer_indices": [9, 18, 27]}, 3, "29 mamba"),
    "minimax": (
        LLAMA | {"model_type": "minimax_text_01", "attn_type_list": [*[0] * 7, 1] * 4}, 4, "28 linear_attention",
    ),
    "mllama": (
        LLAMA | {"model_type": "mllama_text_model", "num_hidden_layers": 40,
                 "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38]}, 32, "8 cross-attention",
    ),
    "recurrent_gemma": (
        LLAMA | {"model_type": "recurrent_gemma", "num_hidden_layers": 26, "attention_window_size": 2048,
                 "block_types": ["recurrent", "recurrent", "attention"]}, 8, "18 recurrent",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("config", "layers", "others"), LAYERS.values(), ids=LAYERS)
def test_layers_without_attention_are_not_counted(config: Config, layers: int, others: str) -> None:
    model = read(config)
    assert model.layers == layers
    assert any(note.endswith(f"layers have no such attention, left out: {others}") for note in model.notes)


def test_kimi_linear_names_its_layers_of_full_attention() -> None:
    config: Config = {
        "model_type": "kimi_linear", "hidden_size": 2304, "num_attention_heads": 32, "num_hidden_layers": 8,
        "q_lora_rank": None, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "linear_attn_config": {"full_attn_layers": [4, 8], "kda_layers": [1, 2, 3, 5, 6, 7]}, **BF16,
    }  # fmt: skip
    model = read(config)
    assert (model.layers, model.attention.cache_elements) == (2, 576)  # 512 + 64


def test_a_family_with_attention_in_some_layers_must_say_in_which() -> None:
    assert refusal(LLAMA | {"model_type": "bamba"}) == [
        "required key 'attn_layer_indices' is missing, which says what layers have attention: add it "
        "@ attn_layer_indices"
    ]


def test_values_narrower_than_keys() -> None:
    config = PLAIN | {
        "model_type": "mimo_v2_flash", "hidden_size": 4096, "num_attention_heads": 64, "num_key_value_heads": 4,
        "head_dim": 192, "v_head_dim": 128,
    }  # fmt: skip
    model = read(config)
    # 4 x (192 + 128); 4096 x (64 x 192 + 4 x 192 + 4 x 128 + 64 x 128); int(192 x 0.334) dimensions are rotated
    assert (model.attention.cache_elements, parameters(model)) == (1280, 89_128_960)
    assert model.attention.rope_dim == 64


@pytest.mark.parametrize("extra", [{"attn_output_gate": True}, {}], ids=["stated", "of the family"])
def test_output_gate(extra: Config) -> None:
    # 5120 x (2 x 24 x 256) + 2 x 5120 x (4 x 256) + (24 x 256) x 5120
    assert parameters(read(QWEN35 | extra)) == 104_857_600


def test_no_output_gate_where_the_config_says_so() -> None:
    assert parameters(read(QWEN35 | {"attn_output_gate": False})) == 73_400_320


EXCLUDED = ["q_proj", "k_proj", "v_proj", "o_proj"]
WEIGHTS: dict[str, tuple[Config, int, int]] = {
    "fp8": ({"quant_method": "fp8"}, 8, 16),
    "fp8 without attention": ({"quant_method": "fp8", "modules_to_not_convert": ["self_attn", "lm_head"]}, 16, 16),
    "fp8, projections of every layer": (
        {"quant_method": "fp8",
         "ignored_layers": [f"model.layers.{i}.self_attn.{name}" for i in range(32) for name in EXCLUDED]}, 16, 16,
    ),
    "mxfp4 of experts": (
        {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "model.embed_tokens"]}, 16, 16,
    ),
    "awq": ({"quant_method": "awq", "bits": 4, "modules_to_not_convert": None}, 4, 16),
    "gptq": ({"quant_method": "gptq", "bits": 3, "group_size": 128}, 3, 16),
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4, 16),
    "compressed-tensors": (
        {"quant_method": "compressed-tensors", "ignore": ["lm_head"],
         "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int"}}}}, 4, 16,
    ),
    "compressed-tensors without attention": (
        {"quant_method": "compressed-tensors", "ignore": ["lm_head", "re:.*self_attn.*"],
         "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int"}}}}, 16, 16,
    ),
    "compressed-tensors of experts": (
        {"quant_method": "compressed-tensors", "ignore": [],
         "config_groups": {"group_0": {"targets": ["re:.*mlp.experts.*"], "weights": {"num_bits": 4}}}}, 16, 16,
    ),
    "a cache in fp8": (
        {"quant_method": "compressed-tensors", "ignore": ["lm_head"], "kv_cache_scheme": {"num_bits": 8},
         "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8}}}}, 8, 8,
    ),
    "modelopt": ({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["*self_attn*", "lm_head"]}, 16, 16),
}  # fmt: skip


@pytest.mark.parametrize(("quantization", "weights", "cache"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights_of_attention(quantization: Config, weights: int, cache: int) -> None:
    precision = read(LLAMA | {"quantization_config": quantization}).precision
    assert (precision.weights, precision.cache, precision.activations) == (weights, cache, 16)


def test_layers_of_which_one_stays_in_sixteen_bit() -> None:
    one = [f"model.layers.1.self_attn.{name}" for name in EXCLUDED]  # layer 1, and not 10 to 19
    model = read(LLAMA | {"quantization_config": {"quant_method": "fp8", "ignored_layers": one}})
    assert model.precision.weights == 8
    assert model.notes == (
        "3% of the projections of attention stay in 16 bit, the others have 8: all are taken with 8 bit",
    )


UNKNOWN = "model_type None is not known: read as a decoder that rotates queries and keys as the config says"
NOTED: dict[str, tuple[Config, str]] = {
    "blocksparse": (
        {"dense_attention_every_n_layers": 2, "blocksparse_block_size": 64},
        "every query attends to all keys, block-sparse attention left out "
        "(dense_attention_every_n_layers 2, blocksparse_block_size 64)",
    ),
    "sparse": (
        {"sparse_attention_config": {"use_sparse_attention": True}},
        "every query attends to all keys, the sparse selection of keys left out "
        "(sparse_attention_config {'use_sparse_attention': True})",
    ),
    "index_topk": (
        {"index_topk": 2048},
        "every query attends to all keys, the sparse selection of keys left out (index_topk 2048)",
    ),
    "cross": (
        {"cross_attention_layers": [3, 8, 13]},
        "cross_attention_layers [3, 8, 13] attend to an image, not to the context",
    ),
    "soft capping": ({"attn_logit_softcapping": 50.0}, "soft capping of scores left out (attn_logit_softcapping 50.0)"),
    "shared caches": (
        {"num_kv_shared_layers": 15},
        "layers that use the keys and values of another layer are counted with their own (num_kv_shared_layers 15)",
    ),
    "unknown": ({"attention_twist": 3, "frobnication": True}, "keys not understood: attention_twist, frobnication"),
}


@pytest.mark.parametrize(("extra", "note"), NOTED.values(), ids=NOTED)
def test_what_is_left_out_is_noted(extra: Config, note: str) -> None:
    notes = read(PLAIN | extra).notes
    assert UNKNOWN in notes
    assert note in notes


@pytest.mark.parametrize(
    ("extra", "rope_dim"),
    [
        ({"rotary_pct": 0.25}, 32),
        ({"partial_rotary_factor": 0.5}, 64),
        ({"rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 0.75}}, 96),
        ({"rotary_dim": 64}, 64),
        ({"position_embedding_type": "nope"}, 0),
        ({"alibi": True}, 0),
        ({}, 128),
    ],
)
def test_rotated_dimensions(extra: Config, rope_dim: int) -> None:
    attention = read(PLAIN | extra).attention
    assert isinstance(attention, GroupedQueryAttention)
    assert attention.rope_dim == rope_dim


def kinds(model: Model) -> dict[str, tuple[int, Mask]]:
    """Return the kinds of a model's layers."""
    return {kind.name: (kind.layers, kind.mask) for kind in model.kinds}


def test_chunked_attention_in_three_layers_of_four() -> None:
    model = read(PLAIN | {"attention_chunk_size": 8192})
    assert kinds(model) == {"chunked": (36, Mask(causal=True, chunk=8192)), "full": (12, CAUSAL)}
    assert (model.layers, model.layer, model.mask) == (48, "full", CAUSAL)
    assert model.with_layer("chunked").mask == Mask(causal=True, chunk=8192)
    assert (
        "layers of 2 kinds, full computed unless --layer chooses another: "
        "chunked (36 layers, chunked by attention_chunk_size 8,192), full (12 layers)"
    ) in model.notes


def test_a_window_on_all_layers() -> None:
    model = read(LLAMA | {"model_type": "mistral", "sliding_window": 128})
    assert (model.layers, model.layer_kinds) == (32, ())
    assert model.mask == Mask(causal=True, window=128)
    assert model.notes == ("sliding_window 128: no query sees more keys, in all 32 layers",)


def test_a_window_is_what_a_step_reads() -> None:
    """Of 32,769 keys, one token attends to 128, its own among them: 128 rows of 2 x 8 x 128 elements of 16 bit."""
    model = read(LLAMA | {"model_type": "mistral", "sliding_window": 128})
    result = evaluate(Point.of(model, "flat_cloud", context=32768, time_limit=0)).result
    assert (result.mask, result.window) == ("causal", 128)
    # weights: 4096 x (32 + 8 + 8) x 128 and 32 x 128 x 4096; scores and context: 32 heads x 128 keys x 128, twice
    weights, attended = 4096 * 48 * 128 + 32 * 128 * 4096, 2 * 32 * 128 * 128
    assert result.macs == weights + attended
    # with the input of 4,096
    assert result.dram_read_bytes == 2 * (weights + 128 * 2 * 8 * 128 + 4096)


WINDOWS: dict[str, tuple[Config, dict[str, tuple[int, Mask]]]] = {
    "gemma2": (
        {"model_type": "gemma2", "sliding_window": 4096},
        {"sliding": (16, Mask(causal=True, window=4096)), "full": (16, CAUSAL)},
    ),
    "gpt_oss": (
        {"model_type": "gpt_oss", "sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"] * 16},
        {"sliding": (16, Mask(causal=True, window=128)), "full": (16, CAUSAL)},
    ),
    "pattern of letters": (
        {"model_type": "exaone4", "sliding_window": 4096, "sliding_window_pattern": "LLLG"},
        {"sliding": (24, Mask(causal=True, window=4096)), "full": (8, CAUSAL)},
    ),
    "qwen2, off": ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False}, {"": (32, CAUSAL)}),
    "qwen2, silent": ({"model_type": "qwen2", "sliding_window": 4096, "max_window_layers": 28}, {"": (32, CAUSAL)}),
    "qwen2, on": (
        {"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 28},
        {"full": (28, CAUSAL), "sliding": (4, Mask(causal=True, window=4096))},
    ),
    "none": ({"model_type": "mistral", "sliding_window": None}, {"": (32, CAUSAL)}),
    "an encoder": ({"model_type": "bert"}, {"": (32, NO_MASK)}),
}


@pytest.mark.parametrize(("extra", "expected"), WINDOWS.values(), ids=WINDOWS)
def test_windows(extra: Config, expected: dict[str, tuple[int, Mask]]) -> None:
    assert kinds(read(LLAMA | extra)) == expected


def test_sliding_layers_of_other_sizes() -> None:
    extra: Config = {
        "model_type": "mimo_v2_flash", "hybrid_layer_pattern": [0, *[1] * 31], "sliding_window_size": 128,
        "head_dim": 192, "v_head_dim": 128, "swa_num_attention_heads": 32, "swa_num_key_value_heads": 16,
        "swa_head_dim": 192, "swa_v_head_dim": 128,
    }  # fmt: skip
    model = read(LLAMA | extra)
    assert kinds(model) == {"full": (1, CAUSAL), "sliding": (31, Mask(causal=True, window=128))}
    sizes = [kind.attention.cache_elements for kind in model.kinds]
    assert sizes == [8 * 320, 16 * 320]  # 192 + 128 of each head


def test_full_layers_of_other_sizes_need_a_list_of_layers() -> None:
    extra: Config = {"global_head_dim": 512, "num_global_key_value_heads": 4}
    what = "other than the size of the other layers, and nothing says which layers these are: add layer_types"
    assert refusal(PLAIN | extra) == [
        f"global_head_dim is 512, {what} @ global_head_dim",
        f"num_global_key_value_heads is 4, {what} @ num_global_key_value_heads",
    ]
    types = [*["sliding_attention"] * 5, "full_attention"] * 8
    model = read(PLAIN | extra | {"layer_types": types, "sliding_window": 1024})
    assert [(kind.name, kind.layers, kind.attention.cache_elements) for kind in model.kinds] == [
        ("sliding", 40, 2 * 8 * 128),
        ("full", 8, 2 * 4 * 512),
    ]


def test_sizes_left_to_the_class() -> None:
    text: Config = {
        "model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34, "num_attention_heads": 8,
        "num_key_value_heads": 4,
    }  # fmt: skip
    model = read({"model_type": "gemma3", "text_config": text, **BF16})
    assert model.attention.cache_elements == 2048  # 2 x 4 x 256
    assert model.notes[0] == (
        "not in the config, defaults of Gemma3TextConfig (transformers 5.24.0): one layer of full attention in 6, "
        "sliding_window 4,096, head_dim 256"
    )
    llava = read({"model_type": "llava", "text_config": {"model_type": "llama"}, **BF16})
    assert llava.attention == GroupedQueryAttention(
        model_dim=4096, heads=32, kv_heads=32, head_dim=128, value_dim=128, rope_dim=128
    )
    assert llava.notes == (
        "not in the config, defaults of LlamaConfig (transformers 5.24.0): num_hidden_layers 32, hidden_size 4,096, "
        "num_attention_heads 32, num_key_value_heads as num_attention_heads",
    )


def test_heads_that_no_model_can_have() -> None:
    llama = {"model_type": "llama", "num_hidden_layers": 2, **BF16}
    assert refusal(llama | {"hidden_size": 4096, "num_attention_heads": 30}) == [
        "hidden_size (4096) is not a multiple of num_attention_heads (30): give head_dim @ head_dim"
    ]
    assert refusal(llama | {"hidden_size": 75, "num_attention_heads": 5}) == [
        "RoPE rotates pairs: expected an even number of rotated dimensions of at most 15, got 15 of a head of 15 "
        "@ head_dim"
    ]
    assert refusal(PLAIN | {"n_head": 64}) == [
        "num_attention_heads 40 and n_head 64 do not agree: keep one of them @ num_attention_heads"
    ]


def test_latent_attention_under_other_names() -> None:
    names: Config = {"q_lora_dim": None, "kv_latent_dim": 256, "qk_nope_dim": 64, "qk_rope_dim": 32, "v_head_dim": 64}
    attention = read(PLAIN | names).attention
    assert isinstance(attention, LatentAttention)
    assert (attention.query_rank, attention.kv_rank, attention.cache_elements) == (None, 256, 288)
    assert refusal(PLAIN | {"compressed_kv_width": 256, "kv_low_rank_size": 256})[-1] == (
        "kv_low_rank_size is 256: it looks like latent attention under another name: give q_lora_rank, kv_lora_rank, "
        "qk_nope_head_dim, qk_rope_head_dim and v_head_dim @ kv_low_rank_size"
    )


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (
            {"model_type": "t5", "d_model": 512},
            "model_type 't5' is refused: it is an encoder-decoder model, whose cross-attention this package does not "
            "model @ model_type",
        ),
        (
            PLAIN | {"is_encoder_decoder": True},
            "is_encoder_decoder is True: it is the key of an encoder-decoder model, whose cross-attention this package "
            "does not model @ is_encoder_decoder",
        ),
        (
            PLAIN | {"o_lora_rank": 1024},
            "o_lora_rank is 1024: it changes the shape of the output projection, which this package does not model "
            "@ o_lora_rank",
        ),
        (
            PLAIN | {"layer_types": ["full_attention"] * 40},
            "the types of 40 layers are given, and there are 48: make them agree @ num_hidden_layers",
        ),
        (
            PLAIN | {"layer_types": [*["full_attention"] * 40, *["sliding_attention"] * 8]},
            "required key 'sliding_window' is missing: 8 layers slide, add it @ sliding_window",
        ),
    ],
)
def test_what_is_refused(config: Config, problem: str) -> None:
    assert refusal(config) == [problem]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("vocab_size", True),
        ("rope_theta", True),
        ("num_experts_per_tok", True),
        ("attention_dropout", True),
        ("mamba_num_heads", True),
        ("attention_twist", False),
        ("num_special_heads", False),
        ("window_shift", False),
        ("frobnication", False),
    ],
)
def test_classes_of_keys(key: str, expected: bool) -> None:
    assert key_table.harmless(key) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, False), (0, False), ([], False), ({"use_x": False, "n": 3}, False), ({"n": 3}, True), (2048, True)],
)
def test_keys_that_ask_for_nothing(value: object, expected: bool) -> None:
    assert key_table.active(value) is expected
