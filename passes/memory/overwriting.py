"""Whether an op may write over what it reads: told by tiles, for who doubts a plan.

This shares no code with `aliases`: tiles of one position are cut from the op. Where a
tile of the result reads the same tile of the operand, along every axis, no other
element needs what was there.
"""

from __future__ import annotations

from graphopt import dims, index
from graphopt.index import Kind
from graphopt.ir import Op, Value
from graphopt.ops.structured import Composite, Structured

from .space import Space


def may_overwrite(op: Op, place: int, space: Space) -> bool:
    """True where the only result of an op may lie where that operand lies."""
    operand, result = op.operand(place), op.results[0]
    if operand is None or len(op.results) > 1 or not _of_one_size(operand, result):
        return False
    if not isinstance(space.in_place, bool):
        return place in space.in_place.get(op.kind, ())
    if not space.in_place or op.bodies:
        return False
    places = [i for i, v in enumerate(op.operands) if v is operand]
    if isinstance(op, Structured):
        return all(_tile_by_tile(op, i) for i in places)
    made = op.expansion if isinstance(op, Composite) else None
    return made is not None and _passes_through(made[0], operand)


def _of_one_size(a: Value, b: Value) -> bool:
    known = a.dtype is not None and b.dtype is not None and a.shape is not None
    return known and a.shape == b.shape and a.dtype.bits == b.dtype.bits  # type: ignore[union-attr]


def _tile_by_tile(op: Structured, place: int) -> bool:
    """Every tile of one position of the result reads that tile of the operand."""
    maps = op.index_maps()
    if maps is None or place >= len(maps.operands) or maps.operands[place] is None:
        return False
    shapes = [None if v is None else v.shape for v in op.operands]
    if maps.broadcast:  # the result has the dims of this operand: others decide nothing
        shapes = [x if i == place else None for i, x in enumerate(shapes)]
    domain = index.domain(maps, shapes, op.extents())
    for axis, extent in domain.extents.items():
        if dims.equal(extent, 1):
            continue
        if index.tiling(domain, axis).kind not in (Kind.PARALLEL, Kind.POSITIONAL):
            return False
        cut = index.tile_slice(domain, axis, 0, 1)
        if cut.operands[place] != cut.results[0]:
            return False
    return True


def _passes_through(value: Value, operand: Value) -> bool:
    """True where each op between them reads, of what depends on it, its own tile."""
    depends: dict[Value, bool] = {operand: True}
    pending = [value]
    while pending:
        op = pending[-1].op
        if pending[-1] in depends or op is None:
            depends.setdefault(pending.pop(), False)
            continue
        inner = [v for v in op.operands if v is not None]
        missing = [v for v in inner if v not in depends]
        if missing:
            pending += missing
            continue
        places = [i for i, v in enumerate(op.operands) if v and depends[v]]
        for place in places:
            if not isinstance(op, Structured) or not _tile_by_tile(op, place):
                return False
            if op.shape != operand.shape:
                return False
        depends |= dict.fromkeys(op.results, bool(places))
    return True
