"""Changes of element type, and no change at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..dims import Shape
from ..index import Maps
from ..ir import Contents, Value
from ..types import UNKNOWN, DType, Type
from .registry import op
from .structured import Array, Composite, Elementwise, Structured

if TYPE_CHECKING:
    from ..xp import Namespace


@op("Identity")
class Identity(Elementwise):
    """x, whatever it is: a tensor, a sequence, an optional."""

    linear = ((0,),)
    flops = 0.0

    def infer(self) -> Sequence[Type]:
        x = self.operand(0)
        return [UNKNOWN if x is None else x.type]

    def infer_contents(self) -> tuple[Contents | None, ...]:
        x = self.operand(0)
        return (None if x is None else x.contents,)

    def compute(self, xp: Namespace, x: Array) -> Array:
        return x


@op("Cast")
class Cast(Elementwise):
    """x as the nearest value of the element type ``to``.

    ``saturate`` and ``round_mode`` say what float8 does with what it cannot hold.
    """

    arithmetic = True
    flops = 0.0

    def result_dtypes(self) -> Sequence[DType | None]:
        return [DType(self.to)]

    def index_maps(self) -> Maps | None:
        x = self.operand(0)
        exact = x is not None and is_linear_cast(x.dtype, DType(self.to))
        return self.parse_maps("... -> ...", linear=((0,),) if exact else ())

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.cast(
            x,
            DType(self.to),
            saturate=bool(self.saturate),
            round_mode=self.round_mode,
        )


def is_linear_cast(source: DType | None, target: DType) -> bool:
    """Whether the sum of casts is the cast of the sum.

    Floats may widen; integers, which wrap, may drop upper bits.
    """
    if source is None:
        return False
    if source.is_float and target.is_float:
        return source is target or 16 <= source.bits < target.bits
    return source.is_integer and target.is_integer and target.bits <= source.bits


@op("CastLike")
class CastLike(Structured, Composite):
    """x in the element type of another operand, of which nothing else is read."""

    flops = 0.0

    def index_maps(self) -> Maps | None:
        x, like = self.operands
        exact = (
            x is not None
            and like is not None
            and like.dtype is not None
            and is_linear_cast(x.dtype, like.dtype)
        )
        return self.parse_maps("..., - -> ...", linear=((0,),) if exact else ())

    def infer(self) -> Sequence[Type]:
        return Structured.infer(self)

    def result_shapes(self) -> Sequence[Shape | None]:
        x = self.operand(0)
        return [None if x is None else x.shape]

    def body(self) -> Value | None:
        x, like = self.operands
        if like is None or like.dtype is None:
            return None
        return Cast(
            x, to=like.dtype, saturate=self.saturate, round_mode=self.round_mode
        )

    def infer_contents(self) -> tuple[Contents | None, ...]:
        made = self.expansion
        return (None if made is None else made[0].contents,)

    def compute(self, xp: Namespace, x: Array, like: Array) -> Array:
        return xp.cast(
            x,
            DType.of(like.dtype),
            saturate=bool(self.saturate),
            round_mode=self.round_mode,
        )


@op("BitCast")
class BitCast(Elementwise):
    """The bits of x read as another element type of the same width."""

    flops = 0.0

    def result_dtypes(self) -> Sequence[DType | None]:
        return [DType(self.to)]

    def compute(self, xp: Namespace, x: Array) -> Array:
        source = self.operands[0].dtype  # type: ignore[union-attr]
        if source is not None and x.dtype != source.numpy:
            # A run in float64: bits are those of the declared type.
            x = x.astype(source.numpy)
        return xp.bitcast(x, DType(self.to))
