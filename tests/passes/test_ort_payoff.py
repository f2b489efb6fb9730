"""Fusions that are slower than their parts are made only where all are."""

from __future__ import annotations

import pytest
from equations import N, assert_sound, graph_of, kinds, param, random
from ort_equations import (
    A2,
    BATCHED,
    CONV,
    GATED,
    GEMM,
    LOOKED,
    ROWS_FIRST,
    SUM,
    SWAP,
    TRANSPOSED,
    Z_CONV,
    A,
    B,
    K,
    X,
    Z,
    norm,
    rms,
)

from graphopt.ir import Value
from graphopt.lowering.ort.costs import COSTS, pays
from graphopt.lowering.ort.pipeline import FUSIONS, lowered
from graphopt.ops import Add, Gelu, MatMul, Relu, Tanh, Transpose
from graphopt.passes.algebra import Algebra
from graphopt.pipeline import Pipeline


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
