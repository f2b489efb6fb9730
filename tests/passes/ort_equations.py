"""Fusions into ONNX Runtime's own ops as equations, and what these are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from equations import M, N, const, ints, param, random

from graphopt import ops
from graphopt.ir import Value
from graphopt.lowering.ort.activations import bias_gelu, fast_gelu, quick_gelu, swish
from graphopt.lowering.ort.embeddings import embed_layer_norm
from graphopt.lowering.ort.norms import rms_norm, skip_layer_norm, skip_rms_norm
from graphopt.lowering.ort.products import (
    activated_conv,
    activated_gemm,
    activated_sum,
    batched_left,
    batched_right,
    conv_and_conv,
    conv_and_sum,
    scaled_operand,
    scaled_product,
    transposed_left,
    transposed_right,
)
from graphopt.ops import (
    Add,
    Cast,
    Clip,
    Conv,
    Div,
    Gather,
    Gelu,
    Gemm,
    HardSigmoid,
    HardSwish,
    LayerNormalization,
    LeakyRelu,
    MatMul,
    Mul,
    Relu,
    RMSNormalization,
    Sigmoid,
    Swish,
    Tanh,
    Transpose,
    contrib,
)
from graphopt.rewrite import Rule
from graphopt.types import DType

WIDTH = 8
X, R = param("x", N, 3, WIDTH), param("r", N, 3, WIDTH)
PLACE = random(1, 3, WIDTH, seed=6)
G, C, B = (random(WIDTH, seed=seed) for seed in (1, 2, 3))


def norm(x: Value, **attrs: Any) -> Value:
    return LayerNormalization(x, G, C, epsilon=1e-5, **attrs)


def skip(*operands: Value | None, outs: int = 1) -> Any:
    x, r, *bias = operands
    made = contrib.SkipLayerNormalization(x, r, G, C, *bias, epsilon=1e-5, outs=outs)
    return made if outs == 1 else made.results


def rms(x: Value) -> Value:
    return RMSNormalization(x, G, epsilon=1e-6)


def skip_rms(*operands: Value, outs: int = 1) -> Any:
    x, r, *bias = operands
    made = contrib.SkipSimplifiedLayerNormalization(
        x, r, G, *bias, epsilon=1e-6, outs=outs
    )
    return made if outs == 1 else made.results


# --- embeddings ---------------------------------------------------------------------


def ids(name: str, *shape: Any) -> Value:
    """Tokens 0 and 1, which any table has."""
    return Cast(param(name, *shape, dtype=DType.BOOL), to=DType.I64.value)


WORDS, SEGMENTS = random(9, WIDTH, seed=4), random(2, WIDTH, seed=5)
PLACES = random(5, WIDTH, seed=7)
TOKENS, KINDS = ids("tokens", N, 3), ids("kinds", N, 3)
SMALL_TOKENS, SMALL_KINDS = (Cast(x, to=DType.I32.value) for x in (TOKENS, KINDS))
LONG, AT = ids("long", N, M), ids("places", 1, 3)


def embedded(*operands: Value | None, outs: int = 2) -> Any:
    return contrib.EmbedLayerNormalization(*operands, epsilon=1e-5, outs=outs).results


LOOKED = Add(Add(Gather(WORDS, TOKENS), Gather(SEGMENTS, KINDS)), PLACE)
EMBEDDED = (
    *(SMALL_TOKENS, SMALL_KINDS, WORDS),
    *(ops.Reshape(PLACE, ints(3, WIDTH)), SEGMENTS, G, C),
)


# --- products -----------------------------------------------------------------------

A, A2 = param("a", 2, 3, 4, 5), param("a2", 2, 3, 5, 4)
K, K2 = param("k", 2, 3, 5, 6), param("k2", 2, 3, 6, 5)
ROWS_FIRST = param("rows", 4, 2, 3, 5)
COLUMNS_FIRST = param("columns", 5, 2, 3, 6)
ROWS_LAST = param("last", 5, 2, 3, 4)
SWAP, BATCHED, BOTH = (0, 1, 3, 2), (1, 2, 0, 3), (1, 2, 3, 0)
fused = contrib.FusedMatMul

IMAGE, Z = param("image", N, 4, 7, 7), param("z", N, 6, 5, 5)
KERNELS, BIAS = random(6, 4, 3, 3, seed=8), random(6, seed=9)
CONV = Conv(IMAGE, KERNELS, BIAS, kernel_shape=(3, 3))
BARE = Conv(IMAGE, KERNELS, kernel_shape=(3, 3))
Z_CONV = contrib.FusedConv(
    *(param("other", N, 4, 5, 5), random(6, 4, 1, 1, seed=10)),
    kernel_shape=(1, 1),
    activation="Relu",
)
GEMM = Gemm(param("m", N, 4), random(4, 6), random(6), alpha=0.5)


def conv(*more: Value | None, kind: str | None = None, params: Any = None) -> Value:
    bias, *z = more or (BIAS,)
    return contrib.FusedConv(
        *(IMAGE, KERNELS, bias, *z),
        kernel_shape=(3, 3),
        activation=kind,
        activation_params=params,
    )


def gemm(kind: str, **numbers: float) -> Value:
    given: dict[str, Any] = {f"activation_{k}": v for k, v in numbers.items()}
    return contrib.FusedGemm(*GEMM.operands, alpha=0.5, activation=kind, **given)


@dataclass(frozen=True)
class Equation:
    rule: Rule
    before: Value | Sequence[Value]
    after: Value | Sequence[Value]
    opset: int = 23
    name: str = ""


SUM, BIASED = Add(X, R), Add(Add(X, B), R)
GATED = Mul(X, Sigmoid(Mul(X, const(1.702))))
TRANSPOSED = Transpose(K2, perm=SWAP)

EQUATIONS = [
    Equation(skip_layer_norm, norm(SUM), skip(X, R)),
    Equation(skip_layer_norm, norm(BIASED), skip(X, R, B), name="bias"),
    Equation(skip_layer_norm, norm(Add(R, Add(B, X))), skip(X, R, B), name="turned"),
    Equation(skip_layer_norm, norm(Add(Add(X, R), B)), skip(X, R, B), name="bias last"),
    Equation(skip_layer_norm, norm(Add(B, Add(X, R))), skip(X, R, B), name="bias 1st"),
    Equation(skip_layer_norm, norm(Add(PLACE, X)), skip(X, PLACE), name="batch of one"),
    Equation(
        *(skip_layer_norm, norm(Add(X, ops.Squeeze(PLACE, ints(0))))),
        skip(X, ops.Squeeze(PLACE, ints(0))),
        name="no batch",
    ),
    Equation(
        *(skip_layer_norm, (norm(SUM), Relu(SUM))),
        (skip(X, R, outs=4)[0], Relu(skip(X, R, outs=4)[3])),
        name="sum read",
    ),
    Equation(
        *(skip_layer_norm, (norm(BIASED), BIASED)),
        (skip(X, R, B, outs=4)[0], skip(X, R, B, outs=4)[3]),
        name="sum and bias read",
    ),
    Equation(skip_layer_norm, norm(SUM, axis=2), skip(X, R), name="axis"),
    Equation(skip_rms_norm, rms(SUM), skip_rms(X, R)),
    Equation(skip_rms_norm, rms(BIASED), skip_rms(X, R, B), name="bias"),
    Equation(
        *(skip_rms_norm, (rms(SUM), SUM)),
        (skip_rms(X, R, outs=4)[0], skip_rms(X, R, outs=4)[3]),
        name="sum read",
    ),
    Equation(
        *(rms_norm, rms(X)),
        contrib.SimplifiedLayerNormalization(X, G, epsilon=1e-6),
    ),
    Equation(embed_layer_norm, norm(LOOKED), embedded(*EMBEDDED)[0]),
    Equation(
        *(embed_layer_norm, (norm(LOOKED), LOOKED)),
        (embedded(*EMBEDDED, outs=3)[0], embedded(*EMBEDDED, outs=3)[2]),
        name="sum read",
    ),
    Equation(
        embed_layer_norm,
        norm(
            Add(Gather(PLACES, AT), Gather(WORDS, SMALL_TOKENS)),
        ),
        embedded(
            *(SMALL_TOKENS, None, WORDS, PLACES, None, G, C, None),
            Cast(AT, to=DType.I32.value),
        )[0],
        name="positions, no segments",
    ),
    Equation(bias_gelu, Gelu(Add(X, B)), contrib.BiasGelu(X, B)),
    Equation(bias_gelu, Gelu(Add(B, X)), contrib.BiasGelu(X, B), name="turned"),
    Equation(
        *(fast_gelu, Gelu(Add(X, B), approximate="tanh")),
        contrib.FastGelu(X, B),
    ),
    Equation(quick_gelu, GATED, contrib.QuickGelu(X, alpha=float(np.float32(1.702)))),
    Equation(
        *(quick_gelu, Mul(Sigmoid(X), X)),
        contrib.QuickGelu(X, alpha=1.0),
        name="silu",
    ),
    Equation(swish, Swish(X, alpha=1.5), contrib.QuickGelu(X, alpha=1.5), 24),
    Equation(
        transposed_left, MatMul(Transpose(A2, perm=SWAP), K), fused(A2, K, transA=1)
    ),
    Equation(transposed_right, MatMul(A, TRANSPOSED), fused(A, K2, transB=1)),
    Equation(
        *(batched_right, MatMul(A, Transpose(COLUMNS_FIRST, perm=BATCHED))),
        fused(A, COLUMNS_FIRST, transBatchB=1),
        name="batches",
    ),
    Equation(
        *(batched_left, MatMul(Transpose(ROWS_FIRST, perm=BATCHED), K)),
        fused(ROWS_FIRST, K, transBatchA=1),
        name="batches",
    ),
    Equation(
        *(transposed_left, MatMul(Transpose(ROWS_LAST, perm=(1, 2, 3, 0)), K)),
        fused(ROWS_LAST, K, transBatchA=1, transA=1),
        name="both",
    ),
    Equation(
        *(transposed_left, fused(Transpose(A2, perm=SWAP), K2, transB=1, alpha=0.5)),
        fused(A2, K2, transA=1, transB=1, alpha=0.5),
        name="the other as well",
    ),
    Equation(scaled_product, Mul(MatMul(A, K), const(0.125)), fused(A, K, alpha=0.125)),
    Equation(
        *(scaled_product, Div(fused(A, K, alpha=0.5), const([[4.0]]))),
        fused(A, K, alpha=0.125),
        name="again",
    ),
    Equation(
        *(scaled_operand, MatMul(Mul(const(0.5), A), Div(K, const(4.0)))),
        fused(A, K, alpha=0.125),
    ),
    Equation(activated_gemm, Relu(GEMM), gemm("Relu")),
    Equation(activated_gemm, Tanh(GEMM), gemm("Tanh"), name="Tanh"),
    Equation(activated_gemm, Sigmoid(GEMM), gemm("Sigmoid"), name="Sigmoid"),
    Equation(
        *(activated_gemm, LeakyRelu(GEMM, alpha=0.25)),
        gemm("LeakyRelu", alpha=0.25),
        name="LeakyRelu",
    ),
    Equation(
        *(activated_gemm, HardSigmoid(GEMM, alpha=0.25, beta=0.75)),
        gemm("HardSigmoid", alpha=0.25, beta=0.75),
        name="HardSigmoid",
    ),
    Equation(activated_conv, Relu(CONV), conv(kind="Relu")),
    Equation(activated_conv, Tanh(CONV), conv(kind="Tanh"), name="Tanh"),
    Equation(activated_conv, Sigmoid(CONV), conv(kind="Sigmoid"), name="Sigmoid"),
    Equation(activated_conv, HardSwish(CONV), conv(kind="HardSwish"), name="HardSwish"),
    Equation(
        *(activated_conv, LeakyRelu(CONV, alpha=0.25)),
        conv(kind="LeakyRelu", params=(0.25,)),
        name="LeakyRelu",
    ),
    Equation(
        *(activated_conv, HardSigmoid(CONV, alpha=0.25, beta=0.75)),
        conv(kind="HardSigmoid", params=(0.25, 0.75)),
        name="HardSigmoid",
    ),
    Equation(
        *(activated_conv, Clip(CONV, const(-0.5), const(0.75))),
        conv(kind="Clip", params=(-0.5, 0.75)),
        name="Clip",
    ),
    Equation(
        *(activated_conv, Clip(CONV, const(0.0))),
        conv(kind="Clip", params=(0.0, np.inf)),
        name="no upper bound",
    ),
    Equation(conv_and_sum, Add(CONV, Z), conv(BIAS, Z)),
    Equation(
        *(activated_sum, Sigmoid(Add(Z, CONV))),
        conv(BIAS, Z, kind="Sigmoid"),
    ),
    Equation(conv_and_conv, Add(Z_CONV, CONV), conv(BIAS, Z_CONV)),
    Equation(conv_and_sum, Add(Z, BARE), conv(None, Z), name="no bias"),
    Equation(
        *(activated_conv, Relu(conv(BIAS, Z))),
        conv(BIAS, Z, kind="Relu"),
        name="sum",
    ),
]
