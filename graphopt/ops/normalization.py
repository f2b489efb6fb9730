"""Normalizations: elements relative to the mean and spread of those around them.

Statistics are of the population, and taken in two passes: the mean first, then the mean
square of the distances from it. Narrow floats compute in float32 and are rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..dims import Dim, Shape
from ..index import Maps
from ..ir import Value
from ..types import DType
from .bodies import Normalizing, WholeAxes, cast, scalar, vector, widest
from .elementwise import TRANSCENDENTAL, Add, Div, Mul, Reciprocal, Sqrt, Sub
from .generation import Shape as ShapeOf
from .reduction import ReduceMean
from .registry import op
from .reshaping import Reshape, Unsqueeze
from .steering import joined, normal_axis, shape_of
from .structured import Array

if TYPE_CHECKING:
    from ..xp import Namespace
    from ..xp.reductions import Axes


def centred(x: Value, axes: Value) -> tuple[Value, Value, Value]:
    """The mean, the distances from it, and their mean square."""
    mean = ReduceMean(x, axes)
    distance = Sub(x, mean)
    return mean, distance, ReduceMean(Mul(distance, distance), axes)


def spread_of(variance: Value, epsilon: float) -> Value:
    """1 / sqrt(variance + epsilon)."""
    assert variance.dtype is not None
    return Reciprocal(Sqrt(Add(variance, scalar(epsilon, variance.dtype))))


def moments(xp: Namespace, x: Array, axes: Axes) -> tuple[Array, Array, Array]:
    """The mean, the distances from it, and their mean square."""
    mean = xp.mean(x, axes, keepdims=True)
    distance = xp.subtract(x, mean)
    return mean, distance, xp.mean(xp.square(distance), axes, keepdims=True)


def inverse_root(xp: Namespace, variance: Array, epsilon: float) -> Array:
    """1 / sqrt(variance + epsilon)."""
    return xp.reciprocal(xp.sqrt(xp.add(variance, epsilon)))


def promoted(xp: Namespace, *arrays: Array) -> list[Array]:
    """The arrays in the widest of their types, and at least in float32."""
    wide = widest(DType.F32, *(DType.of(a.dtype) for a in arrays))
    return [xp.cast(a, wide) for a in arrays]


# --- over the last axes -------------------------------------------------------------


class LastAxes(Normalizing):
    """A normalization over the axes from ``axis`` on, then weighed elementwise.

    Stage one runs in ``stash_type`` where that is wider than the operand.
    """

    def whole_axes(self, rank: int) -> tuple[int, ...]:
        return tuple(range(normal_axis(self.axis, rank), rank))

    def reduced_axes(self, rank: int | None) -> range | None:
        """The axes counted from the end; None where that needs an unknown rank."""
        if self.axis < 0:
            return range(self.axis, 0)
        return None if rank is None else range(self.axis - rank, 0)

    def index_maps(self) -> Maps | None:
        words, shape = self.words(), shape_of(self)
        if words is None or shape is None:
            return None
        weights = [shape_of(self, i) for i in range(1, len(self.operands))]
        if None in weights:
            return None
        operands = [
            words,
            *(_aligned(words, shape, w) for w in weights if w is not None),
        ]
        inner = ["1" if word[0] == "_" else word for word in words]
        return self.parse_maps(
            joined(operands, [words, inner, inner][: self.outs]),
            linear=[range(1, len(operands))] if self.outs == 1 else (),
        )

    def staged(self, x: Value) -> Value:
        """x in the type of stage one."""
        assert x.dtype is not None
        return cast(x, widest(DType(self.stash_type), x.dtype))


def _aligned(words: Sequence[str], shape: Shape, other: Shape) -> list[str]:
    """The words of an operand of dims ``other`` that broadcasts to ``shape``."""
    lead = len(words) - len(other)
    return [
        "1" if dim == 1 and shape[lead + i] != 1 else words[lead + i]
        for i, dim in enumerate(other)
    ]


@op("LayerNormalization")
class LayerNormalization(LastAxes):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the last axes.

    Optional results: the mean, and 1 / sqrt(variance + epsilon). Ba, Kiros and Hinton,
    arXiv 1607.06450.
    """

    flops = 8.0

    def result_dtypes(self) -> Sequence[DType | None]:
        x = self.operands[0]
        assert x is not None
        stash = DType(self.stash_type)
        return [x.dtype, stash, stash][: self.outs]

    def result_shapes(self) -> Sequence[Shape | None]:
        shape = shape_of(self)
        if shape is None:
            return [None] * self.outs
        words = self.words() or []
        inner = [1 if w[0] == "_" else d for w, d in zip(words, shape, strict=True)]
        return [shape, tuple(inner), tuple(inner)][: self.outs]

    def body(self) -> tuple[Value, ...] | None:
        x, scale, *bias = self.operands
        if x is None or x.dtype is None:
            return None
        axes = self.reduced_axes(x.rank)
        if axes is None:
            return None
        mean, distance, variance = centred(self.staged(x), vector(*axes))
        inverse = spread_of(variance, self.epsilon)
        result: Value = Mul(cast(Mul(distance, inverse), x.dtype), scale)
        for b in bias:
            result = Add(result, b)
        stash = DType(self.stash_type)
        return (result, cast(mean, stash), cast(inverse, stash))[: self.outs]

    def compute(
        self, xp: Namespace, x: Array, scale: Array, bias: Array | None = None
    ) -> Array | tuple[Array, ...]:
        own = x.dtype
        x, scale, *rest = promoted(xp, x, scale, *([] if bias is None else [bias]))
        axes = self.reduced_axes(x.ndim)
        mean, distance, variance = moments(xp, x, axes)
        inverse = inverse_root(xp, variance, self.epsilon)
        result = xp.multiply(xp.multiply(distance, inverse), scale)
        for b in rest:
            result = xp.add(result, b)
        result = xp.cast(result, own)
        return result if self.outs == 1 else (result, mean, inverse)[: self.outs]


@op("RMSNormalization")
class RMSNormalization(LastAxes):
    """x / sqrt(mean square + epsilon) * scale over the last axes.

    Zhang and Sennrich, arXiv 1910.07467.
    """

    flops = 5.0

    def body(self) -> Value | None:
        x, scale = self.operands
        if x is None or x.dtype is None or scale is None or scale.dtype is None:
            return None
        axes = self.reduced_axes(x.rank)
        if axes is None:
            return None
        staged = self.staged(x)
        square = ReduceMean(Mul(staged, staged), vector(*axes))
        assert staged.dtype is not None
        root = Sqrt(Add(square, scalar(self.epsilon, staged.dtype)))
        return Mul(cast(Div(staged, root), scale.dtype), scale)

    def compute(self, xp: Namespace, x: Array, scale: Array) -> Array:
        own = scale.dtype
        x, scale = promoted(xp, x, scale)
        axes = self.reduced_axes(x.ndim)
        square = xp.mean(xp.square(x), axes, keepdims=True)
        inverse = inverse_root(xp, square, self.epsilon)
        return xp.cast(xp.multiply(xp.multiply(x, inverse), scale), own)


# --- by channel ---------------------------------------------------------------------


class ByChannel(Normalizing):
    """A normalization of ``[batch, channel, ...]``, weighed by vectors of channels."""

    linear = ((1, 2),)

    def index_maps(self) -> Maps | None:
        words = self.words()
        if words is None:
            return None
        vectors = [self.channel(words)] * (len(self.operands) - 1)
        return self.parse_maps(joined([words, *vectors], [words]))

    def channel(self, words: Sequence[str]) -> list[str]:
        """The words of a vector of channels."""
        return [words[1]]


def per_channel(v: Value, rank: int) -> Value:
    """A vector of channels that broadcasts to ``[batch, channel, ...]``."""
    return Unsqueeze(v, vector(*range(1, rank - 1))) if rank > 2 else v


def channels(xp: Namespace, v: Array, rank: int) -> Array:
    """A vector of channels that broadcasts to ``[batch, channel, ...]``."""
    return xp.reshape(v, (-1,) + (1,) * (rank - 2))


@op("BatchNormalization")
class BatchNormalization(ByChannel):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, by channel.

    The statistics are operands; in ``training_mode`` those of x, and two more results
    are the operands moved towards these by 1 - momentum. Ioffe and Szegedy, arXiv
    1502.03167.
    """

    flops = 4.0

    def default_outs(self) -> int:
        return 3 if self.training_mode else 1

    def whole_axes(self, rank: int) -> tuple[int, ...]:
        if not self.training_mode:
            return ()
        return tuple(i for i in range(rank) if i != 1)

    def channel(self, words: Sequence[str]) -> list[str]:
        return [words[1] if len(words) > 1 else "1"]

    def index_maps(self) -> Maps | None:
        words = self.words()
        if words is None:
            return None
        channel = self.channel(words)
        results = [words, channel, channel][: self.outs]
        return self.parse_maps(
            joined([words, *[channel] * 4], results),
            linear=() if self.training_mode else ((0, 2, 3), (1, 2)),
        )

    def result_shapes(self) -> Sequence[Shape | None]:
        shape, vector = shape_of(self), shape_of(self, 3)
        count: Dim = vector[0] if vector else None
        if shape is not None and len(shape) > 1 and count is None:
            count = shape[1]
        self.words()
        return [shape, (count,), (count,)][: self.outs]

    def body(self) -> tuple[Value, ...] | None:
        operands = [v for v in self.operands if v is not None]
        x, mean = operands[0], operands[3]
        if x.rank is None or any(v.dtype is None for v in operands):
            return None
        wide = widest(DType.F32, *(v.dtype for v in operands if v.dtype))
        data, *vectors = [cast(v, wide) for v in operands]
        scale, bias, *given = [per_channel(v, x.rank) for v in vectors]
        moved: tuple[Value, ...] = ()
        if self.training_mode:
            axes = vector(*self.whole_axes(x.rank))
            found = ReduceMean(data, axes)
            distance = Sub(data, found)
            variance: Value = ReduceMean(Mul(distance, distance), axes)
            assert mean.dtype is not None
            moved = tuple(
                [
                    cast(self._moved(old, new, wide), mean.dtype)
                    for old, new in zip(vectors[2:], (found, variance), strict=True)
                ]
            )
        else:
            distance, variance = Sub(data, given[0]), given[1]
        factor = Mul(spread_of(variance, self.epsilon), scale)
        assert x.dtype is not None
        y = cast(Add(Mul(distance, factor), bias), x.dtype)
        return (y, *moved)[: self.outs]

    def _moved(self, old: Value, new: Value, dtype: DType) -> Value:
        keep, gain = scalar(self.momentum, dtype), scalar(1 - self.momentum, dtype)
        return Add(Mul(old, keep), Mul(Reshape(new, vector(-1)), gain))

    def compute(
        self,
        xp: Namespace,
        x: Array,
        scale: Array,
        bias: Array,
        mean: Array,
        variance: Array,
    ) -> Array | tuple[Array, ...]:
        own, stored, rank = x.dtype, mean.dtype, x.ndim
        x, scale, bias, mean, variance = promoted(xp, x, scale, bias, mean, variance)
        if not self.training_mode:
            factor = xp.multiply(inverse_root(xp, variance, self.epsilon), scale)
            distance = xp.subtract(x, channels(xp, mean, rank))
            scaled = xp.multiply_into(distance, channels(xp, factor, rank))
            return xp.cast(xp.add_into(scaled, channels(xp, bias, rank)), own)
        found, distance, spread = moments(xp, x, self.whole_axes(rank))
        factor = xp.multiply(
            inverse_root(xp, spread, self.epsilon), channels(xp, scale, rank)
        )
        y = xp.add(xp.multiply(distance, factor), channels(xp, bias, rank))
        moved = [
            xp.add(
                xp.multiply(old, self.momentum),
                xp.multiply(xp.reshape(new, (-1,)), 1 - self.momentum),
            )
            for old, new in ((mean, found), (variance, spread))
        ]
        results = (xp.cast(y, own), *(xp.cast(m, stored) for m in moved))
        return results[: self.outs] if self.outs > 1 else results[0]


@op("InstanceNormalization")
class InstanceNormalization(ByChannel):
    """Each channel of each instance by its own mean and variance, then weighed.

    Ulyanov, Vedaldi and Lempitsky, arXiv 1607.08022.
    """

    flops = 8.0

    def whole_axes(self, rank: int) -> tuple[int, ...]:
        return tuple(range(2, rank))

    def body(self) -> Value | None:
        x, scale, bias = self.operands
        if x is None or x.dtype is None or scale is None or bias is None:
            return None
        if x.rank is None or x.rank < 3:
            return None
        wide = widest(DType.F32, x.dtype)
        axes = vector(*self.whole_axes(x.rank))
        _, distance, variance = centred(cast(x, wide), axes)
        factor = Mul(
            spread_of(variance, self.epsilon), per_channel(cast(scale, wide), x.rank)
        )
        shift = per_channel(cast(bias, wide), x.rank)
        return cast(Add(Mul(distance, factor), shift), x.dtype)

    def compute(self, xp: Namespace, x: Array, scale: Array, bias: Array) -> Array:
        def normal(x: Array, scale: Array, bias: Array) -> Array:
            _, distance, variance = moments(xp, x, self.whole_axes(x.ndim))
            factor = xp.multiply(
                inverse_root(xp, variance, self.epsilon), channels(xp, scale, x.ndim)
            )
            return xp.add(xp.multiply(distance, factor), channels(xp, bias, x.ndim))

        return xp.each(normal, x, scale, bias)


@op("GroupNormalization")
class GroupNormalization(ByChannel):
    """Each group of channels of each instance by its mean and variance, then weighed.

    Wu and He, arXiv 1803.08494. Stage one runs in ``stash_type`` where that is wider.
    """

    flops = 8.0

    def whole_axes(self, rank: int) -> tuple[int, ...]:
        return tuple(range(1, rank))

    def body(self) -> Value | None:
        x, scale, bias = self.operands
        if x is None or x.rank is None or scale is None or bias is None:
            return None
        if x.dtype is None:
            return None
        wide = widest(DType(self.stash_type), x.dtype)
        grouped: Value = Reshape(cast(x, wide), vector(0, self.num_groups, -1))
        _, distance, variance = centred(grouped, vector(2))
        grouped = Mul(distance, spread_of(variance, self.epsilon))
        normal = cast(Reshape(grouped, ShapeOf(x)), x.dtype)
        scaled = Mul(normal, per_channel(scale, x.rank))
        return Add(scaled, per_channel(bias, x.rank))

    def compute(self, xp: Namespace, x: Array, scale: Array, bias: Array) -> Array:
        def normal(x: Array, scale: Array, bias: Array) -> Array:
            shape = x.shape
            grouped = xp.reshape(x, (shape[0], self.num_groups, -1))
            _, distance, variance = moments(xp, grouped, 2)
            distance = xp.multiply(distance, inverse_root(xp, variance, self.epsilon))
            scaled = xp.multiply(
                xp.reshape(distance, shape), channels(xp, scale, x.ndim)
            )
            return xp.add(scaled, channels(xp, bias, x.ndim))

        return xp.each(normal, x, scale, bias)


# --- without weights ----------------------------------------------------------------


@op("MeanVarianceNormalization")
class MeanVarianceNormalization(Normalizing):
    """(x - mean) / (standard deviation + 1e-9) over the given axes."""

    flops = 7.0

    def whole_axes(self, rank: int) -> tuple[int, ...]:
        return tuple(normal_axis(axis, rank) for axis in self.axes)

    def body(self) -> Value | None:
        x = self.operands[0]
        if x is None or x.dtype is None:
            return None
        wide = widest(DType.F32, x.dtype)
        _, distance, variance = centred(cast(x, wide), vector(*self.axes))
        spread = Add(Sqrt(variance), scalar(TINY, wide))
        return cast(Div(distance, spread), x.dtype)

    def compute(self, xp: Namespace, x: Array) -> Array:
        def normal(x: Array) -> Array:
            _, distance, variance = moments(xp, x, self.axes)
            return xp.divide(distance, xp.add(xp.flat_at_zero(xp.sqrt, variance), TINY))

        return xp.each(normal, x)


TINY = 1e-9
"""What keeps a spread of zero from dividing; fixed by ONNX."""


@op("LRN")
class LRN(WholeAxes):
    """x / (bias + alpha / size * s) ** beta, s the sum of squares in a window.

    The window spans ``size`` channels around each. Krizhevsky, Sutskever and Hinton,
    "ImageNet Classification with Deep Convolutional Neural Networks", section 3.3.
    """

    flops = 2 * TRANSCENDENTAL + 8

    def whole_axes(self, rank: int) -> tuple[int, ...]:
        return (normal_axis(1, rank),)

    def compute(self, xp: Namespace, x: Array) -> Array:
        before = (self.size - 1) // 2

        def normal(x: Array) -> Array:
            ends = [(0, 0)] * x.ndim
            ends[1] = (before, self.size - 1 - before)
            squares = xp.pad(xp.square(x), ends)
            total = squares[:, : x.shape[1]]
            for i in range(1, self.size):
                total = xp.add(total, squares[:, i : i + x.shape[1]])
            base = xp.add(xp.multiply(total, self.alpha / self.size), self.bias)
            return xp.divide(x, xp.power(base, self.beta))

        return xp.each(normal, x)
