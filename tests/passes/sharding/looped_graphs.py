"""Random graphs of loops, scans and branches around layers with weights."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

from graphopt import ops
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops.bodies import scalar, vector
from graphopt.passes.sharding.captured import captured
from graphopt.types import DType, tensor

EXTENTS = (4, 8, 16)


def f32(*shape: int) -> Parameter:
    return Parameter(tensor(DType.F32, *shape), "x")


class Looped:
    """Makes bodies of random ops over values of ``[batch, width]``."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.batch = self.rng.choice((1, 4, 8))
        self.width = self.rng.choice(EXTENTS)

    def weight(self, *shape: int) -> Value:
        drawn = self.numbers.standard_normal(shape) / shape[0] ** 0.5
        return ops.Constant(drawn.astype(np.float32))

    def layer(self, x: Value, depth: int) -> Value:
        """Some ops from ``[batch, width]`` to as much."""
        makers: list[Callable[[Value], Value]] = [
            *[self.product, self.pair, self.norm, self.pointwise, self.turned],
            *[self.mixed] * (self.batch > 1),
        ]
        if depth:
            makers += [lambda v: self.control(v, depth - 1)] * 2
        for _ in range(self.rng.randint(1, 3)):
            x = self.rng.choice(makers)(x)
        return x

    def product(self, x: Value) -> Value:
        return ops.Tanh(ops.MatMul(x, self.weight(self.width, self.width)))

    def pair(self, x: Value) -> Value:
        hidden = self.rng.choice((16, 32))
        inner = ops.Relu(ops.MatMul(x, self.weight(self.width, hidden)))
        return ops.Add(x, ops.MatMul(inner, self.weight(hidden, self.width)))

    def norm(self, x: Value) -> Value:
        return ops.Softmax(x, axis=self.rng.choice((0, 1)))

    def pointwise(self, x: Value) -> Value:
        return ops.Mul(ops.Sigmoid(x), self.weight(self.width))

    def turned(self, x: Value) -> Value:
        half = self.width // 2
        parts = ops.Split(x, vector(half, half), axis=1, outs=2).results
        return ops.Concat(parts[1], parts[0], axis=1)

    def mixed(self, x: Value) -> Value:
        return ops.MatMul(self.weight(self.batch, self.batch), x)

    # --- control flow

    def control(self, x: Value, depth: int) -> Value:
        make = self.rng.choice((self.scan, self.loop, self.branch))
        return make(x, depth).results[0]

    def scan(self, x: Value, depth: int) -> Op:
        """States and slices, from any axis and in any direction, and a capture."""
        turns, rng = self.rng.randint(1, 3), self.rng
        axis, back = rng.choice((0, 1, 2)), rng.choice((0, 1))
        slices: list[int] = [self.batch, self.width]
        slices.insert(axis, turns)
        sequence = self.weight(*slices)
        h, s, c = (f32(self.batch, self.width) for _ in range(3))
        made = self.layer(ops.Add(ops.Add(h, s), ops.Mul(c, self.weight(1))), depth)
        row = rng.choice((made, ops.ReduceSum(made, vector(rng.choice((0, 1))))))
        shown = rng.choice((0, 1, 2))
        return ops.Scan(
            *(x, sequence, x),
            bodies=(Graph([h, s, c], [made, row]),),
            num_scan_inputs=1,
            scan_input_axes=(axis,),
            scan_input_directions=(back,),
            scan_output_axes=(shown,),
            captures=1,
        )

    def loop(self, x: Value, depth: int) -> Op:
        """So many turns, or until what is carried is small; rows in the first case."""
        number = Parameter(tensor(DType.I64), "i")
        goes_on = Parameter(tensor(DType.BOOL), "c")
        h, total = f32(self.batch, self.width), f32(self.batch, 1)
        made = self.layer(h, depth)
        rows = ops.ReduceMean(made, vector(1))
        carried: list[Value] = [made, ops.Add(total, rows)]
        start = [x, ops.ReduceSum(x, vector(1))]
        if self.rng.random() < 0.5:
            body = Graph([number, goes_on, h, total], [goes_on, *carried, rows])
        else:
            most = ops.ReduceMax(ops.Abs(made), vector(0, 1), keepdims=0)
            large = ops.Greater(most, scalar(1e-6, DType.F32))
            body = Graph([number, goes_on, h, total], [large, *carried])
        return ops.Loop(scalar(3, DType.I64), None, *start, bodies=(body,))

    def branch(self, x: Value, depth: int) -> Op:
        then, other = f32(self.batch, self.width), f32(self.batch, self.width)
        bodies = (
            Graph([then], [self.layer(then, depth)]),
            Graph([other], [self.layer(other, depth)]),
        )
        total = ops.ReduceSum(x, vector(0, 1), keepdims=0)
        return ops.If(ops.Greater(total, scalar(0, DType.F32)), x, bodies=bodies)


def looped(seed: int) -> Graph:
    """A random graph; its weights are captured, as a plan has them."""
    drawn = Looped(seed)
    x = f32(drawn.batch, drawn.width)
    first = drawn.layer(x, 0)
    made = drawn.rng.choice((drawn.scan, drawn.loop, drawn.branch))(first, 1)
    names = [f"y{i}" for i in range(made.outs)]
    return captured(Graph([x], made.results, output_names=names))
