"""Running sums and products along a dim that devices share out.

Each device runs over its part, the totals of all parts are gathered, and those of the
parts before its own are put on top. Blelloch, "Prefix sums and their applications",
CMU-CS-90-190 (1990).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

import numpy as np

from graphopt.index import Split, State, Strategy
from graphopt.ir import Op, Value
from graphopt.ops import (
    Add,
    Constant,
    CumProd,
    CumSum,
    Greater,
    Less,
    Mul,
    ReduceProd,
    ReduceSum,
    Reshape,
    Where,
)
from graphopt.ops.bodies import scalar, vector
from graphopt.ops.mesh import AllGather

from .layout import REPLICATED
from .local import Place

Running: TypeAlias = CumSum | CumProd

RUNNING: Final = (CumSum, CumProd)
"""Ops whose results are of all elements up to each one."""


def along(op: Op) -> Iterator[Strategy]:
    """The strategy that shares out the dim along which the op runs."""
    dim = _dim_of(op) if isinstance(op, Running) else None
    if dim is not None:
        operands: tuple[State, ...] = (Split(dim), REPLICATED)
        yield Strategy(None, operands, (Split(dim),))


def _dim_of(op: Running) -> int | None:
    """The dim along which the op runs; None where it is not known."""
    x, axis = op.operands
    if x is None or x.rank is None or axis is None or axis.ints is None:
        return None
    return axis.ints[0] % x.rank


def run_on(
    op: Running, operands: Sequence[Value | None], dim: int, place: Place
) -> tuple[Value, ...]:
    """The op on every device, from parts along ``dim``."""
    x, axis = operands
    assert x is not None
    assert x.rank is not None
    assert x.dtype is not None
    reduced, joined = (ReduceSum, Add) if isinstance(op, CumSum) else (ReduceProd, Mul)
    neutral = scalar(0 if isinstance(op, CumSum) else 1, x.dtype)
    totals: Value = reduced(x, vector(dim), keepdims=1)
    for name, ways in reversed(place.axes):
        totals = AllGather(totals, dim=dim, axis=name, ways=ways)
    shape = [-1 if i == dim else 1 for i in range(x.rank)]
    numbers = Constant(np.arange(place.count, dtype=np.int64).reshape(shape))
    compared = Greater if op.reverse else Less
    before = compared(numbers, Reshape(place.number, vector(*[1] * x.rank)))
    carried = reduced(Where(before, totals, neutral), vector(dim), keepdims=1)
    return (joined(op.with_operands((x, axis)), carried),)
