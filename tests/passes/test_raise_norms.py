"""Norms recognised from their arithmetic, in every spelling, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from equations import (
    M,
    N,
    const,
    fires,
    graph_of,
    kinds,
    misses,
    param,
    random,
    rewritten,
)
from norm_spellings import (
    BIAS,
    EPSILON,
    GAIN,
    LONG,
    OPEN,
    OTHER,
    X,
    centred,
    layer_norm,
    mean,
    ones,
    plain,
    quotient,
    rms_norm,
    root,
)

from graphopt.ir import Value
from graphopt.ops import (
    Add,
    Constant,
    Div,
    LayerNormalization,
    Mul,
    Pow,
    ReduceMean,
    Sqrt,
    Sub,
)
from graphopt.passes import raise_norms as r
from graphopt.passes.raise_norms import RaiseNorms
from graphopt.types import DType

# --- layer norm ---------------------------------------------------------------------


@pytest.mark.parametrize("way", range(3))
@pytest.mark.parametrize("product_", [False, True])
@pytest.mark.parametrize("swapped", [False, True])
def test_every_spelling(way: int, product_: bool, swapped: bool) -> None:
    top = centred(X)
    square = Mul(top, top) if product_ else Pow(top, const(2.0))
    before = quotient(top, root(top, square=square, swapped=swapped), way)
    fires(r.layer_norm_plain, before, layer_norm(X, ones(4)))


@pytest.mark.parametrize(
    ("axes", "axis"),
    [((-1,), -1), ((2,), -1), ((1, 2), -2), ((-1, -2), -2), ((0, 1, 2), -3)],
)
def test_trailing_axes(axes: tuple[int, ...], axis: int) -> None:
    x = param("fixed", 2, 3, 4)
    after = layer_norm(x, ones(*(2, 3, 4)[axis:]), axis=axis)
    fires(r.layer_norm_plain, plain(x, axes), after)


def test_the_epsilon_is_the_one_that_was_written() -> None:
    for number in (1e-12, 1e-5, 0.1, 0.0):
        (op,) = [
            o
            for o in rewritten(r.layer_norm_plain, plain(X, epsilon=const(number))).ops
            if not isinstance(o, Constant)
        ]
        assert op.epsilon == pytest.approx(number, rel=1e-7)


def test_gain_and_bias_follow() -> None:
    norm = layer_norm(X, ones(4))
    fires(r.layer_norm_gain, Mul(norm, GAIN), layer_norm(X, GAIN))
    fires(r.layer_norm_gain, Mul(GAIN, norm), layer_norm(X, GAIN))
    fires(r.layer_norm_gain, Mul(norm, const([2.0])), layer_norm(X, const([2.0])))
    gained = layer_norm(X, GAIN)
    fires(r.layer_norm_bias, Add(gained, BIAS), layer_norm(X, GAIN, BIAS))
    fires(r.layer_norm_bias, Add(BIAS, gained), layer_norm(X, GAIN, BIAS))
    computed = param("g", 4)
    fires(r.layer_norm_gain, Mul(norm, computed), layer_norm(X, computed))
    wide = layer_norm(X, ones(3, 4), axis=-2)
    table = random(3, 4)
    fires(r.layer_norm_gain, Mul(wide, table), layer_norm(X, table, axis=-2))
    fires(r.layer_norm_gain, Mul(wide, GAIN), layer_norm(X, GAIN, axis=-2))


def test_dims_that_are_not_known_need_a_gain() -> None:
    """No constant of ones can be written for them."""
    gain = param("g", LONG)
    misses(r.layer_norm_plain, plain(OPEN), "the normalized dims are not known")
    fires(r.layer_norm, Mul(plain(OPEN), gain), layer_norm(OPEN, gain))
    fires(r.layer_norm, Mul(gain, plain(OPEN)), layer_norm(OPEN, gain))


def test_there_is_no_norm_of_nothing() -> None:
    """Runtimes refuse to normalize dims of 0; the arithmetic gives nothing."""
    empty, gain = param("empty", 2, N), param("g", N)
    misses(r.layer_norm, Mul(plain(empty), gain), "does not fit the dims")


def test_two_axes_with_a_gain() -> None:
    gain = random(3, 4)
    after = layer_norm(X, gain, axis=-2)
    fires(r.layer_norm, Mul(plain(X, (1, 2)), gain), after)
    bias = random(3, 4, seed=1)
    fires(r.layer_norm_bias, Add(after, bias), layer_norm(X, gain, bias, axis=-2))


def test_the_pass_makes_one_op_of_all() -> None:
    for way in range(3):
        top = centred(X)
        before = Add(Mul(GAIN, quotient(top, root(top), way)), BIAS)
        done = RaiseNorms()(graph_of(before))
        assert done.outputs == (layer_norm(X, GAIN, BIAS),)
        assert RaiseNorms()(done) is done


def test_narrow_floats() -> None:
    for dtype in (DType.F16, DType.BF16):
        x = param("h", 2, 4, dtype=dtype)
        top = Sub(x, mean(x))
        two, epsilon = const(2.0, dtype), const(EPSILON, dtype)
        before = Div(top, Sqrt(Add(mean(Pow(top, two)), epsilon)))
        done = RaiseNorms()(graph_of(before))
        assert kinds(done) == ["LayerNormalization"]


# --- what is no layer norm ----------------------------------------------------------

TOP = centred(X)
AXES = param("axes", 1, dtype=DType.I64)
SQUARE = centred(param("square", 4, 4))
WIDE = const(np.full((2, 1, 1, 1), EPSILON))
NOT_PLAIN: list[tuple[Value, str]] = [
    (plain(X, (1,)), "over channels"),  # not the last axis
    (plain(X, (0, 2)), ""),  # not adjacent
    (plain(X, (0, 1)), ""),  # not trailing
    (Div(centred(X, (1, 2)), root(centred(X, (1, 2)), (2,))), ""),  # of two means
    (Div(X, Sqrt(X)), ""),
    (Div(TOP, root(X)), ""),  # the square of something else
    (Div(Sub(mean(X), X), root(Sub(mean(X), X))), ""),  # the other way round
    (Div(Sub(X, mean(OTHER)), root(Sub(X, mean(OTHER)))), ""),
    (Div(TOP, root(TOP, square=Pow(TOP, const(3.0)))), ""),
    (Div(TOP, root(TOP, square=Mul(TOP, X))), ""),
    (Div(TOP, Sqrt(mean(Pow(TOP, const(2.0))))), ""),  # without an epsilon
    (Div(TOP, root(TOP, epsilon=param("e"))), ""),
    (Div(TOP, Sqrt(Add(ReduceMean(Pow(TOP, const(2.0))), const(EPSILON)))), ""),
    (Div(TOP, Sqrt(Add(ReduceMean(Pow(TOP, const(2.0)), AXES), const(EPSILON)))), ""),
    (
        Div(
            SQUARE, Sqrt(Add(mean(Pow(SQUARE, const(2.0)), keepdims=0), const(EPSILON)))
        ),
        "",
    ),
    (Div(TOP, root(TOP, epsilon=const([1e-3, 1e-3, 1e-2, 1e-3]))), ""),
    (Mul(TOP, root(TOP)), ""),
    (Div(root(TOP), TOP), ""),
    # constants that fill larger dims stretch the result
    (
        Div(TOP, root(TOP, epsilon=const(np.full((2, 1, 1, 1), EPSILON)))),
        "broadcasts x",
    ),
]


@pytest.mark.parametrize(("before", "reason"), NOT_PLAIN)
def test_no_layer_norm(before: Value, reason: str) -> None:
    misses(r.layer_norm_plain, before, reason)


def test_a_stretching_epsilon() -> None:
    x = param("flat", 4)
    before = plain(x, epsilon=const(np.full((3, 1), EPSILON)))
    assert before.shape == (3, 4)
    misses(r.layer_norm_plain, before, "it broadcasts x")
    misses(r.layer_norm, Mul(before, GAIN), "it broadcasts x")
    wide = quotient(x, root(x, epsilon=const(np.full((3, 1), EPSILON))))
    misses(r.rms_norm, Mul(wide, GAIN), "it broadcasts x", opset=23)


def test_double_arithmetic_stays() -> None:
    x = param("wide", 2, 4, dtype=DType.F64)
    top = Sub(x, mean(x))
    wide = DType.F64
    before = Div(top, Sqrt(Add(mean(Pow(top, const(2, wide))), const(1e-3, wide))))
    misses(r.layer_norm_plain, before, "computes in double")
    misses(r.layer_norm, Mul(before, const(2.0, wide)), "computes in double")


GUARDS: list[tuple[Any, Any, str]] = [
    (r.layer_norm, (Mul(plain(OPEN), param("g", LONG)), plain(OPEN)), ""),
    (r.layer_norm, Mul(plain(OPEN), param("g", M)), "broadcasts x"),
    (r.layer_norm, Mul(plain(OPEN), param("g", 2, LONG)), "does not fit the dims"),
    (r.layer_norm, Mul(plain(OPEN), param("g", 2, 1)), "does not fit the dims"),
    (r.layer_norm_gain, Mul(layer_norm(X, GAIN), GAIN), "it has a gain"),
    (
        r.layer_norm_gain,
        Mul(layer_norm(X, ones(4), BIAS), GAIN),
        "it has a bias",
    ),
    (
        r.layer_norm_gain,
        (Mul(layer_norm(X, ones(4)), GAIN), layer_norm(X, ones(4))),
        "read elsewhere too",
    ),
    (r.layer_norm_gain, Mul(layer_norm(X, ones(4)), OTHER), "does not fit the dims"),
    (
        r.layer_norm_gain,
        Mul(layer_norm(X, ones(4)), random(3, 1)),
        "does not fit the dims",
    ),
    (
        r.layer_norm_gain,
        Mul(layer_norm(param("one", 2, 1), ones(1)), GAIN),
        "does not fit the dims",
    ),
    (r.layer_norm_bias, Add(layer_norm(X, GAIN, BIAS), BIAS), "it has a bias"),
    (
        r.layer_norm_bias,
        (Add(layer_norm(X, GAIN), BIAS), layer_norm(X, GAIN)),
        "read elsewhere too",
    ),
    (r.layer_norm_bias, Add(layer_norm(X, GAIN), OTHER), "the bias is no constant"),
    (r.layer_norm_bias, Add(layer_norm(X, GAIN), random(3, 4)), "does not fit"),
    (
        r.layer_norm_bias,
        Add(LayerNormalization(X, GAIN, outs=3).results[0], BIAS),
        "",
    ),
]


@pytest.mark.parametrize(("rule", "before", "reason"), GUARDS)
def test_guard(rule: Any, before: Any, reason: str) -> None:
    misses(rule, before, reason)


def test_opsets() -> None:
    misses(r.layer_norm_plain, plain(X), opset=16)
    opened, gain = Mul(plain(OPEN), param("g", LONG)), param("h", LONG)
    misses(r.layer_norm, opened, opset=16)
    fires(r.layer_norm, Mul(plain(OPEN), gain), layer_norm(OPEN, gain), opset=17)
    fires(r.layer_norm_plain, plain(X), layer_norm(X, ones(4)), opset=17)
    rms = Mul(quotient(X, root(X)), GAIN)
    misses(r.rms_norm, rms, opset=22)
    fires(r.rms_norm, rms, rms_norm(X, GAIN), opset=23)


# --- root mean square norm ----------------------------------------------------------


@pytest.mark.parametrize("way", range(3))
@pytest.mark.parametrize("swapped", [False, True])
def test_rms_norm(way: int, swapped: bool) -> None:
    top = quotient(X, root(X, square=Mul(X, X)), way)
    before = Mul(top, GAIN) if swapped else Mul(GAIN, top)
    fires(r.rms_norm, before, rms_norm(X, GAIN), opset=23)


def test_rms_norm_over_two_axes() -> None:
    gain = random(3, 4)
    before = Mul(quotient(X, root(X, (1, 2))), gain)
    fires(r.rms_norm, before, rms_norm(X, gain, axis=-2), opset=23)


RMS = quotient(X, root(X))
NO_RMS: list[tuple[Any, str]] = [
    ((Mul(RMS, GAIN), RMS), ""),
    (Mul(RMS, RMS), ""),
    (Mul(RMS, OTHER), "does not fit the dims"),
    (Mul(RMS, random(3, 1)), "does not fit the dims"),
    (Mul(plain(X), GAIN), ""),  # a layer norm
    (Mul(quotient(X, root(X, (1,))), GAIN), ""),
    (Mul(quotient(X, root(OTHER)), GAIN), ""),
]


@pytest.mark.parametrize(("before", "reason"), NO_RMS)
def test_no_rms_norm(before: Any, reason: str) -> None:
    misses(r.rms_norm, before, reason, opset=23)


def test_each_rule_has_a_case() -> None:
    tested = {
        r.layer_norm,
        r.layer_norm_plain,
        r.layer_norm_gain,
        r.layer_norm_bias,
        r.layer_norm_affine,
        r.layer_norm_of_channels,
        r.rms_norm,
        r.rms_norm_plain,
        r.rms_norm_of_sum,
        r.narrow_norm,
    }
    assert set(r.RULES) == tested


def test_a_root_that_one_is_divided_by() -> None:
    """x * (1 / root), as traced models have it."""
    one = const(1.0)
    spelled = Mul(X, Div(one, root(X)))
    fires(r.rms_norm, Mul(spelled, GAIN), rms_norm(X, GAIN), opset=23)
    misses(r.rms_norm, Mul(Mul(X, Div(const(2.0), root(X))), GAIN), opset=23)
