"""Scales and shifts folded into the linear ops before them: every layout and group."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from equations import (
    N,
    const,
    fires,
    graph_of,
    ints,
    kinds,
    misses,
    param,
    random,
    rewritten,
)
from linear_ops import (
    ALONG,
    CONV,
    F64,
    HALF,
    IMAGE,
    LINEARS,
    MATRIX,
    OVERFLOW,
    PRODUCT,
    ROW,
    SCALAR,
    TOKENS,
    norm,
    per_channel,
    w,
)

from graphopt.driver import optimize
from graphopt.ir import Parameter, Value
from graphopt.ops import (
    Add,
    AveragePool,
    BatchNormalization,
    Clip,
    Constant,
    ConstantOfShape,
    Conv,
    Div,
    Erf,
    Flatten,
    Gemm,
    MatMul,
    Mul,
    Relu,
    Reshape,
    Sub,
)
from graphopt.passes import affine as f
from graphopt.passes.affine import FoldAffine
from graphopt.types import DType, TensorType
from graphopt.weights import Tensor


@pytest.mark.parametrize("name", LINEARS)
def test_batch_norm_after(name: str) -> None:
    linear = LINEARS[name]
    assert linear.shape is not None
    before = norm(linear, int(linear.shape[1]), epsilon=1e-3)
    done = rewritten(f.after_linear, before)
    added = ["Add"] if name == "product" else []
    assert kinds(done) == [linear.kind, *added]


@pytest.mark.parametrize("name", LINEARS)
@pytest.mark.parametrize("kind", [Mul, Add, Div, Sub])
@pytest.mark.parametrize("one", [False, True])
def test_arithmetic_after(name: str, kind: Any, one: bool) -> None:
    linear = LINEARS[name]
    number = const(1.7, F64) if one else per_channel(linear)
    before = kind(linear, number)
    if name == "product" and kind in (Add, Sub):
        if kind is Add:
            misses(f.after_linear, before)
        return
    assert kinds(rewritten(f.after_linear, before)) == [linear.kind]
    if kind in (Mul, Add):
        assert kinds(rewritten(f.after_linear, kind(number, linear))) == [linear.kind]


def test_spelled_batch_norm_is_taken_whole() -> None:
    """Sub, Div, Mul, Add: how some exporters write it."""
    value: Value = Sub(CONV, ALONG)
    value = Div(value, w(6, 1, 1, seed=3))
    value = Add(Mul(value, w(6, 1, 1, seed=4)), w(1, 6, 1, 1, seed=5))
    assert kinds(FoldAffine()(graph_of(value))) == ["Conv"]
    rewritten(f.after_linear, value)


def test_activations_before_convolutions_stay_whole() -> None:
    """Runtimes know GELU by its half; a hard swish is one op, and its sixth none."""
    x, hidden = param("x", 1, 4, 5, 5), random(6, 4, 1, 1)
    half, root = const(0.5), const(math.sqrt(2))
    gelu = Mul(Mul(x, Add(Erf(Div(x, root)), const(1.0))), half)
    misses(f.before_linear, Conv(gelu, hidden), "ends a GELU", opset=17)
    gate = Clip(Add(x, const(3.0)), const(0.0), const(6.0))
    swish = graph_of(Conv(Div(Mul(x, gate), const(6.0)), hidden))
    made = optimize(swish, check="off").graph
    assert kinds(made) == ["HardSwish", "Conv"]


def test_a_batch_norm_of_rows() -> None:
    """What linear layers with batch norms are, over sequences: LeViT."""
    for rows in (Flatten(TALL, axis=2), Reshape(TALL, ints(-1, 6))):
        done = rewritten(f.batch_norm_of_rows, norm(rows, 6, epsilon=1e-3))
        assert kinds(done) == ["MatMul", "Add", rows.kind]
    misses(f.batch_norm_of_rows, norm(Flatten(TALL), 18), "are not the outputs")
    misses(f.batch_norm_of_rows, norm(Reshape(TALL, ints(-1, 3)), 3), "are not the")
    read = Flatten(TALL, axis=2)
    misses(f.batch_norm_of_rows, Add(norm(read, 6), read), "read elsewhere")


def test_a_product_over_three_axes() -> None:
    product = MatMul(TOKENS, w(4, 6))
    assert kinds(rewritten(f.after_linear, Mul(product, ROW))) == ["MatMul"]
    misses(f.after_linear, Mul(product, w(3, 1, seed=9)), "no scale and shift along")
    channels = BatchNormalization(product, *[w(3, seed=i) for i in range(3)], w(3))
    misses(f.after_linear, channels, "no scale and shift along the outputs")


TALL = MatMul(TOKENS, w(4, 6))
BIASED_TALL = Add(TALL, w(6, seed=1))


@pytest.mark.parametrize("kind", [Mul, Div])
@pytest.mark.parametrize("number", [const(0.125, F64), const([2.0], F64), ROW])
def test_a_biased_product_is_scaled(kind: Any, number: Constant) -> None:
    done = rewritten(f.after_biased_product, kind(BIASED_TALL, number))
    assert kinds(done) == ["MatMul", "Add"]
    if kind is Mul:
        before = Mul(number, Add(w(6, seed=1), TALL))
        assert kinds(rewritten(f.after_biased_product, before)) == ["MatMul", "Add"]


SHARED = w(400, 400)
SHARED_TALL = MatMul(param("long", 2, 400, dtype=F64), SHARED)
BIASED_ONE = Add(MatMul(TOKENS, w(4, 1)), w(1, seed=1))
NOT_SCALED: list[tuple[Any, str]] = [
    ((Mul(BIASED_TALL, ROW), BIASED_TALL), "read elsewhere too"),
    ((Mul(BIASED_TALL, ROW), TALL), "read elsewhere too"),
    (Mul(BIASED_TALL, w(3, 1)), ""),
    (Mul(BIASED_TALL, param("c", 6, dtype=F64)), ""),
    (Mul(Add(TALL, w(3, 1)), ROW), ""),
    (Mul(Add(MatMul(TOKENS, param("w", 4, 6, dtype=F64)), ROW), ROW), ""),
    (Mul(Add(TOKENS, w(4)), w(4)), ""),
    (Mul(BIASED_ONE, ROW), "it broadcasts the outputs"),
    (Mul(BIASED_TALL, const(1e308, F64)), OVERFLOW),
    (
        (Mul(Add(SHARED_TALL, w(400)), w(400)), MatMul(SHARED, SHARED)),
        "others read the weight too",
    ),
]


@pytest.mark.parametrize(("before", "reason"), NOT_SCALED)
def test_a_biased_product_that_stays(before: Any, reason: str) -> None:
    misses(f.after_biased_product, before, reason)


def test_no_bias_comes_without_a_shift() -> None:
    (made,) = rewritten(f.after_linear, Mul(CONV, const(2.0, F64))).outputs
    assert made.op is not None
    assert len(made.op.operands) == 2


def test_sub_of_a_product_is_an_add() -> None:
    fires(
        f.after_linear,
        Mul(PRODUCT, const(2.0, F64)),
        MatMul(MATRIX, const(w(4, 6).tensor.array() * 2.0, F64)),
    )


@pytest.mark.parametrize("bias", [(), (1,), (6,), (1, 6), (1, 1)])
@pytest.mark.parametrize("turned", [0, 1])
def test_every_bias_of_gemm(bias: tuple[int, ...], turned: int) -> None:
    weight = w(6, 4) if turned else w(4, 6)
    linear = Gemm(MATRIX, weight, w(*bias, seed=1), alpha=0.5, beta=3.0, transB=turned)
    done = rewritten(f.after_linear, norm(linear, 6))
    (op,) = [o for o in done.ops if not isinstance(o, Constant)]
    assert (op.alpha, op.beta, op.transB) == (0.5, 1.0, turned)


AFTER: list[tuple[Any, str]] = [
    ((Mul(CONV, ALONG), CONV), "read elsewhere too"),
    (Mul(Conv(IMAGE, param("w", 6, 4, 2, 3, dtype=F64)), ALONG), ""),
    (Mul(Conv(IMAGE, w(6, 4, 2, 3), param("b", 6, dtype=F64)), ALONG), ""),
    (Mul(CONV, SCALAR), "no scale and shift along the outputs"),
    (Mul(CONV, w(4, 4, seed=9)), "no scale and shift along the outputs"),
    (Mul(CONV, w(4, seed=9)), "no scale and shift along the outputs"),
    (Mul(CONV, w(1, 1, 6, 1, 1, seed=9)), "no scale and shift along the outputs"),
    (Mul(CONV, w(2, 6, 1, 1, seed=9)), "no scale and shift along the outputs"),
    (Div(ALONG, CONV), "no scale and shift along the outputs"),
    (Sub(ALONG, CONV), "no scale and shift along the outputs"),
    (Div(CONV, const([[[0.0]]] + [[[1.0]]] * 5, F64)), "no scale and shift along"),
    (Mul(CONV, const(np.inf, F64)), "no scale and shift along the outputs"),
    (Add(CONV, const(np.nan, F64)), "no scale and shift along the outputs"),
    (Mul(Conv(IMAGE, w(1, 4, 2, 3)), ALONG), "it broadcasts the outputs"),
    (Mul(Gemm(MATRIX, w(4, 1)), ROW), "it broadcasts the outputs"),
    (norm(CONV, 6, training_mode=1, outs=3).op, "no scale and shift along"),
    (Mul(Relu(CONV), ALONG), ""),
    (Mul(MatMul(w(6, 4), param("k", 4, 6, dtype=F64)), ROW), ""),
    (Mul(MatMul(TOKENS, w(4)), w(3, seed=2)), "no scale and shift along the outputs"),
    (
        Mul(Gemm(param("two", 2, 4, dtype=F64), w(4, 6), w(2, 1, seed=1)), ROW),
        "the bias has rows of its own",
    ),
    (Mul(AveragePool(IMAGE, kernel_shape=(2, 2)), w(4, 1, 1)), ""),
]


@pytest.mark.parametrize(("before", "reason"), AFTER)
def test_guard_after(before: Any, reason: str) -> None:
    if hasattr(before, "results") and before.outs > 1:
        before = before.results[:1]
    misses(f.after_linear, before, reason)


def test_a_batch_norm_with_odd_numbers() -> None:
    ones = const(np.ones(6), F64)
    for variance in (-1.0, np.nan, np.inf):
        parts = [ones, ones, ones, const(np.full(6, variance), F64)]
        before = BatchNormalization(CONV, *parts)
        if np.isinf(variance):
            rewritten(f.after_linear, before)  # a scale of zero, which is finite
        else:
            misses(f.after_linear, before, "no scale and shift along the outputs")
    zero = BatchNormalization(
        CONV, ones, ones, ones, const(np.zeros(6), F64), epsilon=0.0
    )
    misses(f.after_linear, zero, "no scale and shift along the outputs")


def test_dead_channels_become_zero() -> None:
    gain = const([1, 0, 1, 0, 1, 1], F64)
    shift = w(6, seed=2)
    before = BatchNormalization(CONV, gain, shift, shift, const(np.ones(6), F64))
    assert kinds(rewritten(f.after_linear, before)) == ["Conv"]


def test_numbers_that_overflow_stay_apart() -> None:
    x = param("h", 2, 4, dtype=HALF)
    weight = const(np.full((4, 6), 100.0), HALF)
    misses(f.after_linear, Mul(MatMul(x, weight), const(1000.0, HALF)), OVERFLOW)
    bias = const(np.full(6, 6e4), HALF)
    misses(f.after_linear, Add(Gemm(x, weight, bias), const(6e4, HALF)), OVERFLOW)
    # the bias alone overflows
    weight = const(np.ones((4, 6)), HALF)
    misses(f.after_linear, Mul(Gemm(x, weight, bias), const(2.0, HALF)), OVERFLOW)


def test_element_types_must_agree() -> None:
    x32 = param("x32", 2, 4)
    before = Mul(MatMul(x32, random(4, 6)), random(6, seed=1))
    assert kinds(rewritten_loosely(before)) == ["MatMul"]
    ints = param("i", 2, 4, dtype=DType.I32)
    misses(
        f.after_linear,
        Mul(MatMul(ints, const(np.ones((4, 6)), DType.I32)), const(2, DType.I32)),
    )


def rewritten_loosely(before: Value) -> Any:
    return FoldAffine()(graph_of(before))


def test_a_weight_that_others_read_is_copied_only_if_small() -> None:
    shared = w(6, 4, 2, 3)
    first, second = Conv(IMAGE, shared), Conv(Relu(IMAGE), shared)
    done = rewritten(f.after_linear, (norm(first, 6), norm(second, 6, epsilon=0.1)))
    assert kinds(done) == ["Conv", "Relu", "Conv"] or kinds(done) == [
        "Relu",
        "Conv",
        "Conv",
    ]
    big = Constant(np.zeros((400, 400)))
    y = param("y", N, 400, dtype=F64)
    pair = (Mul(MatMul(y, big), const(2.0, F64)), MatMul(Relu(y), big))
    misses(f.after_linear, pair, "others read the weight too")


def test_each_rule_has_a_case() -> None:
    tested = {
        f.after_linear,
        f.after_biased_product,
        f.batch_norm_of_rows,
        f.before_linear,
        f.after_batch_norm,
        f.scale_scale,
    }
    assert set(f.RULES) == tested


@pytest.mark.parametrize("dtype", [DType.F16, DType.F32])
def test_weights_do_not_vanish(dtype: DType) -> None:
    """Products below the normal numbers of a type keep none of their digits."""
    tiny = float(np.finfo(dtype.numpy).tiny)
    x = param("small", 3, 4, dtype=dtype)
    product = MatMul(x, const(np.full((4, 5), 2 * tiny), dtype))
    misses(f.after_linear, Mul(product, const(2**-8, dtype)), "vanish")
    fires(
        f.after_linear,
        Mul(product, const(2.0, dtype)),
        MatMul(x, const(np.full((4, 5), 4 * tiny), dtype)),
    )


def test_weights_filled_with_one_number_stay_so() -> None:
    """A ConstantOfShape is scaled by its number, and grows no file."""

    def filled(number: float) -> Value:
        value = Tensor.of(np.array([number]))
        return ConstantOfShape(ints(64, 64), value=value)

    x = param("x", 3, 64, dtype=F64)
    product = MatMul(x, filled(2.0))
    fires(f.after_linear, Mul(product, const(3.0, F64)), MatMul(x, filled(6.0)))
    uneven = const(np.arange(1.0, 65), F64)
    misses(f.after_linear, Mul(product, uneven), "overflow")
    few = MatMul(x, ConstantOfShape(ints(64, 4), value=Tensor.of(np.array([2.0]))))
    by_column = const(np.arange(1.0, 5), F64)
    done = rewritten(f.after_linear, Mul(few, by_column))
    assert kinds(done) == ["MatMul"]  # what is small may be spelled out


def test_numbers_of_unknown_type_are_no_weights() -> None:
    unknown = Parameter(TensorType(None, (6,)), "unknown")
    misses(f.after_linear, Mul(PRODUCT, unknown), "no scale and shift")
    weight = Parameter(TensorType(None, (4, 6)), "weight")
    misses(f.after_linear, Mul(MatMul(MATRIX, weight), ROW))
