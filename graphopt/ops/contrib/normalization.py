"""Normalizations that add first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ...ir import Value
from ..normalization import LayerNormalization, RMSNormalization
from ..registry import op
from .base import DOMAIN, Contrib, summed


@op("SkipLayerNormalization", domain=DOMAIN)
class SkipLayerNormalization(Contrib):
    """layernorm(x + skip + bias) * gamma + beta; the last result is the sum."""

    __slots__ = ()
    facts = (3, 5, 4)
    defaults: ClassVar[Mapping[str, Any]] = {"epsilon": 1e-12}

    def body(self) -> tuple[Value, ...]:
        x, skip, gamma = self.operands[:3]
        beta, total = self.operand(3), summed(x, skip, self.operand(4))
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
        total = summed(x, skip, self.operand(3))
        return RMSNormalization(total, gamma, axis=-1, epsilon=self.epsilon)
