"""Raise: the Gaussian error linear unit from the arithmetic that spells it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graphopt.ir import Value
from graphopt.ops import Add, Div, Erf, Gelu, Mul, Pow, Sigmoid, Tanh
from graphopt.pipeline import RulePass
from graphopt.rewrite import Miss, Outcome, Rule, Scene, miss, rule
from graphopt.types import DType

from .match import same_type, uniform

CLOSE = {DType.F64: 1e-12, DType.F32: 2e-5, DType.F16: 1e-3, DType.BF16: 1e-2}
"""How far a spelled constant may be from the exact one, relatively, by element type.

1.4142 is off by 1e-5, and fp16 holds no more than three digits.
"""


def factors(value: Value, scene: Scene) -> tuple[list[Value], float]:
    """A product as its factors that are no constants, and the product of the others."""
    found: list[Value] = []
    number = 1.0
    stack: list[tuple[Value, bool]] = [(value, True)]
    while stack:
        part, root = stack.pop()
        known = uniform(part)
        if known is not None:
            number *= float(known)
        elif isinstance(part, Mul) and (root or scene.single(part)):
            stack.extend([(v, False) for v in part.operands if v is not None])
        elif isinstance(part, Div) and (root or scene.single(part)):
            divisor = uniform(part.operands[1])
            if divisor is None or not divisor:
                found.append(part)
                continue
            number /= float(divisor)
            if part.operands[0] is not None:
                stack.append((part.operands[0], False))
        else:
            found.append(part)
    return found, number


def plus(value: Value) -> Iterator[tuple[Value, Value]]:
    """The operands of a sum, both ways round."""
    if isinstance(value, Add):
        a, b = value.operands
        if a is not None and b is not None:
            yield a, b
            yield b, a


def close(number: float, exact: float, x: Value) -> bool:
    """``number`` is ``exact``, as well as the element type of x can say it."""
    tolerance = CLOSE.get(x.dtype) if x.dtype else None
    return tolerance is not None and math.isclose(number, exact, rel_tol=tolerance)


@rule(exact=False)
def gelu(op: Mul | Div, scene: Scene) -> Outcome:
    """0.5 * x * (1 + erf(x / sqrt(2))) = gelu(x)"""
    return spelled_gelu(op, scene) if scene.has(Gelu) else None


def spelled_gelu(op: Mul | Div, scene: Scene) -> Gelu | Miss | None:
    """The GELU that a product with an error function, or a tanh, is."""
    parts, number = factors(op, scene)
    if len(parts) != 2 or not close(number, 0.5, op):
        return None
    for x, bracket in (parts, parts[::-1]):
        for one, curve in plus(bracket):
            if uniform(one) != 1 or not same_type(x, op):
                continue
            if not scene.single(bracket) or not scene.single(curve):
                return miss("parts of it are read elsewhere too", bracket)
            if isinstance(curve, Erf) and _is_scaled(curve.operands[0], x, scene):
                return Gelu(x)
            if isinstance(curve, Tanh) and _is_cubic(curve.operands[0], x, scene):
                return Gelu(x, approximate="tanh")
    return miss("one factor is not 1 + erf(x / sqrt(2)) of the other", op)


def _is_scaled(value: Value | None, x: Value, scene: Scene) -> bool:
    """``value`` is x / sqrt(2)."""
    if value is None:
        return False
    parts, number = factors(value, scene)
    return len(parts) == 1 and parts[0] is x and close(number, math.sqrt(0.5), x)


@rule(exact=False)
def gelu_by_sigmoid(op: Mul, scene: Scene) -> Outcome:
    """x * sigmoid(2 * sqrt(2 / pi) * (x + 0.044715 * x**3)) = gelu(x)

    As (1 + tanh(z)) / 2 = sigmoid(2 * z).
    """
    if not scene.has(Gelu):
        return None
    for x, gate in (op.operands, op.operands[::-1]):
        if not isinstance(gate, Sigmoid) or x is None or not same_type(x, op):
            continue
        if not _is_cubic(gate.operands[0], x, scene, 2.0):
            continue
        if not scene.single(gate):
            return miss("the sigmoid is read elsewhere too", gate)
        return Gelu(x, approximate="tanh")
    return None


def _is_cubic(value: Value | None, x: Value, scene: Scene, times: float = 1.0) -> bool:
    """``value`` is sqrt(2/pi) * (x + 0.044715 * x**3), so many times."""
    if value is None:
        return False
    parts, number = factors(value, scene)
    if not close(number, times * math.sqrt(2 / math.pi), x):
        return False
    if len(parts) == 1:
        return any(
            first is x and _is_power(second, x, 3, 0.044715, scene)
            for first, second in plus(parts[0])
        )
    # x * (1 + 0.044715 * x**2)
    return len(parts) == 2 and any(
        a is x
        and any(
            uniform(one) == 1 and _is_power(second, x, 2, 0.044715, scene)
            for one, second in plus(b)
        )
        for a, b in (parts, parts[::-1])
    )


def _is_power(
    value: Value, x: Value, exponent: int, coefficient: float, scene: Scene
) -> bool:
    """``value`` is coefficient * x**exponent."""
    parts, number = factors(value, scene)
    if not close(number, coefficient, x):
        return False
    power = 0
    for part in parts:
        if part is x:
            power += 1
        elif isinstance(part, Pow) and part.operands[0] is x:
            known = uniform(part.operands[1])
            if known is None:
                return False
            power += int(known) if known == int(known) else 1000
        else:
            return False
    return power == exponent


RULES: tuple[Rule, ...] = (gelu, gelu_by_sigmoid)


@dataclass(frozen=True)
class RaiseGelu(RulePass):
    """Recognise Gelu (erf and tanh forms) where the opset has it (20).

    0.5 * x * (1 + erf(x / 1.4142))   -->   gelu(x)
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
