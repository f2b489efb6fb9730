"""When two results count as equal: errors against a float64 truth, and their bound.

    |after - truth| <= slack * max|before - truth| + 64 * unit * max|truth|

``truth`` is the float64 run of the graph before, ``before`` and ``after`` are native
runs, and ``unit`` is half the distance from 1 to the next number of the coarsest float
type that the output was computed through. Integers, truth values, strings, shapes and
element types must be the same.

The maxima are over an output's usual numbers; an outlier is held against its own size,
and what is beside it gains nothing. Infinities and NaN that *truth* and *before* share
must stay.

A result that is meant to lose something may also be off by a stated budget, a share of
max|truth|.

Where that fails, the truth is run again with rounding noise. What the noise does to it
counts as an error of *before*, as long as it is proportional: where noise a thousand
times smaller does not have an effect a thousand times smaller the truth jumps (a tie of
ArgMax, a number on a rounding boundary), and the position is *undecided*.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

from ..ir import Op, Value
from ..ops.structured import Structured
from ..types import DType

Array = Any

FLOOR = 64
"""Units of rounding that an output may always be off."""

AMPLITUDE, USUAL = 8, 2
"""Units of rounding that a single op is off in a noisy run, and in a usual one."""

UNDECIDED = 0.01
"""Share of an output's positions that may be undecided, or not finite."""

OUTLIER = 2**10
"""How much larger than most numbers one is that does not set their scale."""

ENDLESS = 1e9
"""What masks write for infinity is at least so large; a budget is no share of it."""

_FEW = 4  # positions that noise may explain however small an output is


@dataclass(frozen=True)
class OutputCheck:
    """What the comparison of one output found; the worst over all runs.

    ``max_error`` is the largest error against the truth, of those that are too large
    if there are any; ``error_before`` and ``tolerance`` are what holds there.
    ``undecided`` and ``nonfinite`` count the positions that are not compared, ``wrong``
    those that are and differ. ``note`` says what is wrong, or what was special.
    """

    name: str
    passed: bool
    max_error: float = 0.0
    error_before: float = 0.0
    tolerance: float = 0.0
    undecided: int = 0
    nonfinite: int = 0
    wrong: int = 0
    size: int = 0
    note: str = ""

    @property
    def ratio(self) -> float:
        """The error as a share of the tolerance; above 1 it fails."""
        if not self.passed:
            return math.inf
        return self.max_error / self.tolerance if self.tolerance else 0.0

    @property
    def explicable(self) -> bool:
        """True where more runs with noise might show that all is well."""
        return 0 < self.wrong <= max(UNDECIDED * self.size, _FEW)

    @property
    def doubtful(self) -> bool:
        """True where it fails only because too little is decided."""
        return not self.passed and self.undecided > 0 and not self.wrong

    def worst(self, other: OutputCheck) -> OutputCheck:
        """The worse of two checks of one output, with the counts of both."""
        worse = max(self, other, key=lambda each: each.ratio)
        return replace(
            worse,
            undecided=self.undecided + other.undecided,
            nonfinite=self.nonfinite + other.nonfinite,
            size=self.size + other.size,
        )


@dataclass(frozen=True)
class Runs:
    """One value as it came out of several runs.

    ``noisy`` are pairs of truths, one with rounding noise and one with ``fineness``
    times that noise. Where ``exact``, ``after`` must be ``before``, bit by bit.
    """

    truth: Array
    before: Array
    after: Array
    noisy: Sequence[tuple[Array, Array]] = ()
    fineness: float = 1.0
    unit: float = 0.0
    exact: bool = False
    budget: float = 0.0
    """What ``after`` may be off in any case, as a share of the largest number."""


def compare(name: str, runs: Runs, slack: float) -> OutputCheck:
    """Hold one value against the rule of this module."""
    parts = list(_parts(name, runs))
    result = _compare(*parts[0], slack) if parts else OutputCheck(name, True)
    for part in parts[1:]:
        result = result.worst(_compare(*part, slack))
    return result


def _parts(name: str, runs: Runs) -> Iterator[tuple[str, Runs | str]]:
    """A sequence element by element, or what is wrong with its structure."""
    before, after = runs.before, runs.after
    if isinstance(before, list) or isinstance(after, list):
        if not isinstance(before, list) or not isinstance(after, list):
            yield name, "one is a sequence, the other is not"
        elif len(before) != len(after):
            yield name, f"{len(after)} elements, not {len(before)}"
        else:
            known = not runs.exact and len(runs.truth) == len(before)
            truth = runs.truth if known else before
            noisy = [each for each in runs.noisy if {*map(len, each)} == {len(before)}]
            for i, pair in enumerate(zip(truth, before, after, strict=True)):
                inner = replace(runs, noisy=[(r[i], f[i]) for r, f in noisy])
                inner = replace(inner, truth=pair[0], before=pair[1], after=pair[2])
                yield from _parts(f"{name}[{i}]", inner)
    elif isinstance(before, np.ndarray) and isinstance(after, np.ndarray):
        yield name, runs
    elif before is not after and before != after:
        yield name, f"{after!r:.60}, not {before!r:.60}"


def _compare(name: str, runs: Runs | str, slack: float) -> OutputCheck:
    if isinstance(runs, str):
        return OutputCheck(name, False, math.inf, note=runs)
    before, after = runs.before, runs.after
    if after.dtype != before.dtype:
        note = f"elements of {after.dtype}, not of {before.dtype}"
        return OutputCheck(name, False, math.inf, note=note)
    if after.shape != before.shape:
        shapes = f"{list(after.shape)}, not {list(before.shape)}"
        agreed = runs.exact or np.shape(runs.truth) == before.shape
        settled = all(np.shape(rough) == before.shape for rough, _ in runs.noisy)
        if agreed and settled:
            return OutputCheck(name, False, math.inf, note=f"the shape is {shapes}")
        note = f"the shape is undecided: {shapes}"
        return OutputCheck(name, True, undecided=after.size, size=0, note=note)
    if runs.exact:
        return _same_bits(name, before, after)
    if np.shape(runs.truth) != before.shape:
        note = "the shape is undecided"
        return OutputCheck(name, True, undecided=before.size, note=note)
    noisy = [each for each in runs.noisy if {*map(np.shape, each)} == {before.shape}]
    # NumPy's operators give scalars, not arrays, for rank 0.
    runs = replace(
        runs,
        truth=np.atleast_1d(runs.truth),
        before=np.atleast_1d(before),
        after=np.atleast_1d(after),
        noisy=[(np.atleast_1d(r), np.atleast_1d(f)) for r, f in noisy],
    )
    numeric = is_float(before.dtype) or before.dtype.kind == "c"
    return _close(name, runs, slack) if numeric else _equal(name, runs)


def _same_bits(name: str, before: Array, after: Array) -> OutputCheck:
    if before.dtype.kind == "O":
        differ = before != after
    else:
        shape = (*before.shape, before.dtype.itemsize)
        left, right = (
            np.ascontiguousarray(x).view(np.uint8).reshape(shape)
            for x in (before, after)
        )
        differ = (left != right).any(axis=-1)
        if is_float(before.dtype) or before.dtype.kind == "c":
            differ &= ~(np.isnan(before) & np.isnan(after))
    count = int(np.count_nonzero(differ))
    note = f"{count} of {before.size} elements have other bits" if count else ""
    error = math.inf if count else 0.0
    return OutputCheck(name, not count, error, size=before.size, note=note)


def _equal(name: str, runs: Runs) -> OutputCheck:
    """Integers, truth values and strings: the same wherever the truth is decided."""
    before, after = runs.before, runs.after
    undecided = before != runs.truth
    for rough, _ in runs.noisy:
        undecided |= rough != runs.truth
    differ = (before != after) & ~undecided
    wrong = int(np.count_nonzero(differ))
    left_out = int(np.count_nonzero(undecided & (before != after)))
    error = 0.0
    if wrong:
        error = math.inf
        if before.dtype.kind in "iu":
            error = float(np.max(np.abs(before.astype(float) - after.astype(float))))
    note = f"{wrong} of {before.size} elements differ" if wrong else ""
    passed = not wrong
    if passed and left_out > UNDECIDED * before.size:
        passed, note = False, f"{left_out} of {before.size} positions are undecided"
    return OutputCheck(
        name,
        passed,
        error,
        undecided=left_out,
        wrong=wrong,
        size=before.size,
        note=note,
    )


def _close(name: str, runs: Runs, slack: float) -> OutputCheck:
    truth = runs.truth
    before, after = _wide(runs.before), _wide(runs.after)
    with np.errstate(all="ignore"):
        finite = np.isfinite(truth) & np.isfinite(before)
        settled = ~finite & _same(truth, before)
        for rough, _ in runs.noisy:
            settled &= _same(truth, rough)
        count = int(finite.size - np.count_nonzero(finite))
        changed = ~_same(before, after)
        broken = int(np.count_nonzero(settled & changed))
        note = ""
        if count > UNDECIDED * finite.size and np.any(~finite & ~settled & changed):
            note = "other values are infinite or NaN than before"
        magnitude, error_before = np.abs(truth), np.abs(before - truth)
        scale, peak = _usual(magnitude[finite]), largest_number(truth)
        ordinary = magnitude <= scale
        off = np.abs(after - truth)
        off[np.isnan(off)] = np.inf

        def allowed(spread: Array | None) -> tuple[Array, Array]:
            """For each element the error that *before* may have, and the bound."""
            error = error_before if spread is None else np.maximum(error_before, spread)
            largest = np.where(
                ordinary, _largest(error, finite & ordinary), _largest(error, finite)
            )
            size = np.maximum(magnitude, scale)
            usual = slack * largest + FLOOR * runs.unit * size
            budget = runs.budget * np.maximum(magnitude, peak)
            return largest, np.maximum(usual, budget)

        usual, tolerance = allowed(None)
        decided = finite.copy()
        spread = np.zeros_like(off)
        for rough, fine in runs.noisy:
            near = np.abs(rough - truth)
            far = np.abs(fine - truth) / runs.fineness
            larger = np.maximum(near, far)
            decided &= (np.abs(near - far) <= larger / 2) | (larger <= tolerance)
            np.maximum(spread, near, out=spread)
        if runs.noisy:
            # Proportional, so that errors of the usual size are known from larger ones.
            spread[~decided] = 0.0
            usual, tolerance = allowed(spread * USUAL / AMPLITUDE)
    wrong_ones = decided & (off > tolerance)
    told = np.where(wrong_ones if np.any(wrong_ones) else decided, off, -1.0)
    worst = np.unravel_index(np.argmax(told), told.shape) if told.size else ()
    undecided = int(np.count_nonzero(finite & ~decided & (off > tolerance)))
    wrong = broken + int(np.count_nonzero(wrong_ones))
    if not note and wrong:
        note = f"{wrong} of {off.size} elements are off"
    elif not note and undecided > UNDECIDED * off.size:
        note = f"{undecided} of {off.size} positions are undecided"
    return OutputCheck(
        name,
        not note,
        float(off[worst]) if np.any(decided) else 0.0,
        float(usual[worst]) if np.any(decided) else 0.0,
        float(tolerance[worst]) if np.any(decided) else 0.0,
        undecided,
        count,
        wrong,
        off.size,
        note,
    )


def _usual(magnitudes: Array) -> float:
    """The largest magnitude, but for outliers, such as what stands for -infinity.

    What is beside a number of 1e30 is no better known for it: numbers over `OUTLIER`
    times the tenth part of the smallest ones do not set the scale.
    """
    some = magnitudes[magnitudes > 0]
    if not some.size:
        return 0.0
    tenth = np.partition(some, some.size // 10)[some.size // 10]
    return float(np.max(some, where=some <= OUTLIER * tenth, initial=0.0))


def largest_number(x: Array) -> float:
    """The largest magnitude, but for what stands for infinity."""
    magnitudes = np.abs(x)
    return float(np.max(magnitudes, where=magnitudes < ENDLESS, initial=0.0))


def _largest(x: Array, where: Array) -> float:
    return float(np.max(x, where=where, initial=0.0))


def _same(a: Array, b: Array) -> Array:
    """Where two arrays are equal, or both NaN."""
    return (a == b) | (np.isnan(a) & np.isnan(b))


def is_float(dtype: np.dtype[Any]) -> bool:
    """True for NumPy's real float types and those of ml_dtypes."""
    return dtype.kind == "f" or (dtype.kind == "V" and DType.of(dtype).is_float)


def _wide(array: Array) -> Array:
    if array.dtype.kind == "c":
        return array.astype(np.complex128, copy=False)
    return array.astype(np.float64, copy=False)


# --- rounding -----------------------------------------------------------------------


@cache
def unit_of(dtype: DType | None) -> float:
    """The unit of rounding: 2**-24 for f32. 0 for what is not rounded."""
    if dtype is DType.F8E8M0:
        return 0.5
    if dtype is None or not (dtype.is_float or dtype.is_complex):
        return 0.0
    info: Any = ml_dtypes.finfo
    return float(info(dtype.numpy).eps) / 2


def rounds(op: Op) -> bool:
    """False for an op that only moves numbers, or that gives none that are rounded."""
    return not isinstance(op, Structured) or op.flops > 0


def units(ops: Iterable[Op], values: Iterable[Value]) -> dict[Value, float]:
    """For each value, the unit of the coarsest type that ``ops`` compute it through.

    ``ops`` come operands first; what none of them gives is exact.
    """
    noise: dict[Value, float] = {}
    for op in ops:
        given = [noise.get(v, 0.0) for v in op.operands if v is not None]
        inherited = max(given, default=0.0)
        for value in op.results:
            own = unit_of(value.dtype) if op.operands else 0.0
            noise[value] = max(inherited, own)
    return {v: max(noise.get(v, 0.0), unit_of(v.dtype)) for v in values}


def fineness(unit: float) -> float:
    """How much smaller the second noise is; larger where float64 could not show it."""
    return 2**-10 if unit > 2**-40 else 2**10


class Noise:
    """Rounding errors as a native run might make them, for `reference.Evaluator`.

    Each result of an op that rounds is off by up to ``share`` times `AMPLITUDE` units
    of its type; the same seed has the same signs.
    """

    def __init__(self, seed: int, share: float = 1.0) -> None:
        self._rng = np.random.default_rng(seed)
        self._share = share

    def __call__(self, op: Op, index: int, array: Array) -> Array:
        if not isinstance(array, np.ndarray) or array.dtype != np.float64:
            return array
        unit = self._share * AMPLITUDE * unit_of(op.results[index].dtype)
        if not rounds(op) or not unit:
            return array
        return array * (1 + unit * (2 * self._rng.random(array.shape) - 1))
