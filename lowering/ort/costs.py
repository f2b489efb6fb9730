"""What a fused kernel costs beside the ops that it stands for, as measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from graphopt.dims import Dim
from graphopt.ir import Value


@dataclass(frozen=True)
class Cost:
    """The least and the greatest ratio of times over all sizes that were measured.

    Below 1 the fused kernel is the faster one. The names of its cases begin with
    ``case``. Where only wide operands are slow, ``widest`` is the last dim up to which
    none is: that of steps, of a sequence ``[batch, channel, step]``.
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


SLOWER: Final = 1.03
"""Ratios up to this are noise: what is not slower is fused, as it is one op less."""

COSTS: Final[Mapping[str, Mapping[str, Cost]]] = {
    "scanned_attention": {"cpu": Cost(0.12, 0.42, "LinearAttention")},
    "looped_attention": {"cpu": Cost(0.12, 0.19, "LinearAttention, of a Loop")},
    "chunked_attention": {"cpu": Cost(0.69, 0.89, "LinearAttention, by chunks")},
    "unrolled_recurrence": {
        "cpu": Cost(1.53, 2.46, "LinearAttention, steps written out")
    },
    "convolved_past": {"cpu": Cost(0.07, 2.61, "CausalConvWithState, past", widest=8)},
    "activated_causal": {"cpu": Cost(0.08, 3.14, "CausalConvWithState", widest=8)},
    "steps_first": {"cpu": Cost(0.08, 5.30, "CausalConvWithState, steps first")},
    "embed_layer_norm": {"cpu": Cost(1.07, 1.93, "EmbedLayerNormalization")},
    "skip_layer_norm": {"cpu": Cost(2.89, 8.06, "SkipLayerNormalization")},
    "skip_rms_norm": {"cpu": Cost(1.05, 2.70, "SkipSimplifiedLayerNormalization")},
    "bias_gelu": {"cpu": Cost(0.93, 1.20, "BiasGelu", widest=1024)},
    "fast_gelu": {"cpu": Cost(0.80, 1.02, "FastGelu, bias")},
    "quick_gelu": {"cpu": Cost(0.52, 0.88, "QuickGelu")},
    "transposed_left": {"cpu": Cost(0.96, 1.06, "FusedMatMul, transA")},
    "transposed_right": {"cpu": Cost(0.80, 0.99, "FusedMatMul, transB")},
    "batched_left": {"cpu": Cost(0.80, 0.96, "FusedMatMul, transBatchA")},
    "batched_right": {"cpu": Cost(0.60, 0.97, "FusedMatMul, transBatchB")},
    "scaled_product": {"cpu": Cost(0.85, 0.98, "FusedMatMul, alpha")},
    "scaled_operand": {"cpu": Cost(0.85, 0.98, "FusedMatMul, alpha")},
    "activated_gemm": {"cpu": Cost(0.95, 1.01, "FusedGemm")},
    "activated_conv": {"cpu": Cost(0.75, 1.02, "FusedConv")},
    "conv_and_conv": {"cpu": Cost(0.98, 1.01, "FusedConv, sum")},
    "conv_and_sum": {"cpu": Cost(1.01, 4.70, "FusedConv, sum with an input")},
    "activated_sum": {"cpu": Cost(1.01, 4.70, "FusedConv, sum with an input")},
}
"""By rule and execution provider, from benchmarks/results/fused_kernels.md.

What was not measured counts as fast.
"""


def slower(fired: Mapping[str, int], provider: str) -> Iterator[str]:
    """What was fused though that was slower at every size that was measured, in words.

    ``fired`` says how often each rule did something.
    """
    for rule, count in fired.items():
        cost = COSTS.get(rule, {}).get(provider)
        if cost is not None and cost.low > SLOWER:
            kind = cost.case.partition(",")[0]
            times = "once" if count == 1 else f"{count} times"
            yield (
                f"{kind} was formed {times}: where it was timed, it took"
                f" {cost.low:.2f} to {cost.high:.2f} times as long as its parts"
            )


def pays(rule: str, provider: str, result: Value) -> bool:
    """True where a fusion is not slower, by its result, as far as that was measured."""
    cost = COSTS.get(rule, {}).get(provider)
    return cost is None or cost.pays(result.shape[-1] if result.shape else None)
