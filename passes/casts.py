"""Casts: chains that lose nothing become one cast, or none; wide types come late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from graphopt.ir import Op, Value
from graphopt.ops import (
    Abs,
    Cast,
    CastLike,
    Clip,
    Constant,
    Equal,
    Flatten,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Max,
    MaxPool,
    Min,
    Neg,
    Relu,
    Reshape,
    Squeeze,
    Unsqueeze,
    Where,
)
from graphopt.ops.movement import Movement
from graphopt.pipeline import RulePass
from graphopt.rewrite import Miss, Outcome, Rule, Scene, miss, rule
from graphopt.types import DType
from graphopt.weights import Tensor

from .match import READ_LIMIT


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


Moving: TypeAlias = Movement | Reshape | Flatten | Squeeze | Unsqueeze
"""Ops whose results are elements of their first operand, or of all."""

Comparing: TypeAlias = Equal | Greater | GreaterOrEqual | Less | LessOrEqual


def _narrow(op: Op, wide: DType | None, scene: Scene) -> tuple[DType, Op] | Miss | None:
    """The op on what its operands of type ``wide`` were before they were widened."""
    narrow: DType | None = None
    for value in op.operands:
        if isinstance(value, Cast) and value.dtype is wide:
            source = value.operands[0]
            own = None if source is None else source.dtype
            if own is None or (narrow is not None and own is not narrow):
                return miss("the operands were of several types", value)
            if not scene.single(value):
                return miss("the wide operand is read elsewhere too", value)
            narrow = own
    if narrow is None or wide is None or not wide.holds(narrow):
        return None
    if not _is_alike(narrow, wide):
        return None
    operands: list[Value | None] = []
    for value in op.operands:
        if value is None or value.dtype is not wide:
            operands.append(value)
        elif isinstance(value, Cast):
            operands.append(value.operands[0])
        elif value.constant is not None and value.constant.size <= READ_LIMIT:
            array = value.constant.array()
            with np.errstate(all="ignore"):
                small = array.astype(narrow.numpy)
            if small.astype(wide.numpy).tobytes() != array.tobytes():
                return miss(f"{narrow} has not all of its numbers", value)
            operands.append(Constant(Tensor.of(small, narrow)))
        else:
            return miss("an operand was not narrow", value)
    made = op.with_operands(operands)
    return (narrow, made) if scene.says(made) else miss("this opset has it not", op)


def _is_alike(narrow: DType, wide: DType) -> bool:
    """Both floats or both signed integers, the one with fewer bits."""
    if narrow.bits >= wide.bits:
        return False
    both_float = narrow.is_float and wide.is_float
    both_signed = narrow.is_integer and wide.is_integer and narrow.is_signed
    return both_float or (both_signed and wide.is_signed)


@rule
def widened_late(
    op: Moving | Relu | Max | Min | Abs | Neg | Where | Clip | MaxPool, scene: Scene
) -> Outcome:
    """f(cast(x: f16, f32)) = cast(f(x), f32) where f only moves or selects elements"""
    if op.outs != 1 or op.dtype is None or not op.dtype.is_float:
        return None
    found = _narrow(op, op.dtype, scene)
    if not isinstance(found, tuple):
        return found
    narrow, made = found
    return Cast(made, to=op.dtype) if made.dtype is narrow else None


@rule
def narrowed_early(op: Cast, scene: Scene) -> Outcome:
    """cast(move(x: f32), f16) = move(cast(x, f16))"""
    inner, to = op.operands[0], DType(op.to)
    if not isinstance(inner, Moving) or inner.outs != 1 or not inner.operands:
        return None
    x, *others = inner.operands
    if x is None or x.dtype is None or x.constant is not None:
        return None
    if not _is_alike(to, x.dtype) or not to.is_float:
        return None
    if not scene.single(inner) or any(v and v.dtype is x.dtype for v in others):
        return miss("more than one operand would be cast", inner)
    made = inner.with_operands([op.with_operands([x]), *others])
    return made if scene.says(made) else miss("this opset has it not", inner)


@rule
def compared_narrow(op: Comparing, scene: Scene) -> Outcome:
    """cast(x: t, u) < cast(y: t, u) = x < y where u holds every t"""
    first, second = op.operands
    if not isinstance(first, Cast) and not isinstance(second, Cast):
        return None
    found = _narrow(op, first.dtype if first is not None else None, scene)
    return found[1] if isinstance(found, tuple) else found


RULES: tuple[Rule, ...] = (
    cast_like,
    cast_nothing,
    cast_cast,
    widened_late,
    narrowed_early,
    compared_narrow,
)


@dataclass(frozen=True)
class Casts(RulePass):
    """Drop casts that change nothing; make lossless chains one.

    cast(cast(x: i32, i64), f32)         -->   cast(x, f32)
    cast(relu(cast(x: f16, f32)), f16)   -->   relu(x)
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
