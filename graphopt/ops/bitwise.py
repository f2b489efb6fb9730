"""Integers as rows of bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..index import Maps
from .registry import op
from .structured import Array, Elementwise

if TYPE_CHECKING:
    from ..xp import Namespace


@op("BitwiseAnd")
class BitwiseAnd(Elementwise):
    """a & b."""

    commutative = True

    def compute(self, xp: Namespace, a: Array, b: Array) -> Array:
        return xp.bitwise_and(a, b)


@op("BitwiseOr")
class BitwiseOr(Elementwise):
    """a | b."""

    commutative = True

    def compute(self, xp: Namespace, a: Array, b: Array) -> Array:
        return xp.bitwise_or(a, b)


@op("BitwiseXor")
class BitwiseXor(Elementwise):
    """a ^ b."""

    commutative = True

    def compute(self, xp: Namespace, a: Array, b: Array) -> Array:
        return xp.bitwise_xor(a, b)


@op("BitwiseNot")
class BitwiseNot(Elementwise):
    """~x."""

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.bitwise_not(x)


@op("BitShift")
class BitShift(Elementwise):
    """The bits of x moved by as many places as y says, left or right.

    Vacated bits are copies of the sign on the right way, zeros on the left way; a count
    that is negative or beyond the type's bits moves everything out (opset 28).
    """

    def index_maps(self) -> Maps | None:
        linear = ((0,),) if self.direction == "LEFT" else ()
        return self.parse_maps("..., ... -> ...", linear=linear)

    def compute(self, xp: Namespace, x: Array, count: Array) -> Array:
        shift = xp.shift_left if self.direction == "LEFT" else xp.shift_right
        return shift(x, count)
