"""This module is about what is said on stderr while a command works, and what Ctrl-C does to it."""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream_mla.schedule.candidate import Progress

INTERRUPTED = 130
TICK_S = 0.5


@contextmanager
def shown(name: str, *, verbose: bool) -> Generator["Progress"]:
    """Give a function that shows progress with the seconds since the start.

    On a terminal it is a line that is overwritten, also while nothing new is said; with `verbose` it is lines; else
    nothing is shown.
    """
    if sys.stderr.isatty() and not verbose:
        with _rewritten(name) as show:
            yield show
        return
    began = time.perf_counter()

    def say(text: str) -> None:
        if verbose:
            print(f"{name}: {text}, {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)

    yield say


@contextmanager
def _rewritten(name: str) -> Generator["Progress"]:
    began, stop = time.perf_counter(), threading.Event()
    latest = ""

    def show(text: str) -> None:
        nonlocal latest
        latest = text
        line = f"{name}: {text}, {time.perf_counter() - began:.1f} s"
        print(f"\r{line[: shutil.get_terminal_size().columns - 1]}\x1b[K", end="", file=sys.stderr, flush=True)

    def tick() -> None:
        while not stop.wait(TICK_S):
            if latest:
                show(latest)

    ticking = threading.Thread(target=tick, daemon=True)
    ticking.start()
    try:
        yield show
    finally:
        stop.set()
        ticking.join()
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@contextmanager
def patient() -> Generator[None]:
    """Make the first Ctrl-C a KeyboardInterrupt, after which results are gathered, and the second the end."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return
    pressed = False

    def handle(_signal: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            os._exit(INTERRUPTED)
        pressed = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
