"""Rectifiers and exponential units recognised in every spelling, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from equations import N, const, fires, graph_of, kinds, misses, param, random

from graphopt.ir import Value
from graphopt.ops import (
    Abs,
    Add,
    Celu,
    Clip,
    Div,
    Elu,
    Exp,
    Greater,
    GreaterOrEqual,
    LeakyRelu,
    Less,
    LessOrEqual,
    Max,
    Min,
    Mul,
    Neg,
    Not,
    PRelu,
    Relu,
    Selu,
    Sigmoid,
    Softplus,
    Sub,
    Tanh,
    ThresholdedRelu,
    Where,
)
from graphopt.passes import raise_rectifiers as r
from graphopt.passes.branches import branches, clamped
from graphopt.passes.raise_rectifiers import RaiseRectifiers
from graphopt.reference import evaluate
from graphopt.types import DType

X = param("x", N, 4)
OTHER = param("other", N, 4)
ZERO = const(0.0)


def c(number: Any, dtype: DType = DType.F32) -> Value:
    return const(number, dtype)


def test_relu() -> None:
    for before in (Max(X, ZERO), Max(ZERO, X), Clip(X, ZERO)):
        fires(r.relu, before, Relu(X))
    fires(r.thresholded_relu, Where(Less(X, ZERO), ZERO, X), Relu(X))
    fires(r.thresholded_relu, Where(LessOrEqual(X, ZERO), ZERO, X), Relu(X))
    whole = param("whole", 3, dtype=DType.I64)
    misses(r.relu, Max(whole, c(0, DType.I64)))
    misses(r.relu, Max(X, c(0.1)))
    misses(r.relu, Max(X, c(np.zeros((2, 1, 1)))))
    misses(r.relu, Clip(X, ZERO, c(6.0)))
    keeps = Where(Greater(X, ZERO), X, ZERO)
    misses(r.thresholded_relu, keeps, "of NaN")


@pytest.mark.parametrize("way", range(3))
def test_clip(way: int) -> None:
    before = [
        Min(Max(X, c(-1.0)), c(2.0)),
        Max(c(-1.0), Min(c(2.0), X)),
        Max(Min(X, c(2.0)), c(-1.0)),
    ][way]
    fires(r.clip, before, Clip(X, c(-1.0), c(2.0)))


def test_six() -> None:
    fires(r.clip, Min(Relu(X), c(6.0)), Clip(X, ZERO, c(6.0)))
    misses(r.clip, Max(Min(X, c(-1.0)), c(2.0)))
    inner = Max(X, c(-1.0))
    misses(r.clip, (Min(inner, c(2.0)), inner), "read elsewhere")


def test_a_clip_that_keeps_all() -> None:
    fires(r.clip_within, Clip(Softplus(X), ZERO, c(np.inf)), Softplus(X))
    fires(r.clip_within, Clip(Sigmoid(X), ZERO, c(1.0)), Sigmoid(X))
    fires(r.clip_within, Clip(Tanh(X), c(-1.0), c(2.0)), Tanh(X))
    fires(r.clip_within, Clip(Abs(X), c(-1.0)), Abs(X))
    fires(r.clip_within, Clip(X, c(-np.inf), c(np.inf)), X)
    misses(r.clip_within, Clip(Sigmoid(X), c(0.1), c(1.0)))
    misses(r.clip_within, Clip(Tanh(X), ZERO, c(1.0)))
    misses(r.clip_within, Clip(Relu(X), ZERO, c(6.0)))


# --- a slope below zero -------------------------------------------------------------

TENTH = float(np.float32(0.1))
LEAKY: list[Callable[[Value], Value]] = [
    lambda a: Where(Less(X, ZERO), Mul(X, a), X),
    lambda a: Where(GreaterOrEqual(X, ZERO), X, Mul(a, X)),
    lambda a: Where(Greater(X, ZERO), X, Mul(a, X)),
    lambda a: Where(Less(ZERO, X), X, Mul(a, X)),
    lambda a: Where(Not(Greater(X, ZERO)), Mul(a, X), X),
]


@pytest.mark.parametrize("before", LEAKY)
def test_leaky_relu(before: Callable[[Value], Value]) -> None:
    fires(r.leaky_relu, before(c(0.1)), LeakyRelu(X, alpha=TENTH))
    slopes = random(4)
    fires(r.leaky_relu, before(slopes), PRelu(X, slopes))


def test_leaky_maximum() -> None:
    fires(r.leaky_maximum, Max(X, Mul(X, c(0.1))), LeakyRelu(X, alpha=TENTH))
    fires(r.leaky_maximum, Max(Div(X, c(4.0)), X), LeakyRelu(X, alpha=0.25))
    misses(r.leaky_maximum, Max(X, Mul(X, c(1.5))))
    misses(r.leaky_maximum, Max(X, Mul(X, c(-0.5))))
    misses(r.leaky_maximum, Max(X, Mul(X, random(4))))


def test_leaky_sum() -> None:
    """As Keras spells PRelu."""
    slopes = random(4)
    below = Min(X, ZERO)
    turned = Relu(Neg(X))
    fires(r.leaky_sum, Add(Relu(X), Mul(slopes, below)), PRelu(X, slopes))
    fires(r.leaky_sum, Sub(Relu(X), Mul(turned, slopes)), PRelu(X, slopes))
    after = PRelu(X, Neg(slopes))
    fires(r.leaky_sum, Add(Mul(slopes, turned), Relu(X)), after)
    fires(r.leaky_sum, Sub(Relu(X), Mul(below, c(-0.5))), LeakyRelu(X, alpha=0.5))
    fires(r.leaky_sum, Add(Relu(X), Mul(turned, c(-0.5))), LeakyRelu(X, alpha=0.5))
    misses(r.leaky_sum, Add(Relu(X), Mul(slopes, Relu(X))))
    misses(r.leaky_sum, Add(Relu(X), Mul(slopes, Min(OTHER, ZERO))))
    misses(r.leaky_sum, Add(Relu(X), Mul(slopes, Min(X, c(0.1)))))


def test_what_is_no_leaky_relu() -> None:
    tenth = Mul(X, c(0.1))
    misses(r.leaky_relu, Where(Less(X, c(0.5)), tenth, X))
    misses(r.leaky_relu, Where(Less(OTHER, ZERO), tenth, X))
    misses(r.leaky_relu, Where(Greater(X, ZERO), tenth, X))
    misses(r.leaky_relu, Where(Less(X, ZERO), Mul(OTHER, c(0.1)), X))
    misses(r.leaky_relu, Where(Less(X, c(np.zeros((2, 1, 1)))), tenth, X))
    wide = param("wide", N, 4, dtype=DType.F64)
    third = Mul(wide, c(1 / 3, DType.F64))
    before = Where(Less(wide, c(0.0, DType.F64)), third, wide)
    misses(r.leaky_relu, before, "cannot hold")


def test_thresholded_relu() -> None:
    after = ThresholdedRelu(X, alpha=0.5)
    fires(r.thresholded_relu, Where(Greater(X, c(0.5)), X, ZERO), after)
    fires(r.thresholded_relu, Where(Less(c(0.5), X), X, ZERO), after)
    fires(r.thresholded_relu, Where(Not(Greater(X, c(0.5))), ZERO, X), after)
    at = Where(GreaterOrEqual(X, c(0.5)), X, ZERO)
    misses(r.thresholded_relu, at, "the threshold itself")
    nan = Where(LessOrEqual(X, c(0.5)), ZERO, X)
    misses(r.thresholded_relu, nan, "keeps NaN")


# --- exponential units --------------------------------------------------------------


def below(x: Value = X, alpha: float = 1.0, way: int = 0) -> Value:
    """alpha * (exp(x) - 1)"""
    power = Sub(Exp(x), c(1.0)) if way == 0 else Add(c(-1.0), Exp(x))
    return power if alpha == 1 else Mul(power, c(alpha))


@pytest.mark.parametrize(("alpha", "way"), list(product([1.0, 0.5], range(2))))
def test_elu(alpha: float, way: int) -> None:
    after = Elu(X, alpha=alpha)
    capped = Min(X, ZERO)
    for choice in (
        Where(Greater(X, ZERO), X, below(X, alpha, way)),
        Where(Less(X, ZERO), below(X, alpha, way), X),
        Where(Greater(X, ZERO), X, below(capped, alpha, way)),
    ):
        fires(r.exponential_unit, choice, after)
    for total in (
        Add(Relu(X), below(capped, alpha, way)),
        Add(Min(below(X, alpha, way), ZERO), Relu(X)),
    ):
        fires(r.exponential_sum, total, after)


def test_celu() -> None:
    inner = Div(X, c(2.0))
    before = Where(Greater(X, ZERO), X, below(inner, 2.0))
    fires(r.exponential_unit, before, Celu(X, alpha=2.0))
    before = Add(Relu(X), Min(below(inner, 2.0), ZERO))
    fires(r.exponential_sum, before, Celu(X, alpha=2.0))
    other = Where(Greater(X, ZERO), X, below(inner, 3.0))
    misses(r.exponential_unit, other, "not divided by")


def test_selu() -> None:
    alpha, gamma = (float(np.float32(v)) for v in r.SELU)
    after = Selu(X, alpha=alpha, gamma=gamma)
    fires(r.selu, Mul(Elu(X, alpha=alpha), c(gamma)), after)
    fires(r.selu, Mul(c(gamma), Elu(X, alpha=alpha)), after)
    misses(r.selu, Mul(Elu(X, alpha=1.0), c(gamma)))
    inner = Elu(X, alpha=alpha)
    misses(r.selu, (Mul(inner, c(gamma)), inner), "read elsewhere")


def test_both_branches_scaled() -> None:
    alpha, gamma = r.SELU
    before = Where(Greater(X, ZERO), Mul(X, c(2.0)), below(X, 1.0))
    after = Mul(Elu(X, alpha=0.5), c(2.0))
    fires(r.exponential_unit, before, after)
    both = Mul(below(X, alpha), c(gamma))
    before = Where(Greater(X, ZERO), Mul(c(gamma), X), both)
    done = RaiseRectifiers()(graph_of(before))
    assert kinds(done) == ["Selu"]


def test_what_is_no_elu() -> None:
    misses(r.exponential_unit, Where(Greater(X, ZERO), X, below(OTHER)))
    misses(r.exponential_unit, Where(Greater(X, ZERO), X, Sub(Exp(X), c(2.0))))
    misses(r.exponential_unit, Where(Greater(X, ZERO), X, below(Max(X, ZERO))))
    misses(r.exponential_sum, Add(Relu(X), below(X)))
    misses(r.exponential_sum, Add(Relu(X), Min(below(X, -1.0), ZERO)))
    misses(r.exponential_sum, Add(Relu(X), Max(below(X), ZERO)))


# --- how they are read --------------------------------------------------------------

COMPARISONS = (Greater, GreaterOrEqual, Less, LessOrEqual)


@pytest.mark.parametrize(
    ("kind", "constant_first", "flipped"),
    list(product(COMPARISONS, [False, True], [False, True])),
)
def test_branches(kind: Any, constant_first: bool, flipped: bool) -> None:
    """What is said of numbers above, at and below the bound, and of NaN, is so."""
    x = param("x", 4)
    bound = c(0.5)
    condition = kind(bound, x) if constant_first else kind(x, bound)
    condition = Not(condition) if flipped else condition
    yes, no = param("yes", 4), param("no", 4)
    found = branches(Where(condition, yes, no))
    assert found is not None
    assert found.x is x
    graph = graph_of(Where(condition, yes, no), inputs=[x, yes, no])
    numbers = np.array([2.0, 0.5, 0.0, np.nan], np.float32)
    (chosen,) = evaluate(
        graph, [numbers, np.ones(4, np.float32), np.zeros(4, np.float32)]
    )
    is_yes = found.above is yes
    above = [True, found.equal_above, False, found.nan_above]
    assert chosen.tolist() == [float(a == is_yes) for a in above]


def test_clamped() -> None:
    assert clamped(X) is None
    assert clamped(Max(X, OTHER)) is None
    assert clamped(Max(X, c(np.nan))) is None
    crossed = Max(Min(X, c(0.0)), c(1.0))
    assert clamped(crossed) is None


def test_exponential_units_that_are_kept_twice() -> None:
    held = Clip(X, c(-2.0), ZERO)
    misses(r.exponential_sum, Add(Relu(X), below(held)))
    inner = Min(X, ZERO)
    misses(r.exponential_sum, Add(Relu(X), Min(below(inner, -1.0), ZERO)))
    misses(r.exponential_sum, Add(Relu(X), Min(below(X, 0.0), ZERO)))


def test_bounds_of_bounds() -> None:
    """Those of a clip are both its own; a bound beside it is another op's."""
    both = Clip(X, c(1.0), c(2.0))
    for outer, low, high in ((Max(both, ZERO), 0, None), (Min(both, c(3.0)), None, 3)):
        found = clamped(outer)
        assert found is not None
        assert (found.x, found.low, found.high) == (both, low, high)
    for inner, low, high in (
        (Clip(X, c(1.0)), 1, None),
        (Clip(X, None, c(2.0)), None, 2),
    ):
        found = clamped(inner)
        assert found is not None
        assert (found.x, found.low, found.high) == (X, low, high)
    assert clamped(Clip(X, OTHER, c(2.0))) is None
    assert clamped(Clip(X, c(1.0), OTHER)) is None
    wide = c(np.zeros((2, 1, 1)))
    assert branches(Where(Greater(X, wide), X, OTHER)) is None
