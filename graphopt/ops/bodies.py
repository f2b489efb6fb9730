"""What the bodies of composite ops share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..ir import Value
from ..types import DType, Type
from .constant import Constant
from .conversion import Cast
from .structured import Array, Composite, Computed, Elementwise

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


class Normalizing(Composite):
    """A composite op whose only result is like its first operand."""

    __slots__ = ()

    def infer(self) -> Sequence[Type]:
        x = self.operands[0]
        assert x is not None
        return [x.type]


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
