"""Gains taken into the weights above them, through ops that only move elements.

A layer scale after a projection, the scale of attention after heads are split off, a
gain after a norm that has one already: each costs a pass over the tensor, and nothing
where it is in a weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from graphopt.dims import Dim, equal
from graphopt.ir import Op, Value
from graphopt.ops import (
    Add,
    Attention,
    Conv,
    ConvTranspose,
    Div,
    Flatten,
    Gemm,
    GroupNormalization,
    InstanceNormalization,
    LayerNormalization,
    MatMul,
    Mul,
    Reshape,
    RMSNormalization,
    Split,
    Squeeze,
    Transpose,
    Unsqueeze,
)
from graphopt.pipeline import RulePass
from graphopt.rewrite import Miss, Outcome, Rule, Scene, miss, rule

from .affine import QUIET, applied, channels_of, is_shared, linear_op
from .match import axis_of, perm_of, stretches_nothing
from .scale_shift import Numbers, ScaleShift, narrowed, numbers

Moving: TypeAlias = Transpose | Reshape | Flatten | Squeeze | Unsqueeze
Norm: TypeAlias = (
    LayerNormalization | RMSNormalization | InstanceNormalization | GroupNormalization
)

READ_LIMIT = 1 << 20
"""Gains of more elements are no gains, but tensors."""

_ATTENTION = "attention takes the scale itself"


def gain_of(op: Mul | Div) -> tuple[Value, Numbers] | None:
    """What is scaled, and by what: an array of the rank of the result."""
    x, y = op.operands
    if isinstance(op, Mul) and x is not None and x.constant is not None:
        x, y = y, x
    tensor = None if y is None else y.constant
    if x is None or y is None or x.rank is None or tensor is None:
        return None
    if x.constant is not None or tensor.size > READ_LIMIT or not tensor.size:
        return None
    if op.rank != x.rank or not stretches_nothing(y, x):
        return None
    gain = numbers(y)
    if gain is None or (isinstance(op, Div) and not np.all(gain)):
        return None
    gain = gain if isinstance(op, Mul) else 1 / gain
    if not np.all(np.isfinite(gain)):
        return None
    return x, gain.reshape((1,) * (x.rank - gain.ndim) + gain.shape)


def before(op: Moving, gain: Numbers) -> Numbers | None:
    """The gain of the operand that is the gain of the result, None where it has none.

    One number goes through all; others through transposes, and through reshapes that
    split or merge the last dims, where they vary.
    """
    x = op.operands[0]
    if x is None or x.shape is None or op.shape is None:
        return None
    if gain.size == 1:
        return gain.reshape((1,) * len(x.shape))
    if isinstance(op, Transpose):
        return np.transpose(gain, np.argsort(perm_of(gain.ndim, op.perm)))
    lead = 0
    for a, b, size in zip(x.shape, op.shape, gain.shape, strict=False):
        if size != 1 or not equal(a, b):
            break
        lead += 1
    inner, outer = x.shape[lead:], op.shape[lead:]
    if not all(isinstance(d, int) for d in (*inner, *outer)):
        return None
    if math.prod(outer) not in range(1, READ_LIMIT) or math.prod(inner) == 0:
        return None
    wide = np.broadcast_to(gain.reshape(gain.shape[lead:]), outer)
    return _narrowest(wide.reshape((1,) * lead + inner))


def _narrowest(gain: Numbers) -> Numbers:
    """1 for each dim along which nothing varies."""
    for axis in range(gain.ndim):
        first = gain.take([0], axis=axis)
        if np.array_equal(np.broadcast_to(first, gain.shape), gain):
            gain = first
    return gain


def scaled(
    value: Value, gain: Numbers, scene: Scene, beside: dict[Value, Value] | None = None
) -> Value | Miss:
    """``gain * value`` with the gain in the weights of what makes it.

    It may be one part of a split: ``beside`` takes what then stands for the others.
    """
    links: list[tuple[Value, Numbers]] = []
    while True:
        if not scene.single(value):
            return miss("it is read elsewhere too", value)
        op = value.op
        linear = linear_op(value)
        if op is None or linear is not None:
            break
        if isinstance(op, Split) and beside is not None:
            own = of_all_parts(op, value, gain)
            if own is None:
                return miss("the gain is of no axis of what is split", op)
        elif isinstance(op, Moving):
            own = before(op, gain)
            if own is None:
                return miss("the gain is of no axis of what is moved", op)
        elif isinstance(op, Add) and _bias(op) is not None:
            own = gain
        else:
            return miss("no weight takes the gain", op)
        links.append((value, gain))
        x = op.operands[0]
        assert x is not None
        value, gain = x, own
    made = None if linear is None else _in_weight(linear, gain, scene)
    if made is None:
        return miss("no weight takes the gain", value)
    if isinstance(made, Miss):
        return made
    for link, above in reversed(links):
        op = link.op
        assert op is not None
        if isinstance(op, Split):
            assert beside is not None
            parts = op.with_operands([made, *op.operands[1:]]).results
            beside |= zip(op.results, parts, strict=True)
            made = beside.pop(link)
            continue
        made = _again(op, made, above)
        if made is None:
            return miss("the bias would overflow, vanish, or grow", op)
    return made


def of_all_parts(op: Split, part: Value, gain: Numbers) -> Numbers | None:
    """The gain of a split operand of which one part has a gain, and the others none."""
    if op.rank is None or gain.ndim != op.rank:
        return None
    axis = axis_of(op.axis, op.rank)
    if any(size != 1 for i, size in enumerate(gain.shape) if i != axis):
        return None
    pieces = []
    for value in op.results:
        width = None if value.shape is None else value.shape[axis]
        if not isinstance(width, int):
            return None
        own = gain.reshape(-1) if value is part else np.ones(1)
        pieces.append(np.broadcast_to(own, (width,)))
    every = np.concatenate(pieces)
    return every.reshape([every.size if i == axis else 1 for i in range(op.rank)])


def _bias(op: Add) -> Numbers | None:
    bias, x = op.operands[1], op.operands[0]
    if bias is None or x is None or bias.constant is None or x.rank != op.rank:
        return None
    if bias.constant.size > READ_LIMIT or not stretches_nothing(bias, x):
        return None
    return numbers(bias)


def _again(op: Op, made: Value, gain: Numbers) -> Value | None:
    """A link of the chain on a scaled operand."""
    if isinstance(op, Moving):
        return op.with_operands([made, *op.operands[1:]])
    assert isinstance(op, Add)
    bias = _bias(op)
    assert bias is not None
    assert op.dtype is not None
    wide = bias * gain
    if wide.size > max(bias.size, gain.size):
        return None
    if bias.ndim < wide.ndim and set(wide.shape[: wide.ndim - bias.ndim]) == {1}:
        wide = wide.reshape(wide.shape[wide.ndim - bias.ndim :])
    constant = narrowed(wide, op.dtype)
    return None if constant is None else Add(made, constant)


def _in_weight(
    linear: Conv | ConvTranspose | Gemm | MatMul, gain: Numbers, scene: Scene
) -> Value | Miss | None:
    """A linear op whose results are scaled along its channels."""
    channels, weight = channels_of(linear), linear.operands[1]
    if channels is None or weight is None or linear.dtype is not weight.dtype:
        return None
    axis, count = channels
    if any(size != 1 for i, size in enumerate(gain.shape) if i != axis):
        return None
    if is_shared(weight, scene):
        return miss("others read the weight too", weight)
    found = ScaleShift(linear, axis, gain.reshape(-1), np.zeros(1))
    if linear.dtype is None or not found.scales:
        return None
    made = applied(linear, found, count, linear.dtype)
    return made if isinstance(made, Value | Miss) else None


@rule(exact=False)
@QUIET
def gain_into_weight(op: Mul | Div, scene: Scene) -> Outcome:
    """move(x @ w + b) * c = move(x @ (w*c) + b*c)

    One number after several ops may be the scale of attention, which takes it for
    nothing where an opset has it.
    """
    found = gain_of(op)
    if found is None:
        return None
    x, gain = found
    if linear_op(x) is not None or not isinstance(x.op, Moving | Add | Split):
        return None
    if gain.size == 1 and isinstance(x, Moving) and scene.has(Attention):
        return miss(_ATTENTION, op)
    beside: dict[Value, Value] = {}
    made = scaled(x, gain, scene, beside)
    return {**beside, op: made} if beside and isinstance(made, Value) else made


@rule(exact=False)
@QUIET
def gain_of_product(op: Mul | Div, scene: Scene) -> Outcome:
    """(x @ y) * c = (c*x) @ y where a weight makes x or y, and takes the number"""
    found = gain_of(op)
    if found is None or not isinstance(found[0], MatMul) or found[1].size != 1:
        return None
    product, gain = found
    if linear_op(product) is not None:
        return None
    if scene.has(Attention):
        return miss(_ATTENTION, op)
    if not scene.single(product) or product.op is None:
        return miss("it is read elsewhere too", product)
    operands = list(product.op.operands)
    said: Miss | None = None
    for i, value in enumerate(operands):
        if value is None or value.rank is None:
            return None
        made = scaled(value, gain.reshape((1,) * value.rank), scene)
        if isinstance(made, Value):
            operands[i] = made
            return MatMul(*operands)
        said = said or made
    return said


@rule(exact=False)
@QUIET
def gains_of_operands(op: MatMul, scene: Scene) -> Outcome:
    """(c*x) @ (d*y) = (c*d * x) @ y for numbers c and d"""
    found = [gain_of(v) if isinstance(v, Mul | Div) else None for v in op.operands]
    left, right = found
    if left is None or right is None or left[1].size != 1 or right[1].size != 1:
        return None
    if scene.has(Attention):
        return miss(_ATTENTION, op)
    a, b = op.operands
    assert a is not None
    assert b is not None
    if not scene.single(a) or not scene.single(b) or a is b or op.dtype is None:
        return miss("an operand is read elsewhere too", op)
    both = narrowed(left[1].reshape(()) * right[1].reshape(()), op.dtype)
    return None if both is None else MatMul(Mul(left[0], both), right[0])


@rule(exact=False)
@QUIET
def gain_after_norm(op: Mul | Add, scene: Scene) -> Outcome:
    """norm(x, g, b) * c + d = norm(x, g*c, b*c + d)"""
    norm, y = op.operands
    if not isinstance(norm, Norm) or y is None or y.constant is None:
        return None
    if norm.outs != 1 or not scene.single(norm) or not stretches_nothing(y, norm):
        return miss("it has other results, or is read elsewhere too", norm)
    gain, own = numbers(y), numbers(norm.operand(1))
    bias = numbers(norm.operand(2))
    if gain is None or own is None or (norm.operand(2) is not None and bias is None):
        return miss("scale and bias are no constants", norm)
    if isinstance(op, Add) and isinstance(norm, RMSNormalization):
        return None
    weight = norm.operand(1)
    if norm.dtype is None or weight is None or weight.dtype is not norm.dtype:
        return miss("the element types differ", norm)
    aligned = _as_weight(norm, gain, own.shape)
    if aligned is None:
        return miss("it is no number for each of the weights", y)
    if isinstance(op, Add):
        wide = aligned + (np.zeros(1) if bias is None else bias)
        new = [own, np.broadcast_to(wide, own.shape)]
    else:
        new = [own * aligned, *([] if bias is None else [bias * aligned])]
    made = [narrowed(array, norm.dtype) for array in new]
    if None in made:
        return miss("numbers would overflow or vanish", norm)
    return norm.with_operands([norm.operands[0], *made])


def _as_weight(norm: Norm, gain: Numbers, shape: tuple[int, ...]) -> Numbers | None:
    """A gain of the result as one of the norm's weights."""
    if gain.size == 1:
        return gain.reshape((1,) * len(shape))
    if norm.rank is None:
        return None
    dims: list[int | Dim] = [1] * (norm.rank - gain.ndim) + list(gain.shape)
    if isinstance(norm, LayerNormalization | RMSNormalization):
        last = dims[len(dims) - len(shape) :]
        fits = list(shape) == last and math.prod(gain.shape) == math.prod(shape)
    else:
        fits = dims[1:] == [*shape, *[1] * (norm.rank - 2)] and dims[0] == 1
    return gain.reshape(shape) if fits else None


RULES: tuple[Rule, ...] = (
    gain_into_weight,
    gain_of_product,
    gains_of_operands,
    gain_after_norm,
)


@dataclass(frozen=True)
class Gains(RulePass):
    """Take gains into the weights above them, where that saves an op.

    transpose(x @ w + b) * gain   -->   transpose(x @ (w*gain) + b*gain)
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
