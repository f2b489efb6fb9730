"""Ops that ONNX has as well, under this name or another, and their like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ...dims import Shape
from ...ir import Value
from ...types import DType
from .. import (
    convolution,
    generation,
    indexing,
    linear_attention,
    padding,
    sampling,
    selection,
)
from ..bodies import cast, scalar, vector
from ..comparison import Equal, Where
from ..elementwise import Mul, Sqrt, Sub
from ..movement import Transpose
from ..reduction import ReduceSum
from ..registry import op
from ..reshaping import Reshape, Squeeze, Unsqueeze
from ..signal import DFT
from ..steering import shape_of
from ..structured import Array, Computed
from .base import DOMAIN, Contrib, Declared

if TYPE_CHECKING:
    from ...xp import Namespace


@op("Trilu", domain=DOMAIN)
class Trilu(Contrib):
    """ONNX's op of this name."""

    __slots__ = ()
    facts = (1, 2, 1)
    defaults: ClassVar[Mapping[str, Any]] = {"upper": 1}

    def body(self) -> Value:
        return generation.Trilu(*self.operands, upper=self.upper)


@op("Pad", domain=DOMAIN)
class Pad(Contrib):
    """ONNX's op of this name, without axes."""

    __slots__ = ()
    facts = (2, 3, 1)
    defaults: ClassVar[Mapping[str, Any]] = {"mode": "constant"}

    def body(self) -> Value:
        x, pads = self.operands[:2]
        pads = Reshape(pads, vector(-1))
        return padding.Pad(x, pads, self.operand(2), mode=self.mode)


@op("GatherND", domain=DOMAIN)
class GatherND(Contrib):
    """ONNX's op of this name, without batches."""

    __slots__ = ()
    facts = (2, 2, 1)

    def body(self) -> Value:
        x, indices = self.operands
        assert indices is not None
        return indexing.GatherND(x, cast(indices, DType.I64))


@op("GridSample", domain=DOMAIN)
class GridSample(Contrib):
    """ONNX's op of this name, whose modes have other names."""

    __slots__ = ()
    facts = (2, 2, 1)
    defaults: ClassVar[Mapping[str, Any]] = {
        "align_corners": 0,
        "mode": "bilinear",
        "padding_mode": "zeros",
    }

    def body(self) -> Value:
        return sampling.GridSample(
            *self.operands,
            align_corners=self.align_corners,
            mode=self.mode.removeprefix("bi"),
            padding_mode=self.padding_mode,
        )


@op("Unique", domain=DOMAIN)
class Unique(Contrib):
    """The distinct elements as they come, which each element is, how often it is."""

    __slots__ = ()
    facts = (1, 1, 3)

    def body(self) -> tuple[Value, ...]:
        found, _, which, counts = selection.Unique(
            self.operands[0], sorted=0, outs=4
        ).results
        return (found, which, counts)[: self.outs]


@op("Range", domain=DOMAIN)
class Range(Contrib):
    """ONNX's op of this name, in steps of 1 unless another is given."""

    __slots__ = ()
    facts = (2, 3, 1)

    def body(self) -> Value | None:
        start, limit, step = (self.operand(i) for i in range(3))
        if start is None or start.dtype is None:
            return None
        step = step or scalar(1, start.dtype)
        return generation.Range(*(Reshape(x, vector()) for x in (start, limit, step)))


@op("ExpandDims", domain=DOMAIN)
class ExpandDims(Contrib):
    """x with an axis more."""

    __slots__ = ()
    facts = (2, 2, 1)

    def body(self) -> Value:
        x, axis = self.operands
        assert axis is not None
        return Unsqueeze(x, Reshape(cast(axis, DType.I64), vector(1)))


@op("LinearAttention", domain=DOMAIN)
class LinearAttention(Contrib):
    """ONNX's op of this name, if the state has no window."""

    __slots__ = ()
    facts = (3, 6, 2)
    defaults: ClassVar[Mapping[str, Any]] = {
        "chunk_size": 64,
        "scale": 0.0,
        "state_window": 0,
        "update_rule": "gated_delta",
    }
    required = frozenset(("kv_num_heads", "q_num_heads"))

    def body(self) -> tuple[Value, ...] | None:
        same: dict[str, Any] = dict(self.attrs)
        if same.pop("state_window"):
            return None
        return linear_attention.LinearAttention(
            *self.operands, outs=self.outs, **same
        ).results


@op("CausalConvWithState", domain=DOMAIN)
class CausalConvWithState(Contrib):
    """ONNX's op of this name; steps may be left out, and channels be last."""

    __slots__ = ()
    facts = (2, 4, 3)
    defaults: ClassVar[Mapping[str, Any]] = {
        "activation": "none",
        "channels_last": 0,
        "dilation": 1,
        "input_channel_offset": 0,
        "input_channels": 0,
        "ndim": 1,
        "state_channels_last": -1,
        "state_length": 0,
        "state_update_capacity": 0,
        "state_window": 0,
    }

    def body(self) -> tuple[Value, ...] | None:
        further = set(self.defaults) - {"activation", "channels_last", "dilation"}
        x, w, bias, past = (self.operand(i) for i in range(4))
        if x is None or w is None or self.outs > 2 or x.rank != 3:
            return None
        if any(self.attrs[name] != self.defaults[name] for name in further):
            return None

        def turned(value: Value) -> Value:
            return Transpose(value, perm=(0, 2, 1)) if self.channels_last else value

        made = convolution.causal_convolution(
            turned(x),
            *(w, bias, None if past is None else turned(past)),
            *(self.activation, self.dilation),
        )
        return made and (turned(made[0]), turned(made[1]))[: self.outs]


@op("Rfft", domain=DOMAIN)
class Rfft(Contrib):
    """The one-sided spectrum along the last axis, its parts in an axis more."""

    __slots__ = ()
    facts = (1, 1, 1)
    defaults: ClassVar[Mapping[str, Any]] = {
        "normalized": 0,
        "onesided": 1,
        "signal_ndim": 1,
    }

    def body(self) -> Value | None:
        if (self.normalized, self.onesided, self.signal_ndim) != (0, 1, 1):
            return None
        signal = Unsqueeze(self.operands[0], vector(-1))
        return DFT(signal, None, scalar(-2, DType.I64), onesided=1)


@op("Irfft", domain=DOMAIN)
class Irfft(Contrib):
    """The real signal of a one-sided spectrum, of an even number of elements."""

    __slots__ = ()
    facts = (1, 1, 1)
    defaults: ClassVar[Mapping[str, Any]] = {"normalized": 0, "onesided": 1}
    required = frozenset(("signal_ndim",))

    def body(self) -> Value | None:
        if (self.normalized, self.onesided, self.signal_ndim) != (0, 1, 1):
            return None
        axis = scalar(-2, DType.I64)
        made = DFT(self.operands[0], None, axis, onesided=1, inverse=1)
        return Squeeze(made, vector(-1))


@op("CDist", domain=DOMAIN)
class CDist(Contrib):
    """The distance of each row of a matrix from each of another."""

    __slots__ = ()
    facts = (2, 2, 1)
    defaults: ClassVar[Mapping[str, Any]] = {"metric": "sqeuclidean"}

    def body(self) -> Value | None:
        if self.metric not in ("sqeuclidean", "euclidean"):
            return None
        a, b = self.operands
        apart = Sub(Unsqueeze(a, vector(1)), Unsqueeze(b, vector(0)))
        square = ReduceSum(Mul(apart, apart), vector(-1), keepdims=0)
        if self.metric == "sqeuclidean":
            return square
        if square.dtype is None:
            return None
        same = Equal(square, scalar(0, square.dtype))
        # A root is upright at zero: there the slope counts as zero.
        return Where(same, square, Sqrt(Where(same, scalar(1, square.dtype), square)))


@op("Inverse", domain=DOMAIN)
class Inverse(Declared, Computed):
    """The inverse of each matrix."""

    __slots__ = ()
    facts = (1, 1, 1)

    def result_shapes(self) -> Sequence[Shape | None]:
        return [shape_of(self)]

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.inverse(x)
