"""Tiles and blocks: nothing lost, nothing twice, whatever the cut."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream_mla.hardware.work import Gemm, VectorWork
from stream_mla.mapping.tiling.grid import Interval, key_pieces, pieces
from stream_mla.mapping.tiling.interpreter import execute
from stream_mla.mapping.tiling.tile_graph import TileGraph, Tiling
from stream_mla.mapping.tiling.tile_work import region
from stream_mla.mapping.tiling.tiler import tile
from stream_mla.workload.key_mask import KeyMask
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.operator_graph import CONTRACTIONS, COUNTERS, Kind, OperatorGraph, Role
from tests.helpers import graphs, grouped, latent, tilings, uncut, workload


@st.composite
def cuts(draw: st.DrawFn) -> TileGraph:
    graph = draw(graphs())
    return tile(graph, draw(tilings(graph)))


def _meet(first: tuple[Interval, ...], second: tuple[Interval, ...]) -> bool:
    return all(a < d and c < b for (a, b), (c, d) in zip(first, second, strict=True))


@given(cuts())
@settings(max_examples=60, deadline=None)
def test_blocks_partition_their_tensor(tile_graph: TileGraph) -> None:
    blocks: dict[str, list[tuple[Interval, ...]]] = defaultdict(list)
    for block in tile_graph.blocks:
        blocks[block.tensor].append(block.box)
    for name, boxes in blocks.items():
        elements = [prod(high - low for low, high in box) for box in boxes]
        assert min(elements) > 0
        assert sum(elements) == prod(tile_graph.shapes[name])
        assert not any(_meet(a, b) for a, b in combinations(boxes, 2))
        width = tile_graph.graph.tensors[name].element_bits
        assert [b.bits for b in tile_graph.blocks if b.tensor == name] == [width * count for count in elements]


@given(cuts())
@settings(max_examples=60, deadline=None)
def test_tiles_conserve_macs_and_outputs(tile_graph: TileGraph) -> None:
    for operator in tile_graph.graph.operators:
        tiles = [entry for entry in tile_graph.tiles if entry.operator == operator.name]
        if operator.kind in CONTRACTIONS:
            macs = [entry.work.macs for entry in tiles if isinstance(entry.work, Gemm)]
            # of a tile that is masked in part, all is computed
            least = tile_graph.graph.macs(operator)
            assert sum(macs) >= least if operator.mask else sum(macs) == least
        else:
            assert all(isinstance(entry.work, VectorWork) for entry in tiles)
        for operand in operator.outputs:
            if any(index in COUNTERS for index in operand.indices):
                expected = tile_graph.graph.tensors[operand.tensor].element_bits * prod(
                    tile_graph.shapes[operand.tensor]
                )
            else:
                expected = tile_graph.graph.operand_bits(operand)
            written = {n for entry in tiles for n in entry.writes if tile_graph.blocks[n].tensor == operand.tensor}
            # nothing is made where no query attends to a key
            bits = sum(tile_graph.blocks[n].bits for n in written)
            assert bits <= expected if operator.mask else bits == expected


def _require_what_is_not_hidden(
    mask: KeyMask, extents: Mapping[str, int], axes: Sequence[str], boxes: Sequence[tuple[tuple[int, int], ...]]
) -> None:
    """All pairs that are not hidden are in a tile, once for each of the other indices; no tile is hidden as a whole."""
    hidden = mask.hides(np.arange(extents["q"]), np.arange(extents["k"]))
    times = np.zeros(hidden.shape, dtype=int)
    for box in boxes:
        q, k = (slice(*box[axes.index(i)]) for i in ("q", "k"))
        times[q, k] += prod(high - low for i, (low, high) in zip(axes, box, strict=True) if i not in ("q", "k"))
        assert not hidden[q, k].all()
    others = prod(extents[i] for i in axes if i not in ("q", "k"))
    assert (times[~hidden] == others).all()
    assert set(np.unique(times).tolist()) <= {0, others}


@given(cuts())
@settings(max_examples=60, deadline=None)
def test_tiles_of_an_operator_fill_it_without_overlap(tile_graph: TileGraph) -> None:
    for operator in tile_graph.graph.operators:
        axes = [index for index in operator.indices if index not in COUNTERS]
        boxes = [tuple(e.box[index] for index in axes) for e in tile_graph.tiles if e.operator == operator.name]
        if operator.mask is None or "k" not in axes:
            filled = sum(prod(high - low for low, high in box) for box in boxes)
            assert filled == prod(tile_graph.graph.extents[i] for i in axes)
        else:
            _require_what_is_not_hidden(operator.mask, tile_graph.graph.extents, axes, boxes)
        assert not any(_meet(a, b) for a, b in combinations(boxes, 2))


@given(cuts())
@settings(max_examples=60, deadline=None)
def test_every_block_has_one_chain_or_is_born_in_dram(tile_graph: TileGraph) -> None:
    chains: dict[int, set[int]] = defaultdict(set)
    for entry in tile_graph.tiles:
        for number in entry.writes:
            chains[number].add(entry.chain)
    masked = {x.tensor for operator in tile_graph.graph.operators if operator.mask for x in operator.outputs}
    for number, block in enumerate(tile_graph.blocks):
        if block.tensor in masked and not chains[number]:  # hidden as a whole: nobody makes it, nobody reads it
            assert tile_graph.maker[number] == -1
            assert not tile_graph.users[number]
            assert not block.born_in_dram
            assert not block.stored
            continue
        assert len(chains[number]) == (0 if block.born_in_dram else 1), block.name
        role = tile_graph.graph.tensors[block.tensor].role
        if role in (Role.INPUT, Role.WEIGHT):
            assert block.born_in_dram
        makers = [n for n, entry in enumerate(tile_graph.tiles) if number in entry.writes and entry.last]
        assert makers == ([] if block.born_in_dram else [tile_graph.maker[number]])
        assert (tile_graph.maker[number] == -1) == block.born_in_dram
        assert tile_graph.users[number] == tuple(n for n, entry in enumerate(tile_graph.tiles) if number in entry.reads)
        assert block.via_dram == (
            role in (Role.INPUT, Role.WEIGHT, Role.CACHE) or block.tensor in tile_graph.tiling.spilled
        )
        assert block.stored == (
            not block.born_in_dram and (role in (Role.CACHE, Role.OUTPUT) or block.tensor in tile_graph.tiling.spilled)
        )
        assert block.shared == (block.tensor in tile_graph.tiling.shared)


@given(cuts())
@settings(max_examples=60, deadline=None)
def test_tiles_touch_just_the_blocks_of_their_regions(tile_graph: TileGraph) -> None:
    operators = {operator.name: operator for operator in tile_graph.graph.operators}
    for entry in tile_graph.tiles:
        operator = operators[entry.operator]
        for operands, numbers in ((operator.reads, entry.reads), (operator.outputs, entry.writes)):
            touched = {
                number
                for operand in operands
                for number, block in enumerate(tile_graph.blocks)
                if block.tensor == operand.tensor and _meet(block.box, tuple(region(operand, entry.box)))
                if block.born_in_dram or tile_graph.maker[number] >= 0
            }
            assert set(numbers) == touched
            assert len(numbers) == len(touched)
        for number in entry.writes:  # a block is never written in part
            block = tile_graph.blocks[number]
            boxes = [region(operand, entry.box) for operand in operator.outputs if operand.tensor == block.tensor]
            assert any(
                all(low <= a and b <= high for (a, b), (low, high) in zip(block.box, box, strict=True)) for box in boxes
            )


@given(cuts())
@settings(max_examples=60, deadline=None)
def test_tiles_stand_in_an_order_in_which_they_can_run(tile_graph: TileGraph) -> None:
    steps: Counter[int] = Counter()
    last_of: dict[int, int] = {}
    for number, entry in enumerate(tile_graph.tiles):
        assert entry.step == steps[entry.chain]
        made = {tile_graph.maker[block] for block in entry.reads} - {-1}
        before = made | ({last_of[entry.chain]} if entry.step else set[int]())
        assert tile_graph.predecessors[number] == tuple(sorted(before))
        assert max(before, default=-1) < number
        assert tile_graph.successors[number] == tuple(
            n for n, needed in enumerate(tile_graph.predecessors) if number in needed
        )
        steps[entry.chain] += 1
        last_of[entry.chain] = number
    assert sorted(last_of.values()) == [n for n, entry in enumerate(tile_graph.tiles) if entry.last]
    for entry in tile_graph.tiles:
        if isinstance(entry.work, Gemm):
            addend = next(o.addend for o in tile_graph.graph.operators if o.name == entry.operator)
            assert entry.work.accumulates == (entry.step > 0 or addend is not None)


@given(cuts())
@settings(max_examples=60, deadline=None)
def test_chains_and_clusters_run_without_a_break(tile_graph: TileGraph) -> None:
    """Within a phase, and unless a chain is free to start early and no local tensor ties it to another."""
    members: dict[tuple[int, int], list[int]] = defaultdict(list)
    chains: dict[int, set[int]] = defaultdict(set)
    for number, entry in enumerate(tile_graph.tiles):
        members[entry.group, entry.phase].append(number)
        chains[entry.group].add(entry.chain)
    for (group, _), numbers in members.items():
        first = tile_graph.tiles[numbers[0]]
        alone = len(chains[group]) == 1
        if not (alone and first.operator in tile_graph.tiling.eager):
            assert numbers == list(range(numbers[0], numbers[-1] + 1))


@given(cuts())
@settings(max_examples=60, deadline=None)
def test_clusters_are_what_local_tensors_join(tile_graph: TileGraph) -> None:
    chains = sorted({entry.chain for entry in tile_graph.tiles})
    joined = {chain: {chain} for chain in chains}
    for number, block in enumerate(tile_graph.blocks):
        if block.tensor in tile_graph.tiling.local:
            together: set[int] = set()
            for entry in tile_graph.tiles:
                if number in (*entry.reads, *entry.writes):
                    together |= joined[entry.chain]
            for chain in together:
                joined[chain] = together
    cluster_of: dict[int, set[int]] = defaultdict(set)
    for entry in tile_graph.tiles:
        cluster_of[entry.chain].add(entry.group)
    assert all(len(groups) == 1 for groups in cluster_of.values())
    for a, b in combinations(chains, 2):
        assert (b in joined[a]) == (cluster_of[a] == cluster_of[b])
    # numbered as they are first met
    firsts = list(dict.fromkeys(entry.group for entry in tile_graph.tiles))
    assert firsts == list(range(len(firsts)))


@given(cuts())
@settings(max_examples=60, deadline=None)
def test_unfinished_sums_are_held_wide(tile_graph: TileGraph) -> None:
    steps = Counter(entry.chain for entry in tile_graph.tiles)
    for number, block in enumerate(tile_graph.blocks):
        chain = next((entry.chain for entry in tile_graph.tiles if number in entry.writes), None)
        width = tile_graph.graph.tensors[block.tensor].element_bits
        elements = prod(high - low for low, high in block.box)
        held = max(32, width) if chain is not None and steps[chain] > 1 else width
        assert (block.bits, block.held_bits) == (elements * width, elements * held)


def _inputs(graph: OperatorGraph) -> dict[str, NDArray[np.float64]]:
    rng = np.random.default_rng(5)
    roles = (Role.INPUT, Role.WEIGHT, Role.CACHE)
    return {name: rng.normal(size=t.shape) / 3 for name, t in graph.tensors.items() if t.role in roles}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_cut_layer_computes_what_the_uncut_layer_computes(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    tile_graph = tile(graph, data.draw(tilings(graph)))
    given_arrays = _inputs(graph)
    whole = execute(tile(graph, uncut(graph.local)), given_arrays)
    parts = execute(tile_graph, given_arrays)

    for name, tensor in graph.tensors.items():
        if tensor.role in (Role.OUTPUT, Role.CACHE):
            np.testing.assert_allclose(parts[name], whole[name], rtol=1e-9, atol=1e-9)


@given(cuts())
@settings(max_examples=60, deadline=None)
def test_what_may_be_cut_is_cut_as_asked(tile_graph: TileGraph) -> None:
    for operator in tile_graph.graph.operators:
        sizes = tile_graph.tiling.sizes[operator.name]
        for index in operator.cuttable:
            if index == "k":
                continue
            extent = tile_graph.graph.extents[index]
            found = {entry.box[index] for entry in tile_graph.tiles if entry.operator == operator.name}
            assert found == set(pieces(extent, sizes.get(index, extent)))


def test_pieces_keep_the_remainder() -> None:
    assert pieces(7, 3) == [(0, 3), (3, 6), (6, 7)]
    assert pieces(6, 3) == [(0, 3), (3, 6)]
    assert pieces(2, 3) == [(0, 2)]


def test_keys_are_cut_into_parts_and_parts_into_chunks() -> None:
    # 7 keys in 2 parts: [0, 3) and [3, 7); chunks of 2
    assert key_pieces(7, 2, 2) == [((0, 2), 0), ((2, 3), 0), ((3, 5), 1), ((5, 7), 1)]
    assert key_pieces(7, 1, 9) == [((0, 7), 0)]
    assert key_pieces(7, 3, 7) == [((0, 2), 0), ((2, 4), 1), ((4, 7), 2)]


def test_vector_work_counts_operations_and_bits() -> None:
    """MHA of 4 heads of 4, one query against 6 keys in chunks of 4 and 2."""
    graph = lower(workload(grouped()), "mha")
    tile_graph = tile(graph, replace(uncut(graph.local), sizes={"softmax": {"k": 4}, "attend": {"k": 4}}))
    work = {entry.name: entry.work for entry in tile_graph.tiles if isinstance(entry.work, VectorWork)}

    assert work == {
        # 3 operations for each of 4 heads x 4 elements; as many in as out
        "query_rope": VectorWork(operations=48, read_bits=128, write_bits=128),
        "key_rope": VectorWork(operations=24, read_bits=64, write_bits=64),
        # 7 for each of 4 heads x 4 keys; writes 16 numerators of 8 bit and 4 x 2 statistics of 32 bit
        "softmax[k=0:4]": VectorWork(operations=112, read_bits=128, write_bits=128 + 256),
        # 7 x 8, and each of the 4 heads' running sum of 4 elements is rescaled: 16
        "softmax[k=4:6]": VectorWork(operations=72, read_bits=64, write_bits=64 + 256),
        # one part of 4 heads x 4 elements: 2 for each, 1 for the division; reads its 32-bit sums and statistics
        "merge": VectorWork(operations=48, read_bits=512 + 256, write_bits=128),
    }


def test_merge_divides_once_per_element_of_the_result() -> None:
    graph = lower(workload(grouped()), "mha")
    tile_graph = tile(graph, replace(uncut(graph.local), kv_splits={"attention": 3}))
    (merge,) = (entry.work for entry in tile_graph.tiles if entry.kind is Kind.MERGE)

    # 3 parts of 4 heads x 4 elements, 2 for each; 16 divisions; 48 sums and 3 x 4 x 2 statistics of 32 bit
    assert merge == VectorWork(operations=2 * 48 + 16, read_bits=(48 + 24) * 32, write_bits=128)


def test_gemms_have_the_sizes_of_their_box() -> None:
    """The first chunk of keys of one of two groups of 2 heads each."""
    graph = lower(workload(grouped(), batch=2, query_tokens=3), "mha")
    sizes = {name: {"g": 1, "k": 3} for name in ("scores", "softmax", "attend")}
    tile_graph = tile(graph, replace(uncut(graph.local), sizes=sizes))
    work = {entry.name: entry.work for entry in tile_graph.tiles}

    # batch 2 requests x 1 group; m 3 tokens x 2 heads; k 4 elements of a head
    bits = {"a_bits": 8, "b_bits": 8}
    assert work["scores[g=0:1,k=0:3]"] == Gemm(batch=2, m=6, n=3, k=4, **bits, out_bits=8, accumulates=False)
    # the context is a running sum of 32 bit
    assert work["attend[g=0:1,k=0:3]"] == Gemm(batch=2, m=6, n=4, k=3, **bits, out_bits=32, accumulates=False)
    # 8 keys: chunks of 3, 3 and 2
    assert work["attend[g=1:2,k=6:8]"] == Gemm(batch=2, m=6, n=4, k=2, **bits, out_bits=32, accumulates=True)


def test_gating_keeps_few_sums_unfinished_and_early_lets_them_wait() -> None:
    """Two heads of `value` feed a chain of two steps of `out`, cut over heads."""
    graph = lower(workload(grouped(heads=2, rotate=False), cached_tokens=3), "mha")
    heads = {name: {"g": 1} for name in ("scores", "softmax", "attend", "merge", "out")}

    def order(eager: frozenset[str]) -> list[str]:
        names = [entry.name for entry in tile(graph, replace(uncut(graph.local), sizes=heads, eager=eager)).tiles]
        return [name for name in names if name.startswith(("merge", "out"))]

    assert order(frozenset()) == ["merge[g=0:1]", "merge[g=1:2]", "out[g=0:1]", "out[g=1:2]"]
    assert order(frozenset({"out"})) == ["merge[g=0:1]", "out[g=0:1]", "merge[g=1:2]", "out[g=1:2]"]


def test_what_reads_the_same_keys_follows_on_one_core() -> None:
    """Two heads of four query tokens, cut in two; keys that stay are read by both halves of a head."""
    graph = lower(workload(grouped(heads=2, kv_heads=2, rotate=False), query_tokens=4), "mha")
    halves = {name: {"g": 1, "q": 2} for name in ("scores", "softmax", "attend", "merge")}

    def scores(together: frozenset[str]) -> list[tuple[str, int]]:
        tile_graph = tile(graph, replace(uncut(graph.local), sizes=halves, together=together))
        firsts = next(entry.group for entry in tile_graph.tiles if entry.operator == "scores")
        return [(entry.name, entry.group - firsts) for entry in tile_graph.tiles if entry.operator == "scores"]

    apart = [number for _, number in scores(frozenset())]
    assert len(set(apart)) == 4
    names = [f"scores[q={q}:{q + 2},g={g}:{g + 1}]" for g in range(2) for q in (0, 2)]
    found = scores(frozenset({"k_cache", "v_cache"}))
    assert [name for name, _ in found] == names
    assert [number == found[0][1] for _, number in found] == [True, True, False, False]
    assert found[2][1] == found[3][1]


def _listing(tile_graph: TileGraph) -> str:
    lines: list[str] = []
    for entry in tile_graph.tiles:
        reads, writes = (
            ", ".join(tile_graph.blocks[n].name for n in numbers) for numbers in (entry.reads, entry.writes)
        )
        work = entry.work
        size = (
            f"{work.batch} x {work.m} x {work.n} x {work.k}"
            if isinstance(work, Gemm)
            else f"{work.operations} operations"
        )
        place = f"chain {entry.chain}.{entry.step}{'!' if entry.last else ''} cluster {entry.group}"
        lines.append(f"{entry.name}: {place}; {size}; {reads} -> {writes}")
    blocks = [
        f"{b.name}: {b.bits}/{b.held_bits} bit"
        + "".join(f" {word}" for word in ("born_in_dram", "via_dram", "stored", "shared") if getattr(b, word))
        for b in tile_graph.blocks
    ]
    return "\n".join([*lines, "", *blocks]) + "\n"


def test_tiles_and_blocks_of_a_small_layer(golden: Callable[[str], None]) -> None:
    """Two heads, three cached tokens; composite by head, keys in two parts, W_o in two steps over heads."""
    graph = lower(workload(latent(rope_dim=0, norms=False), cached_tokens=3), "mla_rc")
    by_head = ("composite", "query_absorbed", "scores", "softmax", "attend", "merge", "out")
    tile_graph = tile(
        graph,
        Tiling(
            sizes={name: {"h": 1} for name in by_head} | {"head_out": {"c": 3}},
            kv_splits={"attention": 2},
            spilled=frozenset({"q_latent"}),
            shared=frozenset({"kv_cache"}),
            local=graph.local,
        ),
    )

    golden(_listing(tile_graph))
