"""Choices by the size of a number: two branches at a bound, and values kept between."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from graphopt.ir import Value
from graphopt.ops import (
    Clip,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Max,
    Min,
    Not,
    Relu,
    Where,
)

from .match import same_shape, same_type, uniform


@dataclass(frozen=True)
class Branches:
    """``above`` where x is more than ``bound``, ``below`` where less.

    Above it is too where both are equal, if ``equal_above``, and where x is NaN, if
    ``nan_above``.
    """

    x: Value
    bound: float
    above: Value
    below: Value
    equal_above: bool
    nan_above: bool


def branches(op: Where) -> Branches | None:
    """What a choice between two values depends on, where that is one size of x."""
    condition, yes, no = op.operands
    flipped = isinstance(condition, Not)
    if isinstance(condition, Not):
        condition = condition.operands[0]
    if not isinstance(condition, Greater | GreaterOrEqual | Less | LessOrEqual):
        return None
    x, other = condition.operands
    more = isinstance(condition, Greater | GreaterOrEqual)
    bound = uniform(other)
    if bound is None:
        x, bound, more = other, uniform(x), not more
    if bound is None or x is None or yes is None or no is None:
        return None
    if not same_shape(condition, x):  # the bound stretches it
        return None
    strict = isinstance(condition, Greater | Less)
    if flipped:
        yes, no = no, yes
    above, below = (yes, no) if more else (no, yes)
    return Branches(
        x,
        float(bound),
        above,
        below,
        equal_above=more != strict,
        nan_above=not more,  # a comparison with NaN is false
    )


@dataclass(frozen=True)
class Clamped:
    """x, kept at or above ``low`` and at or below ``high``; None: no such bound."""

    x: Value
    low: Any = None
    high: Any = None


def clamped(value: Value) -> Clamped | None:
    """What one op, or a maximum and a minimum, keep between two numbers."""
    found = _bounded(value)
    if found is None:
        return None
    inner = _bounded(found.x)
    if inner is None or isinstance(value, Clip):
        return found
    if found.low is None and inner.high is None:
        found = replace(found, x=inner.x, low=inner.low)
    elif found.high is None and inner.low is None:
        found = replace(found, x=inner.x, high=inner.high)
    if found.low is not None and found.high is not None and found.low > found.high:
        return None
    return found


def _bounded(value: Value) -> Clamped | None:
    if isinstance(value, Relu) and value.operands[0] is not None and value.dtype:
        return Clamped(value.operands[0], low=value.dtype.numpy.type(0))
    if isinstance(value, Clip) and value.operands[0] is not None:
        bounds = [uniform(value.operand(i)) for i in (1, 2)]
        known = [value.operand(i) is None or bounds[i - 1] is not None for i in (1, 2)]
        return Clamped(value.operands[0], *bounds) if all(known) else None
    if not isinstance(value, Max | Min) or len(value.operands) != 2:
        return None
    for x, number in (value.operands, value.operands[::-1]):
        bound = uniform(number)
        if bound is None or bound != bound or x is None or not same_type(x, value):
            continue
        return (
            Clamped(x, low=bound) if isinstance(value, Max) else Clamped(x, high=bound)
        )
    return None
