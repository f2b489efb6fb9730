"""Fusions into ONNX Runtime's own ops: fire and mean the same, or miss and say why.

What each makes is run in the runtime as well, against the reference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from equations import (
    N,
    const,
    feed,
    fires,
    graph_of,
    kinds,
    misses,
    param,
    random,
    rewritten,
    values,
)
from ort_equations import (
    A2,
    BATCHED,
    BIAS,
    COLUMNS_FIRST,
    CONV,
    EQUATIONS,
    GEMM,
    KINDS,
    LOOKED,
    PLACE,
    ROWS_FIRST,
    SUM,
    SWAP,
    TOKENS,
    TRANSPOSED,
    WIDTH,
    WORDS,
    A,
    B,
    C,
    Equation,
    G,
    K,
    R,
    X,
    Z,
    conv,
    fused,
    norm,
    rms,
)

from graphopt import ops
from graphopt.exporter import to_proto
from graphopt.ir import Value
from graphopt.lowering.ort.activations import bias_gelu, fast_gelu, quick_gelu
from graphopt.lowering.ort.embeddings import embed_layer_norm
from graphopt.lowering.ort.gate import gated, lacking
from graphopt.lowering.ort.norms import rms_norm, skip_layer_norm, skip_rms_norm
from graphopt.lowering.ort.pipeline import FUSIONS
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
from graphopt.lowering.ort.recurrences import FuseRecurrences
from graphopt.lowering.ort.session import Session
from graphopt.ops import (
    Add,
    Clip,
    Gather,
    Gelu,
    LayerNormalization,
    MatMul,
    Mul,
    Relu,
    RMSNormalization,
    Sigmoid,
    Tanh,
    Transpose,
)
from graphopt.reference import evaluate
from graphopt.rewrite import Outcome, Rule, rewrite, rule
from graphopt.types import DType

EVERY = pytest.mark.parametrize(
    "e", [pytest.param(e, id=f"{e.rule.name} {e.name}".strip()) for e in EQUATIONS]
)


@EVERY
def test_it_fires_and_means_the_same(e: Equation) -> None:
    fires(gated(e.rule, "cpu"), e.before, e.after, opset=e.opset)


@pytest.mark.runtime
@EVERY
def test_the_runtime_means_the_same(e: Equation) -> None:
    pytest.importorskip("onnxruntime")
    graph = graph_of(*values(e.after), opset=23)
    session = Session(to_proto(graph).SerializeToString(), optimized=False)
    sizes = {"n": 2, "m": 3}
    feeds = [feed(p, sizes, special=False) for p in graph.inputs]
    found = session({p.name: x for p, x in zip(graph.inputs, feeds, strict=True)})
    before = graph_of(*values(e.before), opset=e.opset, inputs=graph.inputs)
    wanted = evaluate(before, feeds, precision="float64", seed=0)
    for a, b in zip(found.values(), wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_every_fusion_is_tried() -> None:
    """In both of the tests above, or in those of recurrences."""
    tried = {e.rule.name for e in EQUATIONS}
    tried |= {rule.name for rule in FuseRecurrences(most=True).fusions()}
    known = {rule.name for cls in FUSIONS for rule in cls(most=True).fusions()}
    assert known <= tried


# --- what misses --------------------------------------------------------------------

HALF = param("half", N, 3, WIDTH, dtype=DType.F16)
DOUBLE = param("double", N, 3, WIDTH, dtype=DType.F64)

MISSES: list[tuple[Rule, Value | Sequence[Value], str]] = [
    (skip_layer_norm, norm(X), ""),
    (skip_layer_norm, norm(Add(X, B)), "differ in shape"),
    (skip_layer_norm, norm(Add(X, param("o", 1, 1, WIDTH))), "differ in shape"),
    (
        skip_layer_norm,
        LayerNormalization(SUM, random(3, WIDTH), axis=1),
        "norms more than rows",
    ),
    (
        skip_layer_norm,
        LayerNormalization(SUM, G, C, outs=2).results,
        "mean or spread",
    ),
    (skip_layer_norm, LayerNormalization(SUM, const([1.0])), "no vector as long"),
    (
        skip_layer_norm,
        LayerNormalization(Add(param("p", 2, 2, N, WIDTH), param("q", 2, 2, N, 8)), G),
        "rank 4",
    ),
    (skip_rms_norm, rms(Add(X, B)), "differ in shape"),
    (embed_layer_norm, norm(SUM), ""),
    (
        embed_layer_norm,
        norm(Add(Gather(WORDS, TOKENS), PLACE)),
        "as many as what it saves",
    ),
    (
        embed_layer_norm,
        (
            LayerNormalization(LOOKED, G, C, outs=2).results[1],
            LayerNormalization(LOOKED, G, C, outs=2).results[0],
        ),
        "mean or spread",
    ),
    (embed_layer_norm, norm(Add(Gather(WORDS, TOKENS), Gather(X, KINDS))), ""),
    (bias_gelu, Gelu(X), ""),
    (bias_gelu, Gelu(SUM), ""),
    (bias_gelu, (Gelu(Add(X, B)), Add(X, B)), ""),
    (bias_gelu, Gelu(Add(X, B), approximate="tanh"), ""),
    (
        bias_gelu,
        Gelu(Add(DOUBLE, random(WIDTH, dtype=DType.F64))),
        "takes double as A",
    ),
    (fast_gelu, Gelu(Add(X, B)), ""),
    (quick_gelu, Mul(X, Sigmoid(R)), "not of the same value"),
    (quick_gelu, Mul(X, Sigmoid(Mul(X, R))), "not of the same value"),
    (quick_gelu, (Mul(X, Sigmoid(X)), Sigmoid(X)), "read elsewhere"),
    (quick_gelu, Mul(HALF, Sigmoid(HALF)), "takes float16 as X"),
    (transposed_left, MatMul(A, K), ""),
    (transposed_left, MatMul(Transpose(ROWS_FIRST, perm=BATCHED), K), ""),
    (batched_left, MatMul(Transpose(A2, perm=SWAP), K), ""),
    (
        transposed_right,
        MatMul(A, Transpose(param("k3", 3, 2, 6, 5), perm=(1, 0, 3, 2))),
        "cannot move axes so",
    ),
    (transposed_right, (MatMul(A, TRANSPOSED), TRANSPOSED), "others read"),
    (
        transposed_right,
        fused(A, Transpose(K, perm=SWAP), transB=1),
        "is moved as it is",
    ),
    (
        batched_right,
        MatMul(param("few", 4, 5), Transpose(COLUMNS_FIRST, perm=BATCHED)),
        "only of operands of one rank",
    ),
    (scaled_product, Mul(MatMul(A, K), const([0.5, 0.25] * 3)), ""),
    (scaled_product, Mul(MatMul(A, K), const(np.ones((1, 1, 1, 1, 1)))), ""),
    (scaled_product, Mul(MatMul(A, K), const(np.inf)), ""),
    (
        scaled_product,
        (Mul(MatMul(A, K), const(0.5)), MatMul(A, K)),
        "read elsewhere",
    ),
    (
        scaled_product,
        Mul(
            MatMul(*(param(n, 2, 2, dtype=DType.F64) for n in "ab")),
            const(0.1, DType.F64),
        ),
        "",
    ),
    (scaled_operand, MatMul(Mul(A, const([0.5, 1, 1, 1, 1])), K), ""),
    (activated_gemm, (Relu(GEMM), GEMM), "read elsewhere"),
    (activated_conv, (Relu(CONV), CONV), "read elsewhere"),
    (activated_conv, Clip(CONV, param("low")), "bounds are not known"),
    (activated_conv, Relu(conv(kind="Relu")), ""),
    (conv_and_sum, Add(CONV, const(np.ones((6, 1, 1)))), ""),
    (conv_and_sum, (Add(CONV, Z), CONV), ""),
    (conv_and_conv, Add(CONV, Z), ""),
]


@pytest.mark.parametrize(
    ("rule", "before", "reason"),
    [pytest.param(*m, id=f"{m[0].name} {i}") for i, m in enumerate(MISSES)],
)
def test_it_misses(rule: Rule, before: Value, reason: str) -> None:
    misses(gated(rule, "cpu"), before, reason, opset=23)


def test_all_that_a_rule_makes_needs_a_kernel() -> None:
    """Also what stands between its results and what was there."""

    @rule
    def steeper(op: ops.Neg) -> Outcome:
        """-x = |sinh(x)|   (wrong, but there are kernels for most of it)"""
        return ops.Abs(ops.Sinh(op.operands[0]))

    one, double = gated(steeper, "cpu"), param("d", 3, dtype=DType.F64)
    misses(one, ops.Neg(double), "for Sinh on the CPU that takes double")
    narrow = param("f", 3)
    for x, others in ((narrow, ()), (double, (ops.Sinh(double),))):
        done = rewrite(graph_of(ops.Neg(x), *others), [one])
        assert done.outputs[0] is ops.Abs(ops.Sinh(x))


# --- on CUDA ------------------------------------------------------------------------


def test_a_sum_alone_has_no_kernel_on_cuda() -> None:
    """There, FusedConv has to have an activation, and that is Relu."""
    misses(gated(conv_and_sum, "cuda"), Add(CONV, Z), "no activation ''")
    misses(gated(activated_sum, "cuda"), Tanh(Add(CONV, Z)), "no activation 'Tanh'")
    fires(
        *(gated(activated_sum, "cuda"), Relu(Add(CONV, Z))),
        conv(BIAS, Z, kind="Relu"),
    )


def test_a_twin_is_for_what_has_no_kernel() -> None:
    bf16 = DType.BF16
    x, gain = param("x", N, 8, dtype=bf16), random(8, dtype=bf16)
    only = lacking(rms_norm, "cpu")
    misses(only, rms(X), opset=23)
    made = rewritten(only, RMSNormalization(x, gain), opset=23)
    assert kinds(made) == ["SimplifiedLayerNormalization"]
