"""Gemm from products, sums and transposes."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from equations import M, N, const, fires, graph_of, ints, misses, param, random, typed

from graphopt.exporter import to_proto
from graphopt.ir import Parameter, Value
from graphopt.ops import Add, Flatten, Gemm, MatMul, Relu, Reshape, Transpose
from graphopt.passes import gemm as g
from graphopt.types import DType, TensorType

F64 = DType.F64
A, B = param("a", N, 4, dtype=F64), param("b", 4, 3, dtype=F64)
SQUARE = param("q", 4, 4, dtype=F64)
BATCH = param("batch", 2, N, 4, dtype=F64)
W, NUMBER = random(4, 3, dtype=F64), const(1.5, F64)
BIAS, FULL = random(3, dtype=F64), param("full", N, 3, dtype=F64)
VAGUE = typed("vague", TensorType(F64, None))
COLUMN = param("column", N, 1, dtype=F64)
FULL_ROW = random(1, 3, dtype=F64)

EQUATIONS: list[tuple[Any, Value, Value]] = [
    (g.product_and_sum, Add(MatMul(A, B), BIAS), Gemm(A, B, BIAS)),
    (g.product_and_sum, Add(BIAS, MatMul(A, B)), Gemm(A, B, BIAS)),
    (g.product_and_sum, Add(MatMul(A, W), FULL), Gemm(A, W, FULL)),
    (g.product_and_sum, Add(MatMul(A, W), COLUMN), Gemm(A, W, COLUMN)),
    (
        g.product_and_sum,
        Add(MatMul(A, W), NUMBER),
        Gemm(A, W, NUMBER),
    ),
    (
        g.bias_of_gemm,
        Add(Gemm(A, B, alpha=0.5, beta=3.0), BIAS),
        Gemm(A, B, BIAS, alpha=0.5),
    ),
    (g.bias_of_gemm, Add(BIAS, Gemm(A, B)), Gemm(A, B, BIAS)),
    (g.transposed_operand, Gemm(Transpose(B), B), Gemm(B, B, transA=1)),
    (
        g.transposed_operand,
        Gemm(A, Transpose(A, perm=(1, 0)), alpha=2.0),
        Gemm(A, A, transB=1, alpha=2.0),
    ),
    (
        g.transposed_operand,
        Gemm(Transpose(SQUARE), Transpose(SQUARE), BIAS_4 := random(4, dtype=F64)),
        Gemm(SQUARE, SQUARE, BIAS_4, transA=1, transB=1),
    ),
    (g.transposed_operand, Gemm(Transpose(A), B, transA=1), Gemm(A, B)),
    (
        g.transposed_operand,
        Gemm(SQUARE, Transpose(SQUARE), transA=1, transB=1),
        Gemm(SQUARE, SQUARE, transA=1),
    ),
]


@pytest.mark.parametrize(("rule", "before", "after"), EQUATIONS)
def test_equation(rule: Any, before: Value, after: Value) -> None:
    fires(rule, before, after)


PRODUCT, GEMM = MatMul(A, B), Gemm(A, B)
I32 = DType.I32
GUARDS: list[tuple[Any, Any, str]] = [
    (g.product_and_sum, Add(MatMul(BATCH, B), BIAS), "not matrices"),
    (
        g.product_and_sum,
        Add(MatMul(A, param("v", 4, dtype=F64)), NUMBER),
        "not",
    ),
    (g.product_and_sum, (Add(PRODUCT, BIAS), PRODUCT), "read elsewhere too"),
    (g.product_and_sum, Add(PRODUCT, PRODUCT), "read elsewhere too"),
    (g.product_and_sum, Add(PRODUCT, random(2, 1, 3, dtype=F64)), "may stretch"),
    (g.product_and_sum, Add(PRODUCT, random(5, 3, dtype=F64)), "may stretch"),
    (
        g.product_and_sum,
        Add(PRODUCT, param("other", M, 3, dtype=F64)),
        "may stretch",
    ),
    (
        g.product_and_sum,
        Add(
            MatMul(param("i", 2, 4, dtype=I32), param("j", 4, 3, dtype=I32)),
            const(1, I32),
        ),
        "floating point",
    ),
    (g.product_and_sum, Add(PRODUCT, VAGUE), "may stretch"),
    (g.product_and_sum, Add(Relu(PRODUCT), BIAS), ""),
    (g.bias_of_gemm, Add(Gemm(A, B, BIAS), BIAS), "it has a bias"),
    (g.bias_of_gemm, (Add(GEMM, BIAS), GEMM), "read elsewhere too"),
    (g.bias_of_gemm, Add(GEMM, random(2, 1, 3, dtype=F64)), "may stretch"),
    (g.bias_of_gemm, Add(Gemm(A, W), FULL), ""),
    (g.transposed_operand, Gemm(A, B, Transpose(param("c", 3, 1, dtype=F64))), ""),
    (g.transposed_operand, Gemm(Transpose(SQUARE, perm=(0, 1)), B), ""),
    (g.transposed_operand, Gemm(A, B), ""),
]


@pytest.mark.parametrize(("rule", "before", "reason"), GUARDS)
def test_guard(rule: Any, before: Any, reason: str) -> None:
    misses(rule, before, reason)


@pytest.mark.parametrize("opset", [6, 7])
def test_before_opset_7_gemm_broadcast_by_an_attribute(opset: int) -> None:
    fires(g.product_and_sum, Add(MatMul(A, B), BIAS), Gemm(A, B, BIAS), opset=opset)
    model = to_proto(graph_of(Gemm(A, B, BIAS), opset=opset))
    onnx.checker.check_model(model, full_check=True)
    (node,) = model.graph.node
    assert ("broadcast" in [a.name for a in node.attribute]) == (opset < 7)


def test_matrices_of_unknown_type_are_left_alone() -> None:
    a, b = (Parameter(TensorType(None, shape), "x") for shape in ((3, 4), (4, 3)))
    bias = Parameter(TensorType(None, (3,)), "bias")
    misses(g.product_and_sum, Add(MatMul(a, b), bias), "floating point")


# Products of flattened rows

ROWS = param("rows", 2, N, 4, dtype=F64)
WIDE = random(3, 4, dtype=F64)


def flattened(
    weight: Value, *bias: Value | None, x: Value = ROWS, n: int = 3, **attrs: Any
) -> Value:
    merged = Reshape(x, ints(-1, 4))
    return Reshape(Gemm(merged, weight, *bias, **attrs), ints(2, -1, n))


def test_products_of_flattened_rows() -> None:
    done = Add(MatMul(ROWS, W), BIAS)
    fires(g.flattened_product, flattened(W, BIAS), done)
    fires(g.flattened_product, flattened(W), MatMul(ROWS, W))
    turned = MatMul(ROWS, Transpose(WIDE, perm=(1, 0)))
    fires(g.flattened_product, flattened(WIDE, transB=1), turned)
    flat = Reshape(Gemm(Flatten(ROWS, axis=2), W), ints(2, -1, 3))
    fires(g.flattened_product, flat, MatMul(ROWS, W))


def test_products_that_are_not_of_the_same_rows_stay() -> None:
    swapped = Reshape(Gemm(Reshape(ROWS, ints(-1, 4)), W), ints(-1, 2, 3))
    misses(g.flattened_product, swapped)
    still = param("still", 3, 2, 4, dtype=F64)
    other = Reshape(Gemm(Reshape(still, ints(-1, 4)), W), ints(3, 1, 6))
    misses(g.flattened_product, other)
    split = Reshape(Gemm(Reshape(still, ints(6, 4)), W), ints(2, 3, 3))
    misses(g.flattened_product, split)
    halves = Reshape(Gemm(Reshape(still, ints(6, 4)), W), ints(3, 3, 2))
    misses(g.flattened_product, halves)
    four = param("four", 2, 3, 2, 4, dtype=F64)
    within = Reshape(Gemm(Reshape(four, ints(12, 4)), W), ints(2, 2, 3, 3))
    misses(g.flattened_product, within)
    matrix = Reshape(Gemm(Reshape(A, ints(-1, 4)), W), ints(-1, 3))
    misses(g.flattened_product, matrix)


def test_products_that_are_scaled_or_read_elsewhere_stay() -> None:
    misses(g.flattened_product, flattened(W, alpha=2.0), "scaled")
    misses(g.flattened_product, flattened(W, BIAS, beta=2.0), "scaled")
    misses(g.flattened_product, flattened(W, FULL_ROW), "no vector")
    misses(g.flattened_product, flattened(W, VAGUE))
    product = Gemm(Reshape(ROWS, ints(-1, 4)), W)
    misses(g.flattened_product, (Reshape(product, ints(2, -1, 3)), Relu(product)))
    shared = (flattened(WIDE, transB=1), Relu(WIDE))
    misses(g.flattened_product, shared, "others read")
    given = param("w", 3, 4, dtype=F64)
    misses(g.flattened_product, flattened(given, transB=1), "others read")
