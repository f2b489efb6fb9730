"""Activations: elementwise ops of neural networks, each with its body.

The attributes are float32 numbers, as ONNX stores them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..ir import Value
from ..types import DType
from .bodies import Pointwise, cast, scalar
from .comparison import Less, Where
from .elementwise import (
    TRANSCENDENTAL,
    Abs,
    Add,
    Div,
    Erf,
    Exp,
    Log,
    Max,
    Min,
    Mul,
    Neg,
    Sub,
    Tanh,
)
from .registry import op
from .structured import Array, Elementwise

if TYPE_CHECKING:
    from ..xp import Namespace


class Activation(Pointwise):
    """A function of x; the other operands, where there are any, only weigh it."""

    def body(self) -> Value | None:
        x = self.operands[0]
        if x is None or x.dtype is None:
            return None
        return self.spelled(x, *self.operands[1:])

    def spelled(self, x: Value, *rest: Value | None) -> Value:
        """The body, where x and its element type are known."""
        raise NotImplementedError


def number(x: Value, value: float) -> Value:
    """A constant of rank 0 in the element type of x."""
    assert x.dtype is not None
    return scalar(value, x.dtype)


# --- rectifiers ---------------------------------------------------------------------


@op("Relu")
class Relu(Activation):
    """max(x, 0)."""

    def spelled(self, x: Value, *_: Value | None) -> Value:
        return Max(x, number(x, 0))

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.maximum(x, 0)  # rounds nothing: a wider type would be for nothing


@op("LeakyRelu")
class LeakyRelu(Activation):
    """x, times alpha where negative."""

    flops = 2.0

    def spelled(self, x: Value, *_: Value | None) -> Value:
        return Where(Less(x, number(x, 0)), Mul(number(x, self.alpha), x), x)

    def formula(self, xp: Namespace, x: Array) -> Array:
        return xp.where(xp.less(x, 0), xp.multiply(self.alpha, x), x)


@op("PRelu")
class PRelu(Activation):
    """x, times ``slope`` (that broadcasts to x) where negative."""

    flops = 2.0

    def spelled(self, x: Value, *rest: Value | None) -> Value:
        return Where(Less(x, number(x, 0)), Mul(rest[0], x), x)

    def formula(self, xp: Namespace, x: Array, slope: Array) -> Array:
        return xp.where(xp.less(x, 0), xp.multiply(slope, x), x)


@op("ThresholdedRelu")
class ThresholdedRelu(Activation):
    """x where it is above alpha, else 0."""

    def spelled(self, x: Value, *_: Value | None) -> Value:
        return Where(Less(number(x, self.alpha), x), x, number(x, 0))

    def formula(self, xp: Namespace, x: Array) -> Array:
        return xp.where(xp.greater(x, self.alpha), x, 0)


@op("Shrink")
class Shrink(Activation):
    """x drawn ``bias`` nearer to 0; 0 where it is within ``lambd`` of it.

    Of integers that is the whole part, as the attributes are no integers.
    """

    flops = 2.0

    def spelled(self, x: Value, *_: Value | None) -> Value:
        assert x.dtype is not None
        own = x.dtype
        x = cast(x, DType.F64) if own.is_integer else x
        bound, bias, zero = (number(x, v) for v in (self.lambd, self.bias, 0))
        above = Where(Less(bound, x), Sub(x, bias), zero)
        return cast(Where(Less(x, Neg(bound)), Add(x, bias), above), own)

    def formula(self, xp: Namespace, x: Array) -> Array:
        own = DType.of(x.dtype)
        x = xp.cast(x, DType.F64) if own.is_integer else x
        above = xp.where(xp.greater(x, self.lambd), xp.subtract(x, self.bias), 0)
        drawn = xp.where(xp.less(x, -self.lambd), xp.add(x, self.bias), above)
        return xp.cast(drawn, own)


# --- exponential units --------------------------------------------------------------
# Powers are taken of what is not positive: one that overflows has no slope, not even
# where it is not chosen.


@op("Elu")
class Elu(Activation):
    """x, where negative alpha * (exp(x) - 1)."""

    flops = TRANSCENDENTAL + 2

    def spelled(self, x: Value, *_: Value | None) -> Value:
        below = Mul(number(x, self.alpha), Sub(Exp(x), number(x, 1)))
        return Where(Less(x, number(x, 0)), below, x)

    def formula(self, xp: Namespace, x: Array) -> Array:
        below = xp.multiply(self.alpha, xp.expm1(xp.minimum(x, 0)))
        return xp.where(xp.less(x, 0), below, x)


@op("Celu")
class Celu(Activation):
    """x, where negative alpha * (exp(x / alpha) - 1)."""

    flops = TRANSCENDENTAL + 3

    def spelled(self, x: Value, *_: Value | None) -> Value:
        alpha = number(x, self.alpha)
        return Mul(alpha, Elu(Div(x, alpha), alpha=1.0))

    def formula(self, xp: Namespace, x: Array) -> Array:
        below = xp.divide(xp.minimum(x, 0), self.alpha)
        below = xp.multiply(self.alpha, xp.expm1(below))
        return xp.where(xp.less(x, 0), below, x)


@op("Selu")
class Selu(Activation):
    """gamma * x, where negative gamma * alpha * (exp(x) - 1)."""

    flops = TRANSCENDENTAL + 3

    def spelled(self, x: Value, *_: Value | None) -> Value:
        alpha, gamma = number(x, self.alpha), number(x, self.gamma)
        below = Mul(gamma, Sub(Mul(alpha, Exp(x)), alpha))
        return Where(Less(x, number(x, 0)), below, Mul(gamma, x))

    def formula(self, xp: Namespace, x: Array) -> Array:
        below = xp.multiply(self.alpha, xp.expm1(xp.minimum(x, 0)))
        return xp.multiply(self.gamma, xp.where(xp.less(x, 0), below, x))


# --- sigmoids -----------------------------------------------------------------------


@op("Sigmoid")
class Sigmoid(Elementwise):
    """1 / (1 + exp(-x))."""

    flops = TRANSCENDENTAL + 2

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.sigmoid(x)


@op("HardSigmoid")
class HardSigmoid(Activation):
    """alpha * x + beta, kept within 0 and 1."""

    flops = 4.0

    def spelled(self, x: Value, *_: Value | None) -> Value:
        line = Add(Mul(x, number(x, self.alpha)), number(x, self.beta))
        return Max(Min(line, number(x, 1)), number(x, 0))

    def formula(self, xp: Namespace, x: Array) -> Array:
        line = xp.add(xp.multiply(x, self.alpha), self.beta)
        return xp.clip(line, 0, 1)


@op("Softsign")
class Softsign(Activation):
    """x / (1 + |x|)."""

    flops = 3.0

    def spelled(self, x: Value, *_: Value | None) -> Value:
        return Div(x, Add(number(x, 1), Abs(x)))

    def formula(self, xp: Namespace, x: Array) -> Array:
        return xp.divide(x, xp.add(1, xp.abs(x)))


@op("Softplus")
class Softplus(Activation):
    """log(1 + exp(x)), spelled so that nothing overflows."""

    flops = 2 * TRANSCENDENTAL + 3

    def spelled(self, x: Value, *_: Value | None) -> Value:
        rest = Log(Add(Exp(Neg(Abs(x))), number(x, 1)))
        return Add(Max(x, number(x, 0)), rest)

    def formula(self, xp: Namespace, x: Array) -> Array:
        return xp.softplus(x)


# --- gates --------------------------------------------------------------------------


SIXTH = float(np.float32(1 / 6))
"""As the attribute of ONNX's own body holds it."""


@op("HardSwish")
class HardSwish(Activation):
    """x * max(0, min(1, x / 6 + 1 / 2))."""

    flops = 5.0

    def spelled(self, x: Value, *_: Value | None) -> Value:
        return Mul(x, HardSigmoid(x, alpha=SIXTH, beta=0.5))

    def formula(self, xp: Namespace, x: Array) -> Array:
        line = xp.add(xp.multiply(x, SIXTH), 0.5)
        return xp.multiply(x, xp.clip(line, 0, 1))


@op("Swish")
class Swish(Activation):
    """x * sigmoid(alpha * x); with alpha 1 it is also called SiLU."""

    flops = TRANSCENDENTAL + 4

    def spelled(self, x: Value, *_: Value | None) -> Value:
        inner = x if self.alpha == 1 else Mul(number(x, self.alpha), x)
        return Mul(x, Sigmoid(inner))

    def formula(self, xp: Namespace, x: Array) -> Array:
        return xp.multiply(x, xp.sigmoid(xp.multiply(self.alpha, x)))


@op("SwiGLU")
class SwiGLU(Activation):
    """swish(a) * b (opset 28)."""

    linear = ((1,),)
    flops = TRANSCENDENTAL + 5

    def spelled(self, x: Value, *rest: Value | None) -> Value:
        return Mul(Swish(x, alpha=self.alpha), rest[0])

    def formula(self, xp: Namespace, a: Array, b: Array) -> Array:
        gate = xp.multiply(a, xp.sigmoid(xp.multiply(self.alpha, a)))
        return xp.multiply(gate, b)


@op("Mish")
class Mish(Activation):
    """x * tanh(softplus(x))."""

    flops = 3 * TRANSCENDENTAL + 4

    def spelled(self, x: Value, *_: Value | None) -> Value:
        return Mul(x, Tanh(Softplus(x)))

    def formula(self, xp: Namespace, x: Array) -> Array:
        return xp.multiply(x, xp.tanh(xp.softplus(x)))


@op("Gelu")
class Gelu(Activation):
    """x times the normal distribution's P(X <= x); ``approximate="tanh"`` nears it.

    Hendrycks and Gimpel, arXiv 1606.08415.
    """

    flops = 2 * TRANSCENDENTAL + 4

    def spelled(self, x: Value, *_: Value | None) -> Value:
        if self.approximate == "tanh":
            cubic = Mul(number(x, CUBIC), Mul(x, Mul(x, x)))
            inner = Mul(number(x, SLOPE), Add(x, cubic))
            half = Add(number(x, 1), Tanh(inner))
        else:
            half = Add(number(x, 1), Erf(Div(x, number(x, math.sqrt(2)))))
        return Mul(Mul(number(x, 0.5), x), half)

    def formula(self, xp: Namespace, x: Array) -> Array:
        if self.approximate == "tanh":
            cubic = xp.multiply(CUBIC, xp.multiply(x, xp.multiply(x, x)))
            half = xp.tanh(xp.multiply(SLOPE, xp.add(x, cubic)))
        else:
            half = xp.erf(xp.multiply(x, math.sqrt(0.5)))
        return xp.multiply(xp.multiply(0.5, x), xp.add(1, half))


CUBIC = 0.044715
SLOPE = math.sqrt(2 / math.pi)
"""The tanh form: P(X <= x) is about (1 + tanh(SLOPE * (x + CUBIC * x**3))) / 2."""
