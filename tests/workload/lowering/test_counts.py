"""Counts of the operator graph against the closed forms of the letter (arXiv 2506.02523) and of DeepSeek-V3.

The closed forms are ours, derived from the letter's figures 3 and 4, which they reproduce to 2e-5: one operation is
one MAC, an element one byte, the batch 1, and L tokens are cached before a decode step.
"""

from dataclasses import replace
from math import isclose

import networkx as nx
import pytest

from stream_mla.frontends.catalog import load_model
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.lowering.mha_baselines import parameters, same_dimensions, same_parameters
from stream_mla.workload.operator_graph import Kind, Operand, Operator, OperatorGraph, Role, Tensor, gemm_indices
from stream_mla.workload.spec import CAUSAL, NO_MASK, GroupedQueryAttention, Mask, Precision, Workload
from tests.helpers import grouped, latent, workload

CONTEXTS = [1, 63, 1024, 3951, 131072]
COMPOSITE = 12_884_901_888  # R = 128 heads x 1536 x 128 x 512: W_uq W_uk^T of all heads
MLA_RC = 174_063_616  # 7168 x 1536 + 7168 x 512 + 128 x 128 x (1536 + 512 + 512) + 16384 x 7168
MLA_RU = 241_172_480  # the same, with 128 x 1536 x 512 in the place of W_uq and W_uk
MHA_LARGE = 469_762_048  # 4 x 7168 x 16384
MHA_SCALED = 172_006_912  # 4 x 4363 x 128 x 77
WIDTH = {"mha_large": 16384, "mha_scaled": 9856}  # n_h x D: 128 x 128 and 128 x 77
MODEL_DIM = {"mha_large": 7168, "mha_scaled": 4363}
WEIGHTS = {"mha_large": MHA_LARGE, "mha_scaled": MHA_SCALED, "mla_rc": MLA_RC, "mla_ru": MLA_RU}


def letter_graph(variant: str, query_tokens: int, cached_tokens: int) -> OperatorGraph:
    """One step of a curve of the letter: a scheme of its MLA, or one of its two MHA models."""
    is_mha = variant.startswith("mha")
    model = load_model(variant if is_mha else "deepseek_v3_letter")
    step = Workload(
        model=model,
        batch=1,
        query_tokens=query_tokens,
        cached_tokens=cached_tokens,
        precision=model.precision,
        mask=model.mask,
    )
    return lower(step, "mha" if is_mha else variant)


def dram_bytes(graph: OperatorGraph) -> float:
    return (graph.dram_read_bits + graph.dram_write_bits) / 8


@pytest.mark.parametrize("cached", CONTEXTS)
@pytest.mark.parametrize("variant", ["mha_large", "mha_scaled"])
def test_mha_decode_is_the_closed_form(variant: str, cached: int) -> None:
    graph = letter_graph(variant, 1, cached)
    cache_row = 2 * WIDTH[variant]  # a key and a value: 32,768 and 19,712

    # each parameter once; the scores and the context take n_h D MACs per key each
    assert graph.total_macs == WEIGHTS[variant] + cache_row * (cached + 1)
    # the parameters, L + 1 rows read, one written, x and y
    assert dram_bytes(graph) == WEIGHTS[variant] + cache_row * (cached + 1) + cache_row + 2 * MODEL_DIM[variant]


@pytest.mark.parametrize("cached", CONTEXTS)
@pytest.mark.parametrize(("variant", "again"), [("mla_rc", COMPOSITE), ("mla_ru", 0)])
def test_mla_decode_is_the_closed_form(variant: str, again: int, cached: int) -> None:
    graph = letter_graph(variant, 1, cached)

    # scores and context in the latent space: 2 x 128 heads x 512 per key
    assert graph.total_macs == again + MLA_RU + 131_072 * (cached + 1)
    # the parameters, L + 1 latents read, one written, x and y: 2 x 7168
    assert dram_bytes(graph) == WEIGHTS[variant] + 512 * (cached + 1) + 512 + 14_336


@pytest.mark.parametrize("tokens", CONTEXTS)
@pytest.mark.parametrize("variant", ["mha_large", "mha_scaled"])
def test_mha_prefill_is_the_closed_form(variant: str, tokens: int) -> None:
    graph = letter_graph(variant, tokens, 0)

    # nothing is halved for causality: 2 n_h D L^2
    assert graph.total_macs == WEIGHTS[variant] * tokens + 2 * WIDTH[variant] * tokens**2
    # keys and values written and read: 4 n_h D, x and y: 2 D_model, for each token
    assert dram_bytes(graph) == WEIGHTS[variant] + (4 * WIDTH[variant] + 2 * MODEL_DIM[variant]) * tokens


@pytest.mark.parametrize("tokens", CONTEXTS)
@pytest.mark.parametrize(("variant", "again"), [("mla_rc", COMPOSITE), ("mla_ru", 0)])
def test_mla_prefill_is_the_closed_form(variant: str, again: int, tokens: int) -> None:
    graph = letter_graph(variant, tokens, 0)

    # the composite is formed once per step, not once per token
    assert graph.total_macs == again + MLA_RU * tokens + 131_072 * tokens**2
    assert dram_bytes(graph) == WEIGHTS[variant] + (1024 + 14_336) * tokens


@pytest.mark.parametrize(
    ("variant", "query_tokens", "intensity"),
    # figure 4 at L = 3951; to the digits that we read off it
    [
        ("mha_large", 1, 1.00),
        ("mha_scaled", 1, 1.00),
        ("mla_rc", 1, 77.48),
        ("mla_ru", 1, 3.12),
        ("mha_large", 3951, 3014.7),
        ("mha_scaled", 3951, 2725.5),
        ("mla_rc", 3951, 12_830),
        ("mla_ru", 3951, 9_935),
    ],
)
def test_operational_intensity_is_that_of_figure_4(variant: str, query_tokens: int, intensity: float) -> None:
    graph = letter_graph(variant, query_tokens, 3951 if query_tokens == 1 else 0)

    assert graph.operational_intensity_macs_per_byte == graph.total_macs / dram_bytes(graph)
    assert isclose(graph.operational_intensity_macs_per_byte, intensity, rel_tol=5e-4)


@pytest.mark.parametrize("tokens", [1, 63, 4096])
def test_causal_prefill_has_the_macs_of_a_triangle(tokens: int) -> None:
    model = load_model("llama_3_8b")
    step = Workload(model=model, batch=2, query_tokens=tokens, cached_tokens=0, precision=model.precision, mask=CAUSAL)
    graph = lower(step, "mha")

    # query i attends to i + 1 keys: n (n + 1) / 2 pairs, of 32 heads of 128, for scores and for the context
    macs = {operator.name: graph.macs(operator) for operator in graph.operators}
    assert macs["scores"] == macs["attend"] == 2 * 32 * 128 * tokens * (tokens + 1) // 2
    # what does not depend on pairs is as without a mask
    plain = lower(replace(step, mask=NO_MASK), "mha")
    assert graph.total_macs == plain.total_macs - 2 * 2 * 32 * 128 * tokens * (tokens - 1) // 2
    assert (graph.dram_read_bits, graph.dram_write_bits) == (plain.dram_read_bits, plain.dram_write_bits)


@pytest.mark.parametrize(
    ("mask", "rows"),
    [
        (CAUSAL, 32_769),
        (Mask(causal=True, window=128), 128),  # 127 cached ones and its own
        (Mask(causal=True, window=100_000), 32_769),
        (Mask(causal=True, chunk=8192), 1),  # position 32,768 starts a chunk
        (Mask(causal=True, chunk=5000), 2769),  # position 30,000 does, and 32,768 is the last
        (Mask(causal=True, window=500, chunk=5000), 500),
    ],
)
def test_decode_reads_the_rows_that_its_query_attends_to(mask: Mask, rows: int) -> None:
    model = load_model("llama_3_8b")
    step = Workload(model=model, batch=1, query_tokens=1, cached_tokens=32_768, precision=model.precision, mask=mask)
    graph = lower(step, "mha")

    # keys and values: 8 heads of 128 elements of 16 bit each
    assert graph.bits_by_role()[Role.CACHE] == rows * 2 * 8 * 128 * 16
    assert graph.extents["k"] == rows
    # what is left is seen by the query: nothing is masked any more, and no operator knows of a mask
    assert all(operator.mask is None for operator in graph.operators)
    assert next(o for o in graph.operators if o.name == "query_rope").first_position == 32_768


def test_parameters_are_table_1() -> None:
    letter = load_model("deepseek_v3_letter")

    assert parameters(letter) == MLA_RC
    assert parameters(load_model("mha_large")) == parameters(same_dimensions(letter)) == MHA_LARGE
    assert parameters(load_model("mha_scaled")) == parameters(same_parameters(letter)) == MHA_SCALED


def test_the_derived_mha_models_are_those_shipped() -> None:
    letter = load_model("deepseek_v3_letter")

    large = GroupedQueryAttention(model_dim=7168, heads=128, kv_heads=128, head_dim=128, rope_dim=0)
    # sqrt(174,063,616 / 469,762,048) = 0.60871...: 7168 -> 4363, 128 -> 77
    scaled = GroupedQueryAttention(model_dim=4363, heads=128, kv_heads=128, head_dim=77, rope_dim=0)
    assert same_dimensions(letter).attention == load_model("mha_large").attention == large
    assert same_parameters(letter).attention == load_model("mha_scaled").attention == scaled


@pytest.mark.parametrize(
    ("model", "model_dim", "head_dim"),
    [
        # sqrt(187,105,280 / 469,762,048) x 7168 = 4523.8, x 128 = 80.78: even already
        ("deepseek_v3", 4523, 80),
        # sqrt(149,225,472 / 335,544,320) x 5120 = 3414.4, x 128 = 85.36: RoPE needs 84
        ("deepseek_v2", 3414, 84),
    ],
)
def test_the_mha_of_a_model_with_rope_has_an_even_head(model: str, model_dim: int, head_dim: int) -> None:
    scaled = same_parameters(load_model(model)).attention

    assert scaled == GroupedQueryAttention(
        model_dim=model_dim, heads=128, kv_heads=128, head_dim=head_dim, rope_dim=head_dim
    )


def test_deepseek_v3_with_rope() -> None:
    model = load_model("deepseek_v3")
    cached = 4095
    step = Workload(model=model, batch=3, query_tokens=1, cached_tokens=cached, precision=model.precision)
    graph = lower(step, "mla_absorbed")
    core = [operator for operator in graph.operators if operator.name in ("scores", "attend")]

    # 174,063,616 + 1536 x 128 x 64 (queries) + 7168 x 64 (the shared key): the 187.1 M of the model
    assert parameters(model) == 187_105_280
    assert graph.tensors["kv_cache"].shape == (3, cached + 1, 576)
    # 278,528 L b FLOP, 2 per MAC: 2 x 128 heads x (576 for the scores + 512 for the context)
    assert 2 * sum(graph.macs(operator) for operator in core) == 278_528 * 4096 * 3


def test_naive_decode_expands_every_cached_token() -> None:
    graph = letter_graph("mla_naive", 1, 999)
    expanded = [operator for operator in graph.operators if operator.name in ("keys", "values")]

    # 2 x 512 x 128 heads x 128 MACs: 33.6 M FLOP for keys and values together, of 1000 tokens
    assert sum(graph.macs(operator) for operator in expanded) == 2 * 8_388_608 * 1000


def test_bits_follow_the_precision_of_each_role() -> None:
    step = replace(workload(grouped()), precision=Precision(weights=4, cache=8, activations=16, partials=32))
    graph = lower(step, "mha")

    # W_q 7 x 16, W_k and W_v 7 x 8 each, W_o 16 x 7: 336 weights; K and V caches: 6 tokens of 2 heads of 4 each
    assert graph.bits_by_role()[Role.WEIGHT] == 336 * 4
    assert graph.bits_by_role()[Role.CACHE] == 2 * 6 * 8 * 8
    assert graph.bits_by_role()[Role.INPUT] == graph.bits_by_role()[Role.OUTPUT] == 7 * 16
    # probs_stats and context_stats: 4 heads x 2; context_part: 4 heads x 4
    assert graph.bits_by_role()[Role.PARTIAL] == (8 + 8 + 16) * 32
    assert graph.dram_read_bits == 336 * 4 + 2 * 6 * 8 * 8 + 7 * 16
    # one new row of K and of V, and y
    assert graph.dram_write_bits == 2 * 8 * 8 + 7 * 16


def test_edges_follow_the_tensors() -> None:
    graph = lower(workload(latent()), "mla_absorbed")

    edges: dict[tuple[str, str], dict[str, tuple[str, ...]]] = dict(graph.edges.edges)
    assert sorted((*ends, *edge["tensors"]) for ends, edge in edges.items()) == [
        ("attend", "merge", "context_part", "context_stats"),
        ("head_out", "out", "head_out"),
        ("key_rope", "attend", "kv_cache"),
        ("key_rope", "scores", "kv_cache"),
        ("key_rope_raw", "key_rope", "key_rope_raw"),
        ("kv_latent", "kv_latent_norm", "kv_latent"),
        ("kv_latent_norm", "attend", "kv_cache"),
        ("kv_latent_norm", "scores", "kv_cache"),
        ("merge", "head_out", "context"),
        ("q_latent", "q_latent_norm", "q_latent"),
        ("q_latent_norm", "query", "q_latent_norm"),
        ("q_latent_norm", "query_rope_raw", "q_latent_norm"),
        ("query", "query_absorbed", "query"),
        ("query_absorbed", "scores", "query_full"),
        ("query_rope", "scores", "query_full"),
        ("query_rope_raw", "query_rope", "query_rope_raw"),
        ("scores", "softmax", "scores"),
        ("softmax", "attend", "probs", "probs_stats"),
    ]
    assert nx.is_directed_acyclic_graph(graph.edges)
    with pytest.raises(nx.NetworkXError, match="Frozen graph can't be modified"):
        graph.edges.add_edge("out", "query")


def test_gemm_indices_of_every_kind_of_contraction() -> None:
    graph = lower(workload(grouped()), "mha")
    found = {o.name: gemm_indices(o) for o in graph.operators if o.name in ("query", "scores", "attend", "out")}

    assert {name: tuple("".join(i) for i in (g.batch, g.m, g.n, g.k)) for name, g in found.items()} == {
        "query": ("", "bq", "gjn", "d"),
        "scores": ("bg", "qj", "k", "n"),
        "attend": ("bg", "qj", "v", "k"),
        "out": ("", "bq", "e", "gjv"),
    }


def _graph(*operators: Operator) -> OperatorGraph:
    tensors = [
        Tensor(name="x", shape=(4, 3), role=Role.INPUT, element_bits=8),
        Tensor(name="w", shape=(3, 5), role=Role.WEIGHT, element_bits=8),
        Tensor(name="z", shape=(4, 5), role=Role.ACTIVATION, element_bits=8),
        Tensor(name="y", shape=(4, 5), role=Role.OUTPUT, element_bits=8),
    ]
    return OperatorGraph(
        scheme="test",
        extents={"q": 4, "d": 3, "e": 5},
        tensors={tensor.name: tensor for tensor in tensors},
        operators=operators,
        partial_bits=32,
        local=frozenset(),
    )


X = Operand("x", ("q", "d"), (0, 0))
W = Operand("w", ("d", "e"), (0, 0))
Y = Operand("y", ("q", "e"), (0, 0))
Z = Operand("z", ("q", "e"), (0, 0))


def _product(*, first: Operand = X, out: Operand = Y, addend: Operand | None = None) -> Operator:
    return Operator(name="product", kind=Kind.EINSUM, inputs=(first, W), outputs=(out,), addend=addend)


def test_a_well_formed_graph_is_accepted() -> None:
    graph = _graph(_product(out=Z), replace(_product(addend=Z), name="sum"))

    assert graph.total_macs == 2 * 4 * 3 * 5
    assert list(graph.edges.edges) == [("product", "sum")]


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (_product(addend=Z), "product reads z before it is made"),
        (
            _product(first=Operand("x", ("q", "d"), (1, 0))),
            "product: q + 1 runs past 4 of x",
        ),
        (
            _product(first=Operand("x", ("q", "d"), (0, -1))),
            "product: d + -1 runs past 3 of x",
        ),
        (
            _product(first=Operand("x", ("q",), (0,))),
            "product: Operand(tensor='x', indices=('q',), offsets=(0,)) does not match the shape (4, 3)",
        ),
        (
            _product(out=Operand("y", ("q", "e"), (0,))),
            "product: Operand(tensor='y', indices=('q', 'e'), offsets=(0,)) does not match the shape (4, 5)",
        ),
    ],
)
def test_malformed_graphs_raise(operator: Operator, message: str) -> None:
    with pytest.raises(AssertionError) as caught:
        _graph(operator)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("scheme", "attention", "message"),
    [
        ("mha", latent(), "model small has latent attention; scheme mha needs a grouped_query model"),
        ("mla_rc", grouped(), "model small has no latent attention; use scheme mha"),
    ],
)
def test_scheme_and_model_must_fit(scheme: str, attention: GroupedQueryAttention, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (compared below)
        lower(workload(attention), scheme)

    assert str(caught.value) == message
