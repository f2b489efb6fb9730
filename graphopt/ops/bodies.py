"""What the bodies of composite ops share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..dims import Shape
from ..index import Maps
from ..ir import Value
from ..types import DType, Type
from .constant import Constant
from .conversion import Cast
from .steering import axis_names, joined, shape_of
from .structured import Array, Composite, Computed, Elementwise, Structured

if TYPE_CHECKING:
    from ..xp import Namespace


class Pointwise(Elementwise, Composite):
    """An elementwise op with a body.

    Its `formula` runs in float32 for narrower floats and is rounded once, where the
    body, op by op, may round more often.
    """

    __slots__ = ()

    def infer(self) -> Sequence[Type]:
        return Computed.infer(self)

    def formula(self, xp: Namespace, *operands: Array) -> Array:
        """The result, from operands that are not narrow."""
        raise NotImplementedError

    def compute(self, xp: Namespace, *operands: Array) -> Array:
        return xp.each(lambda *wide: self.formula(xp, *wide), *operands)


class WholeAxes(Structured):
    """An op that relates elements to the others along some axes; like its operand 0.

    The index maps keep those axes whole.
    """

    __slots__ = ()

    def result_shapes(self) -> Sequence[Shape | None]:
        self.words()  # checks the axes
        return [shape_of(self)]

    def whole_axes(self, rank: int) -> tuple[int, ...]:
        """The axes, for an operand of this rank. Raises ValueError."""
        raise NotImplementedError

    def words(self) -> list[str] | None:
        """The dims of operand 0 in the notation of index maps; None without a rank."""
        shape = shape_of(self)
        if shape is None:
            return None
        names = axis_names(len(shape))
        try:
            whole = self.whole_axes(len(shape))
        except ValueError as error:
            raise self.error(str(error)) from None
        return ["_" * (i in whole) + name for i, name in enumerate(names)]

    def index_maps(self) -> Maps | None:
        words = self.words()
        return None if words is None else self.parse_maps(joined([words], [words]))


class Normalizing(WholeAxes, Composite):
    """An op of whole axes with a body, which tells more of these."""

    __slots__ = ()

    def infer(self) -> Sequence[Type]:
        return Structured.infer(self)


def scalar(value: float, dtype: DType) -> Constant:
    """A number as a constant of rank 0."""
    return Constant(np.asarray(value).astype(dtype.numpy))


def vector(*values: int) -> Constant:
    """Integers as a constant of rank 1: axes, dims, positions."""
    return Constant(np.asarray(values, np.int64))


def widened(x: Value) -> Value:
    """x, in float32 where its type is a narrower float."""
    narrow = x.dtype is not None and x.dtype.is_float and x.dtype.bits < 32
    return cast(x, DType.F32) if narrow else x


def cast(x: Value, dtype: DType) -> Value:
    """x in an element type; x itself where it has that."""
    return x if x.dtype is dtype else Cast(x, to=dtype)


def widest(first: DType, *others: DType) -> DType:
    """The element type of most bits; of equals, the first."""
    return max((first, *others), key=lambda dtype: dtype.bits)
