"""Conditions on positions: which part of a mask says that no query sees later keys."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.dims import Dim, equal
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
