"""Ctrl-C: what was found until then is kept, checked and returned; twice, and nothing more is waited for."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stream_mla.evaluation import evaluate
from stream_mla.hardware.core_cost import Objective
from stream_mla.results.outcome import Interrupted
from stream_mla.results.result import Status
from stream_mla.schedule.checker import violations
from tests.helpers import decode_point

ROOT = Path(__file__).parents[2]
POINT = decode_point("deepseek_v2_lite", "mla_rc", "flat_cloud", 512)


@pytest.fixture(autouse=True)
def sigint_interrupts() -> Iterator[None]:
    """A shell that starts the tests in the background has them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupting(count: int) -> tuple[list[str], Callable[[str], None]]:
    """Return what is said, and a progress function that is interrupted when it has been called so often."""
    said: list[str] = []

    def progress(text: str) -> None:
        said.append(text)
        if len(said) == count:
            raise KeyboardInterrupt

    return said, progress


def test_the_best_tiling_until_then_is_returned() -> None:
    said, progress = interrupting(2)
    with pytest.raises(Interrupted) as caught:
        evaluate(POINT, progress)
    outcome = caught.value.outcome
    assert outcome.result.status is Status.INTERRUPTED
    assert outcome.result.solver_status == "not reached"
    assert violations(outcome.problem, outcome.schedule) == []
    assert said[-1] == "interrupted: checking the best schedule found"
    assert any(f"best {outcome.result.latency_cycles:,} cycles" in line for line in said)


def test_before_the_first_schedule_there_is_nothing_to_return(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, easy: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stream_mla.solvers.tiling_search.greedy", stop)
    with pytest.raises(KeyboardInterrupt) as caught:
        evaluate(POINT)
    assert not isinstance(caught.value, Interrupted)


def test_under_a_cap_only_what_keeps_to_it_counts() -> None:
    best = evaluate(POINT).result.latency_cycles
    _, progress = interrupting(1)
    with pytest.raises(KeyboardInterrupt) as caught:
        evaluate(replace(POINT, objective=Objective.ENERGY, latency_cap_cycles=best - 1), progress)
    assert not isinstance(caught.value, Interrupted)


def test_the_solver_gives_its_best_until_then() -> None:
    """The signal comes while CP-SAT works; a search of minutes ends within seconds."""
    main, said = threading.main_thread().ident, list[str]()
    assert main is not None

    def progress(text: str) -> None:
        if text.startswith("cp_sat") and not said:
            said.append(text)
            signal.pthread_kill(main, signal.SIGINT)

    began = time.perf_counter()
    with pytest.raises(Interrupted) as caught:
        evaluate(replace(POINT, time_limit_s=200.0), progress)
    result = caught.value.outcome.result
    assert time.perf_counter() - began < 60
    assert result.status is Status.INTERRUPTED
    assert result.solver_status.endswith(" changes, FEASIBLE")
    assert result.solver_bound_cycles is not None
    assert result.lower_bound_cycles <= result.latency_cycles <= result.greedy_latency_cycles


def stream_mla(*arguments: str) -> subprocess.Popen[str]:
    code = "import sys; from stream_mla.cli.main import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


LONG = ("run", "deepseek_v2_lite", "--accelerator", "flat_cloud", "--context", "512", "--time-limit", "200")


def test_a_run_prints_the_row_it_was_at_and_goes_on_from_it(tmp_path: Path) -> None:
    """The second run finds in DIR what the first had, and starts from there."""
    more = ("--gap-limit", "0", "--scheme", "mla_rc", "mla_ru", "--json", "--verbose", "--save", str(tmp_path))
    with stream_mla(*LONG, *more) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stderr:
            if "cp_sat: best" in line:
                process.send_signal(signal.SIGINT)
                break
        rows = json.loads(process.stdout.read())
        said = process.stderr.read()
    assert process.returncode == 130
    assert [(row["scheme"], row["status"]) for row in rows] == [("mla_rc", "interrupted")]
    assert said.endswith("interrupted after 1 of 2 rows\n")
    (file,) = tmp_path.iterdir()
    again = ("--gap-limit", "0", "--scheme", "mla_rc", "--json", "--save", str(tmp_path), "--verbose")
    with stream_mla(*LONG, *again) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        process.kill()
    assert first == f"deepseek_v2_lite mla_rc: goes on from {file}, which was interrupted\n"


def test_the_second_time_it_ends_at_once() -> None:
    code = (
        "import time; from stream_mla.cli.progress import patient\n"
        "with patient():\n"
        "    try:\n"
        "        print('ready', flush=True); time.sleep(60)\n"
        "    except KeyboardInterrupt:\n"
        "        print('gathering', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for said in ("ready\n", "gathering\n"):
            assert process.stdout.readline() == said
            process.send_signal(signal.SIGINT)
        assert (process.stderr.read(), process.wait(20)) == ("", 130)


def test_handlers_are_put_back() -> None:
    from stream_mla.cli.progress import patient

    before = signal.getsignal(signal.SIGINT)
    with patient():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
