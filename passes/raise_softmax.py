"""Raise: softmax and its logarithm from exponentials and their sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.ir import Value
from graphopt.ops import (
    Cast,
    Div,
    Exp,
    Log,
    LogSoftmax,
    Mul,
    Reciprocal,
    ReduceLogSumExp,
    ReduceMax,
    ReduceSum,
    Softmax,
    Sub,
)
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule
from graphopt.types import DType

from .match import axis_of, same_type, uniform
from .offered import said
from .raise_gelu import plus

_HALVES = (DType.F16, DType.BF16)

Summing = ReduceSum | ReduceMax | ReduceLogSumExp


def one_axis(value: Value | None, kind: type[Summing]) -> tuple[Value, int] | None:
    """x and the one axis, counted from the end, of a reduction that keeps its dims."""
    if not isinstance(value, kind) or not value.keepdims:
        return None
    x, axes = value.operands[0], value.operand(1)
    if x is None or not x.rank:
        return None
    chosen = None if axes is None else axes.ints
    if not chosen:
        if axes is not None or value.noop_with_empty_axes or x.rank != 1:
            return None
        chosen = (0,)
    return (x, axis_of(chosen[0], x.rank) - x.rank) if len(chosen) == 1 else None


def unmoved(value: Value, axis: int) -> Value:
    """x, where ``value`` is x less its largest element along the axis."""
    if isinstance(value, Sub):
        x, top = value.operands
        found = one_axis(top, ReduceMax)
        if x is not None and found == (x, axis):
            return x
    return value


def inverted(value: Value | None) -> Value | None:
    """What a value is one over."""
    if isinstance(value, Reciprocal):
        return value.operands[0]
    if isinstance(value, Div) and uniform(value.operands[0]) == 1:
        return value.operands[1]
    return None


@rule(exact=False)
def softmax(op: Div | Mul, scene: Scene) -> Outcome:
    """exp(x) / sum(exp(x)) = exp(x - max(x)) / sum(exp(x - max(x))) = softmax(x)"""
    pairs = [op.operands] if isinstance(op, Div) else [op.operands, op.operands[::-1]]
    for power, total in pairs:
        if not isinstance(op, Div):
            total = inverted(total)
        found = one_axis(total, ReduceSum)
        if found is None or found[0] is not power or not isinstance(power, Exp):
            continue
        if scene.uses(power) > 2:
            return miss("the powers are read elsewhere too", power)
        x = power.operands[0]
        if x is None or not same_type(x, op):
            return None
        return said(Softmax(unmoved(x, found[1]), axis=found[1]), scene)
    return None


@rule(exact=False)
def log_of_softmax(op: Log, scene: Scene) -> Outcome:
    """log(softmax(x)) = logsoftmax(x)"""
    inner = op.operands[0]
    if not isinstance(inner, Softmax):
        return None
    if not scene.single(inner):
        return miss("the softmax is read elsewhere too", inner)
    return said(LogSoftmax(inner.operands[0], axis=inner.axis), scene)


@rule(exact=False)
def exp_of_log_softmax(op: Exp, scene: Scene) -> Outcome:
    """exp(logsoftmax(x)) = softmax(x)"""
    inner = op.operands[0]
    if not isinstance(inner, LogSoftmax) or not scene.single(inner):
        return None
    return said(Softmax(inner.operands[0], axis=inner.axis), scene)


@rule(exact=False)
def log_softmax(op: Sub, scene: Scene) -> Outcome:
    """x - log(sum(exp(x))) = logsoftmax(x), also of x less its largest element"""
    x, rest = op.operands
    if x is None or rest is None or not same_type(x, op):
        return None
    found = logarithm(rest)
    if found is not None and found[0] is x:
        return said(LogSoftmax(unmoved(x, found[1]), axis=found[1]), scene)
    # x - (max(x) + log(sum(exp(x - max(x)))))
    for top, part in plus(rest):
        highest, found = one_axis(top, ReduceMax), logarithm(part)
        if found is None or highest != (x, found[1]):
            continue
        if found[0] is not x and unmoved(found[0], found[1]) is x:
            return said(LogSoftmax(x, axis=found[1]), scene)
    return None


def logarithm(value: Value) -> tuple[Value, int] | None:
    """x and the axis, where ``value`` is log(sum(exp(x)))."""
    if isinstance(value, ReduceLogSumExp):
        return one_axis(value, ReduceLogSumExp)
    found = one_axis(value.operands[0], ReduceSum) if isinstance(value, Log) else None
    if found is None or not isinstance(found[0], Exp) or found[0].operands[0] is None:
        return None
    return found[0].operands[0], found[1]


@rule(exact=False)
def narrow_softmax(op: Cast, scene: Scene) -> Outcome:
    """half(softmax(single(x))) = softmax(x), which computes in single inside"""
    inner = op.operands[0]
    if not isinstance(inner, Softmax | LogSoftmax) or op.dtype not in _HALVES:
        return None
    wide = inner.operands[0]
    if not isinstance(wide, Cast) or inner.dtype is not DType.F32:
        return None
    x = wide.operands[0]
    if x is None or x.dtype is not op.dtype:
        return None
    if not scene.single(inner):
        return miss("the softmax is read elsewhere too", inner)
    return said(inner.with_operands([x]), scene)


RULES: tuple[Rule, ...] = (
    softmax,
    log_of_softmax,
    exp_of_log_softmax,
    log_softmax,
    narrow_softmax,
)


@dataclass(frozen=True)
class RaiseSoftmax(RulePass):
    """Recognise Softmax and LogSoftmax.

    exp(x - max(x)) / sum(exp(x - max(x)))   -->   softmax(x)
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
