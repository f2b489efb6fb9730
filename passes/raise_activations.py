"""Raise: smooth activations, gates among them, from the arithmetic that spells them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir import Value
from graphopt.ops import (
    Abs,
    Add,
    Clip,
    Div,
    Exp,
    HardSigmoid,
    HardSwish,
    Log,
    Max,
    Min,
    Mish,
    Mul,
    Neg,
    Reciprocal,
    Relu,
    Sigmoid,
    Softplus,
    Softsign,
    Swish,
    Tanh,
    Where,
)
from graphopt.ops.bodies import scalar
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule
from graphopt.types import DType

from .branches import branches, clamped
from .match import is_zero, negated, same_shape, same_type, uniform
from .offered import float_types, said
from .raise_gelu import close, factors, plus

ROUNDING = {DType.F64: 2.0**-53, DType.F32: 2.0**-24, DType.F16: 2.0**-11}
"""Half the distance from 1 to the next number, by element type."""


def scaled(value: Value | None, scene: Scene) -> tuple[Value, float] | None:
    """x and c, where ``value`` is c * x of the same shape, for a number c."""
    if value is None:
        return None
    parts, number = factors(value, scene)
    if len(parts) == 1 and same_shape(parts[0], value):
        return parts[0], number
    return (value, 1.0) if isinstance(value, Mul | Div) else None


def as_attribute(number: float, dtype: DType | None) -> float | None:
    """A number as an attribute holds it, in float32; None where that is too rough."""
    held = float(np.float32(number))
    tolerance = ROUNDING.get(dtype, 2.0**-8) if dtype else None
    near = tolerance is not None and math.isclose(held, number, rel_tol=tolerance)
    return held if near else None


# --- sigmoids -----------------------------------------------------------------------


@rule(exact=False)
def sigmoid(op: Div | Reciprocal, scene: Scene) -> Outcome:
    """a / (1 + exp(-x)) = a * sigmoid(x), 1 / (1 + exp(x)) = sigmoid(-x)"""
    bottom = op.operands[-1]
    above = None if isinstance(op, Reciprocal) else op.operands[0]
    if not isinstance(bottom, Add):
        return None
    for one, power in plus(bottom):
        if uniform(one) != 1 or not isinstance(power, Exp):
            continue
        exponent = power.operands[0]
        if exponent is None or not same_type(exponent, op):
            return miss("it broadcasts", power)
        if not scene.single(bottom) or not scene.single(power):
            return miss("parts of it are read elsewhere too", bottom)
        made = Sigmoid(opposite(exponent, scene))
        return made if above is None or uniform(above) == 1 else Mul(above, made)
    return None


def opposite(value: Value, scene: Scene) -> Value:
    """-x, as what x is the negative of, or with the sign in its number."""
    x = negated(value)
    if x is not None:
        return x
    found = scaled(value, scene)
    if found is None or found[1] == 1 or value.dtype is None:
        return Neg(value)
    return Mul(found[0], scalar(-found[1], value.dtype))


@rule(exact=False)
def sigmoid_by_tanh(op: Mul | Div | Add, scene: Scene) -> Outcome:
    """0.5 * (1 + tanh(x / 2)) = 0.5 + 0.5 * tanh(x / 2) = sigmoid(x)"""
    curve: Value | None = None
    if isinstance(op, Add):
        for half, other in plus(op):
            parts, number = factors(other, scene)
            if len(parts) == 1 and close(number, 0.5, op) and uniform(half) == 0.5:
                curve = parts[0]
    else:
        parts, number = factors(op, scene)
        if len(parts) == 1 and close(number, 0.5, op):
            for one, other in plus(parts[0]):
                if uniform(one) == 1 and scene.single(parts[0]):
                    curve = other
    if not isinstance(curve, Tanh) or not scene.single(curve):
        return None
    inner = curve.operands[0]
    if inner is None or not same_type(inner, op):
        return None
    found = scaled(inner, scene)
    if found is not None and close(found[1], 0.5, op):
        return Sigmoid(found[0])
    return None


@rule(exact=False)
def swish(op: Mul, scene: Scene) -> Outcome:
    """x * sigmoid(a * x) = swish(x), of alpha a"""
    if not scene.has(Swish):
        return None
    parts, number = factors(op, scene)
    if len(parts) < 2:
        return None
    for gate in parts:
        if not isinstance(gate, Sigmoid) or gate.operands[0] is None:
            continue
        others = [part for part in parts if part is not gate]
        inside, alpha = factors(gate.operands[0], scene)
        x = gate.operands[0] if gate.operands[0] in others else None
        if x is not None:
            alpha = 1.0
        elif len(inside) == 1 and inside[0] in others:
            x = inside[0]
        if x is None or not same_type(x, gate):
            continue
        if not scene.single(gate):
            return miss("the sigmoid is read elsewhere too", gate)
        held = as_attribute(alpha, x.dtype)
        if held is None:
            return miss("an attribute cannot hold the number before x", gate)
        if x.dtype not in float_types(Swish.kind, scene.opset):
            return miss("the opset has no Swish of this type", x)
        made: Value = Swish(x, alpha=held)
        others.remove(x)
        for other in others:
            made = Mul(made, other)
        assert x.dtype is not None
        made = made if number == 1 else Mul(made, scalar(number, x.dtype))
        return made if same_type(made, op) else None
    return None


@rule(exact=False)
def softsign(op: Div, scene: Scene) -> Outcome:
    """x / (1 + |x|) = softsign(x)"""
    x, bottom = op.operands
    if x is None or bottom is None or not same_type(x, op):
        return None
    for one, size in plus(bottom):
        if uniform(one) == 1 and isinstance(size, Abs) and size.operands[0] is x:
            return said(Softsign(x), scene)
    return None


# --- softplus -----------------------------------------------------------------------


@rule(exact=False)
def softplus(op: Log, scene: Scene) -> Outcome:
    """log(1 + exp(x)) = softplus(x)"""
    for one, power in plus(op.operands[0]) if op.operands[0] is not None else ():
        if uniform(one) != 1 or not isinstance(power, Exp):
            continue
        x = power.operands[0]
        if x is None or not same_type(x, op):
            return miss("it broadcasts", power)
        if negated(x) is not None and isinstance(negated(x), Abs):
            return miss("it is the smaller part of a stable softplus", power)
        return said(Softplus(x), scene)
    return None


@rule(exact=False)
def stable_softplus(op: Add, scene: Scene) -> Outcome:
    """max(x, 0) + log(1 + exp(-|x|)) = softplus(x)"""
    for positive, rest in plus(op):
        x = _positive(positive)
        if x is None or not isinstance(rest, Log) or rest.operands[0] is None:
            continue
        for one, power in plus(rest.operands[0]):
            if uniform(one) != 1 or not isinstance(power, Exp):
                continue
            size = negated(power.operands[0])
            if isinstance(size, Abs) and size.operands[0] is x and same_type(x, op):
                return said(Softplus(x), scene)
    return None


def _positive(value: Value) -> Value | None:
    """x, where ``value`` is max(x, 0)."""
    if isinstance(value, Relu):
        return value.operands[0]
    if isinstance(value, Max) and len(value.operands) == 2:
        for x, zero in (value.operands, value.operands[::-1]):
            if is_zero(zero) and x is not None and same_type(x, value):
                return x
    if isinstance(value, Clip) and value.operand(2) is None:
        return value.operands[0] if is_zero(value.operand(1)) else None
    return None


@rule(exact=False)
def softplus_above(op: Where, scene: Scene) -> Outcome:
    """where(x > 20, x, softplus(x)) = softplus(x), where both round to one number"""
    found = branches(op)
    if found is None or op.dtype is None:
        return None
    x, curve = found.above, found.below
    if not isinstance(curve, Softplus) or curve.operands[0] is not x:
        return None
    if found.x is not x or not same_type(x, op):
        return None
    bound, rounding = found.bound, ROUNDING.get(op.dtype, 2.0**-8)
    if bound <= 0 or math.exp(-bound) > rounding * bound:
        return miss("at the threshold x is not the softplus of x yet", op)
    return curve


@rule(exact=False)
def mish(op: Mul, scene: Scene) -> Outcome:
    """x * tanh(softplus(x)) = mish(x)"""
    for x, curve in (op.operands, op.operands[::-1]):
        inner = curve.operands[0] if isinstance(curve, Tanh) else None
        if x is None or not isinstance(inner, Softplus) or inner.operands[0] is not x:
            continue
        if not same_type(x, op) or not scene.has(Mish):
            return None
        return said(Mish(x), scene)
    return None


# --- their pieces of straight lines -------------------------------------------------


@dataclass(frozen=True)
class Ramp:
    """``slope * x + offset``, kept within 0 and 1."""

    x: Value
    slope: float
    offset: float


def ramp(value: Value, number: float, scene: Scene) -> Ramp | None:
    """What a clipped line, times a number, says."""
    found = clamped(value)
    if found is None or found.low != 0 or found.high is None or not number > 0:
        return None
    if not close(float(found.high) * number, 1.0, value):
        return None
    line, offset = found.x, 0.0
    for moved, shift in plus(found.x):
        known = uniform(shift)
        if known is not None:
            line, offset = moved, float(known)
    inside = scaled(line, scene)
    if inside is None or not same_type(inside[0], value):
        return None
    if offset == 0 and number == 1 and inside[1] == 1:
        return None  # a clip, and no more
    return Ramp(inside[0], inside[1] * number, offset * number)


@rule(exact=False)
def hard_sigmoid(op: Clip | Mul | Div | Max | Min, scene: Scene) -> Outcome:
    """clip(x + 3, 0, 6) / 6 = clip(a * x + b, 0, 1) = hardsigmoid(x)"""
    parts, number = factors(op, scene) if isinstance(op, Mul | Div) else ([op], 1.0)
    found = ramp(parts[0], number, scene) if len(parts) == 1 else None
    if found is None or not same_type(found.x, op):
        return None
    if op.dtype is not DType.F32:
        return miss("runtimes compute it in float32 alone", op)
    made = HardSigmoid(found.x, alpha=found.slope, beta=found.offset)
    return said(made, scene)


@rule(exact=False)
def hard_swish(op: Mul | Div, scene: Scene) -> Outcome:
    """x * hardsigmoid(x) = x * clip(x + 3, 0, 6) / 6 = hardswish(x)"""
    if not scene.has(HardSwish):
        return None
    parts, number = factors(op, scene)
    for x, gate in (parts, parts[::-1]) if len(parts) == 2 else ():
        if not isinstance(gate, HardSigmoid):
            found = ramp(gate, number, scene)
        elif number == 1 and gate.operands[0] is not None:
            found = Ramp(gate.operands[0], gate.alpha, gate.beta)
        else:
            continue
        if found is None or found.x is not x or not same_type(x, op):
            continue
        if op.dtype is not DType.F32:
            return miss("runtimes compute it in float32 alone", op)
        if not close(found.slope, 1 / 6, op) or not close(found.offset, 0.5, op):
            return miss("its slope is not 1/6, or its middle not 1/2", gate)
        return said(HardSwish(x), scene)
    return None


RULES: tuple[Rule, ...] = (
    sigmoid,
    sigmoid_by_tanh,
    swish,
    softsign,
    softplus,
    stable_softplus,
    softplus_above,
    mish,
    hard_swish,
    hard_sigmoid,
)


@dataclass(frozen=True)
class RaiseActivations(RulePass):
    """Recognise Swish (opset 24), Mish (18), HardSwish (14), Softplus and others.

    x * tanh(log(1 + exp(x)))   -->   mish(x)

    ``swish`` is for targets that run, or lower, that op: few runtimes have it.
    """

    swish: bool = True

    def rules(self) -> Sequence[Rule]:
        return [r for r in RULES if self.swish or r is not swish]
