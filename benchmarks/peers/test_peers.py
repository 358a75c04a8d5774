"""The blocks, the floors and the split of a difference, by hand."""

from dataclasses import replace

import pytest

from benchmarks.peers import compare
from benchmarks.peers.blocks import BLOCKS, Block, build
from benchmarks.peers.ours import Port, floors
from benchmarks.peers.stream_tool import Group, Theirs
from stream_mla.frontends import catalog


def _block(name: str, tokens: int) -> Block:
    return next(block for block in BLOCKS if (block.name, block.tokens) == (name, tokens))


@pytest.mark.parametrize(
    ("name", "tokens", "macs"),
    [
        # q and o: 2 x 7168 x 16384; scores and context: 2 x 128 x 1024 x 128
        ("mha_decode", 1024, 268_435_456),
        # 7168 x 1536 + 1536 x 128 x 192 + 16384 x 7168 = 166,199,296; keys and values: 2 x 1024 x 512 x 16384;
        # scores and context: 128 x 1024 x (192 + 128)
        ("mla_decode_naive", 1024, 17_388_011_520),
        # 166,199,296; w_uk and w_uv: 2 x 128 x 128 x 512; scores and context: 128 x 1024 x (576 + 512)
        ("mla_decode_absorb", 1024, 325_582_848),
        # 2 x 128 x 1024 x 1024 x 128
        ("mha_prefill_core", 1024, 34_359_738_368),
    ],
)
def test_a_block_has_the_products_it_should(name: str, tokens: int, macs: int) -> None:
    assert build(_block(name, tokens)).total_macs == macs


def test_nothing_but_the_products_and_the_softmax_is_left() -> None:
    graph = build(_block("mla_decode_absorb", 1024))
    names = [operator.name for operator in graph.operators]
    assert names == [
        "q_latent",
        "query",
        "query_absorbed",
        "query_rope_raw",
        "scores",
        "softmax",
        "attend",
        "merge",
        "head_out",
        "out",
    ]


def test_floors_of_mha_decode_on_the_quad_core() -> None:
    floor = floors(build(_block("mha_decode", 1024)), catalog.load_accelerator("tpu_like_quad_core"))
    # weights 2 x 7168 x 16384, cache 2 x 128 x 1024 x 128, x and y 7168 each, 16 bit: 4,295,196,672 bit
    assert floor["DRAM"] == pytest.approx(4_295_196_672 / 64)
    assert floor["link"] == pytest.approx(4_295_196_672 / 128)
    assert floor["compute"] == pytest.approx(268_435_456 / 4096)


def test_links_of_two_directions_carry_both_at_once() -> None:
    port = Port(dram=100.0, links=10.0, both_ways=True)
    assert port.cycles(70, 20) == 7.0
    assert replace(port, both_ways=False).cycles(70, 20) == 9.0
    assert replace(port, dram=5.0).cycles(70, 20) == 18.0


def test_the_recorded_table_has_every_cell() -> None:
    cells = {
        (machine, block.name, block.tokens): compare.recorded(machine, block)
        for machine in ("tpu_like_quad_core", "fusemax", "tpu_v7_ironwood")
        for block in BLOCKS
    }
    assert sum(map(len, cells.values())) == 3 * 9 * 2 + 3 * 3
    assert [cell.cycles for cell in cells["fusemax", "mha_decode", 1024]] == [8_410_736, 8_419_080]
    assert [cell.needs_kb for cell in cells["fusemax", "mla_decode_naive", 16384]] == [557_056, 557_056]


def test_groups_are_named_by_their_ends() -> None:
    group = Group(operators=["query_matmul"], cycles=1.0, dram_read_bits=0, dram_write_bits=0)
    assert compare.group_name(group) == "query"
    assert (
        compare.group_name(replace(group, operators=["probs_max", "probs_exp", "probs_div"]))
        == "probs_max to probs_div"
    )


def test_dram_traffic_of_an_answer_is_that_of_its_groups() -> None:
    group = Group(operators=["query_matmul"], cycles=1.0, dram_read_bits=5, dram_write_bits=3)
    answer = Theirs(fused=True, cycles=2.0, cpu_s=1.0, error="", macs=1, groups=[group, group], versions={})
    assert answer.dram_bits == 16
