"""Scales and shifts before linear ops, up to borders, and those after a batch norm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from equations import N, const, kinds, misses, param, random, rewritten
from linear_ops import F64, HALF, IMAGE, MATRIX, OVERFLOW, SCALAR, norm, w

from graphopt.ir import Value
from graphopt.ops import (
    Add,
    BatchNormalization,
    Constant,
    Conv,
    Div,
    Gemm,
    MatMul,
    Mul,
    Relu,
    Sub,
)
from graphopt.passes import affine as f


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
