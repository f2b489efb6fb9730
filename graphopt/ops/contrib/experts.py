"""Mixtures of experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ...ir import Value
from ...types import DType
from .. import activation
from ..bodies import scalar, vector
from ..contraction import MatMul
from ..elementwise import Add, Clip, Div, Min, Mul
from ..generation import Shape as ShapeOf
from ..indexing import ScatterElements, TopK
from ..movement import Expand, Transpose
from ..quantization import DequantizeLinear
from ..reduction import ReduceSum
from ..registry import op
from ..reshaping import Reshape, Unsqueeze
from ..segments import Slice
from ..softmax import Softmax
from .base import DOMAIN, Contrib
from .blocks import unpacked
from .heads import part

END = 2**31 - 1
"""Beyond the last element of any axis."""


@op("MoE", domain=DOMAIN)
class MoE(Contrib):
    """The sum of the ``k`` experts that a router prefers, by their shares.

    Operands: tokens, what the router says of each expert, and weights and biases of the
    first and of the second layer of each. The body runs every expert on every token:
    what is not preferred has share 0. Shazeer et al., arXiv 1701.06538.
    """

    __slots__ = ()
    facts = (5, 8, 1)
    defaults: ClassVar[Mapping[str, Any]] = {
        "activation_alpha": 1.0,
        "activation_beta": 0.0,
        "activation_type": "relu",
        "k": 1,
        "normalize_routing_weights": 0,
        "swiglu_fusion": 0,
        "swiglu_limit_after_activation": 0,
        "use_sparse_mixer": 0,
    }
    others = frozenset(("swiglu_limit",))

    def body(self) -> Value | None:
        if self.operand(6) is not None:
            return None
        first, first_bias, second, second_bias = (self.operand(i) for i in range(2, 6))
        return self.mixed(first, first_bias, second, second_bias)

    def mixed(
        self,
        first: Value | None,
        first_bias: Value | None,
        second: Value | None,
        second_bias: Value | None,
    ) -> Value | None:
        """The result, by weights and biases of both layers."""
        x, router = self.operands[:2]
        assert x is not None
        if self.use_sparse_mixer or x.dtype is None:
            return None
        hidden = None if x.shape is None else x.shape[-1]
        if not isinstance(hidden, int) or router is None or router.dtype is None:
            return None
        tokens = Reshape(x, vector(-1, hidden))
        inner = self._activated(_layer(tokens, first, first_bias))
        if inner is None:
            return None
        found = _layer(inner, second, second_bias)
        shares = Unsqueeze(Transpose(self._shares(router), perm=(1, 0)), vector(-1))
        total = ReduceSum(Mul(found, shares), vector(0), keepdims=0)
        return Reshape(total, ShapeOf(x))

    def _shares(self, router: Value) -> Value:
        """The share of each expert in each token."""
        chances = Softmax(router, axis=-1)
        best, which = TopK(chances, vector(self.k), axis=-1).results
        if self.normalize_routing_weights:
            best = Div(best, ReduceSum(best, vector(-1)))
        assert router.dtype is not None
        none = Expand(scalar(0, router.dtype), ShapeOf(router))
        return ScatterElements(none, which, best, axis=1)

    def _activated(self, x: Value) -> Value | None:
        match self.activation_type:
            case "identity":
                return x
            case "relu":
                return activation.Relu(x)
            case "gelu":
                return activation.Gelu(x, approximate="tanh")
            case "silu":
                return activation.Swish(x, alpha=1.0)
            case "swiglu":
                return self._gated(x)
        return None

    def _gated(self, x: Value) -> Value | None:
        """swish(gate) * (x + beta), of elements that alternate."""
        if self.swiglu_fusion != 1 or self.swiglu_limit_after_activation:
            return None
        axis, two, end = vector(-1), vector(2), vector(END)
        gate: Value = Slice(x, vector(0), end, axis, two)
        other: Value = Slice(x, vector(1), end, axis, two)
        limit = self.swiglu_limit
        if limit is not None:
            most, least = activation.number(x, limit), activation.number(x, -limit)
            gate, other = Min(gate, most), Clip(other, least, most)
        gate = activation.Swish(gate, alpha=self.activation_alpha)
        if self.activation_beta:
            other = Add(other, activation.number(x, self.activation_beta))
        return Mul(gate, other)


@op("QMoE", domain=DOMAIN)
class QMoE(MoE):
    """A mixture of experts whose weights are of few bits, packed into bytes.

    Operands are those of MoE, with scales (one for each row, or block of one) after
    each of the weights. Shares that are not normalized are not understood: the kernel
    normalizes them all the same.
    """

    __slots__ = ()
    facts = (6, 21, 1)
    defaults: ClassVar[Mapping[str, Any]] = {
        **MoE.defaults,
        "accuracy_level": 0,
        "expert_weight_bits": 4,
        "quant_type": "int",
        "weights_prepacked": -1,
    }
    others = frozenset(
        (
            *(f"fc{i}_expert_weight_bits" for i in (1, 2, 3)),
            "block_size",
            "swiglu_limit",
        )
    )

    def body(self) -> Value | None:
        given = [i for i in range(8, 21) if self.operand(i) is not None]
        is_plain = self.quant_type == "int" and self.weights_prepacked <= 0
        if not is_plain or not self.normalize_routing_weights or {*given} - {11, 12}:
            return None
        first = self._real(2, 11, self.fc1_expert_weight_bits)
        second = self._real(5, 12, self.fc2_expert_weight_bits)
        if first is None or second is None:
            return None
        return self.mixed(first, self.operand(4), second, self.operand(7))

    def _real(self, at: int, zero: int, bits: int | None) -> Value | None:
        """What the weights of an operand stand for, by the scales after it."""
        packed, scales, zeros = (self.operand(i) for i in (at, at + 1, zero))
        bits = bits or self.expert_weight_bits
        if packed is None or scales is None or packed.rank != 3 or 8 % bits:
            return None
        numbers = unpacked(packed, bits)
        by_row = scales.rank == 2
        if scales.shape is None or numbers.shape is None:
            return None
        count, extent = scales.shape[-1], numbers.shape[-1]
        if not isinstance(count, int) or not isinstance(extent, int):
            return None
        if zeros is None:
            zeros = Expand(scalar(1 << (bits - 1), DType.U8), ShapeOf(scales))
        else:
            zeros = part(unpacked(zeros, bits), 0, count)
        if by_row:
            scales, zeros = Unsqueeze(scales, vector(-1)), Unsqueeze(zeros, vector(-1))
        size = extent if by_row else extent // count
        return DequantizeLinear(numbers, scales, zeros, axis=2, block_size=size)


def _layer(x: Value, weights: Value | None, bias: Value | None) -> Value:
    """x @ w' + bias, for each expert."""
    y: Value = MatMul(x, Transpose(weights, perm=(0, 2, 1)))
    return y if bias is None else Add(y, Unsqueeze(bias, vector(1)))
