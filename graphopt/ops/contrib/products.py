"""Matrix products and convolutions with what comes before and after them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ...ir import Value
from .. import activation
from ..contraction import Gemm, MatMul
from ..convolution import Conv
from ..elementwise import Mul
from ..movement import Transpose
from ..registry import op
from .activation import activated
from .base import DOMAIN, Contrib, summed, swapped


@op("FusedMatMul", domain=DOMAIN)
class FusedMatMul(Contrib):
    """alpha * a @ b, each with axes moved first, if asked.

    ``transBatchA`` says that the rows of a are its first axis, before those of batches;
    ``transA`` that its last two axes, then, are swapped.
    """

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
        a, b = self.operands
        a = swapped(_rows_last(a, self.transBatchA), self.transA)
        b = swapped(_rows_last(b, self.transBatchB), self.transB)
        if a is None or b is None:
            return None
        product = MatMul(a, b)
        if self.alpha == 1:
            return product
        return Mul(product, activation.number(a, self.alpha))


def _rows_last(x: Value | None, turn: int) -> Value | None:
    """x with its first axis moved before the last, if asked; None without a rank."""
    if x is None or not turn:
        return x
    if x.rank is None or x.rank < 2:
        return None
    return Transpose(x, perm=(*range(1, x.rank - 1), 0, x.rank - 1))


@op("TransposeMatMul", domain=DOMAIN)
class TransposeMatMul(FusedMatMul):
    """What FusedMatMul was called first."""

    __slots__ = ()
    defaults: ClassVar[Mapping[str, Any]] = {"alpha": 1.0, "transA": 0, "transB": 0}
    transBatchA = transBatchB = 0


@op("FusedMatMulActivation", domain=DOMAIN)
class FusedMatMulActivation(FusedMatMul):
    """activation(alpha * a @ b)."""

    __slots__ = ()
    required = frozenset(("activation",))
    others = frozenset(f"activation_{x}" for x in ("alpha", "axis", "beta", "gamma"))

    def body(self) -> Value | None:
        made = super().body()
        numbers = (self.activation_alpha, self.activation_beta)
        given = [number for number in numbers if number is not None]
        return None if made is None else activated(made, self.activation, given)


@op("GemmFastGelu", domain=DOMAIN)
class GemmFastGelu(Contrib):
    """gelu(x @ w + bias), by tanh; the bias may be absent."""

    __slots__ = ()
    facts = (2, 3, 1)

    def body(self) -> Value:
        made = summed(MatMul(*self.operands[:2]), self.operand(2))
        return activation.Gelu(made, approximate="tanh")


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
        x, w, z = self.operands[0], self.operands[1], self.operand(3)
        made = Conv(x, w, self.operand(2), **self.plain())
        return activated(summed(made, z), self.activation, self.activation_params or ())

    def plain(self) -> dict[str, Any]:
        """The attributes of the convolution."""
        return {k: value for k, value in self.attrs.items() if k not in self.own}
