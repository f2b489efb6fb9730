"""Fusions into ONNX Runtime's own ops: fire and mean the same, or miss and say why.

What each makes is run in the runtime as well, against the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from equations import (
    M,
    N,
    assert_sound,
    const,
    feed,
    fires,
    graph_of,
    ints,
    kinds,
    misses,
    param,
    random,
    rewritten,
    values,
)

from graphopt import ops
from graphopt.dims import minimum
from graphopt.exporter import to_proto
from graphopt.ir import Value
from graphopt.lowering.ort.activations import (
    bias_gelu,
    fast_gelu,
    quick_gelu,
    swish,
)
from graphopt.lowering.ort.costs import COSTS, pays
from graphopt.lowering.ort.embeddings import embed_layer_norm
from graphopt.lowering.ort.gate import gated, lacking
from graphopt.lowering.ort.norms import (
    FuseNorms,
    rms_norm,
    skip_layer_norm,
    skip_rms_norm,
)
from graphopt.lowering.ort.pipeline import FUSIONS, lowered
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
    Cast,
    Clip,
    Conv,
    Div,
    Expand,
    Gather,
    Gelu,
    Gemm,
    HardSigmoid,
    HardSwish,
    LayerNormalization,
    LeakyRelu,
    MatMul,
    Mul,
    Range,
    Relu,
    Reshape,
    RMSNormalization,
    Shape,
    Sigmoid,
    Slice,
    Squeeze,
    Swish,
    Tanh,
    Transpose,
    Unsqueeze,
    contrib,
)
from graphopt.passes.algebra import Algebra
from graphopt.pipeline import Pipeline
from graphopt.reference import evaluate
from graphopt.rewrite import Outcome, Rule, rewrite, rule
from graphopt.types import DType
from graphopt.weights import Tensor

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


# --- what fires ---------------------------------------------------------------------


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


# --- positions ----------------------------------------------------------------------

COUNTED: list[Callable[[], Value]] = [
    lambda: Slice(
        Cast(const([range(5)], DType.I32), to=DType.I64.value),
        *(ints(0), Shape(LONG, start=1, end=2), ints(1), ints(1)),
    ),
    lambda: Unsqueeze(
        Range(
            const(0, DType.I64),
            Squeeze(Shape(LONG, start=1, end=2), ints(0)),
            const(1, DType.I64),
        ),
        ints(0),
    ),
]


@pytest.mark.parametrize("way", range(len(COUNTED)))
def test_positions_in_order_need_no_ids(way: int) -> None:
    places = COUNTED[way]()
    assert places.shape in ((1, M), (1, minimum(M, 5)))
    total = Add(
        Add(Gather(WORDS, LONG), Gather(SEGMENTS, ids("kinds", N, M))),
        Gather(PLACES, places),
    )
    made = rewritten(embed_layer_norm, norm(total), opset=23)
    assert kinds(made) == ["Cast"] * 4 + ["EmbedLayerNormalization"]
    (found,) = (op for op in made.ops if op.kind == "EmbedLayerNormalization")
    assert found.operand(8) is None
    assert found.operand(3) is PLACES


@pytest.mark.parametrize("start", [1, 2])
def test_positions_from_elsewhere_are_given(start: int) -> None:
    """RoBERTa counts from 2 on."""
    places = const([range(start, start + 3)], DType.I64)
    total = Add(
        Add(Gather(WORDS, TOKENS), Gather(SEGMENTS, KINDS)), Gather(PLACES, places)
    )
    made = rewritten(embed_layer_norm, norm(total), opset=23)
    (found,) = (op for op in made.ops if op.kind == "EmbedLayerNormalization")
    assert found.operand(8) is not None


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


def summed(tokens: Value, **attrs: Any) -> Value:
    total = Add(Add(Gather(WORDS, tokens), Gather(SEGMENTS, ids("k", 2, 3))), PLACE)
    return norm(total, **attrs)


IDS = param("ids", 2, 3, dtype=DType.I64)


def test_ids_that_may_be_negative() -> None:
    """Gather counts those from the end; the kernel takes none."""
    assert embed_layer_norm in FuseNorms(provider="cuda", most=True).fusions()
    assert embed_layer_norm not in FuseNorms(provider="cuda").fusions()
    embeds = gated(embed_layer_norm, "cpu")
    for negative in (ops.Neg(IDS), const([[0, -1, 1]] * 2, DType.I64)):
        misses(embeds, summed(negative), "may be negative", opset=23)
    for tokens in (
        IDS,
        Reshape(Cast(IDS, to=DType.I32), ints(-1, 3)),
        const([[0, 2, 1]] * 2, DType.I64),
        Expand(Range(*[const(i, DType.I64) for i in (0, 3, 1)]), ints(2, 3)),
        ops.ConstantOfShape(Shape(IDS), value=Tensor.of(np.array([1]), DType.I64)),
    ):
        done = rewrite(graph_of(summed(tokens), opset=23), [embeds])
        assert "EmbedLayerNormalization" in kinds(done)


def test_embeddings_that_are_normed_otherwise() -> None:
    embeds = gated(embed_layer_norm, "cpu")
    misses(embeds, summed(IDS, stash_type=11), "another type", opset=23)
    total = summed(IDS).op.operands[0]  # type: ignore[union-attr]
    one = LayerNormalization(total, random(1), random(1), epsilon=1e-5)
    misses(embeds, one, "no vector as long as the rows", opset=23)


# --- on CUDA ------------------------------------------------------------------------


def test_a_sum_alone_has_no_kernel_on_cuda() -> None:
    """There, FusedConv has to have an activation, and that is Relu."""
    misses(gated(conv_and_sum, "cuda"), Add(CONV, Z), "no activation ''")
    misses(gated(activated_sum, "cuda"), Tanh(Add(CONV, Z)), "no activation 'Tanh'")
    fires(
        *(gated(activated_sum, "cuda"), Relu(Add(CONV, Z))),
        conv(BIAS, Z, kind="Relu"),
    )


# --- passes -------------------------------------------------------------------------


def fusing(before: Value, most: bool) -> list[str]:
    """The ops that all fusions together leave."""
    graph = graph_of(before, opset=23)
    for cls in FUSIONS:
        graph = cls(most=most)(graph)
    return kinds(graph)


WIDE = param("wide", N, 3, 2048)


@pytest.mark.parametrize(
    ("before", "kind"),
    [
        (norm(SUM), "SkipLayerNormalization"),
        (rms(SUM), "SkipSimplifiedLayerNormalization"),
        (norm(LOOKED), "EmbedLayerNormalization"),
        (Gelu(Add(WIDE, random(2048))), "BiasGelu"),
        (Add(CONV, Z), "FusedConv"),
        (MatMul(Transpose(A2, perm=SWAP), K), "FusedMatMul"),
    ],
)
def test_what_is_slower_is_fused_only_if_all_is(before: Value, kind: str) -> None:
    assert kind in fusing(before, True)
    assert kind not in fusing(before, False)


@pytest.mark.parametrize(
    ("before", "kind"),
    [
        (Gelu(Add(X, B)), "BiasGelu"),
        (Gelu(Add(X, B), approximate="tanh"), "FastGelu"),
        (GATED, "QuickGelu"),
        (Relu(CONV), "FusedConv"),
        (Relu(Add(CONV, Z_CONV)), "FusedConv"),
        (Tanh(GEMM), "FusedGemm"),
        (MatMul(A, TRANSPOSED), "FusedMatMul"),
        (MatMul(Transpose(ROWS_FIRST, perm=BATCHED), K), "FusedMatMul"),
    ],
)
def test_what_is_not_slower_is_fused(before: Value, kind: str) -> None:
    assert fusing(before, False) == fusing(before, True)
    assert kind in fusing(before, False)


@pytest.mark.parametrize(
    ("before", "plain"),
    [
        (norm(SUM), ["Sum", "LayerNormalization"]),
        (rms(SUM), ["Sum", "RMSNormalization"]),
        (Gelu(Add(WIDE, random(2048))), ["Sum", "Gelu"]),
        (Gelu(Add(X, B)), ["BiasGelu"]),
    ],
)
def test_the_runtime_is_kept_from_what_is_slower(
    before: Value, plain: list[str]
) -> None:
    pipeline = lowered(Pipeline((Algebra(),)), "ort-cpu")
    graph = graph_of(before, opset=23)
    after = pipeline(graph)
    assert kinds(after) == plain
    assert_sound(graph, after, exact=False)


def test_every_cost_is_of_a_fusion() -> None:
    """And each of the CPU's fusions was measured."""
    known = {rule.name for cls in FUSIONS for rule in cls(most=True).fusions()}
    assert set(COSTS) == known
    assert all("cpu" in costs for costs in COSTS.values())
    assert pays("skip_layer_norm", "cuda", norm(SUM))


def test_a_twin_is_for_what_has_no_kernel() -> None:
    bf16 = DType.BF16
    x, gain = param("x", N, 8, dtype=bf16), random(8, dtype=bf16)
    only = lacking(rms_norm, "cpu")
    misses(only, rms(X), opset=23)
    made = rewritten(only, RMSNormalization(x, gain), opset=23)
    assert kinds(made) == ["SimplifiedLayerNormalization"]
