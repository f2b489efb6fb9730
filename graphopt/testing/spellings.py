"""Families of what exporters write: linear ops with scales, norms, shape arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from .. import dims, ops
from ..ir import Op, Value
from ..types import DType
from .growth import (
    Draw,
    along,
    extent,
    family,
    filled,
    floating,
    ints,
    known,
    known_at,
    known_dims,
    like,
    pick,
    random_of,
    ranked,
    scalar,
    shape_of,
    twin,
    weight,
)


def affine(draw: Draw, x: Value, axis: int) -> Value:
    """A scale or a shift along an axis; at times batch normalization."""
    kinds: list[type[Op]] = [ops.Mul, ops.Add, ops.Sub, ops.Div]
    kind = draw(st.sampled_from([*kinds, *[ops.BatchNormalization] * (axis == 1)]))
    if kind is ops.BatchNormalization:
        return batch_norm_of(draw, x)
    y = along(draw, x, axis) if draw(st.booleans()) else scalar(1.5, x)
    swapped = kind in (ops.Mul, ops.Add) and draw(st.booleans())
    made: Value = kind(y, x) if swapped else kind(x, y)
    return made


def batch_norm_of(draw: Draw, x: Value) -> Value:
    count, dtype = extent(x, 1), x.dtype or DType.F32
    variance = ops.Constant((random_of(draw).random(count) + 0.5).astype(dtype.numpy))
    parts = [weight(draw, (count,), dtype) for _ in range(3)]
    return ops.BatchNormalization(x, *parts, variance)


def _image(value: Value) -> bool:
    shape = shape_of(value)
    sides = all(isinstance(d, int) and d >= 2 for d in shape[2:])
    return sides and isinstance(shape[1], int) and shape[1] > 0


@family
def convolution(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, floating, ranked(3, 4), _image)
    if x is None:
        return None
    if draw(st.integers(0, 3)) == 0:
        x = affine(draw, x, 1)
    spatial = len(shape_of(x)) - 2
    if draw(st.integers(0, 2)) == 0:
        border = draw(st.sampled_from([None, 0.0, 1.0]))
        amounts = [0, 0, *[draw(st.integers(0, 1)) for _ in range(spatial)]]
        value = None if border is None else scalar(border, x)
        x = ops.Pad(x, ints(*amounts, *amounts), value)
    channels = extent(x, 1)
    groups = draw(st.sampled_from([1, channels]))
    out = groups * draw(st.integers(1, 2))
    kernel = [draw(st.integers(1, 2))] * spatial
    bias = weight(draw, (out,), x.dtype) if draw(st.booleans()) else None
    made: Value
    if draw(st.booleans()):
        shape = (out, channels // groups, *kernel)
        pads = (draw(st.integers(0, 1)),) * 2 * spatial
        kernels = weight(draw, shape, x.dtype, plain=True)
        made = ops.Conv(x, kernels, bias, group=groups, pads=pads)
    else:
        kernels = weight(draw, (channels, out // groups, *kernel), x.dtype, plain=True)
        made = ops.ConvTranspose(x, kernels, bias, group=groups)
    return affine(draw, made, 1) if draw(st.booleans()) else made


@family
def linear(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, floating, ranked(2), known_at(-1))
    if x is None:
        return None
    if draw(st.integers(0, 2)) == 0:
        x = affine(draw, x, len(shape_of(x)) - 1)
    inner, outer = extent(x, -1), draw(st.integers(1, 4))
    product: Value = ops.MatMul(x, weight(draw, (inner, outer), x.dtype, plain=True))
    if draw(st.booleans()):
        product = ops.Add(product, weight(draw, (outer,), x.dtype))
    if draw(st.booleans()):
        product = affine(draw, product, len(shape_of(product)) - 1)
    return product


@family
def matrices(draw: Draw, values: list[Value]) -> Value | None:
    """Products of transposed matrices, with a bias."""
    x = pick(draw, values, floating, ranked(2, 2), filled)
    if x is None:
        return None
    x = ops.Transpose(x) if draw(st.booleans()) else x
    other = twin(draw, values, x)
    meet = dims.equal(shape_of(x)[1], shape_of(other)[0])
    y = other if meet else ops.Transpose(other)
    if not dims.equal(shape_of(x)[1], shape_of(y)[0]):
        return None
    product: Value = ops.MatMul(x, y) if draw(st.booleans()) else ops.Gemm(x, y)
    bias = like(draw, product)
    return ops.Add(product, bias) if draw(st.booleans()) else ops.Add(bias, product)


@family
def batch_norm(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, floating, ranked(2), known_at(1))
    return None if x is None else batch_norm_of(draw, x)


@family
def pooling(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, floating, ranked(3, 4), _image)
    if x is None:
        return None
    spatial = len(shape_of(x)) - 2
    kind = draw(st.sampled_from([ops.MaxPool, ops.AveragePool]))
    if draw(st.booleans()):
        border = -np.inf if kind is ops.MaxPool else 0.0
        amounts = [0, 0, *[draw(st.integers(0, 2)) for _ in range(spatial)]]
        x = ops.Pad(x, ints(*amounts, *[0] * (spatial + 2)), scalar(border, x))
    counted = draw(st.integers(0, 1))
    more = {"count_include_pad": counted} if kind is ops.AveragePool else {}
    return kind(  # type: ignore[no-any-return]
        x,
        kernel_shape=(2,) * spatial,
        strides=(draw(st.integers(1, 2)),) * spatial,
        pads=(draw(st.integers(0, 1)),) * 2 * spatial,
        ceil_mode=draw(st.integers(0, 1)),
        **more,
    )


@family
def norm(draw: Draw, values: list[Value]) -> Value | None:
    """Layer and root-mean-square normalization, spelled out."""
    x = pick(draw, values, floating, ranked(2), known_at(-1), filled)
    if x is None:
        return None
    last = ints(-1)
    top = ops.Sub(x, ops.ReduceMean(x, last)) if draw(st.integers(0, 2)) else x
    square = ops.Pow(top, scalar(2, x)) if draw(st.booleans()) else ops.Mul(top, top)
    root = ops.Sqrt(ops.Add(ops.ReduceMean(square, last), scalar(1e-3, x)))
    made: Value = ops.Mul(top, ops.Reciprocal(root))
    if draw(st.booleans()):
        made = ops.Div(top, root)
    width = extent(x, -1)
    if draw(st.booleans()):
        made = ops.Mul(weight(draw, (width,), x.dtype), made)
    if draw(st.booleans()):
        made = ops.Add(made, weight(draw, (width,), x.dtype))
    return made


@family
def gelu(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, floating)
    if x is None:
        return None
    one, half = scalar(1, x), scalar(0.5, x)
    if draw(st.booleans()):
        curve: Value = ops.Erf(ops.Div(x, scalar(2**0.5, x)))
    else:
        cubic = ops.Mul(ops.Pow(x, scalar(3, x)), scalar(0.044715, x))
        curve = ops.Tanh(ops.Mul(ops.Add(x, cubic), scalar((2 / np.pi) ** 0.5, x)))
    bracket = ops.Add(curve, one)
    if draw(st.booleans()):
        return ops.Mul(ops.Mul(x, bracket), half)
    return ops.Mul(ops.Mul(half, x), bracket)


@family
def attention(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, floating, ranked(2, 3), filled)
    if x is None:
        return None
    rank = len(shape_of(x))
    perm = (*range(rank - 2), rank - 1, rank - 2)
    scores = ops.MatMul(x, ops.Transpose(x, perm=perm))
    return ops.MatMul(ops.Softmax(scores, axis=-1), x)


@family
def reshape_by_shape(draw: Draw, values: list[Value]) -> Value | None:
    """The shape arithmetic that exporters write: Shape, Gather, Concat, Reshape."""
    x = pick(draw, values, ranked(2, 3))
    if x is None:
        return None
    shape = ops.Shape(x)
    picked = [ops.Gather(shape, ops.Constant(np.int64(i)), axis=0) for i in range(2)]
    parts: list[Value] = [ops.Unsqueeze(p, ints(0)) for p in picked]
    rest = [ints(d) if isinstance(d, int) else ints(-1) for d in shape_of(x)[2:]]
    if 0 not in shape_of(x) and draw(st.booleans()):
        parts = [ops.Unsqueeze(ops.Mul(*picked), ints(0))]
    elif 0 not in shape_of(x)[2:] and draw(st.booleans()):  # a 0 copies the dim there
        parts.append(ints(1))
    made = ops.Concat(*parts, *rest, axis=0)
    return ops.Reshape(ops.Relu(x) if floating(x) else x, made)


@family
def merged_axes(draw: Draw, values: list[Value]) -> Value | None:
    """Dims merged, turned and split again; or spelled several times."""
    x = pick(draw, values, ranked(3, 4), known)
    if x is None:
        return None
    shape = known_dims(x)
    merged = ops.Reshape(x, ints(shape[0] * shape[1], *shape[2:]))
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return ops.Reshape(merged, ints(*shape))
    if kind == 1:
        return ops.Reshape(ops.Unsqueeze(merged, ints(0)), ints(shape[0], -1))
    rank = len(shape) - 1
    perm = (rank - 1, *range(rank - 1))
    back = [shape[-1], *shape[:-1]] if kind == 2 else [shape[-1], -1]
    return ops.Reshape(ops.Transpose(merged, perm=perm), ints(*back))


@family
def cut_again(draw: Draw, values: list[Value]) -> Value | None:
    """A part of what was glued."""
    x = pick(draw, values, ranked(1), known_at(0))
    if x is None:
        return None
    length = extent(x, 0)
    glued = ops.Concat(x, twin(draw, values, x), axis=0)
    start = draw(st.sampled_from([0, length, 1]))
    return ops.Slice(glued, ints(start), ints(start + length), ints(0))


@family
def turned(draw: Draw, values: list[Value]) -> Value | None:
    """Elementwise ops between transposes."""
    x = pick(draw, values, floating, ranked(2))
    if x is None:
        return None
    perms = st.permutations(range(len(shape_of(x))))
    made: Value = ops.Transpose(x, perm=tuple(draw(perms)))
    for _ in range(draw(st.integers(0, 2))):
        constant = like(draw, made)
        unary = draw(st.booleans())
        made = ops.Sigmoid(made) if unary else ops.Add(made, constant)
    return ops.Transpose(made, perm=tuple(draw(perms)))


@family
def sequence(draw: Draw, values: list[Value]) -> Value | Sequence[Value] | None:
    x = pick(draw, values, ranked(1), known_at(0))
    if x is None:
        return None
    kind = draw(st.integers(0, 3))
    if kind == 0:
        both = ops.SequenceConstruct(x, twin(draw, values, x))
        at = ops.Constant(np.int64(draw(st.integers(-2, 1))))
        return ops.SequenceAt(both, at), ops.SequenceLength(both)
    if kind == 1:
        both = ops.SequenceConstruct(x, twin(draw, values, x))
        return ops.ConcatFromSequence(
            both, axis=draw(st.integers(-1, 0)), new_axis=draw(st.integers(0, 1))
        )
    size = ops.Constant(np.int64(draw(st.integers(1, 2))))
    split = size if draw(st.booleans()) else None
    parts = ops.SplitToSequence(x, split, axis=0, keepdims=draw(st.integers(0, 1)))
    if kind == 2:
        return ops.SequenceAt(parts, ops.Constant(np.int64(0)))
    scalars = len(shape_of(x)) == 1 and split is None and not parts.keepdims
    return ops.ConcatFromSequence(parts, axis=0, new_axis=int(scalars))
