"""Numbers that stand for infinity: what masks fill with, such as -3.4e38.

Float16 ends at 65504. A mask that is added to scores does the same with less, so that
such constants, and what is made of them, become half of the largest number: they must
not overflow with the score that they are added to, as a row of nothing but -infinity
has no softmax.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from graphopt.check.tolerance import ENDLESS
from graphopt.types import DType

Array = Any


def largest(dtype: DType) -> float:
    """The largest number of a float type."""
    info: Any = ml_dtypes.finfo
    return float(info(dtype.numpy).max)


def fill_of(dtype: DType) -> float | None:
    """What stands for infinity in a type; None where it holds what others fill with."""
    most = largest(dtype)
    return most / 2 if most < ENDLESS else None


def is_fill(array: Array) -> Array:
    """Where finite numbers stand for infinity."""
    magnitudes = np.abs(array)
    return (magnitudes >= ENDLESS) & (magnitudes < np.inf)


def saturated(array: Array, dtype: DType) -> Array:
    """The array with the fills of a type."""
    fill = fill_of(dtype)
    if fill is None:
        return array
    found = is_fill(array)
    if not np.any(found):
        return array
    made: Array = np.where(found, np.copysign(fill, array), array)
    return made.astype(array.dtype)
