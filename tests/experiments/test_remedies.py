"""What does not fit says what would, and every change that is named does."""

from dataclasses import replace

import pytest

from stream_mla.errors import StreamMlaError
from stream_mla.evaluation import evaluate
from stream_mla.experiments import remedies as what_if
from stream_mla.experiments.remedies import advice, remedies, remedies_budget
from stream_mla.frontends import catalog
from stream_mla.mapping.requirements import dram_bits
from stream_mla.point import Point
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.spec import Precision, Workload
from tests.helpers import latent, point_of, workload

KIB = 8 * 1024
POINT = point_of(
    Workload(
        model=catalog.load_model("deepseek_v2_lite"),
        batch=8,
        query_tokens=1,
        cached_tokens=1024,
        precision=Precision(weights=8, cache=16, activations=16, partials=32),
    ),
    catalog.load_accelerator("flat_cloud"),
    "mla_ru",
)


def with_dram(bits: int) -> Point:
    return replace(POINT, accelerator=replace(POINT.accelerator, dram=replace(POINT.accelerator.dram, capacity=bits)))


def with_sram(bits: int, point: Point = POINT) -> Point:
    (core,) = point.accelerator.cores
    kind = replace(core.type, sram=replace(core.type.sram, capacity=bits))
    return replace(point, accelerator=replace(point.accelerator, cores=(replace(core, type=kind),)))


def with_work(point: Point, **changes: object) -> Point:
    return replace(point, workload=replace(point.workload, **changes))  # pyright: ignore[reportArgumentType]


def needs(point: Point) -> int:
    return dram_bits(lower(point.workload, point.scheme))


def fails(point: Point) -> bool:
    try:
        evaluate(point)
    except StreamMlaError:
        return True
    return False


def test_a_dram_that_is_too_small() -> None:
    """A cache of 8 x 1025 x 576 elements, of which half the width, or 5 of 8 requests, go in."""
    capacity = needs(with_work(POINT, batch=5)) + 8
    short = with_dram(capacity)
    assert needs(POINT) > capacity > needs(with_work(POINT, precision=replace(POINT.workload.precision, cache=8)))
    need = -(-needs(POINT) // KIB)
    assert remedies(short) == [
        "--bits cache=8",
        "--batch 5 (now 8)",
        f"a DRAM of {need:,} KiB (now {capacity / KIB:,.1f} KiB)",
    ]
    assert fails(with_work(short, batch=6))
    assert not fails(with_work(short, batch=5))


def test_fewer_new_tokens() -> None:
    prefill = with_work(POINT, batch=1, query_tokens=64, cached_tokens=0)
    capacity = needs(with_work(prefill, query_tokens=20))
    changes = remedies(replace(prefill, accelerator=with_dram(capacity).accelerator))
    assert changes is not None
    assert "20 new tokens per request (now 64)" in changes


@pytest.mark.parametrize("sram_kib", [1, 2])
def test_a_memory_grows_to_the_smallest_that_fits(sram_kib: int) -> None:
    """Norms take whole rows, 512 elements of 16 bit in and out: 2 KiB, and more for what waits beside them."""
    work = workload(replace(latent(query_rank=None), kv_rank=512))
    work = replace(work, precision=replace(work.precision, cache=16, activations=16))
    small = with_sram(sram_kib * KIB, replace(POINT, workload=work, scheme="mla_absorbed"))
    assert fails(small)
    changes = remedies(small)
    assert changes is not None
    (grown,) = [change for change in changes if change.startswith("an SRAM of ")]
    size = int(grown.removeprefix("an SRAM of ").partition(" KiB")[0])
    assert grown == f"an SRAM of {size} KiB in flat_cloud_core (now {sram_kib} KiB)"
    assert not fails(with_sram(size * KIB, small))
    assert fails(with_sram((size - 1) * KIB, small))


def test_sizes_set_by_hand_that_do_not_fit() -> None:
    forced = replace(with_work(POINT, batch=1), tile_sizes={"e": 2048, "h": 16, "v": 128}, scheme="mla_absorbed")
    # w_o as one piece: 2048 x 2048 B = 4 MiB
    short = with_sram(2 * 1024 * KIB, forced)
    changes = remedies(short)
    assert changes is not None
    assert changes[0].startswith("no --tile (the search takes e=")
    assert not fails(replace(short, tile_sizes={}))


def test_narrower_tensors_are_tried_alone_first_and_then_together(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int, int, int]] = []

    def fits(_self: object, point: Point) -> bool:
        bits = point.workload.precision
        tried.append((bits.weights, bits.cache, bits.activations))
        return tried[-1] == (8, 8, 8)

    monkeypatch.setattr(what_if._Trials, "fits", fits)  # pyright: ignore[reportPrivateUsage]
    assert remedies(with_work(POINT, batch=1)) == ["--bits cache=8,activations=8"]
    assert tried[:4] == [(8, 16, 16), (8, 8, 16), (8, 16, 8), (8, 8, 8)]


def test_what_fits_needs_no_change() -> None:
    assert remedies(with_work(POINT, batch=1, cached_tokens=16)) is None


def test_a_budget_that_ends_keeps_what_was_found() -> None:
    short = with_dram(needs(with_work(POINT, batch=5)) + 8)
    budget = remedies_budget(short)
    assert remedies(short, budget=replace(budget, total_tiles=1)) == ["--bits cache=8"]
    assert remedies(short, budget=replace(budget, search_time_s=0.0)) == []


def test_advice_says_what_was_tried() -> None:
    assert advice(["a", "b 2"]) == "What makes it fit, each tried and shown by a schedule: a; b 2"
    assert advice([]) == "No single change that was tried makes it fit"
