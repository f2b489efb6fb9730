"""Conditions on positions: which part of a mask says that no query sees later keys."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.dims import Dim, add, equal
from graphopt.ir import Value
from graphopt.ops import (
    And,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Not,
    Range,
    Unsqueeze,
)

from .match import READ_LIMIT, uniform
from .positions import positions_of
from .triangles import triangle_of


@dataclass(frozen=True)
class Causal:
    """``column <= row and rest``; no rest: only that."""

    rest: Value | None


def split_causal(mask: Value, queries: Dim, keys: Dim) -> Causal | None:
    """The causal part of a condition on ``[..., query, key]``, and what is left."""
    parts: list[Value] = []
    stack: list[Value] = [mask]
    while stack:
        part = stack.pop()
        if isinstance(part, And):
            stack.extend(v for v in reversed(part.operands) if v is not None)
        else:
            parts.append(part)
    rest = [part for part in parts if not is_causal(part, queries, keys)]
    if len(rest) == len(parts):
        return None
    left: Value | None = None
    for part in rest:
        left = part if left is None else And(left, part)
    if left is not None and (not left.shape or len(left.shape) < 2):
        return None
    return Causal(left)


def sees_a_key(condition: Value) -> bool:
    """True where for each query, the last dim but one, the condition holds of a key."""
    shape, tensor = condition.shape, condition.constant
    if tensor is not None:
        if not shape or tensor.size > READ_LIMIT**2:
            return False
        return bool(tensor.array().any(-1).all())
    if not shape or len(shape) < 2:
        return False
    return is_causal(condition, shape[-2], shape[-1])  # the first one


def is_causal(condition: Value, queries: Dim, keys: Dim) -> bool:
    """True for ``column <= row``, both counted from 0, over just these last two dims.

    What is broadcast to them is another condition.
    """
    shape = condition.shape
    if shape is None or len(shape) < 2 or any(dim != 1 for dim in shape[:-2]):
        return False
    if not equal(shape[-2], queries) or not equal(shape[-1], keys):
        return False
    triangle = triangle_of(condition)
    if triangle is not None:
        return triangle.is_causal
    if isinstance(condition, LessOrEqual):
        column, row = condition.operands
    elif isinstance(condition, GreaterOrEqual):
        row, column = condition.operands
    elif isinstance(condition, Not) and isinstance(condition.operands[0], Greater):
        column, row = condition.operands[0].operands
    elif isinstance(condition, Not) and isinstance(condition.operands[0], Less):
        row, column = condition.operands[0].operands
    else:
        return False
    if column is None or row is None:
        return False
    return counts(column, 1, keys) and counts(row, 2, queries)


def counts(value: Value, last: int, extent: Dim) -> bool:
    """True for 0, 1, … below ``extent`` along an axis, counted from the end."""
    shape = value.shape
    if shape is None or len(shape) < last or not equal(shape[-last], extent):
        return False
    others = [dim for i, dim in enumerate(shape) if i != len(shape) - last]
    if any(dim != 1 for dim in others):
        return False
    tensor = value.constant
    if tensor is not None:
        return bool(np.array_equal(tensor.array().ravel(), np.arange(tensor.size)))
    while isinstance(value, Unsqueeze):
        value = value.operands[0]  # type: ignore[assignment]
    if not isinstance(value, Range):
        return False
    start, _, step = value.operands
    return bool(uniform(start) == 0 and uniform(step) == 1)


def band_of(condition: Value, queries: Dim, keys: Dim) -> int | None:
    """n, where a constant says ``column <= row`` and ``row - column < n``.

    Over just these last two dims.
    """
    shape, tensor = condition.shape, condition.constant
    if shape is None or len(shape) < 2 or any(dim != 1 for dim in shape[:-2]):
        return None
    if not equal(shape[-2], queries) or not equal(shape[-1], keys):
        return None
    if tensor is None or shape[-1] != shape[-2] or tensor.size > READ_LIMIT**2:
        return None
    square = tensor.array().reshape(tensor.shape[-2:])
    width = int(square[:, 0].sum()) if square.size else 0
    apart = np.subtract.outer(np.arange(len(square)), np.arange(len(square)))
    band = (apart >= 0) & (apart < width)
    return width if width and np.array_equal(square, band) else None


def window_of(condition: Value, queries: Dim, keys: Dim, begin: Dim) -> int | None:
    """n, where a condition is ``row - column < n`` of queries that count from a row.

    Over just these last two dims.
    """
    shape, turned = condition.shape, isinstance(condition, Not)
    op = condition.operands[0] if isinstance(condition, Not) else condition
    if shape is None or len(shape) < 2 or any(dim != 1 for dim in shape[:-2]):
        return None
    if not equal(shape[-2], queries) or not equal(shape[-1], keys):
        return None
    if not isinstance(op, Less | LessOrEqual | Greater | GreaterOrEqual):
        return None
    a, b = map(positions_of, op.operands)
    if a is None or b is None or not (a.fits and b.fits):
        return None
    if isinstance(op, Less | LessOrEqual) != turned:
        a, b = b, a
    ahead = a.plus(b.scaled(-1))
    strict = isinstance(op, Less | Greater) != turned
    row, column = ahead.aligned(max(2, len(ahead.steps)))[-2:]
    if column != 1 or not (row == -1 or equal(queries, 1)):
        return None
    found = add(add(ahead.offset, begin), 0 if strict else 1)
    return found if isinstance(found, int) and found > 0 else None
