"""Ops that put elements around others, or crop them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from .. import dims
from ..dims import Dim, Shape
from ..index import UNIT, Affine, Maps, Whole, build
from .movement import Movement
from .registry import op
from .segments import plain
from .steering import concrete, dims_of, normal_axes, present, shape_of
from .structured import Array

if TYPE_CHECKING:
    from ..xp import Namespace

Pair: TypeAlias = tuple[Any, Any]
"""How many elements are put before and after, as dims; None for an unknown number."""


class Padding(Movement):
    """Elements put before and after those of some axes; negative numbers crop."""

    fills = True
    """Does what is put there not depend on the operand?"""

    def pads(self) -> list[Pair] | None:
        """How many are put before and after along each axis; None without a rank."""
        raise NotImplementedError

    def result_shapes(self) -> Sequence[Shape | None]:
        source, pads = shape_of(self), self.pads()
        if source is None or pads is None:
            return [None]
        pairs = zip(source, pads, strict=True)
        return [tuple([dims.add(dim, dims.add(*pad)) for dim, pad in pairs])]

    def index_maps(self) -> Maps | None:
        source, pads = shape_of(self), self.pads()
        if source is None or pads is None:
            return None
        operand, result = list(plain(source)), list(plain(source))
        for i, (before, after) in enumerate(pads):
            if before == after == 0:
                continue
            if before is None or not self.fills:
                operand[i], result[i] = Whole(f"s{i}"), Whole(f"i{i}")
            else:
                operand[i] = Affine(((f"i{i}", 1),), dims.mul(-1, before), source[i])
        others: list[tuple[Affine, ...] | None] = [None] * (len(self.operands) - 1)
        value = self.operand(2)
        if value is not None:
            others[1] = (UNIT,) * (value.rank or 0)
        return build(
            [tuple(operand), *others],
            [tuple(result)],
            linear=[[0] if value is None or not self.fills else [0, 2]],
            cost=self.flops,
        )

    def extents(self) -> Mapping[str, Dim]:
        return {f"i{i}": dim for i, dim in enumerate(self.result_shapes()[0] or ())}


@op("Pad")
class Pad(Padding):
    """``pads`` elements around those of ``axes``, made as ``mode`` says.

    ``constant``: ``constant_value``, 0 by default; ``edge``: the nearest element;
    ``reflect``: mirrored, the edge itself once; ``wrap``: from the other end.
    """

    static = (1, 3)

    @property
    def fills(self) -> bool:  # type: ignore[override]
        return bool(self.mode == "constant")

    def compute(
        self,
        xp: Namespace,
        x: Array,
        pads: Array,
        value: Array = None,
        axes: Array = None,
    ) -> Array:
        around = _pairs(x.ndim, concrete(pads), concrete(axes))
        if value is not None:
            value = xp.reshape(value, ())
        elif x.dtype == object:
            value = ""
        return xp.pad(x, around, self.mode, 0 if value is None else value)

    def pads(self) -> list[Pair] | None:
        source, axes = shape_of(self), dims_of(self, 3)
        if source is None:
            return None
        if axes is None and present(self, 3):
            return [(None, None)] * len(source)
        return _pairs(len(source), dims_of(self, 1), axes)


def _pairs(
    rank: int, pads: Sequence[Dim] | None, axes: Sequence[Dim] | None
) -> list[Pair]:
    """The pads of each axis, from those of some: all befores, then all afters."""
    chosen = normal_axes(range(rank) if axes is None else axes, rank)
    count = len(chosen)
    pads = (None,) * (2 * count) if pads is None else pads
    if len(pads) != 2 * count:
        raise ValueError(f"{len(pads)} pads for {count} axes")
    pairs = dict(zip(chosen, zip(pads[:count], pads[count:], strict=True), strict=True))
    return [pairs.get(i, (0, 0)) for i in range(rank)]


@op("CenterCropPad")
class CenterCropPad(Padding):
    """Cropped, or padded with zeros, on both sides to the dims that ``shape`` asks for.

    Of an odd number, one more is cropped or padded at the end.
    """

    static = (1,)

    def compute(self, xp: Namespace, x: Array, shape: Array) -> Array:
        return xp.pad(x, self._around(x.shape, concrete(shape)))

    def pads(self) -> list[Pair] | None:
        source = shape_of(self)
        return None if source is None else self._around(source, dims_of(self, 1))

    def _around(self, source: Shape, wanted: Sequence[Dim] | None) -> list[Pair]:
        axes = range(len(source)) if self.axes is None else self.axes
        axes = normal_axes(axes, len(source))
        wanted = (None,) * len(axes) if wanted is None else wanted
        pads: list[Pair] = [(0, 0)] * len(source)
        for at, dim in zip(axes, wanted, strict=True):
            pads[at] = _centered(dims.sub(dim, source[at]))
        return pads

    def result_shapes(self) -> Sequence[Shape | None]:
        source, wanted = shape_of(self), dims_of(self, 1)
        if source is None or wanted is None:
            return super().result_shapes()
        axes = range(len(source)) if self.axes is None else self.axes
        found = dict(zip(normal_axes(axes, len(source)), wanted, strict=True))
        return [tuple([found.get(i, dim) for i, dim in enumerate(source)])]


def _centered(missing: Dim) -> Pair:
    """Half of what is missing before, the rest after; None if its sign is unknown."""
    if dims.nonnegative(missing):
        before = dims.floordiv(missing, 2)
    elif dims.nonnegative(dims.mul(-1, missing)):
        before = dims.ceildiv(missing, 2)
    else:
        return None, None
    return before, dims.sub(missing, before)
