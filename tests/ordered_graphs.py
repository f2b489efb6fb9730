"""Graphs that have many legal orders, and one of these."""

from __future__ import annotations

import random

import numpy as np

from graphopt import Graph, ops
from graphopt.ir import Op, Parameter, Value
from graphopt.ops.constant import Constant
from graphopt.types import DType, tensor

UNARY = (ops.Tanh, ops.Sigmoid, ops.Exp, ops.Abs, ops.Erf, ops.Relu, ops.Neg)
BINARY = (ops.Add, ops.Mul, ops.Sub)


def branchy(seed: int, size: int = 40) -> Graph:
    """About ``size`` ops, each on results of the last eight, of three shapes."""
    rng = random.Random(seed)
    x = Parameter(tensor(DType.F32, 4, 16), "x")
    values: list[Value] = [x]
    for _ in range(size):
        a, b = rng.choice(values[-8:]), rng.choice(values[-8:])
        kind = rng.random()
        made: Value
        if kind < 0.4:
            made = rng.choice(UNARY)(a)
        elif kind < 0.5 and a.shape == b.shape == (4, 16):
            made = ops.Concat(a, b, axis=0)
        elif a.shape == b.shape:
            made = rng.choice(BINARY)(a, b)
        else:
            made = ops.ReduceMean(a, Constant(np.array([0])))
            values.append(made)
            made = ops.Add(made, b)
        values.append(made)
    read = {v for value in values if value.op for v in value.op.operands}
    unread = [v for v in values if v not in read and v is not x]
    return Graph([x], dict.fromkeys(unread))


def some_order(graph: Graph, seed: int) -> list[Op]:
    """One of the legal orders of a graph's ops, constants left out."""
    rng = random.Random(seed)
    left = [op for op in graph.ops if not isinstance(op, Constant)]
    done: set[Op] = set()
    order: list[Op] = []
    while left:
        op = rng.choice([op for op in left if done.issuperset(_made(op))])
        left.remove(op)
        done.add(op)
        order.append(op)
    return order


def _made(op: Op) -> list[Op]:
    producers = [v.op for v in op.operands if v is not None]
    return [p for p in producers if p is not None and not isinstance(p, Constant)]
