"""Matrix products and convolutions of quantized operands.

Scales and zero points are one for all, or one for each row of a left operand, column of
a right one, output channel of kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from ..index import UNIT, Combiner, Map, Maps, build
from ..types import DType
from .convolution import Windowed, per_channel
from .quantization import difference, saturated
from .registry import op
from .steering import shape_of
from .structured import Array, Structured

if TYPE_CHECKING:
    from ..xp import Namespace


# --- matrix products ----------------------------------------------------------------


class QuantizedProduct(Structured):
    """A matrix product of quantized operands."""

    flops = 2.0

    def product_maps(self, rows: Sequence[int], columns: Sequence[int]) -> Maps | None:
        """The index maps; operands ``rows`` go with the left one, and so on."""
        words = []
        for i, value in enumerate(self.operands):
            rank = 0 if value is None else value.rank
            if rank is None:
                return None
            if i in (rows[0], columns[0]):
                matrix = "... m k" if i == rows[0] else "... k n"
                words.append(matrix if rank > 1 else "k")
            elif i in rows:
                words.append(_factor_words(shape_of(self, i) or (), "m", "... m? 1"))
            elif i in columns:
                words.append(_factor_words(shape_of(self, i) or (), "n", "... 1 n?"))
            else:
                words.append(" ".join("1" * rank))
        m = "m" if words[rows[0]] != "k" else ""
        n = "n" if words[columns[0]] != "k" else ""
        lead = "..." if m or n else ""
        return self.parse_maps(f"{', '.join(words)} -> {lead} {m} {n}")


def _factor_words(shape: Sequence[object], vector: str, matrix: str) -> str:
    if len(shape) > 1:
        return matrix
    return "" if not shape else "1" if shape[0] == 1 else vector


def by_row(xp: Namespace, factor: Array | None) -> Array | None:
    """A vector of factors of the rows of a matrix, as a column."""
    return factor if factor is None or factor.ndim != 1 else xp.reshape(factor, (-1, 1))


@op("MatMulInteger")
class MatMulInteger(QuantizedProduct):
    """The matrix product of integers less their zero points, in 32 bits."""

    def index_maps(self) -> Maps | None:
        return self.product_maps((0, 2), (1, 3))

    def compute(
        self,
        xp: Namespace,
        a: Array,
        b: Array,
        a_zero: Array = None,
        b_zero: Array = None,
    ) -> Array:
        left = difference(xp, a, by_row(xp, a_zero))
        return xp.matmul(left, difference(xp, b, b_zero))


@op("QLinearMatMul")
class QLinearMatMul(QuantizedProduct):
    """The matrix product of what quantized operands stand for, quantized itself."""

    combiner: ClassVar[Combiner | None] = None

    def index_maps(self) -> Maps | None:
        return self.product_maps((0, 1, 2), (3, 4, 5))

    def compute(
        self,
        xp: Namespace,
        a: Array,
        a_scale: Array,
        a_zero: Array,
        b: Array,
        b_scale: Array,
        b_zero: Array,
        y_scale: Array,
        y_zero: Array,
    ) -> Array:
        left = difference(xp, a, by_row(xp, a_zero))
        product = xp.matmul(left, difference(xp, b, b_zero))
        scale = scaling(xp, by_row(xp, a_scale), b_scale, y_scale)
        return requantized(xp, product, scale, y_zero)


def scaling(xp: Namespace, a: Array, b: Array, y: Array) -> Array:
    """From the scales of two factors to that of the product: ``a * b / y``."""
    a, b, y = (xp.cast(scale, DType.F32) for scale in (a, b, y))
    return xp.divide(xp.multiply(a, b), y)


def requantized(xp: Namespace, total: Array, scale: Array, zero: Array) -> Array:
    """A sum of products in the type of its zero point."""
    real = xp.multiply(xp.cast(total, DType.F32), scale)
    target = DType.of(zero.dtype)
    if target.is_integer:
        return saturated(xp, real, zero, target)
    return xp.cast(real, target)


# --- convolutions -------------------------------------------------------------------


class QuantizedConvolution(Windowed):
    """A convolution of quantized operands; padding stands for zero."""

    def quantized_maps(self, factors: Sequence[tuple[int, bool]]) -> Maps | None:
        """The index maps; ``factors`` are operands and whether they are per channel."""
        windows = self.known_windows()
        if windows is None:
            return None
        x, w, y = self.correlated(windows)
        operands: list[Map | None] = [None] * len(self.operands)
        operands[0], operands[self.kernels] = x, w
        for i, channels in factors:
            shape = shape_of(self, i)
            if shape is not None:
                whole = not channels or shape == (1,)
                operands[i] = ((UNIT,) if whole else (w[0],)) if shape else ()
        return build(operands, [y], combiner=self.combiner, cost=self.flops)

    def products(
        self, xp: Namespace, x: Array, w: Array, x_zero: Array, w_zero: Array
    ) -> Array:
        """The convolution without zero points, in int32."""
        if x_zero is not None:
            x_zero = xp.reshape(x_zero, ())
        if w_zero is not None and w_zero.size > 1:
            w_zero = xp.reshape(w_zero, (-1, *[1] * (w.ndim - 1)))
        return self.correlate(xp, difference(xp, x, x_zero), difference(xp, w, w_zero))


@op("ConvInteger")
class ConvInteger(QuantizedConvolution):
    """The convolution of integers less their zero points, in 32 bits."""

    def index_maps(self) -> Maps | None:
        return self.quantized_maps([(2, False), (3, True)])

    def compute(
        self,
        xp: Namespace,
        x: Array,
        w: Array,
        x_zero: Array = None,
        w_zero: Array = None,
    ) -> Array:
        return self.products(xp, x, w, x_zero, w_zero)


@op("QLinearConv")
class QLinearConv(QuantizedConvolution):
    """The convolution of what quantized operands stand for, quantized itself.

    The bias has the scale of the products, and no zero point.
    """

    kernels = 3
    combiner: ClassVar[Combiner | None] = None

    def index_maps(self) -> Maps | None:
        channels = {4, 5, 8}
        factors = [(i, i in channels) for i in (1, 2, 4, 5, 6, 7, 8)]
        return self.quantized_maps(factors)

    def compute(
        self,
        xp: Namespace,
        x: Array,
        x_scale: Array,
        x_zero: Array,
        w: Array,
        w_scale: Array,
        w_zero: Array,
        y_scale: Array,
        y_zero: Array,
        bias: Array = None,
    ) -> Array:
        total = self.products(xp, x, w, x_zero, w_zero)
        if bias is not None:
            total = xp.add(total, per_channel(xp, bias, x.ndim))
        scale = scaling(xp, x_scale, w_scale, y_scale)
        return requantized(xp, total, per_channel(xp, scale, x.ndim), y_zero)
