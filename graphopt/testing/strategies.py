"""Hypothesis strategies: random valid graphs, all op families, and inputs for them.

Graphs are grown op by op: each family looks at the values that are there and adds one
op that fits them. Dims may be symbolic, zero, or absent (rank 0); values are shared,
some are outputs, some stay unused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from hypothesis import strategies as st

from .. import dims, ops
from ..dims import Dim
from ..ir import Graph, Header, Op, Parameter, Value
from ..types import DType, TensorType, tensor

Draw: TypeAlias = Callable[[st.SearchStrategy[Any]], Any]
Family: TypeAlias = "Callable[[Draw, list[Value]], Value | Sequence[Value] | None]"

MAX_RANK = 4
MAX_ELEMENTS = 4096

families: dict[str, Family] = {}
"""What grows a graph, by name; add a function to make graphs with ops of your own."""


def family(function: Family) -> Family:
    """Register a function that adds an op to the values there are (None: none fits)."""
    families[getattr(function, "__name__", "family")] = function
    return function


def _pick(draw: Draw, values: Sequence[Value], *tests: Callable[[Value], bool]) -> Any:
    """One of the values that pass all tests, None where there is none."""
    fitting = [v for v in values if all(test(v) for test in tests)]
    return draw(st.sampled_from(fitting)) if fitting else None


def _float(value: Value) -> bool:
    return value.dtype is DType.F32


def _integer(value: Value) -> bool:
    return value.dtype is DType.I64


def _bool(value: Value) -> bool:
    return value.dtype is DType.BOOL


def _ranked(low: int, high: int = MAX_RANK) -> Callable[[Value], bool]:
    return lambda v: v.rank is not None and low <= v.rank <= high


def _dims(value: Value) -> tuple[Dim, ...]:
    assert value.shape is not None
    return value.shape


def _like(draw: Draw, value: Value, dtype: DType | None = None) -> ops.Constant:
    """A constant that broadcasts with a value without stretching it."""
    shape = [
        d if isinstance(d, int) and draw(st.booleans()) else 1 for d in _dims(value)
    ]
    drop = draw(st.integers(0, len(shape)))
    return weight(draw, shape[drop:], dtype or value.dtype or DType.F32)


def weight(draw: Draw, shape: Sequence[int], dtype: DType = DType.F32) -> ops.Constant:
    """A constant of small numbers, special ones among them."""
    seed = draw(st.integers(0, 2**16))
    random = np.random.default_rng(seed)
    if dtype is DType.BOOL:
        return ops.Constant(random.random(shape) < 0.5)
    if not dtype.is_float:
        return ops.Constant(random.integers(-3, 4, shape).astype(dtype.numpy))
    kind = draw(st.sampled_from(["normal", "normal", "zero", "one", "minus zero"]))
    if kind == "normal":
        return ops.Constant(random.normal(size=shape).astype(dtype.numpy))
    fill = {"zero": 0.0, "one": 1.0, "minus zero": -0.0}[kind]
    return ops.Constant(np.full(shape, fill, dtype.numpy))


def _ints(*numbers: int) -> ops.Constant:
    return ops.Constant(np.array(numbers, np.int64))


@family
def unary(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, _float)
    kinds: list[type[Op]] = [
        ops.Relu,
        ops.Neg,
        ops.Abs,
        ops.Tanh,
        ops.Sigmoid,
        ops.Erf,
        ops.Floor,
        ops.Identity,
        ops.Softplus,
        ops.LeakyRelu,
        ops.Sin,
        ops.Dropout,
    ]
    return None if x is None else draw(st.sampled_from(kinds))(x)


@family
def binary(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, lambda v: _float(v) or _integer(v))
    if x is None:
        return None
    same = [v for v in values if v.dtype is x.dtype and v.shape == x.shape]
    y = draw(st.sampled_from(same)) if draw(st.booleans()) else _like(draw, x)
    kinds = [ops.Add, ops.Mul, ops.Sub, ops.Max, ops.Min]
    op = draw(st.sampled_from(kinds))
    made: Value = op(x, y) if draw(st.booleans()) else op(y, x)
    return made


@family
def divided(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, _float)
    number = draw(st.sampled_from([1.0, 2.0, 0.5, -1.0, 3.0]))
    kind = draw(st.sampled_from([ops.Div, ops.Mul, ops.Add, ops.Sub]))
    return None if x is None else kind(x, ops.Constant(np.float32(number)))


@family
def power(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, _float)
    exponent = draw(st.sampled_from([1.0, 2.0, 3.0]))
    return None if x is None else ops.Pow(x, ops.Constant(np.float32(exponent)))


@family
def clip(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, _float)
    low, high = (draw(st.sampled_from([None, -1.0, 0.0, 2.0])) for _ in range(2))
    bounds = [None if b is None else ops.Constant(np.float32(b)) for b in (low, high)]
    return None if x is None else ops.Clip(x, *bounds)


@family
def comparison(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, lambda v: _float(v) or _integer(v))
    kinds: list[type[Op]] = [ops.Less, ops.Greater, ops.Equal, ops.LessOrEqual]
    return None if x is None else draw(st.sampled_from(kinds))(x, _like(draw, x))


@family
def logic(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, _bool)
    if x is None:
        return None
    if draw(st.booleans()):
        return ops.Not(x)
    return draw(st.sampled_from([ops.And, ops.Or]))(x, _like(draw, x, DType.BOOL))


@family
def where(draw: Draw, values: list[Value]) -> Value | None:
    condition = _pick(draw, values, _bool)
    if condition is None:
        return None
    x = _pick(draw, values, _float, lambda v: v.shape == condition.shape)
    if x is None:
        return None
    y = _like(draw, x)
    return (
        ops.Where(condition, x, y)
        if draw(st.booleans())
        else ops.Where(condition, y, x)
    )


@family
def cast(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, lambda v: _float(v) or _integer(v) or _bool(v))
    if x is None:
        return None
    allowed = {
        DType.F32: [DType.F32, DType.F64],
        DType.I64: [DType.I64, DType.I32, DType.F32, DType.BOOL],
        DType.BOOL: [DType.F32, DType.I64, DType.BOOL],
    }[x.dtype]
    made = ops.Cast(x, to=draw(st.sampled_from(allowed)))
    return ops.Cast(made, to=x.dtype) if made.dtype is DType.F64 else made


@family
def reduce(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, _float, _ranked(1), _no_zero)
    if x is None:
        return None
    axes = draw(st.sets(st.integers(-len(_dims(x)), -1), max_size=2))
    kinds: list[type[Op]] = [
        ops.ReduceSum,
        ops.ReduceMean,
        ops.ReduceMax,
        ops.ReduceMin,
        ops.ReduceL2,
    ]
    kind, keep = draw(st.sampled_from(kinds)), draw(st.integers(0, 1))
    return kind(x, _ints(*sorted(axes)) if axes else None, keepdims=keep)


def _no_zero(value: Value) -> bool:
    return all(dims.at_least(d, 1) for d in _dims(value))


@family
def softmax(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, _float, _ranked(1))
    if x is None:
        return None
    axis = draw(st.integers(-len(_dims(x)), len(_dims(x)) - 1))
    return draw(st.sampled_from([ops.Softmax, ops.LogSoftmax]))(x, axis=axis)


@family
def matmul(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, _float, _ranked(2), lambda v: _static(v, -1))
    if x is None:
        return None
    inner, outer = int(_dims(x)[-1] or 0), draw(st.integers(1, 4))
    product = ops.MatMul(x, weight(draw, (inner, outer)))
    return ops.Add(product, weight(draw, (outer,))) if draw(st.booleans()) else product


@family
def gemm(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, _float, _ranked(2, 2), lambda v: _static(v, 1))
    if x is None:
        return None
    inner, outer = int(_dims(x)[1] or 0), draw(st.integers(1, 4))
    turned = draw(st.integers(0, 1))
    shape = (outer, inner) if turned else (inner, outer)
    bias = weight(draw, (outer,)) if draw(st.booleans()) else None
    alpha = draw(st.sampled_from([1.0, 0.5]))
    return ops.Gemm(x, weight(draw, shape), bias, transB=turned, alpha=alpha)


def _static(value: Value, axis: int) -> bool:
    return isinstance(_dims(value)[axis], int)


@family
def attention(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, _float, _ranked(2, 3))
    if x is None:
        return None
    rank = len(_dims(x))
    perm = (*range(rank - 2), rank - 1, rank - 2)
    scores = ops.MatMul(x, ops.Transpose(x, perm=perm))
    return ops.MatMul(ops.Softmax(scores, axis=-1), x)


@family
def transpose(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, _ranked(1))
    if x is None:
        return None
    return ops.Transpose(x, perm=tuple(draw(st.permutations(range(len(_dims(x)))))))


@family
def reshape(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, _ranked(1))
    if x is None:
        return None
    shape = _dims(x)
    kind = draw(st.sampled_from(["flatten", "merge", "unsqueeze", "squeeze", "same"]))
    if kind == "flatten":
        return ops.Flatten(x, axis=draw(st.integers(0, len(shape))))
    if kind == "unsqueeze" and len(shape) < MAX_RANK:
        return ops.Unsqueeze(x, _ints(draw(st.integers(0, len(shape)))))
    if kind == "squeeze" and 1 in shape:
        return ops.Squeeze(x, _ints(shape.index(1)))
    if kind == "merge" and len(shape) > 1 and all(dims.at_least(d, 1) for d in shape):
        return ops.Reshape(x, _ints(*([0] * (len(shape) - 2)), -1))
    return ops.Reshape(x, _ints(*[0] * len(shape)))


@family
def reshape_by_shape(draw: Draw, values: list[Value]) -> Value | None:
    """The shape arithmetic that exporters write: Shape, Gather, Concat, Reshape."""
    x = _pick(draw, values, _ranked(2, 3))
    if x is None:
        return None
    shape = ops.Shape(x)
    picked = [ops.Gather(shape, ops.Constant(np.int64(i)), axis=0) for i in range(2)]
    parts = [ops.Unsqueeze(p, _ints(0)) for p in picked]
    rest = [_ints(d) if isinstance(d, int) else _ints(-1) for d in _dims(x)[2:]]
    split = [_ints(1)] if draw(st.booleans()) else []
    return ops.Reshape(x, ops.Concat(*parts, *split, *rest, axis=0))


@family
def expand(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, _ranked(1))
    if x is None:
        return None
    target = [d if isinstance(d, int) and d != 1 else 1 for d in _dims(x)]
    target = [draw(st.sampled_from([1, 2])) if d == 1 else d for d in target]
    for i, dim in enumerate(_dims(x)):
        if not isinstance(dim, int):
            target[i] = 1
    return ops.Expand(x, _ints(*target))


@family
def concat(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, _ranked(1))
    if x is None:
        return None
    axis = draw(st.integers(0, len(_dims(x)) - 1))
    same = [v for v in values if v.dtype is x.dtype and v.shape == x.shape]
    count = draw(st.integers(1, 3))
    return ops.Concat(*[draw(st.sampled_from(same)) for _ in range(count)], axis=axis)


@family
def split(draw: Draw, values: list[Value]) -> Sequence[Value] | None:
    x = _pick(draw, values, _ranked(1), lambda v: _axis_of_two(v) is not None)
    if x is None:
        return None
    axis = _axis_of_two(x)
    assert axis is not None
    extent = int(_dims(x)[axis] or 0)
    first = draw(st.integers(1, extent - 1))
    return ops.Split(x, _ints(first, extent - first), axis=axis).results


def _axis_of_two(value: Value) -> int | None:
    for i, dim in enumerate(_dims(value)):
        if isinstance(dim, int) and dim >= 2:
            return i
    return None


@family
def slice_(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, _ranked(1))
    if x is None:
        return None
    axis = draw(st.integers(0, len(_dims(x)) - 1))
    start, end = draw(st.integers(-3, 3)), draw(st.sampled_from([-1, 1, 2, 2**62]))
    step = draw(st.sampled_from([1, 1, 2, -1]))
    if step < 0:
        start, end = -1, -(2**62)
    return ops.Slice(x, _ints(start), _ints(end), _ints(axis), _ints(step))


@family
def pad(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, _float, _ranked(1, 3))
    if x is None:
        return None
    amounts = [draw(st.integers(0, 2)) for _ in range(2 * len(_dims(x)))]
    border = draw(st.sampled_from([None, 0.0, 1.5]))
    value = None if border is None else ops.Constant(np.float32(border))
    return ops.Pad(x, _ints(*amounts), value)


@family
def gather(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, _ranked(1), lambda v: _static(v, 0), _no_zero)
    if x is None:
        return None
    extent = int(_dims(x)[0] or 0)
    shape = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    if len(shape) + len(_dims(x)) - 1 > MAX_RANK:
        return None
    seed = draw(st.integers(0, 99))
    picked = np.random.default_rng(seed).integers(-extent, extent, shape)
    return ops.Gather(x, ops.Constant(picked), axis=0)


@family
def convolution(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, _float, _ranked(3, 4), lambda v: _static(v, 1), _no_zero)
    if x is None or not all(isinstance(d, int) and d >= 2 for d in _dims(x)[2:]):
        return None
    channels = int(_dims(x)[1] or 0)
    spatial = len(_dims(x)) - 2
    groups = draw(st.sampled_from([1, channels]))
    kernel = draw(st.sampled_from([1, 2]))
    out = groups * draw(st.integers(1, 2))
    shape = (out, channels // groups, *[kernel] * spatial)
    bias = weight(draw, (out,)) if draw(st.booleans()) else None
    pads = draw(st.sampled_from([0, 1]))
    made: Value = ops.Conv(
        x, weight(draw, shape), bias, group=groups, pads=(pads,) * 2 * spatial
    )
    if draw(st.booleans()):
        made = _batch_norm(draw, made, out)
    return made


def _batch_norm(draw: Draw, x: Value, channels: int) -> Value:
    variance = np.random.default_rng(draw(st.integers(0, 99))).random(channels) + 0.5
    parts = [weight(draw, (channels,)) for _ in range(3)]
    return ops.BatchNormalization(x, *parts, ops.Constant(variance.astype(np.float32)))


@family
def batch_norm(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, _float, _ranked(2), lambda v: _static(v, 1), _no_zero)
    return None if x is None else _batch_norm(draw, x, int(_dims(x)[1] or 0))


@family
def pooling(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, _float, _ranked(3, 4), _no_zero)
    if x is None or not all(isinstance(d, int) and d >= 2 for d in _dims(x)[2:]):
        return None
    spatial = len(_dims(x)) - 2
    kind = draw(st.sampled_from([ops.MaxPool, ops.AveragePool]))
    return kind(x, kernel_shape=(2,) * spatial, strides=(1,) * spatial)


@family
def layer_norm(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, _float, _ranked(2), lambda v: _static(v, -1), _no_zero)
    if x is None:
        return None
    last = _ints(-1)
    centred = ops.Sub(x, ops.ReduceMean(x, last))
    square = ops.Pow(centred, ops.Constant(np.float32(2)))
    variance = ops.ReduceMean(square, last)
    root = ops.Sqrt(ops.Add(variance, ops.Constant(np.float32(1e-5))))
    return ops.Mul(ops.Div(centred, root), weight(draw, (int(_dims(x)[-1] or 0),)))


@family
def gelu(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, _float)
    if x is None:
        return None
    root = ops.Constant(np.float32(np.sqrt(2)))
    one, half = ops.Constant(np.float32(1)), ops.Constant(np.float32(0.5))
    bracket = ops.Add(ops.Erf(ops.Div(x, root)), one)
    return ops.Mul(ops.Mul(x, bracket), half)


@family
def branch(draw: Draw, values: list[Value]) -> Value | None:
    x = _pick(draw, values, _float)
    condition = _pick(draw, values, _bool, lambda v: v.shape == ())
    if x is None:
        return None
    if condition is None:
        condition = ops.Constant(np.array(draw(st.booleans())))
    bodies = []
    for kind in draw(st.permutations([ops.Neg, ops.Relu])):
        captured = Parameter(x.type, "captured")
        bodies.append(Graph([captured], [kind(ops.Identity(captured))]))
    return ops.If(condition, x, bodies=bodies, captures=1)


@st.composite
def graphs(
    draw: Draw,
    *,
    max_ops: int = 12,
    opset: int = 20,
    only: Sequence[str] | None = None,
) -> Graph:
    """Random valid graphs of up to ``max_ops`` growth steps.

    ``only`` names the `families` to use; by default all of them.
    """
    sizes: list[Dim] = [0, 1, 2, 3, 4, dims.symbol("n"), dims.symbol("m")]
    weights = [1, 4, 6, 6, 4, 4, 2]
    pool = [d for d, w in zip(sizes, weights, strict=True) for _ in range(w)]
    inputs: list[Parameter] = []
    for i in range(draw(st.integers(1, 3))):
        shape = draw(st.lists(st.sampled_from(pool), max_size=MAX_RANK))
        kinds = [DType.F32] * 5 + [DType.I64, DType.BOOL]
        inputs.append(Parameter(tensor(draw(st.sampled_from(kinds)), *shape), f"x{i}"))
    values: list[Value] = list(inputs)
    chosen = [families[n] for n in (only or families)]
    for _ in range(draw(st.integers(1, max_ops))):
        made = draw(st.sampled_from(chosen))(draw, values)
        if made is None:
            continue
        results = [made] if isinstance(made, Value) else list(made)
        values.extend(v for v in results if _small(v))
    grown = values[len(inputs) :] or values
    count = draw(st.integers(1, min(3, len(grown))))
    outputs = [grown[-1], *(draw(st.sampled_from(values)) for _ in range(count - 1))]
    header = Header(opsets={"": opset}, ir_version=8 if opset < 21 else 10)
    return Graph(
        inputs,
        outputs,
        output_names=[f"y{i}" for i in range(len(outputs))],
        output_types=[v.type for v in outputs],
        name="random",
        header=header,
    )


def _small(value: Value) -> bool:
    type_ = value.type
    if not isinstance(type_, TensorType) or type_.shape is None:
        return False
    size = dims.substitute(dims.product(type_.shape), {"n": 3, "m": 2})
    return (
        None not in type_.shape
        and isinstance(size, int)
        and size <= MAX_ELEMENTS
        and len(type_.shape) <= MAX_RANK
    )
