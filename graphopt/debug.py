"""One ladder of five steps for whoever debugs.

1 passes, phases and their times, 2 the graph after each pass, 3 each rewrite, 4 each
rule that missed and why, 5 what was lowered. ``GRAPHOPT_DEBUG=3``, ``-vvv`` on the
command line and ``with graphopt.debug(3):`` are the same. ``GRAPHOPT_DUMP=dir`` writes
the graph before and after each pass to numbered files.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path


def _from_environment() -> int:
    text = os.environ.get("GRAPHOPT_DEBUG", "0")
    return int(text) if text.isdigit() else 0


_at_start: int = _from_environment()
_level: ContextVar[int] = ContextVar("graphopt_debug", default=_at_start)


def level() -> int:
    """The step of the ladder that is on, 0 for none."""
    return _level.get()


def verifies() -> bool:
    """True where every graph on the way is verified, and no rule may build nonsense.

    So it is when debugging, and in tests (``GRAPHOPT_VERIFY=1``).
    """
    return level() >= 1 or os.environ.get("GRAPHOPT_VERIFY", "0") != "0"


@contextmanager
def debug(step: int) -> Iterator[None]:
    """Print what happens at ``step`` (1 to 5) of the ladder and below, to stderr."""
    token = _level.set(step)
    try:
        yield
    finally:
        _level.reset(token)


def say(step: int, text: str) -> None:
    """Print ``text`` to stderr where at least ``step`` is on."""
    if _level.get() >= step:
        print(text, file=sys.stderr)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print the wall time of a phase, from step 1 on."""
    began = time.perf_counter()
    try:
        yield
    finally:
        say(1, f"{what}: {time.perf_counter() - began:.3f} s")


def dump_folder() -> Path | None:
    """Where ``GRAPHOPT_DUMP`` wants the graph of each pass."""
    folder = os.environ.get("GRAPHOPT_DUMP")
    return Path(folder) if folder else None
