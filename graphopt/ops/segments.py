"""Ops that join, cut and pad: a dim of one side is a segment of a dim of the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from .. import dims
from ..dims import Dim, Shape
from ..index import Affine, Maps, Term, Whole, axis, build
from ..types import DType
from .movement import Movement
from .registry import op
from .steering import (
    concrete,
    dims_of,
    ints_of,
    length_of,
    normal_axes,
    normal_axis,
    present,
    shape_of,
)
from .structured import Array

if TYPE_CHECKING:
    from ..xp import Namespace

Pads: TypeAlias = Sequence[tuple[Dim, Dim]]
"""For each axis, how many elements are put before and after; negative ones crop."""

NO_END = (1 << 31) - 1
"""A slice that ends here or further away ends with its dim."""


def segment(name: str, offset: Dim, extent: Dim, step: Dim = 1) -> Term:
    """``step*name + offset`` in a dim of ``extent``; whole where one is not known."""
    if None in (offset, extent, step):
        return Whole(f"whole_{name}")
    return Affine(((name, step),), offset, extent)


def agreed(*found: Dim) -> Dim:
    """One of several dims that must be equal: an int if there is one.

    Raises ValueError where ints differ.
    """
    ints = {dim for dim in found if isinstance(dim, int)}
    if len(ints) > 1:
        raise ValueError(f"dims {sorted(ints)} must be equal")
    known = [dim for dim in found if dim is not None]
    return min(ints, default=known[0] if known else None)


@op("Concat")
class Concat(Movement):
    """The operands one after the other along ``axis``."""

    arithmetic = True

    def compute(self, xp: Namespace, *operands: Array) -> Array:
        return xp.concat(operands, self.axis)

    def index_maps(self) -> Maps | None:
        if self.shape is None or any(v is None or v.shape is None for v in self.operands):
            return None
        at = normal_axis(self.axis, len(self.shape))
        terms = [axis(f"i{i}") for i in range(len(self.shape))]
        operands = []
        offset: Dim = 0
        for i in range(len(self.operands)):
            part = list(terms)
            extent = (shape_of(self, i) or ())[at]
            part[at] = segment(f"i{at}", dims.mul(-1, offset), extent)
            offset = dims.add(offset, extent)
            operands.append(tuple(part))
        everything = range(len(operands))
        return build(operands, [tuple(terms)], linear=[everything], cost=self.flops)

    def extents(self) -> Mapping[str, Dim]:
        at = normal_axis(self.axis, len(self.shape or ()))
        return {f"i{at}": (self.shape or ())[at]}

    def result_shapes(self) -> Sequence[Shape | None]:
        shapes = [shape_of(self, i) for i in range(len(self.operands))]
        known = [shape for shape in shapes if shape is not None]
        if not known:
            return [None]
        rank = len(known[0])
        try:
            at = normal_axis(self.axis, rank)
            if any(len(shape) != rank for shape in known):
                raise ValueError("operands of different ranks")
            result = [agreed(*column) for column in zip(*known, strict=True)]
        except ValueError as error:
            raise self.error(str(error)) from None
        ...
        return [tuple(result)]
