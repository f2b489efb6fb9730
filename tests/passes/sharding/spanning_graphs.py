"""Random graphs of ops that read along dims which devices share out."""

from __future__ import annotations

import random

import numpy as np

from graphopt import ops
from graphopt.ir import Graph, Parameter, Value
from graphopt.ops.bodies import scalar, vector
from graphopt.types import DType, tensor

MOST = 64
"""Positions of a dim."""


class Drawn:
    """A graph that grows by random ops over values of three and four dims."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.inputs: list[Parameter] = []
        self.values: list[Value] = []
        for _ in range(self.rng.randint(1, 2)):
            self.values.append(self.input(*self.shape()))

    def shape(self) -> list[int]:
        last = [self.rng.choice((4, 8, 16, 24)) for _ in range(2)]
        return [self.rng.choice((1, 2, 4)), *last]

    def input(self, *shape: int, dtype: DType = DType.F32) -> Parameter:
        made = Parameter(tensor(dtype, *shape), f"x{len(self.inputs)}")
        self.inputs.append(made)
        return made

    def graph(self, count: int) -> Graph:
        makers = (
            *[self.sliced, self.split, self.joined] * 2,
            *(self.running, self.written, self.attention, self.pointwise),
        )
        for _ in range(count):
            self.values += self.rng.choice(makers)(self.rng.choice(self.values))
        outputs = self.values[-3:]
        names = [f"y{i}" for i in range(len(outputs))]
        return Graph(self.inputs, outputs, output_names=names)

    def dim(self, x: Value) -> tuple[int, int]:
        dims = [(i, int(n)) for i, n in enumerate(x.shape or ()) if n and int(n) > 1]
        return self.rng.choice(dims or [(0, 1)])

    def sliced(self, x: Value) -> list[Value]:
        rng, (at, size) = self.rng, self.dim(x)
        step = rng.choice((1, 1, 1, 2, -1))
        count = rng.choice([n for n in (1, 2, 4, 8, 16, 24) if n <= size])
        step = step if abs(step) * (count - 1) < size else 1
        first = rng.randint(0, size - 1 - abs(step) * (count - 1))
        start, stop = first, first + step * count
        if step < 0:
            start = first + count - 1
            stop = start - count if start - count >= 0 else -MOST * 2
        cut = vector(start), vector(stop), vector(at), vector(step)
        return [ops.Slice(x, *cut)]

    def split(self, x: Value) -> list[Value]:
        at, size = self.dim(x)
        if size < 4:
            return []
        first = self.rng.choice([n for n in (2, 4, 8, 16) if n < size])
        return list(ops.Split(x, vector(first, size - first), axis=at, outs=2).results)

    def joined(self, x: Value) -> list[Value]:
        at, size = self.dim(x)
        own = [None if i == at else n for i, n in enumerate(x.shape or ())]

        def fits(v: Value) -> bool:
            other = [None if i == at else n for i, n in enumerate(v.shape or ())]
            return other == own

        others = [v for v in self.values if fits(v)]
        other = self.rng.choice(others)
        if size + int((other.shape or ())[at] or 0) > MOST:
            return []
        pair = [x, other]
        self.rng.shuffle(pair)
        return [ops.Concat(*pair, axis=at)]

    def running(self, x: Value) -> list[Value]:
        at, _ = self.dim(x)
        attrs = {"exclusive": self.rng.randint(0, 1), "reverse": self.rng.randint(0, 1)}
        return [ops.CumSum(ops.Tanh(x), scalar(at, DType.I64), **attrs)]

    def written(self, x: Value) -> list[Value]:
        batch, size, last = (int(n or 0) for n in x.shape or ())
        rows = self.rng.randint(1, min(3, size))
        update = self.input(batch, rows, last)
        at = self.input(batch, dtype=DType.I64)
        mode = self.rng.choice(("linear", "circular"))
        if mode == "linear":
            most = ops.Constant(np.array(size - rows))
            place: Value = ops.Clip(at, scalar(0, DType.I64), most)
        else:
            place = at
        return [ops.TensorScatter(x, update, place, axis=1, mode=mode)]

    def attention(self, x: Value) -> list[Value]:
        batch, keys, last = (int(n or 0) for n in x.shape or ())
        if last % 4:
            return []
        groups = self.rng.choice((2, 4))
        heads, rows = groups * self.rng.choice((1, 2)), self.rng.choice((1, 4, 8))
        q = self.input(batch, rows, last // groups * heads)
        mask = None
        if self.rng.random() < 0.4:
            mask = self.input(
                rows, keys, dtype=self.rng.choice((DType.F32, DType.BOOL))
            )
        lengths = None
        if mask is None and self.rng.random() < 0.4:
            drawn = self.input(batch, dtype=DType.I64)
            ends = scalar(1, DType.I64), scalar(keys, DType.I64)
            lengths = ops.Clip(drawn, *ends)
        made = ops.Attention(
            *(q, x, ops.Tanh(x), mask, None, None, lengths),
            q_num_heads=heads,
            kv_num_heads=groups,
            is_causal=self.rng.randint(0, 1) if rows <= keys else 0,
        )
        return [made]

    def pointwise(self, x: Value) -> list[Value]:
        last = int((x.shape or ())[-1] or 0)
        rng = np.random.default_rng(self.rng.randrange(1 << 30))
        weight = rng.normal(size=(last, self.rng.choice((8, 16))))
        product = ops.MatMul(x, ops.Constant(weight.astype(np.float32) / 4))
        return [ops.Tanh(self.rng.choice((x, product)))]


def spanning(seed: int) -> Graph:
    """A random graph; the same for the same seed."""
    drawn = Drawn(seed)
    return drawn.graph(drawn.rng.randint(2, 8))
