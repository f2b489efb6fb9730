"""Normalizations that add first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ...ir import Value
from .. import normalization
from ..activation import Sigmoid, Swish
from ..bodies import cast, vector, widened
from ..elementwise import Mul
from ..generation import Shape as ShapeOf
from ..normalization import RMSNormalization, spread_of
from ..reduction import ReduceMean
from ..registry import RUNTIME, op
from ..reshaping import Reshape
from .base import DOMAIN, Contrib, summed


@op("SkipLayerNormalization", domain=DOMAIN)
class SkipLayerNormalization(Contrib):
    """layernorm(x + skip + bias) * gamma + beta; the last result is the sum."""

    __slots__ = ()
    facts = (3, 5, 4)
    optional_results = True
    defaults: ClassVar[Mapping[str, Any]] = {"epsilon": 1e-12}

    def body(self) -> tuple[Value, ...]:
        x, skip, gamma = self.operands[:3]
        beta, total = self.operand(3), summed(x, skip, self.operand(4))
        made = normalization.LayerNormalization(
            total, gamma, beta, axis=-1, epsilon=self.epsilon, outs=3
        )
        return (*made.results, total)[: self.outs]


@op("SkipSimplifiedLayerNormalization", domain=DOMAIN)
class SkipSimplifiedLayerNormalization(Contrib):
    """rmsnorm(x + skip + bias) * gamma; the last result is the sum."""

    __slots__ = ()
    facts = (3, 4, 4)
    optional_results = True
    defaults: ClassVar[Mapping[str, Any]] = {"epsilon": 1e-12}

    def body(self) -> tuple[Value, ...]:
        x, skip, gamma = self.operands[:3]
        total = summed(x, skip, self.operand(3))
        y = RMSNormalization(total, gamma, axis=-1, epsilon=self.epsilon)
        if self.outs == 1:
            return (y,)
        mean, inverse = ReduceMean(total, vector(-1)), _inverse(total, -1, self.epsilon)
        return (y, mean, inverse, total)[: self.outs]


@op("GatedRMSNorm", domain=DOMAIN)
class GatedRMSNorm(Contrib):
    """rmsnorm(x) * scale * activation(gate), over parts of x as long as the scale."""

    __slots__ = ()
    facts = (3, 3, 1)
    defaults: ClassVar[Mapping[str, Any]] = {"activation": "silu", "epsilon": 1e-5}

    def body(self) -> Value | None:
        x, scale, gate = (None if v is None else widened(v) for v in self.operands)
        size = None if scale is None or scale.shape is None else scale.shape[0]
        own = self.operands[0]
        if x is None or gate is None or own is None or not isinstance(size, int):
            return None
        if own.dtype is None or self.activation not in ("silu", "swish", "sigmoid"):
            return None
        parts = Reshape(x, vector(-1, size))
        y = RMSNormalization(parts, scale, epsilon=self.epsilon)
        is_sigmoid = self.activation == "sigmoid"
        open_ = Sigmoid(gate) if is_sigmoid else Swish(gate, alpha=1.0)
        return cast(Mul(Reshape(y, ShapeOf(x)), open_), own.dtype)


# --- in the default domain ----------------------------------------------------------


@op("LayerNormalization", domain=RUNTIME)
class LayerNormalization(Contrib):
    """ONNX's op in opsets that lack it."""

    __slots__ = ()
    facts = (2, 3, 3)
    optional_results = True
    defaults: ClassVar[Mapping[str, Any]] = {
        "axis": -1,
        "epsilon": 1e-5,
        "stash_type": 1,
    }

    def body(self) -> tuple[Value, ...]:
        same: dict[str, Any] = dict(self.attrs)
        return normalization.LayerNormalization(
            *self.operands, outs=self.outs, **same
        ).results


@op("SimplifiedLayerNormalization", domain=RUNTIME)
class SimplifiedLayerNormalization(Contrib):
    """ONNX's RMSNormalization; 1 / sqrt(mean square + epsilon) is a result too."""

    __slots__ = ()
    facts = (2, 2, 2)
    optional_results = True
    defaults = LayerNormalization.defaults

    def body(self) -> tuple[Value, ...] | None:
        x, scale = self.operands
        assert x is not None
        same: dict[str, Any] = dict(self.attrs)
        y = RMSNormalization(x, scale, **same)
        if self.outs == 1:
            return (y,)
        axis = self.axis
        if axis >= 0 and x.rank is None:
            return None
        return y, _inverse(x, axis - (x.rank or 0) if axis >= 0 else axis, self.epsilon)


def _inverse(x: Value, axis: int, epsilon: float) -> Value:
    """1 / sqrt(mean square + epsilon) over the last axes, from a negative one on."""
    x = widened(x)
    return spread_of(ReduceMean(Mul(x, x), vector(*range(axis, 0))), epsilon)
