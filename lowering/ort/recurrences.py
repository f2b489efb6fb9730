"""Linear attention as an op of ONNX Runtime's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.ops.contrib import LinearAttention
from graphopt.passes.raise_recurrences import scanned, unrolled
from graphopt.rewrite import Rule

from .gate import GatedPass


@dataclass(frozen=True)
class FuseRecurrences(GatedPass):
    """Linear attention that a Scan spells, or that is written out, in one op.

    scan(S = S + k (x) v; y = q S)                     -->   linearattention(q, k, v, S)
    s = exp(a[t]) * s + w[t], s @ c[t] for each t   -->   linearattention(c, w, 1, s, a)
    """

    def equations(self) -> Sequence[Rule]:
        return (scanned(LinearAttention), unrolled(LinearAttention))
