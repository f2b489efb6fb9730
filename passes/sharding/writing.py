"""Writing into a buffer of which each device has some positions.

A device overwrites what of the window is in its part; where there is less of it than
the window is long, the rest of what it writes is what was there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np

from graphopt.index import Split, State, Strategy
from graphopt.ir import Op, Value
from graphopt.ops import (
    Add,
    And,
    Clip,
    Constant,
    Expand,
    GatherElements,
    GreaterOrEqual,
    Less,
    Mod,
    Reshape,
    Sub,
    TensorScatter,
    Where,
)
from graphopt.ops.bodies import scalar, vector
from graphopt.rewrite import Miss
from graphopt.types import DType

from .layout import REPLICATED
from .local import Place
from .moving import count


def into(op: Op) -> Iterator[Strategy]:
    """The strategy that shares out the positions of the buffer."""
    if isinstance(op, TensorScatter):
        buffer = op.operands[0]
        assert buffer is not None
        dim = op.axis % (buffer.rank or 1)
        others: tuple[State, ...] = (REPLICATED,) * (len(op.operands) - 1)
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
    whole = place.size * count(place)
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
