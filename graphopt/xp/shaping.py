"""Functions that move elements and never compute with them; making new arrays."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import TypeMismatch
from .foundation import (
    WIDE,
    Array,
    DTypeLike,
    Foundation,
    along,
    ints,
    normal_axes,
    normal_axis,
)


class Shaping(Foundation):
    """Shapes, slices, joins, pads, creation. Shapes and axes are known integers."""

    def reshape(self, x: Array, shape: Any) -> Array:
        """The elements in row-major order; one dim may be -1. 0 is an extent of 0."""
        return self.lib.reshape(x, ints(shape))

    def transpose(self, x: Array, axes: Sequence[int] | None = None) -> Array:
        """Axes in a new order; reversed by default."""
        return self.lib.transpose(x, axes)

    def broadcast_shapes(self, *shapes: Sequence[int]) -> tuple[int, ...]:
        found: tuple[int, ...] = self.lib.broadcast_shapes(*map(ints, shapes))
        return found

    def broadcast_to(self, x: Array, shape: Any) -> Array:
        return self.lib.broadcast_to(x, ints(shape))

    def expand(self, x: Array, shape: Any) -> Array:
        """Broadcast against ``shape``: dims of ``x`` may be larger than those asked."""
        return self.lib.broadcast_to(x, self.broadcast_shapes(x.shape, shape))

    def squeeze(self, x: Array, axes: Any = None) -> Array:
        """Without the given axes, all of extent 1; without all such axes by default."""
        if axes is None:
            return self.lib.squeeze(x)
        return self.lib.squeeze(x, normal_axes(axes, x.ndim))

    def unsqueeze(self, x: Array, axes: Any) -> Array:
        """With axes of extent 1 put in, at these positions of the result."""
        return self.lib.expand_dims(x, ints(axes))

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        return self.lib.concatenate(self.same(*arrays), axis=axis)

    def stack(self, arrays: Sequence[Array], axis: int = 0) -> Array:
        return self.lib.stack(self.same(*arrays), axis=axis)

    def split(self, x: Array, sizes: Any, axis: int) -> tuple[Array, ...]:
        """Pieces of the given extents along ``axis``; together they are ``x``."""
        axis, sizes = normal_axis(axis, x.ndim), ints(sizes)
        if sum(sizes) != x.shape[axis] or min(sizes, default=0) < 0:
            raise TypeMismatch(f"sizes {sizes} do not split an extent {x.shape[axis]}")
        pieces, start = [], 0
        for size in sizes:
            pieces.append(x[along(x.ndim, axis, slice(start, start + size))])
            start += size
        return tuple(pieces)

    def strided_slice(
        self, x: Array, starts: Any, ends: Any, steps: Any = None, axes: Any = None
    ) -> Array:
        """Elements ``start, start + step, ...`` before ``end``, as ONNX's Slice clamps.

        Negative starts and ends count from the back; a negative step walks backwards,
        and then an end before the first element takes that one too.
        """
        starts, ends = ints(starts), ints(ends)
        axes = normal_axes(range(len(starts)) if axes is None else axes, x.ndim)
        steps = (1,) * len(starts) if steps is None else ints(steps)
        index = [slice(None)] * x.ndim
        for start, end, step, axis in zip(starts, ends, steps, axes, strict=True):
            if step == 0:
                raise TypeMismatch(f"a slice along axis {axis} has step 0")
            extent = x.shape[axis]
            start += extent if start < 0 else 0
            end += extent if end < 0 else 0
            start = self.larger(start, 0)
            if step > 0:
                start = self.smaller(start, extent)
                end = self.larger(self.smaller(end, extent), start)
                index[axis] = slice(start, end, step)
                continue
            start = self.smaller(start, extent - 1)
            end = self.smaller(self.larger(end, -1), start)
            # To NumPy an end of -1 is the last element; None is before the first.
            before = None if end < 0 else end
            index[axis] = slice(0, 0) if end == start else slice(start, before, step)
        return x[tuple(index)]

    def flip(self, x: Array, axes: Any) -> Array:
        return self.lib.flip(x, normal_axes(axes, x.ndim))

    def tile(self, x: Array, repeats: Any) -> Array:
        return self.lib.tile(x, ints(repeats))

    def repeat(self, x: Array, count: int, axis: int) -> Array:
        """Each element of ``axis`` ``count`` times in a row."""
        return self.lib.repeat(x, int(count), axis=axis)

    def pad(
        self,
        x: Array,
        pads: Sequence[tuple[int, int]],
        mode: str = "constant",
        value: Any = 0,
    ) -> Array:
        """``(before, after)`` elements put around each axis; negative counts crop.

        ``mode``: "constant" puts ``value``; "edge" the last element; "reflect" mirrors
        without repeating it; "wrap" continues at the other end. Cropping comes first;
        what an axis lacks for it is missing from the pad on its other side.
        """
        if len(pads) != x.ndim:
            raise TypeMismatch(f"{len(pads)} pairs of pads for rank {x.ndim}")
        extents = x.shape
        x = x[tuple(map(_kept, extents, pads))]
        pads = [
            _put(before, after, extent + before + after - left)
            for extent, left, (before, after) in zip(
                extents, x.shape, pads, strict=True
            )
        ]
        if mode == "constant":
            return self.fill_around(x, pads, value) if any(map(any, pads)) else x
        for axis, pad in enumerate(pads):
            if any(pad):
                x = self.lib.take(x, self._beyond(x.shape[axis], pad, mode), axis=axis)
        return x

    def _beyond(self, extent: int, pad: tuple[int, int], mode: str) -> Array:
        """Which elements of an axis stand in and around it."""
        at = self.lib.arange(extent + sum(pad)) - pad[0]
        if mode == "edge":
            return self.lib.clip(at, 0, extent - 1)
        if mode == "wrap":
            return at % extent
        if mode != "reflect":
            raise ValueError(f"mode {mode!r} is not supported")
        around = self.larger(2 * (extent - 1), 1)  # there and back again
        at = at % around
        return self.lib.minimum(at, around - at) if extent != 1 else at

    @abstractmethod
    def fill_around(
        self, x: Array, pads: Sequence[tuple[int, int]], value: Any
    ) -> Array:
        """``x`` with ``value`` around it; no pad is negative."""

    def tril(self, x: Array, k: int = 0) -> Array:
        """Zero above the ``k``-th diagonal of the last two axes."""
        return self._triangle(x, self._diagonal(x.shape) <= int(k))

    def triu(self, x: Array, k: int = 0) -> Array:
        """Zero below the ``k``-th diagonal of the last two axes."""
        return self._triangle(x, self._diagonal(x.shape) >= int(k))

    def _diagonal(self, shape: tuple[int, ...]) -> Array:
        rows, columns = shape[-2:]
        return self.lib.arange(columns) - self.lib.arange(rows)[:, None]

    def _triangle(self, x: Array, kept: Array) -> Array:
        return self.lib.where(kept, x, self.zeros((), x.dtype))

    # Creation

    def full(self, shape: Any, value: Any, dtype: DTypeLike) -> Array:
        return self.lib.full(ints(shape), value, self.dtype(dtype))

    def zeros(self, shape: Any, dtype: DTypeLike) -> Array:
        return self.lib.zeros(ints(shape), self.dtype(dtype))

    def ones(self, shape: Any, dtype: DTypeLike) -> Array:
        return self.lib.ones(ints(shape), self.dtype(dtype))

    def eye(
        self, rows: int, columns: int | None = None, k: int = 0, *, dtype: DTypeLike
    ) -> Array:
        """Ones on the ``k``-th diagonal, zeros elsewhere."""
        shape = ints((rows, rows if columns is None else columns))
        return self.asarray(self._diagonal(shape) == int(k), dtype)

    def arange(self, start: Any, stop: Any, step: Any, dtype: DTypeLike) -> Array:
        """ONNX's Range: ``start + i * step``, ``i < ceil((stop - start) / step)``."""
        kind = self.dtype(dtype)
        wide = WIDE.get(kind, kind)
        exact = int if wide.kind in "iu" else float
        start, stop, step = (exact(np.asarray(v).item()) for v in (start, stop, step))
        if step == 0:
            raise TypeMismatch("a range has step 0")
        count = max(int(np.ceil((stop - start) / step)), 0)
        if exact is int:
            count = max(-((start - stop) // step), 0)
        values = np.arange(count).astype(wide) * wide.type(step) + wide.type(start)
        return self.asarray(values.astype(kind))

    def onehot(
        self,
        indices: Array,
        depth: int,
        axis: int = -1,
        *,
        on: Any = 1,
        off: Any = 0,
        dtype: DTypeLike,
    ) -> Array:
        """``on`` where a new axis counts to the index, else ``off``.

        Negative indices count from ``depth``; those out of range have no ``on``.
        """
        axis = normal_axis(axis, indices.ndim + 1)
        shape = [1] * (indices.ndim + 1)
        shape[axis] = int(depth)
        steps = np.arange(int(depth)).reshape(shape)
        at = self.lib.expand_dims(self.asarray(indices), axis)
        hit = self.lib.equal(self.lib.where(at < 0, at + int(depth), at), steps)
        on, off = (self.asarray(v, dtype) for v in (on, off))
        return self.lib.where(hit, on, off)


def _kept(extent: int, pad: tuple[int, int]) -> slice:
    """What negative pads leave of an axis."""
    before, after = pad
    if extent + before + after < 0:
        raise ValueError(f"pads {before} and {after} crop more than {extent} elements")
    first = min(max(-before, 0), extent)
    return slice(first, max(extent - max(-after, 0), first))


def _put(before: int, after: int, missing: int) -> tuple[int, int]:
    """How many of the missing elements go before and after what is left."""
    first = min(max(before, 0), missing) if after < 0 else max(before, 0)
    return min(first, missing), max(missing - first, 0)
