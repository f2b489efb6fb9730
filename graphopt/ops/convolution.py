"""Convolutions: sums of products over windows and channels.

Operands are ``[batch, channels, *spatial]``; channels come in groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import dims
from ..dims import Dim
from ..index import Compound, Map, Maps, Term, axis, build
from ..ir import Value
from ..types import TensorType, Type
from .activation import Sigmoid
from .bodies import vector
from .elementwise import Add, Mul
from .padding import Pad
from .registry import op
from .reshaping import Reshape
from .segments import NO_END, Concat, Slice
from .steering import agreed, shape_of
from .structured import Array, Composite, Structured
from .windows import Windows, windows_over, windows_spread

if TYPE_CHECKING:
    from ..xp import Namespace


class Windowed(Structured):
    """A sum of products over windows and channels, with the kernels as an operand."""

    flops = 2.0
    kernels = 1
    """Which operand holds them."""

    def windows(self, spatial: Sequence[Dim], kernel: Sequence[Dim]) -> Windows:
        """How the windows lie. Raises ValueError."""
        return windows_over(self, spatial, kernel)

    def known_windows(self) -> Windows | None:
        """How the windows lie as far as is known; None without a rank."""
        x, w = shape_of(self), shape_of(self, self.kernels)
        if x is None:
            return None
        kernel = (None,) * (len(x) - 2) if w is None else w[2:]
        if self.kernel_shape is not None and None in kernel:
            kernel = self.kernel_shape
        return self.windows(x[2:], kernel)

    def grouped(self, name: str) -> Term:
        """A dim of channels, the group first."""
        return axis(name) if self.group == 1 else Compound(("g", name))

    def correlated(self, windows: Windows) -> tuple[Map, Map, Map]:
        """The maps of operand, kernels and result of a correlation."""
        outer, spatial = self.grouped("k"), (shape_of(self) or ())[2:]
        reached = windows.reached(windows.extents, spatial)
        return (
            (axis("n"), self.grouped("c"), *reached),
            (outer, axis("c"), *windows.taps),
            (axis("n"), outer, *windows.places),
        )

    def extents(self) -> Mapping[str, Dim]:
        windows = self.known_windows()
        assert windows is not None
        return windows.tap_extents | windows.place_extents | self.groups()

    def groups(self) -> dict[str, Dim]:
        """The extent of the axis of groups, where there is one."""
        return {} if self.group == 1 else {"g": self.group}

    def correlate(self, xp: Namespace, x: Array, w: Array) -> Array:
        """The correlation of arrays of one type."""
        windows = self.windows(x.shape[2:], w.shape[2:])
        return xp.convolve(
            x, w, windows.strides, windows.pads, windows.dilations, self.group
        )


def per_channel(xp: Namespace, x: Array, rank: int) -> Array:
    """A vector or a scalar, to broadcast over ``[batch, channels, *spatial]``."""
    return x if x.ndim == 0 else xp.reshape(x, (-1, *[1] * (rank - 2)))


class Biased(Windowed, Composite):
    """A convolution with an optional vector added to the channels of its result."""

    def infer(self) -> Sequence[Type]:
        return Structured.infer(self)

    def body(self) -> Value | None:
        bias, rank = self.operand(2), self.rank
        if bias is None or rank is None:
            return None
        spread = Reshape(bias, vector(1, -1, *[1] * (rank - 2)))
        return Add(self.with_operands(self.operands[:2]), spread)

    def biased_maps(self, x: Map, w: Map, y: Map) -> Maps:
        """The maps of a convolution, with those of its bias."""
        if self.operand(2) is None:
            return build([x, w], [y], linear=[[0], [1]], cost=self.flops)
        linear = [[0, 2], [1, 2]]
        return build([x, w, (y[1],)], [y], linear=linear, cost=self.flops)

    def compute(self, xp: Namespace, x: Array, w: Array, bias: Array = None) -> Array:
        if bias is None:
            return self.correlate(xp, x, w)

        def affine(x: Array, w: Array, b: Array) -> Array:
            products = self.correlate(xp, x, w)
            return xp.add_into(products, per_channel(xp, b, x.ndim))

        return xp.each(affine, x, w, bias)


@op("Conv")
class Conv(Biased):
    """Correlation of ``x`` with the kernels ``w``, each group by itself."""

    def index_maps(self) -> Maps | None:
        windows = self.known_windows()
        return None if windows is None else self.biased_maps(*self.correlated(windows))


@op("ConvTranspose")
class ConvTranspose(Biased):
    """The transpose of Conv: every element of ``x`` adds its kernel to the result."""

    def windows(self, spatial: Sequence[Dim], kernel: Sequence[Dim]) -> Windows:
        return windows_spread(self, spatial, kernel)

    def index_maps(self) -> Maps | None:
        windows = self.known_windows()
        if windows is None:
            return None
        inner, spatial = self.grouped("c"), (shape_of(self) or ())[2:]
        written = windows.reached(spatial, windows.extents)
        return self.biased_maps(
            (axis("n"), inner, *windows.places),
            (inner, axis("k"), *windows.taps),
            (axis("n"), self.grouped("k"), *written),
        )

    def extents(self) -> Mapping[str, Dim]:
        windows = self.known_windows()
        assert windows is not None
        whole = {f"w{i}": dim for i, dim in enumerate(windows.extents)}
        return windows.tap_extents | whole | self.groups()

    def correlate(self, xp: Namespace, x: Array, w: Array) -> Array:
        windows = self.windows(x.shape[2:], w.shape[2:])
        return xp.convolve_transpose(
            x, w, windows.strides, windows.pads, windows.dilations, self.group
        )


@op("CausalConvWithState")
class CausalConvWithState(Composite):
    """A depthwise convolution of a sequence that looks back only, and its new state.

    The state is the last ``kernel - 1`` steps before ``x``; without one they are zero.
    Source: ONNX operator CausalConvWithState, version 27.
    """

    def body(self) -> tuple[Value, ...] | None:
        x, w, bias, past = (self.operand(i) for i in range(4))
        assert x is not None
        assert w is not None
        return causal_convolution(x, w, bias, past, self.activation)

    def infer(self) -> Sequence[Type]:
        x, kernel = self.operands[0], shape_of(self, 1)
        assert x is not None
        shape, state = x.shape, None
        if shape is not None and len(shape) == 3:
            back = None if kernel is None else dims.sub(kernel[-1], 1)
            past = shape_of(self, 3) or (None,)
            state = (*shape[:2], agreed(past[-1], back))
        return [TensorType(x.dtype, shape), TensorType(x.dtype, state)]

    def default_outs(self) -> int:
        return 2


def causal_convolution(
    x: Value,
    w: Value,
    bias: Value | None,
    past: Value | None,
    activation: str,
    dilation: int = 1,
) -> tuple[Value, Value] | None:
    """What each channel's window sees, itself and before, and the last steps of it all.

    Without a past there are zeros. None where the window or the channels are unknown.
    """
    kernel = w.shape
    if x.shape is None or kernel is None or not isinstance(kernel[2], int):
        return None
    channels = kernel[0] if x.shape[1] is None else x.shape[1]
    if not isinstance(channels, int):
        return None
    back = dilation * (kernel[2] - 1)
    if past is None:
        steps: Value = Pad(x, vector(0, 0, back, 0, 0, 0))
    else:
        steps = Concat(past, x, axis=2)
    spread: dict[str, Any] = {} if dilation == 1 else {"dilations": (dilation,)}
    y: Value = Conv(steps, w, bias, group=channels, **spread)
    if activation in ("silu", "swish"):
        y = Mul(y, Sigmoid(y))
    if back:
        state = Slice(steps, vector(-back), vector(NO_END), vector(2))
    else:
        state = Slice(steps, vector(0), vector(0), vector(2))
    return y, state
