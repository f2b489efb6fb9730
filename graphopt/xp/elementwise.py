"""Functions of one element at a time, broadcast over their operands."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from .foundation import Array, Foundation


class Elementwise(Foundation):
    """Arithmetic, rounding, exponentials, trigonometry, comparison, logic, bits."""

    # Arithmetic

    def add(self, a: Any, b: Any) -> Array:
        return self.each(self.lib.add, a, b)

    def subtract(self, a: Any, b: Any) -> Array:
        return self.each(self.lib.subtract, a, b)

    def multiply(self, a: Any, b: Any) -> Array:
        return self.each(self.lib.multiply, a, b)

    def add_into(self, total: Array, x: Array) -> Array:
        """`add`, where nothing else holds ``total``: it may become the result."""
        return self.add(total, x)

    def multiply_into(self, total: Array, x: Array) -> Array:
        """`multiply`, where nothing else holds ``total``: it may become the result."""
        return self.multiply(total, x)

    def divide(self, a: Any, b: Any) -> Array:
        """Quotient; of integers, truncated toward zero as C does; ``a / 0 == 0``."""

        def quotient(a: Array, b: Array) -> Array:
            if a.dtype.kind in "fc":
                return self.lib.divide(a, b)
            if a.dtype.kind == "u":
                return self._floor_divide(a, b)
            floor = self._floor_divide(a, b)
            inexact = self.lib.not_equal(self._remainder(a, b), 0)
            return floor + (inexact & ((a < 0) != (b < 0))).astype(a.dtype)

        return self.each(quotient, a, b)

    def floor_divide(self, a: Any, b: Any) -> Array:
        """Quotient rounded toward minus infinity; of integers, ``a // 0 == 0``."""
        return self.each(self._floor_divide, a, b)

    def remainder(self, a: Any, b: Any) -> Array:
        """What floor division leaves, with the divisor's sign; ``a % 0 == 0``."""
        return self.each(self._remainder, a, b)

    def fmod(self, a: Any, b: Any) -> Array:
        """What truncating division leaves: the dividend's sign."""

        def rest(a: Array, b: Array) -> Array:
            if a.dtype.kind == "f":
                return self.lib.fmod(a, b)
            zero, safe = self._divisor(b)
            return self.lib.where(zero, self._like(a, 0), self.lib.fmod(a, safe))

        return self.each(rest, a, b)

    def _divisor(self, b: Array) -> tuple[Array, Array]:
        """Where an integer divisor is zero, and the divisor with ones there."""
        zero = self.lib.equal(b, 0)
        return zero, self.lib.where(zero, self._like(b, 1), b)

    def _like(self, x: Array, value: int | float) -> Array:
        """A scalar array of the element type of ``x``."""
        return self.asarray(value, x.dtype)

    def _floor_divide(self, a: Array, b: Array) -> Array:
        if a.dtype.kind == "f":
            return self.lib.floor_divide(a, b)
        zero, safe = self._divisor(b)
        return self.lib.where(zero, self._like(a, 0), self.lib.floor_divide(a, safe))

    def _remainder(self, a: Array, b: Array) -> Array:
        if a.dtype.kind == "f":
            return self.lib.remainder(a, b)
        zero, safe = self._divisor(b)
        return self.lib.where(zero, self._like(a, 0), self.lib.remainder(a, safe))

    def power(self, a: Any, b: Any) -> Array:
        """``a ** b``; of integers, wrapping, and truncated for negative exponents."""

        def raised(a: Array, b: Array) -> Array:
            if a.dtype.kind not in "iu":
                return self.lib.power(a, b)
            if a.dtype.kind == "u":
                return self.integer_power(a, b)
            # Only 1 and -1 have reciprocals; of all others zero is left.
            parity = self.lib.where((b & 1) == 0, self._like(a, 1), a)
            inverse = self.lib.where(abs(a) == 1, parity, self._like(a, 0))
            natural = self.integer_power(a, self.lib.maximum(b, self._like(b, 0)))
            return self.lib.where(b < 0, inverse, natural)

        return self.each(raised, a, b)

    @abstractmethod
    def integer_power(self, a: Array, b: Array) -> Array:
        """``a ** b`` of integers, wrapping; no exponent is negative."""

    def negative(self, x: Array) -> Array:
        return self.each(self.lib.negative, x)

    def abs(self, x: Array) -> Array:
        return self.each(self.lib.abs, x)

    def sign(self, x: Array) -> Array:
        """-1, 0 or 1; NaN of NaN."""
        return self.each(self.lib.sign, x)

    def square(self, x: Array) -> Array:
        return self.each(self.lib.square, x)

    def sqrt(self, x: Array) -> Array:
        return self.each(self.lib.sqrt, x)

    def flat_at_zero(self, function: Callable[[Array], Array], x: Array) -> Array:
        """A root of ``x``; at zero, where it is upright, its slope counts as zero."""
        return function(x)

    def held(self, x: Array) -> Array:
        """``x`` without a slope: for what is taken away first and given back later."""
        return x

    def reciprocal(self, x: Array) -> Array:
        return self.divide(1, x)

    def maximum(self, a: Any, b: Any) -> Array:
        """The larger; NaN where either is NaN."""
        return self.each(self.lib.maximum, a, b)

    def minimum(self, a: Any, b: Any) -> Array:
        """The smaller; NaN where either is NaN."""
        return self.each(self.lib.minimum, a, b)

    def clip(self, x: Array, low: Any = None, high: Any = None) -> Array:
        """``minimum(maximum(x, low), high)``: ``high`` wins where the bounds cross."""
        if low is not None:
            x = self.maximum(x, low)
        if high is not None:
            x = self.minimum(x, high)
        return self.asarray(x)

    # Rounding

    def floor(self, x: Array) -> Array:
        return self.each(self.lib.floor, x)

    def ceil(self, x: Array) -> Array:
        return self.each(self.lib.ceil, x)

    def round(self, x: Array) -> Array:
        """The nearest integer; ties go to the even one."""
        return self.each(self.lib.rint, x)

    def trunc(self, x: Array) -> Array:
        return self.each(self.lib.trunc, x)

    # Exponentials and trigonometry

    def exp(self, x: Array) -> Array:
        return self.each(self.lib.exp, x)

    def expm1(self, x: Array) -> Array:
        return self.each(self.lib.expm1, x)

    def log(self, x: Array) -> Array:
        return self.each(self.lib.log, x)

    def log1p(self, x: Array) -> Array:
        return self.each(self.lib.log1p, x)

    def sin(self, x: Array) -> Array:
        return self.each(self.lib.sin, x)

    def cos(self, x: Array) -> Array:
        return self.each(self.lib.cos, x)

    def tan(self, x: Array) -> Array:
        return self.each(self.lib.tan, x)

    def asin(self, x: Array) -> Array:
        return self.each(self.lib.arcsin, x)

    def acos(self, x: Array) -> Array:
        return self.each(self.lib.arccos, x)

    def atan(self, x: Array) -> Array:
        return self.each(self.lib.arctan, x)

    def sinh(self, x: Array) -> Array:
        return self.each(self.lib.sinh, x)

    def cosh(self, x: Array) -> Array:
        return self.each(self.lib.cosh, x)

    def tanh(self, x: Array) -> Array:
        return self.each(self.lib.tanh, x)

    def asinh(self, x: Array) -> Array:
        return self.each(self.lib.arcsinh, x)

    def acosh(self, x: Array) -> Array:
        return self.each(self.lib.arccosh, x)

    def atanh(self, x: Array) -> Array:
        return self.each(self.lib.arctanh, x)

    # Comparison and logic

    def equal(self, a: Any, b: Any) -> Array:
        return self.each(self.lib.equal, a, b)

    def not_equal(self, a: Any, b: Any) -> Array:
        return self.each(self.lib.not_equal, a, b)

    def less(self, a: Any, b: Any) -> Array:
        return self.each(self.lib.less, a, b)

    def less_equal(self, a: Any, b: Any) -> Array:
        return self.each(self.lib.less_equal, a, b)

    def greater(self, a: Any, b: Any) -> Array:
        return self.each(self.lib.greater, a, b)

    def greater_equal(self, a: Any, b: Any) -> Array:
        return self.each(self.lib.greater_equal, a, b)

    def logical_and(self, a: Any, b: Any) -> Array:
        return self.each(self.lib.logical_and, a, b)

    def logical_or(self, a: Any, b: Any) -> Array:
        return self.each(self.lib.logical_or, a, b)

    def logical_xor(self, a: Any, b: Any) -> Array:
        return self.each(self.lib.logical_xor, a, b)

    def logical_not(self, x: Array) -> Array:
        return self.each(self.lib.logical_not, x)

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        """``a`` where the condition holds, else ``b``; all three broadcast."""
        a, b = self.same(a, b)
        return self.asarray(self.lib.where(condition, a, b))

    def isnan(self, x: Array) -> Array:
        return self.each(self.lib.isnan, x)

    def isinf(self, x: Array) -> Array:
        return self.each(self.lib.isinf, x)

    def isfinite(self, x: Array) -> Array:
        return self.each(self.lib.isfinite, x)

    # Bits

    def bitwise_and(self, a: Any, b: Any) -> Array:
        return self.each(self.lib.bitwise_and, a, b)

    def bitwise_or(self, a: Any, b: Any) -> Array:
        return self.each(self.lib.bitwise_or, a, b)

    def bitwise_xor(self, a: Any, b: Any) -> Array:
        return self.each(self.lib.bitwise_xor, a, b)

    def bitwise_not(self, x: Array) -> Array:
        return self.each(self.lib.bitwise_not, x)

    def shift_left(self, x: Any, count: Any) -> Array:
        """``x << count``; zero once every bit is shifted out."""

        def shifted(x: Array, count: Array) -> Array:
            bits = 8 * x.dtype.itemsize
            kept = self.lib.left_shift(
                x, self.lib.minimum(count, self._like(x, bits - 1))
            )
            return self.lib.where(count >= bits, self._like(x, 0), kept)

        return self.each(shifted, x, count)

    def shift_right(self, x: Any, count: Any) -> Array:
        """``x >> count``, arithmetic where ``x`` is signed."""

        def shifted(x: Array, count: Array) -> Array:
            bits = 8 * x.dtype.itemsize
            kept = self.lib.right_shift(
                x, self.lib.minimum(count, self._like(x, bits - 1))
            )
            if x.dtype.kind == "i":
                return kept
            return self.lib.where(count >= bits, self._like(x, 0), kept)

        return self.each(shifted, x, count)

    # Complex numbers

    @abstractmethod
    def complex(self, real: Any, imaginary: Any) -> Array:
        """``real + 1j * imaginary``: float32 gives complex64, float64 complex128."""

    def real(self, x: Array) -> Array:
        return self.asarray(self.lib.real(x))

    def imag(self, x: Array) -> Array:
        return self.asarray(self.lib.imag(x))
