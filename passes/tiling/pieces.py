"""An op on a part of its operands, so that it gives that part of its results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, cast

import numpy as np

from graphopt import dims
from graphopt.dims import Dim
from graphopt.errors import TypeMismatch
from graphopt.index import Kind, tiling
from graphopt.ir import Op, Value
from graphopt.ops import (
    Add,
    And,
    Attention,
    AveragePool,
    Concat,
    Constant,
    ConstantOfShape,
    Conv,
    Expand,
    Gather,
    GreaterOrEqual,
    LessOrEqual,
    LpPool,
    MaxPool,
    Mul,
    Pad,
    QLinearConv,
    Range,
    Reshape,
    Shape,
    Slice,
    Sub,
    Trilu,
    Where,
)
from graphopt.ops.bodies import scalar, vector
from graphopt.rewrite import Miss, miss
from graphopt.types import DType

from .follow import domain_of
from .positioned import of_range, of_triangle
from .windows import Read

Operands: TypeAlias = tuple[Value | None, ...]


@dataclass(frozen=True)
class Place:
    """Where a tile of an op is: its axis, its extent there, and what it reads.

    ``first`` is where it begins and ``length`` its extent, int64 scalars, which a body
    computes from the number of its tile and from what it is given; ``told`` is likewise
    any other extent, None where a body is not told it.
    """

    axis: str
    size: Dim
    reads: tuple[Read | None, ...]
    first: Callable[[], Value]
    length: Callable[[], Value]
    told: Callable[[Dim], Value | None]

    @property
    def count(self) -> int:
        """The extent of a tile that all runs know."""
        assert isinstance(self.size, int)
        return self.size

    def positions(self) -> Value:
        """Those of the tile, an int64 vector."""
        return Add(self.first(), numbered(self.size, self.length))


def numbered(extent: Dim, length: Callable[[], Value]) -> Value:
    """0, 1, … of a dim; ``length`` tells a run its extent."""
    if isinstance(extent, int):
        return Constant(np.arange(extent, dtype=np.int64))
    return Range(scalar(0, DType.I64), length(), scalar(1, DType.I64))


def length_of(x: Value, axis: int) -> Callable[[], Value]:
    """The extent of a dim as a run finds it, an int64 scalar."""
    return lambda: Gather(Shape(x), scalar(axis, DType.I64))


Handler: TypeAlias = "Callable[[Any, Operands, Place], Op | Value | Miss]"


def piece(op: Op, operands: Operands, place: Place) -> Op | Value | Miss:
    """``op`` on these parts of its operands; a miss where it has no such part."""
    domain = domain_of(op)
    assert domain is not None
    handler = HANDLERS.get(type(op))
    if handler is not None:
        try:
            made = handler(op, operands, place)
        except TypeMismatch as error:
            return miss(f"{op.label} does not take parts: {error.message}", op)
    else:
        plan = tiling(domain, place.axis)
        if plan.kind not in (Kind.PARALLEL, Kind.REDUCED) or plan.added:
            return miss(f"{op.label}: {plan.reason}", op)
        if any(r is not None and (r.before or r.after) for r in place.reads):
            return miss(f"{op.label} reads beyond its operand", op)
        made = _alike(op, op.with_operands(operands), place)
    return made if isinstance(made, Miss) else _checked(op, made, place)


def _checked(op: Op, made: Value, place: Place) -> Op | Value | Miss:
    """What was made, where its types are those of a part of the results."""
    domain = domain_of(op)
    assert domain is not None
    results = made.results if isinstance(made, Op) else (made,)
    for old, new, map_ in zip(op.results, results, domain.maps.results, strict=False):
        if old.dtype is not new.dtype or old.rank != new.rank:
            return miss(f"{op.label} gives {new.type} for a part of {old.type}", op)
        for term, was, now in zip(map_, old.shape or (), new.shape or (), strict=True):
            if place.axis in term.axes:
                each = dims.divide_exact(was, domain.extents[place.axis])
                fits = dims.equal(now, dims.mul(each, place.size))
            else:
                fits = now == was
            if not fits:
                return miss(f"{op.label} gives {new.type} for a part of {old.type}", op)
    return made


def _alike(op: Op, made: Op, place: Place) -> Op | Miss:
    """What was made, where all of its axes but one are as they were.

    An op that is told how many heads or groups there are reads a part as other ones.
    """
    before, after = domain_of(op), domain_of(made)
    assert before is not None
    for name, extent in before.extents.items():
        wanted = place.size if name == place.axis else extent
        now = wanted if after is None else after.extents.get(name, wanted)
        if isinstance(now, int) and isinstance(wanted, int) and now != wanted:
            return miss(
                f"{op.label} takes a part of its operands for another whole", op
            )
    return made


# --- windows ------------------------------------------------------------------------


def _windowed(op: Any, operands: Operands, place: Place) -> Op | Miss:
    """A convolution or pooling op, with only those pads that the tile reaches."""
    x = op.operands[0]
    read = place.reads[0]
    if place.axis == "g":
        return cast(Op, op).copy(operands=operands, group=place.count)
    if place.axis[:1] != "y" or read is None:
        return _plain(op, operands, place)
    lying = op.known_windows()
    if lying is None or not all(isinstance(p, int) for pad in lying.pads for p in pad):
        return miss(f"how the windows of {op.label} lie is not known", op)
    if op.outs > 1:
        return miss(f"{op.label} tells positions in all of its operand", op)
    at = int(place.axis[1:])
    if op.attrs.get("ceil_mode") and isinstance(op, AveragePool | LpPool):
        return miss("its last window may reach beyond the pads", op)
    assert x is not None
    pads = list(lying.pads)
    pads[at] = (read.before, read.after)
    if max(pads[at]) >= max(lying.spans[at], 1):
        return miss("a window lies in the pads alone", op)
    flat = (*(before for before, _ in pads), *(after for _, after in pads))
    return cast(Op, op).copy(operands=operands, pads=flat, auto_pad="NOTSET")


def _plain(op: Op, operands: Operands, place: Place) -> Op | Miss:
    """An op along an axis that its windows do not lie over."""
    domain = domain_of(op)
    assert domain is not None
    plan = tiling(domain, place.axis)
    if plan.kind not in (Kind.PARALLEL, Kind.REDUCED) or plan.added:
        return miss(f"{op.label}: {plan.reason}", op)
    return _alike(op, op.with_operands(operands), place)


def _pad(op: Pad, operands: Operands, place: Place) -> Op | Value | Miss:
    """pad(x)[i:j]: what of the pads the tile reaches"""
    pads, read = op.pads(), place.reads[0]
    if pads is None or read is None or op.mode != "constant":
        return miss("how much is put around it is not known", op)
    at = int(place.axis[1:])
    pads[at] = (read.before, read.after)
    if not all(isinstance(p, int) and p >= 0 for pair in pads for p in pair):
        return miss("it crops, or how much is not known", op)
    flat = vector(*(a for a, _ in pads), *(b for _, b in pads))
    return op.copy(operands=(operands[0], flat, *operands[2:3]))


def _slice(op: Slice, operands: Operands, place: Place) -> Op | Value | Miss:
    """x[::s][i:j]: every s-th of what the tile reads"""
    cuts = op.cuts()
    at = int(place.axis[1:])
    if cuts is not None and at not in cuts:
        return op.with_operands(operands)
    if cuts is None or not all(
        isinstance(c, int) for cut in cuts.values() for c in cut
    ):
        return miss("what it takes is not known", op)
    cuts[at] = (0, cuts[at][1], place.count)
    if any(step < 1 for _, step, _ in cuts.values()):  # type: ignore[operator]
        return miss("it takes elements from the back", op)
    firsts, ends, steps = [], [], []
    for first, step, count in cuts.values():
        assert isinstance(first, int)
        assert isinstance(step, int)
        assert isinstance(count, int)
        firsts.append(first)
        ends.append(first + step * (count - 1) + 1 if count else first)
        steps.append(step)
    return Slice(
        operands[0], vector(*firsts), vector(*ends), vector(*cuts), vector(*steps)
    )


# --- extents ------------------------------------------------------------------------


def _shaped(op: Any, operands: Operands, place: Place) -> Op | Miss:
    """An op that is told the dims of its result, told those of the part."""
    domain = domain_of(op)
    assert domain is not None
    at = 0 if isinstance(op, ConstantOfShape) else 1
    wanted, whole = op.operands[at].contents, domain.extents[place.axis]
    if not isinstance(place.size, int):
        return _asked(op, operands, place, at)
    if wanted is None or not isinstance(whole, int):
        return miss("the dims that it asks for are not known", op)
    entries = wanted.ravel().tolist()
    lead = (op.rank or 0) - len(entries)
    for i, term in enumerate(domain.maps.results[0]):
        entry = entries[i - lead] if i >= lead else 1
        if place.axis not in term.axes or not isinstance(entry, int):
            continue
        if entry > 1 or (entry == 1 and not isinstance(op, Expand)):
            entries[i - lead] = entry * place.size // whole
    if not all(isinstance(e, int) for e in entries):
        return miss("the dims that it asks for are not known", op)
    given = list(operands)
    given[at] = vector(*entries)
    return cast(Op, op).with_operands(given)


def _asked(op: Op, operands: Operands, place: Place, at: int) -> Op | Miss:
    """The same where only a run knows the extent; 0 and -1 go with the operand."""
    domain, wanted = domain_of(op), op.operands[at]
    assert domain is not None
    assert wanted is not None
    entries = None if wanted.shape is None else wanted.shape[0]
    if not isinstance(entries, int):
        return miss("how many dims it asks for is not known", op)
    lead = (op.rank or 0) - entries
    rows: list[Value] = []
    for i, term in enumerate(domain.maps.results[0][lead:]):
        dim = (op.shape or ())[i + lead]
        entry = None if wanted.ints is None else wanted.ints[i]
        if isinstance(op, Reshape) and entry in (0, -1):
            rows.append(vector(entry))
        elif place.axis in term.axes:
            each = dims.divide_exact(dim, domain.extents[place.axis])
            if not isinstance(each, int):
                return miss("the dims that it asks for are not known", op)
            length = Mul(place.length(), scalar(each, DType.I64))
            rows.append(Reshape(length, vector(1)))
        else:
            found = vector(dim) if isinstance(dim, int) else place.told(dim)
            if found is None:
                return miss(f"nothing in a tile tells {dims.format_dim(dim)}", op)
            rows.append(Reshape(found, vector(1)) if found.rank == 0 else found)
    given = list(operands)
    if [row.ints for row in rows] != [(entry,) for entry in wanted.ints or ()]:
        given[at] = Concat(*rows, axis=0)
    return op.with_operands(given)


# --- positions ----------------------------------------------------------------------


def _range(op: Range, operands: Operands, place: Place) -> Value | Miss:
    return of_range(op.with_operands(operands), place.positions())


def _trilu(op: Trilu, operands: Operands, place: Place) -> Value | Miss:
    x = operands[0]
    if place.axis not in ("r", "c"):
        return op.with_operands(operands)
    shape = op.operands[0].shape if op.operands[0] is not None else None
    assert x is not None
    assert shape is not None
    along = len(shape) - (1 if place.axis == "r" else 2)
    rest = numbered(shape[along], length_of(x, along))
    rows, columns = place.positions(), rest
    if place.axis == "c":
        rows, columns = columns, rows
    return of_triangle(op, x, rows, columns)


def _attention(op: Attention, operands: Operands, place: Place) -> Op | Value | Miss:
    """attention(q, k, v, causal)[i:j] = attention(q[i:j], k, v, column <= i + row)"""
    if place.axis == "g" and op.kv_num_heads:
        queries = place.count * (op.groups() or 1)
        op = op.copy(kv_num_heads=place.count, q_num_heads=queries, operands=operands)
        return cast(Op, op)
    left, right = op.left_window_size, 0 if op.is_causal else op.right_window_size
    if place.axis != "s" or (left < 0 and right < 0):
        if op.operand(6) is not None and place.axis == "s":
            return miss("where its queries are depends on lengths", op)
        return _plain(op, operands, place)
    return of_queries(op, operands, place)


def of_queries(
    op: Attention, operands: Sequence[Value | None], place: Queries, **heads: Any
) -> Op | Miss:
    """Attention of some queries, told by a mask which keys each of them sees."""
    if op.operand(6) is not None:
        return miss("where its queries are depends on lengths", op)
    try:
        seen = seen_by(op, operands, place)
    except TypeMismatch as error:
        return miss(error.message, op)
    return op.copy(
        operands=[*operands[:3], seen, *operands[4:]],
        is_causal=0,
        left_window_size=-1,
        right_window_size=-1,
        **heads,
    )


class Queries(Protocol):
    """Some queries, those of a tile or of a device."""

    def positions(self) -> Value: ...


def seen_by(
    op: Attention, operands: Sequence[Value | None], place: Queries | None
) -> Value | None:
    """The mask of some queries, by default all, with the keys that positions hide.

    ``operands`` are those for these queries. Raises TypeMismatch where how many keys
    there are is not known.
    """
    left, right = op.left_window_size, 0 if op.is_causal else op.right_window_size
    k, mask = operands[1], operands[3] if len(operands) > 3 else None
    if left < 0 and right < 0:
        return mask
    sizes = op.sizes()
    past = op.operand(4)
    before = 0 if past is None or past.shape is None else past.shape[2]
    keys = None if sizes is None else sizes[3]
    numbers = isinstance(keys, int) and isinstance(before, int)
    if k is None or keys is None or not (numbers or before == 0):
        raise op.error("how many keys there are is not known")
    if place is None:
        count = None if sizes is None else sizes[0][2]
        if not isinstance(count, int):
            raise op.error("how many queries there are is not known")
        positions: Value = Constant(np.arange(count, dtype=np.int64))
    else:
        positions = place.positions()
    if isinstance(before, int) and before:
        positions = Add(positions, scalar(before, DType.I64))
    row = Reshape(positions, vector(-1, 1))
    column = numbered(keys, length_of(k, (k.rank or 0) - 2))
    seen: Value | None = None
    if right >= 0:
        seen = LessOrEqual(column, Add(row, scalar(right, DType.I64)))
    if left >= 0:
        near = GreaterOrEqual(column, Sub(row, scalar(left, DType.I64)))
        seen = near if seen is None else And(seen, near)
    assert seen is not None
    if mask is None:
        return seen
    if mask.shape is None or not dims.equal(mask.shape[-1], keys) or mask.dtype is None:
        raise op.error("the mask is of other keys")
    if mask.dtype is DType.BOOL:
        return And(seen, mask)
    return Where(seen, mask, scalar(-np.inf, mask.dtype))


HANDLERS: Final[Mapping[type[Op], Handler]] = {
    Conv: _windowed,
    QLinearConv: _windowed,
    MaxPool: _windowed,
    AveragePool: _windowed,
    LpPool: _windowed,
    Pad: _pad,
    Slice: _slice,
    Reshape: _shaped,
    Expand: _shaped,
    ConstantOfShape: _shaped,
    Range: _range,
    Trilu: _trilu,
    Attention: _attention,
}
"""Ops that must be told of the tile: their pads, the dims they make, where they are."""
