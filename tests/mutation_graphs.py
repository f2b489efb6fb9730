"""Small graphs over all that passes rewrite, for mutants of graphs.

Each op of them matters to some output: no factor is one, no weight is zero, nothing is
computed that a later op throws away. What can still be changed without a difference is
known to `test_graph_mutants`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphopt import ops
from graphopt.dims import Dim, symbol
from graphopt.ir import Graph, Parameter, Value
from graphopt.types import DType, tensor

N = symbol("n")
builders: dict[str, Callable[[], Graph]] = {}


def builder(make: Callable[[], Value | Sequence[Value]]) -> Callable[[], Graph]:
    """Register a function whose result is what a graph gives."""

    def graph() -> Graph:
        made = make()
        outputs = [made] if isinstance(made, Value) else list(made)
        bare = Graph([], outputs)
        inputs = {
            v: None for op in bare.ops for v in op.operands if isinstance(v, Parameter)
        }
        types = [v.type for v in outputs]
        return Graph(list(inputs), outputs, output_types=types, name=make.__name__)

    builders[make.__name__.strip("_")] = graph
    return graph


def x(*shape: Dim, dtype: DType = DType.F32, name: str = "x") -> Parameter:
    return Parameter(tensor(dtype, *shape), name)


def w(*shape: int, seed: int = 0) -> ops.Constant:
    numbers = np.random.default_rng([seed, *shape]).normal(size=shape)
    return ops.Constant(numbers.astype(np.float32))


def positive(*shape: int, seed: int = 0) -> ops.Constant:
    numbers = np.random.default_rng([seed, *shape]).uniform(0.3, 1.5, shape)
    return ops.Constant(numbers.astype(np.float32))


def small(*shape: int, seed: int = 0) -> ops.Constant:
    return ops.Constant(positive(*shape, seed=seed).tensor.array() / np.float32(30))


def f(number: float) -> ops.Constant:
    return ops.Constant(np.float32(number))


def i(*numbers: int) -> ops.Constant:
    return ops.Constant(np.array(numbers, np.int64))


def at(number: int) -> ops.Constant:
    return ops.Constant(np.int64(number))


def body(build: Callable[..., Any], *operands: Value) -> Graph:
    """A body with a parameter for each operand."""
    inputs = [Parameter(v.type, f"p{k}") for k, v in enumerate(operands)]
    made = build(*inputs)
    return Graph(inputs, [made] if isinstance(made, Value) else list(made))


@builder
def layer_norm() -> Value:
    a = x(N, 5, 8)
    centred = ops.Sub(a, ops.ReduceMean(a, i(-1)))
    variance = ops.ReduceMean(ops.Mul(centred, centred), i(-1))
    made = ops.Div(centred, ops.Sqrt(ops.Add(variance, f(1e-3))))
    return ops.Add(ops.Mul(made, w(8)), w(8, seed=1))


@builder
def norms() -> list[Value]:
    a = x(N, 4, 6)
    return [
        ops.LayerNormalization(a, w(6), w(6, seed=1), axis=-1, epsilon=1e-3),
        ops.RMSNormalization(a, w(4, 6), axis=1, epsilon=1e-2),
        ops.InstanceNormalization(a, w(4), w(4, seed=1), epsilon=1e-3),
        ops.LpNormalization(a, axis=1, p=1),
    ]


@builder
def conv_batch_norm() -> Value:
    made: Value = ops.Conv(
        x(N, 4, 7, 6), w(6, 2, 3, 2), w(6), group=2, pads=(1, 0, 0, 1)
    )
    made = ops.BatchNormalization(
        made, w(6, seed=1), w(6, seed=2), w(6, seed=3), positive(6), epsilon=1e-2
    )
    return ops.HardSwish(ops.Conv(made, w(3, 6, 2, 2), strides=(2, 1)))


@builder
def conv_transpose() -> Value:
    made = ops.ConvTranspose(x(N, 3, 4, 5), w(3, 2, 3, 3), strides=(2, 1))
    return ops.LeakyRelu(ops.Add(made, w(2, 1, 1)), alpha=0.2)


@builder
def attention() -> Value:
    a = x(N, 6, 8)
    heads = [
        ops.Transpose(
            ops.Reshape(ops.MatMul(a, w(8, 8, seed=s)), i(0, 6, 2, 4)),
            perm=(0, 2, 1, 3),
        )
        for s in (1, 2, 3)
    ]
    q, k, v = heads
    scores: Value = ops.MatMul(q, ops.Transpose(k, perm=(0, 1, 3, 2)))
    scores = ops.Add(ops.Mul(scores, f(0.5)), ops.Trilu(w(6, 6), upper=1))
    made: Value = ops.MatMul(ops.Softmax(scores, axis=-1), v)
    made = ops.Reshape(ops.Transpose(made, perm=(0, 2, 1, 3)), i(0, 6, 8))
    return ops.Add(ops.MatMul(made, w(8, 8, seed=4)), a)


@builder
def reductions() -> list[Value]:
    a = x(N, 4, 4)
    kinds = [ops.ReduceSum, ops.ReduceMean, ops.ReduceMax, ops.ReduceL2]
    made: list[Value] = [kind(a, i(-1), keepdims=0) for kind in kinds]
    made += [ops.ReduceMin(a, i(1, 2)), ops.ReduceLogSumExp(a, i(0), keepdims=0)]
    return [*made, ops.ArgMax(a, axis=1), ops.LogSoftmax(a, axis=1)]


@builder
def slices() -> list[Value]:
    a = x(N, 6, 6)
    first = ops.Slice(a, i(1), i(4), i(1))
    second = ops.Slice(a, i(5), i(-7), i(2), i(-2))
    parts = ops.Split(a, i(2, 4), axis=2).results
    joined = ops.Concat(first, ops.Slice(a, i(0), i(3), i(1)), axis=1)
    return [ops.Sub(joined, a), second, ops.Concat(parts[1], parts[0], axis=2)]


@builder
def gathers() -> list[Value]:
    a, table = x(N, 5, 5), w(7, 4)
    where = x(N, 3, dtype=DType.I64, name="ids")
    words = ops.Add(ops.Gather(table, where, axis=0), w(4))
    picked = ops.Gather(a, i(0, 3, 1), axis=2)
    square = ops.Constant(np.array([[[1, 0, 4, 2, 2]] * 5], np.int64))
    own = ops.GatherElements(x(1, 5, 5, name="one"), square, axis=1)
    hot = ops.OneHot(where, at(7), ops.Constant(np.array([0.5, 2], np.float32)))
    return [words, picked, own, hot]


@builder
def scatters() -> Value:
    a = x(4, 5)
    where = ops.Constant(np.array([[0, 2, 1, 3, 0]], np.int64))
    made = ops.ScatterElements(a, where, w(1, 5), axis=0)
    return ops.CumSum(made, at(1), reverse=1)


@builder
def pads() -> list[Value]:
    a = x(N, 2, 5, 6)
    return [
        ops.Pad(a, i(0, 0, 1, 2, 0, 0, 2, 1), f(1.5)),
        ops.Pad(a, i(0, 0, 1, 0, 0, 0, 1, 2), mode="reflect"),
        ops.Pad(a, i(2, 1), None, i(2)),
    ]


@builder
def pooling() -> list[Value]:
    a = x(N, 2, 6, 7)
    window: dict[str, Any] = {"kernel_shape": (3, 2), "strides": (2, 1)}
    return [
        ops.MaxPool(a, **window, pads=(1, 0, 0, 1)),
        ops.AveragePool(a, **window, pads=(1, 1, 0, 0), count_include_pad=1),
        ops.AveragePool(a, **window, pads=(1, 0, 1, 1), ceil_mode=1),
        ops.LpPool(a, **window, p=1),
        ops.GlobalAveragePool(a),
    ]


@builder
def casts() -> list[Value]:
    a = x(N, 9)
    whole = ops.Cast(ops.Mul(a, f(37.3)), to=DType.I32)
    narrow = ops.Cast(ops.Cast(ops.Mul(a, f(0.7)), to=DType.F16), to=DType.F32)
    steps = ops.DequantizeLinear(
        ops.QuantizeLinear(a, small(9), ops.Constant(np.full(9, 120, np.uint8))),
        small(9, seed=1),
        ops.Constant(np.full(9, 111, np.uint8)),
    )
    return [ops.Cast(whole, to=DType.I64), ops.Add(narrow, a), steps]


@builder
def comparisons() -> list[Value]:
    a, b = x(N, 60), x(N, 60, name="y")
    k, m = (x(N, 40, dtype=DType.I64, name=name) for name in "km")
    less = ops.Less(a, b)
    chosen = ops.Where(ops.And(less, ops.Greater(a, f(-0.4))), a, b)
    counted = ops.Or(ops.LessOrEqual(k, m), ops.Equal(k, at(3)))
    return [chosen, ops.Xor(ops.Not(less), ops.GreaterOrEqual(f(0.5), b)), counted]


@builder
def integers() -> list[Value]:
    a, b = x(N, 30, dtype=DType.I64), x(N, 30, dtype=DType.I64, name="y")
    shifted = ops.Sub(ops.Mul(a, at(3)), b)
    bits = ops.BitwiseXor(ops.BitwiseAnd(a, b), at(5))
    return [ops.Div(shifted, at(4)), ops.Mod(shifted, at(7)), bits]


@builder
def branches() -> Value:
    a = x(N, 6)
    condition = ops.Greater(ops.ReduceSum(a, keepdims=0), f(0.0))
    bodies = (
        body(lambda p: ops.Sub(p, w(6)), a),
        body(lambda p: ops.Mul(ops.Tanh(p), w(6, seed=1)), a),
    )
    return ops.Sin(ops.If(condition, a, bodies=bodies, captures=1))


@builder
def loop() -> Sequence[Value]:
    a = x(4)
    true = ops.Constant(np.array(True))

    def step(count: Value, go: Value, state: Value) -> list[Value]:
        scaled = ops.Div(ops.Sub(state, w(4)), f(1.5))
        weighed = ops.Mul(scaled, ops.Cast(ops.Add(count, at(2)), to=DType.F32))
        return [go, ops.Sin(weighed), ops.Exp(scaled)]

    made = ops.Loop(at(3), true, a, bodies=[body(step, at(0), true, a)], outs=2)
    return made.results


@builder
def scan() -> Sequence[Value]:
    state, rows = x(5, name="state"), x(N, 5)

    def step(carried: Value, row: Value) -> list[Value]:
        mixed = ops.Add(ops.Mul(carried, f(0.7)), ops.Sigmoid(row))
        return [mixed, ops.Sub(mixed, w(5))]

    bodies = [body(step, state, x(5))]
    return ops.Scan(state, rows, bodies=bodies, num_scan_inputs=1).results


@builder
def gemms() -> list[Value]:
    a = x(4, 4)
    first = ops.Gemm(a, w(4, 4), w(4), alpha=0.5, beta=2.0, transB=1)
    second = ops.Gemm(first, a, transA=1)
    return [ops.Gelu(second, approximate="tanh"), ops.Elu(first, alpha=0.5)]


@builder
def shapes() -> list[Value]:
    a = x(N, 4, 6)
    turned = ops.Transpose(a, perm=(2, 0, 1))
    deep = ops.DepthToSpace(x(N, 8, 3, 3, name="deep"), blocksize=2, mode="DCR")
    tiled = ops.Tile(ops.Unsqueeze(ops.Flatten(a, axis=2), i(1)), i(1, 2, 1))
    number = ops.Mul(ops.Gather(ops.Shape(a), at(0), axis=0), at(3))
    return [ops.Reshape(turned, i(6, -1)), deep, tiled, number]


@builder
def activations() -> list[Value]:
    a = x(N, 10)
    curved = ops.Pow(ops.Add(ops.Abs(a), f(0.5)), f(1.7))
    clipped = ops.Clip(ops.Div(f(2.0), curved), f(0.4), f(1.9))
    halved = ops.Floor(ops.Mul(a, f(3.3)))
    return [ops.Sub(clipped, ops.Erf(a)), ops.Max(halved, ops.Softplus(a))]
