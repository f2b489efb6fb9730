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
from .steering import axis_names, cost_among, dims_of, joined, shape_of
from .structured import Array, Structured

if TYPE_CHECKING:
    from ..xp import Namespace

Tap: TypeAlias = tuple[Array, Array]
"""Positions of elements along a dim, and what each of them weighs."""

CUBIC = -0.75
"""The slope of the cubic kernel at its neighbours, as PyTorch and ONNX have it."""


def cubic_kernel(distance: Array, a: float = CUBIC) -> Array:
    """What an element weighs at a distance of 0 to 2, and beyond.

    Source: R. Keys, Cubic convolution interpolation for digital image processing, 1981.
    """
    x = distance
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return near * (x < 1) + far * ((x >= 1) & (x < 2))


def taps(xp: Namespace, at: Array, mode: str) -> list[Tap]:
    """The neighbours of positions along one dim that ``mode`` looks at."""
    if mode == "nearest":
        return [(xp.cast(xp.round(at), DType.I64), 1)]
    low = xp.floor(at)
    t, first = at - low, xp.cast(low, DType.I64)
    if mode == "linear":
        return [(first, 1 - t), (first + 1, t)]
    return [(first + i, cubic_kernel(xp.abs(t - i))) for i in (-1, 0, 1, 2)]


def elements(
    xp: Namespace, image: Array, at: Sequence[Array], *, outside: str
) -> Array:
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
        text = joined([["n", "c", *whole], ["n", *points, "_"]], [["n", "c", *points]])
        taps = {"nearest": 1, "linear": 2, "cubic": 4}[self.mode] ** len(points)
        return self.parse_maps(text, cost=cost_among(2 * taps, image[2:]))

    def compute(self, xp: Namespace, image: Array, grid: Array) -> Array:
        dtype, real = image.dtype, real_type(image, grid)
        spatial = image.shape[2:]
        grid = xp.cast(grid, real)
        at = []
        for i, extent in enumerate(spatial):
            position = grid[..., len(spatial) - 1 - i]
            if self.align_corners:
                position = (position + 1) / 2 * (extent - 1)
            else:
                position = ((position + 1) * extent - 1) / 2
            if self.mode == "nearest":
                position = xp.round(position)
            # The cubic kernel looks beyond the borders from where the position is.
            moves = self.mode != "cubic"
            at.append(self._placed(xp, position, extent) if moves else position)
        if self.mode != "nearest":
            image = xp.cast(image, real)
        result = interpolated(
            xp,
            image,
            at,
            self.mode,
            outside="zeros" if self.padding_mode == "zeros" else "border",
            placed=lambda position, i: self._placed(xp, position, spatial[i]),
        )
        return xp.cast(result, dtype)

    def _placed(self, xp: Namespace, at: Array, extent: int) -> Array:
        """Positions along a dim, those beyond its borders moved as the op says."""
        low, high = (0, extent - 1) if self.align_corners else (-0.5, extent - 0.5)
        beyond = (at < low) | (at > high)
        if self.padding_mode == "border":
            return xp.where(beyond, xp.clip(at, 0, extent - 1), at)
        if self.padding_mode == "reflection":
            whole = at.dtype.kind == "i"
            place = xp.cast(at, DType.F64) if whole else at
            place = _reflected(xp, place, low, high)
            return xp.where(beyond, xp.cast(place, at.dtype), at)
        return at


def _reflected(xp: Namespace, at: Array, low: float, high: float) -> Array:
    """Positions mirrored at two borders until they lie between."""
    width = high - low
    if not width:
        return at * 0 + low
    way = xp.remainder(at - low, 2 * width)
    return low + xp.minimum(way, 2 * width - way)


@op("AffineGrid")
class AffineGrid(Structured):
    """The positions that an affine map of each batch takes those of an image to.

    For GridSample: from -1 to 1, the last spatial dim first.
    """

    static = (1,)
    linear = ((0,),)
    flops = 2.0

    def index_maps(self) -> Maps | None:
        size = dims_of(self, 1)
        if size is None:
            return None
        points = axis_names(len(size) - 2, "y")
        text = joined([["n", "_a", "_k"], "-"], [["n", *points, "_a"]])
        return self.parse_maps(text, positional=points)

    def extents(self) -> Mapping[str, Dim]:
        size = dims_of(self, 1) or ()
        return dict(zip(axis_names(len(size) - 2, "y"), size[2:], strict=True))

    def compute(self, xp: Namespace, theta: Array, size: Array) -> Array:
        dtype, real = theta.dtype, real_type(theta)
        spatial = size.tolist()[2:]
        lines = []
        for extent in spatial:
            steps = np.arange(extent)
            if self.align_corners:
                lines.append(2 * steps / max(extent - 1, 1) - 1)
            else:
                lines.append((2 * steps + 1) / extent - 1)
        mesh = np.meshgrid(*lines, indexing="ij")[::-1]
        points = np.stack([*mesh, np.ones(spatial)], axis=-1).reshape(
            -1, len(spatial) + 1
        )
        theta = xp.transpose(xp.cast(theta, real), (0, 2, 1))
        grid = xp.matmul(xp.cast(points, real), theta)
        grid = xp.reshape(grid, (theta.shape[0], *spatial, len(spatial)))
        return xp.cast(grid, dtype)


def real_type(*arrays: Array) -> np.dtype[np.generic]:
    """The type to interpolate in: float64 if an array has that, else float32."""
    wide = any(x.dtype == np.float64 for x in arrays)
    return np.dtype(np.float64 if wide else np.float32)
