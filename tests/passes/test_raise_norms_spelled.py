"""Norms in every other spelling that exporters have for means, roots, gains."""

from __future__ import annotations

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
    typed,
)
from norm_spellings import (
    BIAS,
    EPSILON,
    GAIN,
    OTHER,
    X,
    centred,
    layer_norm,
    mean,
    ones,
    plain,
    rms_norm,
    root,
)

from graphopt.driver import choose
from graphopt.ir import Value
from graphopt.ops import (
    Add,
    Cast,
    Div,
    GlobalAveragePool,
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
