"""Families of ops, one op or two each: the alphabet of random graphs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from .. import ops
from ..ir import Op, Value
from ..types import DType
from .growth import (
    MAX_RANK,
    Draw,
    boolean,
    extent,
    family,
    filled,
    floating,
    integral,
    ints,
    known,
    known_at,
    known_dims,
    like,
    numeric,
    pick,
    random_of,
    ranked,
    scalar,
    shape_of,
    twin,
    weight,
)

_UNARY: list[type[Op]] = [
    ops.Relu,
    ops.Neg,
    ops.Abs,
    ops.Tanh,
    ops.Sigmoid,
    ops.Erf,
    ops.Floor,
    ops.Ceil,
    ops.Round,
    ops.Sign,
    ops.Identity,
    ops.Softplus,
    ops.LeakyRelu,
    ops.HardSigmoid,
    ops.Sin,
    ops.Dropout,
]
_BINARY: list[type[Op]] = [ops.Add, ops.Mul, ops.Sub, ops.Max, ops.Min, ops.Sum]


@family
def unary(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, floating)
    if x is None:
        return None
    made: Value = draw(st.sampled_from(_UNARY))(x)
    if draw(st.booleans()):
        made = draw(st.sampled_from([ops.Relu, ops.Neg, ops.Abs, ops.Sign]))(made)
    return made


@family
def binary(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, numeric)
    if x is None:
        return None
    y = twin(draw, values, x) if draw(st.booleans()) else like(draw, x)
    op = draw(st.sampled_from(_BINARY if floating(x) else _BINARY[:5]))
    made: Value = op(x, y) if draw(st.booleans()) else op(y, x)
    return made


@family
def stretched(draw: Draw, values: list[Value]) -> Value | None:
    """Arithmetic with a neutral constant that is larger than the value."""
    x = pick(draw, values, floating, ranked(1, 2))
    if x is None:
        return None
    wide = [3 if d == 1 else d for d in shape_of(x)]
    shape = [2, *(d if isinstance(d, int) else 1 for d in wide)]
    kind = draw(st.sampled_from([ops.Add, ops.Mul, ops.Div, ops.Sub]))
    number = 1.0 if kind in (ops.Mul, ops.Div) else 0.0
    made: Value = kind(x, ops.Constant(np.full(shape, number, x.dtype.numpy)))
    return made


@family
def scaled(draw: Draw, values: list[Value]) -> Value | None:
    x: Value | None = pick(draw, values, numeric)
    if x is None:
        return None
    numbers = [1.0, 2.0, -1.0, 3.0, 0.0, -0.0, 0.5]
    for _ in range(draw(st.integers(1, 2))):
        number = draw(st.sampled_from(numbers if floating(x) else numbers[:5]))
        kinds = [ops.Mul, ops.Add, ops.Sub, *([ops.Div] if number else [])]
        x = draw(st.sampled_from(kinds))(x, scalar(number, x))
    return x


@family
def power(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, floating)
    exponent = draw(st.sampled_from([1.0, 2.0, 3.0]))
    return None if x is None else ops.Pow(x, scalar(exponent, x))


@family
def variadic(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, floating)
    if x is None:
        return None
    operands = [twin(draw, values, x) for _ in range(draw(st.integers(1, 3)))]
    made: Value = draw(st.sampled_from([ops.Sum, ops.Mean, ops.Max]))(*operands)
    return made


@family
def clip(draw: Draw, values: list[Value]) -> Value | None:
    x: Value | None = pick(draw, values, floating)
    if x is None:
        return None
    x = ops.Relu(x) if draw(st.booleans()) else x
    for _ in range(draw(st.integers(1, 2))):
        low, high = (draw(st.sampled_from([None, -1.0, 0.0, 2.0])) for _ in range(2))
        x = ops.Clip(x, *[None if b is None else scalar(b, x) for b in (low, high)])
    return x


@family
def comparison(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, numeric)
    kinds: list[type[Op]] = [ops.Less, ops.Greater, ops.Equal, ops.LessOrEqual]
    return None if x is None else draw(st.sampled_from(kinds))(x, like(draw, x))


@family
def logic(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, boolean)
    if x is None:
        return None
    kind = draw(st.sampled_from([ops.Not, ops.And, ops.Or, ops.Xor]))
    if kind is ops.Not:
        return ops.Not(x)
    y = twin(draw, values, x) if draw(st.booleans()) else like(draw, x)
    made: Value = kind(x, y)
    return made


@family
def where(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, floating)
    if x is None:
        return None
    fitting = [v for v in values if boolean(v) and v.shape == x.shape]
    condition = pick(draw, fitting)
    if condition is None or not draw(st.integers(0, 3)):
        condition = ops.Constant(np.array(draw(st.booleans())))
    if draw(st.booleans()):
        condition = ops.Not(condition)
    y = draw(st.sampled_from([x, like(draw, x), twin(draw, values, x)]))
    pair = (x, y) if draw(st.booleans()) else (y, x)
    return ops.Where(condition, *pair)


@family
def cast(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, lambda v: numeric(v) or boolean(v))
    if x is None:
        return None
    wider = {
        DType.F16: [DType.F32, DType.F64],
        DType.F32: [DType.F64],
        DType.F64: [DType.F64],
        DType.I32: [DType.I64, DType.F64],
        DType.I64: [DType.I64],
        DType.BOOL: [DType.F32, DType.I64, DType.I32, DType.F16],
    }[x.dtype]
    x = ops.Cast(x, to=draw(st.sampled_from(wider)))
    if draw(st.booleans()):
        return ops.CastLike(x, pick(draw, values, numeric) or x)
    narrower = [DType.F32, DType.F64, DType.I32, DType.I64, DType.BOOL]
    if draw(st.booleans()):
        x = ops.Cast(x, to=draw(st.sampled_from(narrower)))
    return x


@family
def reduce(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, floating, ranked(1), filled)
    if x is None:
        return None
    axes = draw(st.sets(st.integers(-len(shape_of(x)), -1), max_size=2))
    kinds: list[type[Op]] = [
        ops.ReduceSum,
        ops.ReduceMean,
        ops.ReduceMax,
        ops.ReduceMin,
        ops.ReduceL2,
    ]
    kind, keep = draw(st.sampled_from(kinds)), draw(st.integers(0, 1))
    made: Value = kind(x, ints(*sorted(axes)) if axes else None, keepdims=keep)
    return made


@family
def softmax(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, floating, ranked(1))
    if x is None:
        return None
    axis = draw(st.integers(-len(shape_of(x)), len(shape_of(x)) - 1))
    made: Value = draw(st.sampled_from([ops.Softmax, ops.LogSoftmax]))(x, axis=axis)
    return made


@family
def matmul(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, floating, ranked(2), known_at(-1))
    if x is None:
        return None
    shape = (extent(x, -1), draw(st.integers(1, 4)))
    return ops.MatMul(x, weight(draw, shape, x.dtype, plain=True))


@family
def gemm(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, floating, ranked(2, 2), known_at(1))
    if x is None:
        return None
    inner, outer = extent(x, 1), draw(st.integers(1, 4))
    turned = draw(st.integers(0, 1))
    shape = (outer, inner) if turned else (inner, outer)
    biases = [None, (), (1,), (outer,), (1, outer)]
    bias = draw(st.sampled_from(biases))
    return ops.Gemm(
        x,
        weight(draw, shape, x.dtype, plain=True),
        None if bias is None else weight(draw, bias, x.dtype),
        transB=turned,
        alpha=draw(st.sampled_from([1.0, 0.5])),
        beta=draw(st.sampled_from([1.0, 2.0])),
    )


@family
def transpose(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, ranked(1))
    if x is None:
        return None
    rank = len(shape_of(x))
    return ops.Transpose(x, perm=tuple(draw(st.permutations(range(rank)))))


@family
def reshape(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, ranked(1))
    if x is None:
        return None
    shape = shape_of(x)
    kind = draw(st.sampled_from(["flatten", "merge", "unsqueeze", "squeeze", "same"]))
    if kind == "flatten":
        return ops.Flatten(x, axis=draw(st.integers(0, len(shape))))
    if kind == "unsqueeze" and len(shape) < MAX_RANK:
        return ops.Unsqueeze(x, ints(draw(st.integers(0, len(shape)))))
    if kind == "squeeze" and 1 in shape:
        return ops.Squeeze(x, ints(shape.index(1)))
    if kind == "merge" and len(shape) > 1 and filled(x):
        return ops.Reshape(x, ints(*([0] * (len(shape) - 2)), -1))
    if kind == "same" and known(x) and len(shape) < MAX_RANK:
        return ops.Reshape(x, ints(*known_dims(x), 1))
    return ops.Reshape(x, ints(*[0] * len(shape)))


@family
def expand(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, ranked(1, 3))
    if x is None:
        return None
    wide = [d if isinstance(d, int) and d != 1 else 1 for d in shape_of(x)]
    made = ops.Expand(x, ints(*[2] * draw(st.integers(0, 1)), *wide))
    if draw(st.booleans()) and floating(x):
        return ops.Add(made, weight(draw, made_dims(made), x.dtype))
    return made


def made_dims(value: Value) -> list[int]:
    """The dims of a value, 1 for those that are not known."""
    return [d if isinstance(d, int) else 1 for d in shape_of(value)]


@family
def tile(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, ranked(1, 3))
    if x is None:
        return None
    return ops.Tile(x, ints(*[draw(st.sampled_from([1, 1, 2])) for _ in shape_of(x)]))


@family
def concat(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, ranked(1))
    if x is None:
        return None
    axis = draw(st.integers(-len(shape_of(x)), len(shape_of(x)) - 1))
    operands = [twin(draw, values, x) for _ in range(draw(st.integers(1, 3)))]
    if draw(st.integers(0, 3)) == 0:
        operands[0] = ops.Concat(*operands, axis=axis)
    if len(shape_of(x)) == 1 and draw(st.booleans()):
        operands += [weight(draw, (n,), x.dtype) for n in (1, 2)]
    elif draw(st.booleans()) and all(isinstance(d, int) for d in shape_of(x)):
        empty = known_dims(x)
        empty[axis] = 0
        operands.append(ops.Constant(np.zeros(empty, x.dtype.numpy)))
    return ops.Concat(*operands, axis=axis)


@family
def split(draw: Draw, values: list[Value]) -> Sequence[Value] | None:
    x = pick(draw, values, ranked(1), lambda v: _long_axis(v) is not None)
    if x is None:
        return None
    axis = _long_axis(x)
    assert axis is not None
    length = extent(x, axis)
    if draw(st.integers(0, 3)) == 0:
        return ops.Split(x, ints(length), axis=axis).results
    first = draw(st.integers(1, length - 1))
    parts = ops.Split(x, ints(first, length - first), axis=axis).results
    return (ops.Concat(*parts, axis=axis),) if draw(st.booleans()) else parts


def _long_axis(value: Value) -> int | None:
    """The first axis of a known extent of two or more."""
    for i, dim in enumerate(shape_of(value)):
        if isinstance(dim, int) and dim >= 2:
            return i
    return None


@family
def slice_(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, ranked(1))
    if x is None:
        return None
    axis = draw(st.integers(0, len(shape_of(x)) - 1))
    step = draw(st.sampled_from([1, 1, 2, -1]))
    start = draw(st.sampled_from([0, 0, 1, -2, -3]))
    end = draw(st.sampled_from([2**62, 2**62, -1, 1, 2]))
    if step < 0:
        start, end = -1, -(2**62)
    return ops.Slice(x, ints(start), ints(end), ints(axis), ints(step))


@family
def pad(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, floating, ranked(1, 3))
    if x is None:
        return None
    most = draw(st.integers(0, 2))
    amounts = [draw(st.integers(0, most)) for _ in range(2 * len(shape_of(x)))]
    border = draw(st.sampled_from([None, 0.0, 1.5]))
    return ops.Pad(x, ints(*amounts), None if border is None else scalar(border, x))


@family
def gather(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, ranked(1), known_at(0))
    if x is None:
        return None
    length = extent(x, 0)
    shape = draw(st.sampled_from([(), (1,), (3,), (2, 2), None]))
    if shape is None:
        return ops.Gather(x, ints(*range(length)), axis=0)
    if len(shape) + len(shape_of(x)) - 1 > MAX_RANK:
        return None
    picked = random_of(draw).integers(-length, length, shape)
    return ops.Gather(x, ops.Constant(picked), axis=0)


@family
def constants(draw: Draw, values: list[Value]) -> Value | None:
    """Ops on constants alone, integers among them: overflow and division count."""
    if draw(st.booleans()):
        shape = draw(st.sampled_from([(), (2,), (2, 3)]))
        a, b = weight(draw, shape), weight(draw, shape)
        kind = draw(st.sampled_from([ops.Add, ops.Mul, ops.Sub, ops.Div, ops.Max]))
        made: Value = kind(a, b)
        return made
    big = [2**31 - 1, -(2**31), 7, -7, 2, 3]
    left, right = (np.array(draw(st.sampled_from(big)), np.int32) for _ in range(2))
    kind = draw(st.sampled_from([ops.Add, ops.Mul, ops.Sub, ops.Div, ops.Mod]))
    made = kind(ops.Constant(left), ops.Constant(right))
    return made


@family
def integer_division(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, integral)
    number = draw(st.sampled_from([1, 2, -3]))
    return None if x is None else ops.Div(x, scalar(number, x))


@family
def random(draw: Draw, values: list[Value]) -> Value | None:
    """Random ops: nothing may merge, fold or drop them."""
    x = pick(draw, values, lambda v: v.dtype is DType.F32, ranked(1))
    if x is None:
        return None
    taken = [v.op.token for v in values if v.op is not None]
    token = 1 + max(taken, default=0)
    if draw(st.booleans()):
        return ops.RandomNormalLike(x, token=token)
    training = ops.Constant(np.array(True))
    return ops.Dropout(x, ops.Constant(np.float32(0.5)), training, token=token)


@family
def size_of(draw: Draw, values: list[Value]) -> Value | None:
    """Numbers that are dims."""
    x = pick(draw, values, ranked(1))
    if x is None:
        return None
    shape = ops.Shape(x)
    at = draw(st.integers(0, len(shape_of(x)) - 1))
    one = ops.Gather(shape, ops.Constant(np.int64(at)), axis=0)
    kind = draw(st.sampled_from([ops.Add, ops.Mul, ops.Div]))
    half = kind(one, ops.Constant(np.int64(2)))
    return (shape, one, half)[draw(st.integers(0, 2))]
