"""Norms by channel and by group recognised in every spelling, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from equations import N, const, fires, graph_of, ints, kinds, misses, param, random

from graphopt.dims import symbol
from graphopt.ir import Value
from graphopt.ops import (
    Abs,
    Add,
    Clip,
    Constant,
    Div,
    Expand,
    GroupNormalization,
    InstanceNormalization,
    LayerNormalization,
    LpNormalization,
    Max,
    Mul,
    Pow,
    Reciprocal,
    ReduceL1,
    ReduceL2,
    ReduceMean,
    ReduceSum,
    ReduceSumSquare,
    Reshape,
    Shape,
    Sqrt,
    Sub,
)
from graphopt.passes import raise_group_norms as r
from graphopt.passes.raise_group_norms import RaiseGroupNorms
from graphopt.passes.raise_norms import RaiseNorms
from graphopt.pipeline import Pipeline
from graphopt.types import DType

W = symbol("m")
X = param("x", N, 6, 4, W)
FLAT = param("flat", N, 6, 5)
GAIN, BIAS = random(6, 1, 1), random(6, 1, 1, seed=1)
EPSILON = 1e-3
EXACT = float(np.float32(EPSILON))


def filled(count: int, number: float) -> Constant:
    return const(np.full(count, number))


def vector_of(value: Value) -> Constant:
    assert value.constant is not None
    return const(value.constant.array().reshape(-1))


def normal(x: Value, *axes: int) -> Value:
    top = Sub(x, ReduceMean(x, ints(*axes)))
    spread = ReduceMean(Mul(top, top), ints(*axes))
    return Div(top, Sqrt(Add(spread, const(EPSILON))))


def instance(x: Value, scale: Any = None, bias: Any = None) -> Value:
    count = x.shape[1] if x.shape else None
    assert isinstance(count, int)
    scale = scale or filled(count, 1)
    return InstanceNormalization(x, scale, bias or filled(count, 0), epsilon=EXACT)


def group(x: Value, groups: int, scale: Any = None, bias: Any = None) -> Value:
    return GroupNormalization(
        *(x, scale or filled(6, 1), bias or filled(6, 0)),
        num_groups=groups,
        epsilon=EXACT,
    )


def grouped(x: Value, groups: int, *, back: Value | None = None) -> Value:
    """As exporters spell a group norm without weights."""
    split = Reshape(x, ints(0, groups, -1))
    return Reshape(instance(split), Shape(x) if back is None else back)


# --- by channel ---------------------------------------------------------------------


def test_instance_norm() -> None:
    fires(r.instance_norm, normal(X, 2, 3), instance(X))
    fires(r.instance_norm, normal(X, -1, -2), instance(X))
    top = Sub(X, ReduceMean(X, ints(2, 3)))
    spread = ReduceMean(Pow(top, const(2.0)), ints(2, 3))
    before = Mul(top, Reciprocal(Sqrt(Add(spread, const(EPSILON)))))
    fires(r.instance_norm, before, instance(X))


def test_what_is_no_instance_norm() -> None:
    misses(r.instance_norm, normal(X, 3))
    misses(r.instance_norm, normal(X, 1, 2, 3))
    misses(r.instance_norm, normal(X, 1, 2))
    misses(r.instance_norm, normal(FLAT, 2))
    open_ = param("open", 2, N, 4, 4)
    misses(r.instance_norm, normal(open_, 2, 3), "number of channels")


def test_gain_and_bias() -> None:
    scale, bias = vector_of(GAIN), vector_of(BIAS)
    for norm in (instance(X), group(X, 2)):
        weighed = norm.op.with_operands([X, scale, filled(6, 0)])
        fires(r.channel_gain, Mul(norm, GAIN), weighed, opset=21)
        fires(r.channel_gain, Mul(GAIN, norm), weighed, opset=21)
        both = norm.op.with_operands([X, scale, bias])
        fires(r.channel_bias, Add(weighed, BIAS), both, opset=21)
        fires(r.channel_bias, Add(BIAS, weighed), both, opset=21)
    more = random(1, 6, 1, 1, seed=4)
    after = instance(X, Mul(scale, vector_of(more)), Mul(bias, vector_of(more)))
    fires(r.channel_gain, Mul(instance(X, scale, bias), more), after)
    after = instance(X, scale, Add(bias, vector_of(more)))
    fires(r.channel_bias, Add(instance(X, scale, bias), more), after)
    computed = param("g", 6, 1, 1)
    after = instance(X, Reshape(computed, ints(-1)))
    fires(r.channel_gain, Mul(instance(X), computed), after)
    fires(r.channel_gain, Mul(instance(X), const(2.0)), instance(X, filled(6, 2.0)))


def test_gains_that_are_not_by_channel() -> None:
    for factor in (random(4, 1), param("other", N, 6, 4, W), random(6, 4, 1)):
        misses(r.channel_gain, Mul(instance(X), factor), "one number for each")
        misses(r.channel_bias, Add(instance(X), factor), "one number for each")
    both = Mul(instance(X), GAIN), instance(X)
    misses(r.channel_gain, both, "read elsewhere")
    misses(r.channel_bias, (Add(instance(X), BIAS), instance(X)), "read elsewhere")


def test_of_three_dims() -> None:
    """A layer norm, until it is weighed by channel."""
    gain, bias = random(6, 1), random(6, 1, seed=1)
    spelled = Add(Mul(normal(FLAT, 2), gain), bias)
    passes = Pipeline((RaiseGroupNorms(), RaiseNorms()))
    done = passes(graph_of(spelled))
    after = instance(FLAT, vector_of(gain), vector_of(bias))
    assert done.outputs == (after,)
    last = random(5)
    done = passes(graph_of(Mul(normal(FLAT, 2), last)))
    assert kinds(done) == ["LayerNormalization"]


# --- by group -----------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_group_norm(groups: int) -> None:
    fires(r.group_norm, grouped(X, groups), group(X, groups), opset=21)
    back = ints(0, 6, 4, -1)
    fires(r.group_norm, grouped(X, groups, back=back), group(X, groups), opset=21)


def test_group_norm_by_arithmetic() -> None:
    """Groups with their channels and places apart; then all of the arithmetic."""
    x = param("fixed", N, 6, 4, 5)
    split = Reshape(x, ints(0, 2, 3, 4, 5))
    spelled = Reshape(normal(split, 2, 3, 4), ints(0, 6, 4, 5))
    before = Add(Mul(spelled, GAIN), BIAS)
    after = group(x, 2, vector_of(GAIN), vector_of(BIAS))
    assert RaiseGroupNorms()(graph_of(before, opset=21)).outputs == (after,)
    split = Reshape(x, ints(0, 2, -1))
    spelled = Reshape(normal(split, -1), ints(0, 6, 4, 5))
    before = Add(Mul(spelled, GAIN), BIAS)
    passes = Pipeline((RaiseGroupNorms(), RaiseNorms()))
    assert passes(graph_of(before, opset=21)).outputs == (after,)


def test_what_is_no_group_norm() -> None:
    misses(r.group_norm, grouped(X, 2), opset=20)
    fixed = param("fixed", N, 6, 4, 4)
    split = Reshape(fixed, ints(0, 4, -1))
    before = Reshape(instance(split), Shape(fixed))
    misses(r.group_norm, before, "do not divide", opset=21)
    empty = param("empty", 2, 0, 4, 4)
    none = Reshape(instance(Reshape(empty, ints(2, 0, 16))), ints(2, 0, 4, 4))
    misses(r.group_norm, none, "divide", opset=21)
    split = Reshape(fixed, ints(0, 2, -1))
    weighed = Reshape(instance(split, filled(2, 2.0)), Shape(fixed))
    misses(r.group_norm, weighed, "weighed by itself", opset=21)
    elsewhere = Reshape(instance(split), ints(0, 4, 4, 6))
    misses(r.group_norm, elsewhere, opset=21)
    spread = Reshape(fixed, ints(-1, 2, 6))
    before = Reshape(instance(spread), Shape(fixed))
    misses(r.group_norm, before, "not of channels", opset=21)
    both = grouped(fixed, 2), instance(Reshape(fixed, ints(0, 2, -1)))
    misses(r.group_norm, both, "read elsewhere", opset=21)


def test_a_layer_norm_of_groups_that_is_weighed_otherwise() -> None:
    x = param("fixed", N, 6, 4, 5)
    split = Reshape(x, ints(0, 2, 60))
    norm = LayerNormalization(split, filled(60, 1), axis=-1, epsilon=EXACT)
    before = Mul(Reshape(norm, ints(0, 6, 4, 5)), random(5))
    misses(r.channel_gain, before, opset=21)


# --- vectors of length one ----------------------------------------------------------


def test_length_one() -> None:
    for norm in (
        ReduceL2(FLAT, ints(1)),
        Sqrt(ReduceSumSquare(FLAT, ints(1))),
        Sqrt(ReduceSum(Mul(FLAT, FLAT), ints(-2))),
        Sqrt(ReduceSum(Pow(FLAT, const(2.0)), ints(1))),
    ):
        fires(r.length_one, Div(FLAT, norm), LpNormalization(FLAT, axis=-2, p=2))
    for norm in (ReduceL1(FLAT, ints(2)), ReduceSum(Abs(FLAT), ints(-1))):
        fires(r.length_one, Div(FLAT, norm), LpNormalization(FLAT, axis=-1, p=1))


def test_what_is_not_of_length_one() -> None:
    length = ReduceL2(FLAT, ints(1))
    tiny = const(1e-12)
    for held in (
        Clip(length, tiny),
        Max(length, tiny),
        Add(length, tiny),
        Expand(Clip(length, tiny), Shape(FLAT)),
    ):
        misses(r.length_one, Div(FLAT, held), "shorter than the bound")
    other = param("other", N, 6, 5)
    misses(r.length_one, Div(other, length))
    misses(r.length_one, Div(FLAT, ReduceL2(FLAT, ints(1, 2))))
    square = param("square", 5, 5)
    misses(r.length_one, Div(square, ReduceL2(square, ints(1), keepdims=0)))
    whole = param("whole", 5, 5, dtype=DType.I64)
    misses(r.length_one, Div(whole, ReduceL2(whole, ints(1))), "has no")


def test_each_rule_has_a_case() -> None:
    tested = {
        r.instance_norm,
        r.group_norm,
        r.channel_gain,
        r.channel_bias,
        r.length_one,
    }
    assert set(r.RULES) == tested


def test_groups_of_one_line() -> None:
    """Of three dims, and of a norm that has a bias already."""
    fires(r.group_norm, grouped(FLAT, 2), group(FLAT, 2), opset=21)
    x = param("fixed", N, 6, 4, 5)
    split = Reshape(x, ints(0, 2, 60))
    for bias in (None, filled(60, 1)):
        norm = LayerNormalization(split, filled(60, 1), bias, axis=-1, epsilon=EXACT)
        before = Mul(Reshape(norm, ints(0, 6, 4, 5)), GAIN)
        if bias is None:
            after = group(x, 2, vector_of(GAIN))
            fires(r.channel_gain, before, after, opset=21)
        else:
            misses(r.channel_gain, before, opset=21)
