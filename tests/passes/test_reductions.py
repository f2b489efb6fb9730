"""Reductions: their dims, what they are made of, and how much of them is asked for."""

from __future__ import annotations

from typing import Any

import pytest
from equations import (
    M,
    N,
    const,
    fires,
    ints,
    kinds,
    misses,
    param,
    random,
    rewritten,
    typed,
)

from graphopt.ir import Value
from graphopt.ops import (
    Add,
    ArgMax,
    ArgMin,
    Flatten,
    LogSoftmax,
    Mul,
    ReduceMax,
    ReduceMean,
    ReduceMin,
    ReduceSum,
    Relu,
    Reshape,
    Softmax,
    Squeeze,
    Sub,
    TopK,
    Unsqueeze,
)
from graphopt.passes import reductions as r
from graphopt.passes.reductions import Reductions
from graphopt.types import DType, TensorType

F64 = DType.F64
X = param("x", N, 3, 4)
WIDE = param("w", N, 3, 4, dtype=F64)


@pytest.mark.parametrize("kind", [ReduceMean, ReduceSum, ReduceMax])
def test_dims_are_dropped_at_once(kind: Any) -> None:
    kept, dropped = (kind(X, ints(1, 2), keepdims=k) for k in (1, 0))
    fires(r.dims_of_reduction, Squeeze(kept, ints(1, 2)), dropped)
    fires(r.dims_of_reduction, Squeeze(kept, ints(-1, -2)), dropped)
    fires(r.dims_of_reduction, Reshape(kept, ints(-1)), dropped)
    fires(r.dims_of_reduction, Unsqueeze(dropped, ints(1, 2)), kept)
    last = kind(X, ints(2), keepdims=1)
    fires(r.dims_of_reduction, Flatten(last), kind(X, ints(2), keepdims=0))


def test_dims_of_positions() -> None:
    best = ArgMax(X, axis=1)
    fires(r.dims_of_reduction, Squeeze(best, ints(1)), ArgMax(X, axis=1, keepdims=0))


def test_other_dims() -> None:
    kept = ReduceSum(X, ints(1, 2), keepdims=1)
    misses(r.dims_of_reduction, Squeeze(kept, ints(1)), "other dims")
    misses(r.dims_of_reduction, (Squeeze(kept, ints(1, 2)), Relu(kept)), "elsewhere")
    misses(r.dims_of_reduction, Unsqueeze(kept, ints(0)), "other dims")
    dropped = ReduceSum(param("y", N, 3, 1), ints(1), keepdims=0)
    misses(r.dims_of_reduction, Squeeze(dropped, ints(1)), "other dims")
    two = ReduceSum(param("z", N, M, 5), ints(1), keepdims=0)
    misses(r.dims_of_reduction, Unsqueeze(two, ints(2)), "other dims")
    nothing = ReduceSum(X, ints(), noop_with_empty_axes=1)
    misses(r.dims_of_reduction, Reshape(nothing, ints(0, 0, 0)), "other dims")
    target = typed("target", TensorType(DType.I64))
    misses(r.dims_of_reduction, Reshape(kept, target))
    misses(r.dims_of_reduction, Reshape(Relu(X), ints(-1)))


@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_sum_of_products(keepdims: int) -> None:
    weights = random(4, dtype=F64)
    flat = Mul(param("flat", N, 4, dtype=F64), weights)
    for product in (Mul(WIDE, weights), Mul(WIDE, random(1, 4, dtype=F64)), flat):
        done = rewritten(
            r.sum_of_products, ReduceSum(product, ints(-1), keepdims=keepdims)
        )
        assert "MatMul" in kinds(done)
        assert "ReduceSum" not in kinds(done)


def test_sums_that_are_no_product() -> None:
    weights = random(4, dtype=F64)

    def total(product: Value, *axes: int) -> Value:
        return ReduceSum(product, ints(*axes))

    misses(r.sum_of_products, total(Mul(WIDE, weights), 1))
    misses(r.sum_of_products, total(Mul(WIDE, weights), 1, 2))
    misses(r.sum_of_products, total(Mul(WIDE, const(2.0, F64)), 2), "no vector")
    misses(r.sum_of_products, total(Mul(WIDE, const([2.0], F64)), 2), "no vector")
    misses(r.sum_of_products, total(Mul(WIDE, random(3, 4, dtype=F64)), 2), "no vector")
    misses(r.sum_of_products, total(Mul(WIDE, random(2, 1, 3, 4, dtype=F64)), 3))
    misses(r.sum_of_products, total(Mul(WIDE, WIDE), 2))
    product = Mul(WIDE, weights)
    misses(r.sum_of_products, (total(product, 2), Relu(product)))
    whole = Mul(param("i", N, 4, dtype=DType.I32), const([1, 2, 3, 4], DType.I32))
    misses(r.sum_of_products, total(whole, 1))
    misses(r.sum_of_products, total(Add(WIDE, weights), 2))
    thin = Mul(param("thin", N, 3, 1, dtype=F64), weights)
    misses(r.sum_of_products, total(thin, 2), "stretch")
    more = Mul(param("flat", N, 4, dtype=F64), random(1, 1, 4, dtype=F64))
    misses(r.sum_of_products, total(more, 2))
    line = Mul(param("line", 4, dtype=F64), weights)
    misses(r.sum_of_products, total(line, 0), "stretch")
    any_rank = Mul(typed("any", TensorType(F64)), weights)
    misses(r.sum_of_products, total(any_rank, -1))


@pytest.mark.parametrize("kind", [Softmax, LogSoftmax])
@pytest.mark.parametrize("position", [ArgMax, ArgMin])
def test_positions_of_a_softmax(kind: Any, position: Any) -> None:
    soft = kind(WIDE, axis=1)
    fires(r.position_of_softmax, position(soft, axis=-2), position(WIDE, axis=-2))
    misses(r.position_of_softmax, position(soft, axis=2), "two axes")
    misses(r.position_of_softmax, (position(soft, axis=1), soft), "elsewhere")
    any_rank = kind(typed("any", TensorType(F64)), axis=1)
    misses(r.position_of_softmax, position(any_rank, axis=1))


@pytest.mark.parametrize("kind", [Softmax, LogSoftmax])
def test_a_shift_along_the_axis(kind: Any) -> None:
    one, column = const(3.5, F64), random(3, 1, dtype=F64)
    for shift in (one, column, const([2.0], F64)):
        fires(r.softmax_of_shifted, kind(Add(WIDE, shift)), kind(WIDE))
        fires(r.softmax_of_shifted, kind(Sub(WIDE, shift)), kind(WIDE))
    misses(r.softmax_of_shifted, kind(Add(WIDE, random(4, dtype=F64))), "varies")
    misses(r.softmax_of_shifted, kind(Add(WIDE, column), axis=1), "varies")
    misses(r.softmax_of_shifted, kind(Add(WIDE, const(-float("inf"), F64))), "finite")
    misses(r.softmax_of_shifted, kind(Add(WIDE, param("s", dtype=F64))))
    misses(r.softmax_of_shifted, kind(Sub(one, WIDE)))
    any_rank = typed("any", TensorType(F64))
    misses(r.softmax_of_shifted, kind(Add(any_rank, one)))
    narrow = param("n", 1, 4, dtype=F64)
    misses(r.softmax_of_shifted, kind(Add(narrow, column)), "stretches")
    rounded = "x is rounded beside it"
    misses(r.softmax_of_shifted, kind(Add(WIDE, const(1e30, F64))), rounded)
    for dtype, most in ((DType.F32, 8192.0), (DType.F16, 1.0), (DType.BF16, 0.125)):
        x = param("x", N, 3, 4, dtype=dtype)
        fires(r.softmax_of_shifted, kind(Sub(x, const(most, dtype))), kind(x))
        above = Add(x, const([[0.0], [most], [-2 * most]], dtype))
        misses(r.softmax_of_shifted, kind(above), rounded)
    shifted = Add(WIDE, one)
    misses(r.softmax_of_shifted, (kind(shifted), Relu(shifted)))


@pytest.mark.parametrize("largest", [0, 1])
def test_the_largest_alone(largest: int) -> None:
    values, indices = TopK(WIDE, ints(1), axis=1, largest=largest).results
    most, where = (ReduceMax, ArgMax) if largest else (ReduceMin, ArgMin)
    fires(r.largest_of_all, values, most(WIDE, ints(1), keepdims=1))
    fires(r.largest_of_all, indices, where(WIDE, axis=1, keepdims=1))
    misses(r.largest_of_all, (values, indices), "both")
    two = TopK(WIDE, ints(2), axis=1).results
    misses(r.largest_of_all, two[0])
    asked = TopK(WIDE, param("k", 1, dtype=DType.I64), axis=1).results
    misses(r.largest_of_all, asked[0])
    small = TopK(param("i", N, 4, dtype=DType.I8), ints(1), axis=1, largest=largest)
    misses(r.largest_of_all, small.results[0], "for other types", opset=11)
    any_rank = TopK(typed("any", TensorType(F64)), ints(1), axis=1, largest=largest)
    misses(r.largest_of_all, any_rank.results[0])
    none = TopK(param("none", N, 0), ints(1), axis=1, largest=largest)
    misses(r.largest_of_all, none.results[0])


def test_of_equals_the_first_is_taken() -> None:
    whole = param("i", N, 9, dtype=DType.I32)
    few = Mul(whole, const(1 << 30, DType.I32))  # four numbers, so that many are equal
    _, indices = TopK(few, ints(1), axis=1).results
    rewritten(r.largest_of_all, indices)


def test_the_pass() -> None:
    assert Reductions().name == "reductions"
    assert tuple(Reductions().rules()) == r.RULES
