"""Gradients of ONNX Runtime's own ops against differences of the float64 reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import test_contrib_attention
import test_contrib_others
import test_contrib_quantized
from contrib_single import Array, Case
from slopes import (
    Line,
    Source,
    facts_of,
    faults,
    gradients_of,
    line,
    telling,
    typed,
)

from graphopt.ops.contrib import DOMAIN
from graphopt.ops.registry import RUNTIME, kinds

pytest.importorskip("jax")
pytestmark = pytest.mark.xla

_random = np.random.default_rng(0)


def real(*shape: int) -> Array:
    return _random.normal(size=shape).astype(np.float32)


def with_biases() -> list[Case]:
    x, y, row = real(2, 3, 8), real(2, 3, 8), real(8)
    inner, outer = {"is_inner_broadcast": 1}, {"is_inner_broadcast": 0}
    norm, simple = "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"
    return [
        Case("Gelu", (x,)),
        Case("BiasGelu", (x, row)),
        Case("FastGelu", (x,)),
        Case("FastGelu", (x, row)),
        Case("QuickGelu", (x,)),
        Case("QuickGelu", (x,), {"alpha": 0.5}),
        Case("BiasAdd", (x, row, y)),
        Case("BiasSplitGelu", (x, row)),
        Case("BiasDropout", (x, row, y), outs=2),
        Case("BiasSoftmax", (x, y[:, :1]), {"axis": 2, **inner}),
        Case("BiasSoftmax", (x, y[:, :1]), {"axis": 1, **outer}),
        Case(norm, (x, y, row)),
        Case(norm, (x, y, row, real(8), real(8)), {"epsilon": 0.5}, outs=4),
        Case(simple, (x, y, row), {"epsilon": 0.1}),
        Case(simple, (x, y, row, real(8)), outs=4),
    ]


def with_activations() -> list[Case]:
    m, n = real(6, 8), real(4, 8)
    image, kernel, bias = real(1, 2, 4, 6), real(2, 2, 3, 3), real(2)
    last, filters = real(1, 5, 6, 2), real(3, 2, 3, 3)
    gemm, conv, turned = "FusedGemm", "FusedConv", {"transB": 1}
    params = "activation_params"
    same: dict[str, Any] = {"pads": [1, 1, 1, 1], "strides": [2, 1]}
    return [
        Case(gemm, (m, n, real(4)), {"activation": "Relu", **turned}),
        Case(gemm, (m, m), {"activation": "Tanh", "alpha": 0.5, "transA": 1}),
        Case(
            gemm,
            (m, n),
            {"activation": "LeakyRelu", "activation_alpha": 0.3, **turned},
        ),
        Case(conv, (image, kernel, bias), {"activation": "Sigmoid", **same}),
        Case(conv, (image, kernel), {"activation": "LeakyRelu", params: [0.3]}),
        Case(conv, (image, kernel), {"activation": "Clip", params: [-0.5, 0.25]}),
        Case(conv, (image, kernel), {"activation": "HardSigmoid", params: [0.3, 0.6]}),
        Case(
            conv,
            (image, kernel, bias, image),
            {"activation": "Relu", "auto_pad": "SAME_UPPER"},
        ),
        Case("FusedMatMulActivation", (m, n), {"activation": "Relu", **turned}),
        Case("GemmFastGelu", (m, real(8, 3), real(3))),
        Case("NhwcConv", (last, filters, real(3)), same),
        Case(
            "NhwcFusedConv",
            (last, filters, real(3), real(1, 3, 6, 3)),
            {"activation": "Relu", **same},
        ),
    ]


def of_images_and_signals() -> list[Case]:
    x, scale, bias = real(2, 3, 4, 6), real(6), real(6)
    first = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    attrs = {"groups": 3, "activation": 1}
    return [
        Case("GroupNorm", (x, scale, bias), attrs),
        Case("GroupNorm", (x, scale, bias), {"groups": 2, "activation": 0}),
        Case("GroupNorm", (first, scale, bias), {**attrs, "channels_last": 0}),
        Case("SkipGroupNorm", (x, scale, bias, real(2, 6), real(6)), attrs, 2),
        Case("Rfft", (real(3, 8),)),
        Case("Irfft", (real(3, 5, 2),), {"signal_ndim": 1}),
    ]


CASES = [
    *(*with_biases(), *with_activations(), *of_images_and_signals()),
    *test_contrib_attention.CASES,
    *test_contrib_others.CASES,
    *test_contrib_quantized.REALS,
]

STEPWISE = "its results are quantized: piecewise constant"
NOT_DIFFERENTIABLE = {
    **dict.fromkeys(("QLinearAdd", "QLinearMul", "QLinearWhere"), STEPWISE),
    **dict.fromkeys(("QLinearSigmoid", "QLinearSoftmax"), STEPWISE),
    **dict.fromkeys(("QLinearConcat", "QLinearConv", "QLinearLeakyRelu"), STEPWISE),
    **dict.fromkeys(("QLinearAveragePool", "QLinearGlobalAveragePool"), STEPWISE),
    **dict.fromkeys(("QLinearReduceMean", "QuantizeLinear"), STEPWISE),
    "NhwcMaxPool": "takes bytes",
    "Range": "makes numbers from a start, an end and a step",
    "Unique": "how many results there are depends on data: XLA cannot trace it",
    "DynamicQuantizeLSTM": "its kernel alone knows what it computes",
}
"""Kinds that have no gradient to check, each with the reason."""

SINGLE = {
    *("MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm", "QAttention"),
    *("QEmbedLayerNormalization", "DequantizeLinear", "QMoE", "LinearAttention"),
}
"""Kinds that compute in float32, whatever their operands are."""


def source(case: Case) -> Source:
    def make(dtype: Any) -> Any:
        return replace(case, operands=typed(case.operands, dtype)).model()

    return Source(str(case), make, case.inputs(), single=case.kind in SINGLE)


def key_of(case: Case) -> tuple[str, str]:
    """The kind of a case, where graphopt has it."""
    domain = case.domain or (RUNTIME if (RUNTIME, case.kind) in kinds else "")
    return domain, case.kind


DIFFERENTIABLE = {
    key for key in map(key_of, CASES) if key[1] not in NOT_DIFFERENTIABLE and key[0]
}


def lines_of(key: tuple[str, str]) -> tuple[list[tuple[Case, Line]], list[str]]:
    """Lines through the cases of a kind, and why others have none."""
    found, missed = [], []
    for case in CASES:
        if key_of(case) != key:
            continue
        made = line(source(case))
        if isinstance(made, str):
            missed.append(f"{case}: {made}")
        else:
            found.append((case, made))
    return found, missed


WITHOUT = {"QGemm": 2, "Attention": 4, "MultiHeadAttention": 4}
"""How many cases of a kind have no line.

Results of QGemm are quantized; those of queries that see nothing, their scores being
all -inf, are NaN, as in ONNX Runtime's kernels.
"""


def checked(key: tuple[str, str], count: int | None = None) -> None:
    pairs, missed = lines_of(key)
    assert pairs
    assert len(missed) == WITHOUT.get(key[1], 0), missed
    pairs = telling(pairs, lambda pair: facts_of(pair[0]))[:count]
    assert faults([at for _, at in pairs]) == []


QUICKLY = ("GroupQueryAttention", "MatMulNBits", "SkipLayerNormalization")
"""A sample: what exported transformers are made of."""


@pytest.mark.parametrize("kind", QUICKLY)
def test_a_sample_has_the_slopes_of_the_reference(kind: str) -> None:
    checked((DOMAIN, kind), 1)


@pytest.mark.slow
@pytest.mark.parametrize("key", sorted(DIFFERENTIABLE), ids="-".join)
def test_slopes_are_those_of_the_reference(key: tuple[str, str]) -> None:
    checked(key)


def test_every_kind_is_tried_or_has_a_reason() -> None:
    ours = {key for key in kinds if key[0] in (DOMAIN, RUNTIME)}
    left_out = {(DOMAIN, kind) for kind in NOT_DIFFERENTIABLE}
    assert DIFFERENTIABLE | left_out == ours
    assert not DIFFERENTIABLE & left_out
    assert {*SINGLE, *WITHOUT} <= {kind for _, kind in DIFFERENTIABLE}


# --- where a slope is not defined, or easily lost -------------------------------------


def at(kind: str, *operands: Array | None, **attrs: Any) -> dict[str, Array]:
    return gradients_of(source(Case(kind, operands, attrs)))


def test_points_in_one_place_are_not_apart() -> None:
    points = real(3, 4)
    found = at("CDist", points, points, metric="euclidean")
    apart = points[:, None] - points
    far = np.sqrt((apart**2).sum(-1, keepdims=True))
    expected = (apart / np.where(far, far, 1)).sum(1)
    np.testing.assert_allclose(found["x0"], expected, rtol=1e-5, atol=1e-6)


def test_far_from_zero_activations_are_flat_or_straight() -> None:
    far = np.array([-1e4, 1e4], np.float32)
    for kind in ("Gelu", "FastGelu", "QuickGelu", "ScaledSiLU"):
        np.testing.assert_allclose(at(kind, far)["x0"], [0, 1], atol=1e-7, err_msg=kind)


def test_what_is_alike_everywhere_is_normalized_all_the_same() -> None:
    zeros, row = np.zeros((2, 3, 4, 6), np.float32), real(6)
    alike = np.zeros((2, 3, 6), np.float32)
    for found in (
        at("GroupNorm", zeros, row, row, groups=3, activation=1),
        at("SkipLayerNormalization", alike, alike, row),
        at("GatedRMSNorm", alike, row, alike),
    ):
        assert all(np.isfinite(slope).all() for slope in found.values())


def test_a_query_that_sees_nothing_has_no_slope_of_its_own() -> None:
    tokens, mask = real(2, 3, 16), np.zeros((2, 3), np.int32)
    found = at("MultiHeadAttention", tokens, tokens, tokens, None, mask, num_heads=2)
    assert all(np.isfinite(slope).all() for slope in found.values())
