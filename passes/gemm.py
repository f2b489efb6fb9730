"""Gemm: products of matrices with a bias, and transposes that it takes for free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.dims import equal
from graphopt.ir import Value
from graphopt.ops import Add, Flatten, Gemm, MatMul, Reshape, Transpose
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule

from .match import perm_of, stretches_nothing


@rule(exact=False)
def product_and_sum(op: Add, scene: Scene) -> Outcome:
    """a @ b + c = gemm(a, b, c) for matrices"""
    for product, bias in (op.operands, op.operands[::-1]):
        if not isinstance(product, MatMul) or bias is None:
            continue
        a, b = product.operands
        if a is None or b is None or a.rank != 2 or b.rank != 2:
            return miss("they are not matrices", product)
        if not scene.single(product):
            return miss("the product is read elsewhere too", product)
        if not stretches_nothing(bias, product):
            return miss("the bias may stretch the product", bias)
        if op.dtype is None or not op.dtype.is_float:
            return miss("Gemm is for floating point", product)
        return Gemm(a, b, bias)
    return None


@rule(exact=False)
def bias_of_gemm(op: Add, scene: Scene) -> Outcome:
    """gemm(a, b) + c = gemm(a, b, c)"""
    for product, bias in (op.operands, op.operands[::-1]):
        if not isinstance(product, Gemm) or bias is None or bias.constant is None:
            continue
        if product.operand(2) is not None or not scene.single(product):
            return miss("it has a bias, or is read elsewhere too", product)
        if not stretches_nothing(bias, product):
            return miss("the bias may stretch the product", bias)
        return product.copy(operands=(*product.operands[:2], bias), beta=1.0)
    return None


@rule(exact=False)
def transposed_operand(op: Gemm) -> Outcome:
    """gemm(transpose(a), b) = gemm(a, b) with transA"""
    operands = list(op.operands)
    turned = {"transA": op.transA, "transB": op.transB}
    for i, name in enumerate(turned):
        value = operands[i]
        if isinstance(value, Transpose) and perm_of(2, value.perm) == (1, 0):
            operands[i] = value.operands[0]
            turned[name] = 1 - turned[name]
    if operands == list(op.operands):
        return None
    return op.copy(operands=operands, **turned)


@rule(exact=False)
def flattened_product(op: Reshape, scene: Scene) -> Outcome:
    """split(gemm(merge(x), w, b)) = x @ w + b, where leading dims are merged"""
    product = op.operands[0]
    if not isinstance(product, Gemm) or op.rank is None or op.rank < 3:
        return None
    rows, weight, *bias = product.operands
    x = rows.operands[0] if isinstance(rows, Reshape | Flatten) else None
    if x is None or weight is None or product.transA or not scene.single(product):
        return None
    if x.rank != op.rank or not rows_of(x, rows) or not rows_of(op, product):
        return None
    if not all(map(equal, x.shape[:-1], op.shape[:-1])):  # type: ignore[index]
        return None
    if product.alpha != 1 or (bias and product.beta != 1):
        return miss("the product is scaled", product)
    if product.transB:
        if weight.constant is None or not scene.single(weight):
            return miss("others read the transposed weight too", weight)
        weight = Transpose(weight, perm=(1, 0))
    made: Value = MatMul(x, weight)
    if not bias or bias[0] is None:
        return made
    if bias[0].rank is None or bias[0].rank > 1:
        return miss("the bias is no vector", bias[0])
    return Add(made, bias[0])


def rows_of(x: Value, rows: Value | None) -> bool:
    """True where ``rows`` are all vectors of ``x`` along its last axis, in order."""
    if rows is None or rows.shape is None or x.shape is None or len(rows.shape) != 2:
        return False
    return equal(x.shape[-1], rows.shape[1])


RULES: tuple[Rule, ...] = (
    product_and_sum,
    bias_of_gemm,
    transposed_operand,
    flattened_product,
)


@dataclass(frozen=True)
class Gemms(RulePass):
    """Matrix products with their bias and their transposes in one op.

    a @ transpose(b) + c   -->   gemm(a, b, c, transB=1)
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
