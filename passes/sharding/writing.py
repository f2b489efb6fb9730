"""Writing into a buffer of which each device has some positions.

A device overwrites what of the window is in its part; where there is less of it than
the window is long, the rest of what it writes is what was there. What is scattered goes
to one position more, behind the part, where it belongs elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np

from graphopt.index import Split, State, Strategy
from graphopt.ir import Op, Value
from graphopt.ops import (
    Add,
    And,
    Clip,
    Concat,
    Constant,
    Expand,
    GatherElements,
    GatherND,
    GreaterOrEqual,
    Less,
    Mod,
    Reshape,
    ScatterElements,
    ScatterND,
    Slice,
    Sub,
    TensorScatter,
    Where,
)
from graphopt.ops.bodies import cast as cast_to, scalar, vector
from graphopt.rewrite import Miss
from graphopt.types import DType

from .layout import REPLICATED
from .local import Place


def into(op: Op) -> Iterator[Strategy]:
    """The strategies that share out positions of the buffer which it is written at."""
    if not isinstance(op, TensorScatter | ScatterElements | ScatterND):
        return
    buffer, places, *_ = op.operands
    assert buffer is not None
    assert places is not None
    assert places.shape is not None
    if isinstance(op, ScatterND):
        dims = range(cast(int, places.shape[-1]))
    else:
        dim = op.axis % (buffer.rank or 1)
        dims = range(dim, dim + 1)
    others: tuple[State, ...] = (REPLICATED,) * (len(op.operands) - 1)
    for dim in dims:
        yield Strategy(None, (Split(dim), *others), (Split(dim),))


def written(
    op: TensorScatter, operands: Sequence[Value | None], dim: int, place: Place
) -> tuple[Value, ...] | Miss:
    """The op on every device, from its part of the buffer along ``dim``."""
    buffer, update, *rest = operands
    assert buffer is not None
    assert update is not None
    assert buffer.shape is not None
    assert update.shape is not None
    rank, length = len(buffer.shape), cast(int, update.shape[dim])
    if length > place.size:
        return Miss("more is written than a device has")
    start: Value = rest[0] if rest and rest[0] is not None else vector(0)
    whole = place.size * place.count
    own: Value = Sub(start, place.first)
    if op.mode == "circular":
        own = Mod(own, scalar(whole, DType.I64))
        late = GreaterOrEqual(own, scalar(place.size, DType.I64))
        own = Where(late, Sub(own, scalar(whole, DType.I64)), own)
    end = scalar(place.size - length, DType.I64)
    begin = Clip(own, scalar(0, DType.I64), end)
    steps = Constant(
        np.arange(length).reshape([length if i == dim else 1 for i in range(rank)])
    )
    first = Reshape(begin, vector(-1, *[1] * (rank - 1)))
    ahead = Reshape(Sub(begin, own), vector(-1, *[1] * (rank - 1)))
    which = Add(steps, ahead)  # of what is written
    inside = And(
        GreaterOrEqual(which, scalar(0, DType.I64)),
        Less(which, scalar(length, DType.I64)),
    )
    shape = vector(*cast("list[int]", list(update.shape)))
    old = GatherElements(buffer, Expand(Add(steps, first), shape), axis=dim)
    if length > 1:
        near = Clip(which, scalar(0, DType.I64), scalar(length - 1, DType.I64))
        update = GatherElements(update, Expand(near, shape), axis=dim)
    batch = cast(int, buffer.shape[0])
    at = begin if start.shape == (batch,) else Expand(begin, vector(batch))
    made = TensorScatter(buffer, Where(inside, update, old), at, axis=op.axis)
    return (made,)


def scattered(
    op: ScatterElements | ScatterND,
    operands: Sequence[Value | None],
    dim: int,
    place: Place,
) -> tuple[Value, ...]:
    """The op on every device, from its part of the buffer along ``dim``."""
    buffer, indices, updates = cast("Sequence[Value]", operands)
    shape = cast("tuple[int, ...]", indices.shape)
    indices = cast_to(indices, DType.I64)
    tuples = isinstance(op, ScatterND)
    column = _cut(indices, dim, dim + 1, -1) if tuples else indices
    zero, size = scalar(0, DType.I64), scalar(place.size, DType.I64)
    whole = scalar(place.size * place.count, DType.I64)
    counted = Where(Less(column, zero), Add(column, whole), column)
    own = Sub(counted, place.first)
    inside: Value = And(GreaterOrEqual(own, zero), Less(own, size))
    once = math.prod(shape[:-1]) if tuples else shape[dim]
    alone = once == 1 and op.reduction == "none"  # there is nothing that it could meet
    at: Value = Where(inside, own, zero if alone else size)
    if tuples:
        ends = _cut(indices, 0, dim, -1), _cut(indices, dim + 1, shape[-1], -1)
        at = Concat(ends[0], at, ends[1], axis=-1)
    if alone:
        if tuples:
            old: Value = GatherND(buffer, at)
            inside = Reshape(inside, vector(*[1] * cast(int, updates.rank)))
        else:
            old = GatherElements(buffer, at, axis=dim)
        return (op.with_operands((buffer, at, Where(inside, updates, old))),)
    longer = Concat(buffer, _cut(buffer, 0, 1, dim), axis=dim)
    made = op.with_operands((longer, at, updates))
    return (_cut(made, 0, place.size, dim),)


def _cut(x: Value, first: int, stop: int, dim: int) -> Value:
    return Slice(x, vector(first), vector(stop), vector(dim))
