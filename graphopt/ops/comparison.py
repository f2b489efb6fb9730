"""Truth: comparisons, logic, selection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .registry import op
from .structured import Array, Elementwise

if TYPE_CHECKING:
    from ..xp import Namespace


@op("Equal")
class Equal(Elementwise):
    """a == b; strings too. NaN equals nothing."""

    commutative = True
    arithmetic = True

    def compute(self, xp: Namespace, a: Array, b: Array) -> Array:
        return xp.equal(a, b)


@op("Less")
class Less(Elementwise):
    """a < b."""

    arithmetic = True

    def compute(self, xp: Namespace, a: Array, b: Array) -> Array:
        return xp.less(a, b)


@op("LessOrEqual")
class LessOrEqual(Elementwise):
    """a <= b."""

    arithmetic = True

    def compute(self, xp: Namespace, a: Array, b: Array) -> Array:
        return xp.less_equal(a, b)


@op("Greater")
class Greater(Elementwise):
    """a > b."""

    arithmetic = True

    def compute(self, xp: Namespace, a: Array, b: Array) -> Array:
        return xp.greater(a, b)


@op("GreaterOrEqual")
class GreaterOrEqual(Elementwise):
    """a >= b."""

    arithmetic = True

    def compute(self, xp: Namespace, a: Array, b: Array) -> Array:
        return xp.greater_equal(a, b)


@op("IsNaN")
class IsNaN(Elementwise):
    """True for NaN."""

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.isnan(x)


@op("IsInf")
class IsInf(Elementwise):
    """True for the infinities whose signs are to be detected."""

    def compute(self, xp: Namespace, x: Array) -> Array:
        found = xp.isinf(x)
        if not self.detect_negative:
            found = xp.logical_and(found, xp.greater(x, 0))
        if not self.detect_positive:
            found = xp.logical_and(found, xp.less(x, 0))
        return found


@op("Not")
class Not(Elementwise):
    """not x."""

    arithmetic = True

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.logical_not(x)


@op("And")
class And(Elementwise):
    """a and b."""

    commutative = True
    arithmetic = True

    def compute(self, xp: Namespace, a: Array, b: Array) -> Array:
        return xp.logical_and(a, b)


@op("Or")
class Or(Elementwise):
    """a or b."""

    commutative = True
    arithmetic = True

    def compute(self, xp: Namespace, a: Array, b: Array) -> Array:
        return xp.logical_or(a, b)


@op("Xor")
class Xor(Elementwise):
    """Either a or b, not both."""

    commutative = True

    def compute(self, xp: Namespace, a: Array, b: Array) -> Array:
        return xp.logical_xor(a, b)


@op("Where")
class Where(Elementwise):
    """a where the condition holds, else b."""

    arithmetic = True
    linear = ((1, 2),)
    flops = 0.0

    def compute(self, xp: Namespace, condition: Array, a: Array, b: Array) -> Array:
        return xp.where(condition, a, b)
