"""How far two answers to a case are apart, and what is known to differ."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence

import ml_dtypes
import numpy as np
from peers import ours
from single import Array, Case
from verdicts import VERDICTS

from graphopt.types import DType


def difference(case: Case, mine: Array, other: Array) -> str | None:
    """How two answers disagree; None where they agree."""
    mine, other = np.asarray(mine), np.asarray(other)
    if mine.shape != other.shape:
        return f"shape {mine.shape}, not {other.shape}"
    if DType.of(mine.dtype) is not DType.of(other.dtype):
        return f"type {mine.dtype}, not {other.dtype}"
    dtype = DType.of(mine.dtype)
    if not (dtype.is_float or dtype.is_complex):
        wrong = np.flatnonzero(mine != other)
        if not wrong.size:
            return None
        i = wrong[0]
        return f"{wrong.size} differ: {mine.flat[i]}, not {other.flat[i]} at {i}"
    return far(mine, other, case.ulps)


def far(mine: Array, other: Array, ulps: float) -> str | None:
    """How far two float arrays are apart, where that is more than ``ulps`` units."""
    if mine.dtype.kind == "c":
        parts = [(mine.real, other.real), (mine.imag, other.imag)]
        return next(filter(None, (far(*pair, ulps) for pair in parts)), None)
    unit = float(ml_dtypes.finfo(mine.dtype).eps)
    a, b = mine.astype(np.float64), other.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return None
    finite = np.isfinite(a) & np.isfinite(b)
    odd = np.flatnonzero(~same & ~finite)
    if odd.size:
        i = odd[0]
        return f"{odd.size} differ: {a.flat[i]}, not {b.flat[i]} at {i}"
    scale = np.abs(b[finite]).max()
    scale = max(scale, float(ml_dtypes.finfo(mine.dtype).smallest_normal))
    error = np.abs(np.where(finite, a, 0) - np.where(finite, b, 0))
    worst = int(error.argmax())
    units = error.flat[worst] / (unit * scale)
    if units <= ulps:
        return None
    return f"{units:.1f} units: {a.flat[worst]!r}, not {b.flat[worst]!r} at {worst}"


def disagreements(case: Case, peer: str, answers: Sequence[Array]) -> Iterator[str]:
    """What one peer's answers have against ours, apart from what has a verdict."""
    mine = ours(case)
    pairs = enumerate(zip(mine, answers, strict=True))
    found = [f"result {i}: {d}" for i, (a, b) in pairs if (d := difference(case, a, b))]
    if found and not verdict(f"{peer}: {case}"):
        yield f"{peer}: {case}: {'; '.join(found)}"


def verdict(text: str) -> str | None:
    """The written reason for a disagreement."""
    for pattern, reason in VERDICTS.items():
        if fnmatch.fnmatchcase(text, pattern):
            used.add(pattern)
            return reason
    return None


used: set[str] = set()
"""Verdicts that were needed."""
