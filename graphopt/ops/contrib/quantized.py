"""Ops on quantized operands: what they stand for, computed on, and quantized again.

Operands come with their scale and zero point, which is 0 where it is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ...ir import Op, Value
from .. import quantization
from ..activation import LeakyRelu, Sigmoid
from ..bodies import scalar, vector
from ..comparison import Where
from ..elementwise import Add, Mul
from ..flattened import FlatSoftmax
from ..movement import Transpose
from ..pooling import AveragePool, GlobalAveragePool
from ..quantized import QLinearConv as OnnxQLinearConv
from ..reduction import ReduceMean
from ..registry import op
from ..segments import Concat
from ..softmax import Softmax
from .base import DOMAIN, MANY, Contrib


class Quantized(Contrib):
    """An op of ONNX Runtime on quantized operands."""

    __slots__ = ()

    def real(self, first: int) -> Value:
        """What an operand stands for: operand ``first``, its scale and zero point."""
        x, scale, zero = (self.operand(first + i) for i in range(3))
        return quantization.DequantizeLinear(x, scale, zero)

    def quantized(self, y: Value, scale: Value | None, zero: Value | None) -> Value:
        """A result; without a zero point it is of the type of operand 0."""
        x = self.operand(0)
        if zero is None and x is not None and x.dtype is not None:
            zero = scalar(0, x.dtype)
        return quantization.QuantizeLinear(y, scale, zero)


class QuantizedUnary(Quantized):
    """f(x), of x, its scale and zero point, and the scale and zero point of f(x)."""

    __slots__ = ()
    facts = (4, 5, 1)

    def of(self, x: Value) -> Value | None:
        """The op on real numbers; None where it is not known."""
        raise NotImplementedError

    def body(self) -> Value | None:
        y = self.of(self.real(0))
        if y is None:
            return None
        return self.quantized(y, self.operand(3), self.operand(4))


@op("QLinearSigmoid", domain=DOMAIN)
class QLinearSigmoid(QuantizedUnary):
    """1 / (1 + exp(-x))."""

    __slots__ = ()

    def of(self, x: Value) -> Value:
        return Sigmoid(x)


@op("QLinearLeakyRelu", domain=DOMAIN)
class QLinearLeakyRelu(QuantizedUnary):
    """x, or alpha * x below 0."""

    __slots__ = ()
    defaults: ClassVar[Mapping[str, Any]] = {"alpha": 0.01}

    def of(self, x: Value) -> Value:
        return LeakyRelu(x, alpha=self.alpha)


@op("QLinearSoftmax", domain=DOMAIN)
class QLinearSoftmax(QuantizedUnary):
    """Softmax along an axis, or before opset 13 over all axes from it on."""

    __slots__ = ()
    facts = (5, 5, 1)
    defaults: ClassVar[Mapping[str, Any]] = {"axis": -1}
    required = frozenset(("opset",))

    def of(self, x: Value) -> Value:
        kind = Softmax if self.opset >= 13 else FlatSoftmax
        return kind(x, axis=self.axis)


@op("QLinearReduceMean", domain=DOMAIN)
class QLinearReduceMean(QuantizedUnary):
    """The mean along axes."""

    __slots__ = ()
    required = frozenset(("axes", "keepdims"))

    def of(self, x: Value) -> Value:
        return ReduceMean(x, vector(*self.axes), keepdims=self.keepdims)


@op("QLinearGlobalAveragePool", domain=DOMAIN)
class QLinearGlobalAveragePool(QuantizedUnary):
    """The mean of each channel."""

    __slots__ = ()
    facts = (5, 5, 1)
    defaults: ClassVar[Mapping[str, Any]] = {"channels_last": 0}

    def of(self, x: Value) -> Value | None:
        if not self.channels_last:
            return GlobalAveragePool(x)
        first = channels_first(x)
        return None if first is None else channels_last(GlobalAveragePool(first))


@op("QLinearAveragePool", domain=DOMAIN)
class QLinearAveragePool(QuantizedUnary):
    """The means of windows."""

    __slots__ = ()
    defaults: ClassVar[Mapping[str, Any]] = {
        "auto_pad": "NOTSET",
        "ceil_mode": 0,
        "channels_last": 0,
        "count_include_pad": 0,
    }
    required = frozenset(("kernel_shape",))
    others = frozenset(("pads", "strides"))

    def of(self, x: Value) -> Value | None:
        plain: dict[str, Any] = dict(self.attrs)
        if not plain.pop("channels_last"):
            return AveragePool(x, **plain)
        first = channels_first(x)
        return None if first is None else channels_last(AveragePool(first, **plain))


class QuantizedBinary(Quantized):
    """f(a, b): both with scale and zero point, and then those of the result."""

    __slots__ = ()
    facts = (7, 8, 1)
    kind_of_real: ClassVar[type[Op]]

    def body(self) -> Value:
        y = self.kind_of_real(self.real(0), self.real(3))
        return self.quantized(y, self.operand(6), self.operand(7))


@op("QLinearAdd", domain=DOMAIN)
class QLinearAdd(QuantizedBinary):
    """a + b."""

    __slots__ = ()
    kind_of_real = Add


@op("QLinearMul", domain=DOMAIN)
class QLinearMul(QuantizedBinary):
    """a * b."""

    __slots__ = ()
    kind_of_real = Mul


@op("QLinearWhere", domain=DOMAIN)
class QLinearWhere(Quantized):
    """x where the condition is true, else y."""

    __slots__ = ()
    facts = (9, 9, 1)

    def body(self) -> Value:
        z = Where(self.operand(0), self.real(1), self.real(4))
        return self.quantized(z, self.operand(7), self.operand(8))


@op("QLinearConcat", domain=DOMAIN)
class QLinearConcat(Quantized):
    """Operands joined; scale and zero point of the result come first."""

    __slots__ = ()
    facts = (3, MANY, 1)
    required = frozenset(("axis",))

    def body(self) -> Value:
        parts = [self.real(i) for i in range(2, len(self.operands), 3)]
        joined = Concat(*parts, axis=self.axis)
        return self.quantized(joined, self.operand(0), self.operand(1))


@op("QLinearConv", domain=DOMAIN)
class QLinearConv(Contrib):
    """ONNX's QLinearConv, or that with the channels last."""

    __slots__ = ()
    facts = (8, 9, 1)
    defaults: ClassVar[Mapping[str, Any]] = {
        "auto_pad": "NOTSET",
        "channels_last": 0,
        "group": 1,
    }
    others = frozenset(("dilations", "kernel_shape", "pads", "strides"))

    def body(self) -> Value | None:
        plain: dict[str, Any] = dict(self.attrs)
        x, *others = self.operands
        assert x is not None
        if not plain.pop("channels_last"):
            return OnnxQLinearConv(x, *others, **plain)
        first = channels_first(x)
        if first is None:
            return None
        return channels_last(OnnxQLinearConv(first, *others, **plain))


def channels_first(x: Value) -> Value | None:
    """[batch, ..., channel] as [batch, channel, ...]; None without a rank."""
    if x.rank is None or x.rank < 2:
        return None
    return Transpose(x, perm=(0, x.rank - 1, *range(1, x.rank - 1)))


def channels_last(x: Value) -> Value:
    """[batch, channel, ...] as [batch, ..., channel]."""
    assert x.rank is not None
    return Transpose(x, perm=(0, *range(2, x.rank), 1))
