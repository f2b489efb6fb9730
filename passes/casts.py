"""Casts: chains that lose nothing become one cast, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.ops import Cast, CastLike
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, miss, rule
from graphopt.types import DType


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
    if not middle.holds(x.dtype):
        return miss(f"{middle} cannot hold every {x.dtype}", inner)
    if x.dtype.is_integer and middle.is_float and not last.holds(x.dtype):
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
