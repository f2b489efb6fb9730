"""Raise: norms by channel or group of channels, and vectors of length one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.dims import equal
from graphopt.ir import Value
from graphopt.ops import (
    Add,
    Clip,
    Constant,
    Div,
    Expand,
    GroupNormalization,
    InstanceNormalization,
    LayerNormalization,
    LpNormalization,
    Max,
    Mul,
    Reshape,
)
from graphopt.ops.bodies import vector
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule

from .match import axis_of, is_uniform, is_zero, same_shape, same_type
from .moments import NARROW, Reduced, norm_of, uncast
from .offered import said
from .raise_norms import normalized

ByChannel = InstanceNormalization | GroupNormalization


def channels(x: Value) -> int | None:
    """How many channels ``[batch, channel, ...]`` has, where that is known."""
    shape = x.shape
    return shape[1] if shape and len(shape) > 1 and isinstance(shape[1], int) else None


def _full(x: Value, count: int, number: float) -> Constant:
    assert x.dtype is not None
    return Constant(np.full(count, number, x.dtype.numpy))


def by_channel(value: Value, x: Value) -> Value | None:
    """A vector of the channels of x, where ``value`` broadcasts as that to x."""
    count, rank = channels(x), x.rank
    shape = value.shape
    if count is None or rank is None or shape is None or value.dtype is not x.dtype:
        return None
    padded = (1,) * (rank - len(shape)) + tuple(shape)
    if len(padded) != rank or any(d != 1 for i, d in enumerate(padded) if i != 1):
        return None
    if padded[1] not in {1, count}:
        return None
    if value.constant is not None:
        array = value.constant.array().reshape(-1)
        return Constant(np.ascontiguousarray(np.broadcast_to(array, (count,))))
    return Reshape(value, vector(-1)) if padded[1] == count else None


@rule(exact=False)
def instance_norm(op: Div | Mul, scene: Scene) -> Outcome:
    """(x - mean(x)) / sqrt(var(x) + e) = instancenorm(x), over its spatial axes

    Of three dims that is a layer norm too, until it is weighed by channel.
    """
    found = normalized(op)
    if found is None or not found.centred:
        return None
    x = found.x
    if x.rank is None or x.rank < 4 or found.over.axes != (*range(2 - x.rank, 0),):
        return None
    count = channels(x)
    if count is None:
        return miss("the number of channels is not known", x)
    if x.dtype not in NARROW or not same_type(op, x):
        return miss("it broadcasts x, or computes in double", x)
    ones, zeros = _full(x, count, 1), _full(x, count, 0)
    return said(InstanceNormalization(x, ones, zeros, epsilon=found.epsilon), scene)


@rule(exact=False)
def group_norm(op: Reshape, scene: Scene) -> Outcome:
    """reshape(instancenorm(groups(x))) = groupnorm(x)"""
    if not scene.has(GroupNormalization):
        return None
    inner = op.operands[0]
    if not isinstance(inner, InstanceNormalization):
        return None
    return _grouped(op, inner, scene)


def _grouped(op: Reshape, inner: Value, scene: Scene) -> Outcome:
    """The group norm that a norm of reshaped groups is, reshaped back."""
    assert inner.op is not None
    split = inner.op.operands[0]
    x = split.operands[0] if isinstance(split, Reshape) else None
    if x is None or split is None or x.rank is None or not same_shape(op, x):
        return None
    groups, count = channels(split), channels(x)
    if not groups or not count or count % groups or x.rank < 3:
        return miss("groups or channels are not known, or do not divide", inner)
    if x.shape is None or split.shape is None or not equal(x.shape[0], split.shape[0]):
        return miss("the groups are not of channels", split)
    if isinstance(inner, InstanceNormalization):
        _, scale, bias = inner.operands
        if not is_uniform(scale, 1) or not is_zero(bias):
            return miss("each group is weighed by itself", inner)
    if not scene.single(inner):
        return miss("the norm of the groups is read elsewhere too", inner)
    made = GroupNormalization(
        *(x, _full(x, count, 1), _full(x, count, 0)),
        num_groups=groups,
        epsilon=inner.op.epsilon,
    )
    return said(made, scene)


def _norm_by_channel(value: Value, scene: Scene) -> Value | None:
    """A norm by channel that ``value`` is, also one that looks like a layer norm."""
    if isinstance(value, ByChannel):
        return value
    inner = value.operands[0] if isinstance(value, Reshape) else None
    if isinstance(value, LayerNormalization):
        x, ones = value.operands[:2]
        if x is None or x.rank is None or axis_of(value.axis, x.rank) != 2:
            return None
        count = channels(x)
        if count is None or value.operand(2) is not None or not is_uniform(ones, 1):
            return None
        weights = _full(x, count, 1), _full(x, count, 0)
        return InstanceNormalization(x, *weights, epsilon=value.epsilon)
    if isinstance(value, Reshape) and isinstance(inner, LayerNormalization):
        if inner.operand(2) is not None or not is_uniform(inner.operands[1], 1):
            return None
        x = inner.operands[0]
        if x is None or x.rank is None or axis_of(inner.axis, x.rank) != 2:
            return None
        if not scene.has(GroupNormalization):
            return None
        made = _grouped(value, inner, scene)
        return made if isinstance(made, Value) else None
    return None


@rule(exact=False)
def channel_gain(op: Mul, scene: Scene) -> Outcome:
    """instancenorm(x, s, b) * g = instancenorm(x, s * g, b * g), and so of groupnorm"""
    for value, factor in (op.operands, op.operands[::-1]):
        norm = None if value is None else _norm_by_channel(value, scene)
        if norm is None or norm.op is None or value is None or factor is None:
            continue
        x, scale, bias = norm.op.operands
        gain = None if x is None else by_channel(factor, x)
        if x is None or gain is None or not same_type(op, x):
            if isinstance(value, ByChannel):
                return miss("the gain is not one number for each channel", factor)
            continue
        if not scene.single(value):
            return miss("the norm is read elsewhere too", value)
        scaled = gain if is_uniform(scale, 1) else Mul(scale, gain)
        moved = bias if is_zero(bias) else Mul(bias, gain)
        return said(norm.op.with_operands([x, scaled, moved]), scene)
    return None


@rule(exact=False)
def channel_bias(op: Add, scene: Scene) -> Outcome:
    """instancenorm(x, s, b) + c = instancenorm(x, s, b + c), and so of groupnorm"""
    for norm, shift in (op.operands, op.operands[::-1]):
        if not isinstance(norm, ByChannel) or shift is None:
            continue
        x, scale, bias = norm.operands
        more = None if x is None else by_channel(shift, x)
        if x is None or more is None or not same_type(op, x):
            return miss("the bias is not one number for each channel", shift)
        if not scene.single(norm):
            return miss("the norm is read elsewhere too", norm)
        moved = more if is_zero(bias) else Add(bias, more)
        return norm.with_operands([x, scale, moved])
    return None


@rule(exact=False)
def length_one(op: Div, scene: Scene) -> Outcome:
    """x / l2(x) = lpnormalization(x), and so of l1, but for vectors of zeros

    ONNX has those stay zeros, where the quotient is NaN.
    """
    x, divisor = op.operands
    if x is None or divisor is None:
        return None
    found = norm_of(divisor)
    if found is None:
        held = _clamped_norm(divisor)
        if held is not None and held.x is uncast(x):
            return miss("vectors shorter than the bound do not become of length 1", x)
        return None
    over, order = found
    if over.x is not uncast(x) or len(over.axes) != 1 or not over.is_kept(divisor):
        return None
    if not same_type(op, x):
        return None
    return said(LpNormalization(x, axis=over.axes[0], p=order), scene)


def _clamped_norm(value: Value) -> Reduced | None:
    """What ``value`` is the norm of, where that is kept above a number."""
    while isinstance(value, Expand) and value.operands[0] is not None:
        value = value.operands[0]
    if not isinstance(value, Clip | Max | Add):
        return None
    for operand in value.operands:
        found = None if operand is None else norm_of(operand)
        if found is not None:
            return found[0]
    return None


RULES: tuple[Rule, ...] = (
    instance_norm,
    group_norm,
    channel_gain,
    channel_bias,
    length_one,
)


@dataclass(frozen=True)
class RaiseGroupNorms(RulePass):
    """Recognise InstanceNormalization, GroupNormalization (opset 21), LpNormalization.

    reshape(instancenorm(reshape(x))) * g + b   -->   groupnorm(x, g, b)
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
