"""Values that are 0 or 1, and what is computed from one of them alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir import Value
from graphopt.ops import (
    Cast,
    Expand,
    Flatten,
    Gather,
    Identity,
    Reshape,
    Slice,
    Squeeze,
    Transpose,
    Trilu,
    Unsqueeze,
)
from graphopt.ops.structured import Elementwise
from graphopt.reference import fold
from graphopt.types import DType

from .bounds import READ
from .match import uniform

DEEPEST = 8
"""Ops in a row that are looked through."""

_MOVES = (
    *(Expand, Flatten, Gather, Identity, Reshape, Slice),
    *(Squeeze, Transpose, Trilu, Unsqueeze),
)
"""Ops whose results hold numbers of the first operand, or zeros."""


def is_zero_one(value: Value | None, depth: int = DEEPEST) -> bool:
    """True for a number that is a condition, and for constants of 0 and 1, moved."""
    if value is None or not depth:
        return False
    tensor = value.constant
    if tensor is not None:
        if tensor.size > READ:
            return False
        array = tensor.array()
        return array.dtype.kind in "fiu" and bool(((array == 0) | (array == 1)).all())
    if isinstance(value, Cast):
        x = value.operands[0]
        return x is not None and (x.dtype is DType.BOOL or is_zero_one(x, depth - 1))
    return isinstance(value, _MOVES) and is_zero_one(value.operands[0], depth - 1)


def chosen_by(value: Value | None, switch: Value) -> tuple[Any, Any] | None:
    """What a value is where ``switch`` is 0, and where that is 1: one number each.

    None where something else decides as well.
    """
    a = None if value is None else value.constant
    b = switch.constant
    if a is not None and b is not None:
        try:
            numbers, switches = np.broadcast_arrays(a.array(), b.array())
        except ValueError:
            return None
        off, on = numbers[switches == 0], numbers[switches == 1]
        if not off.size or not on.size or (off != off[0]).any() or (on != on[0]).any():
            return None
        return off[0], on[0]
    found = _made(value, switch, DEEPEST)
    return None if found is None else (found[0], found[1])


def _made(value: Value | None, switch: Value, depth: int) -> Any:
    """Both numbers as an array of two."""
    if value is None or value.dtype is None or not depth:
        return None
    if value is switch:
        return np.array([0, 1], value.dtype.numpy)
    number = uniform(value)
    if number is not None:
        return np.full(2, number, value.dtype.numpy)
    op = value.op
    if not isinstance(op, Elementwise) or not op.deterministic:
        return None
    operands = [_made(x, switch, depth - 1) for x in op.operands]
    if any(each is None for each in operands):
        return None
    (made,) = fold(op, operands)
    return made
