"""What an op does along one axis: ``y = scale * x + shift``.

Numbers are float64 while they are folded. A weight may also be a ConstantOfShape: it is
read as what it is filled with, and stays one, so that no file grows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from graphopt.ir import Op, Value
from graphopt.ops import (
    Add,
    BatchNormalization,
    Constant,
    ConstantOfShape,
    Div,
    Mul,
)
from graphopt.types import DType
from graphopt.weights import Tensor

from .match import axis_of, static_shape

Numbers: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"

GROWTH = 1 << 12
"""Bytes of a weight that may be spelled out where it was a ConstantOfShape."""

READ_LIMIT = 1 << 30
"""Bytes in float64 of the largest ConstantOfShape that is scaled."""


@dataclass(frozen=True)
class ScaleShift:
    """``scale * x + shift`` along ``axis`` of ``x``; both have its extent, or 1."""

    x: Value
    axis: int
    scale: Numbers
    shift: Numbers

    @property
    def scales(self) -> bool:
        return bool(np.any(self.scale != 1))

    @property
    def shifts(self) -> bool:
        return bool(np.any(self.shift != 0))


def known_shape(value: Value | None) -> tuple[int, ...] | None:
    """The shape of a weight whose numbers are known floats; None for other values."""
    if value is None or value.dtype is None or not value.dtype.is_float:
        return None
    if value.constant is not None:
        return value.constant.shape
    return static_shape(value) if isinstance(value, ConstantOfShape) else None


def numbers(value: Value | None) -> Numbers | None:
    """A weight in float64; what a ConstantOfShape is filled with takes no memory."""
    shape = known_shape(value)
    if value is None or shape is None:
        return None
    if isinstance(value, ConstantOfShape):
        if 8 * math.prod(shape) > READ_LIMIT:
            return None
        filling = value.filling().array().astype(np.float64)
        return np.broadcast_to(filling.reshape(()), shape)
    assert value.constant is not None
    return value.constant.array().astype(np.float64)


def scale_shift(op: Op, axis: int) -> ScaleShift | None:
    """What ``op`` does along ``axis`` of its operand, None where that is not all.

    Only finite numbers count: ``0 * inf`` would come where there was a zero before.
    """
    found = _scale_shift(op, axis)
    if found is None:
        return None
    finite = np.isfinite(found.scale).all() and np.isfinite(found.shift).all()
    return found if finite else None


def _scale_shift(op: Op, axis: int) -> ScaleShift | None:
    if isinstance(op, BatchNormalization):
        return _batch_norm(op) if axis == 1 else None
    x, y = op.operands
    if x is None or y is None:
        return None
    if isinstance(op, Add | Mul) and x.constant is not None:
        x, y = y, x
    number = _along(y, axis, x.rank)
    if number is None or op.rank != x.rank:
        return None
    one, zero = np.ones(1), np.zeros(1)
    if isinstance(op, Mul):
        return ScaleShift(x, axis, number, zero)
    if isinstance(op, Div):
        return ScaleShift(x, axis, 1 / number, zero) if np.all(number) else None
    if isinstance(op, Add):
        return ScaleShift(x, axis, one, number)
    return ScaleShift(x, axis, one, -number)


def _batch_norm(op: BatchNormalization) -> ScaleShift | None:
    x, *rest = op.operands
    parts = [numbers(v) for v in rest]
    if x is None or op.training_mode or op.outs != 1:
        return None
    scale, shift, mean, variance = parts
    if scale is None or shift is None or mean is None or variance is None:
        return None
    factor = scale / np.sqrt(variance + op.epsilon)
    return ScaleShift(x, 1, factor, shift - mean * factor)


def _along(value: Value, axis: int, rank: int | None) -> Numbers | None:
    """A constant that varies along one axis only, as a vector."""
    shape = known_shape(value)
    if shape is None or rank is None or len(shape) > rank or 0 in shape:
        return None
    aligned = (1,) * (rank - len(shape)) + shape
    if any(d != 1 for i, d in enumerate(aligned) if i != axis_of(axis, rank)):
        return None
    wide = numbers(value)
    return None if wide is None else wide.reshape(-1)


def narrowed(
    array: Numbers, dtype: DType, source: Value | None = None
) -> Constant | ConstantOfShape | None:
    """Numbers as a constant; None where that type has no room for them.

    They overflow, or all of them are too small for its normal numbers. Made of a
    ``source`` that is a ConstantOfShape they are one too, and None where they cannot.
    """
    array = np.asarray(array)
    narrow = array.astype(dtype.numpy)
    if not np.all(np.isfinite(narrow.astype(np.float64))):
        return None
    largest = np.max(np.abs(array), initial=0.0)
    info: Any = ml_dtypes.finfo
    if 0 < largest < float(info(dtype.numpy).tiny):
        return None
    if isinstance(source, ConstantOfShape) and narrow.nbytes > GROWTH:
        first = narrow.flat[:1]
        if np.any(narrow != first):
            return None
        shape = Constant(np.array(narrow.shape, np.int64))
        return ConstantOfShape(shape, value=Tensor.of(first, dtype))
    return Constant(Tensor.of(narrow, dtype))
