"""Signals: windows, Fourier transforms, mel filters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .. import dims
from ..dims import Dim, Shape
from ..index import Maps
from ..types import DType
from .registry import op
from .steering import (
    axis_names,
    dims_of,
    ints_of,
    joined,
    normal_axis,
    present,
    shape_of,
)
from .structured import Array, Structured

if TYPE_CHECKING:
    from ..xp import Namespace


# --- windows ------------------------------------------------------------------------


class Window(Structured):
    """a - b cos(t) + c cos(2 t), as t goes round once over ``size`` elements.

    A ``periodic`` window leaves out the last one, where t is back where it began.
    """

    static = (0,)
    weights: ClassVar[tuple[float, float, float]]

    def result_dtypes(self) -> Sequence[DType | None]:
        return [DType(self.output_datatype)]

    def index_maps(self) -> Maps | None:
        return self.parse_maps("- -> i", positional=["i"])

    def extents(self) -> Mapping[str, Dim]:
        size = dims_of(self, 0)
        return {"i": size[0] if size else None}

    def result_shapes(self) -> Sequence[Shape | None]:
        return [(self.extents()["i"],)]

    def compute(self, xp: Namespace, size: Array) -> Array:
        count = int(size.item())
        turns = np.arange(count) / max(count - (0 if self.periodic else 1), 1)
        a, b, c = self.weights
        angle = 2 * math.pi * turns
        window = a - b * np.cos(angle) + c * np.cos(2 * angle)
        return xp.cast(xp.asarray(window), DType(self.output_datatype))


@op("HannWindow")
class HannWindow(Window):
    """1/2 - 1/2 cos(t)."""

    weights = (0.5, 0.5, 0.0)


@op("HammingWindow")
class HammingWindow(Window):
    """25/46 - 21/46 cos(t)."""

    weights = (25 / 46, 21 / 46, 0.0)


@op("BlackmanWindow")
class BlackmanWindow(Window):
    """0.42 - 0.5 cos(t) + 0.08 cos(2 t)."""

    weights = (0.42, 0.5, 0.08)


# --- Fourier transforms -------------------------------------------------------------


def as_complex(xp: Namespace, x: Array) -> Array:
    """Numbers whose real and imaginary parts are the last axis (of extent 1: real)."""
    real = x[..., 0]
    return xp.complex(
        real, x[..., 1] if x.shape[-1] == 2 else xp.zeros(real.shape, real.dtype)
    )


def as_parts(xp: Namespace, x: Array) -> Array:
    """Complex numbers as real and imaginary parts along a new last axis."""
    return xp.stack([xp.real(x), xp.imag(x)], -1)


@op("DFT")
class DFT(Structured):
    """The discrete Fourier transform along one axis; the last axis holds both parts.

    ``dft_length`` crops the signal or pads it with zeros. A real signal has a
    ``onesided`` spectrum of n // 2 + 1 numbers, from which ``inverse`` makes it again.
    """

    static = (1, 2)

    def signal_axis(self, rank: int) -> int | None:
        """The axis counted from the front; None where it is not known."""
        if not present(self, 2):
            return rank - 2
        known = ints_of(self, 2)
        if known is None:
            return None
        try:
            return normal_axis(known[0], rank)
        except ValueError as error:
            raise self.error(str(error)) from None

    def result_shapes(self) -> Sequence[Shape | None]:
        shape = shape_of(self)
        if shape is None:
            return [None]
        axis = self.signal_axis(len(shape))
        if axis is None:
            return [(None,) * len(shape)]
        length: Dim
        if present(self, 1):
            wanted = dims_of(self, 1)
            length = None if wanted is None else wanted[0]
        elif self.inverse and self.onesided:
            length = dims.mul(2, dims.sub(shape[axis], 1))
        else:
            length = shape[axis]
        if self.onesided and not self.inverse:
            length = dims.add(dims.floordiv(length, 2), 1)
        parts = 1 if self.onesided and self.inverse else 2
        return [(*shape[:axis], length, *shape[axis + 1 : -1], parts)]

    def index_maps(self) -> Maps | None:
        shape = shape_of(self)
        axis = None if shape is None else self.signal_axis(len(shape))
        if shape is None or axis is None:
            return None
        names = axis_names(len(shape) - 1)
        steering = ["-"] * (len(self.operands) - 1)
        operand, result = list(names), list(names)
        operand[axis], result[axis] = "_n", "_f"
        count = shape[axis]
        return self.parse_maps(
            joined([[*operand, "_p"], *steering], [[*result, "_c"]]),
            linear=((0,),),
            # The domain has both the signal's axis and the spectrum's.
            cost=5 * math.log2(count) / count
            if isinstance(count, int) and count
            else 1,
        )

    def extents(self) -> Mapping[str, Dim]:
        result = self.result_shapes()[0] or (None,)
        axis = self.signal_axis(len(result)) or 0
        return {"f": result[axis], "c": result[-1]}

    def compute(
        self,
        xp: Namespace,
        x: Array,
        length: Array | None = None,
        axis: Array | None = None,
    ) -> Array:
        at = normal_axis(-2 if axis is None else int(axis.item()), x.ndim)
        count = None if length is None else int(length.item())

        def transformed(x: Array) -> Array:
            if self.onesided and not self.inverse:
                return as_parts(xp, xp.rfft(x[..., 0], count, at))
            numbers = as_complex(xp, x)
            if self.onesided:
                return xp.unsqueeze(xp.irfft(numbers, count, at), (-1,))
            transform = xp.ifft if self.inverse else xp.fft
            return as_parts(xp, transform(numbers, count, at))

        return xp.each(lambda v: xp.cast(transformed(v), DType.of(v.dtype)), x)


@op("STFT")
class STFT(Structured):
    """Fourier transforms of windows of a signal that lie ``frame_step`` apart.

    The signal is ``[batch, n]`` or with both parts in a last axis.
    """

    static = (1, 3)

    def frame_length(self) -> Dim:
        """Elements of a frame: stated, or those of the window."""
        if present(self, 3):
            stated = dims_of(self, 3)
            return stated[0] if stated else None
        window = shape_of(self, 2)
        return window[0] if window else None

    def result_shapes(self) -> Sequence[Shape | None]:
        shape, step = shape_of(self), dims_of(self, 1)
        if shape is None:
            return [None]
        length = self.frame_length()
        frames: Dim = None
        if step is not None and isinstance(step[0], int):
            spare = dims.sub(shape[1], length)
            frames = dims.add(dims.floordiv(spare, step[0]), 1)
        bins = dims.add(dims.floordiv(length, 2), 1) if self.onesided else length
        return [(shape[0], frames, bins, 2)]

    def index_maps(self) -> Maps | None:
        shape = shape_of(self)
        if shape is None:
            return None
        operands = [["b", "_n", "_p"][: len(shape)], ["-"], ["-"], ["-"]]
        return self.parse_maps(
            joined(operands[: len(self.operands)], [["b", "_t", "_f", "_c"]]),
            linear=((0,),),
        )

    def extents(self) -> Mapping[str, Dim]:
        result = self.result_shapes()[0] or (None,) * 4
        return dict(zip("tfc", result[1:], strict=True))

    def compute(
        self,
        xp: Namespace,
        x: Array,
        step: Array,
        window: Array | None = None,
        length: Array | None = None,
    ) -> Array:
        size = window.shape[0] if window is not None else 0
        size = size if length is None else int(length.item())

        def transformed(x: Array, *window: Array) -> Array:
            if x.ndim == 2:
                x = xp.unsqueeze(x, (2,))
            starts = np.arange(0, x.shape[1] - size + 1, int(step.item()))
            frames = xp.take(x, starts[:, None] + np.arange(size), 1)
            for w in window:
                frames = xp.multiply(frames, xp.reshape(w, (-1, 1)))
            if self.onesided:
                return as_parts(xp, xp.rfft(frames[..., 0], size, 2))
            return as_parts(xp, xp.fft(as_complex(xp, frames), size, 2))

        given = [] if window is None else [window]
        return xp.each(
            lambda v, *w: xp.cast(transformed(v, *w), DType.of(v.dtype)), x, *given
        )


@op("MelWeightMatrix")
class MelWeightMatrix(Structured):
    """Weights ``[frequency, mel bin]`` that map a spectrum onto the mel scale.

    Operands: mel bins, DFT length, sample rate, lowest and highest frequency in hertz.
    """

    static = (0, 1, 2, 3, 4)

    def result_dtypes(self) -> Sequence[DType | None]:
        return [DType(self.output_datatype)]

    def index_maps(self) -> Maps | None:
        return self.parse_maps("-, -, -, -, - -> f m", positional=["f", "m"])

    def extents(self) -> Mapping[str, Dim]:
        bins, length = dims_of(self, 0), dims_of(self, 1)
        half = None if length is None else dims.floordiv(length[0], 2)
        return {"f": dims.add(half, 1), "m": bins[0] if bins else None}

    def result_shapes(self) -> Sequence[Shape | None]:
        return [tuple(self.extents().values())]

    def compute(self, xp: Namespace, *operands: Array) -> Array:
        bins, length, rate, low, high = (x.item() for x in operands)
        spectrum = length // 2 + 1
        lowest, highest = (2595 * math.log10(1 + hertz / 700) for hertz in (low, high))
        mel = lowest + np.arange(bins + 2) * ((highest - lowest) / (bins + 2))
        hertz = 700 * (10 ** (mel / 2595) - 1)
        edges = ((length + 1) * hertz // rate).astype(np.int64)
        weights = np.zeros((spectrum, bins))
        for i, (left, centre, right) in enumerate(zip(edges, edges[1:], edges[2:])):  # noqa: B905
            if left == centre:
                weights[centre, i] = 1
            else:
                rising = np.arange(left, centre + 1)
                weights[rising, i] = (rising - left) / (centre - left)
            if right > centre:
                falling = np.arange(centre, right)
                weights[falling, i] = (right - falling) / (right - centre)
        return xp.cast(xp.asarray(weights), DType(self.output_datatype))
