"""Pooling: something of all elements in each window over the spatial dims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import dims
from ..dims import Dim, Shape
from ..index import Combiner, Maps, axis, build
from ..ir import Value
from ..types import DType, Type
from .bodies import vector
from .reduction import ReduceL1, ReduceL2, ReduceMax, ReduceMean
from .registry import op
from .steering import axis_names, dims_of, joined, shape_of
from .structured import Array, Composite, Structured
from .windows import Windows, explicit_pads, windows_over

if TYPE_CHECKING:
    from ..xp import Namespace


class Pooling(Structured):
    """A reduction over the windows of ``[batch, channels, *spatial]``."""

    combiner: ClassVar[Combiner | None] = None

    def windows(self, spatial: Sequence[Dim]) -> Windows:
        """How the windows lie. Raises ValueError."""
        return windows_over(self, spatial, self.kernel_shape)

    def known_windows(self) -> Windows | None:
        """How the windows lie as far as is known; None without a rank."""
        source = shape_of(self)
        return None if source is None else self.windows(source[2:])

    def index_maps(self) -> Maps | None:
        source, windows = shape_of(self), self.known_windows()
        if source is None or windows is None:
            return None
        channels = (axis("n"), axis("c"))
        return build(
            [(*channels, *windows.reached(windows.extents, source[2:]))],
            [(*channels, *windows.places)] * self.outs,
            combiner=self.combiner,
            linear=self.linear,
            cost=self.flops,
        )

    def extents(self) -> Mapping[str, Dim]:
        windows = self.windows((shape_of(self) or ())[2:])
        return windows.tap_extents | windows.place_extents

    def pooled(self, xp: Namespace, x: Array, kind: str) -> Array:
        """The sum or the maximum of each window."""
        spatial = x.shape[2:]
        windows = self.windows(spatial)
        return xp.pool(
            x,
            windows.kernel,
            windows.strides,
            windows.covering(spatial),
            windows.dilations,
            kind,
        )


@op("MaxPool")
class MaxPool(Pooling):
    """The largest element of each window; then where it is in the operand.

    Positions count the elements of all dims in row-major order, or, with
    ``storage_order`` 1, those of the spatial dims in column-major order.
    """

    combiner = Combiner.MAX

    def index_maps(self) -> Maps | None:
        maps = super().index_maps()
        if maps is None or self.outs == 1:
            return maps
        # Positions are of the operand as a whole.
        return build(
            maps.operands,
            maps.results,
            combiner=None,
            positional=maps.axes,
            cost=self.flops,
        )

    def compute(self, xp: Namespace, x: Array) -> Array | tuple[Array, Array]:
        if self.outs == 1:
            return self.pooled(xp, x, "max")
        batch, channels, *spatial = x.shape
        windows = self.windows(spatial)
        values, at = xp.pool_indices(
            x,
            windows.kernel,
            windows.strides,
            windows.covering(spatial),
            windows.dilations,
        )
        if self.storage_order:
            places = np.arange(np.prod(spatial, dtype=np.int64))
            columns = places.reshape(spatial[::-1]).transpose().ravel()
            at = xp.take(xp.asarray(columns), at, 0)
        planes = np.arange(batch * channels).reshape(
            batch, channels, *[1] * len(spatial)
        )
        return values, at + planes * int(np.prod(spatial))


@op("AveragePool")
class AveragePool(Pooling):
    """The mean of each window; its padding counts only with ``count_include_pad``."""

    linear = ((0,),)

    def compute(self, xp: Namespace, x: Array) -> Array:
        counts = self._counts(xp, x.shape[2:])
        return xp.each(
            lambda x: xp.divide(
                self.pooled(xp, x, "sum"), xp.asarray(counts, dtype=x.dtype)
            ),
            x,
        )

    def _counts(self, xp: Namespace, spatial: Sequence[int]) -> Array:
        """How many elements each window has."""
        windows = self.windows(spatial)
        counts = xp.ones((), DType.I64)
        for i, extent in enumerate(spatial):
            start, end = windows.pads[i]
            before, after = (start, end) if self.count_include_pad else (0, 0)
            first = xp.arange(0, windows.extents[i], 1, DType.I64) * windows.strides[i]
            taps = np.arange(self.kernel_shape[i]) * windows.dilations[i]
            at = first[:, None] - start + taps
            inside = (at >= -before) & (at < extent + after)
            counts = counts[..., None] * inside.sum(axis=1)
        return counts


@op("LpPool")
class LpPool(Pooling):
    """The p-norm of each window."""

    flops = 2.0

    def compute(self, xp: Namespace, x: Array) -> Array:
        def norm(x: Array) -> Array:
            total = self.pooled(xp, xp.power(xp.abs(x), self.p), "sum")
            return xp.flat_at_zero(lambda v: xp.power(v, 1 / self.p), total)

        return xp.each(norm, x)


class GlobalPooling(Structured, Composite):
    """A reduction over all spatial dims, which become 1."""

    combiner: ClassVar[Combiner | None] = None

    def infer(self) -> Sequence[Type]:
        return Structured.infer(self)

    def index_maps(self) -> Maps | None:
        source = shape_of(self)
        if source is None:
            return None
        names = axis_names(len(source))
        return self.parse_maps(joined([names], [names[:2] + ["1"] * (len(source) - 2)]))

    def spatial_axes(self) -> Value | None:
        """The axes that are reduced, as an operand."""
        return None if self.rank is None else vector(*range(2, self.rank))


@op("GlobalAveragePool")
class GlobalAveragePool(GlobalPooling):
    """The mean of each channel."""

    linear = ((0,),)

    def body(self) -> Value | None:
        axes = self.spatial_axes()
        return None if axes is None else ReduceMean(self.operands[0], axes)

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.mean(x, range(2, x.ndim), keepdims=True)


@op("GlobalMaxPool")
class GlobalMaxPool(GlobalPooling):
    """The largest element of each channel."""

    combiner = Combiner.MAX

    def body(self) -> Value | None:
        axes = self.spatial_axes()
        return None if axes is None else ReduceMax(self.operands[0], axes)

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.max(x, range(2, x.ndim), keepdims=True)


@op("GlobalLpPool")
class GlobalLpPool(GlobalPooling):
    """The p-norm of each channel."""

    flops = 2.0

    def body(self) -> Value | None:
        axes = self.spatial_axes()
        norm = {1: ReduceL1, 2: ReduceL2}.get(self.p)
        return None if axes is None or norm is None else norm(self.operands[0], axes)

    def compute(self, xp: Namespace, x: Array) -> Array:
        def norm(x: Array) -> Array:
            total = xp.sum(xp.power(xp.abs(x), self.p), range(2, x.ndim), keepdims=True)
            return xp.flat_at_zero(lambda v: xp.power(v, 1 / self.p), total)

        return xp.each(norm, x)


@op("MaxUnpool")
class MaxUnpool(Structured):
    """Elements put back where MaxPool found them, among zeros.

    Positions are those in the operand that the windows cover; ``output_shape`` puts
    more zeros after it.
    """

    static = (2,)
    linear = ((0,),)

    def covered(self, source: Shape) -> tuple[Any, ...]:
        """The dims that the windows cover."""
        rank = len(source) - 2
        strides = self.strides or (1,) * rank
        rows = zip(
            source[2:],
            self.kernel_shape,
            strides,
            explicit_pads(self, rank),
            strict=True,
        )
        return (
            *source[:2],
            *[
                dims.sub(
                    dims.add(dims.mul(dims.sub(extent, 1), stride), size),
                    before + after,
                )
                for extent, size, stride, (before, after) in rows
            ],
        )

    def compute(
        self, xp: Namespace, x: Array, indices: Array, wanted: Array = None
    ) -> Array:
        covered = self.covered(x.shape)
        flat = xp.zeros((int(np.prod(covered)),), x.dtype)
        flat = xp.scatter_elements(
            flat, xp.reshape(indices, (-1,)), xp.reshape(x, (-1,))
        )
        result = xp.reshape(flat, covered)
        if wanted is None:
            return result
        pairs = zip(wanted.tolist(), covered, strict=True)
        return xp.pad(result, [(0, size - extent) for size, extent in pairs])

    def index_maps(self) -> Maps | None:
        source = shape_of(self)
        if source is None:
            return None
        names = ["_n", "_c", *axis_names(len(source) - 2, "_i")]
        result = ["_n", "_c", *axis_names(len(source) - 2, "_o")]
        return self.parse_maps(
            joined([names, names, "-"][: len(self.operands)], [result])
        )

    def extents(self) -> Mapping[str, Dim]:
        source = shape_of(self) or ()
        wanted = dims_of(self, 2) if self.operand(2) else self.covered(source)
        rank = len(source) - 2
        found = (None,) * rank if wanted is None else wanted[2:]
        return dict(zip(axis_names(rank, "o"), found, strict=True))
