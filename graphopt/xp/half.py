"""float16 on the host, where NumPy converts and compares elements one by one.

Their bits are whole numbers, and those are fast: there are few enough to look up what
each one is as float32, and but for the sign they have the order of the values.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from .foundation import Array

FLOAT16, FLOAT32 = np.dtype(np.float16), np.dtype(np.float32)

FEW = 1 << 12
"""Elements of which NumPy's own conversion is as fast."""


@cache
def _values() -> Array:
    """Every float16 as float32, by its bits."""
    return np.arange(1 << 16, dtype=np.uint16).view(FLOAT16).astype(FLOAT32)


def to_single(x: Array) -> Array:
    """float16 as float32, bit for bit as NumPy converts."""
    if x.size < FEW:
        return x.astype(FLOAT32)
    return np.take(_values(), x.view(np.uint16))


def larger(a: Array, b: Array) -> Array | None:
    """``maximum`` of two float16 arrays; None where one holds a NaN."""
    if _has_nan(a) or _has_nan(b):
        return None
    picked = np.asarray(np.maximum(_ordered(a), _ordered(b)))
    return _ordered(picked.view(FLOAT16)).view(FLOAT16)


def _has_nan(x: Array) -> bool:
    return bool(((x.view(np.uint16) & 0x7FFF) > 0x7C00).any())


def _ordered(x: Array) -> Array:
    """The bits as integers in the order of the values; its own inverse."""
    bits: Array = x.view(np.int16)
    return bits ^ ((bits >> 15) & 0x7FFF)
