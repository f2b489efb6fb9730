"""Gelu recognised from its arithmetic, in every spelling, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from equations import N, const, fires, graph_of, kinds, misses, param

from graphopt.ir import Value
from graphopt.ops import Add, Div, Erf, Gelu, Mul, Pow, Sigmoid, Tanh
from graphopt.passes.raise_gelu import RaiseGelu, gelu, gelu_by_sigmoid
from graphopt.types import DType

F64 = DType.F64
X = param("x", N, 4, dtype=F64)
OTHER = param("other", N, 4, dtype=F64)
ROOT2, SCALE = 2**0.5, (2 / np.pi) ** 0.5


def c(number: Any, dtype: DType = F64) -> Value:
    return const(number, dtype)


def bracket(curve: Value, one: float = 1.0) -> Value:
    return Add(curve, c(one))


def by_erf(x: Value, way: int = 0) -> Any:
    """erf(x / sqrt(2)), in three spellings."""
    if way == 0:
        return Erf(Div(x, c(ROOT2)))
    return Erf(Mul(x, c(ROOT2 / 2))) if way == 1 else Erf(Mul(c(1 / ROOT2), x))


def by_tanh(x: Value, way: int = 0, coefficient: float = 0.044715) -> Value:
    """tanh(sqrt(2/pi) * (x + 0.044715 * x**3)), in four spellings."""
    k = c(coefficient)
    cubes = [
        lambda: Mul(Pow(x, c(3.0)), k),
        lambda: Mul(Mul(Mul(x, x), x), k),
        lambda: Mul(k, Mul(Pow(x, c(2.0)), x)),
    ]
    if way < 3:
        return Tanh(Mul(Add(x, cubes[way]()), c(SCALE)))
    inner = Add(Mul(k, Mul(x, x)), c(1.0))
    return Tanh(Mul(Mul(x, inner), c(SCALE)))


WAYS: list[Callable[[Value, Value], Value]] = [
    lambda x, b: Mul(Mul(x, b), c(0.5)),
    lambda x, b: Mul(c(0.5), Mul(x, b)),
    lambda x, b: Mul(Mul(x, c(0.5)), b),
    lambda x, b: Mul(x, Mul(b, c(0.5))),
    lambda x, b: Div(Mul(b, x), c(2.0)),
    lambda x, b: Mul(Div(x, c(2.0)), b),
]


@pytest.mark.parametrize(
    ("outer", "inner", "swapped"),
    list(product(range(len(WAYS)), range(3), [False, True])),
)
def test_every_spelling_by_erf(outer: int, inner: int, swapped: bool) -> None:
    curve = by_erf(X, inner)
    sum_ = Add(c(1.0), curve) if swapped else Add(curve, c(1.0))
    fires(gelu, WAYS[outer](X, sum_), Gelu(X))


@pytest.mark.parametrize(("outer", "inner"), list(product(range(len(WAYS)), range(4))))
def test_every_spelling_by_tanh(outer: int, inner: int) -> None:
    before = WAYS[outer](X, bracket(by_tanh(X, inner)))
    fires(gelu, before, Gelu(X, approximate="tanh"))


def whole(x: Value, curve: Value, half: float = 0.5, one: float = 1.0) -> Value:
    return Mul(Mul(x, bracket(curve, one)), c(half))


def test_a_product_is_a_factor_of_its_own() -> None:
    x = Mul(X, OTHER)
    fires(gelu, whole(x, by_erf(x)), Gelu(x))


def test_the_two_kinds_are_told_apart() -> None:
    fires(gelu, whole(X, by_erf(X)), Gelu(X))
    fires(gelu, whole(X, by_tanh(X)), Gelu(X, approximate="tanh"))


def cubic(power: float = 3.0, scale: float = SCALE) -> Any:
    return Tanh(Mul(Add(X, Mul(Pow(X, c(power)), c(0.044715))), c(scale)))


def cubic_of(cube: Value, beside: Value = X) -> Value:
    return Tanh(Mul(Add(beside, Mul(cube, c(0.044715))), c(SCALE)))


HALF = Div(X, c(2.0))
GUARDS: list[tuple[Any, str]] = [
    (whole(X, by_erf(X), half=0.51), ""),
    (whole(X, by_erf(X), half=-0.5), ""),
    (whole(X, by_erf(X), one=1.01), "1 + erf"),
    (whole(X, by_erf(X), one=-1.0), "1 + erf"),
    (whole(X, Erf(X)), "1 + erf"),
    (whole(X, Erf(Mul(X, c(ROOT2)))), "1 + erf"),
    (whole(X, Erf(Mul(X, c(0.7071)))), "1 + erf"),  # in double that is another number
    (whole(X, by_erf(OTHER)), "1 + erf"),
    (whole(X, Tanh(X)), "1 + erf"),
    (whole(X, by_tanh(OTHER)), "1 + erf"),
    (whole(X, by_tanh(X, coefficient=0.04)), "1 + erf"),
    (whole(X, cubic(power=2.0)), "1 + erf"),
    (whole(X, cubic(scale=0.8)), "1 + erf"),
    (whole(X, Sigmoid(X)), "1 + erf"),
    # the right operand in another curve, or the right curve with a stranger in it
    (whole(X, Sigmoid(cubic().op.operands[0])), "1 + erf"),
    (whole(X, Sigmoid(by_erf(X).op.operands[0])), "1 + erf"),
    (whole(X, cubic_of(Mul(Mul(X, X), OTHER))), "1 + erf"),
    (whole(X, cubic_of(Pow(X, c(3.0)), beside=OTHER)), "1 + erf"),
    (whole(X, Tanh(Mul(Mul(X, OTHER), c(SCALE)))), "1 + erf"),
    (whole(X, cubic_of(Pow(X, param("three", dtype=F64)))), "1 + erf"),
    ((Mul(HALF, bracket(by_erf(X))), HALF), ""),
    (Mul(Mul(Mul(X, OTHER), bracket(by_erf(X))), c(0.5)), ""),
    (Mul(Mul(X, X), c(0.5)), "1 + erf"),
    ((whole(X, by_erf(X)), bracket(by_erf(X))), "read elsewhere too"),
    ((whole(X, by_erf(X)), by_erf(X)), "read elsewhere too"),
    # a constant that fills larger dims stretches the result
    (Mul(Mul(X, bracket(by_erf(X))), c(np.full((2, 1, 1), 0.5))), "1 + erf"),
    (Mul(Mul(X, Add(by_erf(X), c(np.ones((2, 1, 1))))), c(0.5)), "1 + erf"),
    (
        whole(X, Erf(Mul(X, c(np.full((2, 1, 1), ROOT2 / 2))))),
        "1 + erf",
    ),
    (Div(Mul(X, bracket(by_erf(X))), c(0.0)), ""),
]


@pytest.mark.parametrize(("before", "reason"), GUARDS)
def test_guard(before: Any, reason: str) -> None:
    misses(gelu, before, reason)


@pytest.mark.parametrize("way", range(4))
def test_by_sigmoid(way: int) -> None:
    """(1 + tanh(z)) / 2 = sigmoid(2 * z)"""
    (inner,) = by_tanh(X, way).op.operands
    assert inner is not None
    gate = Sigmoid(Mul(inner, c(2.0)))
    after = Gelu(X, approximate="tanh")
    fires(gelu_by_sigmoid, Mul(X, gate), after)
    fires(gelu_by_sigmoid, Mul(gate, X), after)
    misses(gelu_by_sigmoid, Mul(X, Sigmoid(inner)))
    misses(gelu_by_sigmoid, Mul(OTHER, gate))
    misses(gelu_by_sigmoid, (Mul(X, gate), gate), "read elsewhere")
    misses(gelu_by_sigmoid, Mul(X, gate), opset=19)


def test_opset() -> None:
    misses(gelu, whole(X, by_erf(X)), opset=19)
    fires(gelu, whole(X, by_erf(X)), Gelu(X), opset=20)


def spelled(dtype: DType, root: float, half: float = 0.5) -> tuple[Value, Value]:
    x = param("n", 3, dtype=dtype)
    curve = Add(Erf(Div(x, c(root, dtype))), c(1.0, dtype))
    return Mul(Mul(x, curve), c(half, dtype)), x


@pytest.mark.parametrize(
    ("dtype", "root", "taken"),
    [
        (DType.F32, 1.4142, True),
        (DType.F32, 1.4142135, True),
        (DType.F32, 1.4145, False),
        (DType.F32, 1.41, False),
        (DType.F16, 1.4142, True),
        (DType.F16, 1.414, True),
        (DType.F16, 1.41, False),
        (DType.BF16, 1.4142, True),
        (DType.BF16, 1.45, False),
        (DType.F64, 2**0.5, True),
        (DType.F64, 1.41421356, False),
    ],
)
def test_how_well_a_constant_must_be_spelled(
    dtype: DType, root: float, taken: bool
) -> None:
    """As well as its element type can: 1.4142 is what people write."""
    before, _ = spelled(dtype, root)
    done = RaiseGelu()(graph_of(before))
    assert (kinds(done) == ["Gelu"]) is taken
