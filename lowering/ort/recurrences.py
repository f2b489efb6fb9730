"""Linear attention and causal convolutions as ops of ONNX Runtime's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from graphopt import ops
from graphopt.ops.contrib import CausalConvWithState, LinearAttention
from graphopt.passes.causal_convolutions import rules
from graphopt.passes.chunked_attention import chunked
from graphopt.passes.raise_recurrences import looped, scanned, unrolled
from graphopt.rewrite import Outcome, Rule, rule

from .gate import Fusion


@rule
def linear_attention(op: ops.LinearAttention) -> Outcome:
    """linearattention(q, k, v) = com.microsoft.linearattention(q, k, v)"""
    same: dict[str, Any] = dict(op.attrs)
    return LinearAttention(*op.operands, outs=op.outs, **same).results


@rule
def causal_convolution(op: ops.CausalConvWithState) -> Outcome:
    """causalconv(x, w) = com.microsoft.causalconv(x, w)"""
    same: dict[str, Any] = dict(op.attrs)
    return CausalConvWithState(*op.operands, outs=op.outs, **same).results


SPELLED: Final = (scanned, looped, chunked, unrolled)


@dataclass(frozen=True)
class FuseRecurrences(Fusion):
    """Linear attention and causal convolutions, with their states, in one op each.

    scan(S = S + k (x) v; y = q S)                     -->   linearattention(q, k, v, S)
    the same by chunks of steps                        -->   linearattention(q, k, v, S)
    s = exp(a[t]) * s + w[t], s @ c[t] for each t   -->   linearattention(c, w, 1, s, a)
    silu(conv([p x], w)), [p x][-k:]                          -->   causalconv(x, w, p)
    """

    def fusions(self) -> Sequence[Rule]:
        spelled = [of(LinearAttention) for of in SPELLED]
        return (*spelled, *rules(CausalConvWithState))

    def twins(self) -> Sequence[Rule]:
        return (linear_attention, causal_convolution)
