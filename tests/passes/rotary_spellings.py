"""Rotary embeddings as models spell them: what is turned, and how tables double."""

from __future__ import annotations

import numpy as np
from equations import N, const, ints, param, random

from graphopt.ir import Value
from graphopt.ops import (
    Add,
    Concat,
    Cos,
    Div,
    Expand,
    Gather,
    Mod,
    Mul,
    Neg,
    Reshape,
    RotaryEmbedding,
    Sin,
    Slice,
    Split,
    Squeeze,
    Sub,
    Tile,
    Unsqueeze,
)
from graphopt.types import DType

B, H, S, D = 2, 3, 5, 8
X = param("x", N, H, S, D)
BY_POSITION = param("x", N, S, H, D)
ANGLES = param("angles", N, S, D // 2)
C, SIN = Cos(ANGLES), Sin(ANGLES)
TABLE, OTHER = random(16, D // 2), random(16, D // 2, seed=1)
IDS = Mod(param("ids", N, S, dtype=DType.I64), const(16, DType.I64))


def cut(x: Value, start: int, end: int, step: int = 1, axis: int = -1) -> Value:
    return Slice(x, ints(start), ints(end), ints(axis), ints(step))


def halves(x: Value, way: int = 0) -> tuple[Value, Value]:
    """Both halves of the last axis, in four spellings."""
    size = x.shape[-1] if x.shape else None
    assert isinstance(size, int)
    if way == 0:
        return cut(x, 0, size // 2), cut(x, size // 2, 1 << 40)
    if way == 1:
        first, second = Split(x, axis=-1, num_outputs=2).results
        return first, second
    if way == 2:
        first, second = Split(x, ints(size // 2, size // 2), axis=3).results
        return first, second
    return cut(x, -size, -(size // 2)), cut(x, -(size // 2), size, axis=3)


def minus(x: Value, way: int = 0) -> Value:
    if way == 0:
        return Neg(x)
    number = const(-1.0)
    zero = Sub(const(0.0), x)
    return [Mul(x, number), Mul(number, x), Div(x, number), zero][way - 1]


def turned(x: Value, way: int = 0, sign: int = 0) -> Value:
    first, second = halves(x, way)
    return Concat(minus(second, sign), first, axis=-1)


def twice(x: Value, way: int = 0) -> Value:
    """The last axis two times in a row."""
    if way == 0:
        return Concat(x, x, axis=-1)
    repeats = [1] * ((x.rank or 0) - 1)
    return Tile(x, ints(*repeats, 2))


def by_head(table: Value, axis: int = 1) -> Value:
    return Unsqueeze(table, ints(axis))


def whole(x: Value, cosine: Value, sine: Value, way: int = 0) -> Value:
    """x * cos + turned(x) * sin, in four orders."""
    y = turned(x)
    return [
        lambda: Add(Mul(x, cosine), Mul(y, sine)),
        lambda: Add(Mul(sine, y), Mul(cosine, x)),
        lambda: Add(Mul(y, sine), Mul(x, cosine)),
        lambda: Sub(Mul(x, cosine), Mul(Neg(y), sine)),
    ][way]()


WIDE = by_head(Cos(twice(ANGLES))), by_head(Sin(twice(ANGLES)))
AFTER = RotaryEmbedding(X, C, SIN)


def const_i(number: int) -> Value:
    return const(number, DType.I64)


def stacked(a: Value, b: Value) -> Value:
    both = Concat(Unsqueeze(a, ints(-1)), Unsqueeze(b, ints(-1)), axis=-1)
    return Reshape(both, ints(0, 0, 0, D))


def doubled(x: Value, way: int) -> Value:
    """Each element of the last axis twice in a row."""
    tall = Unsqueeze(x, ints(-1))
    if way == 0:
        wide: Value = Tile(tall, ints(1, 1, 1, 2))
    elif way == 1:
        wide = Concat(tall, tall, axis=-1)
    else:
        wide = Expand(tall, ints(1, 1, 1, 2))
    return Reshape(wide, ints(0, 0, D))


def neighbours(x: Value, way: int) -> tuple[Value, Value]:
    """The even and the odd elements of the last axis."""
    if way == 0:
        return cut(x, 0, D, 2), cut(x, 1, 1 << 40, 2)
    if way == 1:
        which = [const(np.arange(i, D, 2), DType.I64) for i in (0, 1)]
        return Gather(x, which[0], axis=-1), Gather(x, which[1], axis=3)
    pairs = Reshape(x, ints(0, 0, 0, D // 2, 2))
    if way == 2:
        return (
            Gather(pairs, const_i(0), axis=-1),
            Gather(pairs, const_i(-1), axis=-1),
        )
    first, second = Split(pairs, axis=-1, num_outputs=2).results
    if way == 3:
        return Squeeze(first, ints(-1)), Squeeze(second, ints(4))
    return Reshape(first, ints(0, 0, 0, 4)), Reshape(second, ints(0, 0, 0, 4))


INTERLEAVED = RotaryEmbedding(X, C, SIN, interleaved=1)
