"""Scales and shifts folded into linear ops: every layout, group and border."""

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
    ConvTranspose,
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

F64, HALF = DType.F64, DType.F16
OVERFLOW = "would overflow"
IMAGE = param("x", N, 4, 5, 6, dtype=F64)
MATRIX = param("m", N, 4, dtype=F64)
TOKENS = param("t", N, 3, 4, dtype=F64)
SCALAR = param("s", dtype=F64)
POSITIVE = const([0.5, 1.5, 2.0, 0.1, 1.0, 3.0], F64)


def w(*shape: int, seed: int = 0) -> Constant:
    return random(*shape, dtype=F64, seed=seed)


def norm(x: Value, channels: int, **attrs: Any) -> Value:
    parts = [w(channels, seed=i) for i in range(1, 4)]
    variance = const(np.linspace(0.3, 2, channels), F64)
    return BatchNormalization(x, *parts, variance, **attrs)


CONV = Conv(IMAGE, w(6, 4, 2, 3))
BIASED = Conv(IMAGE, w(6, 4, 2, 3), w(6, seed=1), pads=(1, 0, 0, 1))
GROUPED = Conv(IMAGE, w(6, 2, 2, 3), w(6, seed=1), group=2)
DEPTHWISE = Conv(IMAGE, w(8, 1, 2, 2), group=4)
TURNED = ConvTranspose(IMAGE, w(4, 6, 2, 3), w(6, seed=1), strides=(2, 1))
GROUPS_TURNED = ConvTranspose(IMAGE, w(4, 3, 2, 3), group=2)
LINES = Conv(param("l", 2, 4, 7, dtype=F64), w(6, 4, 3))
GEMM = Gemm(MATRIX, w(4, 6), w(6, seed=1), alpha=0.5, beta=3.0)
GEMM_TURNED = Gemm(MATRIX, w(6, 4), transB=1)
PRODUCT = MatMul(MATRIX, w(4, 6))
ALONG = w(6, 1, 1, seed=9)
ROW = w(6, seed=9)

LINEARS = {
    "conv": CONV,
    "biased": BIASED,
    "grouped": GROUPED,
    "depthwise": DEPTHWISE,
    "turned": TURNED,
    "groups turned": GROUPS_TURNED,
    "lines": LINES,
    "gemm": GEMM,
    "gemm turned": GEMM_TURNED,
    "product": PRODUCT,
}


def per_channel(x: Value, seed: int = 9) -> Constant:
    """A constant along the channels of x, of the same rank or less."""
    assert x.shape is not None
    channels, rank = x.shape[1], len(x.shape)
    assert isinstance(channels, int)
    return w(channels, *[1] * (rank - 2), seed=seed)


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


# --- before -------------------------------------------------------------------------


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_before_a_convolution(shifted: bool, bias: bool) -> None:
    scaled = Mul(IMAGE, w(4, 1, 1, seed=9))
    inner = Add(scaled, w(4, 1, 1, seed=8)) if shifted else scaled
    extra = [w(6, seed=1)] if bias else []
    for weight, group in ((w(6, 4, 2, 3), 1), (w(6, 2, 2, 3), 2), (w(8, 1, 2, 2), 4)):
        extra = [w(weight.tensor.shape[0], seed=1)] if bias else []
        done = rewritten(f.before_linear, Conv(inner, weight, *extra, group=group))
        assert kinds(done) == ["Conv"]


def test_a_batch_norm_before() -> None:
    inner = norm(IMAGE, 4)
    assert kinds(rewritten(f.before_linear, Conv(inner, w(6, 4, 2, 3)))) == ["Conv"]
    inner = norm(MATRIX, 4)
    for linear in (
        Gemm(inner, w(4, 6), w(6, seed=1), beta=2.0),
        Gemm(inner, w(6, 4), transB=1),
        Gemm(inner, w(4, 6), w(1, 6, seed=1)),
        Gemm(inner, w(4, 6), w(seed=1)),
    ):
        assert kinds(rewritten(f.before_linear, linear)) == ["Gemm"]
    zero = const(np.zeros(4), F64)
    plain = BatchNormalization(MATRIX, w(4), zero, zero, const(np.ones(4), F64))
    assert kinds(rewritten(f.before_linear, MatMul(plain, w(4, 6)))) == ["MatMul"]


def test_the_bias_of_gemm_stays_where_nothing_is_shifted() -> None:
    zero = const(np.zeros(4), F64)
    plain = BatchNormalization(MATRIX, w(4), zero, zero, const(np.ones(4), F64))
    rows = param("rows", N, 1, dtype=F64)
    misses(f.before_linear, Gemm(plain, w(4, 6), rows))
    constant_rows = Gemm(
        BatchNormalization(
            param("two", 2, 4, dtype=F64), w(4), zero, zero, const(np.ones(4), F64)
        ),
        w(4, 6),
        w(2, 1, seed=3),
        beta=2.0,
    )
    (op,) = [
        o
        for o in rewritten(f.before_linear, constant_rows).ops
        if not isinstance(o, Constant)
    ]
    assert op.operands[2] is w(2, 1, seed=3)
    assert op.beta == 2.0


SHIFTED = Add(IMAGE, w(4, 1, 1, seed=9))
SCALED = Mul(IMAGE, w(4, 1, 1, seed=9))
GRAY = param("gray", N, 1, 5, 6, dtype=F64)
BEFORE: list[tuple[Any, str]] = [
    (Conv(SHIFTED, w(6, 4, 2, 3), pads=(0, 1, 0, 0)), "border is padded with zeros"),
    (Conv(SHIFTED, w(6, 4, 2, 3), auto_pad="SAME_UPPER"), "border is padded"),
    (MatMul(norm(MATRIX, 4), w(4, 6)), "border is padded with zeros"),
    ((Conv(SCALED, w(6, 4, 2, 3)), SCALED), ""),
    (Conv(Mul(IMAGE, w(5, 1, seed=9)), w(6, 4, 2, 3)), "no scale and shift along"),
    # one channel becomes four: the weight is for four
    (Conv(Mul(GRAY, w(4, 1, 1)), w(6, 4, 2, 3)), "it broadcasts the inputs"),
    (Gemm(norm(MATRIX, 4), w(4, 6), alpha=0.5), "transposed or scaled"),
    (
        Gemm(norm(param("k", 4, 4, dtype=F64), 4), w(4, 6), transA=1),
        "transposed or scaled",
    ),
    (Gemm(Mul(MATRIX, w(4)), w(4, 6)), "may end a norm or an activation"),
    (MatMul(Mul(MATRIX, w(4)), w(4, 6)), "may end a norm or an activation"),
    (Conv(SCALED, param("w", 6, 4, 2, 3, dtype=F64)), ""),
    (Conv(Mul(IMAGE, SCALAR), w(6, 4, 2, 3)), "no scale and shift along the inputs"),
    (Conv(Relu(IMAGE), w(6, 4, 2, 3)), ""),
    (Conv(Mul(IMAGE, const(np.inf, F64)), w(6, 4, 2, 3)), "no scale and shift along"),
]


@pytest.mark.parametrize(("before", "reason"), BEFORE)
def test_guard_before(before: Any, reason: str) -> None:
    misses(f.before_linear, before, reason)


def test_a_scale_crosses_a_padded_border() -> None:
    for attrs in ({"pads": (1, 2, 0, 1)}, {"auto_pad": "SAME_LOWER"}):
        before = Conv(SCALED, w(6, 4, 2, 3), **attrs)
        assert kinds(rewritten(f.before_linear, before)) == ["Conv"]


# --- constants ----------------------------------------------------------------------


def test_scale_scale() -> None:
    two, three = const(2.0, F64), const(3.0, F64)
    fires(f.scale_scale, Mul(Mul(MATRIX, two), three), Mul(MATRIX, const(6.0, F64)))
    fires(f.scale_scale, Add(Add(MATRIX, two), three), Add(MATRIX, const(5.0, F64)))
    row = const([1, 2, 3, 4], F64)
    fires(
        f.scale_scale,
        Mul(Mul(MATRIX, row), two),
        Mul(MATRIX, const([2, 4, 6, 8], F64)),
    )
    fires(f.scale_scale, Mul(Mul(SCALAR, two), three), Mul(SCALAR, const(6.0, F64)))


TWO = const(2.0, F64)
CONSTANTS: list[tuple[Any, str]] = [
    (Mul(Add(MATRIX, TWO), TWO), ""),
    (Mul(Mul(MATRIX, SCALAR), TWO), ""),
    (Mul(Mul(MATRIX, TWO), SCALAR), ""),
    ((Mul(Mul(MATRIX, TWO), TWO), Mul(MATRIX, TWO)), ""),
    (
        Mul(Mul(SCALAR, w(4)), w(3, 1)),
        "would be larger than each",
    ),
    (Mul(Mul(MATRIX, const(1e200, F64)), const(1e200, F64)), OVERFLOW),
    (Mul(Mul(MATRIX, const(1e-200, F64)), const(1e-200, F64)), OVERFLOW),
    (Mul(Mul(MATRIX, const(np.inf, F64)), const(0.0, F64)), OVERFLOW),
    (
        Mul(
            Mul(param("i", 2, dtype=DType.I64), const(2, DType.I64)),
            const(3, DType.I64),
        ),
        "",
    ),
]


@pytest.mark.parametrize(("before", "reason"), CONSTANTS)
def test_guard_constants(before: Any, reason: str) -> None:
    misses(f.scale_scale, before, reason)


def test_a_product_that_underflows_stays_two() -> None:
    x = param("f", 3)
    misses(f.scale_scale, Mul(Mul(x, const(1e-30)), const(1e-30)), OVERFLOW)
    done = FoldAffine()(graph_of(Mul(Mul(x, const(0.0)), const(1e-30))))
    assert kinds(done) == ["Mul"]


# --- after a batch norm -------------------------------------------------------------

NORM = norm(IMAGE, 4)
CHANNELS = w(4, 1, 1, seed=9)


@pytest.mark.parametrize("kind", [Mul, Add, Div, Sub])
@pytest.mark.parametrize("number", [CHANNELS, const(1.7, F64)], ids=["row", "one"])
def test_arithmetic_after_a_batch_norm(kind: Any, number: Value) -> None:
    done = rewritten(f.after_batch_norm, kind(NORM, number))
    assert kinds(done) == ["BatchNormalization"]


AFTER_NORM: list[tuple[Any, str]] = [
    ((Mul(NORM, CHANNELS), NORM), "it trains, or is read elsewhere too"),
    (Mul(norm(IMAGE, 4, training_mode=1, outs=1), CHANNELS), "it trains"),
    (Div(CHANNELS, NORM), ""),
    (Mul(NORM, SCALAR), ""),
    (Mul(NORM, w(5, 1, seed=9)), ""),
    (Mul(norm(GRAY, 1), CHANNELS), "it broadcasts the channels"),
    (
        Mul(BatchNormalization(IMAGE, param("g", 4, dtype=F64), *[w(4)] * 3), CHANNELS),
        "no constants",
    ),
    (Mul(norm(IMAGE, 4), const(1e308, F64)), OVERFLOW),
]


@pytest.mark.parametrize(("before", "reason"), AFTER_NORM)
def test_guard_after_a_batch_norm(before: Any, reason: str) -> None:
    misses(f.after_batch_norm, before, reason)


def test_a_batch_norm_of_mixed_types_stays() -> None:
    x = param("h", 2, 4, dtype=HALF)
    mixed = BatchNormalization(
        x, *[random(4, seed=i) for i in range(3)], const([1] * 4)
    )
    before = Mul(mixed, const(2.0, HALF))
    misses(f.after_batch_norm, before, "the element types differ")


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


def test_constants_that_cancel_round_on_purpose() -> None:
    """(x + 1.5 * 2**23) - 1.5 * 2**23 is x as a whole number."""
    magic = 1.5 * 2**23
    x = param("x", 3)
    misses(f.scale_scale, Add(Add(x, const(magic)), const(-magic)), "on purpose")
    fires(f.scale_scale, Add(Add(x, const(2.0)), const(-1.0)), Add(x, const(1.0)))


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
