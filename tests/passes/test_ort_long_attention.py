"""Attention to many keys, in the kernel that keeps no scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from equations import N, const, fires, graph_of, misses, param

from graphopt import optimize
from graphopt.inputs import random_inputs
from graphopt.ir import Value
from graphopt.lowering import find
from graphopt.lowering.ort.gate import GatedPass
from graphopt.lowering.ort.long_attention import MANY, LongAttention, many_keys
from graphopt.ops import Attention, Cast, Trilu
from graphopt.ops.contrib.attention import MultiHeadAttention
from graphopt.plan import Plan
from graphopt.reference import evaluate
from graphopt.types import DType

HEADS: Any = {"q_num_heads": 2, "kv_num_heads": 2}
OPSET = 23


def operands(queries: Any, keys: Any) -> list[Value]:
    return [
        param(n, 1, s, 16) for n, s in zip("qkv", (queries, keys, keys), strict=True)
    ]


def test_many_keys_keep_no_scores() -> None:
    q, k, v = operands(MANY, MANY)
    after = MultiHeadAttention(q, k, v, num_heads=2)
    fires(many_keys, Attention(q, k, v, **HEADS), after, opset=OPSET, sizes=[{}])
    row = param("row", 1, 1, 1, MANY, dtype=DType.BOOL)
    misses(
        many_keys, Attention(q, k, v, row, **HEADS), "may hide all keys", opset=OPSET
    )


@pytest.mark.parametrize("sides", [(MANY, 64), (64, MANY), (N, N)])
def test_few_keys_stay(sides: tuple[Any, Any]) -> None:
    core = Attention(*operands(*sides), **HEADS)
    misses(many_keys, core, "not known to be many", opset=OPSET)


def test_causal_queries_that_are_fewer_than_keys_stay() -> None:
    """The last one would see all keys, whichever it is."""
    core = Attention(*operands(MANY, 2 * MANY), is_causal=1, **HEADS)
    misses(many_keys, core, "as many causal queries as keys", opset=OPSET)


@pytest.mark.runtime
def test_the_kernel_gives_what_the_op_does() -> None:
    pytest.importorskip("onnxruntime")
    mask = param("mask", 1, 1, MANY, MANY, dtype=DType.I64)
    added = Cast(mask, to=DType.F32)
    core = Attention(*operands(MANY, MANY), added, **HEADS)
    graph = graph_of(core, opset=OPSET)
    made = optimize(graph, "ort-cpu", check="off").graph
    assert any(op.kind == "MultiHeadAttention" for op in made.ops)
    inputs = random_inputs(graph)
    (found,) = find("ort-cpu").compile(made, Plan())(inputs).values()
    (wanted,) = evaluate(graph, inputs)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_constant_masks_stay() -> None:
    """As of the parts of causal attention."""
    mask = const(np.tri(MANY, MANY), DType.BOOL)
    core = Attention(*operands(MANY, MANY), mask, **HEADS)
    misses(many_keys, core, "the mask is a constant", opset=OPSET)


def test_only_where_the_runtime_has_the_kernel() -> None:
    assert issubclass(LongAttention, GatedPass)
    graph = graph_of(Attention(*operands(MANY, MANY), **HEADS), opset=OPSET)
    for target, kind in (("ort-cpu", "MultiHeadAttention"), ("onnx", "Attention")):
        found = optimize(graph, target, check="off").graph
        assert [op.kind for op in found.ops] == [kind]


def test_causal_attention_is_written_out_in_parts_though_that_is_more_ops() -> None:
    graph = graph_of(
        Attention(*operands(MANY, MANY), is_causal=1, **HEADS), opset=OPSET
    )
    found = optimize(graph, "ort-cpu").graph
    kinds = [op.kind for op in found.ops]
    assert kinds.count("Attention") == 8
    assert not any(getattr(op, "is_causal", 0) for op in found.ops)
    assert all(not isinstance(op, Trilu) for op in found.ops)
