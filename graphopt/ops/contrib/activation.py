"""Activations of ONNX Runtime's own, and those that its fused ops end with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ...ir import Op, Value
from ...types import DType
from .. import activation
from ..bodies import cast, scalar, vector
from ..elementwise import Add, Clip, Mul, Tanh
from ..flattened import FlatSoftmax
from ..generation import Shape as ShapeOf
from ..movement import Expand
from ..registry import op
from ..segments import Split
from .base import DOMAIN, Contrib, summed


@op("Gelu", domain=DOMAIN)
class Gelu(Contrib):
    """gelu(x), by erf."""

    __slots__ = ()
    facts = (1, 1, 1)

    def body(self) -> Value:
        return activation.Gelu(self.operands[0])


@op("BiasGelu", domain=DOMAIN)
class BiasGelu(Contrib):
    """gelu(x + bias), by erf."""

    __slots__ = ()
    facts = (2, 2, 1)

    def body(self) -> Value:
        return activation.Gelu(Add(*self.operands))


@op("FastGelu", domain=DOMAIN)
class FastGelu(Contrib):
    """gelu(x + bias), by tanh; the bias may be absent."""

    __slots__ = ()
    facts = (1, 2, 1)

    def body(self) -> Value:
        x = summed(self.operands[0], self.operand(1))
        return activation.Gelu(x, approximate="tanh")


@op("QuickGelu", domain=DOMAIN)
class QuickGelu(Contrib):
    """x * sigmoid(alpha * x)."""

    __slots__ = ()
    facts = (1, 1, 1)
    defaults: ClassVar[Mapping[str, Any]] = {"alpha": 1.702}

    def body(self) -> Value:
        return activation.Swish(self.operands[0], alpha=self.alpha)


@op("ScaledSiLU", domain=DOMAIN)
class ScaledSiLU(Contrib):
    """z * sigmoid(z) of z = scale * x; the operand counts before ``alpha``."""

    __slots__ = ()
    facts = (1, 2, 1)
    defaults: ClassVar[Mapping[str, Any]] = {"alpha": 1.0}

    def body(self) -> Value | None:
        x, scale = self.operand(0), self.operand(1)
        if x is None or x.dtype is None:
            return None
        factor = scalar(self.alpha, x.dtype) if scale is None else cast(scale, x.dtype)
        return activation.Swish(Mul(x, factor), alpha=1.0)


@op("GatedAdd", domain=DOMAIN)
class GatedAdd(Contrib):
    """x + y * gate, of a gate for each row."""

    __slots__ = ()
    facts = (3, 4, 1)

    def body(self) -> Value | None:
        x, y, gate = self.operands[:3]
        return Add(x, Mul(y, gate)) if self.operand(3) is None else None


@op("BiasAdd", domain=DOMAIN)
class BiasAdd(Contrib):
    """x + bias + skip."""

    __slots__ = ()
    facts = (3, 3, 1)

    def body(self) -> Value:
        return summed(*self.operands)


@op("BiasSplitGelu", domain=DOMAIN)
class BiasSplitGelu(Contrib):
    """left * gelu(right), by erf, of the halves of x + bias."""

    __slots__ = ()
    facts = (2, 2, 1)

    def body(self) -> Value | None:
        total = Add(*self.operands)
        width = None if total.shape is None else total.shape[-1]
        if not isinstance(width, int):
            return None
        left, right = Split(total, vector(width // 2, width // 2), axis=-1).results
        return Mul(left, activation.Gelu(right))


@op("BiasSoftmax", domain=DOMAIN)
class BiasSoftmax(Contrib):
    """softmax(x + bias) over all axes from one on; the bias broadcasts."""

    __slots__ = ()
    facts = (2, 2, 1)
    defaults: ClassVar[Mapping[str, Any]] = {"axis": 1}
    required = frozenset(("is_inner_broadcast",))

    def body(self) -> Value | None:
        x, bias = self.operands
        assert x is not None
        assert bias is not None
        if bias.rank is None or x.rank != bias.rank:
            return None
        return FlatSoftmax(Add(x, bias), axis=self.axis)


@op("BiasDropout", domain=DOMAIN)
class BiasDropout(Contrib):
    """x + bias + residual where nothing is trained; the second result is all true."""

    __slots__ = ()
    facts = (2, 5, 2)
    others = frozenset(("seed",))

    def body(self) -> tuple[Value, ...] | None:
        training = self.operand(4)
        if training is not None and training.ints != (0,):
            return None
        total = summed(*self.operands[:3])
        kept = Expand(scalar(True, DType.BOOL), ShapeOf(total))
        return (total, kept)[: self.outs]


ACTIVATIONS: dict[str, tuple[type[Op], tuple[str, ...]]] = {
    "Relu": (activation.Relu, ()),
    "Sigmoid": (activation.Sigmoid, ()),
    "Tanh": (Tanh, ()),
    "LeakyRelu": (activation.LeakyRelu, ("alpha",)),
    "HardSigmoid": (activation.HardSigmoid, ("alpha", "beta")),
    "HardSwish": (activation.HardSwish, ()),
}
"""The ops that fused ops end with, and what their numbers are called."""


def activated(x: Value, kind: str | None, given: Sequence[float]) -> Value | None:
    """The activation of a fused op: all of its numbers are given, or it has none."""
    if not kind:
        return x
    if kind == "Clip" and len(given) == 2:
        return Clip(x, *(activation.number(x, bound) for bound in given))
    cls, names = ACTIVATIONS.get(kind, (None, ()))
    if cls is None or len(names) != len(given):
        return None
    numbers: dict[str, Any] = dict(zip(names, given, strict=True))
    return cls(x, **numbers)
