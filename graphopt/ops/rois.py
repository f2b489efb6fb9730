"""Regions of interest: a grid of values from each of many rectangles of an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..dims import Dim
from ..index import Combiner, Maps
from ..types import DType
from .registry import op
from .sampling import real_type
from .structured import Array, Structured

if TYPE_CHECKING:
    from ..xp import Namespace


class Points(NamedTuple):
    """Sampling points along one dim: ``[region, cell, point, neighbour]`` arrays."""

    index: Array
    weight: Array
    """Zero for points outside of the image."""
    counted: Array
    """True for points that their region has."""
    count: Array
    """How many points a cell of each region has."""


@op("RoiAlign")
class RoiAlign(Structured):
    """For each region, a grid of means (or maxima) of values between elements.

    Each cell of the grid is sampled at ``sampling_ratio`` points a dim; 0 takes as many
    as the cell has elements. ``half_pixel`` coordinates are those of centers.
    """

    linear = ((0,),)

    def index_maps(self) -> Maps | None:
        mean = self.mode == "avg"
        return self.parse_maps(
            "_n c _h _w, r _, r -> r c y x",
            linear=self.linear if mean else (),
            positional=("y", "x"),
        )

    def extents(self) -> Mapping[str, Dim]:
        return {"y": self.output_height, "x": self.output_width}

    def compute(
        self, xp: Namespace, image: Array, regions: Array, batch: Array
    ) -> Array:
        dtype, real = image.dtype, real_type(image)
        image, regions = xp.cast(image, real), xp.cast(regions, real)
        shift = 0.5 if self.coordinate_transformation_mode == "half_pixel" else 0.0
        ends = regions * self.spatial_scale - shift
        rows = self._points(
            xp, ends[:, 1], ends[:, 3], image.shape[2], self.output_height
        )
        columns = self._points(
            xp, ends[:, 0], ends[:, 2], image.shape[3], self.output_width
        )

        def step(_: tuple[()], region: tuple[Array, ...]) -> tuple[tuple[()], Array]:
            number, *parts = region
            pixels = xp.take(image, number, 0)
            return (), (
                self._cells(xp, pixels, Points(*parts[:4]), Points(*parts[4:])),
            )

        _, (grids,) = xp.scan(step, (), [batch, *rows, *columns])
        return xp.cast(grids, dtype)

    def _points(
        self, xp: Namespace, start: Array, end: Array, extent: int, cells: int
    ) -> Points:
        size = end - start
        if self.coordinate_transformation_mode != "half_pixel":
            size = xp.maximum(size, 1)
        size = size / cells
        if self.sampling_ratio > 0:
            most = self.sampling_ratio
            count = xp.full(size.shape, most, DType.I64)
        else:
            # How many elements a cell has is data: such regions must be concrete.
            count = xp.maximum(xp.cast(xp.ceil(size), DType.I64), 0)
            most = max(int(np.max(np.asarray(count), initial=0)), 1)
        real = size.dtype
        steps = xp.cast(np.arange(most) + 0.5, real) / xp.cast(
            xp.maximum(count, 1), real
        ).reshape(-1, 1, 1)
        cell = xp.cast(np.arange(cells), real).reshape(-1, 1)
        at = start.reshape(-1, 1, 1) + size.reshape(-1, 1, 1) * (cell + steps)
        counted = np.arange(most) < count.reshape(-1, 1, 1)
        inside = counted & (at >= -1) & (at <= extent)
        at = xp.clip(at, 0, extent - 1)
        low = xp.cast(xp.floor(at), DType.I64)
        high = xp.minimum(low + 1, extent - 1)
        part = at - xp.floor(at)
        weight = xp.stack([1 - part, part], axis=-1) * inside[..., None]
        counted = xp.broadcast_to(counted[..., None], weight.shape)
        return Points(xp.stack([low, high], axis=-1), weight, counted, count)

    def _cells(
        self, xp: Namespace, pixels: Array, rows: Points, columns: Points
    ) -> Array:
        """The grid ``[channel, y, x]`` of one region of one image."""
        found = xp.take(pixels, rows.index.reshape(-1), 1)
        found = xp.take(found, columns.index.reshape(-1), 2)
        down, across = rows.index.shape, columns.index.shape
        shape = (pixels.shape[0], down[0], down[1] * 2, across[0], across[1] * 2)
        weight = rows.weight.reshape(-1, 1) * columns.weight.reshape(-1)
        found = (found * weight).reshape(shape)
        if self.mode == "avg":
            total = xp.sum(found, (2, 4))
            return total / xp.cast(
                xp.maximum(rows.count * columns.count, 1), total.dtype
            )
        counted = rows.counted.reshape(-1, 1) & columns.counted.reshape(-1)
        largest = xp.max(xp.where(counted.reshape(shape[1:]), found, -np.inf), (2, 4))
        return xp.where(xp.isfinite(largest), largest, 0)


@op("MaxRoiPool")
class MaxRoiPool(Structured):
    """For each region ``batch, x1, y1, x2, y2``, a grid of the largest elements.

    Coordinates are rounded to whole elements, and cells reach over whole elements; 0 is
    the maximum of an empty cell. Source: R. Girshick, Fast R-CNN, 2015.
    """

    combiner = Combiner.MAX

    def index_maps(self) -> Maps | None:
        return self.parse_maps("_n c _h _w, r _ -> r c y x", positional=("y", "x"))

    def extents(self) -> Mapping[str, Dim]:
        height, width = self.pooled_shape
        return {"y": height, "x": width}

    def compute(self, xp: Namespace, image: Array, regions: Array) -> Array:
        ends = xp.cast(regions, real_type(regions))
        batch = xp.cast(ends[:, 0], DType.I64)
        # Halves are rounded away from zero.
        ends = ends[:, 1:] * self.spatial_scale
        ends = xp.sign(ends) * xp.floor(xp.abs(ends) + 0.5)
        height, width = self.pooled_shape
        rows = _cells_of(xp, ends[:, 1], ends[:, 3], image.shape[2], height)
        columns = _cells_of(xp, ends[:, 0], ends[:, 2], image.shape[3], width)
        low = xp.asarray(-np.inf, image.dtype)

        def step(_: tuple[()], region: tuple[Array, ...]) -> tuple[tuple[()], Array]:
            number, down, across = region
            pixels = xp.take(image, number, 0)[:, None]
            found = xp.max(xp.where(down[:, :, None], pixels, low), 2)
            found = xp.max(xp.where(across, found[:, :, None], low), 3)
            empty = ~(xp.any(down, 1)[:, None] & xp.any(across, 1))
            return (), (xp.where(empty, 0, found),)

        _, (grids,) = xp.scan(step, (), [batch, rows, columns])
        return grids


def _cells_of(
    xp: Namespace, start: Array, end: Array, extent: int, cells: int
) -> Array:
    """Which elements each cell of each region has: ``[region, cell, element]``."""
    start, end = start.reshape(-1, 1), end.reshape(-1, 1)
    size = xp.maximum(end - start + 1, 1) / cells
    cell = xp.cast(np.arange(cells), size.dtype)
    first = (start + xp.floor(cell * size))[..., None]
    last = (start + xp.ceil((cell + 1) * size))[..., None]
    element = xp.cast(np.arange(extent), size.dtype)
    return (element >= first) & (element < last)
