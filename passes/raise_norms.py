"""Raise: layer and root-mean-square normalization from their arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.dims import at_least, equal
from graphopt.ir import Value
from graphopt.ops import (
    Add,
    Constant,
    Div,
    LayerNormalization,
    Mul,
    Pow,
    Reciprocal,
    ReduceMean,
    RMSNormalization,
    Sqrt,
    Sub,
)
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule
from graphopt.types import DType

from .match import axis_of, is_uniform, same_type, uniform
from .raise_gelu import plus

_NARROW = (DType.F32, DType.F16, DType.BF16)
"""Both norms compute in float32 inside: they are no stand-in for double arithmetic."""


@dataclass(frozen=True)
class Normalized:
    """``numerator / sqrt(mean(square, axes) + epsilon)``."""

    numerator: Value
    axis: int
    epsilon: float


def normalized(op: Div | Mul) -> Normalized | None:
    """What a quotient by (or product with the inverse of) a root mean square says."""
    for numerator, root in _quotients(op):
        found = _rooted(root)
        if found is not None and found.numerator is numerator:
            return found
    return None


def _rooted(root: Value) -> Normalized | None:
    """The quotient of which a root mean square is the divisor."""
    if not isinstance(root, Sqrt) or root.operands[0] is None:
        return None
    for mean, number in plus(root.operands[0]):
        epsilon = uniform(number)
        axis = _trailing(mean)
        if epsilon is None or axis is None or not isinstance(mean, ReduceMean):
            continue
        numerator = _squared(mean.operands[0])
        if numerator is not None:
            return Normalized(numerator, axis, float(epsilon))
    return None


def _quotients(op: Div | Mul) -> list[tuple[Value, Value]]:
    a, b = op.operands
    if a is None or b is None:
        return []
    if isinstance(op, Div):
        return [(a, b)]
    pairs = [(x, _inverted(y)) for x, y in ((a, b), (b, a))]
    return [(x, root) for x, root in pairs if root is not None]


def _inverted(value: Value) -> Value | None:
    """What a value is one over."""
    if isinstance(value, Reciprocal):
        return value.operands[0]
    if isinstance(value, Div) and uniform(value.operands[0]) == 1:
        return value.operands[1]
    return None


def _trailing(value: Value) -> int | None:
    """The first axis of a mean over the last axes, counted from the end."""
    if not isinstance(value, ReduceMean) or not value.keepdims:
        return None
    x, axes = value.operands[0], value.operand(1)
    if x is None or x.rank is None or axes is None or not axes.ints:
        return None
    which = sorted(axis_of(a, x.rank) for a in axes.ints)
    if which != list(range(which[0], x.rank)):
        return None
    return which[0] - x.rank


def _squared(value: Value | None) -> Value | None:
    """What a value is the square of."""
    if isinstance(value, Pow):
        return value.operands[0] if uniform(value.operands[1]) == 2 else None
    if isinstance(value, Mul) and value.operands[0] is value.operands[1]:
        return value.operands[0]
    return None


def _centred(value: Value, axis: int) -> Value | None:
    """x, where ``value`` is x - mean(x)."""
    if not isinstance(value, Sub):
        return None
    x, mean = value.operands
    if not isinstance(mean, ReduceMean) or mean.operands[0] is not x:
        return None
    return x if _trailing(mean) == axis else None


def _fits(gain: Value, x: Value, axis: int) -> bool:
    """The gain has just the dims that are normalized, or broadcasts into them.

    None of these may be zero: there is no norm of nothing.
    """
    if gain.shape is None or x.shape is None or len(gain.shape) > -axis:
        return False
    if not all(at_least(d, 1) for d in x.shape[axis:]):
        return False
    tail = x.shape[len(x.shape) - len(gain.shape) :]
    return all(d == 1 or equal(d, e) for d, e in zip(gain.shape, tail, strict=True))


@rule(exact=False)
def layer_norm(op: Mul, scene: Scene) -> Outcome:
    """(x - mean(x)) / sqrt(mean((x - mean(x))**2) + e) * g = layernorm(x, g)"""
    if not scene.has(LayerNormalization):
        return None
    for quotient, gain in (op.operands, op.operands[::-1]):
        if not isinstance(quotient, Div | Mul) or gain is None:
            continue
        found = normalized(quotient)
        if found is None:
            continue
        x = _centred(found.numerator, found.axis)
        if x is None or not scene.single(quotient):
            continue
        if x.dtype not in _NARROW or not same_type(op, x):
            return miss("it broadcasts x, or computes in double", x)
        if not _fits(gain, x, found.axis):
            return miss("the gain does not fit the dims", gain)
        return LayerNormalization(x, gain, axis=found.axis, epsilon=found.epsilon)
    return None


@rule(exact=False)
def layer_norm_plain(op: Div | Mul, scene: Scene) -> Outcome:
    """(x - mean(x)) / sqrt(mean((x - mean(x))**2) + e) = layernorm(x, 1)"""
    if not scene.has(LayerNormalization):
        return None
    found = normalized(op)
    x = None if found is None else _centred(found.numerator, found.axis)
    if found is None or x is None:
        return None
    if x.dtype not in _NARROW or x.dtype is None or not same_type(op, x):
        return miss("it broadcasts x, or computes in double", x)
    last = (x.shape or ())[found.axis :]
    if not all(isinstance(dim, int) and dim for dim in last):
        return miss("the normalized dims are not known", x)
    ones = Constant(np.ones(last, x.dtype.numpy))
    return LayerNormalization(x, ones, axis=found.axis, epsilon=found.epsilon)


@rule(exact=False)
def layer_norm_gain(op: Mul, scene: Scene) -> Outcome:
    """layernorm(x, 1) * g = layernorm(x, g)"""
    for norm, gain in (op.operands, op.operands[::-1]):
        if not isinstance(norm, LayerNormalization) or gain is None:
            continue
        x, ones = norm.operands[:2]
        if norm.operand(2) is not None or not scene.single(norm):
            return miss("it has a bias, or is read elsewhere too", norm)
        if not is_uniform(ones, 1) or x is None or x.rank is None:
            return miss("it has a gain", norm)
        if not _fits(gain, x, axis_of(norm.axis, x.rank) - x.rank):
            return miss("the gain does not fit the dims", gain)
        return norm.with_operands([x, gain])
    return None


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
        if not _fits(bias, x, axis_of(norm.axis, x.rank) - x.rank):
            return miss("the bias does not fit the dims", bias)
        return norm.with_operands([x, norm.operands[1], bias])
    return None


@rule(exact=False)
def layer_norm_shifted(op: Add, scene: Scene) -> Outcome:
    """x * k + (b - mean(x) * k) = layernorm(x, g, b), with k = g / sqrt(var(x) + e)

    TensorFlow's spelling: its layer norm is a batch norm by other moments.
    """
    if not scene.has(LayerNormalization):
        return None
    for x, scale, bias, moved in _scale_and_shift(op):
        for gain, root in _quotients(scale):
            found = _rooted(root)
            if found is None or not isinstance(found.numerator, Sub):
                continue
            if _centred(found.numerator, found.axis) is not x:
                continue
            mean = found.numerator.operands[1]
            if moved.operands not in ((mean, scale), (scale, mean)):
                return miss("what is subtracted is not the scaled mean", moved)
            if x.dtype not in _NARROW or not same_type(op, x):
                return miss("it broadcasts x, or computes in double", x)
            if not all(_fits(part, x, found.axis) for part in (gain, bias)):
                return miss("the gain or the bias does not fit the dims", gain)
            return LayerNormalization(
                x, gain, bias, axis=found.axis, epsilon=found.epsilon
            )
    return None


def _scale_and_shift(op: Add) -> Iterator[tuple[Value, Div | Mul, Value, Mul]]:
    """x, k, b and m of each way to read an op as x * k + (b - m), m being a product."""
    for product, shift in (op.operands, op.operands[::-1]):
        if not isinstance(product, Mul) or not isinstance(shift, Sub):
            continue
        bias, moved = shift.operands
        for x, scale in (product.operands, product.operands[::-1]):
            if x is None or bias is None or not isinstance(moved, Mul):
                continue
            if isinstance(scale, Div | Mul):
                yield x, scale, bias, moved


@rule(exact=False)
def rms_norm(op: Mul, scene: Scene) -> Outcome:
    """x / sqrt(mean(x**2) + e) * g = rmsnorm(x, g)"""
    if not scene.has(RMSNormalization):
        return None
    for quotient, gain in (op.operands, op.operands[::-1]):
        if not isinstance(quotient, Div | Mul) or gain is None:
            continue
        found = normalized(quotient)
        if found is None or not scene.single(quotient):
            continue
        x = found.numerator
        if _centred(x, found.axis) is not None:
            continue
        if x.dtype not in _NARROW or not same_type(op, x):
            return miss("it broadcasts x, or computes in double", x)
        if not _fits(gain, x, found.axis):
            return miss("the gain does not fit the dims", gain)
        return RMSNormalization(x, gain, axis=found.axis, epsilon=found.epsilon)
    return None


RULES: tuple[Rule, ...] = (
    layer_norm,
    layer_norm_plain,
    layer_norm_gain,
    layer_norm_bias,
    layer_norm_shifted,
    rms_norm,
)


@dataclass(frozen=True)
class RaiseNorms(RulePass):
    """Recognise LayerNormalization (opset 17) and RMSNormalization (opset 23).

    (x - mean(x)) / sqrt(var(x) + e) * g + b   -->   layernorm(x, g, b)
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
