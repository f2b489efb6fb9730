"""Matrix products of quantized operands, and what is built on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ...dims import Shape
from ...ir import Value
from ...types import DType
from .. import quantization
from ..bodies import cast, scalar
from ..elementwise import Mul
from ..quantization import DynamicQuantizeLinear
from ..quantized import MatMulInteger
from ..registry import op
from ..steering import shape_of
from ..structured import Computed
from .attention import Attention
from .base import DOMAIN, Contrib, Declared, summed, swapped
from .embedding import EmbedLayerNormalization


def scaled_product(
    a: Value | None,
    b: Value | None,
    scales: tuple[Value | None, Value | None],
    zeros: tuple[Value | None, Value | None],
) -> Value:
    """The product of what a and b stand for, as float32."""
    product = MatMulInteger(a, b, *zeros)
    return Mul(cast(product, DType.F32), Mul(*scales))


@op("MatMulIntegerToFloat", domain=DOMAIN)
class MatMulIntegerToFloat(Contrib):
    """a @ b + bias, of a, b, their scales and zero points."""

    __slots__ = ()
    facts = (4, 7, 1)

    def body(self) -> Value:
        a, b, *scales = self.operands[:4]
        zeros = (self.operand(4), self.operand(5))
        made = scaled_product(a, b, (scales[0], scales[1]), zeros)
        return summed(made, self.operand(6))


@op("DynamicQuantizeMatMul", domain=DOMAIN)
class DynamicQuantizeMatMul(Contrib):
    """a @ b + bias: a quantized first, b with its scale and zero point."""

    __slots__ = ()
    facts = (3, 5, 1)

    def body(self) -> Value:
        a, b, scale = self.operands[:3]
        quantized, own, zero = DynamicQuantizeLinear(a, outs=3).results
        made = scaled_product(quantized, b, (own, scale), (zero, self.operand(3)))
        return summed(made, self.operand(4))


@op("QGemm", domain=DOMAIN)
class QGemm(Contrib):
    """alpha * a @ b + c, quantized if there is a scale for it.

    a and b have scales and zero points; c that of the product, and no zero point.
    """

    __slots__ = ()
    facts = (6, 9, 1)
    defaults: ClassVar[Mapping[str, Any]] = {"alpha": 1.0, "transA": 0, "transB": 0}

    def body(self) -> Value | None:
        a, a_scale, a_zero, b, b_scale, b_zero = self.operands[:6]
        a, b = swapped(a, self.transA), swapped(b, self.transB)
        if a is None or b is None:
            return None
        total = summed(MatMulInteger(a, b, a_zero, b_zero), self.operand(6))
        scale = Mul(Mul(a_scale, b_scale), scalar(self.alpha, DType.F32))
        y = Mul(cast(total, DType.F32), scale)
        if self.operand(7) is None:
            return y
        return quantization.QuantizeLinear(y, self.operand(7), self.operand(8))


@op("QuantizeLinear", domain=DOMAIN)
class QuantizeLinear(Contrib):
    """ONNX's op, with axis 1 for vectors of scales unless another is given."""

    __slots__ = ()
    facts = (2, 3, 1)
    others = frozenset(("axis",))

    def body(self) -> Value:
        axis = 1 if self.axis is None else self.axis
        return quantization.QuantizeLinear(*self.operands, axis=axis)


@op("DequantizeLinear", domain=DOMAIN)
class DequantizeLinear(Contrib):
    """ONNX's op, with axis 1 for vectors of scales unless another is given."""

    __slots__ = ()
    facts = (2, 3, 1)
    others = frozenset(("axis",))

    def body(self) -> Value:
        axis = 1 if self.axis is None else self.axis
        return quantization.DequantizeLinear(*self.operands, axis=axis)


@op("QAttention", domain=DOMAIN)
class QAttention(Attention):
    """Attention of x to itself, where x and the weights are quantized.

    Operands: x, weights, bias, the scales of both, the mask, their zero points, keys
    and values of the past.
    """

    __slots__ = ()
    facts = (5, 9, 2)
    others = Attention.others - {"qkv_hidden_sizes", "rotary_embedding_dim"}

    def body(self) -> tuple[Value, ...] | None:
        x, weights, bias, *scales = self.operands[:5]
        if self.do_rotary or self.past_present_share_buffer or weights is None:
            return None
        zeros = (self.operand(6), self.operand(7))
        product = scaled_product(x, weights, (scales[0], scales[1]), zeros)
        return self.projected(product, bias, weights, (5, 8, None))


@op("QEmbedLayerNormalization", domain=DOMAIN)
class QEmbedLayerNormalization(EmbedLayerNormalization):
    """layernorm(word + position + segment), of tables and weights that are quantized.

    Operands: tokens, segments, the three tables, gamma, beta, mask, and the scales and
    then the zero points of the five.
    """

    __slots__ = ()
    facts = (18, 18, 2)
    others = frozenset[str]()

    def body(self) -> tuple[Value, ...]:
        words, places, segments, gamma, beta = (self._real(i) for i in range(5))
        tables = (words, places, segments)
        return self.normalized(tables, (gamma, beta), self.operand(7), None)

    def _real(self, index: int) -> Value | None:
        x, scale, zero = (self.operand(first + index) for first in (2, 8, 13))
        return None if x is None else quantization.DequantizeLinear(x, scale, zero)


@op("DynamicQuantizeLSTM", domain=DOMAIN)
class DynamicQuantizeLSTM(Declared, Computed):
    """An LSTM with quantized weights; without a meaning.

    Its kernel quantizes the state at each step by the range of whichever part of the
    batch a thread has.
    """

    __slots__ = ()
    facts = (12, 12, 3)
    optional_results = True
    defaults: ClassVar[Mapping[str, Any]] = {"direction": "forward", "input_forget": 0}
    others = frozenset(
        ("activation_alpha", "activation_beta", "activations", "clip", "hidden_size")
    )

    def result_shapes(self) -> Sequence[Shape | None]:
        x, weights = shape_of(self), shape_of(self, 2)
        if x is None or weights is None:
            return [None] * self.outs
        state = (weights[0], x[1], weights[1])
        return [(x[0], *state), state, state][: self.outs]
