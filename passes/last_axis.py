"""Elements of a last axis, read through what computes them.

Ops are interned: two values that were cut out of the same numbers in two spellings
become one object, and so two halves of a table are proved equal without looking at an
exporter's way of doubling it.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from graphopt.dims import equal
from graphopt.ir import Result, Value
from graphopt.ops import (
    Concat,
    Constant,
    Expand,
    Gather,
    Reshape,
    Slice,
    Split,
    Squeeze,
    Tile,
    Transpose,
    Unsqueeze,
)
from graphopt.ops.bodies import vector
from graphopt.ops.structured import Elementwise
from graphopt.weights import Tensor

from .match import axis_of, perm_of

DEPTH = 24
"""Ops that are read through; what is farther away is taken as it is."""

TABLE_LIMIT = 1 << 24
"""Elements of a constant that is cut: positions times half the size of a head."""


def last_dim(value: Value) -> int | None:
    """How many elements the last axis has, where that is known."""
    shape = value.shape
    return shape[-1] if shape and isinstance(shape[-1], int) else None


def same_leads(a: Value, b: Value) -> bool:
    """True where all dims but the last are known and equal."""
    left, right = a.shape, b.shape
    if left is None or right is None or len(left) != len(right):
        return False
    return all(map(equal, left[:-1], right[:-1]))


def slice_last(value: Value, start: int, count: int, step: int = 1) -> Value:
    """``value[..., start::step]``, of ``count`` elements; a step is positive."""
    end = start + (count - 1) * step + 1
    return Slice(value, vector(start), vector(end), vector(-1), vector(step))


def source_of(value: Value) -> tuple[Value, int]:
    """The value whose last axis ``value`` is a run of, and where that starts."""
    start = 0
    while True:
        found = _run(value)
        if found is None:
            return value, start
        value, start = found[0], start + found[1]


def _run(value: Value) -> tuple[Value, int] | None:
    op, rank = value.op, value.rank
    if isinstance(op, Split):
        x = op.operands[0]
        if x is None or rank is None or axis_of(op.axis, rank) != rank - 1:
            return None
        before = op.pieces()[: value.index if isinstance(value, Result) else 0]
        sizes = [size for size in before if isinstance(size, int)]
        return (x, sum(sizes)) if len(sizes) == len(before) else None
    if not isinstance(op, Slice) or rank is None:
        return None
    x, cuts = op.operands[0], op.cuts()
    if x is None or cuts is None or list(cuts) != [rank - 1]:
        return None
    first, step, _ = cuts[rank - 1]
    return (x, first) if step == 1 and isinstance(first, int) else None


_PIECES: WeakKeyDictionary[Tensor, list[Constant]] = WeakKeyDictionary()
"""What was cut of constants. Large ones intern by identity: each piece is made once."""


def _piece(of: Constant, which: int | slice) -> Constant | None:
    """``of[..., which]``; pieces of one constant with the same bits are one object."""
    tensor = of.constant
    if tensor is None or tensor.size > TABLE_LIMIT:
        return None
    array = np.ascontiguousarray(tensor.array()[..., which])
    for piece in _PIECES.setdefault(tensor, []):
        known = piece.tensor.array()
        if known.shape == array.shape and known.tobytes() == array.tobytes():
            return piece
    made = Constant(array)
    _PIECES[tensor].append(made)
    return made


class LastAxis:
    """Cuts values along their last axis, down to slices of one ``leaf``.

    Steps are positive: what is read backwards is gathered.
    """

    def __init__(self, leaf: Value) -> None:
        self.leaf = leaf
        self._known: dict[tuple[Value, int, int, int], Value] = {}
        self._depth = 0

    def cut(self, value: Value, start: int, count: int, step: int = 1) -> Value:
        """``value[..., start::step]``, of ``count`` elements; its last dim is known."""
        key = (value, start, count, step)
        if key not in self._known:
            self._depth += 1
            made = None
            if value is not self.leaf and self._depth <= DEPTH:
                made = self._cut(value, start, count, step)
            self._depth -= 1
            if made is None:
                whole = count == last_dim(value)
                made = value if whole else slice_last(value, start, count, step)
            self._known[key] = made
        return self._known[key]

    def _cut(self, value: Value, start: int, count: int, step: int) -> Value | None:
        found = _run(value)
        if found is not None and last_dim(found[0]) is not None:
            return self.cut(found[0], found[1] + start, count, step)
        n, op = last_dim(value), value.op
        if n is None or op is None or op.outs != 1 or value.rank is None:
            return None
        if isinstance(op, Constant):
            which = slice(start, start + (count - 1) * step + 1, step)
            return value if count == n else _piece(op, which)
        if isinstance(op, Elementwise) and op.deterministic:
            if not all(v is None or v.rank == 0 or last_dim(v) for v in op.operands):
                return None
            return op.with_operands(
                [
                    v
                    if v is None or last_dim(v) != n
                    else self.cut(v, start, count, step)
                    for v in op.operands
                ]
            )
        if isinstance(op, Concat):
            return self._cut_concat(op, start, count, step)
        if isinstance(op, Gather):
            return self._cut_gather(op, start, count, step)
        x = op.operands[0] if op.operands else None
        if x is None or x.rank is None:
            return None
        if isinstance(op, Reshape):
            return self._cut_reshape(op, x, n, start, count, step)
        width = last_dim(x)
        if isinstance(op, Slice):
            first, stride, _ = (op.cuts() or {}).get(value.rank - 1, (0, 1, n))
            if width is None or not isinstance(first, int):
                return None
            if not isinstance(stride, int) or stride < 1:
                return None
            inner = self.cut(x, first + stride * start, count, stride * step)
            return _sliced_elsewhere(op, inner)
        if isinstance(op, Squeeze | Unsqueeze):
            axes = op.operand(1)
            known = None if axes is None else axes.ints
            if known is None:
                return None
            rank = max(x.rank, value.rank)
            if rank - 1 not in {axis_of(axis, rank) for axis in known}:
                return op.with_operands([self.cut(x, start, count, step), axes])
            if isinstance(op, Squeeze) and len(known) == 1:
                return self._cut_again(value, self.at(x, 0), start, count, step)
            return None
        if isinstance(op, Transpose):
            if perm_of(x.rank, op.perm)[-1] != x.rank - 1:
                return None
            return op.with_operands([self.cut(x, start, count, step)])
        if isinstance(op, Expand) and width == n and op.operands[1] is not None:
            wanted = op.operands[1].ints
            if wanted is None:
                return None
            return Expand(self.cut(x, start, count, step), vector(*wanted[:-1], 1))
        if isinstance(op, Tile) and width and op.operands[1] is not None:
            repeats, end = op.operands[1].ints, start + (count - 1) * step
            if repeats is None or start // width != end // width:
                return None
            inner = self.cut(x, start % width, count, step)
            others = vector(*repeats[:-1], 1)
            return inner if set(repeats[:-1]) <= {1} else Tile(inner, others)
        return None

    def _cut_again(
        self, old: Value, new: Value, start: int, count: int, step: int
    ) -> Value | None:
        return None if new is old else self.cut(new, start, count, step)

    def _cut_concat(
        self, op: Concat, start: int, count: int, step: int
    ) -> Value | None:
        assert op.rank is not None
        if axis_of(op.axis, op.rank) != op.rank - 1:
            return None
        made: list[Value] = []
        wanted = range(start, start + count * step, step)
        at = 0
        for piece in op.operands:
            width = None if piece is None else last_dim(piece)
            if piece is None or width is None:
                return None
            inside = [i - at for i in wanted if at <= i < at + width]
            if inside:
                made.append(self.cut(piece, inside[0], len(inside), step))
            at += width
        return made[0] if len(made) == 1 else Concat(*made, axis=-1)

    def _cut_gather(
        self, op: Gather, start: int, count: int, step: int
    ) -> Value | None:
        x, which = op.operands
        if x is None or x.rank is None or which is None or last_dim(x) is None:
            return None
        if axis_of(op.axis, x.rank) != x.rank - 1:
            return op.with_operands([self.cut(x, start, count, step), which])
        width, positions = last_dim(x) or 0, which.ints
        if positions is None or which.rank is None or which.rank > 1:
            return None
        if which.rank == 0:
            inner = self.at(x, axis_of(positions[0], width))
            return self._cut_again(op, inner, start, count, step)
        chosen = [axis_of(p, width) for p in positions][start::step][:count]
        stride = chosen[1] - chosen[0] if count > 1 else 1
        if stride > 0 and chosen == [chosen[0] + i * stride for i in range(count)]:
            return self.cut(x, chosen[0], count, stride)
        return Gather(x, vector(*chosen), axis=-1)

    def _cut_reshape(
        self, op: Reshape, x: Value, n: int, start: int, count: int, step: int
    ) -> Value | None:
        """Through a reshape that keeps the last axis, or merges the last two.

        ``[…, m, b]`` to ``[…, m * b]``: every b-th element is a column of them.
        """
        width, wanted = last_dim(x), op.operands[1]
        if width is None or op.shape is None or x.shape is None or wanted is None:
            return None
        if width == n and wanted.ints is not None:
            *leads, last = wanted.ints
            if last == 0:
                return None
            inner = self.cut(x, start, count, step)
            return Reshape(inner, vector(*leads, count if last == n else last))
        if len(x.shape) != len(op.shape) + 1:
            return None
        if not all(map(equal, x.shape[:-2], op.shape[:-1])):
            return None
        if step == width:
            column = self.at(x, start % width)
            return self.cut(column, start // width, count)
        return None

    def at(self, value: Value, index: int) -> Value:
        """``value[..., index]``: without the last axis, whose extent is known."""
        self._depth += 1
        made = None
        if value is not self.leaf and self._depth <= DEPTH:
            made = self._at(value, index)
        self._depth -= 1
        if made is None:
            made = Gather(value, Constant(np.array(index, np.int64)), axis=-1)
        return made

    def _at(self, value: Value, index: int) -> Value | None:
        found = _run(value)
        if found is not None and last_dim(found[0]) is not None:
            return self.at(found[0], found[1] + index)
        n, op = last_dim(value), value.op
        if n is None or op is None or op.outs != 1 or value.rank is None:
            return None
        if isinstance(op, Constant):
            return _piece(op, index)
        if isinstance(op, Elementwise) and op.deterministic:
            if not all(v is None or v.rank == 0 or last_dim(v) for v in op.operands):
                return None
            return op.with_operands(
                [
                    v
                    if v is None or v.rank == 0
                    else self.at(v, index if last_dim(v) == n else 0)
                    for v in op.operands
                ]
            )
        if isinstance(op, Concat) and axis_of(op.axis, value.rank) == value.rank - 1:
            for piece in op.operands:
                width = None if piece is None else last_dim(piece)
                if piece is None or width is None:
                    return None
                if index < width:
                    return self.at(piece, index)
                index -= width
        x = op.operands[0] if op.operands else None
        if x is None or x.shape is None:
            return None
        if isinstance(op, Unsqueeze) and op.operands[1] is not None:
            axes = {axis_of(a, value.rank) for a in op.operands[1].ints or ()}
            if value.rank - 1 not in axes:
                return None
            others = vector(*sorted(axes - {value.rank - 1}))
            return x if len(axes) == 1 else Unsqueeze(x, others)
        if isinstance(op, Reshape) and value.shape is not None:
            width = last_dim(x)
            if width is None or len(x.shape) != value.rank - 1:
                return None
            if not all(map(equal, x.shape[:-1], value.shape[:-2])):
                return None
            return self.cut(x, index, width // n, n)
        if isinstance(op, Expand | Tile) and last_dim(x) == 1 and same_leads(x, value):
            return self.at(x, 0)
        return None


def _sliced_elsewhere(op: Slice, inner: Value) -> Value | None:
    """``inner`` with the cuts of ``op`` that are not of the last axis."""
    starts, ends, axes, steps = (op.operand(i) for i in range(1, 5))
    rank = op.rank or 0
    if starts is None or starts.shape is None or not isinstance(starts.shape[0], int):
        return None
    count = starts.shape[0]
    which = list(range(count)) if axes is None else [*(axes.ints or ())]
    kept = [i for i, axis in enumerate(which) if axis_of(axis, rank) != rank - 1]
    if not kept:
        return inner
    if len(kept) == count:
        return op.with_operands([inner, *op.operands[1:]])
    rows = vector(*kept)
    chosen = [
        None if v is None else Gather(v, rows) for v in (starts, ends, axes, steps)
    ]
    return Slice(inner, *chosen)
