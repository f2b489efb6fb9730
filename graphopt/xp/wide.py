"""The host namespace with float64 in place of float16, bfloat16 and float32.

What ops mean in real numbers, as near as NumPy gets: a `compute` that asks for float32
gets float64. Narrower floats (8 bits and less) only store numbers, and stay themselves.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from .foundation import Array, DTypeLike, numpy_dtype
from .host import Host

WIDENED: dict[np.dtype[Any], np.dtype[Any]] = {
    np.dtype(narrow): np.dtype(wide)
    for narrow, wide in (
        (np.float16, np.float64),
        (ml_dtypes.bfloat16, np.float64),
        (np.float32, np.float64),
        (np.complex64, np.complex128),
    )
}
"""The types that are not computed in, and what stands for them."""


def widened_type(dtype: DTypeLike) -> np.dtype[Any]:
    """The element type that stands for another."""
    plain = numpy_dtype(dtype)
    return WIDENED.get(plain, plain)


class Wide(Host):
    """`Host`, where each result of a float type that is asked for is float64."""

    def dtype(self, dtype: DTypeLike) -> np.dtype[Any]:
        return widened_type(dtype)

    def convert(self, x: Array, dtype: np.dtype[Any]) -> Array:
        return super().convert(x, widened_type(dtype))

    def cast(self, x: Array, dtype: DTypeLike, **options: Any) -> Array:
        wide = widened_type(dtype)
        if wide is numpy_dtype(dtype):
            return _PLAIN.cast(x, dtype, **options)
        return super().cast(x, wide, **options)


_PLAIN = Host()
