"""Softmax and its kin: vectors along one axis, related to their own size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ir import Value
from .bodies import Normalizing, WholeAxes, cast, scalar, vector, widened
from .comparison import Equal, Where
from .elementwise import TRANSCENDENTAL, Div, Exp, Log, Sub
from .reduction import ReduceL1, ReduceL2, ReduceMax, ReduceSum
from .registry import op
from .steering import normal_axis
from .structured import Array

if TYPE_CHECKING:
    from ..xp import Namespace


class AlongAxis(Normalizing):
    """A function of the vectors along ``axis``."""

    def whole_axes(self, rank: int) -> tuple[int, ...]:
        return (normal_axis(self.axis, rank),)

    def body(self) -> Value | None:
        x = self.operands[0]
        if x is None or x.dtype is None:
            return None
        return cast(self.spelled(widened(x)), x.dtype)

    def spelled(self, x: Value) -> Value:
        """The body, on an operand that is not narrow."""
        raise NotImplementedError

    def formula(self, xp: Namespace, x: Array) -> Array:
        """The result, from an operand that is not narrow."""
        raise NotImplementedError

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.each(lambda wide: self.formula(xp, wide), x)


@op("Softmax")
class Softmax(AlongAxis):
    """exp(x) over its sum along the axis, taken relative to the largest."""

    flops = TRANSCENDENTAL + 4

    def spelled(self, x: Value) -> Value:
        axes = vector(self.axis)
        powers = Exp(Sub(x, ReduceMax(x, axes)))
        return Div(powers, ReduceSum(powers, axes))

    def formula(self, xp: Namespace, x: Array) -> Array:
        top = xp.held(xp.max(x, self.axis, keepdims=True))
        powers = xp.exp(xp.subtract(x, top))
        return xp.divide(powers, xp.sum(powers, self.axis, keepdims=True))


@op("LogSoftmax")
class LogSoftmax(AlongAxis):
    """log of `Softmax`."""

    flops = TRANSCENDENTAL + 4

    def spelled(self, x: Value) -> Value:
        axes = vector(self.axis)
        below = Sub(x, ReduceMax(x, axes))
        return Sub(below, Log(ReduceSum(Exp(below), axes)))

    def formula(self, xp: Namespace, x: Array) -> Array:
        top = xp.held(xp.max(x, self.axis, keepdims=True))
        below = xp.subtract(x, top)
        total = xp.sum(xp.exp(below), self.axis, keepdims=True)
        return xp.subtract(below, xp.log(total))


@op("Hardmax")
class Hardmax(WholeAxes):
    """1 at the first of the largest elements along the axis, else 0."""

    def whole_axes(self, rank: int) -> tuple[int, ...]:
        return (normal_axis(self.axis, rank),)

    def compute(self, xp: Namespace, x: Array) -> Array:
        if not x.size:
            return x
        axis = normal_axis(self.axis, x.ndim)
        first = xp.argmax(x, axis)
        return xp.onehot(first, x.shape[axis], axis, dtype=x.dtype)


@op("LpNormalization")
class LpNormalization(AlongAxis):
    """x over its L1 or L2 norm along the axis; 0 where that is 0 (opset 22)."""

    flops = 3.0

    def spelled(self, x: Value) -> Value:
        assert x.dtype is not None
        norm = (ReduceL1 if self.p == 1 else ReduceL2)(x, vector(self.axis))
        zero, one = (scalar(v, x.dtype) for v in (0, 1))
        return Div(x, Where(Equal(norm, zero), one, norm))

    def formula(self, xp: Namespace, x: Array) -> Array:
        size = xp.abs(x) if self.p == 1 else xp.square(x)
        norm = xp.sum(size, self.axis, keepdims=True)
        norm = norm if self.p == 1 else xp.flat_at_zero(xp.sqrt, norm)
        return xp.divide(x, xp.where(xp.equal(norm, 0), 1, norm))
