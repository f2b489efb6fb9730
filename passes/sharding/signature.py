"""What the choices of an op hang on: equal ones are found once.

That is what the op does, of which types, and what it may be steered by: the integers
that are known of an operand, and which operands are one value.
"""

from __future__ import annotations

from collections.abc import Hashable

from graphopt.ir import Op
from graphopt.ops import Constant


def signature(op: Op) -> Hashable:
    """Equal for ops that have the same choices.

    Choices are taken from one op to the other unseen, so that this says more than the
    keys by which tiling looks for regions to try (`twins`).
    """
    return (
        op.meaning,
        tuple([None if v is None else v.type for v in op.operands]),
        op.types,
        tuple([_known(op, i) for i in range(len(op.operands))]),
        tuple([op.operands.index(v) for v in op.operands]),
    )


def _known(op: Op, at: int) -> Hashable:
    """What a choice may depend on in an operand beside its type."""
    value = op.operands[at]
    if value is None or value.ints is not None or not isinstance(value, Constant):
        return (isinstance(value, Constant), None if value is None else value.ints)
    return (True, value.tensor.key if at in getattr(op, "static", ()) else None)
