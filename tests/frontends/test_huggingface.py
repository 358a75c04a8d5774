"""Models from `config.json`: the families, sizes, names, and what is wrong with them."""

import json
from pathlib import Path

import pytest

from stream_mla.errors import SpecError
from stream_mla.frontends.catalog import check, load_model
from stream_mla.workload.spec import GroupedQueryAttention, LatentAttention, Model, Precision

# The attention keys of https://huggingface.co/deepseek-ai/DeepSeek-V3/blob/main/config.json
DEEPSEEK: dict[str, object] = {
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "num_hidden_layers": 61,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "fp8"},
}
# The attention keys of https://huggingface.co/meta-llama/Meta-Llama-3-8B/blob/main/config.json
LLAMA: dict[str, object] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "torch_dtype": "bfloat16",
}
SIXTEEN = Precision(weights=16, cache=16, activations=16, partials=32)


def write(folder: Path, config: object, name: str = "config.json") -> str:
    """Write a config into a folder named after the model; return its path."""
    (folder / "some-model").mkdir(exist_ok=True)
    file = folder / "some-model" / name
    file.write_text(json.dumps(config))
    return str(file)


def without(config: dict[str, object], *keys: str) -> dict[str, object]:
    """Return a config less some keys, all of which it has."""
    assert set(keys) <= set(config)
    return {key: value for key, value in config.items() if key not in keys}


def test_deepseek(tmp_path: Path):
    path = write(tmp_path, DEEPSEEK)
    model = Model(
        name="some-model",
        source="config.json of some-model",
        layers=61,
        attention=LatentAttention(
            model_dim=7168,
            heads=128,
            query_rank=1536,
            kv_rank=512,
            nope_dim=128,
            rope_dim=64,
            value_dim=128,
            latent_norms=True,
        ),
        precision=Precision(weights=8, cache=16, activations=16, partials=32),
    )
    assert load_model(path) == model
    assert load_model(str(tmp_path / "some-model")) == model
    assert check(path) == model


def test_deepseek_without_compressed_queries(tmp_path: Path):
    attention = load_model(write(tmp_path, DEEPSEEK | {"q_lora_rank": None})).attention
    assert isinstance(attention, LatentAttention)
    assert attention.query_rank is None


def test_llama(tmp_path: Path):
    assert load_model(write(tmp_path, LLAMA)) == Model(
        name="some-model",
        source="config.json of some-model",
        layers=32,
        # 4096 / 32 heads
        attention=GroupedQueryAttention(model_dim=4096, heads=32, kv_heads=8, head_dim=128, rope_dim=128),
        precision=SIXTEEN,
    )


def test_llama_without_key_value_heads_has_one_per_head(tmp_path: Path):
    config = without(LLAMA, "num_key_value_heads") | {"head_dim": 64}
    model = load_model(write(tmp_path, config))
    assert model.attention == GroupedQueryAttention(model_dim=4096, heads=32, kv_heads=32, head_dim=64, rope_dim=64)
    assert model.notes == (
        "not in the config, defaults of LlamaConfig (transformers 5.24.0): num_key_value_heads as num_attention_heads",
    )


@pytest.mark.parametrize("wrapper", ["text_config", "language_config", "llm_config"])
def test_language_model_inside_a_multimodal_one(tmp_path: Path, wrapper: str):
    config = {
        "model_type": "wrapper",
        "torch_dtype": "bfloat16",
        "hidden_size": 1,
        wrapper: without(LLAMA, "torch_dtype"),
    }
    model = load_model(write(tmp_path, config))
    assert model == load_model(write(tmp_path, LLAMA))


@pytest.mark.parametrize(
    ("key", "dtype", "bits"),
    [
        ("torch_dtype", "float16", 16),
        ("dtype", "bfloat16", 16),
        ("dtype", "torch.float32", 32),
        ("dtype", "float8_e4m3fn", 8),
    ],
)
def test_dtype(tmp_path: Path, key: str, dtype: str, bits: int):
    config = without(LLAMA, "torch_dtype") | {key: dtype}
    precision = load_model(write(tmp_path, config)).precision
    assert precision == Precision(weights=bits, cache=bits, activations=bits, partials=32)


def test_name_of_a_config_that_is_called_otherwise(tmp_path: Path):
    assert load_model(write(tmp_path, LLAMA, "llama.json")).name == "llama"
    named = LLAMA | {"_name_or_path": "meta-llama/Meta-Llama-3-8B"}
    assert load_model(write(tmp_path, named, "llama.json")).name == "Meta-Llama-3-8B"


@pytest.mark.parametrize(
    ("config", "problems"),
    [
        (
            without(DEEPSEEK, "v_head_dim", "q_lora_rank", "torch_dtype")
            | {"num_hidden_layers": "61", "model_type": "own"},
            [
                "expected a whole number of at least 1, got '61' @ num_hidden_layers",
                "required key 'q_lora_rank' is missing: add it, null where queries are not compressed @ q_lora_rank",
                "required key 'v_head_dim' is missing: add it @ v_head_dim",
                "required key 'torch_dtype' is missing: add it @ torch_dtype",
            ],
        ),
        (
            DEEPSEEK | {"qk_rope_head_dim": 63},
            ["expected an even number, for RoPE rotates pairs, got 63 @ qk_rope_head_dim"],
        ),
        (
            {"text_config": without(LLAMA, "hidden_size", "model_type")},
            ["required key 'hidden_size' is missing: add it @ text_config.hidden_size"],
        ),
        (
            LLAMA | {"num_key_value_heads": 7},
            ["expected a divisor of num_attention_heads (32), got 7 @ num_key_value_heads"],
        ),
        (
            LLAMA | {"hidden_size": 16},
            ["hidden_size (16) is below num_attention_heads (32): give head_dim @ head_dim"],
        ),
        (
            LLAMA | {"torch_dtype": "int4"},
            ["'int4' is not a known dtype: use one of bfloat16, float16, float32, float8... @ torch_dtype"],
        ),
        (
            {"model_type": "mamba", "d_model": 768},
            ["model_type 'mamba' is refused: it has no attention over cached keys @ model_type"],
        ),
        (
            {"model_type": "own"},
            [
                "model_type 'own' is of no known family, and no sizes are given: a config needs hidden_size, "
                "num_attention_heads, num_key_value_heads, num_hidden_layers, and for latent attention q_lora_rank, "
                "kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim; write a model file instead @ top level"
            ],
        ),
        ([1], ["expected a JSON object, got [1]: give the config.json of a model @ top level"]),
    ],
)
def test_problems_of_a_config(tmp_path: Path, config: object, problems: list[str]):
    path = write(tmp_path, config)
    with pytest.raises(SpecError) as error:
        load_model(path)
    assert error.value.where == path
    assert list(error.value.problems) == problems


def test_broken_json(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text('{\n "a": ,\n}')
    with pytest.raises(SpecError) as error:
        load_model(str(path))
    assert str(error.value) == f"{path}: 1 problem\n  - Expecting value, column 7: correct the JSON @ line 2"
