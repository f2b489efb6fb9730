"""What looks at positions, told those that a part has: of a tile, or of a device."""

from __future__ import annotations

from graphopt.ir import Value
from graphopt.ops import (
    Add,
    GreaterOrEqual,
    LessOrEqual,
    Mul,
    Range,
    Reshape,
    Sub,
    Trilu,
    Where,
)
from graphopt.ops.bodies import cast, scalar, vector
from graphopt.rewrite import Miss, miss
from graphopt.types import DType


def of_range(op: Range, positions: Value) -> Value:
    """range(a, b, d)[i:j] = a + d * (i, i + 1, …)"""
    start, _, delta = op.operands
    assert start is not None
    assert start.dtype is not None
    return Add(start, Mul(delta, cast(positions, start.dtype)))


def of_triangle(op: Trilu, x: Value, rows: Value, columns: Value) -> Value | Miss:
    """trilu(x)[i:j] = where(i + row >= column, x[i:j], 0)"""
    k = op.operand(1)
    if k is not None and k.ints is None:
        return miss("which diagonal it is depends on data", op)
    assert x.dtype is not None
    diagonal = 0 if k is None or k.ints is None else k.ints[0]
    ahead = Sub(columns, Reshape(rows, vector(-1, 1)))
    compared = GreaterOrEqual if op.upper else LessOrEqual
    return Where(compared(ahead, scalar(diagonal, DType.I64)), x, scalar(0, x.dtype))
