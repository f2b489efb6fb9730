"""Values between the elements of an image: interpolation at positions that are data.

Images are ``[batch, channels, *spatial]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from math import prod
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ..dims import Dim
from ..index import Maps
from ..types import DType
from .registry import op
from .steering import axis_names, dims_of, joined, shape_of
from .structured import Array, Structured

if TYPE_CHECKING:
    from ..xp import Namespace

Tap: TypeAlias = tuple[Array, Array]
"""Positions of elements along a dim, and what each of them weighs."""

CUBIC = -0.75
"""The slope of the cubic kernel at its neighbours, as PyTorch and ONNX have it."""


def cubic_weights(xp: Namespace, t: Array, a: float = CUBIC) -> list[Array]:
    """What the four neighbours of a point weigh, ``t`` after the second of them.

    Source: R. Keys, Cubic convolution interpolation for digital image processing, 1981.
    """

    def near(x: Array) -> Array:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: Array) -> Array:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


def taps(xp: Namespace, at: Array, mode: str) -> list[Tap]:
    """The neighbours of positions along one dim that ``mode`` looks at."""
    if mode == "nearest":
        return [(xp.cast(xp.round(at), DType.I64), 1)]
    low = xp.floor(at)
    t, first = at - low, xp.cast(low, DType.I64)
    if mode == "linear":
        return [(first, 1 - t), (first + 1, t)]
    return [(first - 1 + i, w) for i, w in enumerate(cubic_weights(xp, t))]


def elements(xp: Namespace, image: Array, at: Sequence[Array], *, outside: str) -> Array:
    """Elements at whole positions ``[batch, *points]``: ``[batch, channels, *points]``.

    ``outside`` of the image are "zeros", or its "border".
    """
    batch, channels, *spatial = image.shape
    points = at[0].shape[1:]
    inside: Array = True
    place: Array = 0
    for position, extent in zip(at, spatial, strict=True):
        inside = inside & (position >= 0) & (position < extent)
        place = place * extent + xp.clip(position, 0, extent - 1)
    size = prod(spatial)
    images = xp.reshape(np.arange(batch) * size, (-1, *[1] * len(points)))
    order = (0, *range(2, image.ndim), 1)
    flat = xp.reshape(xp.transpose(image, order), (batch * size, channels))
    found = xp.take(flat, place + images, 0)
    if outside == "zeros":
        found = xp.where(inside[..., None], found, 0)
    return xp.transpose(found, (0, found.ndim - 1, *range(1, found.ndim - 1)))


def interpolated(
    xp: Namespace,
    image: Array,
    at: Sequence[Array],
    mode: str,
    *,
    outside: str = "zeros",
    placed: Callable[[Array, int], Array] = lambda position, dim: position,
) -> Array:
    """Values at positions ``[batch, *points]``, one array for each spatial dim.

    ``placed`` moves whole positions along a dim that lie outside of it.
    """
    total: Array = 0
    for corner in product(*(taps(xp, position, mode) for position in at)):
        positions = [placed(position, i) for i, (position, _) in enumerate(corner)]
        weight: Array = 1
        for _, part in corner:
            weight = weight * part
        found = elements(xp, image, positions, outside=outside)
        total = total + (found if mode == "nearest" else found * weight[:, None])
    return total


@op("GridSample")
class GridSample(Structured):
    """The image at the positions in ``grid``, from -1 at one border to 1 at the other.

    The last axis of the grid holds them, last spatial dim first. With ``align_corners``
    borders are the centers of the outermost elements, else their outer edges. Beyond
    them is what ``padding_mode`` says: zeros, the border, or a reflection.
    """

    linear = ((0,),)

    def index_maps(self) -> Maps | None:
        image, grid = shape_of(self), shape_of(self, 1)
        if image is None or grid is None:
            return None
        whole = axis_names(len(image) - 2, "_w")
        points = axis_names(len(image) - 2, "y")
        text = joined(
            [["n", "c", *whole], ["n", *points, "_"]], [["n", "c", *points]]
        )
        taps = {"nearest": 1, "linear": 2, "cubic": 4}[self.mode] ** len(points)
        return self.parse_maps(text, cost=cost_among(2 * taps, image[2:]))

    def compute(self, xp: Namespace, image: Array, grid: Array) -> Array:
        return xp.each(lambda x, g: self._sampled(xp, x, g), image, ...)


def cost_among(flops: float, whole: Sequence[Dim]) -> float:
    """The cost of a point of a domain that has whole axes of which few are read."""
    sizes = [dim for dim in whole if isinstance(dim, int) and dim]
    return flops / prod(sizes) if len(sizes) == len(whole) else 0.0
