"""Bounds of what values hold: never less than what they do, and near it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from equations import N, const, graph_of, ints, param, typed

from graphopt.inputs import random_inputs
from graphopt.ir import Value
from graphopt.ops import (
    Add,
    Concat,
    Div,
    Exp,
    Expand,
    Gather,
    LayerNormalization,
    MatMul,
    Mul,
    Neg,
    Reshape,
    RMSNormalization,
    RotaryEmbedding,
    Slice,
    Softmax,
    Split,
    Sub,
    Tanh,
    Transpose,
    Unsqueeze,
)
from graphopt.passes.bounds import DEEPEST, largest
from graphopt.reference import evaluate
from graphopt.types import DType, TensorType

X = param("x", 2, 6, 16)
GAIN, BIAS = const(np.linspace(-2, 1, 16)), const(np.linspace(-0.5, 0.25, 16))
RMS = RMSNormalization(X, GAIN)
LAYER = LayerNormalization(X, GAIN, BIAS)
WEIGHT = const(np.random.default_rng(0).normal(size=(16, 4)))
APART = const(np.stack([WEIGHT.tensor.array(), WEIGHT.tensor.array() / 2]))
COLUMN = float(np.sqrt((WEIGHT.tensor.array() ** 2).sum(0).max()))
WHOLE = float(np.sqrt((WEIGHT.tensor.array() ** 2).sum()))
ROW = 8 + float(np.sqrt((BIAS.tensor.array() ** 2).sum()))
"""How long a row of LAYER is at most; one of RMS is 8."""
ANGLES = np.linspace(0, 3, 6 * 8).reshape(1, 6, 8).repeat(2, 0)


def across(x: Value) -> Value:
    rank = x.rank or 0
    return Transpose(x, perm=(*range(rank - 2), rank - 1, rank - 2))


def heads(x: Value) -> Value:
    return Transpose(Reshape(x, ints(2, 6, 4, 4)), perm=(0, 2, 1, 3))


def at_last(x: Value) -> Value:
    return Unsqueeze(x, ints(3))


def piece(x: Value) -> Value:
    return Split(x, axis=0, outs=2, num_outputs=2).results[1]


def first_five(x: Value) -> Value:
    """Rows of their first number, five times."""
    return Gather(x, ints(0, 0, 0, 0, 0), axis=2)


def first(x: Value) -> Value:
    return Slice(x, ints(0), ints(1), ints(2))


TURNED = RotaryEmbedding(
    *(RMS, const(np.cos(ANGLES)), const(np.sin(ANGLES))), num_heads=1
)


def deep(x: Value) -> Value:
    for _ in range(DEEPEST + 1):
        x = Neg(x)
    return x


def repeated(x: Value) -> Value:
    """Rows of five equal numbers."""
    return Expand(first(x), ints(1, 1, 5))


BOUNDS: dict[str, tuple[Value, float]] = {
    "constant": (const([-3.0, 2.0]), 3),
    "empty": (const(np.zeros(0)), 0),
    "softmax": (Softmax(X), 1),
    "tanh": (Tanh(X), 1),
    "root mean square": (RMS, 4 * 2),
    "mean and variance": (LAYER, 4 * 2 + 0.5),
    "no bias": (LayerNormalization(X, GAIN), 4 * 2),
    "several axes": (RMSNormalization(X, const(np.ones((6, 16))), axis=1), 96**0.5),
    "weight": (MatMul(RMS, WEIGHT), 8 * COLUMN),
    "spread weight": (MatMul(Tanh(X), const(np.ones((16, 1)))), 16),
    "product": (MatMul(RMS, Transpose(LAYER, perm=(0, 2, 1))), 8 * ROW),
    "product of any numbers": (MatMul(Tanh(X), Tanh(param("y", 2, 16, 3))), 16),
    "a small weight": (MatMul(Tanh(X), const([[0.01]] + [[0.0]] * 15)), 0.01),
    "small rows": (
        MatMul(const([[0.01] + [0.0] * 15]), across(RMS)),
        0.01 * 8,
    ),
    "products of pieces": (
        MatMul(piece(RMS), across(piece(RMS))),
        64,
    ),
    "products of what is looked up along rows": (
        MatMul(first_five(RMS), across(first_five(RMS))),
        5 * 64,
    ),
    "products of what is turned": (
        MatMul(TURNED, across(RMS)),
        8 * (1 + np.sin(ANGLES).max()) * 8,
    ),
    "rows across others": (
        MatMul(Reshape(RMS, ints(2, 8, 12)), across(Reshape(RMS, ints(2, 8, 12)))),
        12 * 64,
    ),
    "sums with one number": (
        MatMul(Add(RMS, first(RMS)), across(Add(first(RMS), RMS))),
        16 * 16 * 16,
    ),
    "empty rows": (
        MatMul(
            Reshape(Slice(RMS, ints(0), ints(0)), ints(5, 0), allowzero=1),
            const(np.ones((0, 3))),
        ),
        0,
    ),
    "pieces": (Split(RMS, axis=0, outs=2, num_outputs=2).results[1], 8),
    "products by heads": (MatMul(heads(RMS), across(heads(LAYER))), 8 * ROW),
    "products of sums": (
        MatMul(Add(RMS, BIAS), across(Sub(LAYER, RMS))),
        ROW * (ROW + 8),
    ),
    "products of what is projected": (
        MatMul(MatMul(RMS, WEIGHT), across(MatMul(LAYER, WEIGHT))),
        min(8 * WHOLE, 2 * 8 * COLUMN) * min(ROW * WHOLE, 2 * ROW * COLUMN),
    ),
    "products of what is projected apart": (
        MatMul(MatMul(RMS, APART), across(MatMul(LAYER, APART))),
        min(8 * WHOLE, 2 * 8 * COLUMN) * min(ROW * WHOLE, 2 * ROW * COLUMN),
    ),
    "products of what is looked up": (
        MatMul(Gather(RMS, ints(0, 1), axis=1), across(Gather(RMS, ints(1), axis=1))),
        64,
    ),
    "products of single numbers": (
        MatMul(at_last(RMS), across(at_last(RMS))),
        64,
    ),
    "products of columns": (
        MatMul(Transpose(RMS, perm=(0, 2, 1)), RMS),
        6 * 64,
    ),
    "products of what is repeated": (
        MatMul(repeated(Tanh(X)), across(repeated(Tanh(X)))),
        5,
    ),
    "sum": (Add(RMS, LAYER), 16.5),
    "difference": (Sub(RMS, LAYER), 16.5),
    "scaled": (Mul(RMS, const([-0.5])), 4),
    "square": (Mul(RMS, LAYER), 8 * 8.5),
    "quotient": (Div(RMS, const([-4.0, 8.0] * 8)), 2),
    "quotient by one": (Div(RMS, const([4.0])), 2),
    "quotient by none": (Div(RMS, const(np.ones((0, 1, 1, 1)))), 0),
    "no weights": (MatMul(RMS, const(np.ones((16, 0)))), 0),
    "joined": (Concat(RMS, LAYER, axis=0), 8.5),
    "turned": (
        TURNED,
        8 * (1 + np.sin(ANGLES).max()),
    ),
    "moved": (
        Neg(Reshape(Slice(Unsqueeze(RMS, ints(0)), ints(0), ints(1)), ints(-1))),
        8,
    ),
    "looked up": (Gather(RMS, ints(0, 0)), 8),
}


@pytest.mark.parametrize("what", BOUNDS)
def test_bounds(what: str) -> None:
    value, wanted = BOUNDS[what]
    assert largest(value) == pytest.approx(wanted, rel=1e-6)
    graph = graph_of(value, opset=24)
    for seed in range(3):
        (array,) = evaluate(graph, random_inputs(graph, seed, style="wide"))
        assert np.abs(array).max(initial=0) <= wanted * (1 + 1e-5)


UNKNOWN: dict[str, Value | None] = {
    "rows of any rank": MatMul(
        Reshape(typed("z", TensorType(DType.F32)), ints(2, 3, 16)), across(RMS)
    ),
    "rows of a product by a vector": MatMul(
        MatMul(RMS, const(np.ones(16))), const(np.ones((6, 2)))
    ),
    "rows from far": MatMul(deep(RMS), across(deep(RMS))),
    "rows of the mean": MatMul(
        LayerNormalization(X, GAIN, outs=2).results[1], const(np.ones((1, 3)))
    ),
    "nothing": None,
    "input": X,
    "integers": ints(3),
    "any op": Exp(RMS),
    "NaN": const([math.nan, 1]),
    "one of two": Add(RMS, X),
    "the other one": Mul(X, RMS),
    "both joined": Concat(RMS, X, axis=0),
    "by 0": Div(RMS, const([0.0, 1.0] * 8)),
    "by what varies": Div(RMS, LAYER),
    "any type": typed("z", TensorType(None, (2,))),
    "product of any rank": MatMul(RMS, typed("z", TensorType(DType.F32))),
    "normed of any rank": RMSNormalization(
        typed("z", TensorType(DType.F32)), const([1.0]), axis=-1
    ),
    "0 times anything": Mul(const(0.0), X),
    "anything times 0": MatMul(X, const(np.zeros((16, 2)))),
    "weights that are NaN": MatMul(RMS, const(np.full((16, 2), math.nan))),
    "a vector": MatMul(RMS, const(np.ones(16))),
    "of any length": MatMul(
        Softmax(param("a", 3, N)), Softmax(param("b", N, 3), axis=0)
    ),
    "normed over any length": RMSNormalization(param("y", 3, N), const([1.0])),
    "gain": RMSNormalization(X, param("gain", 16)),
    "bias": LayerNormalization(X, GAIN, param("bias", 16)),
    "the mean": LayerNormalization(X, GAIN, BIAS, outs=2).results[1],
    "angles": RotaryEmbedding(
        *(RMS, param("c", 2, 6, 8), const(np.sin(ANGLES))), num_heads=1
    ),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_no_bounds(what: str) -> None:
    assert largest(UNKNOWN[what]) == math.inf


def test_how_deep_is_looked() -> None:
    value: Value = Tanh(X)
    for _ in range(DEEPEST - 1):
        value = Neg(value)
    assert largest(value) == 1
    assert largest(Neg(value)) == math.inf


def test_each_value_is_looked_at_once() -> None:
    value: Value = Tanh(X)
    for _ in range(DEEPEST - 1):
        value = Add(value, value)
    assert largest(value) == 2.0 ** (DEEPEST - 1)


def test_large_constants_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt.passes.bounds.READ", 63)
    assert largest(const(np.ones(63))) == 1
    assert largest(const(np.ones(64))) == math.inf
    assert largest(MatMul(RMS, WEIGHT)) == math.inf
    assert largest(Div(const([1.0]), const(np.ones(64)))) == math.inf
    assert largest(Div(const([1.0]), const(np.ones(63)))) == 1
    assert largest(Tanh(const([2.0], DType.F64))) == 1
    monkeypatch.setattr("graphopt.passes.bounds.READ", 64)
    assert largest(MatMul(RMS, WEIGHT)) < math.inf
