"""The types of what goes in and out of regions: joined, carried, stacked, sliced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import TypeMismatch
from ..types import (
    UNKNOWN,
    OptionalType,
    SequenceType,
    TensorType,
    Type,
    UnknownType,
)

if TYPE_CHECKING:
    from ..dims import Dim, Shape


def join(a: Type, b: Type) -> Type:
    """The narrowest type that holds both. Raises ValueError where there is none."""
    if a == b:
        return a
    if isinstance(a, UnknownType) or isinstance(b, UnknownType):
        return UNKNOWN
    if isinstance(a, TensorType) and isinstance(b, TensorType):
        if a.dtype and b.dtype and a.dtype is not b.dtype:
            raise ValueError(f"{a} and {b}")
        return TensorType(a.dtype and b.dtype, _join_shapes(a.shape, b.shape))
    if isinstance(a, SequenceType) and isinstance(b, SequenceType):
        return SequenceType(join(a.element, b.element))
    if isinstance(a, OptionalType) and isinstance(b, OptionalType):
        return OptionalType(join(a.element, b.element))
    if isinstance(b, OptionalType):
        a, b = b, a
    if isinstance(a, OptionalType):  # runtimes let a value stand for an optional one
        return OptionalType(join(a.element, b))
    raise ValueError(f"{a} and {b}")


def _join_shapes(a: Shape | None, b: Shape | None) -> Shape | None:
    if a is None or b is None or len(a) != len(b):
        return None
    return tuple([x if x == y else None for x, y in zip(a, b, strict=True)])


def holds(formal: Type, result: Type) -> Type:
    """A carried value's type. Raises TypeMismatch where the body surely breaks it."""
    try:
        join(formal, result)
    except ValueError as error:
        raise TypeMismatch(f"a body carries {error}") from None
    return formal


def stacked(row: Type, length: Dim, axis: int = 0) -> Type:
    """The type of ``length`` rows stacked along a new axis."""
    if not isinstance(row, TensorType):
        return UNKNOWN
    if row.shape is None:
        return TensorType(row.dtype)
    place = axis + len(row.shape) + 1 if axis < 0 else axis
    return TensorType(row.dtype, (*row.shape[:place], length, *row.shape[place:]))


def unstacked(type_: Type, axis: int = 0) -> Type:
    """The type of a slice of a scanned operand."""
    if not isinstance(type_, TensorType):
        return UNKNOWN
    if type_.shape is None or not -len(type_.shape) <= axis < len(type_.shape):
        return TensorType(type_.dtype)
    place = axis % len(type_.shape)
    return TensorType(type_.dtype, type_.shape[:place] + type_.shape[place + 1 :])


def element_of(type_: Type) -> Type:
    """The type of an element of a sequence; of anything else, the type itself."""
    return type_.element if isinstance(type_, SequenceType) else type_
