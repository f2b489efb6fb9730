"""What the attentions of ONNX Runtime share: heads, masks, keys of the past."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from ml_dtypes import finfo

from ... import dims
from ...dims import Dim
from ...ir import Value
from ...types import DType
from ..attention import SWAPPED, Attention
from ..bodies import cast, scalar, vector
from ..comparison import (
    And,
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Where,
)
from ..elementwise import Add, Sub
from ..generation import Range, Shape as ShapeOf
from ..movement import Transpose
from ..reduction import ReduceMax
from ..reshaping import Reshape, Squeeze, Unsqueeze
from ..segments import Concat, Slice
from .base import Contrib

FILTER = -10000.0
"""What is added to the scores of masked keys, unless an attribute says otherwise."""


def by_head(x: Value, heads: int) -> Value:
    """[batch, position, head * size] as [batch, head, position, size]."""
    return Transpose(Reshape(x, vector(0, 0, heads, -1)), perm=SWAPPED)


def flat(x: Value) -> Value:
    """[batch, head, position, size] as [batch, position, head * size]."""
    return Reshape(Transpose(x, perm=SWAPPED), vector(0, 0, -1))


def part(x: Value, start: int, end: int, axis: int = -1) -> Value:
    """Positions of an axis."""
    return Slice(x, vector(start), vector(end), vector(axis))


def length(x: Value, axis: int) -> Value:
    """The extent of an axis, as a scalar."""
    return Squeeze(ShapeOf(x, start=axis, end=axis + 1), vector(0))


def positions(count: Value) -> Value:
    """0, 1, ... below a scalar."""
    return Range(scalar(0, DType.I64), count, scalar(1, DType.I64))


class Masked(Contrib):
    """An attention whose masks are numbers: those that are not above 0 hide keys."""

    __slots__ = ()

    defaults: ClassVar[Mapping[str, Any]] = {"unidirectional": 0}
    required = frozenset(("num_heads",))
    others = frozenset(("scale", "mask_filter_value"))

    def attend(
        self,
        q: Value,
        k: Value,
        v: Value,
        *,
        mask: Value | None,
        bias: Value | None,
        past: tuple[Value | None, Value | None] = (None, None),
    ) -> tuple[Value, ...] | None:
        """The attention of q to keys k, all of them by head.

        Results: what is attended to, keys and values with the past, and the scores.
        None where the form of the mask cannot be told, and for causal attention to more
        or fewer keys than queries, of which the last one sees all, whichever they are.
        As the kernels have it, a query is NaN where -inf is added to all of its scores,
        and where that leaves it later keys only, it sees those.
        """
        if q.rank != 4 or k.rank != 4 or v.rank != 4 or q.dtype is None:
            return None
        total = (
            length(k, 2) if past[0] is None else Add(length(past[0], 2), length(k, 2))
        )
        none, infinite = scalar(0, q.dtype), bias is not None
        masking: Value | None = None
        if mask is not None and not _is_dummy(mask):
            seen = seen_by(mask, q, total)
            if seen is None:
                return None
            hidden = self.attrs.get("mask_filter_value", FILTER)
            assert isinstance(hidden, float)
            infinite |= hidden == -math.inf
            masking = Where(seen, none, scalar(hidden, q.dtype))
        causal = self.attrs.get("unidirectional", 0)
        if causal and past[0] is None and not _as_many(q, k):
            return None
        if causal and infinite:
            lowest = float(finfo(q.dtype.numpy).min)  # type: ignore[no-untyped-call]
            later = scalar(lowest, q.dtype)
            masking = Where(_earlier(q, total), masking or none, later)
            causal = 0
        added = bias or masking
        if bias is not None and masking is not None:
            added = Add(bias, masking)
        y, *others = Attention(
            *(q, k, v, added, *past),
            scale=self.scale or None,
            is_causal=causal,
            qk_matmul_output_mode=2,
            outs=4,
        ).results
        if added is not None and infinite:  # ONNX has zeros where all is hidden
            hides = Equal(ReduceMax(added, vector(-1)), scalar(-math.inf, q.dtype))
            y = Where(hides, scalar(math.nan, q.dtype), y)
        return (y, *others)


def _as_many(q: Value, k: Value) -> bool:
    """True where there are as many queries as keys."""
    assert q.shape is not None
    assert k.shape is not None
    return dims.equal(q.shape[2], k.shape[2])


def _earlier(q: Value, total: Value) -> Value:
    """Where keys are not later than queries, the last of which is the last key."""
    first = Sub(total, length(q, 2))
    row = Unsqueeze(Add(first, positions(length(q, 2))), vector(1))
    return LessOrEqual(positions(total), row)


def _is_dummy(mask: Value) -> bool:
    """True for a mask of one column: of a single key the weight is 1 anyway."""
    return mask.shape is not None and len(mask.shape) == 2 and mask.shape[1] == 1


def seen_by(mask: Value, q: Value, total: Value) -> Value | None:
    """Where queries attend to keys, to broadcast to the scores.

    A mask is of one number for each key, for each query and key, or for all pairs of
    ``[batch, 1, longest, longest]``; or it is the end, and then the start, of the keys
    of each instance. None where it cannot be told which.
    """
    zero = scalar(0, DType.I32)
    if mask.rank == 1:
        return _between(mask, q, total)
    if mask.rank == 2:
        return Greater(Unsqueeze(mask, vector(1, 2)), zero)
    if mask.rank == 3:
        return Greater(Unsqueeze(mask, vector(1)), zero)
    if mask.rank == 4:
        end = Unsqueeze(total, vector(0))
        rows = Slice(mask, Sub(end, ShapeOf(q, start=2, end=3)), end, vector(2))
        return Greater(Slice(rows, vector(0), end, vector(3)), zero)
    return None


def _between(mask: Value, q: Value, total: Value) -> Value | None:
    """Keys before the ends, and from the starts on if these are given too."""
    assert mask.shape is not None
    if q.shape is None:
        return None
    count, batch = mask.shape[0], q.shape[0]
    column = positions(total)
    if dims.equal(count, batch):
        return Less(column, _rows(mask))
    size = ShapeOf(q, start=0, end=1)
    seen = Less(column, _rows(Slice(mask, vector(0), size)))
    if dims.equal(count, _times(batch, 3, 2)):  # then where instances begin, packed
        return seen
    if not dims.equal(count, _times(batch, 2)):
        return None
    starts = Slice(mask, size, Add(size, size))
    return And(seen, GreaterOrEqual(column, _rows(starts)))


def _times(dim: Dim, factor: int, more: int = 0) -> Dim:
    return dims.add(dims.mul(dim, factor), more)


def _rows(numbers: Value) -> Value:
    """One number for each instance, to compare with positions of keys."""
    return cast(Unsqueeze(numbers, vector(1, 2, 3)), DType.I64)


def stacked(keys: Value, values: Value) -> Value:
    """Keys and values in one tensor."""
    return Concat(Unsqueeze(keys, vector(0)), Unsqueeze(values, vector(0)), axis=0)


def unstacked(past: Value | None) -> tuple[Value | None, Value | None]:
    """Keys and values of one tensor."""
    if past is None:
        return None, None
    keys, values = (Squeeze(part(past, i, i + 1, 0), vector(0)) for i in (0, 1))
    return keys, values
