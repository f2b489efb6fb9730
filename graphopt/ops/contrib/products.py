"""Matrix products and convolutions with what comes before and after them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ...ir import Value
from .. import activation
from ..contraction import Gemm, MatMul
from ..convolution import Conv
from ..elementwise import Mul
from ..registry import op
from .activation import activated
from .base import DOMAIN, Contrib, summed, swapped


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
        a, b = (swapped(x, turn) for x, turn in sides)
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
        return activated(summed(made, z), self.activation, self.activation_params or ())
