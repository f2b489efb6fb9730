"""Activations of ONNX Runtime's own, and those that its fused ops end with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ...ir import Op, Value
from .. import activation
from ..elementwise import Add, Clip, Tanh
from ..registry import op
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


ACTIVATIONS: dict[str, tuple[type[Op], tuple[str, ...]]] = {
    "Relu": (activation.Relu, ()),
    "Sigmoid": (activation.Sigmoid, ()),
    "Tanh": (Tanh, ()),
    "LeakyRelu": (activation.LeakyRelu, ("alpha",)),
    "HardSigmoid": (activation.HardSigmoid, ("alpha", "beta")),
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
