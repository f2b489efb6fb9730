"""Triangles: one number up to a diagonal, and another behind it.

Causal masks are made so, by hand and by exporters: ``tril(ones)``,
``triu(full(-inf), 1)``, and what is computed from these element by element.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from graphopt.dims import equal, sub
from graphopt.ir import Value
from graphopt.ops import (
    Constant,
    ConstantOfShape,
    Expand,
    Reshape,
    Slice,
    Squeeze,
    Trilu,
    Unsqueeze,
)
from graphopt.ops.structured import Elementwise
from graphopt.reference import fold

from .match import READ_LIMIT, axis_of, uniform

DEEPEST = 16
"""Ops between a mask and the triangle that it is made of."""


@dataclass(frozen=True)
class Triangle:
    """``inside`` where ``column <= row + diagonal``, else ``outside``.

    Both are counted from 0, over the last two dims; over others it is the same. The
    numbers are NumPy scalars. Without a diagonal they are equal, and fill everything.
    """

    inside: Any
    outside: Any
    diagonal: int | None

    @property
    def is_causal(self) -> bool:
        """True for a condition that holds of each key up to the query's own."""
        return bool(self.diagonal == 0 and self.inside and not self.outside)


def triangle_of(value: Value | None) -> Triangle | None:
    """How a value is a triangle, or one number; None where it is not seen to be."""
    return _read(value, DEEPEST, {})


Known: TypeAlias = dict[Value, Triangle | None]


def _read(value: Value | None, depth: int, known: Known) -> Triangle | None:
    """The same, of so many ops at most, for values that many read looked at once."""
    if value is None or not depth:
        return None
    if value not in known:
        known[value] = _made(value, depth, known)
    return known[value]


def _made(value: Value, depth: int, known: Known) -> Triangle | None:
    op = value.op
    if isinstance(op, Constant):
        return _of_constant(value)
    if isinstance(op, ConstantOfShape):
        number = op.filling().array().reshape(-1)[0]
        return Triangle(number, number, None)
    if isinstance(op, Elementwise):
        parts = list[Triangle]()
        for operand in op.operands:
            part = _read(operand, depth - 1, known)
            if part is None:
                return None
            parts.append(part)
        return _of_elements(value, parts)
    if not isinstance(op, Trilu | Slice | Expand | Reshape | Squeeze | Unsqueeze):
        return None
    inner = _read(op.operands[0], depth - 1, known)
    if inner is None:
        return None
    if isinstance(op, Trilu):
        return _cut(op, inner)
    if inner.diagonal is None:
        return inner
    if isinstance(op, Slice):
        return _sliced(op, inner)
    return inner if _same_square(op.operands[0], value) else None


def _of_constant(value: Value) -> Triangle | None:
    number = uniform(value)
    if number is not None:
        return Triangle(number, number, None)
    tensor = value.constant
    if tensor is None or len(tensor.shape) < 2 or tensor.size > READ_LIMIT**2:
        return None
    *others, rows, columns = tensor.shape
    if any(dim != 1 for dim in others) or not rows or columns < 2:
        return None
    square = tensor.array().reshape(rows, columns)
    inside, outside = square[0, 0], square[0, -1]
    if not np.array_equal(square, np.where(np.tri(rows, columns), inside, outside)):
        return None
    return Triangle(inside, outside, 0)


def _of_elements(value: Value, operands: Sequence[Triangle]) -> Triangle | None:
    """f(a, b) of triangles with one diagonal is a triangle, of f(inside), f(outside)"""
    op = value.op
    assert op is not None
    diagonals = set[int]()
    pairs = list[np.ndarray[Any, Any]]()
    for operand, part in zip(op.operands, operands, strict=True):
        if operand is None or operand.dtype is None:
            return None
        if part.diagonal is not None:
            if not _same_square(operand, value):
                return None
            diagonals.add(part.diagonal)
        pairs.append(np.array([part.inside, part.outside], operand.dtype.numpy))
    if len(diagonals) > 1 or not pairs or not op.deterministic:
        return None
    found, *others = fold(op, pairs)
    if others:
        return None
    return Triangle(found[0], found[1], next(iter(diagonals), None))


def _cut(op: Trilu, inner: Triangle) -> Triangle | None:
    """tril(c, k) = c where column <= row + k, else 0; triu(c, k) behind k - 1"""
    diagonal = 0 if op.operand(1) is None else uniform(op.operand(1))
    if inner.diagonal is not None or diagonal is None:
        return None
    zero = np.zeros_like(inner.inside)
    if op.upper:
        return Triangle(zero, inner.inside, int(diagonal) - 1)
    return Triangle(inner.inside, zero, int(diagonal))


def _sliced(op: Slice, inner: Triangle) -> Triangle | None:
    """From row r and column c on, the diagonal is r - c further"""
    rank = op.rank
    starts = None if op.operands[1] is None else op.operands[1].contents
    axes, steps = op.operand(3), op.operand(4)
    if rank is None or starts is None or inner.diagonal is None:
        return None
    if steps is not None and uniform(steps) != 1:
        return None
    given = range(starts.size) if axes is None else axes.ints
    if given is None:
        return None
    at = {axis_of(a, rank): s for a, s in zip(given, starts.ravel(), strict=True)}
    shift = sub(at.get(rank - 2, 0), at.get(rank - 1, 0))
    if not isinstance(shift, int) or not _starts_inside(at.values()):
        return None
    return replace(inner, diagonal=inner.diagonal + shift)


def _starts_inside(starts: Any) -> bool:
    """True where no start counts from the end."""
    return all(isinstance(start, int) and start >= 0 for start in starts)


def _same_square(a: Value | None, b: Value) -> bool:
    """True where the last two dims of both are equal."""
    if a is None or a.shape is None or b.shape is None:
        return False
    if len(a.shape) < 2 or len(b.shape) < 2:
        return False
    return all(map(equal, a.shape[-2:], b.shape[-2:]))
