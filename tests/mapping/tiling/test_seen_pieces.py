"""Pieces of queries and keys that are a tile, counted without making them."""

from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_mla.hardware.work import Gemm, VectorWork
from stream_mla.mapping.tiling.tile_graph import Tiling, operator_seen, tile_count
from stream_mla.mapping.tiling.tiler import tile
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.operator_graph import OperatorGraph
from stream_mla.workload.spec import CAUSAL, Mask
from tests.helpers import graphs, grouped, tilings, uncut, workload


@st.composite
def _cuts(draw: st.DrawFn) -> tuple[OperatorGraph, Tiling]:
    graph = draw(graphs())
    return graph, draw(tilings(graph))


@given(_cuts())
@settings(max_examples=80, deadline=None)
def test_counts_are_those_of_the_tiles(cut: tuple[OperatorGraph, Tiling]) -> None:
    graph, tiling = cut
    tile_graph = tile(graph, tiling)
    for operator in graph.operators:
        seen = operator_seen(graph, operator, tiling)
        if seen is None:
            continue
        entries = [entry for entry in tile_graph.tiles if entry.operator == operator.name]
        boxes = {(entry.box["q"], entry.box["k"], entry.box["s"]) for entry in entries if "s" in entry.box}
        boxes = boxes or {(entry.box["q"], entry.box["k"], (0, 0)) for entry in entries}
        pieces = sorted({q for q, _, _ in boxes})
        chunks = {piece: sorted((k, s) for q, k, s in boxes if q == piece) for piece in pieces}
        assert seen.chunks.tolist() == [len(chunks[piece]) for piece in pieces]
        assert seen.area == sum((q[1] - q[0]) * (k[1] - k[0]) for q, k, _ in boxes)
        kinds = Counter(
            (q[1] - q[0], k[1] - k[0], k == min(other for other, part in chunks[q] if part == s)) for q, k, s in boxes
        )
        assert seen.kinds() == kinds
        if operator.name == "attend":
            assert seen.splits.tolist() == [len({s for _, s in chunks[piece]}) for piece in pieces]
    if not tiling.kv_splits:
        assert tile_count(graph, tiling) == len(tile_graph.tiles)


def test_a_causal_triangle_by_hand() -> None:
    # 8 queries and keys, pieces of 2 and 2: 4 x 4 squares of which 1 + 2 + 3 + 4 are left, 4 pairs each
    graph = lower(workload(grouped(), query_tokens=8, cached_tokens=0, mask=CAUSAL), "mha")
    sizes = {name: {"q": 2, "k": 2} for name in ("scores", "softmax", "attend", "merge")}
    tiling = replace(uncut(graph.local), sizes=sizes)
    tiles = tile(graph, tiling).tiles
    work = [entry.work for entry in tiles if entry.operator == "scores"]

    assert len(work) == 10
    # 4 heads of 4 elements
    assert sum(entry.macs for entry in work if isinstance(entry, Gemm)) == 10 * 4 * 4 * 4
    assert graph.macs(next(operator for operator in graph.operators if operator.name == "scores")) == 4 * 4 * 36
    # the chain of the context is one step longer for each piece of the queries
    chains = Counter(entry.chain for entry in tiles if entry.operator == "attend")
    assert sorted(chains.values()) == [1, 2, 3, 4]
    # softmax: 7 per score, and every chunk after the first of a piece rescales 4 heads x 2 rows x 4 elements
    vector = [entry.work for entry in tiles if entry.kind == "softmax"]
    operations = sum(entry.operations for entry in vector if isinstance(entry, VectorWork))
    assert operations == 7 * 10 * 4 * 4 + 6 * 32


def test_merges_have_the_splits_that_their_queries_see() -> None:
    # 8 keys in 4 splits of 2, queries in pieces of 2: piece n sees n + 1 splits
    graph = lower(workload(grouped(), query_tokens=8, cached_tokens=0, mask=CAUSAL), "mha")
    sizes = {name: {"q": 2} for name in ("scores", "softmax", "attend", "merge")}
    tile_graph = tile(graph, replace(uncut(graph.local), sizes=sizes, kv_splits={"attention": 4}))

    merges = [entry for entry in tile_graph.tiles if entry.operator == "merge"]
    assert sorted(entry.box["s"] for entry in merges) == [(0, 1), (0, 2), (0, 3), (0, 4)]
    # a context part and its statistics from each part
    assert sorted(len(entry.reads) for entry in merges) == [2, 4, 6, 8]
    assert sum(entry.operator == "attend" for entry in tile_graph.tiles) == 10


def test_a_window_leaves_a_band() -> None:
    # 16 queries in pieces of 4, a window of 4: each piece sees its own chunk of 4 keys and the one before it
    mask = Mask(causal=True, window=4)
    graph = lower(workload(grouped(), query_tokens=16, cached_tokens=0, mask=mask), "mha")
    sizes = {name: {"q": 4, "k": 4} for name in ("scores", "softmax", "attend")}
    seen = operator_seen(graph, next(o for o in graph.operators if o.name == "attend"), replace(uncut(), sizes=sizes))
    assert seen is not None
    assert seen.chunks.tolist() == [1, 2, 2, 2]
    assert seen.most_keys == 8
    assert seen.keys_over(np.array([0, 8])) == 8 + 12
