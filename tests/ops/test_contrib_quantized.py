"""The quantized ops of ONNX Runtime, against its kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from contrib_single import (
    Array,
    Case,
    faults_of_keeping,
    faults_of_meaning,
    faults_of_types,
)

import graphopt

_random = np.random.default_rng(0)


def real(*shape: int) -> Array:
    return _random.normal(size=shape).astype(np.float32)


def scale(*values: float) -> Array:
    """A scale for all, or one for each."""
    return np.array(values if len(values) > 1 else values[0], np.float32)


def some(dtype: type, *shape: int) -> Array:
    info = np.iinfo(dtype)
    made = _random.integers(info.min, info.max, shape, endpoint=True)
    return np.asarray(made).astype(dtype)


def zero(dtype: type, value: int) -> Array:
    return np.array(value, dtype)


U, S = np.uint8, np.int8


def elementwise() -> list[Case]:
    x, y = some(U, 3, 40), some(U, 40)
    a = (some(S, 3, 40), scale(0.05), zero(S, -5))
    u = (x, scale(0.02), zero(U, 120))
    result = (scale(0.03), zero(U, 1))
    unary = [
        Case(kind, (*operands, scale(0.04), zero(t, value)), attrs)
        for kind, attrs in (
            ("QLinearSigmoid", {}),
            ("QLinearLeakyRelu", {"alpha": 0.3}),
            ("QLinearLeakyRelu", {}),
        )
        for operands, t, value in ((a, S, 3), (u, U, 7))
    ]
    return [
        *unary,
        Case("QLinearSoftmax", (*u, scale(1 / 256), zero(U, 0)), {"opset": 13}),
        Case(
            "QLinearSoftmax",
            (some(U, 2, 3, 4), scale(0.02), zero(U, 3), scale(1 / 256), zero(U, 0)),
            {"opset": 12, "axis": 1},
        ),
        Case("QLinearAdd", (*u, y, scale(0.03), zero(U, 9), scale(0.05), zero(U, 99))),
        Case("QLinearMul", (*u, y, scale(0.03), zero(U, 9), scale(0.2), zero(U, 99))),
        Case(
            "QLinearAdd", (*a, some(S, 3, 40), scale(0.07), zero(S, 4), scale(0.0811))
        ),
        Case(
            "QLinearWhere",
            (some(U, 3, 1) > 100, *u, y, scale(0.03), zero(U, 5), *result),
        ),
        Case(
            "QLinearConcat",
            (scale(0.03), zero(U, 100), *u, some(U, 2, 40), scale(0.04), zero(U, 7)),
            {"axis": 0},
        ),
    ]


def windows() -> list[Case]:
    first, last = some(U, 2, 3, 7, 6), some(U, 2, 7, 6, 3)
    facts = (scale(0.02), zero(U, 120), scale(0.015), zero(U, 110))
    pool = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}
    kernels = (some(S, 4, 3, 3, 3), scale(0.01), zero(S, 0), scale(3.0), zero(U, 90))
    bias = _random.integers(-999, 999, 4).astype(np.int32)
    average, whole = "QLinearAveragePool", "QLinearGlobalAveragePool"
    same = {"pads": [1, 1, 1, 1], "strides": [2, 2]}
    return [
        Case(whole, (first, *facts)),
        Case(whole, (last, *facts), {"channels_last": 1}),
        Case(average, (first, *facts), pool),
        Case(average, (first, *facts), pool | {"count_include_pad": 1}),
        Case(average, (last, *facts), pool | {"channels_last": 1}),
        Case("QLinearConv", (first, *facts[:2], *kernels, bias), same),
        Case(
            "QLinearConv",
            (last, *facts[:2], *kernels, bias),
            same | {"channels_last": 1},
        ),
    ]


def products() -> list[Case]:
    a, b, row = some(U, 2, 4, 6), some(S, 6, 5), real(5)
    by_column = np.abs(real(5)) + 0.01
    zeros = some(S, 5)
    left, right = some(U, 4, 6), some(S, 6, 5)
    c = _random.integers(-9999, 9999, 5).astype(np.int32)
    both = (left, scale(0.02), zero(U, 99), right, scale(0.03), zero(S, 7))
    result = (scale(0.5), zero(U, 100))
    turned = (
        np.ascontiguousarray(left.T),
        *both[1:3],
        np.ascontiguousarray(right.T),
        by_column,
        zeros,
    )
    turns = {"transA": 1, "transB": 1, "alpha": 0.5}
    mixed, moving = "MatMulIntegerToFloat", "DynamicQuantizeMatMul"
    return [
        Case(mixed, (a, b, scale(0.02), scale(0.03))),
        Case(mixed, (a, b, scale(0.02), by_column, zero(U, 99), zeros, row)),
        Case(moving, (real(2, 4, 6), b, scale(0.03))),
        Case(moving, (real(2, 4, 6), b, by_column, zeros, row)),
        Case("QGemm", (*both, c, *result)),
        Case("QGemm", (*both, c)),
        Case("QGemm", (*turned, None, *result), turns),
        Case("QGemm", turned, turns),
    ]


def models() -> list[Case]:
    """Attention and embeddings with quantized weights."""
    x, w = some(U, 2, 3, 6), some(S, 6, 48)
    mask = np.array([[1, 1, 0], [1, 0, 1]], np.int32)
    facts = (real(48), scale(0.01), scale(0.01))
    columns = (real(48), scale(0.01), np.abs(real(48)) / 99 + 0.001)
    past = real(2, 2, 2, 4, 8)
    tokens = some(U, 2, 4).astype(np.int32) % 7
    segments = tokens % 2
    tables = (some(U, 7, 8), some(U, 9, 8), some(U, 2, 8), some(U, 8), some(U, 8))
    scales = [scale(0.01 + i / 99) for i in range(5)]
    zeros = [zero(U, 100 + i) for i in range(5)]
    attend, lookup = "QAttention", "QEmbedLayerNormalization"
    heads = {"num_heads": 2}
    return [
        Case(attend, (x, w, *facts, None, zero(U, 100), zero(S, 3)), heads),
        Case(attend, (x, w, *columns, mask, zero(U, 100), some(S, 48)), heads),
        Case(
            attend,
            (x, w, *facts, None, zero(U, 100), zero(S, 3), past),
            heads | {"unidirectional": 1},
            outs=2,
        ),
        Case(lookup, (tokens, segments, *tables, None, *scales, *zeros), outs=2),
    ]


def spread() -> list[Case]:
    by_column, zeros = np.abs(real(5)) + 0.01, some(S, 5)
    x = some(S, 4, 5)
    return [
        Case("QuantizeLinear", (real(4, 5), scale(0.02))),
        Case("QuantizeLinear", (real(4, 5), by_column, zeros)),
        Case("QuantizeLinear", (real(5, 4), by_column, zeros), {"axis": 0}),
        Case("QuantizeLinear", (real(4, 5), scale(0.0002), zero(np.uint16, 999))),
        Case("DequantizeLinear", (x, scale(0.02))),
        Case("DequantizeLinear", (x, by_column, zeros)),
        Case("DequantizeLinear", (some(S, 5, 4), by_column, zeros), {"axis": 0}),
        Case("DequantizeLinear", (some(np.int16, 4, 5), scale(0.02))),
    ]


def packed(
    bits: int,
    *,
    n: int = 5,
    k: int = 48,
    zeros: str = "",
    order: bool = False,
    bias: bool = False,
    block: int = 16,
    **attrs: Any,
) -> Case:
    """A product with weights of few bits."""
    blocks = -(-k // block)
    operands: list[Array | None] = [
        real(2, 3, k),
        some(U, n, blocks, block * bits // 8),
        np.abs(real(n, blocks)) + 0.01,
        None,
        None,
        None,
    ]
    if zeros == "real":
        operands[3] = real(n, blocks) + 7
    elif zeros:
        operands[3] = some(U, n, -(-blocks * bits // 8))
    if order:
        operands[4] = (np.arange(k) % blocks).astype(np.int32)
    if bias:
        operands[5] = real(n)
    attrs = {"K": k, "N": n, "bits": bits, "block_size": block} | attrs
    return Case("MatMulNBits", operands, attrs)


def blocks() -> list[Case]:
    lookup = "GatherBlockQuantized"
    indices = np.array([[2, 0, 1], [3, 3, 2]], np.int64)
    halves, whole = some(U, 4, 16), some(U, 4, 32)
    scales = np.abs(real(4, 2)) + 0.1
    fine = {"block_size": 16}
    return [
        packed(4),
        packed(4, zeros="packed", bias=True),
        packed(4, k=40, zeros="packed"),
        packed(4, zeros="real"),
        packed(4, order=True),
        packed(4, order=True, zeros="real"),
        packed(8),
        packed(8, zeros="packed"),
        packed(2, zeros="packed", k=96),
        packed(2, bias=True),
        packed(4, k=128, block=32, zeros="packed"),
        Case(lookup, (halves, indices, scales), fine),
        Case(lookup, (halves, indices, scales, some(U, 4, 1)), fine),
        Case(lookup, (whole, indices, scales, some(U, 4, 2)), fine | {"bits": 8}),
    ]


INTEGERS = [*elementwise(), *windows()]
REALS = [*products(), *models(), *spread(), *blocks()]


@pytest.mark.runtime
@pytest.mark.parametrize("case", INTEGERS, ids=str)
def test_bodies_round_to_what_the_kernels_round_to(case: Case) -> None:
    """But where a number that is half way is computed in another way."""
    pytest.importorskip("onnxruntime")
    assert faults_of_meaning(case, step=1) == []


@pytest.mark.runtime
@pytest.mark.parametrize("case", REALS, ids=str)
def test_bodies_mean_what_the_kernels_compute(case: Case) -> None:
    pytest.importorskip("onnxruntime")
    assert faults_of_meaning(case) == []


@pytest.mark.parametrize("case", [*INTEGERS, *REALS], ids=str)
def test_types_follow_from_the_body(case: Case) -> None:
    assert faults_of_types(case) == []


@pytest.mark.runtime
@pytest.mark.parametrize("case", [c for c in REALS if c.inputs()], ids=str)
def test_they_stay_what_they_are(case: Case) -> None:
    assert faults_of_keeping(case) == []


def test_weights_of_two_bits_are_read_from_the_lowest() -> None:
    case = packed(2, n=1, k=16)
    assert case.operands[1] is not None
    case.operands[1][...] = 0b11100100
    (made,) = graphopt.run_model(case.model(), case.inputs())
    weights = np.tile(np.array([0, 1, 2, 3], np.float32) - 2, 4)
    a, scales = case.operands[0], case.operands[2]
    assert a is not None
    assert scales is not None
    np.testing.assert_allclose(made[..., 0], a @ weights * scales[0, 0], rtol=1e-5)


@pytest.mark.parametrize(
    "case",
    [packed(4, order=True, zeros="packed"), packed(4, weight_prepacked=1)],
    ids=str,
)
def test_forms_that_are_not_understood_are_carried(case: Case) -> None:
    result = graphopt.optimize(graphopt.load(case.model(copied=True)))
    assert result.report.check is not None
    assert result.report.check.lost == ("output z0",)


def test_a_network_without_a_meaning_has_types() -> None:
    """Its kernel quantizes by the parts that threads have: nobody else can."""
    weights, zeros = (some(S, 1, 6, 32), some(S, 1, 8, 32)), np.zeros(1, S)
    scales = scale(0.01).reshape(1)
    operands = [real(5, 2, 6), *weights, *[None] * 5, scales, zeros, scales, zeros]
    case = Case("DynamicQuantizeLSTM", operands, {"hidden_size": 8}, 3)
    graph = graphopt.load(case.model(copied=True))
    shapes = [value.shape for value in graph.outputs]
    assert shapes == [(5, 1, 2, 8), (1, 2, 8), (1, 2, 8)]
    check = graphopt.check(graph, graphopt.optimize(graph).graph)
    assert check.unchecked == ("op com.microsoft.DynamicQuantizeLSTM 'y0'",)


def test_a_scale_and_a_zero_point_may_differ_in_rank() -> None:
    """ONNX Runtime writes such ones, of ONNX's own op."""
    operands = (some(U, 3, 4), scale(0.5).reshape(1), zero(U, 7))
    case = Case("DequantizeLinear", operands, domain="", opset=13)
    assert graphopt.cost(graphopt.load(case.model())).flops == 24
    (made,) = graphopt.run_model(case.model(), case.inputs())
    np.testing.assert_array_equal(made, (operands[0].astype(np.float32) - 7) / 2)
