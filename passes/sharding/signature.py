"""What an op is apart from which values it reads: equal ops have equal ones."""

from __future__ import annotations

from collections.abc import Hashable

from graphopt.ir import Op
from graphopt.ir.values import attribute_key
from graphopt.ops import Constant


def signature(op: Op) -> Hashable:
    """Equal for ops that have the same choices: kind, attributes, types, extents."""
    return (
        type(op),
        tuple([(name, attribute_key(op.attrs[name])) for name in sorted(op.attrs)]),
        tuple([None if v is None else v.type for v in op.operands]),
        op.types,
        tuple([body.key for body in op.bodies]),
        tuple([_known(op, i) for i in range(len(op.operands))]),
        tuple([op.operands.index(v) for v in op.operands]),
    )


def _known(op: Op, at: int) -> Hashable:
    """What a choice may depend on in an operand beside its type."""
    value = op.operands[at]
    if value is None or value.ints is not None or not isinstance(value, Constant):
        return (isinstance(value, Constant), None if value is None else value.ints)
    return (True, value.tensor.key if at in getattr(op, "static", ()) else None)
