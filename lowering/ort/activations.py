"""Activations, and biases before them, as ONNX Runtime's own ops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.ir import Value
from graphopt.ops import Add, Gelu, Mul, Sigmoid, Swish, contrib
from graphopt.ops.contrib import BiasGelu, FastGelu, QuickGelu
from graphopt.passes.match import is_row, same_type
from graphopt.passes.raise_gelu import factors, plus
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule

from .gate import Fusion


def _biased(value: Value | None, scene: Scene) -> tuple[Value, Value] | None:
    """x and b of ``x + b``, b being a vector for each row."""
    if not isinstance(value, Add) or not scene.single(value):
        return None
    for x, bias in plus(value):
        if is_row(bias, value) and same_type(x, value):
            return x, bias
    return None


@rule(exact=False)
def bias_gelu(op: Gelu, scene: Scene) -> Outcome:
    """gelu(x + b) = biasgelu(x, b)"""
    if op.approximate != "none":
        return None
    found = _biased(op.operands[0], scene)
    return None if found is None else BiasGelu(*found)


@rule(exact=False)
def fast_gelu(op: Gelu, scene: Scene) -> Outcome:
    """gelu(x + b) by tanh = fastgelu(x, b)"""
    if op.approximate != "tanh":
        return None
    found = _biased(op.operands[0], scene)
    return None if found is None else FastGelu(*found)


@rule(exact=False)
def quick_gelu(op: Mul, scene: Scene) -> Outcome:
    """x * sigmoid(a * x) = quickgelu(x, a)"""
    for x, gate in (op.operands, op.operands[::-1]):
        if not isinstance(gate, Sigmoid) or x is None or gate.operands[0] is None:
            continue
        if not scene.single(gate):
            return miss("the gate is read elsewhere too", gate)
        inner = gate.operands[0]
        parts, alpha = ([x], 1.0) if inner is x else factors(inner, scene)
        if len(parts) != 1 or parts[0] is not x or not same_type(x, inner):
            return miss("the gate is not of the same value", inner)
        return QuickGelu(x, alpha=alpha)
    return None


@rule(exact=False)
def swish(op: Swish) -> Outcome:
    """swish(x, a) = quickgelu(x, a)"""
    return QuickGelu(op.operands[0], alpha=op.alpha)


@rule(exact=False)
def gelu(op: Gelu) -> Outcome:
    """gelu(x) = com.microsoft.gelu(x), or fastgelu(x) by tanh"""
    x = op.operands[0]
    return contrib.Gelu(x) if op.approximate == "none" else FastGelu(x)


RULES: tuple[Rule, ...] = (bias_gelu, fast_gelu, quick_gelu)
TWINS: tuple[Rule, ...] = (swish, gelu)


@dataclass(frozen=True)
class FuseActivations(Fusion):
    """Activations with the bias before them, and those that are products.

    gelu(x + b)   -->   biasgelu(x, b)
    """

    def fusions(self) -> Sequence[Rule]:
        return RULES

    def twins(self) -> Sequence[Rule]:
        return TWINS
