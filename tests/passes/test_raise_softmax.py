"""Softmax and its logarithm recognised in every spelling, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from equations import N, const, fires, graph_of, ints, misses, param, typed

from graphopt.ir import Value
from graphopt.ops import (
    Add,
    Cast,
    Div,
    Exp,
    Log,
    LogSoftmax,
    Mul,
    Reciprocal,
    ReduceLogSumExp,
    ReduceMax,
    ReduceMean,
    ReduceSum,
    Relu,
    Softmax,
    Sub,
)
from graphopt.passes import raise_softmax as r
from graphopt.passes.raise_softmax import RaiseSoftmax
from graphopt.types import DType, TensorType

X = param("x", N, 3, 4)


def total(x: Value, *axes: int, **attrs: Any) -> Value:
    return ReduceSum(x, ints(*(axes or (-1,))), **attrs)


def top(x: Value, *axes: int) -> Value:
    return ReduceMax(x, ints(*(axes or (-1,))))


@pytest.mark.parametrize("axis", [-1, 1, 2, -2])
def test_softmax(axis: int) -> None:
    last = axis - 3 if axis > 0 else axis
    after = Softmax(X, axis=last)
    for x in (X, Sub(X, top(X, axis))):
        power = Exp(x)
        sum_ = total(power, axis)
        for before in (
            Div(power, sum_),
            Mul(power, Reciprocal(sum_)),
            Mul(Reciprocal(sum_), power),
            Mul(power, Div(const(1.0), sum_)),
        ):
            fires(r.softmax, before, after)


def test_what_is_no_softmax() -> None:
    power = Exp(X)
    misses(r.softmax, Div(power, total(power, 1, 2)))
    misses(r.softmax, Div(power, total(Exp(Mul(X, const(2.0))))))
    misses(r.softmax, Div(power, ReduceMean(power, ints(-1))))
    misses(r.softmax, Mul(power, Div(const(2.0), total(power))))
    misses(r.softmax, Div(Relu(X), total(Relu(X))))
    misses(r.softmax, (Div(power, total(power)), power), "read elsewhere")
    square = param("square", 4, 4)
    power = Exp(square)
    misses(r.softmax, Div(power, total(power, -1, keepdims=0)))


def test_another_largest_element_is_kept() -> None:
    """Less the largest of another axis it is a softmax of just that."""
    x = Sub(X, top(X, 1))
    fires(r.softmax, Div(Exp(x), total(Exp(x))), Softmax(x, axis=-1))


def test_old_softmax() -> None:
    """Until opset 13 a softmax is of all dims from its axis on."""
    power = Exp(X)
    misses(r.softmax, Div(power, total(power, 1)), "has no Softmax", opset=12)
    fires(r.softmax, Div(power, total(power)), Softmax(X, axis=-1), opset=12)


def test_log_softmax() -> None:
    after = LogSoftmax(X, axis=-1)
    fires(r.log_of_softmax, Log(Softmax(X, axis=-1)), after)
    fires(r.exp_of_log_softmax, Exp(after), Softmax(X, axis=-1))
    low = Sub(X, top(X))
    for before in (
        Sub(X, ReduceLogSumExp(X, ints(-1))),
        Sub(X, Log(total(Exp(X)))),
        Sub(low, Log(total(Exp(low)))),
        Sub(low, ReduceLogSumExp(low, ints(2))),
        Sub(X, Add(Log(total(Exp(low))), top(X))),
    ):
        fires(r.log_softmax, before, after)


def test_what_is_no_log_softmax() -> None:
    softmax = Softmax(X, axis=-1)
    misses(r.log_of_softmax, (Log(softmax), softmax), "read elsewhere")
    misses(r.log_softmax, Sub(X, ReduceLogSumExp(X, ints(1, 2))))
    misses(r.log_softmax, Sub(X, Log(total(Exp(Sub(X, top(X)))))))
    misses(r.log_softmax, Sub(X, Log(total(X))))
    misses(r.log_softmax, Sub(X, Add(Log(total(Exp(X))), top(X))))
    low = Sub(X, top(X))
    misses(r.log_softmax, Sub(X, Add(Log(total(Exp(low))), top(X, 1))))
    double = Mul(X, const(2.0))
    misses(r.log_softmax, Sub(X, Add(Log(total(Exp(double))), top(X))))
    other = param("other", N, 3, 4)
    misses(r.log_softmax, Sub(other, ReduceLogSumExp(X, ints(-1))))


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
@pytest.mark.parametrize("kind", [Softmax, LogSoftmax])
def test_islands_of_single(dtype: DType, kind: Any) -> None:
    x = param("h", N, 4, dtype=dtype)
    wide = kind(Cast(x, to=DType.F32), axis=-1)
    done = RaiseSoftmax()(graph_of(Cast(wide, to=dtype)))
    assert done.outputs == (kind(x, axis=-1),)
    other = DType.F16 if dtype is DType.BF16 else DType.BF16
    misses(r.narrow_softmax, Cast(wide, to=other))
    misses(r.narrow_softmax, (Cast(wide, to=dtype), wide), "read elsewhere")
    misses(r.narrow_softmax, Cast(Exp(Cast(x, to=DType.F32)), to=dtype))
    if kind is Softmax:  # what is computed in double, or between doubles, stays
        exact = kind(Cast(x, to=DType.F64), axis=-1)
        misses(r.narrow_softmax, Cast(exact, to=dtype))
        misses(r.narrow_softmax, Cast(kind(param("f", N, 4), axis=-1), to=dtype))
    double = param("d", N, 4, dtype=DType.F64)
    inside = kind(Cast(double, to=DType.F32), axis=-1)
    misses(r.narrow_softmax, Cast(inside, to=DType.F64))


def test_another_axis_than_the_last() -> None:
    fires(r.log_of_softmax, Log(Softmax(X, axis=1)), LogSoftmax(X, axis=1))
    fires(r.exp_of_log_softmax, Exp(LogSoftmax(X, axis=1)), Softmax(X, axis=1))
    fires(r.log_softmax, Sub(X, ReduceLogSumExp(X, ints(1))), LogSoftmax(X, axis=-2))
    rest = Add(Log(total(Exp(Sub(X, top(X, 1))), 1)), top(X, 1))
    fires(r.log_softmax, Sub(X, rest), LogSoftmax(X, axis=-2))


def test_a_logarithm_that_is_read_elsewhere_stays() -> None:
    inner = LogSoftmax(X, axis=-1)
    misses(r.exp_of_log_softmax, (Exp(inner), inner))
    misses(r.log_of_softmax, Log(Exp(X)))
    misses(r.exp_of_log_softmax, Exp(Log(X)))


def test_all_of_a_vector_is_along_its_axis() -> None:
    for x, fires_ in ((param("v", N), True), (param("w", N, 3), False)):
        power = Exp(x)
        before = Div(power, ReduceSum(power))
        if fires_:
            fires(r.softmax, before, Softmax(x, axis=-1))
        else:
            misses(r.softmax, before)
    power = Exp(param("v", N))
    misses(r.softmax, Div(power, ReduceSum(power, noop_with_empty_axes=1)))
    misses(r.softmax, Div(power, ReduceSum(power, ints())))


def test_what_is_not_known_to_be_one_shape_stays() -> None:
    vague = param("vague", N, None)
    power = Exp(vague)
    misses(r.softmax, Div(power, total(power)))
    misses(r.log_softmax, Sub(vague, ReduceLogSumExp(vague, ints(-1))))
    any_rank = typed("any", TensorType(DType.F32))
    power = Exp(any_rank)
    misses(r.softmax, Div(power, total(power)))
    scalar = param("scalar")
    power = Exp(scalar)
    misses(r.softmax, Div(power, ReduceSum(power)))
