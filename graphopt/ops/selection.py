"""Ops whose results are as large as the data says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import dims
from ..dims import Dim, Shape
from .registry import op
from .steering import normal_axis, shape_of
from .structured import Array, Computed

if TYPE_CHECKING:
    from ..xp import Namespace


@op("NonZero")
class NonZero(Computed):
    """The positions of what is not zero, one column each, in row-major order."""

    static = (0,)

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.nonzero(x)

    def result_shapes(self) -> Sequence[Shape | None]:
        source = shape_of(self)
        return [(None if source is None else len(source), None)]


@op("Compress")
class Compress(Computed):
    """The slices along ``axis`` (of all elements, where there is none) that are chosen.

    A short condition leaves the rest out.
    """

    static = (1,)

    def compute(self, xp: Namespace, x: Array, condition: Array) -> Array:
        chosen = xp.nonzero(condition)[0]
        if self.axis is None:
            return xp.take(xp.reshape(x, (-1,)), chosen, 0)
        return xp.take(x, chosen, self.axis)

    def result_shapes(self) -> Sequence[Shape | None]:
        source = shape_of(self)
        if self.axis is None:
            return [(None,)]
        if source is None:
            return [None]
        at = normal_axis(self.axis, len(source))
        return [(*source[:at], None, *source[at + 1 :])]


@op("Unique")
class Unique(Computed):
    """The distinct elements, or slices along ``axis``, sorted or as they come.

    Then where each occurs first, which of them each element is, and how often it is.
    """

    static = (0,)

    def compute(self, xp: Namespace, x: Array) -> Array | tuple[Array, ...]:
        found = xp.unique(x, self.axis, sorted=bool(self.sorted))
        return found[0] if self.outs == 1 else found[: self.outs]

    def result_shapes(self) -> Sequence[Shape | None]:
        source = shape_of(self)
        first: Shape | None = (None,)
        count: Dim = None
        if source is None:
            first = first if self.axis is None else None
        elif self.axis is None:
            count = dims.product(source)
        else:
            at = normal_axis(self.axis, len(source))
            first, count = (*source[:at], None, *source[at + 1 :]), source[at]
        return [first, (None,), (count,), (None,)][: self.outs]
