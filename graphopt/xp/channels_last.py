"""Convolution and pooling for XLA: channels last, in the spellings that it runs fast.

XLA on CPUs convolves with channels last and transposes what comes in another layout;
transposes that are written out around each convolution cancel between them. Measured
there: a convolution by single points is faster as a matrix product, one of single
channels as a sum of shifted products (10 to 40 times), a pool axis by axis. Where
windows lie side by side it is a product of patches: no slower, and without what the
kernel takes for itself, twice its operand.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from .foundation import WIDE, Array
from .spatial import Geometry

MOST_TAPS = 64
"""Kernels of more elements are not written out as sums."""


def correlate(
    x: Array, w: Array, geometry: Geometry, groups: int, precision: lax.Precision
) -> Array:
    """Cross-correlation of ``x[n, c, *spatial]`` with ``w[m, c / groups, *kernel]``."""
    rank = len(geometry.kernel)
    if groups == 1 and _lie_side_by_side(x, geometry):
        return lax.platform_dependent(
            x,
            w,
            cpu=lambda x, w: _of_patches(x, w, geometry, precision),
            default=lambda x, w: lax.conv_general_dilated(
                x, w, geometry.strides, geometry.pads, precision=precision
            ),
        )
    x = jnp.moveaxis(x, 1, -1)
    if groups == 1 and all(k == 1 for k in geometry.kernel):
        y = _pointwise(x, jnp.reshape(w, w.shape[:2]).T, geometry, precision)
    elif w.shape[1] == 1 and groups > 1 and np.prod(geometry.kernel) <= MOST_TAPS:
        weights = jnp.transpose(w[:, 0], [*range(1, rank + 1), 0])
        y = lax.platform_dependent(
            x,
            weights,
            cpu=lambda x, w: _shifted(x, w, geometry),
            default=lambda x, w: _convolved(
                x, w[..., None, :], geometry, groups, precision
            ),
        )
    else:
        weights = jnp.transpose(w, [*range(2, rank + 2), 1, 0])
        y = _convolved(x, weights, geometry, groups, precision)
    return jnp.moveaxis(y, -1, 1)


def _lie_side_by_side(x: Array, geometry: Geometry) -> bool:
    """If windows of several elements touch, in extents that are known."""
    return (
        geometry.kernel == geometry.strides
        and any(size > 1 for size in geometry.kernel)
        and all(size == 1 for size in geometry.dilations)
        and not any(map(any, geometry.pads))
        and all(isinstance(extent, int) for extent in x.shape[2:])
    )


def _of_patches(
    x: Array, w: Array, geometry: Geometry, precision: lax.Precision
) -> Array:
    """``w[m, (c kernel)] @ x[n, (c kernel), windows]``."""
    n, c, *spatial = x.shape
    m, rank, extents = len(w), len(geometry.kernel), geometry.extents(spatial)
    pairs = list(zip(extents, geometry.kernel, strict=True))
    x = x[(..., *(slice(many * size) for many, size in pairs))]
    x = jnp.reshape(x, (n, c, *itertools.chain(*pairs)))
    last = 2 + 2 * rank
    x = jnp.transpose(x, (0, 1, *range(3, last, 2), *range(2, last, 2)))
    depth = c * math.prod(geometry.kernel)
    x = jnp.reshape(x, (n, depth, math.prod(extents)))
    y = jnp.matmul(jnp.reshape(w, (m, depth)), x, precision=precision)
    return jnp.reshape(y, (n, m, *extents))


def spread(
    x: Array, w: Array, geometry: Geometry, groups: int, precision: lax.Precision
) -> Array:
    """The transpose of `correlate`; ``w`` is ``[c, m / groups, *kernel]``."""
    rank = len(geometry.kernel)
    c, m = w.shape[:2]
    w = jnp.reshape(w, (groups, c // groups, m, *geometry.kernel))
    w = jnp.flip(jnp.moveaxis(w, 0, 1), range(3, 3 + rank))
    w = jnp.reshape(w, (c // groups, groups * m, *geometry.kernel))
    turned = geometry._replace(
        strides=(1,) * rank,
        pads=tuple(
            (span - 1 - before, span - 1 - after)
            for span, (before, after) in zip(geometry.spans, geometry.pads, strict=True)
        ),
    )
    y = _convolved(
        jnp.moveaxis(x, 1, -1),
        jnp.moveaxis(w, (0, 1), (-2, -1)),
        turned,
        groups,
        precision,
        apart=geometry.strides,
    )
    return jnp.moveaxis(y, -1, 1)


def _convolved(
    x: Array,
    w: Array,
    geometry: Geometry,
    groups: int,
    precision: lax.Precision,
    apart: Sequence[int] | None = None,
) -> Array:
    """Of ``x[n, *spatial, c]`` and ``w[*kernel, c / groups, m]``; ``apart``: zeros lie
    between the elements of x.
    """
    return lax.conv_general_dilated(
        x,
        w,
        geometry.strides,
        geometry.pads,
        lhs_dilation=apart,
        rhs_dilation=geometry.dilations,
        dimension_numbers=_numbers(len(geometry.kernel)),
        feature_group_count=groups,
        precision=precision,
    )


def _numbers(rank: int) -> lax.ConvDimensionNumbers:
    last = (0, rank + 1, *range(1, rank + 1))
    return lax.ConvDimensionNumbers(last, (rank + 1, rank, *range(rank)), last)


def _pointwise(
    x: Array, w: Array, geometry: Geometry, precision: lax.Precision
) -> Array:
    """A kernel of one element is a matrix product of the last axis with ``w[c, m]``."""
    x = _padded(x, geometry, 0)
    return jnp.matmul(
        _strided(x, geometry, (0,) * len(geometry.kernel)), w, precision=precision
    )


def _shifted(x: Array, w: Array, geometry: Geometry) -> Array:
    """A kernel of single channels is a sum of shifted products; ``w[*kernel, m]``.

    All of them read the padded operand. XLA would take what lies inside from the
    operand as it was, keep both, and run for twice as long.
    """
    dtype, wide = x.dtype, WIDE.get(x.dtype, x.dtype)
    if any(map(any, geometry.pads)):
        barrier: Any = lax.optimization_barrier  # which JAX has not typed
        x = barrier(_padded(x, geometry, 0))
    x, w = x.astype(wide), w.astype(wide)
    x = jnp.repeat(x, w.shape[-1] // x.shape[-1], axis=-1)
    total = sum(_strided(x, geometry, tap) * w[tap] for tap in geometry.taps())
    return total.astype(dtype)


def pool(
    x: Array, geometry: Geometry, first: Any, combine: Callable[..., Any]
) -> Array:
    """Windows over the trailing axes, combined axis by axis."""
    rank = len(geometry.kernel)
    x = _cropped(x, geometry, x.ndim - rank)
    for axis in range(rank):
        window, strides, dilations = ([1] * x.ndim for _ in range(3))
        pads = [(0, 0)] * x.ndim
        place = x.ndim - rank + axis
        before, after = geometry.pads[axis]
        window[place] = geometry.kernel[axis]
        strides[place] = geometry.strides[axis]
        dilations[place] = geometry.dilations[axis]
        pads[place] = (max(before, 0), max(after, 0))
        x = lax.reduce_window(
            x,
            np.asarray(first, x.dtype),
            combine,
            window,
            strides,
            pads,
            window_dilation=dilations,
        )
    return x


def _cropped(x: Array, geometry: Geometry, lead: int) -> Array:
    """Without what negative pads cut off the axes from ``lead`` on."""
    parts = [
        slice(max(-before, 0), extent - max(-after, 0))
        for extent, (before, after) in zip(x.shape[lead:], geometry.pads, strict=False)
    ]
    return x[(slice(None),) * lead + tuple(parts)]


def _padded(x: Array, geometry: Geometry, value: Any) -> Array:
    """``x[n, *spatial, c]`` with ``value`` around it."""
    pads = [(0, 0, 0), *((b, a, 0) for b, a in geometry.pads), (0, 0, 0)]
    return lax.pad(x, jnp.asarray(value, x.dtype), pads)


def _strided(x: Array, geometry: Geometry, tap: Sequence[int]) -> Array:
    """What the padded ``x[n, *spatial, c]`` holds at one tap of every window."""
    unpadded = geometry._replace(pads=((0, 0),) * len(geometry.kernel))
    extents = unpadded.extents(x.shape[1:-1])
    return x[(slice(None), *unpadded.reach(tap, extents))]
