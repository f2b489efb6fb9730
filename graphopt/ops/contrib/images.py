"""Ops on images whose channels are the last axis, and groups of channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ...ir import Value
from ..activation import Swish
from ..bodies import cast, vector
from ..convolution import Conv
from ..elementwise import Add
from ..normalization import GroupNormalization
from ..pooling import MaxPool
from ..registry import op
from ..reshaping import Unsqueeze
from .activation import activated
from .base import DOMAIN, Contrib, summed
from .products import FusedConv
from .quantized import channels_first, channels_last


@op("NhwcConv", domain=DOMAIN)
class NhwcConv(Contrib):
    """conv(x, w, b); of x and the result, channels are the last axis."""

    __slots__ = ()
    facts = (2, 3, 1)
    defaults = FusedConv.defaults
    others = FusedConv.others - FusedConv.own

    def body(self) -> Value | None:
        x, *others = self.operands
        assert x is not None
        first, plain = channels_first(x), dict[str, Any](self.attrs)
        return None if first is None else channels_last(Conv(first, *others, **plain))


@op("NhwcFusedConv", domain=DOMAIN)
class NhwcFusedConv(FusedConv):
    """activation(conv(x, w, b) + z); channels are the last axis of x, z, the result."""

    __slots__ = ()

    def body(self) -> Value | None:
        x, z = self.operand(0), self.operand(3)
        assert x is not None
        first = channels_first(x)
        if first is None:
            return None
        conv = Conv(first, self.operand(1), self.operand(2), **self.plain())
        made = summed(channels_last(conv), z)
        return activated(made, self.activation, self.activation_params or ())


@op("NhwcMaxPool", domain=DOMAIN)
class NhwcMaxPool(Contrib):
    """The greatest of each window; channels are the last axis."""

    __slots__ = ()
    facts = (1, 1, 1)
    defaults: ClassVar[Mapping[str, Any]] = {"auto_pad": "NOTSET", "ceil_mode": 0}
    required = frozenset(("kernel_shape",))
    others = frozenset(("dilations", "pads", "strides"))

    def body(self) -> Value | None:
        x = self.operands[0]
        assert x is not None
        first, plain = channels_first(x), dict[str, Any](self.attrs)
        return None if first is None else channels_last(MaxPool(first, **plain))


@op("GroupNorm", domain=DOMAIN)
class GroupNorm(Contrib):
    """ONNX's GroupNormalization, and x * sigmoid(x) of it if ``activation`` is 1.

    Channels are the last axis unless ``channels_last`` is 0.
    """

    __slots__ = ()
    facts = (3, 3, 1)
    defaults: ClassVar[Mapping[str, Any]] = {"channels_last": 1, "epsilon": 1e-5}
    required = frozenset(("activation", "groups"))

    def body(self) -> tuple[Value, ...] | None:
        x = self.operands[0]
        assert x is not None
        made = self.normalized(x)
        return None if made is None else (made,)

    def normalized(self, x: Value) -> Value | None:
        """x, normalized and weighed by operands 1 and 2."""
        scale, bias = self.operands[1:3]
        first = channels_first(x) if self.channels_last else x
        if first is None or scale is None or scale.dtype is None or x.dtype is None:
            return None
        y: Value = GroupNormalization(
            *(cast(first, scale.dtype), scale, bias),
            num_groups=self.groups,
            epsilon=self.epsilon,
        )
        if self.activation:
            y = Swish(y, alpha=1.0)
        y = cast(y, x.dtype)
        return channels_last(y) if self.channels_last else y


@op("SkipGroupNorm", domain=DOMAIN)
class SkipGroupNorm(GroupNorm):
    """GroupNorm of x + skip + bias; the second result is the sum."""

    __slots__ = ()
    facts = (4, 5, 2)

    def body(self) -> tuple[Value, ...] | None:
        x, skip, bias = (self.operand(i) for i in (0, 3, 4))
        assert x is not None
        assert skip is not None
        if skip.rank is None:
            return None
        spatial = vector(1, 2) if self.channels_last else vector(2, 3)
        if skip.rank == 2:
            skip = Unsqueeze(skip, spatial)
        total: Value = Add(x, skip)
        if bias is not None:
            by_channel = bias if self.channels_last else Unsqueeze(bias, vector(1, 2))
            total = Add(total, by_channel)
        made = self.normalized(total)
        return None if made is None else (made, total)[: self.outs]
