"""Algebra: identities of arithmetic, comparison and logic, one equation each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir import Op, Value
from graphopt.ops import (
    GRU,
    LSTM,
    RNN,
    Abs,
    Add,
    And,
    BitwiseAnd,
    BitwiseOr,
    BitwiseXor,
    Cast,
    Ceil,
    Clip,
    Constant,
    Div,
    Dropout,
    Equal,
    Expand,
    Floor,
    Identity,
    MatMul,
    Max,
    Mean,
    Min,
    Mul,
    Neg,
    Not,
    Or,
    Pow,
    Relu,
    Round,
    Sign,
    Sub,
    Sum,
    Where,
    Xor,
)
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule

from .match import (
    is_uniform,
    is_zero,
    same_type,
    static_shape,
    stretches_nothing,
    uniform,
)
from .raise_norms import normalized


@rule
def identity(op: Identity) -> Outcome:
    """identity(x) = x"""
    return op.operands[0]


@rule
def dropout(op: Dropout, scene: Scene) -> Outcome:
    """dropout(x, ratio, training=False) = x, with a mask of trues"""
    if any(scene.uses(mask) for mask in op.results[1:]):
        return miss("the mask is asked for")
    training = op.operand(2)
    if training is None or is_uniform(training, 0):
        return op.operands[0]
    return miss("it may train", training)


@rule
def zero_state(op: LSTM | GRU | RNN) -> Outcome:
    """lstm(x, w, r, b, lens, 0, 0) = lstm(x, w, r, b, lens)"""
    states = [i for i in (5, 6) if i < len(op.operands) and is_zero(op.operands[i])]
    if not states:
        return None
    kept = [None if i in states else v for i, v in enumerate(op.operands)]
    return op.with_operands(kept).results


@rule
def constants_right(
    op: Add | Mul | And | Or | Xor | Equal | BitwiseAnd | BitwiseOr | BitwiseXor,
) -> Outcome:
    """c + x = x + c"""
    left, right = op.operands
    if isinstance(left, Constant) and not isinstance(right, Constant):
        return op.copy(operands=(right, left))
    return None


@rule
def one_operand(op: Sum | Max | Min | Mean) -> Outcome:
    """sum(x) = x"""
    return op.operands[0] if len(op.operands) == 1 else None


@rule
def binary_sum(op: Sum) -> Outcome:
    """sum(x, y) = x + y"""
    return Add(*op.operands) if len(op.operands) == 2 else None


@rule
def add_minus_zero(op: Add) -> Outcome:
    """x + (-0.0) = x, and x + 0 = x for integers"""
    x, y = op.operands
    zero = 0.0 if x is not None and x.dtype and not x.dtype.is_float else -0.0
    if is_uniform(y, zero):
        return x if _keeps(op, x, y) else miss("it broadcasts", y)
    return None


@rule(exact=False)
def add_zero(op: Add) -> Outcome:
    """x + 0.0 = x, but for the sign of zero

    The bias of a product with a weight or of a norm stays: runtimes look for the pair.
    """
    x, y = op.operands
    if not is_uniform(y, 0.0):
        return None
    if _is_weighted(x) or _is_gained(x):
        return miss("it is the bias of a product or a norm", x)
    return x if _keeps(op, x, y) else miss("it broadcasts", y)


def _is_weighted(value: Value | None) -> bool:
    """A product with a weight, not one of two computed values."""
    return isinstance(value, MatMul) and any(
        operand is not None and operand.constant is not None
        for operand in value.operands
    )


def _is_gained(value: Value | None) -> bool:
    """A norm, spelled out, with its gain."""
    return isinstance(value, Mul) and any(map(_is_norm, value.operands))


def _is_norm(value: Value | None) -> bool:
    """A norm, spelled out, without its gain."""
    while isinstance(value, Cast):
        value = value.operands[0]
    return isinstance(value, Div | Mul) and normalized(value) is not None


@rule
def subtract_zero(op: Sub) -> Outcome:
    """x - 0 = x"""
    x, y = op.operands
    if is_uniform(y, 0.0):
        return x if _keeps(op, x, y) else miss("it broadcasts", y)
    return None


@rule
def times_one(op: Mul | Div | Pow) -> Outcome:
    """x * 1 = x / 1 = x ** 1 = x"""
    x, y = op.operands
    if not is_uniform(y, 1):
        return None
    if x is None or y is None or (_is_integer(x) and not _is_integer(y)):
        return miss("integers go through floating point", y)
    if _is_norm(x):
        return miss("it is the gain of a norm, which runtimes know by it", x)
    return x if _keeps(op, x, y) else miss("it broadcasts", y)


def _is_integer(value: Value) -> bool:
    return value.dtype is not None and value.dtype.is_integer


def _keeps(op: Op, x: Value | None, y: Value | None) -> bool:
    """The result has just the type of ``x``."""
    if x is None or y is None or op.dtype is None or op.dtype is not x.dtype:
        return False
    return same_type(op, x) or stretches_nothing(y, x)


@rule
def involution(op: Neg | Not) -> Outcome:
    """-(-x) = x, not(not(x)) = x"""
    inner = op.operands[0]
    return inner.operands[0] if isinstance(inner, type(op)) else None


@rule
def idempotent(op: Relu | Abs | Floor | Ceil | Round | Sign) -> Outcome:
    """f(f(x)) = f(x)"""
    inner = op.operands[0]
    return inner if isinstance(inner, type(op)) else None


@rule
def same_operands(op: And | Or | Max | Min) -> Outcome:
    """x and x = x, max(x, x) = x"""
    first = op.operands[0]
    if len(op.operands) == 2 and op.operands[1] is first:
        return first
    return None


@rule
def logic_constant(op: And | Or) -> Outcome:
    """x and true = x, x or false = x, x and false = false, x or true = true"""
    x, y = op.operands
    known = uniform(y)
    if known is None or x is None or y is None:
        return None
    neutral = isinstance(op, And)
    if bool(known) == neutral:
        return x if _keeps(op, x, y) else miss("it broadcasts", y)
    return y if same_type(op, y) else miss("it broadcasts", y)


@rule
def where_constant(op: Where) -> Outcome:
    """where(true, x, y) = x, where(false, x, y) = y, expanded"""
    condition, x, y = op.operands
    known = uniform(condition)
    if known is None:
        return None
    chosen = x if bool(known) else y
    if chosen is not None and same_type(op, chosen):
        return chosen
    shape = static_shape(op)
    if chosen is None or shape is None:
        return miss("it broadcasts", chosen)
    return Expand(chosen, Constant(np.array(shape, np.int64)))


@rule
def where_same(op: Where) -> Outcome:
    """where(c, x, x) = x"""
    _, x, y = op.operands
    if x is y and x is not None and same_type(op, x):
        return x
    return None


@rule
def where_not(op: Where) -> Outcome:
    """where(not c, x, y) = where(c, y, x)"""
    condition, x, y = op.operands
    if isinstance(condition, Not):
        return Where(condition.operands[0], y, x)
    return None


@rule
def clip_nothing(op: Clip) -> Outcome:
    """clip(x) = x"""
    if op.operand(1) is None and op.operand(2) is None:
        return op.operands[0]
    return None


@rule
def clip_clip(op: Clip, scene: Scene) -> Outcome:
    """clip(clip(x, a, b), c, d) = clip(x, max(a, c), min(b, d)) where both overlap"""
    inner = op.operands[0]
    if not isinstance(inner, Clip) or not scene.single(inner):
        return None
    first, second = _bounds(inner), _bounds(op)
    if first is None or second is None:
        return miss("a bound is no constant")
    if any(map(_zeros_of_two_signs, first, second)):
        return miss("the bounds are 0.0 and -0.0", inner)
    low = max((b for b in (first[0], second[0]) if b is not None), default=None)
    high = min((b for b in (first[1], second[1]) if b is not None), default=None)
    if low is not None and high is not None and low > high:
        return miss("the ranges do not overlap")
    return Clip(inner.operands[0], _scalar(low), _scalar(high))


@rule
def relu_clip(op: Clip, scene: Scene) -> Outcome:
    """clip(relu(x), a, b) = clip(x, max(a, 0), b)"""
    inner = op.operands[0]
    if not isinstance(inner, Relu) or not scene.single(inner):
        return None
    bounds = _bounds(op)
    if bounds is None or inner.dtype is None:
        return miss("a bound is no constant")
    low, high = bounds
    zero: Any = np.zeros((), inner.dtype.numpy)[()]
    if _zeros_of_two_signs(low, zero):
        return miss("the bound is -0.0", op)
    low = zero if low is None or low < 0 else low
    if high is not None and high < 0:
        return miss("the ranges do not overlap")
    return Clip(inner.operands[0], _scalar(low), _scalar(high))


def _zeros_of_two_signs(a: Any, b: Any) -> bool:
    return (
        a is not None
        and b is not None
        and a == b
        and bool(np.signbit(a) != np.signbit(b))
    )


def _bounds(op: Clip) -> tuple[Any, Any] | None:
    """Constant bounds of a clip (None: open); None where one is computed or NaN."""
    found = []
    for i in (1, 2):
        value = op.operand(i)
        number = uniform(value)
        if value is not None and (number is None or number != number):
            return None
        found.append(number)
    return found[0], found[1]


def _scalar(value: Any) -> Constant | None:
    return None if value is None else Constant(np.asarray(value))


RULES: tuple[Rule, ...] = (
    identity,
    dropout,
    zero_state,
    constants_right,
    one_operand,
    binary_sum,
    add_minus_zero,
    add_zero,
    subtract_zero,
    times_one,
    involution,
    idempotent,
    same_operands,
    logic_constant,
    where_constant,
    where_same,
    where_not,
    clip_nothing,
    clip_clip,
    relu_clip,
)


@dataclass(frozen=True)
class Algebra(RulePass):
    """Identities of arithmetic, comparison and logic.

    where(not(c), x * 1, y) + -0.0   -->   where(c, y, x)
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
