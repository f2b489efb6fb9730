"""Casts between element types, with the meaning of ONNX's Cast.

What ONNX leaves open is settled as x86 does it, on every machine: a float out of an
integer's range becomes that integer's lowest value (through int32 for up to 32 signed
and 16 unsigned bits, else through int64, then wrapping to the width).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import ml_dtypes
import numpy as np

from ..errors import TypeMismatch
from .foundation import WIDE, Array, DTypeLike, Foundation

_FLOAT8 = frozenset(
    np.dtype(t)
    for t in (
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e4m3fnuz,
        ml_dtypes.float8_e5m2,
        ml_dtypes.float8_e5m2fnuz,
    )
)
_FLOAT32, _INT32 = np.dtype(np.float32), np.dtype(np.int32)
_E8M0 = np.dtype(ml_dtypes.float8_e8m0fnu)
_VIA_INT32 = frozenset(map(np.dtype, ("i1", "i2", "i4", "u1", "u2")))


def kind(dtype: np.dtype[Any]) -> str:
    """NumPy's letter for the numbers a type holds; for narrow types that of `WIDE`."""
    return WIDE.get(dtype, dtype).kind


class Casting(Foundation):
    """`cast` and `bitcast`."""

    def cast(
        self,
        x: Array,
        dtype: DTypeLike,
        *,
        saturate: bool = True,
        round_mode: str = "up",
    ) -> Array:
        """``x`` with elements of ``dtype``.

        ``saturate`` and ``round_mode`` are ONNX's: float8 results out of range become
        the largest value instead of NaN or infinity; float8e8m0 rounds ``up``, ``down``
        or to ``nearest``. Source: ONNX operator Cast, version 28.
        """
        target = self.dtype(dtype)
        x = self.asarray(x)
        if x.dtype == target:
            return x
        if x.dtype.kind == "O" or target.kind == "O":
            return self.cast_strings(x, target)
        if kind(target) == "b":
            return self.convert(self._widened(x), target)
        if target == _E8M0:
            return self._to_e8m0(x, saturate, round_mode)
        if kind(x.dtype) == "f" and kind(target) in "iu":
            return self._float_to_int(self._widened(x), target)
        x = self._widened(x)
        if target in WIDE:
            # ONNX Runtime and XLA also round float64 through float32.
            x = self.convert(x, WIDE[target])
        if target in _FLOAT8 and saturate:
            largest = float(ml_dtypes.finfo(target).max)  # type: ignore[no-untyped-call]
            x = self.lib.minimum(self.lib.maximum(x, -largest), largest)
        return self.convert(x, target)

    def _widened(self, x: Array) -> Array:
        wide = WIDE.get(x.dtype)
        return x if wide is None else self.convert(x, wide)

    def _float_to_int(self, x: Array, target: np.dtype[Any]) -> Array:
        lib = self.lib
        through = _INT32 if target in _VIA_INT32 else np.dtype(np.int64)
        bits = 8 * through.itemsize - 1
        bound = 2.0**bits
        whole = lib.trunc(x)
        fits = (whole >= -bound) & (whole < bound)
        exact = self.convert(lib.where(fits, whole, self.asarray(0, x.dtype)), through)
        lowest = self.asarray(-(2**bits), through)
        if target == np.uint64:
            # The upper half of its range is reached from below.
            upper = (whole >= bound) & (whole < 2 * bound)
            high = lib.where(upper, whole - self.asarray(bound, x.dtype), 0 * bound)
            high = self.convert(self.convert(high, x.dtype), through) ^ lowest
            lowest = lib.where(upper, high, lib.where(whole > 0, 0 * lowest, lowest))
        result = lib.where(fits, exact, lowest)
        return self.convert(result, target)

    def _to_e8m0(self, x: Array, saturate: bool, round_mode: str) -> Array:
        """The exponent of a positive float32: E8M0 has neither sign nor mantissa."""
        lib = self.lib
        bits = self.bitcast(self.convert(self._widened(x), _FLOAT32), np.uint32)
        exponent = self.convert((bits >> 23) & 0xFF, _INT32)
        mantissa = self.convert(bits & 0x7FFFFF, _INT32)
        # A subnormal lies around 2**-127, the least of E8M0, which has its first bit.
        tiny, first = exponent == 0, 0x400000
        if round_mode == "up":
            carry = lib.where(tiny, mantissa > first, mantissa > 0)
        elif round_mode == "nearest":
            carry = mantissa >= lib.where(tiny, first + first // 2, first)
        elif round_mode == "down":
            carry = lib.zeros_like(tiny)
        else:
            raise TypeMismatch(f"round_mode is up, down or nearest, not {round_mode!r}")
        code = exponent + self.convert(carry, _INT32)
        if saturate:
            nan = (exponent == 255) & (mantissa != 0)
            code = lib.where(nan, 255, lib.minimum(code, 254))
        else:
            code = lib.where(tiny & (mantissa < first), 255, lib.minimum(code, 255))
        return self.bitcast(self.convert(code, np.dtype(np.uint8)), _E8M0)

    @abstractmethod
    def bitcast(self, x: Array, dtype: DTypeLike) -> Array:
        """The same bits read as elements of another type of the same width."""

    @abstractmethod
    def cast_strings(self, x: Array, target: np.dtype[Any]) -> Array:
        """Numbers to or from strings: the host only."""
