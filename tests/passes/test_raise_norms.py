"""Norms recognised from their arithmetic, in every spelling, and nothing else."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from equations import (
    M,
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
    typed,
)

from graphopt.driver import choose
from graphopt.ir import Value
from graphopt.ops import (
    Add,
    Cast,
    Constant,
    Div,
    GlobalAveragePool,
    LayerNormalization,
    Max,
    Mul,
    Pow,
    Reciprocal,
    ReduceMean,
    ReduceSum,
    ReduceSumSquare,
    Relu,
    Reshape,
    RMSNormalization,
    Sqrt,
    Squeeze,
    Sub,
    Transpose,
    Unsqueeze,
)
from graphopt.passes import raise_norms as r
from graphopt.passes.moments import mean as what_is_averaged
from graphopt.passes.raise_norms import RaiseNorms
from graphopt.types import DType, TensorType

X = param("x", N, 3, 4)
LONG: Any = cast("Any", N) + 1
OPEN = param("open", 2, LONG)
GAIN, BIAS = random(4), random(4, seed=1)
EPSILON = 1e-3


def mean(x: Value, axes: tuple[int, ...] = (-1,), **attrs: Any) -> Value:
    return ReduceMean(x, ints(*axes), **attrs)


def centred(x: Value, axes: tuple[int, ...] = (-1,)) -> Value:
    return Sub(x, mean(x, axes))


def root(
    top: Value,
    axes: tuple[int, ...] = (-1,),
    *,
    epsilon: Value | None = None,
    square: Value | None = None,
    swapped: bool = False,
    **attrs: Any,
) -> Value:
    square = square or Pow(top, const(2.0))
    parts = (mean(square, axes, **attrs), epsilon or const(EPSILON))
    return Sqrt(Add(*(parts[::-1] if swapped else parts)))


def quotient(top: Value, bottom: Value, way: int = 0) -> Value:
    """top / bottom, in three spellings."""
    if way == 0:
        return Div(top, bottom)
    return Mul(top, Reciprocal(bottom)) if way == 1 else Mul(Reciprocal(bottom), top)


def plain(x: Value, axes: tuple[int, ...] = (-1,), **how: Any) -> Value:
    top = centred(x, axes)
    return Div(top, root(top, axes, **how))


def ones(*shape: int) -> Constant:
    return const(np.ones(shape))


def layer_norm(x: Value, *rest: Value, axis: int = -1) -> Value:
    return LayerNormalization(x, *rest, axis=axis, epsilon=float(np.float32(EPSILON)))


def rms_norm(x: Value, gain: Value, axis: int = -1) -> Value:
    return RMSNormalization(x, gain, axis=axis, epsilon=float(np.float32(EPSILON)))


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
OTHER = param("other", N, 3, 4)
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


# --- other spellings ----------------------------------------------------------------


def inverse(inner: Value, way: int) -> Value:
    """1 / sqrt(inner), in five spellings."""
    return [
        lambda: Reciprocal(Sqrt(inner)),
        lambda: Div(const(1.0), Sqrt(inner)),
        lambda: Pow(inner, const(-0.5)),
        lambda: Reciprocal(Pow(inner, const(0.5))),
        lambda: Sqrt(Reciprocal(inner)),
    ][way]()


def mean_of(x: Value, way: int) -> Value:
    """The mean over the last axis of 4, in six spellings."""
    last = ints(-1)
    return [
        lambda: ReduceMean(x, last),
        lambda: Div(ReduceSum(x, last), const(4.0)),
        lambda: Mul(const(0.25), ReduceSum(x, last)),
        lambda: Unsqueeze(ReduceMean(x, last, keepdims=0), ints(-1)),
        lambda: Reshape(ReduceMean(x, last, keepdims=0), ints(-1, 3, 1)),
        lambda: Unsqueeze(Mul(ReduceSum(x, last, keepdims=0), const(0.25)), ints(2)),
    ][way]()


@pytest.mark.parametrize("way", range(6))
@pytest.mark.parametrize("how", range(5))
def test_means_and_roots(way: int, how: int) -> None:
    top = Sub(X, mean_of(X, way))
    spread = Add(mean_of(Mul(top, top), way), const(EPSILON))
    before = Mul(top, inverse(spread, how))
    fires(r.layer_norm_plain, before, layer_norm(X, ones(4)))
    square = mean_of(Pow(X, const(2.0)), way)
    before = Mul(inverse(Add(const(EPSILON), square), how), X)
    fires(r.rms_norm_plain, before, rms_norm(X, ones(4)), opset=23)


def test_sums_of_squares() -> None:
    square = Div(ReduceSumSquare(X, ints(-1)), const(4.0))
    before = Mul(X, inverse(Add(square, const(EPSILON)), 0))
    fires(r.rms_norm_plain, before, rms_norm(X, ones(4)), opset=23)
    wrong = Div(ReduceSumSquare(X, ints(-1)), const(3.0))
    misses(r.rms_norm_plain, Div(X, Sqrt(Add(wrong, const(EPSILON)))), opset=23)


@pytest.mark.parametrize("way", range(6))
@pytest.mark.parametrize("kept", range(3))
def test_the_variance_as_a_difference(way: int, kept: int) -> None:
    """mean(x * x) - mean(x) ** 2, also kept from below 0."""
    first = mean_of(X, way)
    spread: Value = Sub(mean_of(Mul(X, X), way), Mul(first, first))
    spread = [spread, Relu(spread), Max(spread, const(0.0))][kept]
    before = Div(Sub(X, first), Sqrt(Add(spread, const(EPSILON))))
    fires(r.layer_norm_plain, before, layer_norm(X, ones(4)))


def test_another_difference() -> None:
    first = mean(X)
    other = Mul(mean(OTHER), mean(OTHER))
    for spread in (
        Sub(mean(Mul(X, X)), other),
        Sub(Mul(first, first), mean(Mul(X, X))),
        Sub(mean(Mul(X, X)), first),
        Sub(mean(Mul(X, X), (1,)), Mul(first, first)),
    ):
        before = Div(Sub(X, first), Sqrt(Add(spread, const(EPSILON))))
        misses(r.layer_norm_plain, before)


@pytest.mark.parametrize("way", range(4))
def test_the_gain_before_the_root(way: int) -> None:
    top = centred(X)
    under = Reciprocal(root(top))
    before = [
        lambda: Mul(top, Mul(under, GAIN)),
        lambda: Mul(Mul(GAIN, under), top),
        lambda: Mul(Mul(top, GAIN), under),
        lambda: Mul(under, Mul(GAIN, top)),
    ][way]()
    fires(r.layer_norm, before, layer_norm(X, GAIN))


@pytest.mark.parametrize("way", range(5))
@pytest.mark.parametrize("difference", [False, True])
def test_an_affine_map(way: int, difference: bool) -> None:
    """As TensorFlow spells it: x * k + (beta - mean * k)."""
    first = mean(X)
    top = Sub(X, first)
    squares = Sub(mean(Mul(X, X)), Mul(first, first))
    spread = squares if difference else mean(Mul(top, top))
    k = Mul(Reciprocal(Sqrt(Add(spread, const(EPSILON)))), GAIN)
    high, low = Mul(X, k), Mul(first, k)
    before = [
        lambda: Add(high, Sub(BIAS, low)),
        lambda: Add(Sub(BIAS, low), high),
        lambda: Sub(Add(high, BIAS), low),
        lambda: Add(Sub(high, low), BIAS),
        lambda: Sub(high, Sub(low, BIAS)),
    ][way]()
    if way == 4:
        done = rewritten(r.layer_norm_affine, before)
        assert kinds(done)[0] == "LayerNormalization"
        return
    done = RaiseNorms()(graph_of(before))
    assert done.outputs == (layer_norm(X, GAIN, BIAS),)


def test_what_is_no_affine_map() -> None:
    first = mean(X)
    k = Mul(Reciprocal(root(Sub(X, first))), GAIN)
    other = Mul(Reciprocal(root(OTHER)), GAIN)
    for before in (
        Add(Mul(X, k), Add(BIAS, Mul(first, k))),
        Add(Mul(X, k), Sub(BIAS, Mul(mean(OTHER), k))),
        Add(Mul(X, k), Sub(BIAS, Mul(first, other))),
        Add(Mul(X, other), Sub(BIAS, Mul(first, other))),
    ):
        misses(r.layer_norm_affine, before)


def test_a_length_that_is_one() -> None:
    """x / sqrt(sum(x * x) + e) is a root-mean-square norm of another gain."""
    gain = const(np.full(4, 0.5))
    after = RMSNormalization(X, gain, axis=-1, epsilon=float(np.float32(EPSILON)) / 4)
    total = ReduceSum(Mul(X, X), ints(-1))
    before = Mul(X, inverse(Add(total, const(EPSILON)), 0))
    fires(r.rms_norm_of_sum, before, after, opset=23)
    total = ReduceSumSquare(X, ints(-1))
    fires(r.rms_norm_of_sum, Div(X, Sqrt(Add(total, const(EPSILON)))), after, opset=23)
    total = ReduceSum(Mul(X, X), ints(1))
    before = Mul(X, inverse(Add(total, const(EPSILON)), 0))
    misses(r.rms_norm_of_sum, before, "not over the last axes", opset=23)


def test_a_gain_after_a_reshape() -> None:
    x = param("grouped", N, 3, 1, 4)
    norm = rms_norm(x, ones(4))
    before = Mul(Reshape(norm, ints(0, 3, 4)), GAIN)
    after = Reshape(rms_norm(x, GAIN), ints(0, 3, 4))
    fires(r.layer_norm_gain, before, after, opset=23)
    wide = param("wide", N, 3, 2, 4)
    before = Mul(Reshape(rms_norm(wide, ones(4)), ints(0, 3, 8)), random(8))
    misses(r.layer_norm_gain, before, opset=23)


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
def test_islands_of_single(dtype: DType) -> None:
    """Cast up, normalized, cast down, weighed: as models of half precision do it."""
    x, gain = param("h", N, 4, dtype=dtype), random(4, dtype=dtype)
    wide = Cast(x, to=DType.F32)
    spelled = Cast(Div(wide, root(wide)), to=dtype)
    before = Mul(gain, spelled)
    done = RaiseNorms()(graph_of(before, opset=23))
    assert done.outputs == (rms_norm(x, gain),)
    top = centred(wide)
    inside = Mul(Div(top, root(top)), Cast(gain, to=DType.F32))
    done = RaiseNorms()(graph_of(Cast(inside, to=dtype)))
    assert done.outputs == (layer_norm(x, gain),)


def test_islands_that_stay() -> None:
    x = param("h", N, 4, dtype=DType.F16)
    norm = rms_norm(Cast(x, to=DType.F32), GAIN)
    misses(r.narrow_norm, Cast(norm, to=DType.F16), "does not hold", opset=23)
    norm = rms_norm(Cast(x, to=DType.F32), ones(4))
    misses(r.narrow_norm, Cast(norm, to=DType.BF16), opset=23)
    both = Cast(norm, to=DType.F16), norm
    misses(r.narrow_norm, both, "read elsewhere", opset=23)


def test_weights_with_dims_of_one_before() -> None:
    """As they are stored to broadcast to all dims."""
    gain, bias = random(1, 1, 4), random(1, 1, 4, seed=1)
    flat = [const(w.constant.array().reshape(4)) for w in (gain, bias)]
    fires(r.layer_norm, Mul(plain(X), gain), layer_norm(X, flat[0]))
    fires(r.layer_norm_gain, Mul(layer_norm(X, ones(4)), gain), layer_norm(X, flat[0]))
    after = layer_norm(X, flat[0], flat[1])
    fires(r.layer_norm_bias, Add(layer_norm(X, flat[0]), bias), after)
    computed = param("g", 1, 1, 4)
    after = layer_norm(X, Squeeze(computed, ints(0, 1)))
    fires(r.layer_norm, Mul(plain(X), computed), after)
    misses(r.layer_norm, Mul(plain(X), random(1, 3, 4)), "does not fit")


def test_the_mean_of_a_pool() -> None:
    """A global pool of three dims is a mean over the last."""
    top = Sub(X, GlobalAveragePool(X))
    before = Div(top, Sqrt(Add(GlobalAveragePool(Mul(top, top)), const(EPSILON))))
    fires(r.layer_norm_plain, before, layer_norm(X, ones(4)))


def test_channels_that_were_transposed_there() -> None:
    """As norms of images are written: the transposes cancel, or stay as many."""
    y = param("y", N, 5, 6, 4)
    x = Transpose(y, perm=(0, 3, 1, 2))
    after = Transpose(layer_norm(y, ones(4)), perm=(0, 3, 1, 2))
    fires(r.layer_norm_of_channels, plain(x, (1,)), after)
    gained = Mul(random(4, 1, 1), plain(x, (1,)))
    spelled = Transpose(Add(gained, random(4, 1, 1, seed=1)), perm=(0, 2, 3, 1))
    done, _ = choose().run(graph_of(spelled))
    assert kinds(done) == ["LayerNormalization"]
    both = plain(x, (1,)), x
    misses(r.layer_norm_of_channels, both, "read elsewhere")
    turned = Transpose(y, perm=(0, 3, 2, 1))
    misses(r.layer_norm_of_channels, plain(turned, (1,)))


def test_a_root_that_lies_across() -> None:
    """Of a square, the roots of its rows laid along its columns are no norm."""
    square = param("square", 4, 4)
    across = Reshape(root(square), ints(1, 4))
    misses(r.rms_norm_plain, Div(square, across), opset=23)
    top = centred(square)
    misses(r.layer_norm_plain, Div(top, Reshape(root(top), ints(1, 4))))
    first = Reshape(mean(square), ints(1, 4))
    other = Sub(square, first)
    misses(r.layer_norm_plain, Div(other, root(other)))


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
def test_casts_between_all_steps(dtype: DType) -> None:
    """As converters leave them, that keep some kinds of ops in single."""
    x, gain = param("h", N, 4, dtype=dtype), random(4, dtype=dtype)

    def up(value: Value) -> Value:
        return Cast(value, to=DType.F32)

    def down(value: Value) -> Value:
        return Cast(value, to=dtype)

    square = down(Pow(up(x), const(2.0)))
    inner = Add(down(mean(up(square))), const(EPSILON, dtype))
    before = Mul(gain, Mul(x, Div(const(1.0, dtype), down(Sqrt(up(inner))))))
    done = RaiseNorms()(graph_of(before, opset=23))
    assert kinds(done) == ["RMSNormalization"]
    top = Sub(x, down(mean(up(x))))
    inner = Add(down(mean(up(down(Pow(up(top), const(2.0)))))), const(EPSILON, dtype))
    before = Div(top, down(Sqrt(up(inner))))
    done = RaiseNorms()(graph_of(before))
    assert kinds(done) == ["LayerNormalization"]
    assert done.outputs[0].op.operands[0] is x


def test_a_gain_before_the_root() -> None:
    """x * (g / root), with the factors in both orders."""
    one_over = inverse(Add(mean(Mul(X, X)), const(EPSILON)), 0)
    for k in (Mul(one_over, GAIN), Mul(GAIN, one_over)):
        fires(r.rms_norm, Mul(X, k), rms_norm(X, GAIN), opset=23)


def test_affine_maps_with_more_terms() -> None:
    first = mean(X)
    k = Mul(Reciprocal(root(Sub(X, first))), GAIN)
    high, low = Mul(X, k), Mul(first, k)
    more = param("more", 4)
    misses(r.layer_norm_affine, Add(high, Sub(Add(BIAS, more), low)))
    misses(r.layer_norm_affine, Sub(high, Add(more, low)))
    misses(r.layer_norm_affine, Add(high, Sub(Sub(BIAS, more), low)))


def test_gains_of_unknown_dims_and_of_all() -> None:
    unknown = typed("u", TensorType(DType.F32))
    norm = layer_norm(X, ones(4))
    misses(r.layer_norm_gain, Mul(norm, unknown), "does not fit")
    x, gain = param("all", 3, 4), param("gain", 3, 4)
    whole = layer_norm(x, ones(3, 4), axis=-2)
    fires(r.layer_norm_gain, Mul(whole, gain), layer_norm(x, gain, axis=-2))


def test_a_narrow_norm_of_a_gain_that_is_data() -> None:
    half = param("half", N, 4, dtype=DType.F16)
    wide = Cast(half, to=DType.F32.value)
    norm = rms_norm(wide, param("gain", 4))
    before = Cast(norm, to=DType.F16.value)
    misses(r.narrow_norm, before, "does not hold", opset=23)


def test_an_affine_map_with_the_gain_first() -> None:
    first = mean(X)
    k = Mul(GAIN, Reciprocal(root(Sub(X, first))))
    before = Add(Mul(X, k), Sub(BIAS, Mul(first, k)))
    fires(r.layer_norm_affine, before, Add(layer_norm(X, GAIN), BIAS))


def test_a_mean_over_images_of_unknown_rank() -> None:
    pooled = GlobalAveragePool(typed("u", TensorType(DType.F32)))
    assert what_is_averaged(pooled) is None
