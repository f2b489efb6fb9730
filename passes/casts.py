"""Casts: chains that lose nothing become one cast, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.ops import Cast, CastLike
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, miss, rule
from graphopt.types import DType

_FLOATS = {
    DType.F64: (11, 52),
    DType.F32: (8, 23),
    DType.BF16: (8, 7),
    DType.F16: (5, 10),
}
"""Exponent and mantissa bits."""


def holds(wide: DType, narrow: DType) -> bool:
    """True where each value of ``narrow`` is also one of ``wide``."""
    if wide is narrow:
        return True
    if narrow is DType.BOOL:
        return wide.is_integer or wide in _FLOATS
    if wide in _FLOATS and narrow in _FLOATS:
        return all(a >= b for a, b in zip(_FLOATS[wide], _FLOATS[narrow], strict=True))
    if narrow.is_integer and wide.is_integer:
        if narrow.is_signed and not wide.is_signed:
            return False
        spare = 1 if wide.is_signed and not narrow.is_signed else 0
        return wide.bits >= narrow.bits + spare
    if narrow.is_integer and wide in _FLOATS:
        bits = narrow.bits - (1 if narrow.is_signed else 0)
        exponent = 2 ** (_FLOATS[wide][0] - 1) - 1
        return bits <= _FLOATS[wide][1] + 1 and bits <= exponent
    return False


@rule
def cast_like(op: CastLike) -> Outcome:
    """castlike(x, y) = cast(x, dtype of y)"""
    x, like = op.operands
    if like is None or like.dtype is None:
        return miss("its element type is not known", like)
    return Cast(
        x,
        to=like.dtype,
        saturate=op.attrs.get("saturate", 1),
        round_mode=op.attrs.get("round_mode"),
    )


@rule
def cast_nothing(op: Cast) -> Outcome:
    """cast(x: t, t) = x"""
    x = op.operands[0]
    return x if x is not None and x.dtype is DType(op.to) else None


@rule
def cast_cast(op: Cast) -> Outcome:
    """cast(cast(x: t, u), v) = cast(x, v) where u holds every t

    Integers wrap and floats saturate: between integers, a float u changes what happens
    to those that v cannot hold.
    """
    inner = op.operands[0]
    if not isinstance(inner, Cast):
        return None
    x = inner.operands[0]
    if x is None or x.dtype is None:
        return miss("its element type is not known", x)
    middle, last = DType(inner.to), DType(op.to)
    if DType.STRING in (x.dtype, middle, last):
        return miss("a string has its own spelling")
    if not holds(middle, x.dtype):
        return miss(f"{middle} cannot hold every {x.dtype}", inner)
    if x.dtype.is_integer and middle.is_float and not holds(last, x.dtype):
        return miss(f"{middle} comes to {last} by rules of its own", inner)
    return op.with_operands([x])


RULES: tuple[Rule, ...] = (cast_like, cast_nothing, cast_cast)


@dataclass(frozen=True)
class Casts(RulePass):
    """Drop casts that change nothing; make lossless chains one.

    cast(cast(x: i32, i64), f32)   -->   cast(x, f32)
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
