"""Schemes by name, and one that is registered from outside the package."""

import re
from pathlib import Path

import pytest

from stream_mla import SCHEMES, Point, Workload, evaluate, load_model, lower, register_scheme
from stream_mla.results import store
from stream_mla.results.render.comparison import table_of
from stream_mla.schedule.checker import violations
from stream_mla.workload.lowering.graph_builder import GraphBuilder
from stream_mla.workload.operator_graph import OperatorGraph, Role
from stream_mla.workload.spec import GroupedQueryAttention, LatentAttention


def cross_attention(workload: Workload) -> OperatorGraph:
    """Attention of a decoder to the keys and values of an encoder, which are all cached."""
    shape = workload.model.attention
    assert isinstance(shape, GroupedQueryAttention)
    sizes = {"d": shape.model_dim, "e": shape.model_dim, "g": shape.kv_heads, "j": shape.heads // shape.kv_heads}
    extents = sizes | {"n": shape.head_dim, "v": shape.head_dim, "k": workload.cached_tokens}
    layer = GraphBuilder(workload, extents)
    x = layer.view(layer.tensor("x", "bqd", Role.INPUT), "bqd")
    query = layer.make("query", x, layer.weight("w_q", "dgjn"), "bqgjn")
    keys = layer.view(layer.tensor("k_cache", "bkgn", Role.CACHE), "bkgn")
    values = layer.view(layer.tensor("v_cache", "bkgv", Role.CACHE), "bkgv")
    scores = layer.make("scores", query, keys, "bqgjk")
    context = layer.softmax_attend(scores, values, "gj", "v", shape.head_dim**-0.5)
    layer.output(context, "gjv")
    return layer.graph("cross_attention")


def test_shipped_schemes_have_names_orders_and_lines():
    assert list(SCHEMES) == ["mha", "mla_naive", "mla_absorbed", "mla_rc", "mla_ru"]
    assert all(name == scheme.name for name, scheme in SCHEMES.items())
    assert [scheme.order for scheme in SCHEMES.values()] == ["", "1-3-2", "1-2-3", "2-1-3", "2-1-3"]
    assert SCHEMES["mla_ru"].line == "2-1-3: the composite W_uq W_uk^T was computed once and is read from DRAM"
    assert SCHEMES["mha"].line.startswith("multi-head, ")


def test_schemes_know_the_models_they_fit():
    latent, grouped = load_model("deepseek_v3"), load_model("llama_3_8b")
    assert SCHEMES.fitting(latent) == ["mla_naive", "mla_absorbed", "mla_rc", "mla_ru"]
    assert SCHEMES.fitting(grouped) == ["mha"]
    assert SCHEMES.problem("mla_rc", latent) is None
    assert SCHEMES.problem("mla_rc", grouped) == (
        "mla_rc does not fit llama_3_8b, which has grouped-query attention: use mha"
    )
    assert SCHEMES.problem("gqa", grouped) == "gqa is no scheme: use mha"


@pytest.mark.usefixtures("registry")
def test_a_scheme_from_outside_is_scheduled_shown_and_stored(tmp_path: Path):
    register_scheme("cross", cross_attention, "decoder to encoder", attention=(GroupedQueryAttention,))
    assert SCHEMES.fitting(load_model("llama_3_8b")) == ["mha", "cross"]
    point = Point.of("llama_3_8b", "flat_cloud", context=64, scheme="cross", time_limit=0)
    outcome = evaluate(point)
    # W_q and W_o, 4096 x 4096 each; 64 keys of 8 groups of 128, once for the scores of 4 heads each and once for values
    assert outcome.result.macs == 2 * 4096 * 4096 + 2 * 64 * 32 * 128
    assert violations(outcome.problem, outcome.schedule) == []
    assert "\ncross  " in table_of([point], [outcome.result])
    stored = store.load(store.save(tmp_path, point, outcome))
    (again,) = store.rebuilt(stored, point)
    assert (stored.result, again.schedule) == (outcome.result, outcome.schedule)


@pytest.mark.usefixtures("registry")
def test_names_are_words_and_taken_once():
    with pytest.raises(ValueError, match=r"^scheme 'mha' is registered already: choose another name$"):
        register_scheme("mha", cross_attention, "once more")
    register_scheme("cross", cross_attention, "decoder to encoder")
    with pytest.raises(ValueError, match=r"^scheme 'cross' is registered already: choose another name$"):
        register_scheme("cross", cross_attention, "once more")
    message = "'a b' cannot name a scheme: use letters, digits, '_', '-' and '.', a letter first"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        register_scheme("a b", cross_attention, "two words")


def test_schemes_that_are_not_there_are_named():
    workload = Point.of("llama_3_8b", "flat_cloud").workload
    message = "no scheme 'gqa': use one of mha, mla_naive, mla_absorbed, mla_rc, mla_ru, or add it with register_scheme"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        lower(workload, "gqa")
    assert not SCHEMES["mha"].fits(load_model("deepseek_v3"))
    assert SCHEMES["mla_rc"].attention == (LatentAttention,)
