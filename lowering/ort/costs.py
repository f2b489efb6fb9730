"""What a fused kernel costs beside the ops that it stands for, as measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from graphopt.dims import Dim
from graphopt.ir import Value


@dataclass(frozen=True)
class Cost:
    """The least and the greatest ratio of times over all sizes that were measured.

    Below 1 the fused kernel is the faster one. ``case`` names the rows of the source.
    Where only wide operands are slow, ``widest`` is the last dim up to which none is.
    """

    low: float
    high: float
    case: str
    widest: int | None = None

    def pays(self, width: Dim) -> bool:
        """True for a last dim with which the fused kernel is not slower."""
        if self.high <= SLOWER:
            return True
        return (
            self.widest is not None and isinstance(width, int) and width <= self.widest
        )


SLOWER: Final = 1.05
"""Ratios up to this are noise: what is not slower is fused, as it is one op less."""

SOURCE: Final = "benchmarks/results/fused_kernels.md"

COSTS: Final[Mapping[str, Mapping[str, Cost]]] = {
    "embed_layer_norm": {"cpu": Cost(1.13, 1.81, "EmbedLayerNormalization")},
    "skip_layer_norm": {"cpu": Cost(2.88, 7.68, "SkipLayerNormalization")},
    "skip_rms_norm": {"cpu": Cost(1.33, 2.84, "SkipSimplifiedLayerNormalization")},
    "bias_gelu": {"cpu": Cost(0.92, 1.30, "BiasGelu", widest=1024)},
    "fast_gelu": {"cpu": Cost(0.83, 1.05, "FastGelu, bias")},
    "quick_gelu": {"cpu": Cost(0.51, 0.91, "QuickGelu")},
    "moved_left": {"cpu": Cost(0.99, 1.09, "FusedMatMul, transA")},
    "moved_right": {"cpu": Cost(0.78, 0.95, "FusedMatMul, transB")},
    "scaled_product": {"cpu": Cost(0.88, 0.98, "FusedMatMul, alpha")},
    "scaled_operand": {"cpu": Cost(0.88, 0.98, "FusedMatMul, alpha")},
    "activated_gemm": {"cpu": Cost(0.97, 0.99, "FusedGemm")},
    "activated_conv": {"cpu": Cost(0.76, 1.03, "FusedConv, Relu")},
    "conv_and_sum": {"cpu": Cost(1.04, 4.24, "FusedConv, sum, Relu")},
}
"""By rule and execution provider; what was not measured counts as fast."""


def pays(rule: str, provider: str, result: Value) -> bool:
    """True where a fusion is not slower, by its result, as far as that was measured."""
    cost = COSTS.get(rule, {}).get(provider)
    return cost is None or cost.pays(result.shape[-1] if result.shape else None)
