"""Convolution whose taps are displaced by offsets that are data."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from ..index import Maps
from .convolution import Windowed, per_channel
from .registry import op
from .sampling import interpolated, real_type
from .steering import axis_names, cost_among, joined, shape_of
from .structured import Array

if TYPE_CHECKING:
    from ..xp import Namespace


@op("DeformConv")
class DeformConv(Windowed):
    """Conv with an offset for every tap of every window, and a weight (``mask``).

    The channels of an offset group share them. Taps between elements are interpolated,
    and zero outside. Source: J. Dai et al., Deformable convolutional networks, 2017.
    """

    def index_maps(self) -> Maps | None:
        source = shape_of(self)
        if source is None:
            return None
        rank = len(source) - 2
        whole, tap, place = (axis_names(rank, p) for p in ("_w", "_r", "y"))
        inner = "c" if self.offset_group == 1 else "_c"
        outer = "k" if self.group == 1 else "(g k)"
        channels = inner if self.group == 1 else "(g c)"
        if self.group > 1 and self.offset_group > 1:
            channels = "_channels"
        operands = [
            ["n", channels, *whole],
            [outer, inner, *tap],
            ["n", "_offsets", *place],
            [outer],
            ["n", "_weights", *place],
        ]
        factors, added = [0, 1], [3] * (self.operand(3) is not None)
        factors += [4] * (self.operand(4) is not None)
        return self.parse_maps(
            joined(operands[: len(self.operands)], [["n", outer, *place]]),
            linear=tuple((factor, *added) for factor in factors),
            positional=place,
            cost=cost_among(2.0 + 2 ** (rank + 1), source[2:]),
        )

    def compute(
        self,
        xp: Namespace,
        x: Array,
        w: Array,
        offset: Array,
        bias: Array = None,
        mask: Array = None,
    ) -> Array:
        dtype, real = x.dtype, real_type(x)
        x, w, offset = (xp.cast(v, real) for v in (x, w, offset))
        batch, channels, *spatial = x.shape
        kernel, places = w.shape[2:], offset.shape[2:]
        rank, taps = len(spatial), prod(kernel)
        windows = self.windows(spatial, kernel)
        sharing = batch * self.offset_group  # images that have their own offsets
        offset = xp.reshape(offset, (sharing, taps, rank, *places))
        at = []
        for i, steps in enumerate(np.indices(kernel).reshape(rank, taps)):
            first = np.arange(places[i]) * windows.strides[i] - windows.pads[i][0]
            first = first.reshape(-1, *[1] * (rank - 1 - i))
            taps_at = (steps * windows.dilations[i]).reshape(-1, *[1] * rank)
            at.append(offset[:, :, i] + xp.cast(taps_at + first, real))
        images = xp.reshape(x, (sharing, -1, *spatial))
        found = interpolated(xp, images, at, "linear")
        if mask is not None:
            found = found * xp.reshape(xp.cast(mask, real), (sharing, 1, taps, *places))
        columns = channels // self.group * taps
        found = xp.reshape(found, (batch, self.group, columns, -1))
        kernels = xp.reshape(w, (self.group, w.shape[0] // self.group, columns))
        result = xp.reshape(xp.matmul(kernels, found), (batch, w.shape[0], *places))
        if bias is not None:
            result = result + per_channel(xp, xp.cast(bias, real), x.ndim)
        return xp.cast(result, dtype)
