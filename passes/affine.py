"""Scales and shifts folded into the linear op beside them.

Batch normalization at inference, and Mul, Add, Sub, Div by constants (which is how some
exporters spell it), are one thing: ``y = scale * x + shift`` along one axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from graphopt.ir import Op, Value
from graphopt.ops import (
    Add,
    BatchNormalization,
    Constant,
    Conv,
    ConvTranspose,
    Div,
    Gemm,
    MatMul,
    Mul,
    Sub,
)
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule
from graphopt.types import DType
from graphopt.weights import Tensor

from .match import axis_of, stretches_nothing

Numbers: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"
Affine: TypeAlias = BatchNormalization | Mul | Add | Div | Sub
Linear: TypeAlias = Conv | ConvTranspose | Gemm | MatMul

_QUIET = np.errstate(all="ignore")
"""Overflow is looked for in results; it is nothing to warn of."""

SHARED_LIMIT = 1 << 20
"""A weight of more bytes that others read too is not copied to be scaled."""


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


def _wide(value: Value | None) -> Numbers | None:
    """A floating-point constant in float64."""
    tensor = None if value is None else value.constant
    if tensor is None or not tensor.dtype.is_float:
        return None
    return tensor.array().astype(np.float64)


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
    parts = [_wide(v) for v in rest]
    if x is None or op.training_mode or op.outs != 1 or len(parts) != 4:
        return None
    scale, shift, mean, variance = parts
    if scale is None or shift is None or mean is None or variance is None:
        return None
    factor = scale / np.sqrt(variance + op.epsilon)
    return ScaleShift(x, 1, factor, shift - mean * factor)


def _along(value: Value, axis: int, rank: int | None) -> Numbers | None:
    """A constant that varies along one axis only, as a vector."""
    tensor = value.constant
    if tensor is None or rank is None or tensor.rank > rank or not tensor.size:
        return None
    shape = (1,) * (rank - tensor.rank) + tensor.shape
    if any(d != 1 for i, d in enumerate(shape) if i != axis_of(axis, rank)):
        return None
    wide = _wide(value)
    return None if wide is None else wide.reshape(-1)


def _narrow(array: Numbers, dtype: DType) -> Constant | None:
    """Numbers as a constant; None where that type has no room for them.

    They overflow, or all of them are too small for its normal numbers.
    """
    array = np.asarray(array)
    narrow = array.astype(dtype.numpy)
    if not np.all(np.isfinite(narrow.astype(np.float64))):
        return None
    largest = np.max(np.abs(array), initial=0.0)
    info: Any = ml_dtypes.finfo
    if 0 < largest < float(info(dtype.numpy).tiny):
        return None
    return Constant(Tensor.of(narrow, dtype))


def _linear(value: Value | None) -> Linear | None:
    """The linear op with a constant floating-point weight that made a value."""
    if not isinstance(value, Conv | ConvTranspose | Gemm | MatMul):
        return None
    weight = value.operand(1)
    if weight is None or weight.constant is None or weight.dtype is None:
        return None
    bias = value.operand(2)
    if bias is not None and bias.constant is None:
        return None
    return value if weight.dtype.is_float else None


def _channels(op: Linear) -> tuple[int, int] | None:
    """The axis of the result that the weight's outputs are, and how many."""
    weight = op.operands[1]
    assert weight is not None
    assert weight.constant is not None
    shape = weight.constant.shape
    if isinstance(op, Conv):
        return 1, shape[0]
    if isinstance(op, ConvTranspose):
        return 1, shape[1] * op.group
    if op.rank is None or len(shape) != 2:
        return None
    if isinstance(op, Gemm):
        return 1, shape[0 if op.transB else 1]
    return op.rank - 1, shape[1]


def _scaled(op: Linear, scale: Numbers) -> Numbers:
    """The weight, in float64, that makes each output ``scale`` times as large."""
    weight = _wide(op.operands[1])
    assert weight is not None
    if isinstance(op, Conv):
        return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    if isinstance(op, ConvTranspose):
        inputs, outputs, *window = weight.shape
        groups = weight.reshape(op.group, inputs // op.group, outputs, *window)
        by_group = np.broadcast_to(scale, outputs * op.group).reshape(
            op.group, 1, outputs, *[1] * len(window)
        )
        return (groups * by_group).reshape(weight.shape)
    if isinstance(op, Gemm) and op.transB:
        return weight * scale.reshape(-1, 1)
    return weight * scale


@rule(exact=False)
@_QUIET
def after_linear(
    op: BatchNormalization | Mul | Add | Div | Sub, scene: Scene
) -> Outcome:
    """s * (x @ w + b) + t = x @ (s*w) + (s*b + t), also for convolutions"""
    inner = op.operands[0]
    if inner is not None and inner.constant is not None:
        inner = op.operands[1]
    linear = _linear(inner)
    if linear is None or inner is None:
        return None
    if not scene.single(inner):
        return miss("its result is read elsewhere too", inner)
    channels = _channels(linear)
    found = None if channels is None else scale_shift(op, channels[0])
    if channels is None or found is None or found.x is not inner:
        return miss("no scale and shift along the outputs", op)
    if max(found.scale.size, found.shift.size) not in (1, channels[1]):
        return miss("it broadcasts the outputs", op)
    weight = linear.operands[1]
    assert weight is not None
    assert weight.constant is not None
    big = weight.constant.nbytes > SHARED_LIMIT
    if found.scales and big and not scene.single(weight):
        return miss("others read the weight too", weight)
    dtype = op.dtype
    if dtype is None or dtype is not weight.dtype:
        return miss("the element types differ", weight)
    return _applied(linear, found, channels[1], dtype)


_OVERFLOW = "a number would overflow the element type, or vanish in it"


def _applied(linear: Linear, found: ScaleShift, outputs: int, dtype: DType) -> Outcome:
    weight = linear.operands[1]
    if found.scales:
        weight = _narrow(_scaled(linear, found.scale), dtype)
    if weight is None:
        return miss(_OVERFLOW, linear)
    if isinstance(linear, MatMul):
        product = MatMul(linear.operands[0], weight)
        if not found.shifts:
            return product
        if not found.scales:
            return None  # this is what it was
        shift = _narrow(np.broadcast_to(found.shift, outputs), dtype)
        return miss(_OVERFLOW, linear) if shift is None else Add(product, shift)
    bias = _wide(linear.operand(2))
    if isinstance(linear, Gemm):
        if bias is not None and bias.ndim == 2 and bias.shape[0] != 1:
            return miss("the bias has rows of its own", linear)
        bias = None if bias is None else linear.beta * bias.reshape(-1)
    old = np.zeros(1) if bias is None else bias
    new = np.broadcast_to(old * found.scale + found.shift, outputs)
    operands = [linear.operands[0], weight]
    if bias is not None or np.any(new):
        operands.append(_narrow(new, dtype))
        if operands[2] is None:
            return miss(_OVERFLOW, linear)
    if isinstance(linear, Gemm):
        return linear.copy(operands=operands, beta=1.0)
    return linear.with_operands(operands)


@rule(exact=False)
@_QUIET
def before_linear(op: Conv | Gemm | MatMul, scene: Scene) -> Outcome:
    """(s * x + t) @ w + b = x @ (s*w) + (t @ w + b); no shift across a padded border

    Before a matrix product only a batch norm is taken: a gain there mostly ends a norm
    or an activation, which runtimes know by it.
    """
    inner = op.operands[0]
    if not isinstance(inner, BatchNormalization | Mul | Add | Div | Sub):
        return None
    if not isinstance(op, Conv) and not isinstance(inner, BatchNormalization):
        return miss("the gain may end a norm or an activation", inner)
    linear = _linear(op)
    if linear is None or not scene.single(inner):
        return None
    if isinstance(op, Gemm) and (op.transA or op.alpha != 1):
        return miss("the operand is transposed or scaled", op)
    weight = op.operands[1]
    assert weight is not None
    assert weight.constant is not None
    rank = inner.rank
    if rank is None or weight.constant.rank < 2:
        return None
    axis = 1 if isinstance(op, Conv | Gemm) else rank - 1
    found = scale_shift(inner, axis)
    if found is None:
        return miss("no scale and shift along the inputs", inner)
    if found.shifts and (isinstance(op, MatMul) or not _unpadded(op)):
        return miss("the border is padded with zeros that are not shifted", op)
    inputs = weight.constant.shape[1] * op.group if isinstance(op, Conv) else None
    if inputs is None:
        turned = isinstance(op, Gemm) and op.transB
        inputs = weight.constant.shape[1 if turned else -2]
    if not stretches_nothing(inner, found.x):
        return miss("it broadcasts the inputs", inner)
    if weight.constant.nbytes > SHARED_LIMIT and not scene.single(weight):
        return miss("others read the weight too", weight)
    if weight.dtype is None or inner.dtype is not weight.dtype:
        return None
    return _absorbed(op, found, inputs, weight.dtype)


def _unpadded(op: Op) -> bool:
    if not isinstance(op, Conv):
        return True
    if op.auto_pad not in ("NOTSET", "VALID"):
        return False
    return not any(op.pads or ())


def _absorbed(
    op: Conv | Gemm | MatMul, found: ScaleShift, inputs: int, dtype: DType
) -> Outcome:
    weight = _wide(op.operands[1])
    assert weight is not None
    scale = np.broadcast_to(found.scale, inputs)
    shift = np.broadcast_to(found.shift, inputs)
    if isinstance(op, Conv):
        groups, each = op.group, weight.shape[1]
        by_group = weight.reshape(groups, -1, *weight.shape[1:])
        window = [1] * (weight.ndim - 2)
        factor = scale.reshape(groups, 1, each, *window)
        new = (by_group * factor).reshape(weight.shape)
        moved = by_group * shift.reshape(groups, 1, each, *window)
        extra = moved.reshape(weight.shape).sum(axis=tuple(range(1, weight.ndim)))
    else:
        turned = isinstance(op, Gemm) and op.transB
        new = weight * (scale if turned else scale[:, None])
        extra = weight @ shift if turned else shift @ weight
    operands: list[Value | None] = [found.x, _narrow(new, dtype), *op.operands[2:]]
    if not found.shifts:
        return op.with_operands(operands) if operands[1] else miss(_OVERFLOW, op)
    bias = _wide(op.operand(2))
    if isinstance(op, Gemm) and bias is not None:
        bias = op.beta * bias
    operands[2:] = [_narrow(extra + (0 if bias is None else bias), dtype)]
    if None in operands:
        return miss(_OVERFLOW, op)
    if isinstance(op, Gemm):
        return op.copy(operands=operands, beta=1.0)
    return op.with_operands(operands)


@rule(exact=False)
@_QUIET
def after_batch_norm(op: Mul | Add | Div | Sub, scene: Scene) -> Outcome:
    """c * batchnorm(x, s, b) + d = batchnorm(x, c*s, c*b + d)"""
    found = scale_shift(op, 1)
    norm = None if found is None else found.x
    if found is None or not isinstance(norm, BatchNormalization):
        return None
    if norm.training_mode or norm.outs != 1 or not scene.single(norm):
        return miss("it trains, or is read elsewhere too", norm)
    x, *parameters = norm.operands
    scale, bias = _wide(parameters[0]), _wide(parameters[1])
    if scale is None or bias is None or norm.dtype is None:
        return miss("scale and bias are no constants", norm)
    if parameters[0] is None or parameters[0].dtype is not norm.dtype:
        return miss("the element types differ", norm)
    if not stretches_nothing(op, norm):
        return miss("it broadcasts the channels", op)
    new = scale * found.scale, bias * found.scale + found.shift
    folded = [_narrow(array, norm.dtype) for array in new]
    if None in folded:
        return miss(_OVERFLOW, norm)
    return norm.with_operands([x, *folded, *parameters[2:]])


@rule(exact=False)
@_QUIET
def scale_scale(op: Mul | Add, scene: Scene) -> Outcome:
    """(x * c) * d = x * (c*d), (x + c) + d = x + (c+d)"""
    inner, outer_constant = op.operands
    if not isinstance(inner, type(op)) or not scene.single(inner):
        return None
    x, inner_constant = inner.operands
    if x is None or inner_constant is None or outer_constant is None:
        return None
    known = inner_constant.constant, outer_constant.constant
    if known[0] is None or known[1] is None or x.constant is not None:
        return None
    size = math.prod(np.broadcast_shapes(known[0].shape, known[1].shape))
    if max(known[0].size, known[1].size) < size:
        return miss("the constants together would be larger than each")
    c, d = _wide(inner_constant), _wide(outer_constant)
    if c is None or d is None or op.dtype is None:
        return None
    if isinstance(op, Add) and _cancel(c, d):
        return miss("the constants cancel: adding them may round on purpose", op)
    made = _narrow(c * d if isinstance(op, Mul) else c + d, op.dtype)
    if made is None or (isinstance(op, Mul) and _vanishes(made, c, d)):
        return miss(_OVERFLOW, op)
    return op.with_operands([x, made])


def _cancel(c: Numbers, d: Numbers) -> bool:
    """Some sums are much smaller than what they are made of.

    (x + 1.5 * 2**23) - 1.5 * 2**23 rounds x to a whole number.
    """
    return bool(np.any(16 * np.abs(c + d) < np.maximum(np.abs(c), np.abs(d))))


def _vanishes(made: Constant, c: Numbers, d: Numbers) -> bool:
    """A product is zero, and none of its factors."""
    return bool(np.any((_wide(made) == 0) & (c != 0) & (d != 0)))


RULES: tuple[Rule, ...] = (
    after_linear,
    before_linear,
    after_batch_norm,
    scale_scale,
)


@dataclass(frozen=True)
class FoldAffine(RulePass):
    """Fold scales and shifts (batch norms, spelled out or not) into linear ops.

    batchnorm(conv(x, w))   -->   conv(x, w', b')
    (x * 2) @ w             -->   x @ (2*w)
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
