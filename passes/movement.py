"""Movement: chains of ops that only move elements, composed and cancelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from graphopt.dims import Dim, Shape, add, equal, mul
from graphopt.ir import Op, Value
from graphopt.ops import (
    Concat,
    Constant,
    Expand,
    Flatten,
    Gather,
    Pad,
    PRelu,
    Reshape,
    Slice,
    Split,
    Squeeze,
    Tile,
    Transpose,
    Unsqueeze,
)
from graphopt.ops.structured import Elementwise
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule

from .match import axis_of, perm_of, same_shape
from .shapes import filled_dims, reshape_to

Ordered: TypeAlias = Reshape | Flatten | Squeeze | Unsqueeze
"""Ops that keep the row-major order of the elements."""


def _vector(*numbers: int) -> Constant:
    return Constant(np.array(numbers, np.int64))


@rule
def transpose_nothing(op: Transpose) -> Outcome:
    """transpose(x, identity) = x"""
    x = op.operands[0]
    if x is None or x.rank is None:
        return None
    return x if perm_of(x.rank, op.perm) == tuple(range(x.rank)) else None


@rule
def transpose_transpose(op: Transpose) -> Outcome:
    """transpose(transpose(x, p), q) = transpose(x, p[q])"""
    inner = op.operands[0]
    if not isinstance(inner, Transpose):
        return None
    x = inner.operands[0]
    if x is None or x.rank is None:
        return miss("its rank is not known", x)
    p, q = perm_of(x.rank, inner.perm), perm_of(x.rank, op.perm)
    return Transpose(x, perm=tuple([p[i] for i in q]))


@rule
def transpose_ones(op: Transpose, scene: Scene) -> Outcome:
    """transpose(x, p) = reshape(x) where only dims of 1 move, beside a reshape"""
    x = op.operands[0]
    if x is None or x.shape is None:
        return None
    if not keeps_order(op) or not isinstance(x, Ordered):
        return None
    return reshape_to(x, op.shape) if scene.single(x) else None


def keeps_order(op: Value) -> bool:
    """True where the elements stay in row-major order."""
    if not isinstance(op, Transpose):
        return isinstance(op, Ordered)
    shape = None if op.operands[0] is None else op.operands[0].shape
    if shape is None:
        return False
    moved = [i for i in perm_of(len(shape), op.perm) if not equal(shape[i], 1)]
    return moved == sorted(moved)


@rule
def reshape_reshape(op: Reshape | Flatten | Squeeze | Unsqueeze) -> Outcome:
    """reshape(reshape(x, s), t) = reshape(x, t), also of transposes that move ones"""
    inner = op.operands[0]
    if inner is None or inner.op is None or not keeps_order(inner):
        return None
    inner = inner.op
    x = inner.operands[0]
    if x is None:
        return None
    if same_shape(op, x):
        return x
    if _is_mask(op, inner, x):
        return miss("runtimes know a mask for attention by its two steps", inner)
    made = _both(op, inner, x) or reshape_to(x, op.shape, filled_dims(op, inner))
    return made or miss("the dims cannot be said by a constant", inner)


def _is_mask(op: Op, inner: Op, x: Value) -> bool:
    """Unsqueeze twice of [batch, length] integers: as exporters write [b, 1, 1, s]."""
    both = isinstance(op, Unsqueeze) and isinstance(inner, Unsqueeze)
    return both and x.rank == 2 and x.dtype is not None and x.dtype.is_integer


def _both(op: Op, inner: Op, x: Value) -> Value | None:
    """Two of Squeeze or of Unsqueeze as one."""
    outer_axes, inner_axes = _axes(op), _axes(inner)
    if outer_axes is None or inner_axes is None or type(op) is not type(inner):
        return None
    if isinstance(op, Unsqueeze):
        kept = [i for i in range(op.rank or 0) if i not in outer_axes]
        return Unsqueeze(
            x, _vector(*sorted({*outer_axes, *[kept[a] for a in inner_axes]}))
        )
    if isinstance(op, Squeeze) and x.rank is not None:
        kept = [i for i in range(x.rank) if i not in inner_axes]
        return Squeeze(
            x, _vector(*sorted({*inner_axes, *[kept[a] for a in outer_axes]}))
        )
    return None


def _axes(op: Op) -> list[int] | None:
    """The axes of a Squeeze (of its operand) or Unsqueeze (of its result)."""
    axes = op.operand(1)
    rank = op.rank
    if isinstance(op, Squeeze) and op.operands[0] is not None:
        rank = op.operands[0].rank
    if axes is None or axes.ints is None or rank is None:
        return None
    return sorted(axis_of(a, rank) for a in axes.ints)


@rule
def reshape_transpose_reshape(op: Reshape) -> Outcome:
    """split(transpose(merge(x), p)) = transpose(x, p') where whole dims move"""
    turned = op.operands[0]
    if not isinstance(turned, Transpose) or op.shape is None:
        return None
    merged = turned.operands[0]
    if not isinstance(merged, Ordered) or merged.shape is None:
        return None
    x = merged.operands[0]
    groups = None if x is None or x.shape is None else _merged(x.shape, merged.shape)
    if x is None or x.shape is None or groups is None:
        return miss("the dims are not only merged", merged)
    perm = [axis for i in perm_of(len(groups), turned.perm) for axis in groups[i]]
    dims = [x.shape[axis] for axis in perm]
    if len(dims) != len(op.shape) or not all(map(equal, dims, op.shape)):
        return miss("the dims are not split as they were", op)
    return Transpose(x, perm=tuple(perm))


@rule
def reshape_ones_of_transpose(op: Reshape, scene: Scene) -> Outcome:
    """reshape(transpose(reshape(x, s), p), t) = transpose(reshape(x, s'), p')

    where t only puts dims of 1 between those of the transpose, or takes some away.
    """
    turned = op.operands[0]
    if not isinstance(turned, Transpose) or not scene.single(turned):
        return None
    inner = turned.operands[0]
    if not isinstance(inner, Ordered) or not scene.single(inner):
        return None
    if op.shape is None or turned.shape is None:
        return None
    perm = perm_of(len(turned.shape), turned.perm)
    moved = [i for i, dim in enumerate(turned.shape) if not equal(dim, 1)]
    kept = [j for j, dim in enumerate(op.shape) if not equal(dim, 1)]
    same = [equal(turned.shape[i], op.shape[j]) for i, j in zip(moved, kept)]  # noqa: B905
    if len(moved) != len(kept) or not all(same):
        return miss("more than dims of 1 changes", op)
    came_from = {j: perm[i] for i, j in zip(moved, kept, strict=True)}
    order = sorted(range(len(op.shape)), key=lambda j: came_from.get(j, -1))
    made = reshape_to(inner, tuple([op.shape[j] for j in order]))
    if made is None:
        return miss("the dims cannot be said by a constant", op)
    return Transpose(made, perm=tuple([order.index(j) for j in range(len(order))]))


def _merged(source: Shape, target: Shape) -> list[list[int]] | None:
    """For each dim of ``target``, the adjacent dims of ``source`` that it merges."""
    groups: list[list[int]] = []
    at = 0
    for dim in target:
        group: list[int] = []
        size: Dim = 1
        while at < len(source) and not (group and equal(size, dim)):
            group.append(at)
            size = mul(size, source[at])
            at += 1
        if not equal(size, dim):
            return None
        groups.append(group)
    if groups:
        groups[-1].extend(range(at, len(source)))
    return groups if all(equal(source[i], 1) for i in range(at, len(source))) else None


@rule
def reshape_like_nothing(op: Flatten | Squeeze | Unsqueeze) -> Outcome:
    """flatten(x) = x where the dims stay"""
    x = op.operands[0]
    return x if x is not None and same_shape(op, x) else None


@rule
def expand_into_user(op: Elementwise) -> Outcome:
    """expand(x) + y = x + y where y has the dims anyway"""
    if op.shape is None or len(op.operands) < 2:
        return None
    operands = list(op.operands)
    for i, value in enumerate(operands):
        if not isinstance(value, Expand):
            continue
        if isinstance(op, PRelu) and i == 0:
            continue  # its slope must not be larger
        inner = value.operands[0]
        operands[i] = inner
        made = op.with_operands(operands)
        if same_shape(made, op):
            return made
        operands[i] = value
    return None


@rule
def slice_nothing(op: Slice) -> Outcome:
    """slice(x, 0, all, 1) = x"""
    x = op.operands[0]
    if x is None or not same_shape(op, x):
        return None
    steps = op.operand(4)
    if steps is None or (steps.ints is not None and all(s > 0 for s in steps.ints)):
        return x
    return None


@rule
def slice_of_concat(op: Slice) -> Outcome:
    """slice(concat(x, y), from where y starts to where it ends) = y"""
    joined, cuts = op.operands[0], op.cuts()
    if not isinstance(joined, Concat) or joined.rank is None or not cuts:
        return None
    axis = axis_of(joined.axis, joined.rank)
    parts = segments(joined, axis)
    if parts is None or set(cuts) != {axis} or op.shape is None:
        return None
    start, step = cuts[axis][0], cuts[axis][1]
    for part, at in parts:
        same = part.shape is not None and equal(part.shape[axis], op.shape[axis])
        if step == 1 and same and equal(at, start):
            return part
    return miss("it is not just one of the parts", op)


def segments(op: Concat, axis: int) -> list[tuple[Value, Dim]] | None:
    """The operands of a concatenation and where each begins."""
    at: Dim = 0
    found: list[tuple[Value, Dim]] = []
    for value in op.operands:
        if value is None or value.shape is None or value.shape[axis] is None:
            return None
        found.append((value, at))
        at = add(at, value.shape[axis])
    return found


@rule
def concat_one(op: Concat) -> Outcome:
    """concat(x) = x"""
    return op.operands[0] if len(op.operands) == 1 else None


@rule
def concat_concat(op: Concat, scene: Scene) -> Outcome:
    """concat(concat(x, y), z) = concat(x, y, z)"""
    if op.rank is None:
        return None
    axis = axis_of(op.axis, op.rank)
    flat: list[Value | None] = []
    for value in op.operands:
        same = isinstance(value, Concat) and axis_of(value.axis, op.rank) == axis
        if same and isinstance(value, Concat) and scene.single(value):
            flat.extend(value.operands)
        else:
            flat.append(value)
    return Concat(*flat, axis=axis) if len(flat) > len(op.operands) else None


@rule
def concat_constants(op: Concat) -> Outcome:
    """concat(x, 1, 2) = concat(x, [1, 2])"""
    if op.rank != 1:
        return None
    merged: list[Value | None] = []
    for value in op.operands:
        last = merged[-1] if merged else None
        if (
            value is not None
            and last is not None
            and value.constant is not None
            and last.constant is not None
            and value.constant.size + last.constant.size <= 64
        ):
            both = [last.constant.array(), value.constant.array()]
            merged[-1] = Constant(np.concatenate(both))
        else:
            merged.append(value)
    return Concat(*merged, axis=0) if len(merged) < len(op.operands) else None


@rule
def concat_empty(op: Concat) -> Outcome:
    """concat(x, []) = x"""
    if op.rank is None:
        return None
    axis = axis_of(op.axis, op.rank)
    kept = [
        v
        for v in op.operands
        if v is None or v.shape is None or not equal(v.shape[axis], 0)
    ]
    if not kept or len(kept) == len(op.operands):
        return None
    return Concat(*kept, axis=axis)


@rule
def concat_of_split(op: Concat) -> Outcome:
    """concat(split(x)) = x"""
    split = op.operands[0].op if op.operands[0] is not None else None
    if not isinstance(split, Split) or op.rank is None:
        return None
    if axis_of(op.axis, op.rank) != axis_of(split.axis, op.rank):
        return None
    return split.operands[0] if op.operands == split.results else None


@rule
def split_one(op: Split) -> Outcome:
    """split(x) = x where there is one part"""
    x = op.operands[0]
    if op.outs == 1 and x is not None and same_shape(op, x):
        return x
    return None


@rule
def tile_nothing(op: Tile) -> Outcome:
    """tile(x, 1) = x"""
    repeats = op.operands[1]
    if repeats is not None and repeats.ints is not None and set(repeats.ints) <= {1}:
        return op.operands[0]
    return None


@rule
def pad_nothing(op: Pad) -> Outcome:
    """pad(x, 0) = x"""
    pads = op.operands[1]
    if pads is not None and pads.ints is not None and not any(pads.ints):
        return op.operands[0]
    return None


@rule
def gather_all(op: Gather) -> Outcome:
    """gather(x, [0, 1, ... n-1]) = x"""
    x, indices = op.operands
    if x is None or x.shape is None or indices is None or indices.rank != 1:
        return None
    extent = x.shape[axis_of(op.axis, len(x.shape))]
    if isinstance(extent, int) and indices.ints == tuple(range(extent)):
        return x
    return None


@rule
def gather_one(op: Gather) -> Outcome:
    """gather(x, 0) = squeeze(x) where there is no other position"""
    x, indices = op.operands
    if x is None or x.shape is None or indices is None or indices.rank != 0:
        return None
    axis = axis_of(op.axis, len(x.shape))
    if not equal(x.shape[axis], 1) or indices.ints not in ((0,), (-1,)):
        return None
    return Squeeze(x, _vector(axis))


@rule
def unsqueeze_of_gather(op: Unsqueeze, scene: Scene) -> Outcome:
    """unsqueeze(gather(x, i), a) = gather(x, [i]) where a is the axis of both"""
    gather = op.operands[0]
    if not isinstance(gather, Gather):
        return None
    x, index = gather.operands
    if x is None or x.shape is None or index is None or index.rank != 0:
        return None
    axis = axis_of(gather.axis, len(x.shape))
    if _axes(op) != [axis] or not index.ints:
        return None
    if x.shape[axis] == 1 and index.ints[0] in (0, -1):
        return x
    if not scene.single(gather):
        return miss("its result is read elsewhere too", gather)
    return gather.with_operands([x, _vector(*index.ints)])


@rule
def transpose_through(op: Transpose, scene: Scene) -> Outcome:
    """transpose(f(transpose(x, p), c), q) = f(transpose(x, p[q]), transpose(c, q))"""
    f = op.operands[0]
    if not isinstance(f, Elementwise) or f.rank is None or not scene.single(f):
        return None
    rank = f.rank
    q = perm_of(rank, op.perm)
    chain: list[Op] = []
    value: Value | None = f
    while isinstance(value, Elementwise) and value.outs == 1 and scene.single(value):
        if value.rank != rank or not value.deterministic or "axis" in value.attrs:
            return None  # what it does hangs on where elements are
        chain.append(value)
        moving = [v for v in value.operands if v is not None and v.constant is None]
        if len(moving) != 1 or len(chain) > 16:
            return None
        value = moving[0]
    if not isinstance(value, Transpose) or value.rank != rank or not chain:
        return None
    made: Value = Transpose(value, perm=q)
    for link in reversed(chain):
        operands = [
            made if v is not None and v.constant is None else _transposed(v, q, rank)
            for v in link.operands
        ]
        made = link.with_operands(operands)
    return made


def _transposed(value: Value | None, perm: tuple[int, ...], rank: int) -> Value | None:
    """A constant that broadcasts, with its axes moved."""
    if value is None:
        return None
    assert value.constant is not None
    assert value.shape is not None
    if all(d == 1 for d in value.shape):
        return value
    missing = rank - len(value.shape)
    if missing:
        value = Reshape(value, _vector(*([1] * missing), *value.shape))
    return Transpose(value, perm=perm)


RULES: tuple[Rule, ...] = (
    transpose_nothing,
    transpose_transpose,
    transpose_ones,
    transpose_through,
    reshape_like_nothing,
    reshape_reshape,
    reshape_transpose_reshape,
    reshape_ones_of_transpose,
    expand_into_user,
    slice_nothing,
    slice_of_concat,
    concat_one,
    concat_empty,
    concat_concat,
    concat_constants,
    concat_of_split,
    split_one,
    tile_nothing,
    pad_nothing,
    gather_all,
    gather_one,
    unsqueeze_of_gather,
)


@dataclass(frozen=True)
class Movement(RulePass):
    """Compose and cancel chains of ops that only move elements.

    transpose(transpose(x, [0, 2, 1]), [0, 2, 1])   -->   x
    reshape(unsqueeze(x, 1), [0, -1])               -->   reshape(x, [0, -1])
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
