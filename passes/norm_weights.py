"""The gains and biases of norms over the last axes, and the types around them."""

from __future__ import annotations

import numpy as np

from graphopt.dims import at_least, equal
from graphopt.ir import Value
from graphopt.ops import (
    Add,
    Cast,
    Constant,
    LayerNormalization,
    Mul,
    Reshape,
    RMSNormalization,
    Squeeze,
)
from graphopt.ops.bodies import vector
from graphopt.rewrite import Outcome, Scene, miss, rule
from graphopt.types import DType

from .match import axis_of, is_uniform, same_type
from .moments import NARROW

Norm = LayerNormalization | RMSNormalization


def fits(gain: Value, x: Value, axis: int) -> bool:
    """The gain has just the dims that are normalized, or broadcasts into them.

    None of these may be zero: there is no norm of nothing.
    """
    if gain.shape is None or x.shape is None or len(gain.shape) > -axis:
        return False
    if not all(at_least(d, 1) for d in x.shape[axis:]):
        return False
    tail = x.shape[len(x.shape) - len(gain.shape) :]
    return all(d == 1 or equal(d, e) for d, e in zip(gain.shape, tail, strict=True))


def fitted(gain: Value, x: Value, axis: int) -> Value | None:
    """The gain, without dims of 1 before the normalized ones; None where it is none."""
    if gain.shape is not None and len(gain.shape) > -axis and gain.rank == x.rank:
        lead = len(gain.shape) + axis
        if all(dim == 1 for dim in gain.shape[:lead]):
            if gain.constant is not None:
                gain = Constant(gain.constant.array().reshape(gain.shape[lead:]))
            else:
                gain = Squeeze(gain, vector(*range(lead)))
    return gain if fits(gain, x, axis) else None


def filled(x: Value, axis: int, number: float = 1.0) -> Constant | None:
    """A gain that is one number, where the normalized dims are known."""
    last = (x.shape or ())[axis:]
    if x.dtype is None or not all(isinstance(dim, int) and dim for dim in last):
        return None
    return Constant(np.full(last, number, x.dtype.numpy))


@rule(exact=False)
def layer_norm_gain(op: Mul, scene: Scene) -> Outcome:
    """layernorm(x, 1) * g = layernorm(x, g), and so of rmsnorm"""
    for norm, gain in (op.operands, op.operands[::-1]):
        if gain is None:
            continue
        if isinstance(norm, Reshape):
            made = _gain_after_reshape(norm, gain, scene)
            if made is not None:
                return made
        if not isinstance(norm, Norm):
            continue
        x, ones = norm.operands[:2]
        if norm.operand(2) is not None or not scene.single(norm):
            return miss("it has a bias, or is read elsewhere too", norm)
        if not is_uniform(ones, 1) or x is None or x.rank is None:
            return miss("it has a gain", norm)
        if gain.dtype is not x.dtype:
            return miss("the gain is of another type", gain)
        weight = fitted(gain, x, axis_of(norm.axis, x.rank) - x.rank)
        if weight is None or not same_type(op, x):
            return miss("the gain does not fit the dims", gain)
        return norm.with_operands([x, weight])
    return None


def _gain_after_reshape(value: Reshape, gain: Value, scene: Scene) -> Value | None:
    """A reshape that keeps the last dim, of a norm over that, with its gain."""
    norm = value.operands[0]
    if not isinstance(norm, Norm) or not scene.single(value) or not scene.single(norm):
        return None
    x, ones = norm.operands[:2]
    if norm.operand(2) is not None or not is_uniform(ones, 1) or x is None:
        return None
    if not x.shape or not value.shape or gain.rank != 1 or gain.dtype is not x.dtype:
        return None
    if axis_of(norm.axis, len(x.shape)) != len(x.shape) - 1:
        return None
    if not equal(x.shape[-1], value.shape[-1]) or not fits(gain, x, -1):
        return None
    return value.with_operands([norm.with_operands([x, gain]), value.operands[1]])


@rule(exact=False)
def layer_norm_bias(op: Add, scene: Scene) -> Outcome:
    """layernorm(x, g) + b = layernorm(x, g, b)"""
    for norm, bias in (op.operands, op.operands[::-1]):
        if not isinstance(norm, LayerNormalization) or bias is None:
            continue
        x = norm.operands[0]
        if norm.operand(2) is not None or not scene.single(norm):
            return miss("it has a bias, or is read elsewhere too", norm)
        if x is None or bias.constant is None or x.rank is None:
            return miss("the bias is no constant", bias)
        weight = fitted(bias, x, axis_of(norm.axis, x.rank) - x.rank)
        if weight is None:
            return miss("the bias does not fit the dims", bias)
        return norm.with_operands([x, norm.operands[1], weight])
    return None


@rule(exact=False)
def narrow_norm(op: Cast, scene: Scene) -> Outcome:
    """half(rmsnorm(single(x), g)) = rmsnorm(x, half(g)), computed in single inside"""
    norm = op.operands[0]
    if not isinstance(norm, Norm) or norm.dtype is not DType.F32:
        return None
    if op.dtype not in NARROW or op.dtype is DType.F32:
        return None
    wide, *weights = norm.operands
    x = wide.operands[0] if isinstance(wide, Cast) else None
    if x is None or x.dtype is not op.dtype or norm.stash_type != DType.F32.value:
        return None
    if not scene.single(norm):
        return miss("the norm is read elsewhere too", norm)
    narrow = [None if w is None else _narrowed(w, op.dtype) for w in weights]
    if any(w is None for w in narrow):
        return miss("the narrow type does not hold its gain or bias", norm)
    return norm.with_operands([x, *narrow])


def _narrowed(weight: Value, dtype: DType) -> Value | None:
    """A weight in a narrower type, which holds its very numbers."""
    if isinstance(weight, Cast) and weight.operands[0] is not None:
        inner = weight.operands[0]
        return inner if inner.dtype is dtype else None
    if weight.constant is None:
        return None
    array = weight.constant.array()
    with np.errstate(all="ignore"):
        narrow = array.astype(dtype.numpy)
    same = np.array_equal(narrow.astype(array.dtype), array)
    return Constant(narrow) if same else None
