"""Results on disk: stored, found again, checked again, and what schedules start from."""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stream_mla.errors import SpecError
from stream_mla.evaluation import evaluate
from stream_mla.frontends import catalog
from stream_mla.hardware.core_cost import Objective
from stream_mla.mapping.policy import POLICIES
from stream_mla.results import sealed_files, store
from stream_mla.results.outcome import Outcome
from stream_mla.results.result import Status
from stream_mla.solvers.budget import Budget
from stream_mla.workload.spec import Precision, Workload
from tests.helpers import point_of

Content = dict[str, Any]
POINT = point_of(
    Workload(
        model=catalog.load_model("deepseek_v2_lite"),
        batch=1,
        query_tokens=1,
        cached_tokens=128,
        precision=Precision(weights=8, cache=8, activations=8, partials=32),
    ),
    catalog.load_accelerator("flat_cloud"),
    "mla_ru",
)
DRAM = POINT.accelerator.dram
FASTER = replace(POINT, accelerator=replace(POINT.accelerator, dram=replace(DRAM, bandwidth=2 * DRAM.bandwidth)))


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return evaluate(POINT)


@pytest.fixture
def path(outcome: Outcome, tmp_path: Path) -> Path:
    return store.save(tmp_path, POINT, outcome)


def edited(path: Path, change: Callable[[Content], None], *, seal: bool = True) -> Path:
    """Change a file, with or without a checksum that fits."""
    content = json.loads(path.read_text())
    change(content)
    known = [content.pop(key, None) for key in ("format", "sha256")]
    text = sealed_files.sealed(content)
    if not seal:
        text = json.dumps({"format": known[0], "sha256": known[1]} | content)
    path.write_text(text)
    return path


def test_what_is_stored_is_what_is_loaded(outcome: Outcome, path: Path) -> None:
    stored = store.load(path)
    assert path.name == f"deepseek_v2_lite-flat_cloud-mla_ru-128-{POINT.sha256[:16]}.json"
    [decisions] = stored.decisions
    assert (stored.result, decisions.schedule) == (outcome.result, outcome.schedule)
    assert decisions.tiling == outcome.problem.tile_graph.tiling
    [again] = store.rebuilt(stored, POINT)
    assert again.problem == outcome.problem
    assert (again.latency_cycles, again.energy_pj) == (outcome.result.latency_cycles, outcome.result.energy_pj)
    assert again.origin == POINT.sha256
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # no temporary file is left


@pytest.mark.parametrize("objective", [Objective.ENERGY, Objective.LATENCY_THEN_ENERGY])
def test_mappings_are_stored_too(objective: Objective, tmp_path: Path) -> None:
    point = replace(POINT, objective=objective)
    outcome = evaluate(point)
    [again] = store.rebuilt(store.load(store.save(tmp_path, point, outcome)), point)
    assert again.least_energy_tiles == outcome.best.least_energy_tiles
    assert again.energy_pj == outcome.result.energy_pj


def test_a_start_is_never_made_worse(outcome: Outcome, path: Path) -> None:
    """The search is made poor by pieces set by hand, which the stored schedule does not have."""
    [start] = store.rebuilt(store.load(path), POINT)
    poor = replace(POINT, tile_sizes={"k": 16}, seed=2)
    alone, warm = evaluate(poor).result, evaluate(poor, starts=[start]).result
    assert alone.latency_cycles > outcome.result.latency_cycles == warm.latency_cycles
    assert (warm.scheduler, warm.start_sha256) == ("start", POINT.sha256)
    assert (alone.scheduler, alone.start_sha256) == ("greedy", "")


def test_a_start_may_differ_in_objective_limits_and_seed(path: Path) -> None:
    stored = store.load(path)
    other = replace(
        POINT, objective=Objective.ENERGY, latency_cap_cycles=10**6, time_limit_s=9.0, gap_limit=0.5, seed=7, workers=2
    )
    assert store.differences(stored, other) == []
    assert store.starts(path, [FASTER, other]) == [None, stored]


def test_what_does_not_fit_says_what_differs(path: Path) -> None:
    wider = replace(FASTER, scheme="mla_rc", policy=POLICIES["letter"], workload=replace(POINT.workload, batch=2))
    with pytest.raises(SpecError) as caught:
        store.starts(path, [wider])
    assert str(caught.value) == (
        f"{path}: 1 problem\n  - stored for another point: workload.batch is 1 there and 2 here; "
        "accelerator.dram.bandwidth is 3200000000000.0 there and 6400000000000.0 here; "
        "scheme is 'mla_ru' there and 'mla_rc' here; policy.fusion is 'auto' there and 'on' here; "
        "policy.prefetch is 'on' there and 'second' here"
    )


def test_many_differences_are_counted(path: Path) -> None:
    other = replace(POINT, accelerator=catalog.load_accelerator("h100"))
    with pytest.raises(SpecError, match=r"; and \d{3,} more$"):
        store.starts(path, [other])


def test_a_folder_gives_the_best_that_fits(outcome: Outcome, tmp_path: Path) -> None:
    slow = replace(outcome.result, latency_cycles=outcome.result.latency_cycles + 1, energy_pj=1.0)
    store.save(tmp_path, POINT, outcome)
    store.save(tmp_path, replace(POINT, seed=5), replace(outcome, result=slow))
    capped = replace(POINT, objective=Objective.ENERGY, latency_cap_cycles=outcome.result.latency_cycles)
    points = [POINT, replace(POINT, objective=Objective.ENERGY), capped, FASTER]
    found = [start and start.result.energy_pj for start in store.starts(tmp_path, points)]
    best = outcome.result.energy_pj
    assert found == [best, 1.0, best, None]  # the thrifty one is over the cap
    with pytest.raises(
        SpecError, match=r"stored for another point \(the nearest is \S+-[0-9a-f]{16}\.json\): accelerator"
    ):
        store.starts(tmp_path, [FASTER])


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        store.starts(tmp_path, [POINT])
    assert str(caught.value) == f"{tmp_path}: 1 problem\n  - nothing is stored here"


def test_a_schedule_that_breaks_a_rule_is_refused(path: Path) -> None:
    def hurry(content: Content) -> None:
        runs = content["decisions"][0]["schedule"]["runs"]
        start = runs["fields"].index("start")
        runs["rows"][0][start] -= 1

    stored = store.load(edited(path, hurry))
    with pytest.raises(SpecError) as caught:
        store.rebuilt(stored, POINT)
    assert re.fullmatch(
        rf"{path}: 1 problem\n  - the stored schedule breaks \d+ rules of this version, the first: \S+ "
        r"takes [\d,]+ cycles on core, it costs [\d,]+",
        str(caught.value),
    )


def newer(content: Content) -> None:
    content["format"] = 5


def without_latency(content: Content) -> None:
    del content["result"]["latency_cycles"]


def without_schedule(content: Content) -> None:
    del content["decisions"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            without_latency,
            "not a stored result of this version (TypeError: Result.__init__() missing 1 required keyword-only "
            "argument: 'latency_cycles'): run its point again",
        ),
        (
            without_schedule,
            "not a stored result of this version (JSONDecodeError: Expecting value: line 1 column {end} "
            "(char {before})): run its point again",
        ),
    ],
)
def test_files_of_other_versions_are_refused(path: Path, change: Callable[[Content], None], problem: str) -> None:
    length = len(edited(path, change).read_text())
    with pytest.raises(SpecError) as caught:
        store.load(path)
    problem = problem.replace("{end}", str(length + 2)).replace("{before}", str(length + 1))
    assert str(caught.value) == f"{path}: 1 problem\n  - {problem}"


def without_format(content: Content) -> None:
    del content["format"]


def test_a_file_of_another_format_is_refused(path: Path) -> None:
    changes: tuple[tuple[Callable[[Content], None], str], ...] = (
        (newer, "stored in format 5, this version reads 4"),
        (without_format, "not a stored result of this version (ValueError: it has no format)"),
    )
    for change, problem in changes:
        before = path.read_text()
        with pytest.raises(SpecError) as caught:
            store.load(edited(path, change, seal=False))
        assert str(caught.value).removesuffix(": run its point again") == f"{path}: 1 problem\n  - {problem}"
        path.write_text(before)


def faster(content: Content) -> None:
    content["result"]["latency_cycles"] -= 1


def thriftier(content: Content) -> None:
    content["result"]["energy_pj"] /= 2


def renamed(content: Content) -> None:
    content["result"]["model"] = "another"


@pytest.mark.parametrize("change", [faster, thriftier, renamed])
def test_what_was_edited_is_refused(path: Path, change: Callable[[Content], None]) -> None:
    with pytest.raises(SpecError) as caught:
        store.reusable(path.parent, POINT) if edited(path, change, seal=False) else None
    assert str(caught.value) == (
        f"{path}: 1 problem\n  - it was changed since it was stored (its checksum differs): run its point again"
    )


def test_a_result_that_its_schedule_does_not_give_is_refused_where_the_checksum_fits(path: Path) -> None:
    stored = store.load(edited(path, faster))
    with pytest.raises(SpecError) as caught:
        store.rebuilt(stored, POINT)
    said = stored.result.latency_cycles
    assert str(caught.value) == (
        f"{path}: 1 problem\n  - the result says {said:,} cycles, its schedule takes {said + 1:,}: run its point again"
    )


def no_decisions(content: Content) -> None:
    content["decisions"] = []


def no_parts(content: Content) -> None:
    content["decisions"][0]["tiling"]["parts"] = 0


def invented_pass(content: Content) -> None:
    fields = ["operators", "sizes", "times", "latency_cycles", "lower_bound_cycles", "tiles", "bottleneck"]
    content["result"]["passes"] = {"fields": fields, "rows": [[["nope"], {}, 1, 1, 1, 1, "x"]]}


def text_as_number(content: Content) -> None:
    content["result"]["latency_cycles"] = "12"


def unknown_tensor(content: Content) -> None:
    content["decisions"][0]["tiling"]["spilled"] = ["nope"]


@pytest.mark.parametrize("change", [no_decisions, no_parts, invented_pass, text_as_number])
def test_what_is_invented_is_refused_where_the_checksum_fits(path: Path, change: Callable[[Content], None]) -> None:
    with pytest.raises(SpecError, match="not a stored result of this version"):
        store.rebuilt(store.load(edited(path, change)), POINT)


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "9" * 6000])
def test_numbers_that_are_none_are_refused(path: Path, number: str) -> None:
    body = path.read_text().partition(", ")[2].partition(", ")[2]
    body = re.sub(r'"latency_cycles": \d+', f'"latency_cycles": {number}', body, count=1)
    digest = hashlib.sha256(body.encode()).hexdigest()
    path.write_text(f'{{"format": 4, "sha256": "{digest}", {body}')
    with pytest.raises(SpecError, match=r"not a stored result of this version \(ValueError"):
        store.load(path)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(SpecError, match="cannot read it: it is no regular file"):
        store.load(tmp_path / "x.json")
    (tmp_path / "y.json").mkdir()
    with pytest.raises(SpecError, match="cannot read it: it is a folder"):
        store.load(tmp_path / "y.json")
    deep = tmp_path / "z.json"
    deep.write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(SpecError, match="not a stored result of this version"):
        store.load(deep)


def test_a_bad_file_in_a_folder_of_starts_is_left_out(path: Path) -> None:
    (path.parent / "package.json").write_text("{}")
    notes: list[str] = []
    [start] = store.starts(path.parent, [POINT], notes.append)
    assert start is not None
    assert notes == [
        f"left out {path.parent}/package.json: 1 problem\n  - not a stored result of this version "
        "(ValueError: it has no format): run its point again"
    ]


def test_a_result_of_another_objective_under_the_name_is_refused(outcome: Outcome, path: Path) -> None:
    energy = replace(POINT, objective=Objective.ENERGY, seed=3)
    path.replace(store.path_of(path.parent, energy))
    with pytest.raises(SpecError) as caught:
        store.reusable(path.parent, energy)
    assert str(caught.value).endswith(
        "stored for another point: objective is 'latency' there and 'energy' here; seed is 1 there and 3 here"
    )


def test_a_planted_link_is_replaced_and_not_followed(outcome: Outcome, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = tmp_path / "results"
    folder.mkdir()
    store.path_of(folder, POINT).symlink_to(victim)
    assert not store.save(folder, POINT, outcome).is_symlink()
    assert victim.read_text() == "mine"


def test_a_folder_that_cannot_be_used_is_refused_beforehand(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/x"), Path("a" * 5000), Path("a\0b")):
        with pytest.raises(SpecError, match="cannot store a result here"):
            store.prepare(folder)
    store.prepare(tmp_path / "new" / "below")
    assert not list((tmp_path / "new" / "below").iterdir())


def test_what_the_same_code_stored_is_read_back_quickly(path: Path) -> None:
    sealed_files.code_sha256()
    replace(POINT).sha256  # noqa: B018  imports and caches are warm
    times: list[float] = []
    for _ in range(5):
        began = time.perf_counter()
        stored = store.reusable(path.parent, POINT)
        times.append(time.perf_counter() - began)
        assert stored is not None
        assert store.made_by_this_code(stored)
    assert min(times) < 0.02


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text("{")
    with pytest.raises(SpecError, match="not a stored result of this version"):
        store.load(file)
    with pytest.raises(SpecError, match="cannot read it: No such file or directory"):
        store.load(tmp_path / "y.json")


def test_only_the_same_point_is_reused(outcome: Outcome, path: Path) -> None:
    folder = path.parent
    assert store.reusable(folder, FASTER) is None
    stored = store.reusable(folder, POINT)
    assert stored is not None
    assert store.is_final(stored)
    unfinished = replace(outcome, result=replace(outcome.result, status=Status.INTERRUPTED))
    assert not store.is_final(store.load(store.save(folder, POINT, unfinished)))
    path.replace(store.path_of(folder, FASTER))
    with pytest.raises(SpecError, match=r"stored for another point: accelerator\.dram\.bandwidth is 3"):
        store.reusable(folder, FASTER)


def test_a_failed_write_leaves_what_was_there(outcome: Outcome, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_text()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(SpecError) as caught:
        store.save(path.parent, POINT, outcome)
    assert str(caught.value) == f"{path.parent}: 1 problem\n  - cannot store a result here: No space left on device"
    assert path.read_text() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_one_worker_and_a_seed_repeat_exactly(tmp_path: Path) -> None:
    """The whole file, schedule included; only the seconds of the solver may differ."""
    point = replace(POINT, scheme="mla_rc", time_limit_s=2.0)
    patient = replace(Budget.of(point), clock_factor=100.0)  # a busy machine takes its time
    contents: list[Any] = []
    for name in ("a", "b"):
        content = json.loads(store.save(tmp_path / name, point, evaluate(point, budget=patient)).read_text())
        content.pop("sha256")  # of the seconds too
        assert content["result"].pop("solve_s") > 0
        contents.append(content)
    assert contents[0] == contents[1]
