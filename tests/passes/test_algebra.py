"""Each identity alone: where it holds, and every guard where it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from equations import N, const, fires, ints, misses, param, random, typed

from graphopt.ir import Value
from graphopt.ops import (
    LSTM,
    Abs,
    Add,
    And,
    BitwiseAnd,
    BitwiseOr,
    BitwiseXor,
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
from graphopt.passes import algebra as a
from graphopt.types import DType, TensorType
from graphopt.weights import Tensor

X, Y = param("x", 2, 3), param("y", 2, 3)
DYNAMIC = param("d", N, 4)
SCALAR = param("s")
EMPTY = param("e", 0, 3)
LONG = param("long", 2, 3, dtype=DType.I64)
SMALL = param("small", 3, dtype=DType.I8)
UNSIGNED = param("unsigned", 3, dtype=DType.U8)
P, Q = param("p", 2, 3, dtype=DType.BOOL), param("q", 2, 3, dtype=DType.BOOL)
ROW = param("row", 3, dtype=DType.BOOL)
HALF, BRAIN = param("h", 3, dtype=DType.F16), param("b", 3, dtype=DType.BF16)
DOUBLE = param("w", 3, dtype=DType.F64)
TEXT = param("text", 3, dtype=DType.STRING)
UNTYPED = typed("untyped", TensorType(None, (3,)))

STEPS = param("steps", 3, 2, 4)
CELL = random(1, 8, 4), random(1, 8, 2, seed=1)
STATES = const(np.zeros((1, 2, 2))), random(1, 2, 2, seed=2)

ZERO, MINUS_ZERO, ONE = const(0.0), const(-0.0), const(1.0)
TRUE, FALSE = const(True, DType.BOOL), const(False, DType.BOOL)


def long(number: int) -> Value:
    return const(number, DType.I64)


EQUATIONS: list[tuple[Any, Value, Value | None]] = [
    (a.identity, Identity(X), X),
    (a.identity, Identity(TEXT), TEXT),
    (a.dropout, Dropout(X), X),
    (a.dropout, Dropout(X, const(0.7), FALSE), X),
    (
        a.zero_state,
        LSTM(STEPS, *CELL, None, None, STATES[0], STATES[0], hidden_size=2, outs=1),
        LSTM(STEPS, *CELL, hidden_size=2, outs=1),
    ),
    (
        a.zero_state,  # one of the two
        LSTM(STEPS, *CELL, None, None, STATES[1], STATES[0], hidden_size=2, outs=1),
        LSTM(STEPS, *CELL, None, None, STATES[1], hidden_size=2, outs=1),
    ),
    (a.constants_right, Add(ONE, X), Add(X, ONE)),
    (a.constants_right, Mul(const([1, 2, 3]), X), Mul(X, const([1, 2, 3]))),
    (a.constants_right, And(TRUE, P), And(P, TRUE)),
    (a.constants_right, Or(TRUE, P), Or(P, TRUE)),
    (a.constants_right, Xor(TRUE, P), Xor(P, TRUE)),
    (a.constants_right, Equal(ONE, X), Equal(X, ONE)),
    (a.constants_right, BitwiseAnd(long(3), LONG), BitwiseAnd(LONG, long(3))),
    (a.constants_right, BitwiseOr(long(3), LONG), BitwiseOr(LONG, long(3))),
    (a.constants_right, BitwiseXor(long(3), LONG), BitwiseXor(LONG, long(3))),
    *[(a.one_operand, kind(X), X) for kind in (Sum, Max, Min, Mean)],
    (a.binary_sum, Sum(X, Y), Add(X, Y)),
    (a.add_minus_zero, Add(X, MINUS_ZERO), X),
    (a.add_minus_zero, Add(X, const([[-0.0]])), X),
    (a.add_minus_zero, Add(DYNAMIC, const([-0.0] * 4)), DYNAMIC),
    (a.add_minus_zero, Add(SCALAR, MINUS_ZERO), SCALAR),
    (a.add_minus_zero, Add(EMPTY, MINUS_ZERO), EMPTY),
    (a.add_minus_zero, Add(LONG, long(0)), LONG),
    (a.add_minus_zero, Add(HALF, const(-0.0, DType.F16)), HALF),
    (a.add_minus_zero, Add(BRAIN, const(-0.0, DType.BF16)), BRAIN),
    (a.add_zero, Add(DOUBLE, const(0.0, DType.F64)), DOUBLE),
    (a.add_zero, Add(X, const([0.0, 0.0, 0.0])), X),
    (a.subtract_zero, Sub(X, ZERO), X),
    (a.subtract_zero, Sub(LONG, long(0)), LONG),
    (a.times_one, Mul(X, ONE), X),
    (a.times_one, Div(X, ONE), X),
    (a.times_one, Pow(X, ONE), X),
    (a.times_one, Mul(LONG, long(1)), LONG),
    (a.times_one, Div(LONG, long(1)), LONG),
    (a.times_one, Pow(X, long(1)), X),
    (a.times_one, Pow(LONG, long(1)), LONG),
    (a.times_one, Mul(DYNAMIC, const([1.0] * 4)), DYNAMIC),
    (a.involution, Neg(Neg(X)), X),
    (a.involution, Neg(Neg(SMALL)), SMALL),
    (a.involution, Not(Not(P)), P),
    *[(a.idempotent, k(k(X)), k(X)) for k in (Relu, Abs, Floor, Ceil, Round, Sign)],
    (a.same_operands, And(P, P), P),
    (a.same_operands, Or(P, P), P),
    (a.same_operands, Max(X, X), X),
    (a.same_operands, Min(LONG, LONG), LONG),
    (a.logic_constant, And(P, TRUE), P),
    (a.logic_constant, Or(P, FALSE), P),
    (a.logic_constant, And(P, const([[False] * 3] * 2, DType.BOOL)), None),
    (a.logic_constant, Or(P, const([[True] * 3] * 2, DType.BOOL)), None),
    (a.where_constant, Where(TRUE, X, Y), X),
    (a.where_constant, Where(FALSE, X, Y), Y),
    (a.where_constant, Where(TRUE, X, SCALAR), X),
    (a.where_constant, Where(FALSE, X, SCALAR), Expand(SCALAR, ints(2, 3))),
    (a.where_same, Where(P, X, X), X),
    (a.where_same, Where(ROW, X, X), X),
    (a.where_not, Where(Not(P), X, Y), Where(P, Y, X)),
    (a.clip_nothing, Clip(X), X),
    (a.clip_clip, Clip(Clip(X, ZERO), None, const(6.0)), Clip(X, ZERO, const(6.0))),
    (
        a.clip_clip,
        Clip(Clip(X, const(-1.0), const(3.0)), const(0.5), const(2.0)),
        Clip(X, const(0.5), const(2.0)),
    ),
    (
        a.clip_clip,
        Clip(Clip(X, const(0.5), const(2.0)), const(-1.0), const(3.0)),
        Clip(X, const(0.5), const(2.0)),
    ),
    (
        a.clip_clip,
        Clip(Clip(SMALL, const(-5, DType.I8)), None, const(5, DType.I8)),
        Clip(SMALL, const(-5, DType.I8), const(5, DType.I8)),
    ),
    (a.relu_clip, Clip(Relu(X), None, const(6.0)), Clip(X, ZERO, const(6.0))),
    (a.relu_clip, Clip(Relu(X), const(-1.0), ONE), Clip(X, ZERO, ONE)),
    (
        a.clip_clip,
        Clip(Clip(X, ZERO, ONE), ONE, const(2.0)),
        Clip(X, ONE, ONE),
    ),
    (a.relu_clip, Clip(Relu(X), const(0.5)), Clip(X, const(0.5))),
    (a.relu_clip, Clip(Relu(X), None, ZERO), Clip(X, ZERO, ZERO)),
    (
        a.relu_clip,
        Clip(Relu(BRAIN), None, const(6, DType.BF16)),
        Clip(BRAIN, const(0, DType.BF16), const(6, DType.BF16)),
    ),
]


@pytest.mark.parametrize(("rule", "before", "after"), EQUATIONS)
def test_equation(rule: Any, before: Any, after: Value | None) -> None:
    fires(rule, before, before.operands[1] if after is None else after)


STRETCH = "it broadcasts"
GUARDS: list[tuple[Any, Any, str]] = [
    (a.dropout, Dropout(X, const(0.5), TRUE, token=1), "it may train"),
    (
        a.dropout,
        Dropout(X, const(0.5), param("t", dtype=DType.BOOL), token=1),
        "it may train",
    ),
    (a.dropout, Dropout(X, outs=2).results, "the mask is asked for"),
    (
        a.zero_state,
        LSTM(STEPS, *CELL, None, None, STATES[1], STATES[1], hidden_size=2).results,
        "",
    ),
    (
        a.zero_state,  # a bias of zeros is no state
        LSTM(STEPS, *CELL, const(np.zeros((1, 16))), hidden_size=2).results,
        "",
    ),
    (a.constants_right, Add(X, ONE), ""),
    (a.constants_right, Sub(ONE, X), ""),
    (a.constants_right, Add(ONE, ZERO), ""),
    (a.one_operand, Sum(X, Y), ""),
    (a.binary_sum, Sum(X, Y, X), ""),
    # 0.0 is not neutral: -0.0 + 0.0 is 0.0
    (a.add_minus_zero, Add(X, ZERO), ""),
    (a.add_minus_zero, Add(X, const([0.0, -0.0, -0.0])), ""),
    (a.add_minus_zero, Add(X, const([[[-0.0]]])), STRETCH),
    (a.add_minus_zero, Add(SCALAR, const([-0.0, -0.0])), STRETCH),
    (a.add_minus_zero, Add(DYNAMIC, const([[-0.0] * 4] * 3)), STRETCH),
    (a.add_minus_zero, Add(param("u", None, 4), const([[-0.0] * 4] * 3)), STRETCH),
    (a.add_zero, Add(X, const([[[0.0]]])), STRETCH),
    (a.add_zero, Add(DYNAMIC, const(np.zeros((3, 4)))), STRETCH),
    (a.add_zero, Add(X, const([0.0, 0.0, 1e-45])), ""),
    (a.add_zero, Add(X, MINUS_ZERO), ""),  # left to the exact rule
    (a.subtract_zero, Sub(X, MINUS_ZERO), ""),
    (a.subtract_zero, Sub(X, const([0.0, -0.0, 0.0])), ""),
    (a.subtract_zero, Sub(ZERO, X), ""),
    (a.subtract_zero, Sub(X, const(np.zeros((1, 2, 3)))), STRETCH),
    (a.times_one, Mul(DYNAMIC, const(np.ones((3, 4)))), STRETCH),
    (a.times_one, Mul(DYNAMIC, const(np.ones((3, 1)))), STRETCH),
    (a.times_one, Mul(X, const(np.ones((1, 1, 1)))), STRETCH),
    (a.times_one, Div(SCALAR, const([1.0])), STRETCH),
    (a.times_one, Pow(SCALAR, const([1.0, 1.0])), STRETCH),
    (a.times_one, Mul(X, const([1.0, 1.0, 1 + 2**-23])), ""),
    (a.times_one, Div(ONE, X), ""),
    (a.times_one, Pow(ONE, X), ""),
    (a.times_one, Pow(LONG, ONE), "through floating point"),
    (a.times_one, Mul(UNTYPED, ONE), STRETCH),
    (a.times_one, Mul(X, const(np.nan)), ""),
    (a.involution, Neg(Abs(X)), ""),
    (a.idempotent, Relu(Abs(X)), ""),
    (a.idempotent, Neg(Neg(X)), ""),
    (a.same_operands, Max(X, Y), ""),
    (a.same_operands, Max(X, X, Y), ""),
    (a.same_operands, Xor(P, P), ""),
    (a.logic_constant, And(P, Q), ""),
    (a.logic_constant, And(P, FALSE), STRETCH),
    (a.logic_constant, Or(P, TRUE), STRETCH),
    (a.logic_constant, And(ROW, const([[True] * 3] * 2, DType.BOOL)), STRETCH),
    (a.logic_constant, Or(P, const([True, False, True], DType.BOOL)), ""),
    (a.where_constant, Where(P, X, Y), ""),
    (a.where_constant, Where(const([True, False, True], DType.BOOL), X, Y), ""),
    (a.where_constant, Where(TRUE, SCALAR, DYNAMIC), STRETCH),
    (a.where_same, Where(P, SCALAR, SCALAR), ""),
    (a.where_same, Where(P, X, Y), ""),
    (a.where_not, Where(P, X, Y), ""),
    (a.clip_nothing, Clip(X, ZERO), ""),
    (a.clip_nothing, Clip(X, None, ONE), ""),
    (
        a.clip_clip,
        Clip(Clip(X, const(2.0), const(3.0)), const(0.0), const(1.0)),
        "the ranges do not overlap",
    ),
    (
        a.clip_clip,
        Clip(Clip(X, const(3.0), const(2.0)), const(0.0), const(9.0)),
        "the ranges do not overlap",
    ),
    (a.clip_clip, Clip(Clip(X, SCALAR), None, ONE), "a bound is no constant"),
    (a.clip_clip, Clip(Clip(X, ZERO), const(-0.0)), "the bounds are 0.0 and -0.0"),
    (a.clip_clip, Clip(Clip(X, const(np.nan)), None, ONE), "a bound is no constant"),
    (a.clip_clip, (Clip(Clip(X, ZERO), None, ONE), Clip(X, ZERO)), ""),
    (a.relu_clip, Clip(Relu(X), None, const(-1.0)), "the ranges do not overlap"),
    (a.relu_clip, Clip(Relu(X), None, SCALAR), "a bound is no constant"),
    (a.relu_clip, Clip(Relu(X), MINUS_ZERO, ONE), "the bound is -0.0"),
    (a.relu_clip, (Clip(Relu(X), None, ONE), Relu(X)), ""),
    (a.relu_clip, Clip(Abs(X), None, ONE), ""),
]


@pytest.mark.parametrize(("rule", "before", "reason"), GUARDS)
def test_guard(rule: Any, before: Any, reason: str) -> None:
    misses(rule, before, reason)


def test_large_constants_are_not_read() -> None:
    class Unreadable(Tensor):
        __slots__ = ()

        def array(self) -> Any:
            raise AssertionError("read for nothing")

    big = Constant(Unreadable(DType.F32, (300, 300), b"\0" * 4 * 300 * 300))
    misses(a.times_one, Mul(param("big", 300, 300), big))


def test_a_bias_of_zeros_stays_but_a_mask_of_zeros_goes() -> None:
    zeros = const(np.zeros((1, 4)))
    weighted = MatMul(X, random(3, 4))
    misses(a.add_zero, Add(weighted, zeros), "it is the bias of a product")
    scores = MatMul(X, param("k", 3, 4))
    fires(a.add_zero, Add(scores, zeros), scores)


def test_unsigned_numbers_have_one_zero() -> None:
    fires(a.add_minus_zero, Add(UNSIGNED, const(0, DType.U8)), UNSIGNED)


def test_each_rule_has_both_kinds_of_case() -> None:
    for rule in a.RULES:
        assert any(case[0] is rule for case in EQUATIONS), rule.name
    unguarded = {"identity"}
    guarded = {case[0].name for case in GUARDS}
    assert {r.name for r in a.RULES} - guarded == unguarded
