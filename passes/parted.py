"""What an op makes of a value whose parts are there, one after the other on an axis.

Which ops compute the positions of an axis one by one, and which are sums of products
over it, is read from their index maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Final, TypeAlias

from graphopt import dims
from graphopt.errors import TypeMismatch
from graphopt.index import Affine, Combiner, Maps
from graphopt.ir import Op, Value
from graphopt.ops import Add, Concat, Conv, ConvTranspose, Gemm, MatMul
from graphopt.ops.contrib import FusedConv
from graphopt.ops.structured import Structured
from graphopt.types import DType

from .match import axis_of
from .sink import picked_operands

PRODUCTS: Final = (Conv, ConvTranspose, MatMul, Gemm)
"""Kinds that become sums of themselves: little is added beside what they multiply."""

WIDE: Final = (DType.F32, DType.F64)
"""Element types of which sums may be rounded once more for each part."""

PIECES: Final = 4
"""A product is cut into so many, if each has `CHANNELS`."""

CHANNELS: Final = 16
"""Of a piece at least: kernels compute 8 or 16 at a time."""

Cut: TypeAlias = Callable[[int, int, Sequence[int]], Sequence[Value] | None]
"""An operand, by place, along an axis in parts of these sizes; None where it cannot."""


@dataclass(frozen=True)
class Parts:
    """The values that stand one after the other along an axis of a joined one."""

    values: tuple[Value, ...]
    axis: int

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How long each is along the axis."""
        return tuple([v.shape[self.axis] for v in self.values])  # type: ignore[index]


def spans(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """From where to where parts of these sizes are."""
    return list(pairwise(accumulate(sizes, initial=0)))


def parts_of(op: Concat) -> Parts | None:
    """What an op joins; None where it is not known how long each is."""
    values = [v for v in op.operands if v is not None and v.shape is not None]
    if len(values) < max(2, len(op.operands)) or op.rank is None:
        return None
    parts = Parts(tuple(values), axis_of(op.axis, op.rank))
    return parts if all(isinstance(size, int) for size in parts.sizes) else None


def flattened(op: Concat, given: Sequence[Parts | None]) -> Concat:
    """concat(concat(a, b), c) = concat(a, b, c)"""
    if op.rank is None:
        return op
    axis = axis_of(op.axis, op.rank)
    operands: list[Value | None] = []
    for value, parts in zip(op.operands, given, strict=True):
        inner = parts is not None and parts.axis == axis
        operands += parts.values if inner and parts is not None else [value]
    return op if len(operands) == len(given) else Concat(*operands, axis=axis)


def convolution(op: Op) -> Op:
    """The op itself, or the convolution that a fused one begins with."""
    return Conv(*op.operands[:3], **op.plain()) if isinstance(op, FusedConv) else op


def summed(op: Op, place: int, parts: Parts, cut: Cut) -> Value | None:
    """conv(concat(a, b), w) = conv(a, w[:, :k]) + conv(b, w[:, k:])

    A bias is added once, with the first. What a fused convolution does with its result
    it does with the sum.
    """
    product = convolution(op)
    if not isinstance(product, PRODUCTS) or op.dtype not in WIDE:
        return None
    maps = product.index_maps()
    name = None if maps is None else _axis_at(maps, place, parts.axis)
    if maps is None or name is None or maps.combiner(name) is not Combiner.SUM:
        return None
    if name not in maps.reduced or not any(place in group for group in maps.linear):
        return None
    columns: list[Sequence[Value | None]] = []
    once = maps.added(name)
    for i, value in enumerate(product.operands):
        if i in once:
            columns.append([value, *[None] * (len(parts.sizes) - 1)])
            continue
        found = _column(maps, i, name, value, parts.sizes, cut)
        if found is None:
            return None
        columns.append(found)
    first, *others = [product.copy(operands=row) for row in zip(*columns, strict=True)]
    total: Value = first
    for other in others[:-1]:
        total = Add(total, other)
    if not isinstance(op, FusedConv):
        return Add(total, others[-1])
    z = op.operand(3)
    total = total if z is None else Add(total, z)
    attrs: dict[str, Any] = dict(op.attrs)
    return FusedConv(*others[-1].operands[:2], None, total, **attrs)


def _column(
    maps: Maps,
    place: int,
    name: str,
    value: Value | None,
    sizes: Sequence[int],
    cut: Cut,
) -> Sequence[Value | None] | None:
    """An operand for each part of an axis: cut where it has the axis, else whole."""
    map_ = maps.operands[place] if place < len(maps.operands) else None
    at = [i for i, term in enumerate(map_ or ()) if name in term.axes]
    if not at:
        return [value] * len(sizes)
    plain = len(at) == 1 and _axis_at(maps, place, at[0]) == name
    return cut(place, at[0], sizes) if plain else None


def _axis_at(maps: Maps, place: int, axis: int) -> str | None:
    """The axis of the domain that alone runs along an axis of an operand."""
    map_ = maps.operands[place] if place < len(maps.operands) else None
    term = None if map_ is None else map_[axis]
    name = term.plain if isinstance(term, Affine) else None
    bound = maps.whole | maps.carried | maps.positional
    return None if name in bound else name


def by_group(op: Op, place: int, parts: Parts, cut: Cut) -> Parts | None:
    """conv(concat(a, b), w) = concat(conv(a, w[:k]), conv(b, w[k:]))

    Where no group has channels of both.
    """
    if not isinstance(op, Conv | ConvTranspose | FusedConv) or place or op.group == 1:
        return None
    if op.operand(3) is not None:
        return None
    if parts.axis != 1 or op.shape is None or not isinstance(op.shape[1], int):
        return None
    width, total = sum(parts.sizes) // op.group, op.shape[1] // op.group
    if any(size % width for size in parts.sizes):
        return None
    groups = [size // width for size in parts.sizes]
    made = [count * total for count in groups]
    rows = parts.sizes if isinstance(op, ConvTranspose) else made
    weights = cut(1, 0, rows)
    bias = op.operand(2)
    biases = [None] * len(groups) if bias is None else cut(2, 0, made)
    if weights is None or biases is None:
        return None
    columns = zip(parts.values, weights, biases, groups, strict=True)
    return Parts(
        tuple([op.copy(operands=(x, w, b), group=count) for x, w, b, count in columns]),
        1,
    )


def pieces(op: Op) -> int:
    """Into how many a product is cut; 1 for one that is smaller than what it reads."""
    x, result = op.operands[0], op.shape
    if op.operand(3) is not None:  # what a fused one adds is not cut
        return 1
    place = None if x is None or result is None else _rows(convolution(op))
    if place is None or x is None or result is None or not isinstance(x.shape, tuple):
        return 1
    before, after = dims.product(x.shape), dims.product(result)
    channels = result[place[0]]
    if not (isinstance(channels, int) and isinstance(before, int)):
        return 1
    larger = isinstance(after, int) and (after > before or x.op is None)
    return min(PIECES, channels // CHANNELS) if larger else 1


def _rows(op: Op) -> tuple[int, list[int | None]] | None:
    """The axis of the result that the weight has and the operand has not.

    And where operands have it.
    """
    for axis in range(op.rank or 0):
        places = picked_operands(op, axis)
        if not isinstance(places, str) and places[0] is None and places[1] is not None:
            return axis, places
    return None


def by_rows(op: Op, cut: Cut) -> Parts | None:
    """conv(x, w) = concat(conv(x, w[:k]), conv(x, w[k:]))"""
    found, count = _rows(convolution(op)), pieces(op)
    if found is None or count < 2 or op.shape is None:
        return None
    axis, places = found
    each, more = divmod(op.shape[axis], count)
    sizes = [each + (i < more) for i in range(count)]
    columns: list[Sequence[Value | None]] = []
    for place, (value, at) in enumerate(zip(op.operands, places, strict=False)):
        column = [value] * count if at is None else cut(place, at, sizes)
        if column is None:
            return None
        columns.append(column)
    made = [op.copy(operands=row) for row in zip(*columns, strict=True)]
    return Parts(tuple(made), axis)


def by_position(op: Op, place: int, parts: Parts, cut: Cut) -> Parts | None:
    """f(concat(a, b)) = concat(f(a), f(b)) where f computes positions one by one."""
    if not isinstance(op, Structured) or op.rank is None:
        return None
    for axis in dict.fromkeys([min(parts.axis, op.rank), *range(op.rank)]):
        places = picked_operands(op, axis) if axis < op.rank else ""
        if isinstance(places, str) or places[place] != parts.axis:
            continue
        columns: list[Sequence[Value | None] | None] = [
            [value] * len(parts.sizes) if at is None else cut(other, at, parts.sizes)
            for other, (value, at) in enumerate(zip(op.operands, places, strict=True))
        ]
        given = [column for column in columns if column is not None]
        if len(given) < len(columns):
            return None
        try:
            made = [op.copy(operands=row) for row in zip(*given, strict=True)]
        except TypeMismatch:  # it is told the size of the whole
            return None
        found = Parts(tuple(made), axis)
        shapes = [v.shape is not None and v.dtype is op.dtype for v in made]
        return found if all(shapes) and found.sizes == parts.sizes else None
    return None
