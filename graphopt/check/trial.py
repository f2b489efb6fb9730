"""One run of both sides on the same inputs, and what it says of each value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np

from ..errors import GraphoptError
from ..ir import Value
from ..reference import Evaluator, OutOfBudget, OutOfTime, schedule
from .sides import Fed, Setting, Sides, Target
from .tolerance import (
    AMPLITUDE,
    Noise,
    OutputCheck,
    Runs,
    compare,
    fineness,
    is_float,
    units,
)

Array = Any
NOISY: Final = (3, 12)
"""Runs with rounding noise where a comparison fails: at first, and at most.

More than the first are made where few positions are wrong, and until three runs in a
row explain none of them. A tie flips in about half of the runs.
"""


@dataclass(frozen=True)
class Bounds:
    """What a check must keep to."""

    slack: float
    exact: bool
    limit_bytes: int
    seed: int = 0
    deadline: float | None = None
    budget: float = 0.0

    def evaluator(self, symbols: Mapping[str, int], **options: Any) -> Evaluator:
        return Evaluator(
            limit_bytes=self.limit_bytes,
            deadline=self.deadline,
            symbols=symbols,
            seed=self.seed,
            **options,
        )


def run_both(sides: Sides, setting: Setting, bounds: Bounds) -> list[OutputCheck]:
    """Compare whole runs. Raises what the run of the original raises."""
    return compare_targets(sides.targets, sides.feed(setting), bounds)


def compare_targets(
    targets: Sequence[Target],
    fed: Fed,
    bounds: Bounds,
    known: Sequence[Array] | None = None,
) -> list[OutputCheck]:
    """Compare some values of both sides; ``known`` are those of the original run."""
    ours = [target.before for target in targets]
    natives = list(known or bounds.evaluator(fed.symbols).run(ours, fed.before))
    truths = natives
    if not bounds.exact:
        truths = truth(ours, fed, bounds)
    try:
        theirs = [target.after for target in targets]
        results = bounds.evaluator(fed.symbols).run(theirs, fed.after)
    except (OutOfBudget, OutOfTime):
        raise
    except GraphoptError as error:
        note = f"the result cannot run: {error}"
        return [OutputCheck(t.name, False, math.inf, note=note) for t in targets]
    rounding = units(schedule(ours, fed.before), ours)
    runs = [
        Runs(
            exactly,
            native,
            result,
            unit=rounding[value],
            exact=bounds.exact,
            budget=bounds.budget,
        )
        for exactly, native, result, value in zip(
            truths, natives, results, ours, strict=True
        )
    ]
    checks = [
        compare(target.name, run, bounds.slack)
        for target, run in zip(targets, runs, strict=True)
    ]
    wrong = [i for i, check in enumerate(checks) if not check.passed]
    if bounds.exact:
        return checks
    # A budget is all that floats may lose; whole numbers hang on what they are made of.
    floats = [i for i in wrong if is_inexact(runs[i].before) or not bounds.budget]
    others = [i for i in wrong if i not in floats]
    for some, loss in ((floats, 0.0), (others, bounds.budget)):
        if some:
            doubtful = [ours[i] for i in some]
            settled = reconsidered(
                [checks[i] for i in some],
                [runs[i] for i in some],
                bounds.slack,
                partial(truth, doubtful, fed, bounds),
                loss,
            )
            for i, check in zip(some, settled, strict=True):
                checks[i] = check
    return checks


def is_inexact(value: Array) -> bool:
    """True for an array of floats, or a sequence of them."""
    if isinstance(value, list):
        return any(map(is_inexact, value))
    return isinstance(value, np.ndarray) and is_float(value.dtype)


def reconsidered(
    checks: Sequence[OutputCheck],
    runs: Sequence[Runs],
    slack: float,
    noisy_run: Callable[[Noise], Sequence[Array]],
    loss: float = 0.0,
) -> list[OutputCheck]:
    """Comparisons that failed, in the light of runs with rounding noise.

    ``loss`` is a share of each number by which the noise is at most larger than usual.
    """
    unit = max(run.unit for run in runs)
    share = fineness(unit)
    amplitude = max(1.0, loss / AMPLITUDE / (AMPLITUDE * unit)) if unit else 1.0
    columns: list[list[tuple[Array, Array]]] = [[] for _ in runs]
    left: list[int] = []
    for seed in range(NOISY[1]):
        try:
            rough = noisy_run(Noise(seed, amplitude))
            fine = noisy_run(Noise(seed, amplitude * share))
        except (OutOfBudget, OutOfTime):
            break  # what failed has failed
        for column, *pair in zip(columns, rough, fine, strict=True):
            column.append((pair[0], pair[1]))
        if seed + 1 < NOISY[0]:
            continue
        checks = [
            compare(check.name, replace(run, noisy=column, fineness=share), slack)
            for check, run, column in zip(checks, runs, columns, strict=True)
        ]
        failed = [check for check in checks if not check.passed]
        if not failed or not all(check.explicable for check in failed):
            break
        left.append(sum(check.wrong for check in failed))
        if len(left) > NOISY[0] and left[-1] == left[-1 - NOISY[0]]:
            break
    return list(checks)


def truth(
    values: Sequence[Value], fed: Fed, bounds: Bounds, noise: Noise | None = None
) -> list[Array]:
    """The values of the original in float64."""
    evaluator = bounds.evaluator(fed.symbols, precision="float64", after=noise)
    env = {value: evaluator.adopt(array) for value, array in fed.before.items()}
    return evaluator.run(values, env)
