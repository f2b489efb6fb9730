"""Convolution and pooling on the host: BLAS, bounded scratch, no loop over pixels."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from .contraction import exact_float, matmul, wrapped
from .foundation import Array
from .reductions import lowest
from .spatial import Geometry

SCRATCH = 8 << 20
"""Bytes of unfolded windows at a time: about what stays in cache."""

SHORT, FEW = 8, 1 << 13
"""Rows so short, of so few elements, are unfolded one by one: a copy takes longer."""

CHUNK = 1 << 19
"""Bytes of results that a depthwise convolution sums up at a time."""


class _Scratch(threading.local):
    """Memory for unfolded windows, kept: new pages would cost as much as the copy."""

    memory = np.empty(0, np.uint8)

    def array(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """An array for the caller's use until the next one is asked for."""
        size = math.prod(shape) * dtype.itemsize
        if size > SCRATCH:
            return np.empty(shape, dtype)
        if size > self.memory.size:
            self.memory = np.empty(size, np.uint8)
        return self.memory[:size].view(dtype).reshape(shape)


_scratch = _Scratch()


def padded(x: Array, geometry: Geometry, value: Any = 0) -> Array:
    """``x`` with the geometry's pads put around its trailing axes, or cropped."""
    if not any(map(any, geometry.pads)):
        return x
    rank = len(geometry.kernel)
    lead, spatial = x.shape[: x.ndim - rank], x.shape[x.ndim - rank :]
    inner: list[Any] = [...]
    outer: list[Any] = [...]
    shape = list(lead)
    for extent, (before, after) in zip(spatial, geometry.pads, strict=True):
        inner.append(slice(max(-before, 0), extent - max(-after, 0)))
        kept = len(range(*inner[-1].indices(extent)))
        outer.append(slice(max(before, 0), max(before, 0) + kept))
        shape.append(extent + before + after)
    result: Array = np.full(shape, value, x.dtype)
    result[tuple(outer)] = x[tuple(inner)]
    return result


def slide(x: Array, geometry: Geometry) -> Array:
    """A view of all windows over an unpadded ``x``: ``[..., *positions, *kernel]``."""
    spatial = x.shape[x.ndim - len(geometry.kernel) :]
    return _laid_out(x, geometry, geometry.extents(spatial))


def _laid_out(x: Array, geometry: Geometry, extents: Sequence[int]) -> Array:
    """`slide` where the extents are known."""
    lead = x.ndim - len(extents)
    steps = [s * n for s, n in zip(geometry.strides, x.strides[lead:], strict=True)]
    taps = [d * n for d, n in zip(geometry.dilations, x.strides[lead:], strict=True)]
    shape = (*x.shape[:lead], *extents, *geometry.kernel)
    strides = (*x.strides[:lead], *steps, *taps)
    if x.flags.c_contiguous and x.dtype.isbuiltin == 1:
        # The same as below, in a tenth of the time.
        view: Array = np.ndarray(shape, x.dtype, x, 0, strides)
        view.flags.writeable = False
        return view
    return np.lib.stride_tricks.as_strided(x, shape, strides, writeable=False)


def correlate(x: Array, w: Array, geometry: Geometry, groups: int) -> Array:
    """Cross-correlation of ``x[n, c, *spatial]`` with ``w[m, c / groups, *kernel]``."""
    if x.dtype.kind in "iu":
        exact = exact_float(x, w, w[0].size if len(w) else 0)
        if exact is not None:
            result = correlate(x.astype(exact), w.astype(exact), geometry, groups)
            return wrapped(result, x.dtype)
    extents = geometry.extents(x.shape[2:])
    out = np.zeros((x.shape[0], w.shape[0], *extents), x.dtype)
    if not out.size or not w.size:
        return out
    x = padded(x, geometry)
    if all(k == 1 for k in geometry.kernel):
        _pointwise(x, w, out, geometry, groups)
    elif w.shape[1] == 1 and groups > 1:
        _depthwise(x, w, out, geometry)
    else:
        _unfolded(x, w, out, geometry, groups)
    return out


def _pointwise(x: Array, w: Array, out: Array, geometry: Geometry, groups: int) -> None:
    """A kernel of one element is a matrix product over channels."""
    n, m, *extents = out.shape
    x = x[(..., *geometry.reach((0,) * len(extents), extents))]
    x = x.reshape(n, groups, -1, int(np.prod(extents)))
    weights = w.reshape(groups, m // groups, -1)
    np.matmul(weights, x, out=out.reshape(n, groups, m // groups, -1))


def _depthwise(x: Array, w: Array, out: Array, geometry: Geometry) -> None:
    """One input channel a group: shifted products summed, some channels at a time."""
    n, m, *extents = out.shape
    channels = x.shape[1]
    spread = out.reshape(n, channels, m // channels, *extents)
    weights = w.reshape(channels, m // channels, *geometry.kernel)
    size = max(out[0, 0].nbytes * (m // channels), 1)
    step = max(CHUNK // size, 1)
    ones = (1,) * len(extents)
    for image in range(n):
        for first in range(0, channels, step):
            part = slice(first, first + step)
            total, source = spread[image, part], x[image, part, None]
            product = np.empty_like(total)
            for tap in geometry.taps():
                factor = weights[(part, slice(None), *tap)].reshape(
                    *total.shape[:2], *ones
                )
                np.multiply(
                    source[(..., *geometry.reach(tap, extents))], factor, product
                )
                total += product


def _unfolded(x: Array, w: Array, out: Array, geometry: Geometry, groups: int) -> None:
    """Windows unfolded into columns, a block of positions at a time, then a product."""
    n, m, *extents = out.shape
    rank = len(extents)
    weights = w.reshape(groups, m // groups, -1)
    depth = weights.shape[-1]
    if extents[-1] <= SHORT and groups * depth * math.prod(extents) <= FEW:
        at = _places(x.shape[1:], geometry, tuple(extents)).reshape(groups, depth, -1)
        for source, result in zip(x, out, strict=True):
            columns = source.reshape(-1).take(at)
            np.matmul(weights, columns, out=result.reshape(groups, m // groups, -1))
        return
    view = _laid_out(x, geometry, extents)
    # [n, c, *positions, *kernel] to [n, c, *kernel, *positions]
    taps, places = range(2 + rank, 2 + 2 * rank), range(2, 2 + rank)
    view = view.transpose(0, 1, *taps, *places)
    for block in blocks(extents, groups * depth * x.itemsize):
        target = out[(slice(None), slice(None), *block)]
        shape = (*view.shape[1 : 2 + rank], *target.shape[2:])
        columns = _scratch.array(shape, x.dtype)
        matrix = columns.reshape(groups, depth, -1)
        for image in range(n):
            np.copyto(columns, view[(image, ..., *block)])
            if target.shape == out.shape:
                np.matmul(
                    weights, matrix, out=out[image].reshape(groups, m // groups, -1)
                )
            else:
                product = np.matmul(weights, matrix)
                target[image] = product.reshape(target.shape[1:])


@lru_cache(64)
def _places(
    shape: tuple[int, ...], geometry: Geometry, extents: tuple[int, ...]
) -> Array:
    """Where in ``x`` of ``[c, *spatial]`` columns come from: [c, *kernel, *extents]."""
    rank = len(extents)
    places = np.arange(math.prod(shape)).reshape(shape)
    view = _laid_out(places, geometry, extents)
    return np.moveaxis(view, range(1, 1 + rank), range(1 + rank, 1 + 2 * rank)).copy()


def blocks(extents: Sequence[int], column: int) -> Iterator[tuple[slice, ...]]:
    """Boxes that cover all positions, each of at most SCRATCH bytes of columns."""
    if column * math.prod(extents) <= SCRATCH:
        yield tuple([slice(0, extent) for extent in extents])
        return
    axis, inner = len(extents) - 1, column
    while axis > 0 and inner * extents[axis] <= SCRATCH:
        inner *= extents[axis]
        axis -= 1
    step = max(SCRATCH // inner, 1)
    whole = tuple(slice(0, extent) for extent in extents[axis + 1 :])
    for outer in np.ndindex(*extents[:axis]):
        for first in range(0, extents[axis], step):
            last = min(first + step, extents[axis])
            yield (*(slice(i, i + 1) for i in outer), slice(first, last), *whole)


def spread(x: Array, w: Array, geometry: Geometry, groups: int) -> Array:
    """The transpose of `correlate`; ``w`` is ``[c, m / groups, *kernel]``."""
    if x.dtype.kind in "iu":
        exact = exact_float(x, w, w[:, 0].size if w.size else 0)
        if exact is not None:
            result = spread(x.astype(exact), w.astype(exact), geometry, groups)
            return wrapped(result, x.dtype)
    n, c, *spatial = x.shape
    m = w.shape[1] * groups
    full = tuple(
        max(s * (e - 1) + span, 0)
        for e, s, span in zip(spatial, geometry.strides, geometry.spans, strict=True)
    )
    out: Array = np.zeros((n, m, *full), x.dtype)
    if x.size and w.size:
        columns = x.reshape(n, groups, c // groups, -1)
        weights = w.reshape(groups, c // groups, w.shape[1], *geometry.kernel)
        for tap in geometry.taps():
            tapped = np.swapaxes(weights[(..., *tap)], 1, 2)
            part = matmul(np.ascontiguousarray(tapped), columns)
            reach = geometry.reach(tap, spatial)
            out[(..., *reach)] += part.reshape(n, m, *spatial)
    return padded(
        out, geometry._replace(pads=tuple((-b, -a) for b, a in geometry.pads))
    )


def pool(x: Array, geometry: Geometry, kind: str) -> Array:
    """The largest element or the sum of each window, one axis after the other."""
    combine = np.maximum if kind == "max" else np.add
    lead = x.ndim - len(geometry.kernel)
    extents = geometry.extents(x.shape[lead:])
    x = padded(x, geometry, lowest(x.dtype) if kind == "max" else 0)
    # The last axis comes last: elements that lie apart are slow, and by then few.
    for axis, count in enumerate(extents):
        k, s, d = (
            g[axis] for g in (geometry.kernel, geometry.strides, geometry.dilations)
        )
        place = (slice(None),) * (lead + axis)
        if not count:
            x = x[(*place, slice(0, 0))]
            continue
        reach = range(0, s * (count - 1) + 1, s)
        at = [slice(t * d, t * d + reach.stop, s) for t in range(k)]
        result = x[(*place, at[0])]
        if k == 1:
            x = result
            continue
        result = combine(result, x[(*place, at[1])])
        for tap in at[2:]:
            combine(result, x[(*place, tap)], out=result)
        x = result
    return x
