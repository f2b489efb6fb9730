"""Norms written out, as exporters do: what their tests build on."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from equations import (
    N,
    const,
    ints,
    param,
    random,
)

from graphopt.ir import Value
from graphopt.ops import (
    Add,
    Constant,
    Div,
    LayerNormalization,
    Mul,
    Pow,
    Reciprocal,
    ReduceMean,
    RMSNormalization,
    Sqrt,
    Sub,
)

X = param("x", N, 3, 4)
LONG: Any = cast("Any", N) + 1
OTHER = param("other", N, 3, 4)
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
