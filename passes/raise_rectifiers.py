"""Raise: rectifiers and exponential units from choices, maxima and minima."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir import Op, Value
from graphopt.ops import (
    Abs,
    Add,
    Celu,
    Clip,
    Constant,
    Div,
    Elu,
    Exp,
    HardSigmoid,
    LeakyRelu,
    Max,
    Min,
    Mul,
    Neg,
    PRelu,
    Relu,
    Selu,
    Sigmoid,
    Softmax,
    Softplus,
    Sub,
    Tanh,
    ThresholdedRelu,
    Where,
)
from graphopt.ops.activation import number
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule

from .branches import branches, clamped
from .match import negated, same_type, stretches_nothing, uniform
from .offered import said
from .raise_activations import as_attribute, scaled
from .raise_gelu import close, factors, plus

SELU = 1.6732632423543772, 1.0507009873554805
"""Alpha and gamma of Klambauer et al., arXiv 1706.02515."""


@rule(exact=False)
def relu(op: Max | Clip, scene: Scene) -> Outcome:
    """max(x, 0) = clip(x, 0) = relu(x)"""
    found = clamped(op)
    if found is None or found.low is None or found.high is not None or found.low != 0:
        return None
    if op.dtype is None or not op.dtype.is_float or not same_type(found.x, op):
        return None
    return said(Relu(found.x), scene)


@rule(exact=False)
def clip(op: Max | Min, scene: Scene) -> Outcome:
    """min(max(x, a), b) = clip(x, a, b), where a is not above b"""
    found = clamped(op)
    if found is None or found.low is None or found.high is None:
        return None
    if op.dtype is None or not op.dtype.is_float:
        return None
    inner = next((v for v in op.operands if v is not None and uniform(v) is None), None)
    if inner is None or not scene.single(inner):
        return miss("the inner bound is read elsewhere too", inner)
    if not same_type(found.x, op):
        return None
    bounds = [Constant(np.asarray(bound)) for bound in (found.low, found.high)]
    return said(Clip(found.x, *bounds), scene)


RANGES: dict[type[Op], tuple[float, float]] = {
    Relu: (0.0, math.inf),
    Softplus: (0.0, math.inf),
    Exp: (0.0, math.inf),
    Abs: (0.0, math.inf),
    Sigmoid: (0.0, 1.0),
    HardSigmoid: (0.0, 1.0),
    Softmax: (0.0, 1.0),
    Tanh: (-1.0, 1.0),
}
"""What the results of an op lie between."""


@rule(exact=False)
def clip_within(op: Clip) -> Outcome:
    """clip(f(x), a, b) = f(x), where f is never below a nor above b"""
    found = clamped(op)
    if found is None or not same_type(found.x, op):
        return None
    low, high = -math.inf, math.inf
    if found.x.op is not None:
        low, high = RANGES.get(type(found.x.op), (low, high))
    within = (found.low is None or found.low <= low) and (
        found.high is None or found.high >= high
    )
    return found.x if within else None


# --- a slope below zero -------------------------------------------------------------


def slope(value: Value | None, x: Value, scene: Scene) -> Value | float | None:
    """a, where ``value`` is a * x: a number, or a value that broadcasts to x."""
    if not isinstance(value, Mul | Div) or not same_type(value, x):
        return None
    found = scaled(value, scene)
    if found is not None and found[0] is x:
        return found[1]
    if isinstance(value, Mul):
        for a, b in (value.operands, value.operands[::-1]):
            if b is x and a is not None and a is not x and stretches_nothing(a, x):
                return a
    return None


def leaky(x: Value, below: Value | float, scene: Scene) -> Outcome:
    """x, times a number or a value where it is negative."""
    if isinstance(below, Value):
        return said(PRelu(x, below), scene)
    held = as_attribute(below, x.dtype)
    if held is None:
        return miss("an attribute cannot hold the slope", x)
    return said(LeakyRelu(x, alpha=held), scene)


@rule(exact=False)
def leaky_relu(op: Where, scene: Scene) -> Outcome:
    """where(x < 0, a * x, x) = leakyrelu(x), or prelu(x, a)"""
    found = branches(op)
    if found is None or found.bound != 0 or found.above is not found.x:
        return None
    below = slope(found.below, found.x, scene)
    if below is None or not same_type(found.x, op):
        return None
    return leaky(found.x, below, scene)


@rule(exact=False)
def leaky_maximum(op: Max, scene: Scene) -> Outcome:
    """max(x, a * x) = leakyrelu(x), for a from 0 to 1"""
    for x, other in (op.operands, op.operands[::-1]) if len(op.operands) == 2 else ():
        below = None if x is None else slope(other, x, scene)
        if x is None or not isinstance(below, float) or not same_type(x, op):
            continue
        if 0 <= below <= 1:
            return leaky(x, below, scene)
    return None


@rule(exact=False)
def leaky_sum(op: Add | Sub, scene: Scene) -> Outcome:
    """relu(x) - a * relu(-x) = relu(x) + a * min(x, 0) = leakyrelu(x)

    Or prelu(x, a), where a is no number.
    """
    for positive, rest, sign in _summands(op):
        x = positive.operands[0] if isinstance(positive, Relu) else None
        if x is None or not same_type(x, op) or not scene.single(rest):
            continue
        if isinstance(rest, Mul | Div):
            for part in rest.operands:
                way = None if part is None else _negative_part(part, x)
                if part is None or way is None or not scene.single(part):
                    continue
                below = slope(rest, part, scene)
                if isinstance(below, Value):
                    return leaky(x, below if way == sign else Neg(below), scene)
                if below is not None:
                    return leaky(x, way * sign * below, scene)
    return None


def _summands(op: Add | Sub) -> Iterator[tuple[Value, Value, int]]:
    """A first summand, another, and the sign before that."""
    a, b = op.operands
    if a is not None and b is not None:
        yield a, b, 1 if isinstance(op, Add) else -1
        if isinstance(op, Add):
            yield b, a, 1


def _negative_part(value: Value, x: Value) -> int | None:
    """1, where ``value`` is min(x, 0); -1, where it is relu(-x)."""
    if isinstance(value, Relu) and negated(value.operands[0]) is x:
        return -1
    found = clamped(value)
    if found is None or found.x is not x or found.low is not None or found.high != 0:
        return None
    return 1


@rule(exact=False)
def thresholded_relu(op: Where, scene: Scene) -> Outcome:
    """where(x > a, x, 0) = thresholdedrelu(x)"""
    found = branches(op)
    if found is None or found.above is not found.x or uniform(found.below) != 0:
        return None
    if found.equal_above and found.bound != 0:
        return miss("it keeps the threshold itself", op)
    if not same_type(found.x, op):
        return None
    if found.bound == 0:
        if not found.nan_above:
            return miss("of NaN it makes 0, which a relu does not", op)
        return said(Relu(found.x), scene)
    held = as_attribute(found.bound, op.dtype)
    if found.nan_above or held is None or held != found.bound:
        return miss("an attribute cannot hold the threshold, or it keeps NaN", op)
    return said(ThresholdedRelu(found.x, alpha=held), scene)


# --- exponential units --------------------------------------------------------------


@dataclass(frozen=True)
class Unit:
    """``alpha * (exp(x / beta) - 1)``."""

    x: Value
    alpha: float
    beta: float


def unit(value: Value, scene: Scene) -> Unit | None:
    """What is added, or chosen, below zero."""
    parts, alpha = factors(value, scene)
    if len(parts) != 1:
        return None
    inner = parts[0]
    power: Value | None = None
    if isinstance(inner, Sub) and uniform(inner.operands[1]) == 1:
        power = inner.operands[0]
    for other, one in plus(inner):
        power = other if uniform(one) == -1 else power
    if not isinstance(power, Exp) or power.operands[0] is None:
        return None
    x = power.operands[0]
    found = scaled(x, scene)
    if found is not None and found[1]:
        return Unit(found[0], alpha, 1 / found[1])
    return Unit(x, alpha, 1.0)


def _is_unit(found: Unit, scene: Scene) -> Outcome:
    """elu(x), or celu(x)."""
    x = found.x
    alpha = as_attribute(found.alpha, x.dtype)
    if alpha is None:
        return miss("an attribute cannot hold alpha", x)
    if found.beta == 1:
        return said(Elu(x, alpha=alpha), scene)
    if not found.beta > 0 or not close(found.alpha, found.beta, x):
        return miss("x is not divided by what multiplies the power", x)
    return said(Celu(x, alpha=alpha), scene)


@rule(exact=False)
def exponential_unit(op: Where, scene: Scene) -> Outcome:
    """where(x > 0, c * x, c * a * (exp(x) - 1)) = c * elu(x)"""
    found = branches(op)
    if found is None or found.bound != 0:
        return None
    above, below = scaled(found.above, scene), unit(found.below, scene)
    if above is None or below is None or not same_type(found.x, op):
        return None
    if above[0] is not found.x or not above[1]:
        return None
    if below.x is not found.x:
        held = clamped(below.x)
        if held is None or held.x is not found.x or held.low is not None:
            return None
        if held.high != 0:
            return None
    made = _is_unit(Unit(found.x, below.alpha / above[1], below.beta), scene)
    if above[1] == 1 or not isinstance(made, Value):
        return made
    return Mul(made, number(found.x, above[1]))


@rule(exact=False)
def exponential_sum(op: Add, scene: Scene) -> Outcome:
    """relu(x) + a * (exp(min(x, 0)) - 1) = elu(x)

    And relu(x) + min(a * (exp(x) - 1), 0), for an a above 0.
    """
    for positive, rest in plus(op):
        x = positive.operands[0] if isinstance(positive, Relu) else None
        if x is None or not same_type(x, op):
            continue
        capped = clamped(rest)
        outside = capped is not None and capped.high == 0 and capped.low is None
        below = unit(capped.x if capped is not None and outside else rest, scene)
        if below is None or not same_type(below.x, op):
            continue
        if outside and below.x is x and below.alpha > 0 and below.beta > 0:
            return _is_unit(below, scene)
        inside = clamped(below.x)
        if outside or inside is None or inside.x is not x:
            continue
        if inside.high == 0 and inside.low is None and below.beta > 0:
            return _is_unit(Unit(x, below.alpha, below.beta), scene)
    return None


@rule(exact=False)
def selu(op: Mul, scene: Scene) -> Outcome:
    """1.0507 * elu(x), of alpha 1.6733 = selu(x)"""
    parts, factor = factors(op, scene)
    if len(parts) != 1 or not isinstance(parts[0], Elu):
        return None
    inner = parts[0]
    x = inner.operands[0]
    if x is None or not same_type(x, op):
        return None
    alpha, gamma = SELU
    if not close(inner.alpha, alpha, op) or not close(factor, gamma, op):
        return None
    held = as_attribute(factor, x.dtype)
    if held is None or not scene.single(inner):
        return miss("the elu is read elsewhere too", inner)
    return said(Selu(x, alpha=inner.alpha, gamma=held), scene)


RULES: tuple[Rule, ...] = (
    relu,
    clip,
    clip_within,
    leaky_relu,
    leaky_maximum,
    leaky_sum,
    thresholded_relu,
    exponential_unit,
    exponential_sum,
    selu,
)


@dataclass(frozen=True)
class RaiseRectifiers(RulePass):
    """Recognise Relu, Clip, LeakyRelu, PRelu, Elu and their kin.

    where(x < 0, 0.1 * x, x)   -->   leakyrelu(x)
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
