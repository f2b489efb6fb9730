"""Smooth activations recognised in every spelling, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from equations import N, const, fires, graph_of, kinds, misses, param

from graphopt.ir import Value
from graphopt.ops import (
    Abs,
    Add,
    Clip,
    Div,
    Exp,
    Greater,
    HardSigmoid,
    HardSwish,
    Less,
    Log,
    Max,
    Min,
    Mish,
    Mul,
    Neg,
    Reciprocal,
    Relu,
    Sigmoid,
    Softplus,
    Softsign,
    Sub,
    Swish,
    Tanh,
    Where,
)
from graphopt.passes import raise_activations as r
from graphopt.passes.raise_activations import RaiseActivations
from graphopt.reference import evaluate
from graphopt.types import DType

X = param("x", N, 4)
OTHER = param("other", N, 4)
WIDE = param("wide", N, 4, dtype=DType.F64)
SIXTH = float(np.float32(1 / 6))


def c(number: Any, dtype: DType = DType.F32) -> Value:
    return const(number, dtype)


def one_plus(x: Value, swapped: bool = False) -> Value:
    return Add(c(1.0), x) if swapped else Add(x, c(1.0))


Spelling = Callable[[], Value]

SIGMOIDS: list[Spelling] = [
    lambda: Div(c(1.0), one_plus(Exp(Neg(X)))),
    lambda: Div(c(1.0), one_plus(Exp(Mul(X, c(-1.0))), True)),
    lambda: Reciprocal(one_plus(Exp(Mul(c(-1.0), X)))),
    lambda: Reciprocal(one_plus(Exp(Div(X, c(-1.0))))),
]


@pytest.mark.parametrize("before", SIGMOIDS)
def test_sigmoid(before: Spelling) -> None:
    fires(r.sigmoid, before(), Sigmoid(X))


def test_sigmoid_of_a_numerator() -> None:
    before = Div(OTHER, one_plus(Exp(Neg(X))))
    fires(r.sigmoid, before, Mul(OTHER, Sigmoid(X)))


def test_sigmoid_of_another_sign() -> None:
    before = Div(c(1.0), one_plus(Exp(X)))
    fires(r.sigmoid, before, Sigmoid(Neg(X)))
    before = Div(c(1.0), one_plus(Exp(Mul(X, c(-1.75)))))
    fires(r.sigmoid, before, Sigmoid(Mul(X, c(1.75))))


def test_what_is_no_sigmoid() -> None:
    misses(r.sigmoid, Div(c(1.0), Add(Exp(X), c(2.0))))
    misses(r.sigmoid, (Reciprocal(one_plus(Exp(X))), Exp(X)), "read elsewhere")
    wide = Add(Exp(X), c(np.ones((2, 1, 1))))
    misses(r.sigmoid, Div(c(1.0), wide), "it broadcasts")


TANHS: list[Spelling] = [
    lambda: Mul(one_plus(Tanh(Mul(X, c(0.5)))), c(0.5)),
    lambda: Div(one_plus(Tanh(Div(X, c(2.0)))), c(2.0)),
    lambda: Add(c(0.5), Mul(c(0.5), Tanh(Mul(X, c(0.5))))),
    lambda: Add(Div(Tanh(Div(X, c(2.0))), c(2.0)), c(0.5)),
]


@pytest.mark.parametrize("before", TANHS)
def test_sigmoid_by_tanh(before: Spelling) -> None:
    fires(r.sigmoid_by_tanh, before(), Sigmoid(X))


def gate(alpha: float = 1.0, x: Value = X) -> Value:
    return Sigmoid(x if alpha == 1 else Mul(x, c(alpha)))


SWISHES: list[tuple[Spelling, float]] = [
    (lambda: Mul(X, gate()), 1.0),
    (lambda: Mul(gate(), X), 1.0),
    (lambda: Mul(X, gate(1.702)), float(np.float32(1.702))),
    (lambda: Mul(Sigmoid(Mul(c(1.702), X)), X), float(np.float32(1.702))),
    (lambda: Mul(Sigmoid(Div(X, c(2.0))), X), 0.5),
    (lambda: Mul(X, gate(-1.0)), -1.0),
]


@pytest.mark.parametrize(("before", "alpha"), SWISHES)
def test_swish(before: Spelling, alpha: float) -> None:
    fires(r.swish, before(), Swish(X, alpha=alpha), opset=24)


def test_swish_among_other_factors() -> None:
    after = Mul(Swish(X), OTHER)
    fires(r.swish, Mul(Mul(gate(), OTHER), X), after, opset=24)
    fires(r.swish, Mul(X, Mul(OTHER, gate())), after, opset=24)
    before = Mul(Mul(X, c(0.5)), gate())
    fires(r.swish, before, Mul(Swish(X), c(0.5)), opset=24)


def test_what_is_no_swish() -> None:
    misses(r.swish, Mul(X, gate()), opset=23)
    misses(r.swish, Mul(X, gate(x=OTHER)), opset=24)
    misses(r.swish, (Mul(X, gate()), gate()), "read elsewhere", opset=24)
    column = param("column", N, 1)
    misses(r.swish, Mul(column, Sigmoid(Mul(column, X))), opset=24)
    third = Mul(WIDE, Sigmoid(Mul(WIDE, c(1 / 3, DType.F64))))
    misses(r.swish, third, "cannot hold", opset=24)
    misses(r.swish, Mul(X, Tanh(X)), opset=24)


def test_softsign() -> None:
    fires(r.softsign, Div(X, one_plus(Abs(X))), Softsign(X))
    fires(r.softsign, Div(X, one_plus(Abs(X), True)), Softsign(X))
    misses(r.softsign, Div(OTHER, one_plus(Abs(X))))


# --- softplus -----------------------------------------------------------------------


def tail(x: Value) -> Value:
    return Log(one_plus(Exp(Neg(Abs(x)))))


STABLE: list[Spelling] = [
    lambda: Add(Max(X, c(0.0)), tail(X)),
    lambda: Add(tail(X), Relu(X)),
    lambda: Add(Clip(X, c(0.0)), tail(X)),
    lambda: Add(Max(c(0.0), X), Log(one_plus(Exp(Mul(Abs(X), c(-1.0))), True))),
]


def test_softplus() -> None:
    fires(r.softplus, Log(one_plus(Exp(X))), Softplus(X))
    fires(r.softplus, Log(one_plus(Exp(X), True)), Softplus(X))
    misses(r.softplus, tail(X), "the smaller part")
    misses(r.softplus, Log(Add(Exp(X), c(2.0))))
    misses(r.softplus, Log(Add(Exp(X), c(np.ones((3, 1, 1))))), "broadcasts")


@pytest.mark.parametrize("before", STABLE)
def test_stable_softplus(before: Spelling) -> None:
    fires(r.stable_softplus, before(), Softplus(X))


def test_what_is_no_stable_softplus() -> None:
    misses(r.stable_softplus, Add(Relu(OTHER), tail(X)))
    misses(r.stable_softplus, Add(X, tail(X)))


def test_softplus_above_a_threshold() -> None:
    before = Where(Greater(X, c(20.0)), X, Softplus(X))
    fires(r.softplus_above, before, Softplus(X))
    fires(r.softplus_above, Where(Less(c(20.0), X), X, Softplus(X)), Softplus(X))
    early = Where(Greater(X, c(10.0)), X, Softplus(X))
    misses(r.softplus_above, early, "not the softplus")
    double = Where(Greater(WIDE, c(20.0, DType.F64)), WIDE, Softplus(WIDE))
    misses(r.softplus_above, double, "not the softplus")
    misses(r.softplus_above, Where(Less(X, c(20.0)), X, Softplus(X)))


def test_mish() -> None:
    fires(r.mish, Mul(X, Tanh(Softplus(X))), Mish(X), opset=18)
    fires(r.mish, Mul(Tanh(Softplus(X)), X), Mish(X), opset=18)
    misses(r.mish, Mul(X, Tanh(Softplus(X))), opset=17)
    misses(r.mish, Mul(OTHER, Tanh(Softplus(X))), opset=18)
    misses(r.mish, Mul(X, Tanh(X)), opset=18)


# --- their pieces of straight lines -------------------------------------------------


def six(x: Value, way: int = 0) -> Value:
    """min(max(x, 0), 6)"""
    return [
        lambda: Clip(x, c(0.0), c(6.0)),
        lambda: Min(Max(x, c(0.0)), c(6.0)),
        lambda: Max(c(0.0), Min(x, c(6.0))),
        lambda: Min(c(6.0), Relu(x)),
    ][way]()


def near(before: Value, after: Value, rule: Any, opset: int = 20) -> None:
    """The rule makes just that; an attribute holds 1/6 to 8 digits, no more."""
    done = RaiseActivations()(graph_of(before, opset=opset))
    assert done.outputs == (after,), f"{rule.name}: {done}"
    x = np.linspace(-5, 5, 24, dtype=np.float32).reshape(6, 4)
    old, new = (evaluate(g, [x]) for g in (graph_of(before), done))
    np.testing.assert_allclose(new[0], old[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("way", range(4))
@pytest.mark.parametrize("last", [False, True])
def test_hard_swish(way: int, last: bool) -> None:
    clipped = six(Add(X, c(3.0)), way)
    before = Div(Mul(X, clipped), c(6.0)) if last else Mul(Div(clipped, c(6.0)), X)
    near(before, HardSwish(X), r.hard_swish)


def test_hard_swish_of_a_hard_sigmoid() -> None:
    fires(r.hard_swish, Mul(X, HardSigmoid(X, alpha=SIXTH, beta=0.5)), HardSwish(X))
    steep = Mul(X, HardSigmoid(X, alpha=0.2, beta=0.5))
    misses(r.hard_swish, steep, "slope is not 1/6")
    misses(r.hard_swish, Mul(X, HardSigmoid(X, alpha=SIXTH, beta=0.5)), opset=13)
    misses(r.hard_swish, Mul(OTHER, HardSigmoid(X, alpha=SIXTH, beta=0.5)))


@pytest.mark.parametrize("way", range(4))
def test_hard_sigmoid(way: int) -> None:
    clipped = six(Add(c(3.0), X), way)
    near(Div(clipped, c(6.0)), HardSigmoid(X, alpha=SIXTH, beta=0.5), r.hard_sigmoid)


def test_hard_sigmoid_of_its_own_slope() -> None:
    line = Add(Mul(X, c(0.25)), c(0.5))
    after = HardSigmoid(X, alpha=0.25, beta=0.5)
    fires(r.hard_sigmoid, Clip(line, c(0.0), c(1.0)), after)
    fires(r.hard_sigmoid, Max(Min(line, c(1.0)), c(0.0)), after)


def test_hard_sigmoid_of_a_line_folded_into_weights() -> None:
    """The 3 of x + 3 is in the bias of the product before it."""
    for way in range(4):
        after = HardSigmoid(X, alpha=SIXTH, beta=0.0)
        near(Div(six(X, way), c(6.0)), after, r.hard_sigmoid)
        near(Mul(c(1 / 6), six(X, way)), after, r.hard_sigmoid)


def test_what_is_no_hard_sigmoid() -> None:
    line = Add(Mul(X, c(0.25)), c(0.5))
    misses(r.hard_sigmoid, Clip(line, c(0.0), c(2.0)))
    misses(r.hard_sigmoid, Clip(line, c(-1.0), c(1.0)))
    misses(r.hard_sigmoid, Clip(line, c(0.0)))
    misses(r.hard_sigmoid, Clip(X, c(0.0), c(1.0)))
    misses(r.hard_sigmoid, Mul(six(Add(X, c(3.0))), c(0.2)))
    double = Add(WIDE, c(0.5, DType.F64))
    bounds = c(0.0, DType.F64), c(1.0, DType.F64)
    misses(r.hard_sigmoid, Clip(double, *bounds), "in float32 alone")


def test_together() -> None:
    """Parts that are recognised first make the whole."""
    spelled = Mul(X, Tanh(Log(one_plus(Exp(X)))))
    assert kinds(RaiseActivations()(graph_of(spelled))) == ["Mish"]
    spelled = Div(X, one_plus(Exp(Neg(X))))
    assert kinds(RaiseActivations()(graph_of(spelled, opset=24))) == ["Swish"]
    minus = Sub(c(0.0), X)
    assert "Swish" not in kinds(RaiseActivations()(graph_of(minus, opset=24)))


def test_near_misses_of_numbers() -> None:
    """One number of several is another."""
    curve = Tanh(Mul(X, c(0.5)))
    misses(r.sigmoid_by_tanh, Add(Mul(curve, c(0.25)), c(0.5)))
    misses(r.sigmoid_by_tanh, Add(Mul(curve, c(0.5)), c(0.25)))
    ramp = Clip(Add(X, c(2.5)), c(0.0), c(6.0))
    reason = "its middle not 1/2"
    misses(r.hard_swish, Div(Mul(X, ramp), c(6.0)), reason)
    misses(r.hard_swish, Mul(X, HardSigmoid(X, alpha=SIXTH, beta=0.4)), reason)
    misses(r.hard_swish, Mul(X, HardSigmoid(X, alpha=0.2, beta=0.5)), reason)


def test_thresholds_of_other_types() -> None:
    """Of bfloat16, too, it must be said when x rounds to its softplus."""
    x = param("x", N, 4, dtype=DType.BF16)

    def above(bound: float) -> Value:
        limit = const(bound, DType.BF16)
        return Where(Greater(x, limit), x, Softplus(x))

    misses(r.softplus_above, above(1.0), "not the softplus of x yet")
    fires(r.softplus_above, above(20.0), Softplus(x))


def test_a_ramp_that_ends_is_no_softplus() -> None:
    misses(r.stable_softplus, Add(Clip(X, c(0.0), c(6.0)), tail(X)))
    misses(r.stable_softplus, Add(Clip(X, c(1.0)), tail(X)))
