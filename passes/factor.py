"""Products factored and reassociated, where that costs less.

A low-rank update beside a weight becomes part of it; two weights in a row become one
where the one is no larger; what multiplies two addends multiplies their sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir import Value
from graphopt.ops import Add, MatMul, Mul, Sub
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule
from graphopt.types import DType

from .affine import QUIET, is_shared
from .match import same_type, stretches_nothing
from .scale_shift import Numbers, known_shape, narrowed, numbers

OPERATIONS = 10**10
"""Operations that two weights may take to be multiplied here."""

_OVERFLOW = "numbers would overflow or vanish"


def _matrix(value: Value | None) -> tuple[int, int] | None:
    shape = known_shape(value)
    if value is None or value.constant is None or shape is None or len(shape) != 2:
        return None
    return shape[0], shape[1]


@rule(exact=False)
@QUIET
def weights_in_a_row(op: MatMul, scene: Scene) -> Outcome:
    """(x @ a + c) @ b = x @ (a @ b) + c @ b where a @ b is no larger than both"""
    inner, b = op.operands
    bias: Value | None = None
    if isinstance(inner, Add) and known_shape(inner.operands[1]) is not None:
        product, bias = inner.operands
    else:
        product = inner
    right = _matrix(b)
    if not isinstance(product, MatMul) or right is None or inner is None:
        return None
    x, a = product.operands
    left = _matrix(a)
    if left is None or x is None or a is None or b is None or op.dtype is None:
        return None
    if left[0] * right[1] > left[0] * left[1] + right[0] * right[1]:
        return miss("the product of the weights is larger than both", b)
    if not scene.single(product) or not scene.single(inner):
        return miss("it is read elsewhere too", inner)
    if left[0] * left[1] * right[1] > OPERATIONS:
        return miss("the product of the weights takes too long", b)
    if is_shared(a, scene) or is_shared(b, scene):
        return miss("others read the weights too", b)
    first, second = numbers(a), numbers(b)
    assert first is not None
    assert second is not None
    weight = narrowed(first @ second, op.dtype)
    if weight is None:
        return miss(_OVERFLOW, op)
    made = MatMul(x, weight)
    if bias is None:
        return made
    if not stretches_nothing(bias, product):
        return miss("the bias stretches the product", bias)
    moved = _through(numbers(bias), second, op.dtype)
    return miss("the bias is not one row", bias) if moved is None else Add(made, moved)


def _through(bias: Numbers | None, weight: Numbers, dtype: DType) -> Value | None:
    """A row, times the weight."""
    if bias is None or not bias.ndim or any(dim != 1 for dim in bias.shape[:-1]):
        return None
    row = np.broadcast_to(bias.reshape(-1), (weight.shape[0],))
    return narrowed(row @ weight, dtype)


def _orders(op: Add | Sub) -> Iterator[tuple[Value, Value]]:
    left, right = op.operands
    if left is not None and right is not None:
        yield left, right
        if isinstance(op, Add):
            yield right, left


@rule(exact=False)
@QUIET
def weights_side_by_side(op: Add, scene: Scene) -> Outcome:
    """(x @ a + c) + x @ b = x @ (a + b) + c"""
    for first, second in _orders(op):
        bias: Value | None = None
        if isinstance(first, Add):
            first_product, bias = first.operands
        else:
            first_product = first
        if not isinstance(first_product, MatMul) or not isinstance(second, MatMul):
            continue
        (x, a), (y, b) = first_product.operands, second.operands
        if x is not y or _matrix(a) is None or _matrix(a) != _matrix(b):
            continue
        products = (first_product, first, second)
        if first_product is second or not all(map(scene.single, products)):
            return miss("a product is read elsewhere too", second)
        assert a is not None
        assert b is not None
        if is_shared(a, scene) or is_shared(b, scene):
            return miss("others read the weights too", b)
        left, right = numbers(a), numbers(b)
        assert left is not None
        assert right is not None
        weight = None if op.dtype is None else narrowed(left + right, op.dtype)
        if weight is None:
            return miss(_OVERFLOW, op)
        made: Value = MatMul(x, weight)
        return made if bias is None else Add(made, bias)
    return None


@rule(exact=False)
def common_matrix(op: Add | Sub, scene: Scene) -> Outcome:
    """a @ b + a @ c = a @ (b + c), b @ a + c @ a = (b + c) @ a"""
    left, right = op.operands
    if not isinstance(left, MatMul) or not isinstance(right, MatMul) or left is right:
        return None
    if left.dtype not in (DType.F32, DType.F64):
        return None  # a sum could overflow where none did
    for at in (0, 1):
        shared, b, c = left.operands[at], left.operands[1 - at], right.operands[1 - at]
        if shared is not right.operands[at] or b is None or c is None:
            continue
        if b.constant is not None and c.constant is not None:
            return None
        if not same_type(b, c):
            return miss("the other operands have different dims", op)
        if not scene.single(left) or not scene.single(right):
            return miss("a product is read elsewhere too", op)
        both = op.with_operands([b, c])
        return MatMul(both, shared) if at else MatMul(shared, both)
    return None


@rule(exact=False)
@QUIET
def common_factor(op: Add | Sub, scene: Scene) -> Outcome:
    """a * x + b * x = (a + b) * x"""
    left, right = op.operands
    if not isinstance(left, Mul) or not isinstance(right, Mul) or left is right:
        return None
    if not scene.single(left) or not scene.single(right):
        return None
    for x, a in (left.operands, left.operands[::-1]):
        for y, b in (right.operands, right.operands[::-1]):
            if x is not y or x is None or a is None or b is None or x.constant:
                continue
            made = _sum(op, a, b)
            if made is None:
                return miss("the sum of the factors may overflow, cancel or grow", op)
            result = Mul(x, made)
            return result if same_type(result, op) else None
    return None


def _sum(op: Add | Sub, a: Value, b: Value) -> Value | None:
    """Two factors as one; constants that cancel are left, they may round on purpose."""
    one, other = numbers(a), numbers(b)
    if a.constant is None and b.constant is None:
        fits = op.dtype in (DType.F32, DType.F64) and same_type(a, b)
        return op.with_operands([a, b]) if fits else None
    if one is None or other is None or op.dtype is None:
        return None
    total = one + other if isinstance(op, Add) else one - other
    largest = np.maximum(np.abs(one), np.abs(other))
    if total.size > max(one.size, other.size) or np.any(16 * np.abs(total) < largest):
        return None
    return narrowed(total, op.dtype)


RULES: tuple[Rule, ...] = (
    weights_in_a_row,
    weights_side_by_side,
    common_matrix,
    common_factor,
)


@dataclass(frozen=True)
class Factor(RulePass):
    """Multiply once by what would be multiplied by in two places, or in two steps.

    x @ w + (x @ a) @ b   -->   x @ (w + a @ b)
    y * a + y * b         -->   y * (a + b)
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
