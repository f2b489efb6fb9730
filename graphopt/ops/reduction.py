"""Reductions along axes, and the positions of extremes.

``axes`` is an operand; absent or empty it means all axes, or with
``noop_with_empty_axes`` none: then only the elementwise part of the op is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .. import dims
from ..dims import Shape
from ..index import Combiner, Maps
from ..ir import Value
from ..types import DType, Type
from .bodies import cast, scalar, widened
from .elementwise import TRANSCENDENTAL, Div, Log, Sqrt, is_inexact
from .registry import op
from .steering import axis_names, joined, length_of, normal_axes, normal_axis
from .structured import Array, Composite, Structured

if TYPE_CHECKING:
    from ..xp import Namespace
    from ..xp.reductions import Axes


class Reduction(Structured):
    """Something of all elements along some axes, which go or become 1."""

    static = (1,)

    def reduced_axes(self) -> tuple[int, ...] | None:
        """The axes that are reduced, counted from the front; None if not known."""
        x, wanted = self.operands[0], self.operand(1)
        assert x is not None
        if x.rank is None:
            return None
        if wanted is None or wanted.shape == (0,):
            return () if self.noop_with_empty_axes else tuple(range(x.rank))
        if wanted.ints is None:
            return None
        try:
            return tuple(sorted(normal_axes(wanted.ints, x.rank)))
        except ValueError as error:
            raise self.error(str(error)) from None

    def result_shapes(self) -> Sequence[Shape | None]:
        x, wanted = self.operands[0], self.operand(1)
        assert x is not None
        axes = self.reduced_axes()
        if axes is None:
            return [self._vague(x, wanted)]
        shape = x.shape or ()
        if self.keepdims:
            return [tuple([1 if i in axes else d for i, d in enumerate(shape)])]
        return [tuple([d for i, d in enumerate(shape) if i not in axes])]

    def _vague(self, x: Value, wanted: Value | None) -> Shape | None:
        """What is known of the dims where the axes are not known."""
        if wanted is None:
            scalar = not self.keepdims and not self.noop_with_empty_axes
            return () if scalar else None
        if x.shape is None:
            return None
        if self.keepdims:
            return tuple([1 if d == 1 else None for d in x.shape])
        count = length_of(self, 1)
        return (None,) * (len(x.shape) - count) if count else None

    def index_maps(self) -> Maps | None:
        return self.reduced_maps()

    def reduced_maps(self, **facts: Any) -> Maps | None:
        """The index maps, with facts that the class does not state."""
        axes = self.reduced_axes()
        if axes is None:
            return None
        rank = self.operands[0].rank or 0  # type: ignore[union-attr]
        names = axis_names(rank)
        kept = ["1"] if self.keepdims else []
        result = [
            word
            for i, name in enumerate(names)
            for word in (kept if i in axes else [name])
        ]
        steering = [["-"]] * (len(self.operands) - 1)
        return self.parse_maps(joined([names, *steering], [result]), **facts)

    def compute(self, xp: Namespace, x: Array, axes: Array | None = None) -> Array:
        chosen: Axes = axes
        if axes is None or axes.size == 0:
            chosen = () if self.noop_with_empty_axes else None
        return self.reduce(xp, x, chosen, bool(self.keepdims))

    def reduce(self, xp: Namespace, x: Array, axes: Axes, keepdims: bool) -> Array:
        """The reduction over known axes; None stands for all."""
        raise NotImplementedError


@op("ReduceSum")
class ReduceSum(Reduction):
    """The sum."""

    arithmetic = True
    linear = ((0,),)

    def reduce(self, xp: Namespace, x: Array, axes: Axes, keepdims: bool) -> Array:
        return xp.sum(x, axes, keepdims=keepdims)


@op("ReduceProd")
class ReduceProd(Reduction):
    """The product."""

    arithmetic = True
    combiner = Combiner.PROD

    def reduce(self, xp: Namespace, x: Array, axes: Axes, keepdims: bool) -> Array:
        return xp.prod(x, axes, keepdims=keepdims)


@op("ReduceMax")
class ReduceMax(Reduction):
    """The largest; of nothing, the lowest value of the type."""

    combiner = Combiner.MAX

    def reduce(self, xp: Namespace, x: Array, axes: Axes, keepdims: bool) -> Array:
        return xp.max(x, axes, keepdims=keepdims)


@op("ReduceMin")
class ReduceMin(Reduction):
    """The smallest; of nothing, the highest value of the type."""

    combiner = Combiner.MIN

    def reduce(self, xp: Namespace, x: Array, axes: Axes, keepdims: bool) -> Array:
        return xp.min(x, axes, keepdims=keepdims)


@op("ReduceL1")
class ReduceL1(Reduction):
    """The sum of magnitudes."""

    flops = 2.0

    def reduce(self, xp: Namespace, x: Array, axes: Axes, keepdims: bool) -> Array:
        return xp.each(lambda v: xp.sum(xp.abs(v), axes, keepdims=keepdims), x)


@op("ReduceSumSquare")
class ReduceSumSquare(Reduction):
    """The sum of squares."""

    flops = 2.0

    def reduce(self, xp: Namespace, x: Array, axes: Axes, keepdims: bool) -> Array:
        return xp.each(lambda v: xp.sum(xp.square(v), axes, keepdims=keepdims), x)


@op("ReduceLogSumExp")
class ReduceLogSumExp(Reduction):
    """log of the sum of exponentials, taken relative to the largest.

    Of integers, which opset 28 no longer takes, its whole part.
    """

    combiner = Combiner.LOGSUMEXP
    flops = TRANSCENDENTAL + 2

    def reduce(self, xp: Namespace, x: Array, axes: Axes, keepdims: bool) -> Array:
        def relative(x: Array) -> Array:
            top = xp.held(xp.max(x, axes, keepdims=True))
            top = xp.where(xp.isfinite(top), top, 0)
            rest = xp.sum(xp.exp(xp.subtract(x, top)), axes, keepdims=True)
            result = xp.add(xp.log(rest), top)
            return result if keepdims else xp.sum(result, axes)

        if x.dtype.kind in "iu":
            return xp.cast(relative(xp.cast(x, DType.F64)), DType.of(x.dtype))
        return xp.each(relative, x)


class Finished(Reduction, Composite):
    """A reduction with something done to its result: mostly, parts do not combine."""

    combiner: ClassVar[Combiner | None] = None

    def infer(self) -> Sequence[Type]:
        return Reduction.infer(self)

    def body(self) -> Value | None:
        x, *axes = self.operands
        if x is None or x.dtype is None:
            return None
        return self.spelled(x, x.dtype, Reduce(self, axes))

    def spelled(self, x: Value, dtype: DType, reduced: Reduce) -> Value | None:
        """The body, where the element type of x is known."""
        raise NotImplementedError


@dataclass(frozen=True)
class Reduce:
    """How another reduction is asked for along the same axes."""

    like: Reduction
    axes: Sequence[Value | None]

    def __call__(self, kind: type[Reduction], x: Value) -> Value:
        return kind(
            x,
            *self.axes,
            keepdims=self.like.keepdims,
            noop_with_empty_axes=self.like.noop_with_empty_axes,
        )


@op("ReduceMean")
class ReduceMean(Finished):
    """The sum over the count; of integers, truncated toward zero."""

    linear = ((0,),)

    def index_maps(self) -> Maps | None:
        x = self.operands[0]
        exact = x is not None and is_inexact(x.dtype)
        return self.reduced_maps(linear=self.linear if exact else ())

    def spelled(self, x: Value, dtype: DType, reduced: Reduce) -> Value | None:
        count = self.count()
        if count is None:
            return None
        total = reduced(ReduceSum, widened(x))
        assert total.dtype is not None
        return cast(Div(total, scalar(count, total.dtype)), dtype)

    def count(self) -> int | None:
        """How many elements meet in one; None where that is not known."""
        x, axes = self.operands[0], self.reduced_axes()
        if axes is None or x is None or x.shape is None:
            return None
        count = dims.product([x.shape[i] for i in axes])
        return count if isinstance(count, int) else None

    def reduce(self, xp: Namespace, x: Array, axes: Axes, keepdims: bool) -> Array:
        return xp.mean(x, axes, keepdims=keepdims)


@op("ReduceLogSum")
class ReduceLogSum(Finished):
    """log of the sum."""

    combiner = Combiner.LOGSUMEXP

    def spelled(self, x: Value, dtype: DType, reduced: Reduce) -> Value | None:
        return cast(Log(reduced(ReduceSum, widened(x))), dtype)

    def reduce(self, xp: Namespace, x: Array, axes: Axes, keepdims: bool) -> Array:
        return xp.each(lambda v: xp.log(xp.sum(v, axes, keepdims=keepdims)), x)


@op("ReduceL2")
class ReduceL2(Finished):
    """The square root of the sum of squares; of integers, its whole part."""

    flops = 2.0

    def spelled(self, x: Value, dtype: DType, reduced: Reduce) -> Value | None:
        total = reduced(ReduceSumSquare, widened(x))
        return cast(Sqrt(cast(total, DType.F64) if dtype.is_integer else total), dtype)

    def reduce(self, xp: Namespace, x: Array, axes: Axes, keepdims: bool) -> Array:
        def root(x: Array) -> Array:
            total = xp.sum(xp.square(x), axes, keepdims=keepdims)
            own = DType.of(x.dtype)
            if own.is_integer:
                return xp.cast(xp.sqrt(xp.cast(total, DType.F64)), own)
            return xp.flat_at_zero(xp.sqrt, total)

        return xp.each(root, x)


# --- positions ----------------------------------------------------------------------


class Position(Structured):
    """Where along an axis an extreme lies: of equals the first, or the last."""

    combiner = None

    def index_maps(self) -> Maps | None:
        x = self.operands[0]
        assert x is not None
        if x.rank is None:
            return None
        names = axis_names(x.rank)
        try:
            axis = normal_axis(self.axis, x.rank)
        except ValueError as error:
            raise self.error(str(error)) from None
        kept = ["1"] if self.keepdims else []
        result = [*names[:axis], *kept, *names[axis + 1 :]]
        return self.parse_maps(joined([names], [result]), positional=[names[axis]])


@op("ArgMax")
class ArgMax(Position):
    """Where along ``axis`` the largest is."""

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.argmax(
            x,
            self.axis,
            keepdims=bool(self.keepdims),
            select_last=bool(self.select_last_index),
        )


@op("ArgMin")
class ArgMin(Position):
    """Where along ``axis`` the smallest is."""

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.argmin(
            x,
            self.axis,
            keepdims=bool(self.keepdims),
            select_last=bool(self.select_last_index),
        )
