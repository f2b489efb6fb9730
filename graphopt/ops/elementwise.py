"""Arithmetic and elementary functions, one element at a time.

Operands broadcast as NumPy's do. Integers wrap; their division truncates.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from ..index import Maps
from ..types import DType
from .registry import op
from .structured import Array, Elementwise

if TYPE_CHECKING:
    from ..xp import Namespace

TRANSCENDENTAL = 8.0
"""Operations that exp, log, sin and their kin count for: a short polynomial."""


def is_inexact(dtype: DType | None) -> bool:
    """True for floating-point and complex types: where division is linear."""
    return dtype is not None and (dtype.is_float or dtype.is_complex)


# --- two operands -------------------------------------------------------------------


@op("Add")
class Add(Elementwise):
    """a + b."""

    commutative = True
    arithmetic = True
    linear = ((0, 1),)

    def compute(self, xp: Namespace, a: Array, b: Array) -> Array:
        return xp.add(a, b)


@op("Sub")
class Sub(Elementwise):
    """a - b."""

    arithmetic = True
    linear = ((0, 1),)

    def compute(self, xp: Namespace, a: Array, b: Array) -> Array:
        return xp.subtract(a, b)


@op("Mul")
class Mul(Elementwise):
    """a * b."""

    commutative = True
    arithmetic = True
    linear = ((0,), (1,))

    def compute(self, xp: Namespace, a: Array, b: Array) -> Array:
        return xp.multiply(a, b)


@op("Div")
class Div(Elementwise):
    """a / b; of integers, truncated toward zero."""

    arithmetic = True

    def index_maps(self) -> Maps | None:
        a = self.operand(0)
        linear = ((0,),) if a is not None and is_inexact(a.dtype) else ()
        return self.parse_maps("..., ... -> ...", linear=linear)

    def compute(self, xp: Namespace, a: Array, b: Array) -> Array:
        return xp.divide(a, b)


@op("Mod")
class Mod(Elementwise):
    """What division leaves: the sign is the divisor's, with ``fmod`` the dividend's."""

    arithmetic = True

    def compute(self, xp: Namespace, a: Array, b: Array) -> Array:
        return xp.fmod(a, b) if self.fmod else xp.remainder(a, b)


@op("Pow")
class Pow(Elementwise):
    """x ** y in the type of x; operands of two types meet in the widest of x's kind."""

    flops = 2 * TRANSCENDENTAL

    def compute(self, xp: Namespace, x: Array, y: Array) -> Array:
        own = DType.of(x.dtype)
        if x.dtype == y.dtype:
            return xp.power(x, y)
        exact = own.is_integer and DType.of(y.dtype).is_integer
        common = DType.I64 if exact else DType.F64
        return xp.cast(xp.power(xp.cast(x, common), xp.cast(y, common)), own)


# --- any number of operands ---------------------------------------------------------


class Variadic(Elementwise):
    """One operation folded over all operands, from the left."""

    commutative = True

    def index_maps(self) -> Maps | None:
        count = len(self.operands)
        linear = (tuple(range(count)),) if self.is_linear() else ()
        text = ", ".join(["..."] * count) + " -> ..."
        return self.parse_maps(text, linear=linear, cost=float(max(count - 1, 0)))

    def is_linear(self) -> bool:
        """Whether the op is linear in all its operands together."""
        return False


@op("Sum")
class Sum(Variadic):
    """a + b + ..."""

    def is_linear(self) -> bool:
        return True

    def compute(self, xp: Namespace, *operands: Array) -> Array:
        return reduce(xp.add, operands)


@op("Mean")
class Mean(Variadic):
    """(a + b + ...) / how many there are."""

    def is_linear(self) -> bool:
        return True

    def compute(self, xp: Namespace, *operands: Array) -> Array:
        def mean(*wide: Array) -> Array:
            return xp.divide(reduce(xp.add, wide), len(wide))

        return xp.each(mean, *operands)


@op("Max")
class Max(Variadic):
    """The largest of all operands; NaN where one is."""

    arithmetic = True

    def compute(self, xp: Namespace, *operands: Array) -> Array:
        return reduce(xp.maximum, operands)


@op("Min")
class Min(Variadic):
    """The smallest of all operands; NaN where one is."""

    arithmetic = True

    def compute(self, xp: Namespace, *operands: Array) -> Array:
        return reduce(xp.minimum, operands)


@op("Clip")
class Clip(Elementwise):
    """min(max(x, low), high): where the bounds cross, ``high`` wins."""

    arithmetic = True
    flops = 2.0

    def compute(
        self,
        xp: Namespace,
        x: Array,
        low: Array | None = None,
        high: Array | None = None,
    ) -> Array:
        if low is not None:
            x = xp.maximum(x, low)
        return x if high is None else xp.minimum(x, high)


# --- one operand --------------------------------------------------------------------


@op("Neg")
class Neg(Elementwise):
    """-x."""

    arithmetic = True
    linear = ((0,),)

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.negative(x)


@op("Abs")
class Abs(Elementwise):
    """|x|."""

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.abs(x)


@op("Sign")
class Sign(Elementwise):
    """-1, 0 or 1; NaN of NaN."""

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.sign(x)


@op("Reciprocal")
class Reciprocal(Elementwise):
    """1 / x."""

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.reciprocal(x)


@op("Sqrt")
class Sqrt(Elementwise):
    """The square root; NaN below zero."""

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.sqrt(x)


@op("Floor")
class Floor(Elementwise):
    """The largest integer that is not above x."""

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.floor(x)


@op("Ceil")
class Ceil(Elementwise):
    """The smallest integer that is not below x."""

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.ceil(x)


@op("Round")
class Round(Elementwise):
    """The nearest integer, of two the even one."""

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.round(x)


@op("Exp")
class Exp(Elementwise):
    """e ** x."""

    flops = TRANSCENDENTAL

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.exp(x)


@op("Log")
class Log(Elementwise):
    """The natural logarithm."""

    flops = TRANSCENDENTAL

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.log(x)


@op("Erf")
class Erf(Elementwise):
    """The error function, 2/sqrt(pi) times the integral of exp(-t**2) from 0 to x."""

    flops = 2 * TRANSCENDENTAL

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.erf(x)


@op("Sin")
class Sin(Elementwise):
    """The sine of x radians."""

    flops = TRANSCENDENTAL

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.sin(x)


@op("Cos")
class Cos(Elementwise):
    """The cosine of x radians."""

    flops = TRANSCENDENTAL

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.cos(x)


@op("Tan")
class Tan(Elementwise):
    """The tangent of x radians."""

    flops = TRANSCENDENTAL

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.tan(x)


@op("Asin")
class Asin(Elementwise):
    """The angle whose sine is x."""

    flops = TRANSCENDENTAL

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.asin(x)


@op("Acos")
class Acos(Elementwise):
    """The angle whose cosine is x."""

    flops = TRANSCENDENTAL

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.acos(x)


@op("Atan")
class Atan(Elementwise):
    """The angle whose tangent is x."""

    flops = TRANSCENDENTAL

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.atan(x)


@op("Sinh")
class Sinh(Elementwise):
    """The hyperbolic sine."""

    flops = TRANSCENDENTAL

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.sinh(x)


@op("Cosh")
class Cosh(Elementwise):
    """The hyperbolic cosine."""

    flops = TRANSCENDENTAL

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.cosh(x)


@op("Tanh")
class Tanh(Elementwise):
    """The hyperbolic tangent."""

    flops = TRANSCENDENTAL

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.tanh(x)


@op("Asinh")
class Asinh(Elementwise):
    """The inverse of the hyperbolic sine."""

    flops = TRANSCENDENTAL

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.asinh(x)


@op("Acosh")
class Acosh(Elementwise):
    """The inverse of the hyperbolic cosine; NaN below 1."""

    flops = TRANSCENDENTAL

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.acosh(x)


@op("Atanh")
class Atanh(Elementwise):
    """The inverse of the hyperbolic tangent; NaN beyond -1 and 1."""

    flops = TRANSCENDENTAL

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.atanh(x)
