"""Families with bodies: branches, loops and scans over what they capture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from .. import ops
from ..ir import Graph, Parameter, Value
from ..types import DType, TensorType, tensor
from .growth import (
    Draw,
    families,
    family,
    floating,
    like,
    pick,
    ranked,
    scalar,
    shape_of,
)

_INSIDE = ("unary", "binary", "scaled", "clip", "transpose", "cast", "constants")


def grown(draw: Draw, given: Sequence[Value], like_value: Value) -> Value:
    """Something of the type of a value, made of the values of a body."""
    values = list(given)
    for _ in range(draw(st.integers(0, 3))):
        made = families[draw(st.sampled_from(_INSIDE))](draw, values)
        values += [made] if isinstance(made, Value) else made or ()
    fitting = [v for v in reversed(values) if v.type == like_value.type]
    return fitting[0] if fitting else scalar(0, like_value)


@family
def branch(draw: Draw, values: list[Value]) -> Value | None:
    x = pick(draw, values, floating)
    if x is None:
        return None
    condition: Value = ops.Constant(np.array(draw(st.booleans())))
    if draw(st.booleans()):
        condition = ops.Greater(ops.ReduceSum(x, keepdims=0), scalar(0.1, x))
    second = pick(draw, values, floating)
    constant = like(draw, x)
    same = draw(st.integers(0, 3)) == 0
    bodies: list[Graph] = []
    for _ in range(2):
        if same and bodies:
            bodies.append(bodies[0])
            continue
        inside = [Parameter(v.type, "captured") for v in (x, second, constant)]
        bodies.append(Graph(inside, [grown(draw, [*inside], x)]))
    return ops.If(condition, x, second, constant, bodies=bodies, captures=3)


@family
def loop(draw: Draw, values: list[Value]) -> Sequence[Value] | None:
    x = pick(draw, values, floating)
    if x is None:
        return None

    count = Parameter(tensor(DType.I64), "i")
    going = Parameter(tensor(DType.BOOL), "going")
    carried, captured = (Parameter(x.type, n) for n in ("carried", "captured"))
    outputs: list[Value] = [ops.Identity(going), grown(draw, [captured, carried], x)]
    if draw(st.booleans()):
        outputs.append(ops.Neg(carried))
    body = Graph([count, going, carried, captured], outputs)
    trips = ops.Constant(np.int64(draw(st.integers(0, 3))))
    other = pick(draw, values, lambda v: v.type == x.type)
    return ops.Loop(trips, None, x, other, bodies=[body], captures=1).results


@family
def scan(draw: Draw, values: list[Value]) -> Sequence[Value] | None:
    x = pick(draw, values, floating, ranked(2))
    if x is None:
        return None
    row = TensorType(x.dtype, shape_of(x)[1:])
    state = pick(draw, values, lambda v: v.type == row)
    inside = [Parameter(row, "row"), Parameter(x.type, "captured")]
    outputs = [grown(draw, inside[:1], inside[0])]
    if state is not None:
        inside = [Parameter(row, "state"), *inside]
        outputs = [ops.Add(inside[0], inside[1]), *outputs]
    operands = [x] if state is None else [state, x]
    body = Graph(inside, outputs)
    return ops.Scan(*operands, x, bodies=[body], num_scan_inputs=1, captures=1).results
