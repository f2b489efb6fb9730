"""Blocks of an image as columns, put back into the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

from ..dims import Dim
from ..index import Compound, Maps, axis, build
from .movement import Movement
from .registry import op
from .steering import concrete, dims_of, shape_of
from .structured import Array
from .windows import Windows, windows_over

if TYPE_CHECKING:
    from ..xp import Namespace


@op("Col2Im")
class Col2Im(Movement):
    """The image whose blocks are the columns; where blocks overlap, their sum.

    ``[batch, channel * block, position]`` to ``[batch, channel, *image]``.
    """

    static = (1, 2)

    def windows(self) -> Windows | None:
        """How blocks lie over the image; None where either is not known."""
        image, block = dims_of(self, 1), dims_of(self, 2)
        if image is None or block is None:
            return None
        return windows_over(self, image, block)

    def index_maps(self) -> Maps | None:
        windows, image = self.windows(), dims_of(self, 1)
        if windows is None or image is None or shape_of(self) is None:
            return None
        taps = [f"r{i}" for i, size in enumerate(windows.kernel) if size != 1]
        places = [f"y{i}" for i in range(len(image))]
        pixels = windows.reached(windows.extents, image)
        columns = (axis("n"), Compound(("c", *taps)), Compound(tuple(places)))
        result = (axis("n"), axis("c"), *pixels)
        return build(
            [columns, None, None], [result], linear=self.linear, cost=self.flops
        )

    def extents(self) -> Mapping[str, Dim]:
        windows = self.windows()
        assert windows is not None
        return windows.tap_extents | windows.place_extents

    def compute(self, xp: Namespace, x: Array, image: Array, block: Array) -> Array:
        extents, kernel = concrete(image), concrete(block)
        assert extents is not None
        assert kernel is not None
        windows = windows_over(self, extents, kernel)
        taps = prod(kernel)
        channels = x.shape[1] // taps
        x = xp.reshape(x, (x.shape[0], -1, *windows.extents))
        # Each place in the block is a channel whose kernel has a one there.
        ones = xp.reshape(xp.eye(taps, dtype=x.dtype), (taps, 1, *kernel))
        kernels = xp.concat([ones] * channels, 0)
        return xp.convolve_transpose(
            x,
            kernels,
            windows.strides,
            self._pads(windows, extents),
            windows.dilations,
            channels,
        )

    def _pads(self, windows: Windows, image: Sequence[int]) -> list[tuple[int, int]]:
        rows = zip(
            image,
            windows.extents,
            windows.strides,
            windows.spans,
            windows.pads,
            strict=True,
        )
        return [
            (before, stride * (count - 1) + span - before - extent)
            for extent, count, stride, span, (before, _) in rows
        ]
