"""The larger and the smaller of two on the host."""

from __future__ import annotations

import numpy as np

from .foundation import Array

PART = 1 << 14
"""Elements at a time: what stays in the nearest cache."""


def pick(function: np.ufunc, a: Array, b: Array) -> Array:
    """``function(a, b)`` for `np.maximum` or `np.minimum`.

    Against one number NumPy takes element by element what it takes by vectors against
    an array; so the number is made one.
    """
    if b.ndim or a.size < PART // 4 or a.dtype.kind != "f" or not a.flags.c_contiguous:
        return np.asarray(function(a, b))
    flat = a.reshape(-1)
    even = np.full(min(a.size, PART), b, a.dtype)
    result = np.empty_like(flat)
    for first in range(0, a.size, PART):
        part = flat[first : first + PART]
        function(part, even[: part.size], out=result[first : first + PART])
    return result.reshape(a.shape)
