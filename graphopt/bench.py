"""Time model files against each other: interleaved, with ratios and their spread."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from .lowering import Executable, find

LEAST_SECONDS: Final = 0.005
"""A sample repeats short runs until it has taken so long."""

RESAMPLES: Final = 2000


@dataclass(frozen=True)
class Timing:
    """CPU seconds of one run, the median; and ``ratio`` to the first model.

    ``low`` and ``high`` bound the median of the ratios with 95 % (bootstrap).
    """

    model: str
    seconds: float
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
    threads: int = 1,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Timing]:
    """Each model's time on ``inputs``. Raises what opening or running one raises.

    Ratios are taken within a round, so that what slows the machine slows both.
    ``target`` and ``precision`` are those of `graphopt.lowering.find`.
    """
    executables = [_open(target, precision, model, threads) for model in models]
    repeats = [_repeats(executable, inputs) for executable in executables]
    samples = np.zeros((rounds, len(models)))
    order = list(range(len(models)))
    shuffle = random.Random(seed).shuffle
    for turn in range(rounds):
        progress(f"round {turn + 1} of {rounds}")
        shuffle(order)
        for i in order:
            samples[turn, i] = _sample(executables[i], inputs, repeats[i])
    picks = np.random.default_rng(seed).integers(0, rounds, (RESAMPLES, rounds))
    timings = []
    for i, model in enumerate(models):
        ratios = samples[:, i] / samples[:, 0]
        low, high = np.quantile(np.median(ratios[picks], axis=1), (0.025, 0.975))
        timings.append(
            Timing(
                os.fspath(model),
                float(np.median(samples[:, i])),
                float(np.median(ratios)),
                float(low),
                float(high),
            )
        )
    return timings


def _open(
    target: str,
    precision: str | None,
    model: str | os.PathLike[str],
    threads: int,
) -> Executable:
    if target == "ort-cpu":
        from .lowering.session import Session

        return Session(model, threads=threads)
    return find(target, precision).open(model)


def _repeats(executable: Executable, inputs: Mapping[str, Any]) -> int:
    """How many runs make a sample; warms up on the way."""
    executable(inputs)
    return max(1, round(LEAST_SECONDS / max(_sample(executable, inputs, 1), 1e-7)))


def _sample(executable: Executable, inputs: Mapping[str, Any], repeats: int) -> float:
    began = time.process_time()
    for _ in range(repeats):
        executable(inputs)
    return (time.process_time() - began) / repeats
