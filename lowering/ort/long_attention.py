"""Attention to many keys: the runtime's kernel that keeps no scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from graphopt.ops import Attention
from graphopt.rewrite import Outcome, Rule, miss, rule

from .attention import by_heads
from .gate import GatedPass

MANY: Final = 1024
"""Fewer keys are faster in the kernel of ONNX's own Attention.

On one thread of a CPU, 8 heads of 64, without a mask and with one for all queries and
keys, MultiHeadAttention takes 1.12 and 1.18 of its time at 128, 0.99 and 1.05 at 512,
0.91 and 0.97 at 1,024, and 0.84 and 0.89 at 2,048 (measured with version 1.32.0).
"""


@rule(exact=False)
def many_keys(op: Attention) -> Outcome:
    """attention(q, k, v, m) = multi_head(q, k, v, m)"""
    q, k = op.operands[:2]
    mask = op.operand(3)
    lengths = [x.shape[1] if x is not None and x.shape else None for x in (q, k)]
    if op.rank == 3 and any(not isinstance(n, int) or n < MANY for n in lengths):
        return miss("queries and keys are not known to be many", op)
    if mask is not None and mask.constant is not None:
        return miss("the mask is a constant", mask)
    return by_heads(op, op.operands[:3])


@dataclass(frozen=True)
class LongAttention(GatedPass):
    """Attention over long sequences by the kernel that keeps no scores.

    attention(q, k, v, m)   -->   multi_head(q, k, v, m)
    """

    def equations(self) -> Sequence[Rule]:
        return (many_keys,)
