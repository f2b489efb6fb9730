"""Running sums and products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .. import dims
from ..dims import Dim, Shape
from ..index import Affine, Maps, build
from .registry import op
from .segments import plain
from .steering import ints_of, normal_axis, shape_of
from .structured import Array, Structured

if TYPE_CHECKING:
    from ..xp import Namespace


class Running(Structured):
    """Something of all elements up to each one, along the axis that operand 1 tells.

    ``exclusive`` leaves out the element itself; ``reverse`` starts at the end, and so
    does the axis of the domain.
    """

    static = (1,)

    def result_shapes(self) -> Sequence[Shape | None]:
        self.index_maps()  # checks the axis
        return [shape_of(self)]

    def index_maps(self) -> Maps | None:
        shape, axis = shape_of(self), ints_of(self, 1)
        if shape is None or axis is None:
            return None
        try:
            at = normal_axis(axis[0], len(shape))
        except ValueError as error:
            raise self.error(str(error)) from None
        name, terms = f"i{at}", list(plain(shape))
        if self.reverse:
            last = dims.sub(shape[at], 1)
            terms[at] = Affine(((name, -1),), last, shape[at])
        return build(
            [tuple(terms), None],
            [tuple(terms)],
            carried=[name],
            linear=self.linear,
            cost=self.flops,
        )

    def extents(self) -> Mapping[str, Dim]:
        return {f"i{i}": dim for i, dim in enumerate(shape_of(self) or ())}


@op("CumSum")
class CumSum(Running):
    """Running sums."""

    linear = ((0,),)

    def compute(self, xp: Namespace, x: Array, axis: Array) -> Array:
        return xp.cumsum(
            x,
            int(axis.item()),
            exclusive=bool(self.exclusive),
            reverse=bool(self.reverse),
        )


@op("CumProd")
class CumProd(Running):
    """Running products (opset 26)."""

    def compute(self, xp: Namespace, x: Array, axis: Array) -> Array:
        return xp.cumprod(
            x,
            int(axis.item()),
            exclusive=bool(self.exclusive),
            reverse=bool(self.reverse),
        )
