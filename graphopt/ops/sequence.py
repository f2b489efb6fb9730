"""Sequences and optional values: lists of tensors, and tensors that may be missing.

They run on the host: a sequence is a Python list, an absent optional is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..dims import Dim, Shape, equal
from ..types import UNKNOWN, DType, OptionalType, SequenceType, TensorType, Type
from .registry import op
from .structured import Array, Computed

if TYPE_CHECKING:
    from ..ir import Value
    from ..xp import Namespace

INT64 = TensorType(DType.I64, ())


def _element(value: Value | None) -> Type:
    """The type of what a sequence holds."""
    type_ = UNKNOWN if value is None else value.type
    if isinstance(type_, OptionalType):
        type_ = type_.element
    return type_.element if isinstance(type_, SequenceType) else UNKNOWN


def joined(types: Sequence[Type]) -> Type:
    """The narrowest type that holds values of all these types."""
    first, *rest = types
    for other in rest:
        first = _join(first, other)
    return first


def _join(a: Type, b: Type) -> Type:
    if a == b:
        return a
    if not isinstance(a, TensorType) or not isinstance(b, TensorType):
        return UNKNOWN
    dtype = a.dtype if a.dtype is b.dtype else None
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return TensorType(dtype)
    dims = [x if equal(x, y) else None for x, y in zip(a.shape, b.shape, strict=True)]
    return TensorType(dtype, tuple(dims))


def _position(at: int, length: int) -> int:
    """A possibly negative position in a sequence. Raises IndexError."""
    if not -length <= at < length:
        raise IndexError(f"position {at} in a sequence of {length}")
    return at + length if at < 0 else at


@op("SequenceConstruct")
class SequenceConstruct(Computed):
    """The operands as a sequence."""

    def infer(self) -> Sequence[Type]:
        types = [UNKNOWN if v is None else v.type for v in self.operands]
        return [SequenceType(joined(types))]

    def compute(self, xp: Namespace, *operands: Array) -> list[Array]:
        return list(operands)


@op("SequenceEmpty")
class SequenceEmpty(Computed):
    """A sequence without elements, of tensors of type ``dtype`` (by default f32)."""

    def infer(self) -> Sequence[Type]:
        return [SequenceType(TensorType(DType(self.attrs.get("dtype", 1))))]

    def compute(self, xp: Namespace, *operands: Array) -> list[Array]:
        return []


@op("SequenceAt")
class SequenceAt(Computed):
    """Element ``position`` of a sequence, from its end where negative."""

    static = (1,)

    def infer(self) -> Sequence[Type]:
        return [_element(self.operands[0])]

    def compute(self, xp: Namespace, *operands: Array) -> Array:
        sequence, index = operands
        return sequence[_position(index.item(), len(sequence))]


@op("SequenceInsert")
class SequenceInsert(Computed):
    """A tensor put in front of ``position``, or at the end."""

    static = (2,)

    def infer(self) -> Sequence[Type]:
        tensor = self.operands[1]
        assert tensor is not None
        return [SequenceType(joined([_element(self.operands[0]), tensor.type]))]

    def compute(self, xp: Namespace, *operands: Array) -> list[Array]:
        sequence, tensor, *rest = operands
        length = len(sequence)
        at = length if not rest or rest[0] is None else rest[0].item()
        if not -length <= at <= length:
            raise IndexError(f"position {at} in a sequence of {length}")
        at = at + length if at < 0 else at
        return [*sequence[:at], tensor, *sequence[at:]]


@op("SequenceErase")
class SequenceErase(Computed):
    """A sequence without the element at ``position``, by default the last."""

    static = (1,)

    def infer(self) -> Sequence[Type]:
        return [SequenceType(_element(self.operands[0]))]

    def compute(self, xp: Namespace, *operands: Array) -> list[Array]:
        sequence, *rest = operands
        index = -1 if not rest or rest[0] is None else rest[0].item()
        at = _position(index, len(sequence))
        return [*sequence[:at], *sequence[at + 1 :]]


@op("SequenceLength")
class SequenceLength(Computed):
    """How many elements a sequence has."""

    def infer(self) -> Sequence[Type]:
        return [INT64]

    def compute(self, xp: Namespace, *operands: Array) -> Array:
        return xp.full((), len(operands[0]), DType.I64)


@op("SplitToSequence")
class SplitToSequence(Computed):
    """A tensor cut along ``axis``: into single positions (without the axis unless
    ``keepdims``), pieces of one size (the last may be smaller), or of given sizes.
    """

    static = (1,)

    def infer(self) -> Sequence[Type]:
        x = self.operands[0]
        shape = None if x is None else x.shape
        if x is None or shape is None:
            return [SequenceType(TensorType(x.dtype if x else None))]
        return [SequenceType(TensorType(x.dtype, self._piece(shape)))]

    def _piece(self, shape: Shape) -> Shape:
        axis = self.axis % len(shape)
        split = self.operand(1)
        if split is None and not self.keepdims:
            return shape[:axis] + shape[axis + 1 :]
        extent: Dim = 1 if split is None else None
        sizes = None if split is None else split.ints
        if sizes and split is not None and split.rank == 1 and len(set(sizes)) == 1:
            extent = sizes[0]
        if sizes and split is not None and split.rank == 0:
            whole = shape[axis]
            if isinstance(whole, int) and sizes[0] > 0 and whole % sizes[0] == 0:
                extent = sizes[0]
        return (*shape[:axis], extent, *shape[axis + 1 :])

    def compute(self, xp: Namespace, *operands: Array) -> list[Array]:
        x, *rest = operands
        axis = self.axis % x.ndim
        extent = x.shape[axis]
        split = rest[0] if rest else None
        if split is None:
            sizes = [1] * extent
        elif split.ndim:
            sizes = [int(n) for n in split]
        else:
            size = split.item()
            sizes = [min(size, extent - at) for at in range(0, extent, size)]
        pieces = list(xp.split(x, sizes, axis))
        if split is None and not self.keepdims:
            shape = x.shape[:axis] + x.shape[axis + 1 :]
            pieces = [xp.reshape(piece, shape) for piece in pieces]
        return pieces


@op("ConcatFromSequence")
class ConcatFromSequence(Computed):
    """The elements of a sequence joined along ``axis``, a new one if ``new_axis``."""

    def infer(self) -> Sequence[Type]:
        element = _element(self.operands[0])
        if not isinstance(element, TensorType) or element.shape is None:
            dtype = element.dtype if isinstance(element, TensorType) else None
            return [TensorType(dtype)]
        shape = element.shape
        rank = len(shape) + (1 if self.new_axis else 0)
        if not -rank <= self.axis < rank:
            raise self.error(f"axis {self.axis} is out of range for rank {rank}")
        axis = self.axis % rank
        rest = shape[axis if self.new_axis else axis + 1 :]
        return [TensorType(element.dtype, (*shape[:axis], None, *rest))]

    def compute(self, xp: Namespace, *operands: Array) -> Array:
        (sequence,) = operands
        if not self.new_axis:
            return xp.concat(sequence, self.axis)
        rank = sequence[0].ndim + 1
        axis = self.axis % rank
        shape = sequence[0].shape
        return xp.concat(
            [xp.reshape(x, (*shape[:axis], 1, *shape[axis:])) for x in sequence], axis
        )


@op("Optional")
class Optional(Computed):
    """A value that is there, or, without an operand, one of ``type`` that is not."""

    def infer(self) -> Sequence[Type]:
        value = self.operand(0)
        if value is not None:
            return [OptionalType(value.type)]
        declared: Any = self.attrs.get("type")
        return [OptionalType(UNKNOWN if declared is None else declared)]

    def compute(self, xp: Namespace, *operands: Array) -> Array:
        return operands[0] if operands else None


@op("OptionalGetElement")
class OptionalGetElement(Computed):
    """The value of an optional that is there."""

    def infer(self) -> Sequence[Type]:
        value = self.operands[0]
        type_ = UNKNOWN if value is None else value.type
        return [type_.element if isinstance(type_, OptionalType) else type_]

    def compute(self, xp: Namespace, *operands: Array) -> Array:
        if operands[0] is None:
            raise ValueError("the optional holds no element")
        return operands[0]


@op("OptionalHasElement")
class OptionalHasElement(Computed):
    """True where an optional holds a value; also for what is no optional."""

    def infer(self) -> Sequence[Type]:
        return [TensorType(DType.BOOL, ())]

    def compute(self, xp: Namespace, *operands: Array) -> Array:
        there = bool(operands) and operands[0] is not None
        return xp.full((), there, DType.BOOL)
