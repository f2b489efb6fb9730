"""Values of 0 and 1, and what one of them decides."""

from __future__ import annotations

import numpy as np
import pytest
from equations import N, const, ints, param, typed

from graphopt.ir import Value
from graphopt.ops import (
    Add,
    Bernoulli,
    Cast,
    Expand,
    Mul,
    Neg,
    ReduceSum,
    Slice,
    Split,
    Sub,
    Trilu,
    Unsqueeze,
)
from graphopt.passes.zero_one import DEEPEST, chosen_by, is_zero_one
from graphopt.types import DType, TensorType

FLAG = param("flag", N, 3, dtype=DType.BOOL)
SWITCH = Cast(FLAG, to=DType.F32)
MASK = const([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])


def deep(x: Value, count: int) -> Value:
    for _ in range(count):
        x = Unsqueeze(x, ints(0))
    return x


def recast(count: int) -> Value:
    x: Value = FLAG
    for i in range(count):
        x = Cast(x, to=(DType.F32, DType.I64)[i % 2])
    return x


@pytest.mark.parametrize(
    "value",
    [
        SWITCH,
        Cast(SWITCH, to=DType.I64),
        MASK,
        const([1, 0], DType.I32),
        Slice(Trilu(Expand(const(1.0), ints(4, 4)), upper=0), ints(1), ints(3)),
        deep(SWITCH, DEEPEST - 1),
        recast(DEEPEST),
    ],
)
def test_numbers_of_conditions(value: Value) -> None:
    assert is_zero_one(value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        FLAG,
        param("x", 3),
        const([0.0, 0.5, 1.0]),
        const([0.0, np.nan]),
        const([True, False], DType.BOOL),
        Cast(param("x", 3), to=DType.I64),
        Cast(typed("any", TensorType(None)), to=DType.F32),
        Add(SWITCH, SWITCH),
        deep(SWITCH, DEEPEST),
        recast(DEEPEST + 1),
    ],
)
def test_other_numbers(value: Value | None) -> None:
    assert not is_zero_one(value)


def test_what_a_constant_chooses() -> None:
    assert chosen_by(const([[0.0, -7.0, -7.0], [0.0, 0.0, -7.0]]), MASK) == (-7, 0)
    assert chosen_by(const([5.0]), MASK) == (5, 5)
    assert chosen_by(const([2.0, 3.0]), const([1.0, 0.0])) == (3, 2)
    assert chosen_by(const([[2.0, 3.0]]), const([[0.0, 1.0], [0.0, 1.0]])) == (2, 3)
    for other in (
        const([[0.0, -7.0, -8.0], [0.0, 0.0, -7.0]]),  # two numbers where it is 0
        const([[0.0, -7.0, -7.0], [0.0, 1.0, -7.0]]),  # two where it is 1
        const(np.zeros((4, 2))),
        param("x", 2, 3),
    ):
        assert chosen_by(other, MASK) is None
    for all_alike in (np.zeros(3), np.ones(3)):
        assert chosen_by(const([1.0, 2.0, 3.0]), const(all_alike)) is None


def test_what_is_computed_of_a_switch() -> None:
    rest = Sub(const(1.0), SWITCH)
    assert chosen_by(SWITCH, SWITCH) == (0, 1)
    assert chosen_by(rest, SWITCH) == (1, 0)
    assert chosen_by(Mul(rest, const([-5.0])), SWITCH) == (-5, 0)
    assert chosen_by(const(3.0), SWITCH) == (3, 3)
    for other in (
        None,
        FLAG,
        Mul(rest, const([1.0, 2.0, 3.0])),
        Mul(rest, param("x", 3)),
        Bernoulli(SWITCH),
        ReduceSum(SWITCH, ints(1)),
        Split(SWITCH, axis=1, outs=3, num_outputs=3).results[0],
    ):
        assert chosen_by(other, SWITCH) is None


def test_how_far_is_looked() -> None:
    value: Value = SWITCH
    for _ in range(DEEPEST - 1):
        value = Neg(value)
    assert chosen_by(value, SWITCH) == (0, -1)
    assert chosen_by(Neg(value), SWITCH) is None
