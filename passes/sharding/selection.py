"""The best along a dim of which each device has a part: of each part, then of all.

What is chosen in the parts is gathered, with where it was; the best of that is the best
of the whole, and of equals the same one, as parts follow each other as positions do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias, cast

from graphopt.ir import Value
from graphopt.ops import Add, ArgMax, ArgMin, GatherElements, Squeeze, TopK
from graphopt.ops.bodies import vector
from graphopt.ops.mesh import AllGather

from .local import Place

Selection: TypeAlias = ArgMax | ArgMin | TopK

SELECTIONS: Final = (ArgMax, ArgMin, TopK)
"""Ops that choose along their ``axis``."""


def selected(
    op: Selection, operands: Sequence[Value | None], place: Place
) -> tuple[Value, ...]:
    """The results of an op on every device, from parts along its axis."""
    x = operands[0]
    assert x is not None
    assert x.shape is not None
    axis = op.axis % len(x.shape)
    if isinstance(op, TopK):
        count = op.operands[1]
        assert count is not None
        assert count.ints is not None
        own = min(count.ints[0], cast(int, x.shape[axis]))
        values, at = op.copy(operands=(x, vector(own)), sorted=1).results
    else:
        at = op.copy(operands=(x,), keepdims=1)
        values = GatherElements(x, at, axis=axis)
    values = _gathered(values, axis, place)
    at = _gathered(Add(at, place.first), axis, place)
    if isinstance(op, TopK):
        best, which = op.with_operands((values, op.operands[1])).results
        return (best, GatherElements(at, which, axis=axis))[: op.outs]
    which = op.copy(operands=(values,), keepdims=1)
    found = GatherElements(at, which, axis=axis)
    return (found if op.keepdims else Squeeze(found, vector(axis)),)


def _gathered(x: Value, dim: int, place: Place) -> Value:
    """The parts of all devices, one after the other."""
    for name, ways in reversed(place.axes):
        x = AllGather(x, dim=dim, axis=name, ways=ways)
    return x
