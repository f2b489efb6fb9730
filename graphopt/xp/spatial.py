"""Windows that slide over the trailing axes: convolution and pooling.

``x`` is ``[batch, channels, *spatial]``. ``kernel``, ``strides`` and ``dilations`` have
one number a spatial axis (None for all ones), ``pads`` one pair ``(before, after)``;
negative pads crop.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from ..errors import TypeMismatch
from .foundation import Array, DTypeLike, ints
from .reductions import lowest
from .shaping import Shaping

Pads = Sequence[tuple[int, int]]


class Geometry(NamedTuple):
    """How windows lie over the spatial axes; one entry an axis everywhere."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilations: tuple[int, ...]

    @staticmethod
    def of(kernel: Any, strides: Any, pads: Pads | None, dilations: Any) -> Geometry:
        """With defaults filled in. Raises TypeMismatch where the lengths differ."""
        kernel = ints(kernel)
        ones = (1,) * len(kernel)
        pairs = ((0, 0),) * len(kernel) if pads is None else tuple(map(ints, pads))
        made = Geometry(
            kernel,
            ones if strides is None else ints(strides),
            pairs,  # type: ignore[arg-type]
            ones if dilations is None else ints(dilations),
        )
        if len({len(entry) for entry in made}) != 1:
            raise TypeMismatch(f"windows of different ranks: {made}")
        return made

    @property
    def spans(self) -> tuple[int, ...]:
        """How far a window reaches along each axis."""
        return tuple(
            d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True)
        )

    def extents(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """How many windows fit along each axis. Raises TypeMismatch if none does."""
        return _extents(self, tuple(spatial))

    def within(self, spatial: Sequence[int]) -> Geometry:
        """The same windows without outer elements that are padding in all of them.

        A window may be far larger than what it lies over, as the last ones of ONNX's
        ceil mode are.
        """
        kernel, pads = list(self.kernel), list(self.pads)
        for i, (extent, count) in enumerate(
            zip(spatial, self.extents(spatial), strict=True)
        ):
            if not isinstance(extent, int):
                continue  # a symbol of JAX
            (before, after), step = self.pads[i], self.dilations[i]
            reach = before - self.strides[i] * (count - 1)
            first = max(0, -(-reach // step))
            last = min(kernel[i] - 1, (extent - 1 + before) // step)
            if first <= last:
                cut = (kernel[i] - 1 - last) * step
                pads[i] = (before - first * step, after - cut)
                kernel[i] = last - first + 1
        return self._replace(kernel=tuple(kernel), pads=tuple(pads))

    def taps(self) -> Iterator[tuple[int, ...]]:
        """The elements of a window, row-major."""
        return product(*map(range, self.kernel))

    def reach(self, tap: Sequence[int], extents: Sequence[int]) -> tuple[slice, ...]:
        """What the padded spatial axes hold at one tap of every window."""
        return tuple(
            slice(t * d, t * d + s * (n - 1) + 1 if n else t * d, s)
            for t, d, s, n in zip(
                tap, self.dilations, self.strides, extents, strict=True
            )
        )


@lru_cache(4096)
def _extents(geometry: Geometry, spatial: tuple[int, ...]) -> tuple[int, ...]:
    result = tuple(
        (extent + before + after - span) // stride + 1
        for extent, (before, after), span, stride in zip(
            spatial, geometry.pads, geometry.spans, geometry.strides, strict=True
        )
    )
    if any(isinstance(extent, int) and extent < 0 for extent in result):
        raise TypeMismatch(f"windows that reach {geometry.spans} over {spatial}")
    return result


class Spatial(Shaping):
    """`convolve`, `convolve_transpose`, `pool`, `windows`."""

    def windows(
        self, x: Array, kernel: Any, strides: Any = None, dilations: Any = None
    ) -> Array:
        """All windows over the trailing axes: ``[..., *positions, *kernel]``, unpadded.

        On the host a view, not to be written to.
        """
        return self.slide(x, Geometry.of(kernel, strides, None, dilations))

    @abstractmethod
    def slide(self, x: Array, geometry: Geometry) -> Array:
        """`windows` of a known geometry."""

    def convolve(
        self,
        x: Array,
        w: Array,
        strides: Any = None,
        pads: Pads | None = None,
        dilations: Any = None,
        groups: int = 1,
        *,
        accumulate: DTypeLike | None = None,
    ) -> Array:
        """Cross-correlation: ``w`` is ``[out, in / groups, *kernel]``, as ONNX's Conv.

        ``accumulate`` is the type of sums and result, as for `matmul`.
        """
        geometry = Geometry.of(w.shape[2:], strides, pads, dilations)
        if x.ndim != w.ndim or x.shape[1] != w.shape[1] * groups or w.shape[0] % groups:
            raise TypeMismatch(f"a kernel {w.shape} in {groups} groups over {x.shape}")
        geometry.extents(x.shape[2:])
        if accumulate is None:
            return self.each(lambda x, w: self.correlate(x, w, geometry, groups), x, w)
        to = self.dtype(accumulate)
        return self.correlate(
            self.convert(x, to), self.convert(w, to), geometry, groups
        )

    @abstractmethod
    def correlate(self, x: Array, w: Array, geometry: Geometry, groups: int) -> Array:
        """`convolve` of two arrays of one type that is not narrow."""

    def convolve_transpose(
        self,
        x: Array,
        w: Array,
        strides: Any = None,
        pads: Pads | None = None,
        dilations: Any = None,
        groups: int = 1,
        *,
        accumulate: DTypeLike | None = None,
    ) -> Array:
        """The transpose of `convolve`: ``w`` is ``[in, out / groups, *kernel]``.

        Extents are ``stride * (n - 1) + span - before - after``: ONNX's output padding
        is subtracted from the pad after.
        """
        geometry = Geometry.of(w.shape[2:], strides, pads, dilations)
        if x.ndim != w.ndim or x.shape[1] != w.shape[0] or x.shape[1] % groups:
            raise TypeMismatch(f"a kernel {w.shape} in {groups} groups over {x.shape}")
        if accumulate is None:
            return self.each(lambda x, w: self.spread(x, w, geometry, groups), x, w)
        to = self.dtype(accumulate)
        return self.spread(self.convert(x, to), self.convert(w, to), geometry, groups)

    @abstractmethod
    def spread(self, x: Array, w: Array, geometry: Geometry, groups: int) -> Array:
        """`convolve_transpose` of two arrays of one type that is not narrow."""

    def pool(
        self,
        x: Array,
        kernel: Any,
        strides: Any = None,
        pads: Pads | None = None,
        dilations: Any = None,
        kind: str = "max",
    ) -> Array:
        """The largest element, or the sum (``kind="sum"``), of every window.

        Padding counts as the lowest value, or as zero.
        """
        geometry = Geometry.of(kernel, strides, pads, dilations)
        geometry = geometry.within(x.shape[x.ndim - len(geometry.kernel) :])
        if kind not in ("max", "sum"):
            raise TypeMismatch(f"pooling by {kind!r}: it is 'max' or 'sum'")
        return self.each(lambda v: self.pool_windows(v, geometry, kind), x)

    @abstractmethod
    def pool_windows(self, x: Array, geometry: Geometry, kind: str) -> Array:
        """`pool` of a type that is not narrow."""

    def pool_indices(
        self,
        x: Array,
        kernel: Any,
        strides: Any = None,
        pads: Pads | None = None,
        dilations: Any = None,
    ) -> tuple[Array, Array]:
        """`pool` by maximum, and where each one is: row-major over the spatial axes.

        The first of equals is taken; int64 positions do not count padding.
        """
        geometry = Geometry.of(kernel, strides, pads, dilations)
        rank = len(geometry.kernel)
        spatial = x.shape[x.ndim - rank :]
        geometry = geometry.within(spatial)
        extents = geometry.extents(spatial)
        positions = np.arange(int(np.prod(spatial))).reshape(spatial)
        around = self._around(positions, geometry, -1)
        lib, chosen = self.lib, None

        def largest(x: Array) -> Array:
            nonlocal chosen
            low = self.asarray(lowest(x.dtype), x.dtype)
            padded = self._around(x, geometry, low)
            best = lib.full((*x.shape[: x.ndim - rank], *extents), low)
            chosen = lib.full(best.shape, -1, dtype=np.int64)
            for tap in geometry.taps():
                reach = geometry.reach(tap, extents)
                value, at = padded[(..., *reach)], around[reach]
                # A NaN wins, and stays.
                wins = ((chosen < 0) | ~(value <= best)) & (best == best) & (at >= 0)
                best = lib.where(wins, value, best)
                chosen = lib.where(wins, at, chosen)
            return best

        values = self.each(largest, x)
        return values, self.asarray(chosen)

    def _around(self, x: Array, geometry: Geometry, value: Any) -> Array:
        rank = x.ndim - len(geometry.kernel)
        return self.pad(x, [(0, 0)] * rank + list(geometry.pads), "constant", value)
