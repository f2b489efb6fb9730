"""Scales and shifts folded into the linear op beside them.

Batch normalization at inference, and Mul, Add, Sub, Div by constants (which is how some
exporters spell it), are one thing: ``y = scale * x + shift`` along one axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from graphopt.ir import Op, Value
from graphopt.ops import (
    Add,
    BatchNormalization,
    Conv,
    ConvTranspose,
    Div,
    Flatten,
    Gelu,
    Gemm,
    MatMul,
    Mul,
    Reshape,
    Sub,
)
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule
from graphopt.types import DType

from .match import stretches_nothing
from .raise_gelu import spelled_gelu
from .scale_shift import (
    Numbers,
    ScaleShift,
    known_shape,
    narrowed,
    numbers,
    scale_shift,
)

Affine: TypeAlias = BatchNormalization | Mul | Add | Div | Sub
Linear: TypeAlias = Conv | ConvTranspose | Gemm | MatMul

QUIET = np.errstate(all="ignore")
"""Overflow is looked for in results; it is nothing to warn of."""

SHARED_LIMIT = 1 << 20
"""A weight of more bytes that others read too is not copied to be scaled."""


def linear_op(value: Value | None) -> Linear | None:
    """The linear op with a constant floating-point weight that made a value."""
    if not isinstance(value, Conv | ConvTranspose | Gemm | MatMul):
        return None
    bias = value.operand(2)
    if bias is not None and known_shape(bias) is None:
        return None
    return value if known_shape(value.operand(1)) is not None else None


def channels_of(op: Linear) -> tuple[int, int] | None:
    """The axis of the result that the weight's outputs are, and how many."""
    shape = known_shape(op.operands[1])
    assert shape is not None
    if isinstance(op, Conv):
        return 1, shape[0]
    if isinstance(op, ConvTranspose):
        return 1, shape[1] * op.group
    if op.rank is None or len(shape) != 2:
        return None
    if isinstance(op, Gemm):
        return 1, shape[0 if op.transB else 1]
    return op.rank - 1, shape[1]


def _scaled(op: Linear, scale: Numbers) -> Numbers | None:
    """The weight, in float64, that makes each output ``scale`` times as large."""
    weight = numbers(op.operands[1])
    if weight is None:
        return None
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
@QUIET
def after_linear(
    op: BatchNormalization | Mul | Add | Div | Sub, scene: Scene
) -> Outcome:
    """s * (x @ w + b) + t = x @ (s*w) + (s*b + t), also for convolutions"""
    inner = op.operands[0]
    if inner is not None and inner.constant is not None:
        inner = op.operands[1]
    linear = linear_op(inner)
    if linear is None or inner is None:
        return None
    if not scene.single(inner):
        return miss("its result is read elsewhere too", inner)
    channels = channels_of(linear)
    found = None if channels is None else scale_shift(op, channels[0])
    if channels is None or found is None or found.x is not inner:
        return miss("no scale and shift along the outputs", op)
    if max(found.scale.size, found.shift.size) not in (1, channels[1]):
        return miss("it broadcasts the outputs", op)
    weight = linear.operands[1]
    assert weight is not None
    if found.scales and is_shared(weight, scene):
        return miss("others read the weight too", weight)
    dtype = op.dtype
    if dtype is None or dtype is not weight.dtype:
        return miss("the element types differ", weight)
    return applied(linear, found, channels[1], dtype)


@rule(exact=False)
@QUIET
def after_biased_product(op: Mul | Div, scene: Scene) -> Outcome:
    """(x @ w + b) * c = x @ (c*w) + c*b"""
    outer = None if op.rank is None else scale_shift(op, op.rank - 1)
    if outer is None or not isinstance(outer.x, Add) or outer.x.rank != op.rank:
        return None
    inner = scale_shift(outer.x, outer.axis)
    product = None if inner is None else linear_op(inner.x)
    if inner is None or not isinstance(product, MatMul):
        return None
    if not scene.single(outer.x) or not scene.single(product):
        return miss("its result is read elsewhere too", product)
    channels = channels_of(product)
    if channels is None or channels[0] != outer.axis:
        return miss("no scale along the outputs", op)
    if max(outer.scale.size, inner.shift.size) not in (1, channels[1]):
        return miss("it broadcasts the outputs", op)
    shift = inner.shift * outer.scale
    both = ScaleShift(product, outer.axis, outer.scale, shift)
    return _scaled_product(op, product, both, channels[1], scene)


@rule(exact=False)
@QUIET
def batch_norm_of_rows(op: BatchNormalization, scene: Scene) -> Outcome:
    """batchnorm(reshape(x @ w)) = reshape(x @ (s*w) + t), over rows of all batches"""
    rows = op.operands[0]
    if op.rank != 2 or not isinstance(rows, Reshape | Flatten):
        return None
    product, found = rows.operands[0], scale_shift(op, 1)
    linear = linear_op(product)
    if product is None or found is None or not isinstance(linear, MatMul):
        return None
    channels = channels_of(linear)
    if channels is None or rows.shape is None or rows.shape[1] != channels[1]:
        return miss("its channels are not the outputs of the product", product)
    if not scene.single(rows) or not scene.single(product):
        return miss("its result is read elsewhere too", product)
    made = _scaled_product(op, linear, found, channels[1], scene)
    if not isinstance(made, Value):
        return made
    return rows.with_operands([made, *rows.operands[1:]])


def _scaled_product(
    op: Op, product: MatMul, found: ScaleShift, outputs: int, scene: Scene
) -> Outcome:
    """`applied` for what is not right behind a product: its weight is always scaled."""
    weight = product.operands[1]
    assert weight is not None
    if is_shared(weight, scene):
        return miss("others read the weight too", weight)
    if op.dtype is None or op.dtype is not weight.dtype:
        return miss("the element types differ", weight)
    return applied(product, found, outputs, op.dtype)


def is_shared(weight: Value, scene: Scene) -> bool:
    """True for a large weight that others read as well: two would be kept of it."""
    tensor = weight.constant
    large = tensor is not None and tensor.nbytes > SHARED_LIMIT
    return large and not scene.single(weight)


_OVERFLOW = "numbers would overflow, vanish, or take more room than before"


def applied(linear: Linear, found: ScaleShift, outputs: int, dtype: DType) -> Outcome:
    """``scale * linear + shift`` along its channels, with both in weight and bias."""
    weight = linear.operands[1]
    if found.scales:
        scaled = _scaled(linear, found.scale)
        weight = None if scaled is None else narrowed(scaled, dtype, weight)
    if weight is None:
        return miss(_OVERFLOW, linear)
    if isinstance(linear, MatMul):
        product = MatMul(linear.operands[0], weight)
        if not found.shifts:
            return product
        if not found.scales:
            return None  # this is what it was
        shift = narrowed(np.broadcast_to(found.shift, outputs), dtype)
        return miss(_OVERFLOW, linear) if shift is None else Add(product, shift)
    bias = numbers(linear.operand(2))
    if isinstance(linear, Gemm):
        if bias is not None and bias.ndim == 2 and bias.shape[0] != 1:
            return miss("the bias has rows of its own", linear)
        bias = None if bias is None else linear.beta * bias.reshape(-1)
    old = np.zeros(1) if bias is None else bias
    new = np.broadcast_to(old * found.scale + found.shift, outputs)
    operands = [linear.operands[0], weight]
    if bias is not None or np.any(new):
        operands.append(narrowed(new, dtype))
        if operands[2] is None:
            return miss(_OVERFLOW, linear)
    if isinstance(linear, Gemm):
        return linear.copy(operands=operands, beta=1.0)
    return linear.with_operands(operands)


@rule(exact=False)
@QUIET
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
    if isinstance(inner, Mul | Div) and isinstance(spelled_gelu(inner, scene), Gelu):
        return miss("the gain ends a GELU, which runtimes know by it", inner)
    linear = linear_op(op)
    if linear is None or not scene.single(inner):
        return None
    if isinstance(op, Gemm) and (op.transA or op.alpha != 1):
        return miss("the operand is transposed or scaled", op)
    weight, rank = op.operands[1], inner.rank
    shape = known_shape(weight)
    assert weight is not None
    assert shape is not None
    if rank is None or len(shape) < 2:
        return None
    axis = 1 if isinstance(op, Conv | Gemm) else rank - 1
    found = scale_shift(inner, axis)
    if found is None:
        return miss("no scale and shift along the inputs", inner)
    if found.shifts and (isinstance(op, MatMul) or not unpadded(op)):
        return miss("the border is padded with zeros that are not shifted", op)
    if isinstance(op, Conv):
        inputs = shape[1] * op.group
    else:
        inputs = shape[1 if isinstance(op, Gemm) and op.transB else -2]
    if not stretches_nothing(inner, found.x):
        return miss("it broadcasts the inputs", inner)
    if is_shared(weight, scene):
        return miss("others read the weight too", weight)
    if weight.dtype is None or inner.dtype is not weight.dtype:
        return None
    return absorbed(op, found, inputs, weight.dtype)


def unpadded(op: Op) -> bool:
    """True where no window reaches beyond what it is given."""
    if not isinstance(op, Conv):
        return True
    if op.auto_pad not in ("NOTSET", "VALID"):
        return False
    return not any(op.pads or ())


def absorbed(
    op: Conv | Gemm | MatMul, found: ScaleShift, inputs: int, dtype: DType
) -> Outcome:
    """The op on what is scaled and shifted, its weight and bias doing that instead."""
    weight = numbers(op.operands[1])
    if weight is None:
        return None
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
    operands: list[Value | None] = [
        found.x,
        narrowed(new, dtype, op.operands[1]),
        *op.operands[2:],
    ]
    if not found.shifts:
        return op.with_operands(operands) if operands[1] else miss(_OVERFLOW, op)
    bias = numbers(op.operand(2))
    if isinstance(op, Gemm) and bias is not None:
        bias = op.beta * bias
    operands[2:] = [narrowed(extra + (0 if bias is None else bias), dtype)]
    if None in operands:
        return miss(_OVERFLOW, op)
    if isinstance(op, Gemm):
        return op.copy(operands=operands, beta=1.0)
    return op.with_operands(operands)


@rule(exact=False)
@QUIET
def after_batch_norm(op: Mul | Add | Div | Sub, scene: Scene) -> Outcome:
    """c * batchnorm(x, s, b) + d = batchnorm(x, c*s, c*b + d)"""
    found = scale_shift(op, 1)
    norm = None if found is None else found.x
    if found is None or not isinstance(norm, BatchNormalization):
        return None
    if norm.training_mode or norm.outs != 1 or not scene.single(norm):
        return miss("it trains, or is read elsewhere too", norm)
    x, *parameters = norm.operands
    scale, bias = numbers(parameters[0]), numbers(parameters[1])
    if scale is None or bias is None or norm.dtype is None:
        return miss("scale and bias are no constants", norm)
    if parameters[0] is None or parameters[0].dtype is not norm.dtype:
        return miss("the element types differ", norm)
    if not stretches_nothing(op, norm):
        return miss("it broadcasts the channels", op)
    new = scale * found.scale, bias * found.scale + found.shift
    folded = [narrowed(array, norm.dtype) for array in new]
    if None in folded:
        return miss(_OVERFLOW, norm)
    return norm.with_operands([x, *folded, *parameters[2:]])


@rule(exact=False)
@QUIET
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
    c, d = numbers(inner_constant), numbers(outer_constant)
    if c is None or d is None or op.dtype is None:
        return None
    if isinstance(op, Add) and _cancel(c, d):
        return miss("the constants cancel: adding them may round on purpose", op)
    made = narrowed(c * d if isinstance(op, Mul) else c + d, op.dtype)
    if made is None or (isinstance(op, Mul) and _vanishes(made, c, d)):
        return miss(_OVERFLOW, op)
    return op.with_operands([x, made])


def _cancel(c: Numbers, d: Numbers) -> bool:
    """Some sums are much smaller than what they are made of.

    (x + 1.5 * 2**23) - 1.5 * 2**23 rounds x to a whole number.
    """
    return bool(np.any(16 * np.abs(c + d) < np.maximum(np.abs(c), np.abs(d))))


def _vanishes(made: Value, c: Numbers, d: Numbers) -> bool:
    """A product is zero, and none of its factors."""
    return bool(np.any((numbers(made) == 0) & (c != 0) & (d != 0)))


RULES: tuple[Rule, ...] = (
    after_linear,
    after_biased_product,
    batch_norm_of_rows,
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
