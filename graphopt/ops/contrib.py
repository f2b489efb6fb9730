"""ONNX Runtime's own ops (com.microsoft) that optimized models hold, by their bodies.

ONNX has no schemas for them: `Contrib.facts` says what those would. Meanings are those
of ContribOperators.md in microsoft/onnxruntime, and tested against its kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..ir import Op, Value
from . import activation
from .contraction import Gemm, MatMul
from .convolution import Conv
from .elementwise import Add, Clip, Mul, Tanh
from .movement import Transpose
from .normalization import LayerNormalization, RMSNormalization
from .registry import op
from .schema import Schema
from .structured import Composite

DOMAIN = "com.microsoft"


class Contrib(Composite):
    """An op of ONNX Runtime. ``facts``: least and most operands, most results.

    It has the attributes ``defaults``, and may have those named ``others``.
    """

    __slots__ = ()

    facts: ClassVar[tuple[int, int, int]]
    defaults: ClassVar[Mapping[str, Any]] = {}
    others: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def schema(cls) -> Schema:
        least, most, results = cls.facts
        return Schema(
            defaults=dict(cls.defaults),
            required=frozenset(),
            optional=cls.others,
            min_operands=least,
            max_operands=most,
            min_results=1,
            max_results=results,
            operand_names=tuple(f"operand_{i}" for i in range(most)),
            variadic_operand=False,
            variadic_result=False,
            result_types=(0,) * results,
        )

    def default_outs(self) -> int:
        return 1


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
        x = _sum(self.operands[0], self.operand(1))
        return activation.Gelu(x, approximate="tanh")


@op("QuickGelu", domain=DOMAIN)
class QuickGelu(Contrib):
    """x * sigmoid(alpha * x)."""

    __slots__ = ()
    facts = (1, 1, 1)
    defaults: ClassVar[Mapping[str, Any]] = {"alpha": 1.702}

    def body(self) -> Value:
        return activation.Swish(self.operands[0], alpha=self.alpha)


@op("SkipLayerNormalization", domain=DOMAIN)
class SkipLayerNormalization(Contrib):
    """layernorm(x + skip + bias) * gamma + beta; the last result is the sum."""

    __slots__ = ()
    facts = (3, 5, 4)
    defaults: ClassVar[Mapping[str, Any]] = {"epsilon": 1e-12}

    def body(self) -> tuple[Value, ...]:
        x, skip, gamma = self.operands[:3]
        beta, total = self.operand(3), _sum(x, skip, self.operand(4))
        made = LayerNormalization(
            total, gamma, beta, axis=-1, epsilon=self.epsilon, outs=3
        )
        return (*made.results, total)[: self.outs]


@op("SkipSimplifiedLayerNormalization", domain=DOMAIN)
class SkipSimplifiedLayerNormalization(Contrib):
    """rmsnorm(x + skip + bias) * gamma."""

    __slots__ = ()
    facts = (3, 4, 1)
    defaults: ClassVar[Mapping[str, Any]] = {"epsilon": 1e-12}

    def body(self) -> Value:
        x, skip, gamma = self.operands[:3]
        total = _sum(x, skip, self.operand(3))
        return RMSNormalization(total, gamma, axis=-1, epsilon=self.epsilon)


@op("FusedMatMul", domain=DOMAIN)
class FusedMatMul(Contrib):
    """alpha * a @ b, each with its last two axes swapped first, if asked."""

    __slots__ = ()
    facts = (2, 2, 1)
    defaults: ClassVar[Mapping[str, Any]] = {
        "alpha": 1.0,
        "transA": 0,
        "transB": 0,
        "transBatchA": 0,
        "transBatchB": 0,
    }

    def body(self) -> Value | None:
        if self.transBatchA or self.transBatchB:
            return None
        sides = zip(self.operands, (self.transA, self.transB), strict=True)
        a, b = (_swapped(x, turn) for x, turn in sides)
        if a is None or b is None:
            return None
        product = MatMul(a, b)
        if self.alpha == 1:
            return product
        return Mul(product, activation.number(a, self.alpha))


@op("FusedGemm", domain=DOMAIN)
class FusedGemm(Contrib):
    """activation(gemm(a, b, c))."""

    __slots__ = ()
    facts = (2, 3, 1)
    defaults: ClassVar[Mapping[str, Any]] = {
        "alpha": 1.0,
        "beta": 1.0,
        "transA": 0,
        "transB": 0,
    }
    others = frozenset(
        ("activation", "activation_alpha", "activation_beta", "activation_gamma")
    )

    def body(self) -> Value | None:
        plain: dict[str, Any] = {name: self.attrs[name] for name in self.defaults}
        numbers = (self.activation_alpha, self.activation_beta)
        given = [number for number in numbers if number is not None]
        return activated(Gemm(*self.operands, **plain), self.activation, given)


@op("FusedConv", domain=DOMAIN)
class FusedConv(Contrib):
    """activation(conv(x, w, b) + z); z may be absent."""

    __slots__ = ()
    facts = (2, 4, 1)
    defaults: ClassVar[Mapping[str, Any]] = {"auto_pad": "NOTSET", "group": 1}
    own = frozenset(("activation", "activation_params"))
    others = own | {"dilations", "kernel_shape", "pads", "strides"}

    def body(self) -> Value | None:
        plain: dict[str, Any] = {
            name: value for name, value in self.attrs.items() if name not in self.own
        }
        x, w, z = self.operands[0], self.operands[1], self.operand(3)
        made = Conv(x, w, self.operand(2), **plain)
        return activated(_sum(made, z), self.activation, self.activation_params or ())


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


def _sum(first: Value | None, *others: Value | None) -> Value:
    """The sum of what is there."""
    assert first is not None
    for other in others:
        first = first if other is None else Add(first, other)
    return first


def _swapped(x: Value | None, turn: int) -> Value | None:
    """x, or its matrices transposed; None where its rank is not known."""
    if x is None or not turn:
        return x
    if x.rank is None or x.rank < 2:
        return None
    *leading, row, column = range(x.rank)
    return Transpose(x, perm=(*leading, column, row))
