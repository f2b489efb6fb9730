"""Embeddings of ONNX Runtime: which positions and ids their kernel takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from equations import (
    M,
    N,
    const,
    graph_of,
    ints,
    kinds,
    misses,
    param,
    random,
    rewritten,
)
from ort_equations import KINDS, LONG, PLACE, PLACES, SEGMENTS, TOKENS, WORDS, ids, norm

from graphopt import ops
from graphopt.dims import minimum
from graphopt.ir import Value
from graphopt.lowering.ort.embeddings import embed_layer_norm
from graphopt.lowering.ort.gate import gated
from graphopt.lowering.ort.norms import FuseNorms
from graphopt.ops import (
    Add,
    Cast,
    Expand,
    Gather,
    LayerNormalization,
    Range,
    Reshape,
    Shape,
    Slice,
    Squeeze,
    Unsqueeze,
)
from graphopt.rewrite import rewrite
from graphopt.types import DType
from graphopt.weights import Tensor

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
