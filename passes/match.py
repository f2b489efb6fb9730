"""Questions that rules ask of values."""

from __future__ import annotations

import math
from typing import Any, Final

from graphopt.dims import equal
from graphopt.ir import Value
from graphopt.ops import (
    Constant,
    ConstantOfShape,
    Div,
    Expand,
    Mul,
    Neg,
    Reshape,
    Sub,
    Tile,
    Unsqueeze,
)
from graphopt.types import DType, TensorType

READ_LIMIT = 1 << 16
"""Constants of more elements are not read just to see whether they are uniform."""

LONGEST: Final = 1 << 30
"""No dim is said to be as long as this: of int64 that is 8 GiB along one axis."""


def uniform(value: Value | None) -> Any:
    """The one number that fills a constant, None where there is none.

    A NumPy scalar of the constant's dtype; 0.0 and -0.0 are two numbers.
    """
    tensor = None if value is None else value.constant
    if tensor is None or tensor.dtype is DType.STRING or not tensor.size:
        return None
    if tensor.size > READ_LIMIT:
        return None
    flat = tensor.array().reshape(-1)
    if flat.tobytes() != flat[:1].tobytes() * flat.size:
        return None
    return flat[0]


def is_uniform(value: Value | None, number: float) -> bool:
    """True where a constant holds ``number`` everywhere (0 is not -0.0)."""
    found = uniform(value)
    if found is None or found != number:
        return False
    if number == 0 and value is not None and value.dtype and value.dtype.is_float:
        return math.copysign(1.0, float(found)) == math.copysign(1.0, number)
    return True


def is_zero(value: Value | None) -> bool:
    """True where a value is 0.0 everywhere, whatever its shape."""
    while isinstance(value, Expand | Reshape | Unsqueeze | Tile):
        value = value.operands[0]
    if isinstance(value, ConstantOfShape):
        return is_uniform(Constant(value.filling()), 0.0)
    return is_uniform(value, 0.0)


def same_shape(a: Value, b: Value) -> bool:
    """True where both shapes are known and equal for every binding of their symbols."""
    left, right = a.shape, b.shape
    if left is None or right is None or len(left) != len(right):
        return False
    return all(equal(x, y) for x, y in zip(left, right, strict=True))


def same_type(a: Value, b: Value) -> bool:
    """True where element types and shapes are known and equal."""
    return a.dtype is not None and a.dtype is b.dtype and same_shape(a, b)


def is_row(bias: Value, x: Value) -> bool:
    """True for a vector as long as the last dim of x."""
    if bias.rank != 1 or not x.shape or bias.dtype is not x.dtype:
        return False
    return bias.shape is not None and equal(bias.shape[0], x.shape[-1])


def stretches_nothing(small: Value, big: Value) -> bool:
    """True where broadcasting ``small`` with ``big`` gives the shape of ``big``."""
    inner, outer = small.shape, big.shape
    if inner is None or outer is None or len(inner) > len(outer):
        return False
    tail = outer[len(outer) - len(inner) :]
    return all(x == 1 or equal(x, y) for x, y in zip(inner, tail, strict=True))


def negated(value: Value | None) -> Value | None:
    """x, where ``value`` is -x: spelled so, or as x * -1, x / -1 or 0 - x."""
    if isinstance(value, Neg):
        return value.operands[0]
    if not isinstance(value, Mul | Div | Sub):
        return None
    a, b = value.operands
    if isinstance(value, Sub):
        x = b if is_zero(a) else None
    elif uniform(b) == -1:
        x = a
    else:
        x = b if isinstance(value, Mul) and uniform(a) == -1 else None
    return x if x is not None and same_type(x, value) else None


def perm_of(rank: int, perm: tuple[int, ...] | None) -> tuple[int, ...]:
    """A permutation written out; ONNX's default reverses the axes."""
    return tuple(reversed(range(rank))) if perm is None else tuple(perm)


def axis_of(axis: int, rank: int) -> int:
    """A possibly negative axis as one in [0, rank)."""
    return axis + rank if axis < 0 else axis


def static_shape(value: Value) -> tuple[int, ...] | None:
    """The dims where all are known integers."""
    type_ = value.type
    if isinstance(type_, TensorType) and type_.is_static:
        return type_.shape  # type: ignore[return-value]
    return None
