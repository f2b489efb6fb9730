"""Attention to many keys: the runtime's kernel that keeps no scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from graphopt.ops import Attention
from graphopt.ops.contrib.attention import MultiHeadAttention
from graphopt.rewrite import Outcome, Rule, miss, rule

from .attention import added_mask, unfit
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
    why = unfit(op)
    if why is not None or op.operand(4) is not None:
        return why
    q, k, v, mask, *_ = (*op.operands, None)
    lengths = [x.shape[1] if x is not None and x.shape else None for x in (q, k)]
    if any(not isinstance(n, int) or n < MANY for n in lengths):
        return miss("queries and keys are not known to be many", op)
    added = added_mask(op)
    if mask is not None and (added is None or mask.constant is not None):
        return miss("the mask is a constant, or may hide all keys of a query", mask)
    return MultiHeadAttention(
        *(q, k, v, None, None, added),
        num_heads=op.q_num_heads,
        unidirectional=op.is_causal,
        scale=op.scale,
    )


@dataclass(frozen=True)
class LongAttention(GatedPass):
    """Attention over long sequences by the kernel that keeps no scores.

    attention(q, k, v, m)   -->   multi_head(q, k, v, m)
    """

    def equations(self) -> Sequence[Rule]:
        return (many_keys,)
