"""Time model files against each other: interleaved, with ratios and their spread."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from .errors import UsageError
from .lowering import Executable, find

Clock: TypeAlias = Literal["CPU", "wall"]

_CLOCKS: Final[Mapping[Clock, Callable[[], float]]] = {
    "CPU": time.process_time,
    "wall": time.perf_counter,
}

LEAST_SECONDS: Final = 0.005
"""A sample repeats short runs until it has taken so long."""

RESAMPLES: Final = 2000

_DEVICES: Final = ("ort-cuda", "xla-cuda", "xla-tpu")
"""Targets whose work is not done by this process's CPUs."""

_THREADED: Final = "ort-cpu"
"""The target that can be held to a number of threads."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one run, the median; and ``ratio`` to the first model.

    They are CPU seconds, of all threads; see `clock_of` for targets that are no CPU.
    ``wall`` are seconds on the clock, which other processes can lengthen. ``low`` and
    ``high`` bound the median of the ratios with 95 % (bootstrap).
    """

    model: str
    seconds: float
    wall: float
    ratio: float
    low: float
    high: float


def measure(
    models: Sequence[str | os.PathLike[str]],
    inputs: Mapping[str, Any],
    *,
    target: str = "ort-cpu",
    precision: str | None = None,
    rounds: int = 30,
    threads: int | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Timing]:
    """Each model's time on ``inputs``. Raises what opening or running one raises.

    Ratios are taken within a round, so that what slows the machine slows both.
    ``target`` and ``precision`` are those of `graphopt.lowering.find`; for ``threads``
    see `threads_of`.
    """
    threads, clock = threads_of(target, threads), _CLOCKS[clock_of(target)]
    executables = [_open(target, precision, model, threads) for model in models]
    repeats = [_repeats(executable, inputs, clock) for executable in executables]
    samples, walls = np.zeros((2, rounds, len(models)))
    order = list(range(len(models)))
    shuffle = random.Random(seed).shuffle
    for turn in range(rounds):
        progress(f"round {turn + 1} of {rounds}")
        shuffle(order)
        for i in order:
            began = time.perf_counter()
            samples[turn, i] = _sample(executables[i], inputs, repeats[i], clock)
            walls[turn, i] = (time.perf_counter() - began) / repeats[i]
    picks = np.random.default_rng(seed).integers(0, rounds, (RESAMPLES, rounds))
    timings = []
    for i, model in enumerate(models):
        ratios = samples[:, i] / samples[:, 0]
        low, high = np.quantile(np.median(ratios[picks], axis=1), (0.025, 0.975))
        timings.append(
            Timing(
                os.fspath(model),
                float(np.median(samples[:, i])),
                float(np.median(walls[:, i])),
                float(np.median(ratios)),
                float(low),
                float(high),
            )
        )
    return timings


def threads_of(target: str, wanted: int | None) -> int:
    """How many threads a target takes: 0 for all; ONNX Runtime takes 1 by default.

    Raises UsageError for a number where it has no effect.
    """
    if target == _THREADED:
        return 1 if wanted is None else wanted
    if wanted:
        raise UsageError(
            f"{target} takes all threads that there are; a number of them (--threads)"
            f" is for {_THREADED}"
        )
    return 0


def clock_of(target: str) -> Clock:
    """ "CPU" time of this process, or "wall" time where the work is done elsewhere.

    The latter has the way to the device and back in it.
    """
    return "wall" if target in _DEVICES else "CPU"


def _open(
    target: str,
    precision: str | None,
    model: str | os.PathLike[str],
    threads: int,
) -> Executable:
    if target == _THREADED:
        from .lowering.ort.session import Session

        return Session(model, threads=threads)
    return find(target, precision).open(model)


def _repeats(
    executable: Executable, inputs: Mapping[str, Any], clock: Callable[[], float]
) -> int:
    """How many runs make a sample; warms up on the way."""
    executable(inputs)
    return max(
        1, round(LEAST_SECONDS / max(_sample(executable, inputs, 1, clock), 1e-7))
    )


def _sample(
    executable: Executable,
    inputs: Mapping[str, Any],
    repeats: int,
    clock: Callable[[], float],
) -> float:
    began = clock()
    for _ in range(repeats):
        executable(inputs)
    return (clock() - began) / repeats
