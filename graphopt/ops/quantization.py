"""Quantization: real numbers as narrow ones, by a scale and a zero point.

Both may be one for all, one for each position of ``axis``, or, of the rank of the
operand, one for each block of positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ml_dtypes

from .. import dims
from ..dims import Dim, Shape
from ..index import Maps
from ..types import DType
from .registry import op
from .steering import axis_names, joined, normal_axis, shape_of
from .structured import Array, Structured

if TYPE_CHECKING:
    from ..xp import Namespace


def bounds(dtype: DType) -> tuple[int, int]:
    """The least and the greatest value of an integer type."""
    info: Any = ml_dtypes.iinfo(dtype.numpy)  # type: ignore[no-untyped-call]
    return int(info.min), int(info.max)


def saturated(xp: Namespace, real: Array, zero: Array | None, dtype: DType) -> Array:
    """``round(real) + zero`` in an integer type, clipped to its range."""
    whole = xp.cast(xp.round(real), DType.F32)
    if zero is not None:
        whole = xp.add(whole, xp.cast(zero, DType.F32))
    low, high = bounds(dtype)
    return xp.cast(xp.clip(whole, low, high), dtype)


class Scaled(Structured):
    """An op on each element, with the scale and the zero point of its place."""

    flops = 2.0

    def place(self, rank: int) -> int:
        """The axis that scales vary along."""
        # A vector may have the default axis, which it lacks.
        return 0 if rank == 1 else normal_axis(self.axis, rank)

    def spread(self, xp: Namespace, factor: Array, shape: Sequence[int]) -> Array:
        """A scale or zero point, to broadcast with an operand of a shape."""
        if factor.size == 1:
            return xp.reshape(factor, ())
        at = self.place(len(shape))
        if factor.ndim == 1 and not self.block_size:
            return xp.reshape(factor, (-1, *[1] * (len(shape) - at - 1)))
        size = self.block_size or -(-shape[at] // factor.shape[at])
        repeated = xp.repeat(factor, size, at)
        return xp.strided_slice(repeated, [0], [shape[at]], None, [at])

    def result_shapes(self) -> Sequence[Shape | None]:
        return [shape_of(self)]

    def index_maps(self) -> Maps | None:
        source, scale = shape_of(self), shape_of(self, 1)
        if source is None or scale is None:
            return None
        names = axis_names(len(source))
        words = list(names)
        if _is_one(scale):
            factor = ["1"] * len(scale)
        elif len(scale) == 1 and not self.block_size:
            factor = [names[self.place(len(source))]]
        else:
            factor, at = list(names), self.place(len(source))
            blocks = self._block(source[at], scale[at])
            words[at] = f"_{names[at]}" if blocks is None else f"({names[at]} b)"
            factor[at] = "_" if blocks is None else names[at]
        operands = [words, factor, factor][: len(self.operands)]
        zero = shape_of(self, 2)
        if zero is not None and _is_one(zero):
            operands[2] = ["1"] * len(zero)
        return self.parse_maps(joined(operands, [words]))

    def _block(self, extent: Dim, count: Dim) -> Dim:
        """The extent of blocks; None where the last one is smaller."""
        exact = dims.divide_exact(extent, count)
        return exact if self.block_size in (0, exact) else None

    def extents(self) -> Mapping[str, Dim]:
        source, scale = shape_of(self) or (), shape_of(self, 1) or ()
        if len(scale) != len(source) or (len(scale) < 2 and not self.block_size):
            return {}
        at = self.place(len(source))
        block = self._block(source[at], scale[at])
        return {} if block is None else {"b": block}


def _is_one(shape: Shape) -> bool:
    """True for a scale or zero point that is one for all."""
    return not shape or shape == (1,)


@op("QuantizeLinear")
class QuantizeLinear(Scaled):
    """``x / scale + zero``, rounded to nearest (halves to even) and clipped.

    Float results are rounded to their type instead.
    """

    def target(self) -> DType | None:
        """The element type of the result; None where it is not known."""
        zero = self.operand(2)
        if self.output_dtype:
            return DType(self.output_dtype)
        return DType.U8 if zero is None else zero.dtype

    def result_dtypes(self) -> Sequence[DType | None]:
        return [self.target()]

    def compute(
        self, xp: Namespace, x: Array, scale: Array, zero: Array = None
    ) -> Array:
        target = DType.of(zero.dtype) if zero is not None else self.target()
        assert target is not None
        precision = self._precision()
        quotient = xp.divide(
            xp.cast(x, precision),
            xp.cast(self.spread(xp, scale, x.shape), precision),
        )
        if zero is not None:
            zero = self.spread(xp, zero, x.shape)
        if target.is_integer:
            return saturated(xp, quotient, zero, target)
        return xp.cast(quotient, target, saturate=bool(self.saturate))

    def _precision(self) -> DType:
        """The type of the division."""
        if self.precision:
            return DType(self.precision)
        types = [v.dtype for v in self.operands[1::-1] if v is not None]
        real = (DType.F32, DType.F16, DType.BF16)
        return next((dtype for dtype in types if dtype in real), DType.F32)


@op("DequantizeLinear")
class DequantizeLinear(Scaled):
    """``(x - zero) * scale``."""

    linear = ((1,),)

    def target(self) -> DType | None:
        """The element type of the result."""
        scale = self.operands[1]
        if self.output_dtype:
            return DType(self.output_dtype)
        return None if scale is None else scale.dtype

    def result_dtypes(self) -> Sequence[DType | None]:
        return [self.target()]

    def compute(
        self, xp: Namespace, x: Array, scale: Array, zero: Array = None
    ) -> Array:
        if zero is not None:
            zero = self.spread(xp, zero, x.shape)
        scale = xp.cast(self.spread(xp, scale, x.shape), DType.F32)
        result = xp.multiply(xp.cast(difference(xp, x, zero), DType.F32), scale)
        return xp.cast(result, self.target() or DType.F32)


def difference(xp: Namespace, x: Array, zero: Array | None) -> Array:
    """``x - zero``: of integers in int32, of others in float32."""
    whole = DType.of(x.dtype).is_integer
    dtype = DType.I32 if whole else DType.F32
    x = xp.cast(x, dtype)
    return x if zero is None else xp.subtract(x, xp.cast(zero, dtype))


@op("DynamicQuantizeLinear")
class DynamicQuantizeLinear(Structured):
    """Quantized to 8 bits so that the range of the operand and zero just fit.

    Results: the operand quantized, the scale, the zero point. Where all elements are
    zero, so is the scale; what is divided by it is taken as 1.
    """

    flops = 4.0

    def index_maps(self) -> Maps | None:
        source = shape_of(self)
        if source is None:
            return None
        names = axis_names(len(source), "_i")
        return self.parse_maps(joined([names], [names, [], []]))

    def compute(self, xp: Namespace, x: Array) -> tuple[Array, Array, Array]:
        low, high = xp.minimum(xp.min(x), 0), xp.maximum(xp.max(x), 0)
        scale = xp.divide(xp.subtract(high, low), 255)
        safe = xp.where(xp.equal(scale, 0), 1, scale)
        zero = saturated(xp, xp.divide(xp.negative(low), safe), None, DType.U8)
        return saturated(xp, xp.divide(x, safe), zero, DType.U8), scale, zero
