"""Spellings that ONNX Runtime's own optimizer leaves alone, where that pays.

It fuses by pattern, whatever that costs (`costs`). On one thread of a CPU its
SkipLayerNormalization takes 2.9 to 8.1 times as long as a sum and a LayerNormalization
(version 1.32.0, benchmarks/results/fused_kernels.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.ops import Add, Gelu, LayerNormalization, RMSNormalization, Sum
from graphopt.passes.match import same_type
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, rule

from .costs import pays


@rule
def sum_to_norm(op: LayerNormalization | RMSNormalization) -> Outcome:
    """norm(a + b) = norm(sum(a, b)), which is not fused"""
    x = op.operands[0]
    if not isinstance(x, Add):
        return None
    a, b = x.operands
    if a is None or b is None or a.constant is not None or b.constant is not None:
        return None
    if not same_type(a, b):
        return None
    total = Sum(a, b)
    return {x: total, op: op.with_operands([total, *op.operands[1:]])}


@rule
def sum_to_gelu(op: Gelu) -> Outcome:
    """gelu(x + b) = gelu(sum(x, b)), which is not fused"""
    x = op.operands[0]
    if not isinstance(x, Add) or op.approximate != "none":
        return None
    return None if pays("bias_gelu", "cpu", op) else {x: Sum(*x.operands)}


RULES: tuple[Rule, ...] = (sum_to_norm, sum_to_gelu)


@dataclass(frozen=True)
class SpellForOrt(RulePass):
    """Keep ONNX Runtime from fusions that are slower than what they replace.

    layernorm(a + b)   -->   layernorm(sum(a, b))
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
