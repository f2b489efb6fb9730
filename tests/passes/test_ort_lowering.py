"""Graphs for ONNX Runtime: what its kernels ask for, fuse, and are better spared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from equations import (
    N,
    assert_sound,
    const,
    feed,
    fires,
    graph_of,
    kinds,
    misses,
    param,
    random,
    rewritten,
)

from graphopt.driver import optimize
from graphopt.exporter import to_proto
from graphopt.ir import Graph, Value
from graphopt.lowering.ort.attention import (
    added_mask,
    multi_head,
    projected,
    whole_mask,
)
from graphopt.lowering.ort.bodies import WriteOut, written_out
from graphopt.lowering.ort.gate import gated
from graphopt.lowering.ort.spelling import sum_to_norm
from graphopt.lowering.ort.tiling import SHORTEST, causal_tiles, tile_size
from graphopt.ops import (
    Add,
    Attention,
    Concat,
    Constant,
    Expand,
    LayerNormalization,
    MatMul,
    Mul,
    Neg,
    Reshape,
    Softmax,
    Split,
    Sum,
    Swish,
    Transpose,
    Unsqueeze,
    Where,
)
from graphopt.ops.contrib.activation import QuickGelu
from graphopt.ops.contrib.attention import Attention as Projected, MultiHeadAttention
from graphopt.rewrite import Outcome, rewrite, rule
from graphopt.types import DType

OPSET = 24
HEADS, WIDTH = 2, 16
X = param("x", 2, N, WIDTH)


def weight(seed: int, width: int = WIDTH) -> Constant:
    return random(WIDTH, width, seed=seed)


def attention(*operands: Value | None, **attrs: Any) -> Attention:
    return Attention(*operands, q_num_heads=HEADS, kv_num_heads=HEADS, **attrs)


# Masks


def test_a_mask_of_one_row_is_expanded() -> None:
    q, k, v = (param(name, 2, 5, WIDTH) for name in "qkv")
    mask = param("mask", 2, 1, 1, 5, dtype=DType.BOOL)
    after = attention(q, k, v, Expand(mask, const([1, 1, 5, 1], DType.I64)))
    done = rewritten(whole_mask, attention(q, k, v, mask), opset=OPSET)
    found = done.ops[-1]
    assert isinstance(found, Attention)
    wide = found.operands[3]
    assert wide is not None
    assert wide.shape == after.operands[3].shape  # type: ignore[union-attr]


def test_a_mask_of_open_dims_is_expanded_by_the_queries() -> None:
    mask = param("mask", 2, 1, 1, N)
    done = rewritten(whole_mask, attention(X, X, X, mask), opset=OPSET)
    assert kinds(done) == ["Shape", "Concat", "Expand", "Attention"]


def test_a_whole_mask_stays() -> None:
    misses(whole_mask, attention(X, X, X, param("mask", N, N)), opset=OPSET)


# Projections


def projections(*biased: bool) -> list[Value]:
    made: list[Value] = []
    for i, bias in enumerate(biased):
        product: Value = MatMul(X, weight(i))
        made.append(Add(product, random(WIDTH, seed=9 + i)) if bias else product)
    return made


@pytest.mark.parametrize("biased", [(True,) * 3, (False,) * 3, (True, False, True)])
@pytest.mark.parametrize("causal", [0, 1])
def test_attention_with_its_projections(biased: tuple[bool, ...], causal: int) -> None:
    before = attention(*projections(*biased), is_causal=causal)
    done = rewritten(projected, before, opset=OPSET)
    made = done.ops[-1]
    assert isinstance(made, Projected)
    assert made.num_heads == HEADS
    assert made.unidirectional == causal


def test_projections_that_are_one_already() -> None:
    whole = Add(MatMul(X, weight(0, 40)), random(40))
    widths = const([WIDTH, WIDTH, 8], DType.I64)
    parts = Split(whole, widths, axis=-1, outs=3).results
    done = rewritten(projected, attention(*parts), opset=OPSET)
    made = done.ops[-1]
    assert isinstance(made, Projected)
    assert made.qkv_hidden_sizes == (WIDTH, WIDTH, 8)
    assert kinds(done) == ["Attention"]


def test_masks_that_may_hide_all_keys_are_not_fused() -> None:
    """The runtime's own ops give NaN for such queries, ONNX's give zeros."""
    hides = param("mask", N, N, dtype=DType.BOOL)
    before = attention(*projections(True, True, True), hides)
    for each in (projected, multi_head):
        misses(each, before, "may hide all keys", opset=OPSET)
    constant = const(np.tri(3), DType.BOOL)
    q = param("q", 2, 3, WIDTH)
    known = added_mask(attention(q, q, q, constant))
    assert known is not None
    assert known.shape == (1, 1, 3, 3)
    given = attention(X, X, X, param("m", N, N))
    assert added_mask(given) is None  # may hold -inf
    others = const(~np.eye(3, dtype=bool), DType.BOOL)
    assert added_mask(attention(q, q, q, others)) is not None
    assert added_mask(attention(q, q, q, others, is_causal=1)) is None
    none = const([[1, 1], [0, 0]], DType.BOOL)
    two = param("q", 2, 2, WIDTH)
    assert added_mask(attention(two, two, two, none)) is None


def test_what_is_added_to_queries_keys_and_values() -> None:
    y = param("y", 2, 5, WIDTH)
    seen = param("seen", 1, 1, N, 5, dtype=DType.BOOL)
    mask = Where(seen, const(0.0), const(-1e30))
    q = Add(MatMul(X, weight(0)), random(WIDTH))
    k = Add(MatMul(y, weight(1)), random(WIDTH, seed=1))
    v = Add(MatMul(y, weight(2)), random(WIDTH, seed=2))
    misses(projected, attention(q, k, v, mask), "no projections", opset=OPSET)
    done = rewritten(multi_head, attention(q, k, v, mask), opset=OPSET)
    assert isinstance(done.ops[-1], MultiHeadAttention)


def test_projections_that_others_read_stay() -> None:
    q, k, v = projections(True, True, True)
    misses(projected, (attention(q, k, v), Neg(q)), "no projections", opset=OPSET)


def test_heads_that_are_shared_stay() -> None:
    q, k, v = MatMul(X, weight(0)), MatMul(X, weight(1, 8)), MatMul(X, weight(2, 8))
    grouped = Attention(q, k, v, q_num_heads=2, kv_num_heads=1)
    misses(projected, grouped, "heads are shared", opset=OPSET)


# Tiles


@pytest.mark.parametrize("mask", [None, DType.BOOL, DType.F32])
@pytest.mark.parametrize("rank", [3, 4])
def test_causal_attention_by_tiles(mask: DType | None, rank: int) -> None:
    length = SHORTEST + 70
    if rank == 3:
        q, k, v = (param(name, 1, length, 4) for name in "qkv")
        heads = {"q_num_heads": 2, "kv_num_heads": 2}
    else:
        q, k, v = (param(name, 1, 2, length, 2) for name in "qkv")
        heads = {}
    hides = [] if mask is None else [param("m", 1, 1, 1, length, dtype=mask)]
    before = Attention(q, k, v, *hides, is_causal=1, **heads)
    done = rewritten(causal_tiles, before, opset=OPSET)
    tiles = [op for op in done.ops if isinstance(op, Attention)]
    assert len(tiles) == -(-length // tile_size(length))
    last = done.ops[-1]
    assert isinstance(last, Concat)


def test_tiles_want_a_known_length() -> None:
    open_ = attention(X, X, X, is_causal=1)
    misses(causal_tiles, open_, "is not known", opset=OPSET)
    short = param("x", 1, 8, WIDTH)
    misses(causal_tiles, attention(short, short, short, is_causal=1), "too short")
    long = param("x", 1, SHORTEST, WIDTH)
    misses(causal_tiles, attention(long, long, long), opset=OPSET)


# Kernels


def test_ops_without_a_kernel_become_their_bodies() -> None:
    narrow = param("x", N, 4, dtype=DType.F16)
    graph = graph_of(QuickGelu(narrow), opset=OPSET)
    done = WriteOut()(graph)
    assert_sound(graph, done, exact=False)
    assert "QuickGelu" not in kinds(done)
    misses(written_out("cpu"), QuickGelu(X), opset=OPSET)
    misses(written_out("cpu"), Swish(X), opset=OPSET)  # ONNX has a function for it
    misses(written_out("cpu"), Softmax(narrow), opset=OPSET)  # run in float32


def test_nothing_is_made_that_has_no_kernel() -> None:
    @rule
    def doubled(op: Neg) -> Outcome:
        "neg(x) = attention(x, x, x)"
        x = op.operands[0]
        return Attention(x, x, x)

    narrow = param("x", 2, 2, 3, 4, dtype=DType.F64)
    one = gated(doubled, "cpu")
    misses(one, Neg(narrow), "no kernel for Attention on the CPU that takes double")
    wide = param("x", 2, 2, 3, 4)
    (made,) = rewrite(graph_of(Neg(wide)), [one]).outputs
    assert made is Attention(wide, wide, wide)


# Spellings


def test_sums_to_norms_are_spelled_so_that_they_are_not_fused() -> None:
    a, b = param("a", 2, 4), param("b", 2, 4)
    gain = random(4)
    before = LayerNormalization(Add(a, b), gain)
    fires(sum_to_norm, before, LayerNormalization(Sum(a, b), gain))
    misses(sum_to_norm, LayerNormalization(Add(a, random(4)), gain))
    misses(sum_to_norm, LayerNormalization(Add(a, param("c", 4)), gain))


# All of it


def self_attention(hidden: Value | None = None) -> Graph:
    """A layer as exporters write it, of open length."""
    size = WIDTH // HEADS

    def by_head(x: Value, *perm: int) -> Value:
        split = Reshape(x, const([0, 0, HEADS, size], DType.I64))
        return Transpose(split, perm=perm)

    q, k, v = projections(True, True, True)
    scores = MatMul(by_head(q, 0, 2, 1, 3), by_head(k, 0, 2, 3, 1))
    scaled: Value = Mul(scores, const(size**-0.5))
    if hidden is not None:
        scaled = Add(scaled, hidden)
    y = MatMul(Softmax(scaled), by_head(v, 0, 2, 1, 3))
    flat = Reshape(Transpose(y, perm=(0, 2, 1, 3)), const([0, 0, WIDTH], DType.I64))
    out = MatMul(flat, weight(5))
    return graph_of(LayerNormalization(Add(out, X), random(WIDTH)), opset=17)


@pytest.mark.runtime
@pytest.mark.parametrize("fuse", ["auto", "max"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_layer_runs_there_and_gives_the_same(fuse: Any, masked: bool) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    mask = Unsqueeze(param("mask", 2, N, N), const([1], DType.I64)) if masked else None
    graph = self_attention(mask)
    result = optimize(graph, "ort-cpu", fuse=fuse)
    before, after = to_proto(graph), to_proto(result.graph)
    assert {o.domain: o.version for o in before.opset_import} == {"": 17}
    assert len(after.graph.node) < len(before.graph.node) / (1.5 if masked else 2)
    feeds = {p.name: feed(p, {"n": 5}, special=False) for p in graph.inputs}
    outs = [
        onnxruntime.InferenceSession(
            m.SerializeToString(), providers=["CPUExecutionProvider"]
        ).run(None, feeds)[0]
        for m in (before, after)
    ]
    np.testing.assert_allclose(outs[1], outs[0], rtol=1e-5, atol=1e-5)
    kinds_ = {node.op_type for node in after.graph.node}
    assert "Softmax" not in kinds_
    assert ("Attention" in kinds_) or ("MultiHeadAttention" in kinds_)


def test_an_opset_that_is_asked_for_bounds_what_is_raised() -> None:
    result = optimize(self_attention(), "ort-cpu", opset="keep", check="off")
    written = to_proto(result.graph, opset="keep")
    found = {node.op_type for node in written.graph.node}
    assert "Softmax" in found
    assert "Attention" not in found
    newest = optimize(self_attention(), "ort-cpu", check="off")
    assert "Attention" in {op.kind for op in newest.graph.ops}
