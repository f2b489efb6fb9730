"""Products, norms, images and twins of ONNX's ops: against kernels, or by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from contrib_single import (
    Array,
    Case,
    fault_of_reals,
    faults_of_keeping,
    faults_of_meaning,
    faults_of_types,
)
from scipy.special import erf

import graphopt

_random = np.random.default_rng(0)


def real(*shape: int) -> Array:
    return _random.normal(size=shape).astype(np.float32)


def whole(*values: Any, dtype: type = np.int64) -> Array:
    return np.array(values, dtype)


def number(value: float, dtype: type = np.float32) -> Array:
    return np.array(value, dtype)


def products() -> list[Case]:
    a, b = real(2, 5, 3, 4), real(2, 5, 4, 6)
    kind = "FusedMatMul"
    return [
        Case(kind, (real(3, 2, 5, 4), b), {"transBatchA": 1}),
        Case(kind, (real(4, 2, 5, 3), b), {"transBatchA": 1, "transA": 1}),
        Case(kind, (a, real(4, 2, 5, 6)), {"transBatchB": 1, "alpha": 0.5}),
        Case(kind, (a, real(6, 2, 5, 4)), {"transBatchB": 1, "transB": 1}),
        Case("TransposeMatMul", (real(3, 4), real(3, 5)), {"transA": 1, "alpha": 2.0}),
    ]


def norms() -> list[Case]:
    x, scale, bias = real(2, 3, 8), real(8), real(8)
    old = {"domain": "", "opset": 13}
    plain = {"domain": "", "opset": 18}
    kind, simple = "LayerNormalization", "SimplifiedLayerNormalization"
    return [
        Case(kind, (x, scale, bias), {"epsilon": 0.1}, **old),
        Case(kind, (x, scale), outs=3, **old),
        Case(kind, (x, real(3, 8)), {"axis": 1}, **old),
        Case(simple, (x, scale), {"epsilon": 0.1}, **plain),
        Case(simple, (x, scale), outs=2, **old),
        Case(simple, (x, real(3, 8)), {"axis": 1}, **old),
    ]


def twins() -> list[Case]:
    x, grid = real(1, 2, 4, 5), real(1, 3, 3, 2)
    pads = whole(1, 0, 0, 2)
    return [
        Case("Trilu", (real(3, 4),)),
        Case("Trilu", (real(2, 3, 4), number(1, np.int64)), {"upper": 0}),
        Case("Pad", (real(3, 4), pads, number(2))),
        Case("Pad", (real(3, 4), pads.reshape(1, 4)), {"mode": "edge"}),
        Case("Pad", (real(3, 4), pads), {"mode": "reflect"}),
        Case("GatherND", (real(3, 4), whole([1, 2], [0, 3], dtype=np.int32))),
        Case("GridSample", (x, grid)),
        Case("GridSample", (x, grid), {"mode": "nearest", "align_corners": 1}),
        Case("GridSample", (x, grid), {"mode": "bicubic", "padding_mode": "border"}),
        Case("ExpandDims", (real(3, 4), whole(1, dtype=np.int32))),
        Case("ExpandDims", (real(3, 4), number(-1, np.int32))),
        Case("CDist", (real(3, 4), real(5, 4))),
        Case("CDist", (real(3, 4), real(5, 4)), {"metric": "euclidean"}),
        Case("Inverse", (real(2, 4, 4) + 3 * np.eye(4, dtype=np.float32),)),
        Case("ScaledSiLU", (real(3, 4),), {"alpha": 0.5}),
        Case("ScaledSiLU", (real(3, 4), number(0.5)), {"alpha": 3.0}),
    ]


def experts() -> list[Case]:
    """Four experts of two layers, for tokens of eight numbers."""

    def case(kind: str, inner: int = 16, *, biased: bool = True, **attrs: Any) -> Case:
        first, second = real(4, inner, 8), real(4, 8, 16)
        biases = (real(4, inner), real(4, 8)) if biased else (None, None)
        operands = (real(5, 8), real(5, 4), first, biases[0], second, biases[1])
        attrs = {"k": 2, "activation_type": kind} | attrs
        return Case("MoE", operands, attrs)

    gated: dict[str, Any] = {"swiglu_fusion": 1, "inner": 32}
    limited = {"activation_alpha": 1.7, "activation_beta": 1.0, "swiglu_limit": 0.5}
    return [
        *(case(kind) for kind in ("relu", "gelu", "silu", "identity")),
        case("silu", normalize_routing_weights=1),
        case("relu", k=1, biased=False),
        case("swiglu", **gated),
        case("swiglu", **gated, **limited),
    ]


def packed_experts() -> list[Case]:
    """Four experts whose weights are in bytes; rows of 32 numbers."""

    def case(bits: int, block: int = 0, inner: int = 16, **attrs: Any) -> Case:
        def layer(rows: int, width: int) -> list[Array]:
            scales = (4, rows, width // block) if block else (4, rows)
            shape = (4, rows, width * bits // 8)
            weights = _random.integers(0, 256, shape).astype(np.uint8)
            return [weights, np.abs(real(*scales)) / 10, real(4, rows)]

        operands = [real(5, 32), real(5, 4), *layer(inner, 32), *layer(32, 16)]
        attrs = {"k": 2, "activation_type": "silu", "expert_weight_bits": bits} | attrs
        if block:
            attrs["block_size"] = block
        return Case("QMoE", operands, attrs | {"normalize_routing_weights": 1})

    gated: dict[str, Any] = {"swiglu_fusion": 1, "activation_type": "swiglu"}
    return [
        case(4),
        case(8),
        case(4, 16),
        case(8, 16),
        case(2, 16),
        case(4, 16, 32, **gated),
    ]


def named(kind: int, n: int, k: int, block: int) -> Case:
    """A product with weights that are names of numbers."""
    names = _random.integers(0, 256, -(-n * k // 2)).astype(np.uint8)
    most = np.abs(real(-(-n * k // block)))
    x = real(3, k)
    attrs = {"K": k, "N": n, "block_size": block, "quant_type": kind}
    return Case("MatMulBnb4", (x, names, most), attrs)


def recurrent() -> list[Case]:
    q, v = (real(2, 3, 8), real(2, 3, 8)), real(2, 3, 12)
    decay, beta, state = -np.abs(real(2, 3, 2)), real(2, 3, 2), real(2, 2, 4, 6)
    heads = {"q_num_heads": 2, "kv_num_heads": 2}
    x, scale = real(2, 3, 8), real(4)
    three = _random.integers(0, 9, (3, 2, 3))
    turns: dict[str, Any] = {"num_heads": 2, "mrope_section": [2, 1, 1]}
    angles = (real(9, 4), real(9, 4))
    return [
        Case("LinearAttention", (*q, v, state, decay, beta), heads, 2),
        Case("LinearAttention", (*q, v), heads | {"update_rule": "linear"}, 2),
        Case("CausalConvWithState", (real(2, 4, 5), real(4, 1, 3)), outs=2),
        Case(
            "CausalConvWithState",
            (real(2, 4, 5), real(4, 1, 3), real(4), real(2, 4, 2)),
            {"activation": "silu"},
            2,
        ),
        Case(
            "CausalConvWithState",
            (real(2, 5, 4), real(4, 1, 3), real(4), real(2, 2, 4)),
            {"channels_last": 1},
            2,
        ),
        Case(
            "CausalConvWithState",
            (real(2, 4, 5), real(4, 1, 3), real(4), real(2, 4, 4)),
            {"activation": "swish", "dilation": 2},
            2,
        ),
        Case("GatedRMSNorm", (x, scale, real(2, 3, 8))),
        Case("GatedRMSNorm", (x, scale, real(2, 3, 8)), {"activation": "sigmoid"}),
        Case("GatedAdd", (x, real(2, 3, 8), real(2, 3, 1))),
        Case("MRotaryEmbedding", (real(2, 3, 16), three, *angles), turns),
        Case(
            "MRotaryEmbedding",
            (real(2, 3, 16), three, *angles),
            turns | {"mrope_layout": 1},
        ),
        Case(
            "MRotaryEmbedding",
            (real(2, 3, 16), three, *angles),
            turns | {"mrope_section": [1, 2, 1], "interleaved": 1},
        ),
        *(named(kind, 5, 24, 16) for kind in (0, 1)),
    ]


CASES = [
    *(*products(), *norms(), *twins(), *experts()),
    *(*packed_experts(), *recurrent()),
]

BYTES = _random.integers(0, 255, (1, 5, 6, 2)).astype(np.uint8)
STEERED = [
    Case("NhwcMaxPool", (BYTES,), {"kernel_shape": [3, 2], "strides": [2, 1]}),
    Case("NhwcMaxPool", (BYTES,), {"kernel_shape": [2, 2], "pads": [1, 0, 0, 1]}),
    Case("Range", (whole(1), whole(9), whole(3))),
    Case("Range", (number(2, np.int32), number(5, np.int32))),
]
"""Cases without real operands: the kernels run, and there is nothing to keep."""

UNIQUE = Case("Unique", (np.array([2, 1, 1, 3, 4, 3], np.float32),), outs=3)
"""How large its results are depends on data."""


@pytest.mark.runtime
@pytest.mark.parametrize("case", [*CASES, *STEERED, UNIQUE], ids=str)
def test_bodies_mean_what_the_kernels_compute(case: Case) -> None:
    pytest.importorskip("onnxruntime")
    assert faults_of_meaning(case) == []


@pytest.mark.parametrize("case", [*CASES, *STEERED], ids=str)
def test_types_follow_from_the_body(case: Case) -> None:
    assert faults_of_types(case) == []


@pytest.mark.runtime
@pytest.mark.parametrize("case", CASES, ids=str)
def test_they_stay_what_they_are(case: Case) -> None:
    assert faults_of_keeping(case) == []


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ([0.5, np.nan, np.inf], [0.5, np.nan, np.inf], True),
        ([1e9, 1.0], [1e9, 2.0], True),
        ([np.nan, np.nan], [0.5, 0.5], False),
        ([0.5, 0.5], [np.nan, 0.5], False),
        ([np.nan, np.nan], [np.nan, np.nan], False),
        ([0.5, np.inf], [0.5, -np.inf], False),
        ([0.5, 1e9], [0.5, np.inf], False),
        ([1e-6, 0.0], [2e-6, 0.0], False),
    ],
)
def test_numbers_are_compared_by_the_largest(
    ours: list[float], theirs: list[float], same: bool
) -> None:
    fault = fault_of_reals(np.array(ours), np.array(theirs), 2e-5)
    assert (fault is None) == same


# --- what has no kernel for CPUs ----------------------------------------------------


def run(kind: str, *operands: Array | None, outs: int = 1, **attrs: Any) -> Any:
    case = Case(kind, operands, attrs, outs)
    made = graphopt.run_model(case.model(), case.inputs())
    return made[0] if outs == 1 else made


def close(made: Array, wanted: Array) -> None:
    assert made.shape == wanted.shape
    np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-5)


def gelu(x: Array) -> Array:
    return x * (1 + erf(x / np.sqrt(2))) / 2


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def test_biases_and_what_follows() -> None:
    x, bias, skip = real(2, 3, 8), real(8), real(2, 3, 8)
    close(run("BiasAdd", x, bias, skip), x + bias + skip)
    left, right = np.split(x + bias, 2, axis=-1)
    close(run("BiasSplitGelu", x, bias), left * gelu(right))
    y, kept = run("BiasDropout", x, bias, skip, outs=2)
    close(y, x + bias + skip)
    assert kept.shape == x.shape
    assert kept.all()
    powers = np.exp(x + skip[:, :1])
    made = run("BiasSoftmax", x, skip[:, :1], axis=2, is_inner_broadcast=1)
    close(made, powers / powers.sum(-1, keepdims=True))
    made = run("BiasSoftmax", x, skip[:, :1], axis=1, is_inner_broadcast=0)
    close(made, powers / powers.sum((1, 2), keepdims=True))


def test_products_with_activations() -> None:
    a, b = real(2, 3, 4), real(2, 5, 4)
    made = run("FusedMatMulActivation", a, b, transB=1, alpha=0.5, activation="Relu")
    close(made, np.maximum(0.5 * a @ b.transpose(0, 2, 1), 0))
    w, bias = real(4, 5), real(5)
    x = a @ w + bias
    tanh = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    close(run("GemmFastGelu", a, w, bias), x * (1 + tanh) / 2)


@pytest.mark.parametrize("activation", [0, 1])
def test_groups_of_channels(activation: int) -> None:
    x, scale, bias = real(2, 3, 4, 6), real(6), real(6)

    def normed(x: Array) -> Array:
        groups = x.reshape(2, 12, 3, 2).astype(np.float64)
        mean = groups.mean((1, 3), keepdims=True)
        variance = groups.var((1, 3), keepdims=True)
        y = ((groups - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
        y = y * scale + bias
        return y * sigmoid(y) if activation else y

    attrs = {"groups": 3, "activation": activation}
    close(run("GroupNorm", x, scale, bias, **attrs), normed(x))
    first = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    made = run("GroupNorm", first, scale, bias, channels_last=0, **attrs)
    close(made.transpose(0, 2, 3, 1), normed(x))
    skip, row = real(2, 6), real(6)
    total = x + skip[:, None, None] + row
    y, s = run("SkipGroupNorm", x, scale, bias, skip, row, outs=2, **attrs)
    close(y, normed(total))
    close(s, total)
    y = run("SkipGroupNorm", first, scale, bias, skip, row, channels_last=0, **attrs)
    close(y.transpose(0, 2, 3, 1), normed(total))


def test_convolutions_of_images_with_channels_last() -> None:
    x, w, b = real(1, 5, 6, 2), real(3, 2, 3, 3), real(3)
    first = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    attrs = {"pads": [1, 1, 1, 1], "strides": [2, 1]}
    wanted = run("FusedConv", first, w, b, **attrs).transpose(0, 2, 3, 1)
    close(run("NhwcConv", x, w, b, **attrs), wanted)
    z = real(*wanted.shape)
    made = run("NhwcFusedConv", x, w, b, z, activation="Relu", **attrs)
    close(made, np.maximum(wanted + z, 0))


def test_spectra_of_real_signals() -> None:
    x = real(3, 8)
    spectrum = np.fft.rfft(x)
    made = run("Rfft", x)
    close(made[..., 0], spectrum.real)
    close(made[..., 1], spectrum.imag)
    close(run("Irfft", made, signal_ndim=1), x)


def test_a_mean_of_quantized_numbers() -> None:
    x = _random.integers(0, 255, (3, 8)).astype(np.uint8)
    facts = (number(0.02), number(9, np.uint8), number(0.03), number(7, np.uint8))
    made = run("QLinearReduceMean", x, *facts, axes=[1], keepdims=0)
    mean = (x.astype(np.float64) - 9).mean(1) * 0.02
    np.testing.assert_array_equal(made, np.rint(mean / 0.03) + 7)


@pytest.mark.parametrize(
    "case",
    [
        Case("CDist", (real(3, 4), real(5, 4)), {"metric": "cosine"}),
        Case("Rfft", (real(3, 8, 8),), {"signal_ndim": 2}),
        Case(
            "MoE",
            (real(5, 8), real(5, 4), real(4, 16, 8), None, real(4, 8, 16)),
            {"use_sparse_mixer": 1, "k": 2},
        ),
        Case("BiasDropout", (real(3), real(3), None, number(0.5), np.array(True))),
    ],
    ids=str,
)
def test_forms_that_are_not_understood_are_carried(case: Case) -> None:
    graph = graphopt.load(case.model(copied=True))
    check = graphopt.check(graph, graphopt.optimize(graph, target="onnx").graph)
    assert check.lost == ("output z0",)
