"""Resize: an image of other extents, each value made of the elements around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import floor
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import dims
from ..dims import Dim, Shape
from ..index import Compound, Maps, Whole, axis, build
from .registry import op
from .resampling import Scaling, coordinates, nearest, weights
from .sampling import real_type
from .segments import plain
from .steering import concrete, cost_among, dims_of, normal_axes, shape_of
from .structured import Array, Structured

if TYPE_CHECKING:
    from ..xp import Namespace


@op("Resize")
class Resize(Structured):
    """The operand with some axes scaled, or brought to given sizes.

    Source: ONNX operator Resize, version 19.
    """

    static = (1, 2, 3)
    linear = ((0,),)

    def resized_axes(self, rank: int) -> tuple[int, ...]:
        """The axes that are resized. Raises ValueError."""
        axes: Sequence[int] | None = self.axes
        return normal_axes(range(rank) if axes is None else axes, rank)

    def factors(self) -> list[float] | None:
        """The scales that are asked for; None where there are none, or unknown ones."""
        scales = self.operand(2)
        if scales is None or scales.constant is None:
            return None
        return [float(v) for v in scales.constant.array()] or None

    def result_shapes(self) -> Sequence[Shape | None]:
        source = shape_of(self)
        if source is None:
            return [None]
        axes, target = self.resized_axes(len(source)), list(source)
        part = [source[i] for i in axes]
        factors, sizes = self.factors(), dims_of(self, 3)
        found: Sequence[Dim]
        if factors is not None:
            found = [_scaled(*pair) for pair in zip(part, factors, strict=True)]
        elif not sizes:
            found = [None] * len(part)
        elif self.keep_aspect_ratio_policy == "stretch":
            found = sizes
        elif all(isinstance(dim, int) for dim in (*part, *sizes)):
            found = self._proportional(part, sizes)[1]
        else:
            found = [None] * len(part)
        for at, dim in zip(axes, found, strict=True):
            target[at] = dim
        return [tuple(target)]

    def _proportional(
        self, source: Sequence[Any], sizes: Sequence[Any]
    ) -> tuple[float, list[int]]:
        """The one scale that ``keep_aspect_ratio_policy`` allows, and what it gives."""
        ratios = list(map(_ratio, sizes, source))
        larger = self.keep_aspect_ratio_policy == "not_smaller"
        scale = max(ratios) if larger else min(ratios)
        return scale, [floor(scale * extent + 0.5) for extent in source]

    def index_maps(self) -> Maps | None:
        source = shape_of(self)
        if source is None:
            return None
        operand, result = list(plain(source)), list(plain(source))
        read: list[Dim] = []
        positional = []
        for at, count in self.counts(source).items():
            if count is None:
                operand[at], result[at] = Whole(f"s{at}"), axis(f"y{at}")
                read.append(source[at])
                positional.append(f"y{at}")
            elif count != 1:
                result[at] = Compound((f"i{at}", f"u{at}"))
        taps = {"nearest": 0, "linear": 2, "cubic": 4}[self.mode] ** max(len(read), 1)
        return build(
            [tuple(operand), *[None] * (len(self.operands) - 1)],
            [tuple(result)],
            linear=() if self._crops else self.linear,
            positional=positional,
            cost=cost_among(2.0 * taps, read),
        )

    def extents(self) -> Mapping[str, Dim]:
        source, target = shape_of(self) or (), self.shape or ()
        counts = self.counts(source).items()
        found: dict[str, Dim] = {f"u{at}": n for at, n in counts if n not in (1, None)}
        return found | {f"y{at}": target[at] for at, n in counts if n is None}

    def counts(self, source: Shape) -> dict[int, int | None]:
        """How often each element is repeated along the axes; None if more is done."""
        target = self.result_shapes()[0] or ()
        axes = self.resized_axes(len(source))
        scales = self._asked([source[at] for at in axes])
        return {
            at: self._count(source[at], target[at], scale)
            for at, scale in zip(axes, scales, strict=True)
        }

    def _asked(self, source: Sequence[Dim]) -> Sequence[float | None]:
        """The scale of each resized axis; None where it is that of the extents."""
        factors, sizes = self.factors(), dims_of(self, 3)
        if factors is not None:
            return factors
        known = sizes and all(isinstance(dim, int) for dim in (*source, *sizes))
        if self.keep_aspect_ratio_policy == "stretch" or not known:
            return [None] * len(source)
        return [self._proportional(source, sizes or ())[0]] * len(source)

    def _count(self, source: Dim, target: Dim, scale: float | None) -> int | None:
        count = dims.divide_exact(target, source)
        if not isinstance(count, int) or self._crops or scale not in (None, count):
            return None  # 1.2 of 4 is 4 too, of other elements
        if count == 1:
            return 1
        way, rounding = self.coordinate_transformation_mode, self.nearest_mode
        centered = way in ("half_pixel", "half_pixel_symmetric")
        if (centered and rounding[:5] == "round") or (
            way == "asymmetric"
            and (rounding == "floor" or (count, rounding) == (2, "round_prefer_floor"))
        ):
            return count if self.mode == "nearest" else None
        return None

    @property
    def _crops(self) -> bool:
        return bool(self.coordinate_transformation_mode == "tf_crop_and_resize")

    def compute(
        self,
        xp: Namespace,
        x: Array,
        roi: Array = None,
        scales: Array = None,
        sizes: Array = None,
    ) -> Array:
        plan = self._plan(x.shape, concrete(roi), concrete(scales), concrete(sizes))
        places = {s: coordinates(s, self.coordinate_transformation_mode) for s in plan}
        if self.mode == "nearest":
            result = x
            for scaling, at in places.items():
                index = nearest(at, scaling.source, self.nearest_mode)
                result = xp.take(result, index, scaling.axis)
        else:
            result = xp.cast(x, real_type(x))
            for scaling, at in places.items():
                result = self._interpolated(xp, result, scaling, at)
        if self._crops:
            for scaling, at in places.items():
                beyond = (at < 0) | (at > scaling.source - 1)
                if beyond.any():
                    shape = [1] * x.ndim
                    shape[scaling.axis] = -1
                    beyond = beyond.reshape(shape)
                    result = xp.where(beyond, self.extrapolation_value, result)
        return xp.cast(result, x.dtype)

    def _interpolated(
        self, xp: Namespace, x: Array, scaling: Scaling, at: Array
    ) -> Array:
        index, weight = weights(
            scaling,
            at,
            cubic=self.cubic_coeff_a if self.mode == "cubic" else None,
            antialias=bool(self.antialias),
            exclude_outside=bool(self.exclude_outside),
        )
        shape = [1] * x.ndim
        shape[scaling.axis] = -1
        total: Array = xp.zeros((), x.dtype)
        for tap in range(index.shape[1]):
            if tap == 0 or weight[:, tap].any():
                part = xp.take(x, index[:, tap], scaling.axis)
                total = total + part * xp.cast(weight[:, tap].reshape(shape), x.dtype)
        return total

    def _plan(
        self,
        shape: Sequence[int],
        roi: Sequence[float] | None,
        scales: Sequence[float] | None,
        sizes: Sequence[int] | None,
    ) -> list[Scaling]:
        """What is to be done to each axis that changes."""
        axes = self.resized_axes(len(shape))
        source = [shape[at] for at in axes]
        target: Sequence[Any]
        if scales:
            target = [_scaled(*pair) for pair in zip(source, scales, strict=True)]
        elif sizes is None:
            raise ValueError("neither scales nor sizes")
        elif self.keep_aspect_ratio_policy == "stretch":
            target = sizes
            scales = list(map(_ratio, sizes, source))
        else:
            scale, target = self._proportional(source, sizes)
            scales = [scale] * len(axes)
        count = len(axes)
        crops = [(0.0, 1.0)] * count
        if self._crops and roi:
            crops = list(zip(roi[:count], roi[count:], strict=True))
        rows = zip(axes, source, target, scales, crops, strict=True)
        plan = [Scaling(*row) for row in rows]
        return [scaling for scaling in plan if not scaling.trivial]


def _ratio(size: int, extent: int) -> float:
    """The scale that gives a size; nothing stays nothing at any scale."""
    if size == extent:
        return 1.0  # also where both are symbolic
    return size / extent if extent else 1.0


def _scaled(extent: Dim, scale: float) -> Any:
    """The extent times a float32, rounded down as float32 does."""
    if scale == 1:
        return extent
    if isinstance(extent, int):
        return floor(np.float32(extent) * np.float32(scale))
    ratio = Fraction(scale)
    if extent is None or ratio.denominator > 64:
        return None
    return dims.floordiv(dims.mul(extent, ratio.numerator), ratio.denominator)
