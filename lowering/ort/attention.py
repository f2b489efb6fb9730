"""What ONNX Runtime's attention kernels ask of their operands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.dims import add, equal
from graphopt.ir import Value
from graphopt.ops import Attention, Concat, Expand, Shape
from graphopt.ops.bodies import vector
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, rule


@rule
def whole_mask(op: Attention) -> Outcome:
    """attention(q, k, v, m) = attention(q, k, v, expand(m)), of all queries and keys

    The kernel broadcasts a mask over batches and heads only.
    """
    q, k, mask, past = (op.operand(i) for i in (0, 1, 3, 4))
    if mask is None or mask.shape is None or q is None or k is None:
        return None
    axis = 2 if op.rank == 4 else 1
    if q.shape is None or k.shape is None:
        return None
    keys = k.shape[axis]
    if past is not None:
        keys = None if past.shape is None else add(past.shape[2], keys)
    lacks = [not equal(mask.shape[-2], q.shape[axis]), mask.shape[-1] == 1 != keys]
    if not any(lacks):
        return None
    if lacks[1] and past is not None:
        return None
    sizes = [
        _size(x, axis) if need else vector(1)
        for x, need in zip((q, k), lacks, strict=True)
    ]
    operands = list(op.operands)
    operands[3] = Expand(mask, Concat(*sizes, axis=0))
    return op.with_operands(operands)


def _size(x: Value, axis: int) -> Value:
    dim = x.shape[axis] if x.shape is not None else None
    return vector(dim) if isinstance(dim, int) else Shape(x, start=axis, end=axis + 1)


RULES: tuple[Rule, ...] = (whole_mask,)


@dataclass(frozen=True)
class LowerAttention(RulePass):
    """Give ONNX Runtime's kernel of Attention the masks that it takes.

    attention(q, k, v, m)   -->   attention(q, k, v, expand(m))
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
