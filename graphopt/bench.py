"""Time model files against each other: interleaved, with ratios and their spread."""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, TypeAlias

import numpy as np

from .check.tolerance import unit_of
from .errors import UsageError
from .lowering import Executable, find
from .types import DType

Array: TypeAlias = Any

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
class Ratio:
    """The median of ratios; ``low`` and ``high`` bound it with 95 % (bootstrap)."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: Array, seed: int = 0) -> Self:
        """From the ratios of all rounds."""
        rounds = len(ratios)
        picks = np.random.default_rng(seed).integers(0, rounds, (RESAMPLES, rounds))
        low, high = np.quantile(np.median(ratios[picks], axis=1), (0.025, 0.975))
        return cls(float(np.median(ratios)), float(low), float(high))

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Timing:
    """Seconds of one run, the median; and ``ratio`` to the first model.

    They are CPU seconds, of all threads; see `clock_of` for targets that are no CPU.
    ``wall`` are seconds on the clock, which other processes can lengthen. ``low`` and
    ``high`` bound the median of the ratios with 95 % (bootstrap). ``difference`` is
    that of the outputs to those of the first model; see `difference`.
    """

    model: str
    seconds: float
    wall: float
    ratio: float
    low: float
    high: float
    difference: float = 0.0

    @property
    def differs(self) -> bool:
        """True for a model that computes something else than the first."""
        return self.difference > 1


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

    Ratios are taken within a round, so that what slows the machine slows both. A model
    that is named twice is opened twice: what its two ratios differ by is noise.
    ``target`` and ``precision`` are those of `graphopt.lowering.find`; for ``threads``
    see `threads_of`.
    """
    threads, clock = threads_of(target, threads), _CLOCKS[clock_of(target)]
    executables = [open_model(target, precision, model, threads) for model in models]
    apart = _differences([executable(inputs) for executable in executables])
    samples, walls = _interleaved(
        executables, inputs, rounds, clock, random.Random(seed), progress
    )
    timings = []
    for i, model in enumerate(models):
        ratio = Ratio.of(samples[:, i] / samples[:, 0], seed)
        timings.append(
            Timing(
                os.fspath(model),
                float(np.median(samples[:, i])),
                float(np.median(walls[:, i])),
                ratio.median,
                ratio.low,
                ratio.high,
                apart[i],
            )
        )
    return timings


def race(
    before: Executable,
    after: Executable,
    feeds: Sequence[Mapping[str, Any]],
    *,
    clock: Clock = "CPU",
    rounds: int = 30,
    seed: int = 0,
) -> tuple[Ratio, tuple[Ratio, ...]]:
    """How long ``after`` takes, ``before`` being 1: over all feeds, and on each.

    Over all it is the geometric mean. Both are warm after the first call on a feed.
    """
    now, draw = _CLOCKS[clock], random.Random(seed)
    ratios = np.ones((len(feeds), rounds))
    for i, inputs in enumerate(feeds):
        samples, _ = _interleaved([before, after], inputs, rounds, now, draw)
        ratios[i] = samples[:, 1] / samples[:, 0]
    whole = np.exp(np.mean(np.log(ratios), axis=0))
    return Ratio.of(whole, seed), tuple(Ratio.of(each, seed) for each in ratios)


def _interleaved(
    executables: Sequence[Executable],
    inputs: Mapping[str, Any],
    rounds: int,
    clock: Callable[[], float],
    draw: random.Random,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[Array, Array]:
    """Seconds by ``clock`` and on the wall, [round, executable]; random order."""
    repeats = [_repeats(executable, inputs, clock) for executable in executables]
    samples, walls = np.zeros((2, rounds, len(executables)))
    order = list(range(len(executables)))
    for turn in range(rounds):
        progress(f"round {turn + 1} of {rounds}")
        draw.shuffle(order)
        for i in order:
            began = time.perf_counter()
            samples[turn, i] = _sample(executables[i], inputs, repeats[i], clock)
            walls[turn, i] = (time.perf_counter() - began) / repeats[i]
    return samples, walls


def _differences(outputs: Sequence[Mapping[str, Any]]) -> list[float]:
    """The largest `difference` of each to the first; all have the same names, or inf.

    Where names differ, outputs go by place.
    """
    first = list(outputs[0].values())
    found = []
    for each in outputs:
        values = list(each.values())
        if each.keys() == outputs[0].keys():
            values = [each[name] for name in outputs[0]]
        if len(values) != len(first):
            found.append(math.inf)
            continue
        pairs = zip(first, values, strict=True)
        found.append(max((difference(a, b) for a, b in pairs), default=0.0))
    return found


def difference(ours: Array, theirs: Array) -> float:
    """How far two outputs are apart; above 1, they are not the same.

    For numbers that are rounded, 1 is half of their digits: the root of the unit of
    rounding, as a share of the largest number. Anything else is the same, or inf apart.
    """
    if isinstance(ours, list) and isinstance(theirs, list):
        if len(ours) != len(theirs):
            return math.inf
        pairs = zip(ours, theirs, strict=True)
        return max((difference(a, b) for a, b in pairs), default=0.0)
    if not (isinstance(ours, np.ndarray) and isinstance(theirs, np.ndarray)):
        return 0.0 if type(ours) is type(theirs) and ours == theirs else math.inf
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return math.inf
    unit = 0.0 if ours.dtype == object else unit_of(DType.of(ours.dtype))
    if not unit:
        return 0.0 if np.array_equal(ours, theirs) else math.inf
    wide = np.complex128 if ours.dtype.kind == "c" else np.float64
    x, y = ours.astype(wide), theirs.astype(wide)
    finite = np.isfinite(x)
    if not np.array_equal(x[~finite], y[~finite], equal_nan=True):
        return math.inf
    if not finite.any():
        return 0.0
    apart = np.abs(x[finite] - y[finite]).max()
    scale = np.abs(x[finite]).max() or 1.0
    return float(apart / scale / math.sqrt(unit)) if np.isfinite(apart) else math.inf


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


def open_model(
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
