"""Slices, pieces and concatenations along a dim that devices share out.

Which positions of the operands a result has is known, so each device is sent what of
its part others have (`moving`). Of a few positions each device may also give those that
it has, and zeros for the others: addends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, TypeAlias, cast

import numpy as np

from graphopt.index import Partial, Split as Parts, State, Strategy
from graphopt.ir import Op, Value
from graphopt.ops import Concat, Constant, Gather, Slice, Split, Where
from graphopt.ops.bodies import scalar, vector
from graphopt.ops.segments import NO_END
from graphopt.rewrite import Miss

from .layout import REPLICATED
from .local import Place
from .moving import LONGEST, exchanged

Segmented: TypeAlias = Concat | Slice | Split

SEGMENTED: Final = (Concat, Slice, Split)
"""Ops that have segments of a dim of one side in a dim of the other."""

FEW: Final = 4
"""Positions are addends where there are so many times fewer than in the operand."""


def moving(op: Op) -> Iterator[Strategy]:
    """The strategies by which positions move between devices, parts to parts."""
    if isinstance(op, Concat):
        yield from _joining(op)
    elif isinstance(op, Slice | Split):
        for dim in _dims(op):
            operands: list[State] = [REPLICATED] * len(op.operands)
            operands[0] = Parts(dim)
            if all(_extent(v, dim) > 1 for v in op.results):
                yield Strategy(None, tuple(operands), (Parts(dim),) * op.outs)


def adding(op: Op) -> Iterator[Strategy]:
    """The strategies by which devices give those positions that they have."""
    if not isinstance(op, Slice) or op.dtype is None:
        return
    if not (op.dtype.is_float or op.dtype.is_integer):
        return
    for dim in _dims(op):
        if _extent(op, dim) * FEW <= _extent(op.operands[0], dim):
            operands: list[State] = [REPLICATED] * len(op.operands)
            operands[0] = Parts(dim)
            yield Strategy(None, tuple(operands), (Partial(),))


def _joining(op: Concat) -> Iterator[Strategy]:
    """All operands in parts, or one that is most of the result."""
    dim = op.axis % (op.rank or 1)
    extents = [_extent(v, dim) for v in op.operands]
    total = sum(extents)
    if len(extents) < 2 or total > LONGEST:
        return
    rows = [[extent > 0 for extent in extents]]
    rows += [[i == k for i in range(len(extents))] for k in range(len(extents))]
    for row in rows:
        if 2 * sum(e for e, split in zip(extents, row, strict=True) if split) > total:
            states: list[State] = [Parts(dim) if s else REPLICATED for s in row]
            yield Strategy(None, tuple(states), (Parts(dim),))


def _extent(value: Value | None, dim: int) -> int:
    assert value is not None
    assert value.shape is not None
    return cast(int, value.shape[dim])


def _dims(op: Slice | Split) -> list[int]:
    """The dims along which the op takes something, and not all."""
    x = op.operands[0]
    if x is None or x.shape is None:
        return []
    if isinstance(op, Split):
        dim = op.axis % len(x.shape)
        found = [dim] if op.outs > 1 else []
    else:
        cuts = op.cuts() or {}
        found = [
            dim
            for dim, (first, step, size) in cuts.items()
            if isinstance(first, int)
            and (first, step, size) != (0, 1, x.shape[dim])
            and size
        ]
    return [dim for dim in found if _extent(x, dim) <= LONGEST]


def positions(op: Segmented, dim: int) -> list[Any]:
    """Those of the operands, one after the other, that each result has along a dim."""
    if isinstance(op, Slice):
        first, step, size = cast("tuple[int, int, int]", (op.cuts() or {})[dim])
        return [first + step * np.arange(size)]
    if isinstance(op, Concat):
        return [np.arange(_extent(op, dim))]
    ends = np.cumsum([0, *(_extent(v, dim) for v in op.results)]).tolist()
    return [np.arange(a, b) for a, b in pairwise(ends)]


def rearranged(
    op: Segmented, operands: Sequence[Value | None], dim: int, place: Place
) -> tuple[Value, ...] | Miss:
    """The op on every device, from parts along ``dim`` to parts along it."""
    given = cast(
        "Sequence[Value]", operands if isinstance(op, Concat) else operands[:1]
    )
    whole = op.operands[: len(given)]
    extents = [_extent(v, dim) for v in whole]
    if isinstance(op, Slice):
        given = [_elsewhere(op, given[0], dim)]
    wanted = positions(op, dim)
    if any(len(each) % place.count for each in wanted):
        return Miss("the devices do not divide the results")
    return exchanged(given, extents, dim, wanted, place)


def contributed(
    op: Slice, operands: Sequence[Value | None], dim: int, place: Place
) -> tuple[Value, ...]:
    """slice(x) = Σ over parts of what of it is in the part, and zeros"""
    x = operands[0]
    assert x is not None
    assert x.dtype is not None
    assert x.rank is not None
    (wanted,) = positions(op, dim)
    own = np.arange(place.count)[:, None] * place.size
    inside = (wanted >= own) & (wanted < own + place.size)
    at = np.where(inside, wanted - own, 0)
    shape = [len(wanted) if i == dim else 1 for i in range(x.rank)]
    kept = Gather(Constant(inside.reshape(-1, *shape)), place.number)
    found = Gather(_elsewhere(op, x, dim), Gather(Constant(at), place.number), axis=dim)
    return (Where(kept, found, scalar(0, x.dtype)),)


def _elsewhere(op: Slice, x: Value, dim: int) -> Value:
    """What the op takes along all other dims."""
    cuts = {i: cut for i, cut in (op.cuts() or {}).items() if i != dim}
    starts, ends, steps = [], [], []
    for first, step, size in cuts.values():
        assert isinstance(first, int)
        assert isinstance(step, int)
        assert isinstance(size, int)
        stop = first + step * size
        starts.append(first)
        ends.append(stop if step > 0 or stop >= 0 else -NO_END)
        steps.append(step)
    if not cuts:
        return x
    return Slice(x, vector(*starts), vector(*ends), vector(*cuts), vector(*steps))
