"""Running sums and products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..dims import Shape
from ..index import Maps
from .registry import op
from .steering import axis_names, ints_of, joined, normal_axis, shape_of
from .structured import Array, Structured

if TYPE_CHECKING:
    from ..xp import Namespace


class Running(Structured):
    """Something of all elements up to each one, along the axis that operand 1 tells.

    ``exclusive`` leaves out the element itself; ``reverse`` starts at the end.
    """

    static = (1,)

    def result_shapes(self) -> Sequence[Shape | None]:
        self.index_maps()  # checks the axis
        return [shape_of(self)]

    def index_maps(self) -> Maps | None:
        shape, axis = shape_of(self), ints_of(self, 1)
        if shape is None or axis is None:
            return None
        names = axis_names(len(shape))
        try:
            carried = names[normal_axis(axis[0], len(shape))]
        except ValueError as error:
            raise self.error(str(error)) from None
        return self.parse_maps(joined([names, "-"], [names]), carried=[carried])


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
